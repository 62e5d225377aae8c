"""The model that ships: what it gets right of a hundred records, and that it answers whatever it is given.

The bounds are the figures of `python tests/helpers_nano.py` less a margin for other processors and library versions, so
that a fault in model, processing or decoders shows as a drop.
"""

import numpy as np
import pytest
from helpers_nano import figures
from PIL import Image
from typer.testing import CliRunner

import emu2
from emu2.cli import app
from emu2.inference.names import SHIPPED, SHIPPED_FOLDER, fitting

#: Figure -> the least it may be.
BOUNDS = {
    "names in captions": 0.93,
    "whole captions": 0.9,
    "answers": 0.82,
    "counting": 0.64,
    "naming": 0.86,
    "things drawn": 0.75,
    "backgrounds drawn": 0.9,
    "ways in films": 0.75,
    "things in films": 0.2,
    "autoencoding in dB": 24.0,
}


@pytest.fixture(scope="module")
def measured():
    return figures()


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_figures_have_not_dropped(measured, name):
    assert measured[name] >= BOUNDS[name]


@pytest.mark.slow
def test_every_figure_has_a_bound(measured):
    assert measured.keys() == BOUNDS.keys()


def test_all_variants_fit_64_megabytes():
    assert sum(file.stat().st_size for file in SHIPPED_FOLDER.rglob("*") if file.is_file()) <= 64_000_000


@pytest.mark.slow
@pytest.mark.parametrize("picture", ["noise", "photograph", "one pixel", "grey", "see-through"])
def test_a_picture_unlike_the_world_is_answered(picture):
    pictures = {
        "noise": Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)),
        "photograph": Image.radial_gradient("L").resize((640, 480)).convert("RGB"),
        "one pixel": Image.new("RGB", (1, 1), "red"),
        "grey": Image.new("L", (50, 1000), 128),
        "see-through": Image.new("RGBA", (96, 96), (255, 0, 0, 0)),
    }
    given = pictures[picture]
    assert isinstance(emu2.load("nano", device="cpu").complete([given], max_new_tokens=8), str)
    assert isinstance(emu2.load("nano-chat", device="cpu").chat([given, "What is this?"], max_new_tokens=8), str)
    assert emu2.load("nano-gen", device="cpu").draw([given, "add a dog"], steps=1).size == (96, 96)


def test_every_shipped_name_loads_and_says_what_it_can():
    for name in SHIPPED:
        told = repr(emu2.load(name, device="cpu"))
        assert ("film" in told) == (name != "nano-chat")


def test_a_command_takes_the_variant_that_is_made_for_it(tmp_path):
    assert fitting("nano", "chat") == fitting(str(SHIPPED_FOLDER), "chat") == str(SHIPPED_FOLDER / "chat")
    for name in ("nano-gen", str(SHIPPED_FOLDER / "base"), str(tmp_path), "nanno"):
        assert fitting(name, "chat") == name


def test_the_one_that_only_chats_names_the_one_that_draws():
    for command in ("draw", "film"):
        told = CliRunner().invoke(app, [command, "-m", "nano-chat", "a dog"])
        assert told.exit_code != 0
        assert "Load nano-gen." in " ".join(told.output.split())
