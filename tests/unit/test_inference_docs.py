"""The examples of docs/use.md and docs/decoding.md: Python runs, command lines name options that exist."""

import re
import shlex
from pathlib import Path

import pytest
from helpers_inference import picture, save_pipeline
from typer.testing import CliRunner

DOCS = Path(__file__).parents[2] / "docs"


def blocks(file: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (DOCS / file).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


COMMANDS = [line for block in blocks("use.md", "bash") for line in block.splitlines()]


def test_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_pipeline(tmp_path / "my-model")
    picture("brown").save("dog.png")
    picture("grey").save("cat.png")
    variables: dict = {}
    code = [*blocks("use.md", "python"), *blocks("decoding.md", "python")]
    assert len(code) >= 8
    for block in code:
        exec(compile(block, "docs", "exec"), variables)
    assert len(variables["several"]) == 2
    assert len(variables["texts"]) == 2


@pytest.mark.parametrize("line", COMMANDS)
def test_command_lines_parse(line):
    from emu2.cli import app

    program, *arguments = shlex.split(line)
    assert program == "emu2"
    # --help is heeded after the whole line is parsed: an option that does not exist fails first.
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(app, [*arguments, "--no-such-option", "--help"]).exit_code == 2
