"""`emu2 world`."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from emu2.cli.world import Split, Style, app
from emu2.data.records import Record
from emu2.world import WorldConfig, default_atlas
from emu2.world.compose import STYLES
from emu2.world.preview import contact_sheet
from emu2.world.splits import SPLITS
from emu2.world.world import World


def _run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert (result.exit_code == 0) == (code == 0), (result.output, result.exception)
    return result


def test_choices_in_the_help_are_the_real_ones():
    assert [split.value for split in Split] == list(SPLITS)
    assert [style.value for style in Style] == list(STYLES)


def test_preview_writes_a_sheet(tmp_path):
    out = tmp_path / "sheet.png"
    _run("preview", "-k", "pair", "-k", "counting", "-n", 2, "--concepts", 16, "--boxes", "--out", out)
    with Image.open(out) as sheet:
        assert sheet.width == 1200
        assert sheet.height > 200
    result = _run("preview", "-k", "text", "--out", out, code=1)
    assert "give --force" in str(result.exception)


def test_wide_letters_are_shown_whole():
    sheet = np.asarray(contact_sheet([Record("text", ("MMMM MMMM MMMM MMMM MMMM",), "wide")]).convert("L"))
    lines = sheet[20:] < 128  # below the title
    assert lines.any(axis=0).nonzero()[0].max() > 200  # five words of 40 pixels


def test_show_prints_a_record(tmp_path):
    arguments = ("pair", 3, "--concepts", 16, "--style", "simple", "--size", 32)
    plain = _run("show", *arguments).output
    facts = json.loads(_run("show", *arguments, "--json", "--out", tmp_path).output)
    assert facts["truth"]["caption"] in plain
    with Image.open(facts["segments"][0]["image"]) as picture:
        assert picture.size == (32, 32)
    world = World(WorldConfig(image_size=32, concepts=16, style="simple"))
    assert facts["truth"] == world["pair", 3].truth


def test_clips_and_conversations_are_shown(tmp_path):
    out = tmp_path / "sheet.png"
    _run("preview", "-k", "video_pair", "-k", "chat", "-q", "video", "-n", 2, "--size", 32, "--boxes", "--out", out)
    assert out.is_file()
    arguments = ("show", "chat", 1, "-q", "video", "--size", 32, "--concepts", 16)
    shown = _run(*arguments).output
    assert "frames of 32 x 32 pixels]" in shown
    facts = json.loads(_run(*arguments, "--json", "--out", tmp_path).output)
    frames = facts["segments"][1]["video"].split(", ")
    assert len(frames) == facts["truth"]["clip"]["frames"]
    with Image.open(frames[-1]) as frame:
        assert frame.size == (32, 32)
    assert facts["truth"]["answer"] in shown
    assert "no kind of question 'who'" in str(_run("show", "chat", 1, "-q", "who", code=1).exception)


def test_names_lists_emoji():
    lines = _run("names", "dog face").output.splitlines()
    assert lines[0].split("\t")[:4] == ["\U0001f436", "dog", "dog", "train"]
    assert len(_run("names", "--everyday").output.splitlines()) == len(default_atlas().everyday())
    assert "No emoji has 'qqq'" in str(_run("names", "qqq", code=1).exception)


@pytest.mark.parametrize(("option", "package"), [("--font", "fonts-noto-color-emoji"), ("--names", "unicode-data")])
def test_atlas_says_what_to_install(tmp_path, option, package):
    result = _run("atlas", option, tmp_path / "none", "--out", tmp_path, code=1)
    assert package in str(result.exception) or "unicode-data" in str(result.exception)
