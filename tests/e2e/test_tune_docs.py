"""docs/tune.md: its blocks in order, from a checkpoint that has learned nothing yet.

All commands run in this process and take fewer passes over the data than the page: enough that the model names the five
things and nothing else. (To tell them apart in new pictures it would have to see better than an untrained tower does;
the page's figures are those of the demo's model.)
"""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emu2.cli import app
from emu2.processing.prompts import SYSTEM_CONCISE, SYSTEM_DETAILED
from emu2.processing.tokenizer import train_tokenizer
from emu2.recipes.fresh import fresh_whole

PAGE = Path(__file__).parents[2] / "docs" / "tune.md"
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What the checkpoint's tokeniser has seen, so that sequences are short: the names, but in no picture.
WORDS = ["a strawberry, a rabbit, a ball, a mushroom, an umbrella", "what is this?", SYSTEM_CONCISE, SYSTEM_DETAILED]


NAMES = {"a strawberry", "a rabbit", "a ball", "a mushroom", "an umbrella"}


def run(command: str) -> None:
    command = command.replace("--epochs 20", "--epochs 10" if "runs/mine" in command else "--epochs 1")
    program, *arguments = shlex.split(command)
    assert program == "emu2"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{command}\n{result.output}"


@pytest.mark.slow
def test_the_page_teaches_five_things(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fresh_whole("debug", train_tokenizer(WORDS * 4, 400, chat=True)).save("train-demo/model")
    names: dict = {}
    for language, code in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), names)
        else:
            for command in code.strip().splitlines():
                run(command)
    (before, said), (after, says) = names["before"], names["after"]
    assert before == 0
    assert not NAMES & set(said)
    assert after > 0
    assert set(says) <= NAMES
    for made in ("runs/adapted/adapter/adapter_model.safetensors", "runs/folded/model.safetensors", "rabbit.png"):
        assert Path(made).is_file()
    assert Path("runs/merged/model_index.json").is_file()
