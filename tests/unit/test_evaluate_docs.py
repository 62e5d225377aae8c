"""docs/evaluate.md runs, on a small untrained model; and the command's own refusals."""

import json
import re
import shlex
from pathlib import Path

import pytest
from helpers_train import tiny_whole
from typer.testing import CliRunner

from emu2.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "evaluate.md"
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "train-demo" / "model"
    tiny_whole().save(folder)
    return folder


def run(*arguments: str):
    return CliRunner().invoke(app, ["eval", "miniature", *arguments])


def test_the_page_runs(model, tmp_path, monkeypatch):
    monkeypatch.chdir(model.parents[1])
    names: dict = {}
    for language, code in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), names)
            continue
        program, _, _, *arguments = shlex.split(code)
        assert program == "emu2"
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert "object names exact" in result.output
        assert "not measured 0" in result.output
    for name in ("first", "second"):
        assert (Path("eval") / name / "index.html").is_file()


def test_groups_of_the_page_and_of_the_command_are_those_there_are():
    from emu2.cli.eval import GroupName
    from emu2.evaluate.miniature import GROUPS

    assert [name.value for name in GroupName] == list(GROUPS)
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(GROUPS)


def test_a_real_model_is_asked_everything(model, tmp_path):
    """An untrained one of real parts: every kind of question passes through processor, model and pipelines."""
    options = ["--style", "simple", "--concepts", "60", "--number", "2", "--steps", "1", "--batch-size", "4", "--json"]
    only = [f"--only={name}" for name in ("captioning", "chat", "text_to_image", "subject", "video")]
    result = run("--model", str(model), *options, *only, "--out", str(tmp_path / "report"))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    rows = {row["name"]: row for row in report["rows"]}
    assert Path(report["page"]).is_file()
    assert rows["object names exact"]["n"] == 2
    for name in ("objects, by template", "similarity, with boxes", "identity kept", "moves the way the text says"):
        assert rows[name]["missing"] == "", name
        assert rows[name]["value"] is not None, name
    # the tiny model's context holds no conversation
    assert "tokens are needed" in rows["mean of the ten kinds"]["missing"]


def test_what_is_given_wrongly_is_refused(model, tmp_path):
    for arguments, words in (
        (["--model", "nanno"], "nanno"),
        (["--model", str(model), "--chat", "nowhere"], "--chat"),
        (["--model", str(model), "--style", "tidy"], "style must be one of"),
        (["--model", str(model), "--only", "chats"], "--only"),
    ):
        result = run(*arguments, "--out", str(tmp_path / "none"))
        assert result.exit_code == 2, result.output
        assert words in result.output.replace("\n", "")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "miniature.json").write_text("{}")
    result = run("--model", str(model), "--out", str(tmp_path / "old"))
    assert result.exit_code == 2
    assert "--force" in result.output
