"""All stages of a whole model, small and short: killed, stopped, resumed, put together, described."""

import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from itertools import chain

import pytest
from typer.testing import CliRunner

import emu2
from emu2 import recipes
from emu2.cli import app
from emu2.data.settings import DataConfig, kind_of
from emu2.evaluate.miniature import scenes_of
from emu2.processing.tokenizer import train_tokenizer
from emu2.recipes import budgets
from emu2.recipes.fresh import fresh_whole
from emu2.recipes.pipeline import OPTIONAL, ORDER, START, STARTS, Pipeline, starts_of
from emu2.recipes.start import open_sources, world_sources
from emu2.train.config import to_dict
from emu2.train.metrics import read_log

runner = CliRunner()
_SHORT = [
    *("steps=2", "data.batch_size=2", "data.batch_sizes={}", "log_every=1", "save_every=0", "validate_every=0"),
    *("unified.steps=8", "unified.save_every=2", "decoder.data.pool=2", "video_decoder.data.frames=[2]"),
    *("video_decoder.diffusion.keyframes=1", "gen.data.frames=[2]"),
    *("chat.data.frames=[2]", "autoencoder.validate_every=1", "autoencoder.validate_batches=1"),
]


def _settings(size: str = "debug", *more: str) -> dict:
    return budgets.stages(size, "cpu", settings=[*_SHORT, *more])


def test_stages_and_their_starts():
    assert set(recipes.names("nano")) == set(ORDER) == set(STARTS)
    assert set(recipes.names("debug")) == set(ORDER) - OPTIONAL
    assert starts_of("chat", recipes.names("nano")) == {"whole": "unified", "vision": "reading"}
    assert starts_of("chat", recipes.names("debug")) == {"whole": "unified"}
    for name, starts in STARTS.items():
        assert all(other == START or ORDER.index(other) < ORDER.index(name) for other in starts.values())


@pytest.mark.parametrize("budget", budgets.BUDGETS)
def test_budgets_change_lengths_and_never_sizes(budget):
    made = budgets.stages("nano", budget, seed=3)
    for name, config in made.items():
        ours = recipes.recipe(name, "nano")
        for field in ("objective", "parts", "size", "num_video_query", "resolution", "dtype"):
            assert getattr(config, field) == getattr(ours, field)
        # Reading more embeddings of a picture than the stages before takes steps that only one budget has.
        assert config.num_query == (ours.num_query if budget == "gpu" or name != "chat" else 16)
        assert config.seed == 3
        assert config.steps <= ours.steps
        assert (config.device == "cuda") == (budget == "gpu")
        assert config.data.image_size == ours.data.image_size


@pytest.mark.parametrize("budget", budgets.BUDGETS)
def test_every_stage_finds_its_records(budget):
    for config in budgets.stages("nano", budget).values():
        assert config.data.split == "train"
        for name, source in open_sources(replace(config.data, image_size=16, pool=None)).items():
            assert source[0].kind == kind_of(name)


def test_settings_of_one_stage_and_of_all():
    made = budgets.stages("nano", "cpu", settings=["steps=50", "chat.steps=7", "chat.optim.lr=1.0", "log_every=9"])
    assert (made["chat"].steps, made["gen"].steps) == (7, 50)
    assert (made["chat"].optim.lr, made["chat"].log_every) == (1.0, 9)
    assert made["gen"].optim.warmup_steps == 5
    for size, budget, words in (("37b", "cpu", "run at the sizes"), ("nano", "tpu", "no budget 'tpu'; there are gpu")):
        with pytest.raises(ValueError, match=words):
            budgets.stages(size, budget)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nano"], "'nano' is a size, not a recipe: emu2 train nano --all"),
        (["vision", "--budget", "cpu"], "for all stages at once"),
        (["nano", "--all", "--lora", "2"], "--lora is for a single recipe"),
        (["nano", "--all", "--minutes", "0"], "--minutes must be above 0"),
        (["nano", "--all", "--budget", "none"], "no budget 'none'"),
        (["37b", "--all", "--budget", "cpu"], "sizes debug and nano; got '37b'"),
        (["nano", "--all", "--budget", "cpu", "--set", "vision.stepps=3"], "no setting 'stepps'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(arguments, words, tmp_path):
    result = runner.invoke(app, ["train", *arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_show_prints_every_stage(tmp_path):
    result = runner.invoke(app, ["train", "nano", "--all", "--budget", "cpu", "--show", "--out", str(tmp_path / "no")])
    assert set(json.loads(result.stdout)) == set(ORDER)


@pytest.fixture
def start(tmp_path):
    """A fresh model with a tokeniser of few words, where a pipeline would put its own: that takes longer."""
    kinds = dict.fromkeys(("pair", "text", "naming"), 1.0)
    sources = world_sources(DataConfig(kinds=kinds, image_size=16, concepts=16))
    records = chain.from_iterable((source[index] for index in range(60)) for source in sources.values())
    words = train_tokenizer([s for record in records for s in record.segments if isinstance(s, str)], 500, chat=True)
    fresh_whole("debug", words).save(tmp_path / "all" / START / "model")
    return tmp_path / "all"


def _kill(name: str, out, after: int) -> None:
    """SIGKILL the process of a stage once it has logged so many steps."""
    while len(read_log(out / name / "log.jsonl")) < after:
        time.sleep(0.02)
    victim = next(child for child in multiprocessing.active_children() if child.name == name)
    os.kill(victim.pid, signal.SIGKILL)


@pytest.mark.slow
def test_nine_stages_killed_and_resumed(start):
    pipeline = Pipeline(start, _settings(), about={"size": "debug", "budget": "cpu", "seed": 0, "settings": _SHORT})
    at_once = pipeline.run(minutes=1e-6, quiet=True)
    assert (at_once.stopped, at_once.finished) == ("minutes", [])

    killer = threading.Thread(target=_kill, args=("unified", start, 4), daemon=True)
    killer.start()
    with pytest.raises(RuntimeError, match="The stage 'unified' was ended by signal 9"):
        pipeline.run(quiet=True)
    before = {name: pipeline.sessions(name) for name in ("vision", "caption", "unified")}
    assert pipeline.finished("caption")
    assert not pipeline.finished("unified")
    assert (start / "report.html").is_file()

    outcome = pipeline.run(quiet=True)
    assert outcome.stopped is None
    assert set(outcome.finished) == set(recipes.names("debug"))
    for name in ("vision", "caption"):
        assert pipeline.sessions(name) == before[name]
    pieces = pipeline.sessions("unified")
    assert len(pieces) == 2
    assert pieces[0]["from_step"] == 0
    assert pieces[1]["from_step"] >= 3
    assert pieces[1]["to_step"] == 8
    assert [line["step"] for line in read_log(start / "unified" / "log.jsonl")] == list(range(1, 9))
    assert not list(start.glob("*/checkpoints"))

    page, card = outcome.report.read_text(), (start / "MODEL_CARD.md").read_text()
    for name in recipes.names("debug"):
        assert f'<h2 id="{name}">' in page
        assert f"| {name} |" in card
    assert "data:image/png;base64" in page
    assert "--budget cpu --seed 0 --set steps=2 --set data.batch_size=2" in card
    assert "Nothing has been measured on these weights yet." in card
    assert f'chat = emu2.load("{(outcome.model / "chat").as_posix()}")' in card
    told = json.loads((outcome.model / "card.json").read_text())
    assert told["stages"]["unified"]["pieces"] == 2
    assert scenes_of(outcome.model / "chat") == told["scenes"] == {"style": "corners", "concepts": 16}
    m = emu2.load(outcome.model / "gen", device="cpu")
    assert m.draw("a dog", steps=1, seed=0).size == (64, 64)
    assert (m.drawing["frames"], m.drawing["keyframes"]) == (2, 1)  # as the stage `video_decoder` read them
    assert len(m.film("a dog", steps=1, seed=0)) == 2
    assert isinstance(emu2.load(outcome.model / "chat").chat("What is this?", max_new_tokens=2), str)

    # What has begun otherwise, or from another model, is not gone on with.
    with pytest.raises(ValueError, match="was begun with budget='cpu', and is to go on with budget='gpu'"):
        Pipeline(start, _settings(), about={"size": "debug", "budget": "gpu", "seed": 0}).run(quiet=True)
    other = Pipeline(start, _settings("debug", "caption.optim.lr=1.0"), about=pipeline.about)
    with pytest.raises(ValueError, match=r"Stage 'caption'.*optim.lr.*Remove .*caption, .*unified.* to train it again"):
        other.run(quiet=True)
    again = json.loads((start / "vision" / "summary.json").read_text())
    (start / "vision" / "summary.json").write_text(json.dumps({**again, "seconds": 1.5}))
    with pytest.raises(ValueError, match=r"The stage .caption. in .* took its whole from another run of .vision."):
        pipeline.run(quiet=True)
    assert to_dict(Pipeline.reopened(start).stages["gen"]) == to_dict(pipeline.stages["gen"])
