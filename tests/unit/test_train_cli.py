"""`emu2 train`: settings, refusals, and one tiny run from a folder."""

import json

import pytest
from helpers_train import pair, tiny_whole
from PIL import Image
from typer.testing import CliRunner

import emu2
from emu2.cli import app

runner = CliRunner()


def _train(*arguments: str):
    return runner.invoke(app, ["train", *arguments])


def test_show_prints_the_resolved_settings():
    result = _train("caption", "--show", "--set", "optim.lr=3e-4", "--seed", "5", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["optim"]["lr"] == 3e-4
    assert shown["seed"] == 5
    assert shown["dtype"] == "bfloat16"
    assert shown["objective"] == "caption"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["captions"], "no recipe 'captions'"),
        (["caption", "--size", "huge"], "no recipes at the size 'huge'"),
        (["caption", "--set", "optim.lrr=1"], "no setting 'optim.lrr'"),
        (["caption", "--dtype", "int8"], "dtype is one of 'float32', 'bfloat16'"),
        (["caption", "--device", "abacus"], "--device"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(arguments, message, tmp_path):
    result = _train(*arguments, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_and_a_run_that_is_not_there(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    used = _train("caption", "--out", str(tmp_path))
    assert used.exit_code == 2
    assert "holds a run already" in " ".join(used.output.split())
    absent = _train("caption", "--resume", "--out", str(tmp_path / "none"))
    assert absent.exit_code == 2
    assert "there is no run in" in " ".join(absent.output.split())


@pytest.fixture
def own_pictures(tmp_path):
    """A folder of eight small pictures with their captions beside them, and a model that starts."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        picture, words = pair(number).segments
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(words)
    tiny_whole().save(tmp_path / "start")
    return folder


def test_a_run_from_a_folder_and_its_resumption(tmp_path, own_pictures):
    out, start = tmp_path / "run", str(tmp_path / "start")
    arguments = ["caption", "--data", str(own_pictures), "--epochs", "2", "--set", "data.batch_size=8", "--json"]
    arguments += ["--set", "steps=2", "--set", "log_every=1", "--set", "optim.warmup_steps=1", "--out", str(out)]
    result = _train(*arguments, "--model", start)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["steps"] == 2
    assert summary["model"] == str(out / "model")
    assert (out / "model" / "model_index.json").is_file()
    # The run knows its settings and what it started from.
    again = _train("caption", "--resume", "--out", str(out), "--json")
    assert again.exit_code == 0, again.output
    for extra, message in (
        (["--seed", "7"], "was started with seed=0"),
        ([], "one of the recipe 'caption', not 'gen'"),
    ):
        other = _train("caption" if extra else "gen", "--out", str(out), "--resume", *extra)
        assert other.exit_code == 2
        assert message in " ".join(other.output.split())


def test_an_adapter_from_own_data_to_a_merged_model(tmp_path, own_pictures):
    out, start = tmp_path / "run", tmp_path / "start"
    result = _train(
        "unified", "--model", str(start), "--data", str(own_pictures), "--lora", "2", "--out", str(out), "--json"
    )
    assert result.exit_code == 0, result.output
    adapter = json.loads(result.stdout.splitlines()[-1])["adapter"]
    assert adapter == str(out / "adapter")
    assert not (out / "model").exists()

    prompt, options = [Image.open(own_pictures / "0.png")], {"max_new_tokens": 8}
    adapted = emu2.load(start, adapter=adapter).complete(prompt, **options)
    merged = runner.invoke(app, ["convert", "merge", str(start), adapter, str(tmp_path / "merged")])
    assert merged.exit_code == 0, merged.output
    assert emu2.load(tmp_path / "merged").complete(prompt, **options) == adapted
    refused = _train("caption", "--model", adapter, "--out", str(tmp_path / "other"))
    assert refused.exit_code == 2
    assert "holds an adapter, not a model" in " ".join(refused.output.split())
