"""`emu2 train`: settings, refusals, and one tiny run from a folder."""

import json

import pytest
from helpers_train import SIDE, tiny_whole
from typer.testing import CliRunner

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


def test_a_run_from_a_folder_and_its_resumption(tmp_path):
    tiny_whole().save(tmp_path / "start")
    settings = ["steps=2", "data.batch_size=2", f"data.image_size={SIDE}", "data.max_length=400", "log_every=1"]
    arguments = [*(f"--set={setting}" for setting in [*settings, "optim.warmup_steps=1"]), "--json"]
    out = tmp_path / "run"
    result = _train("caption", "--model", str(tmp_path / "start"), "--out", str(out), *arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["steps"] == 2
    assert summary["model"] == str(out / "model")
    assert (out / "model" / "model_index.json").is_file()
    again = _train("caption", "--model", str(tmp_path / "start"), "--out", str(out), "--resume", *arguments)
    assert again.exit_code == 0, again.output
    other = _train(
        "caption", "--model", str(tmp_path / "start"), "--out", str(out), "--resume", *arguments, "--seed", "7"
    )
    assert other.exit_code == 2
    assert "was started with seed=0" in " ".join(other.output.split())
