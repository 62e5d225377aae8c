"""What a run tells: rates, samples on disk, Weights & Biases, and its page."""

import io
import json
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import torch
from helpers_train import run_config, trainer
from PIL import Image
from rich.console import Console

from emu2.train.metrics import RunLog, Throughput, WandbTracker, describe, progress_bar, read_log
from emu2.train.objectives import Batch
from emu2.train.report import duration, write_report


def test_rates_are_those_of_the_window():
    speed = Throughput(peak=1e6, work=lambda batches: 1e3 * len(batches), device=torch.device("cpu"))
    batch = Batch({}, {}, {"tokens": 100, "images": 2}, ["a"])
    began = time.perf_counter()
    for _ in range(3):
        time.sleep(0.01)
        rates = speed.update([batch, batch], waited=0.005)
    seconds = time.perf_counter() - began
    assert rates["tokens"] == pytest.approx(600 / seconds, rel=0.5)
    assert rates["images"] == pytest.approx(rates["tokens"] / 50)
    assert rates["mfu"] == pytest.approx(6e3 / seconds / 1e6, rel=0.5)
    assert 0 < rates["data_wait"] < 1
    assert 0.05 < rates["memory_gib"] < 1000
    text = describe({"loss": 1.0, "loss/text": 0.5}, {"tokens": 1234.0, "mfu": 0.412, "data_wait": 0.03})
    assert text == "loss 1.0000  text 0.5000  1,234 tokens/s  MFU 41.2%  data wait 3%"


def test_no_mfu_where_the_peak_is_not_known():
    assert "mfu" not in Throughput().update([])


class FakeWandb(ModuleType):
    """As much of the package as is used, remembering what it was given."""

    def __init__(self):
        super().__init__("wandb")
        self.logged, self.started, self.finished = [], {}, False
        self.Image = lambda picture: ("picture", picture.size)

    def init(self, **settings):
        self.started = settings
        return SimpleNamespace(
            id=settings["id"] or "run7",
            log=lambda values, step: self.logged.append((step, values)),
            finish=lambda: setattr(self, "finished", True),
        )


def test_tracker_gets_what_is_logged_and_goes_on_in_its_place(tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = run_config("caption", tracker="wandb")
    log = RunLog.of_run(config, tmp_path, 0, tensorboard=False)
    log.step(1, {"loss": 2.0})
    log.samples(1, {"caption/0/picture": Image.new("RGB", (4, 4)), "caption/0/text": "a dog"})
    log.close()
    assert wandb.logged == [
        (1, {"loss": 2.0}),
        (1, {"caption/0/picture": ("picture", (4, 4)), "caption/0/text": "a dog"}),
    ]
    assert wandb.finished
    assert wandb.started["config"]["objective"] == "caption"
    WandbTracker(config, tmp_path)
    assert wandb.started["id"] == "run7"
    folder = tmp_path / "samples" / "step-00000001"
    assert sorted(path.name for path in folder.iterdir()) == ["caption-0-picture.png", "caption-0-text.txt"]


def test_a_tracker_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"needs the package wandb, which is not installed: pip install wandb"):
        RunLog.of_run(run_config("caption", tracker="wandb"), tmp_path, 0, tensorboard=False)


@pytest.mark.parametrize("width", [72, 80, 200])
def test_the_bar_tells_name_steps_and_time_in_any_window(width):
    """The losses are what is cut where room is short."""
    console = Console(width=width, record=True, file=io.StringIO())
    bar = progress_bar(console)
    losses = "loss 3.4367  text 2.7379  looking_back 0.6988  930 tokens/s  37 images/s  data wait 2%  1.6 GiB"
    bar.add_task("video_decoder", total=5000, completed=4321, status=losses)
    console.print(bar.get_renderable())
    (line,) = console.export_text().splitlines()
    assert line.startswith("video_decoder ")
    assert "4321/5000" in line
    assert "0:00:00 left" in line
    assert (losses in line) == (width == 200)


def test_a_run_leaves_its_page(tmp_path):
    trainer(run_config("caption", sample_every=3), tmp_path).run()
    page = (tmp_path / "report.html").read_text()
    line = read_log(tmp_path / "log.jsonl")[-1]
    assert {"speed/tokens", "speed/images", "speed/data_wait", "speed/memory_gib"} <= set(line)
    for words in (
        "Loss",
        "Learning rate",
        "Waiting for data",
        "6 of 6 steps",
        "After step 6",
        "data:image/png;base64,",
    ):
        assert words in page
    assert "Every sample could be used." in page
    assert "http" not in page  # self-contained


def test_page_shows_what_was_bad_and_writes_everything_safely(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"name": "<b>x", "objective": "caption", "size": "debug", "parts": ["vision"], "steps": 2000})
    )
    (tmp_path / "summary.json").write_text(
        json.dumps({"steps": 900, "seconds": 4000, "stopped": "SIGTERM", "skipped": 2,
                    "bad": {"truncated <JPEG>": 3, "no caption": 12}})
    )  # fmt: skip
    lines = [{"step": n, "loss": 5 / (n + 1), "loss/text": 1.0, "loss/visual": 4.0} for n in range(1, 901)]
    lines[5]["loss"] = float("nan")
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_report(tmp_path).read_text()
    assert "&lt;b&gt;x" in page
    assert "<b>x" not in page
    assert "truncated &lt;JPEG&gt;" in page
    assert page.index("no caption") < page.index("truncated")
    assert "Stopped by SIGTERM" in page
    assert "nan" not in page
    assert len(page) < 150_000
    assert [duration(s) for s in (42, 600, 4000, 36_000, 1e6)] == ["42 s", "10 min", "67 min", "10.0 h", "11.6 days"]


def test_no_run_no_page(tmp_path):
    with pytest.raises(ValueError, match=r"There is no run in .*: it has no config\.json"):
        write_report(tmp_path)
