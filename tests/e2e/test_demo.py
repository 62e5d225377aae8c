"""`emu2 demo` on an untrained model of the size nano: what it prints and leaves, at its quick size."""

import re
from io import StringIO

import pytest
from PIL import Image
from rich.console import Console

import emu2
from emu2.demo.run import run
from emu2.demo.sections import Size
from emu2.demo.terminal import half_blocks, section_lines
from emu2.evaluate.miniature import variant_folders
from emu2.processing.tokenizer import train_tokenizer
from emu2.recipes.assemble import write_variants
from emu2.recipes.fresh import add_video_decoder, fresh_whole

SECTIONS = ("captions", "chat", "few_shot", "draw", "compose", "edit", "again", "story", "film")


#: Enough of everything that each section has a row.
SIZE = Size(rows=3, episodes=2, films=1, steps=2)


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    words = ["Here is a dog at the top left on a red background.", "[cat: 2, dog: 1]. bako or limu?"]
    whole = fresh_whole("nano", train_tokenizer(words * 4, 400, chat=True))
    add_video_decoder(whole)
    folder = tmp_path_factory.mktemp("variants") / "nano"
    return write_variants(dict.fromkeys(("base", "chat", "gen"), whole), whole, whole, folder)


def show(variants, out):
    said = StringIO()
    page, sections = run(
        out,
        Console(file=said, width=100),
        load=lambda name: emu2.load(name, device="cpu"),
        folders=variant_folders(variants),
        size=SIZE,
    )
    return page, sections, said.getvalue()


@pytest.fixture(scope="module")
def demo(variants, tmp_path_factory):
    return show(variants, tmp_path_factory.mktemp("demo"))


@pytest.mark.slow
def test_all_nine_are_shown_in_order(demo):
    _, sections, said = demo
    assert [section.name for section in sections] == list(SECTIONS)
    places = [said.index(f"{number}. {section.title}") for number, section in enumerate(sections, start=1)]
    assert places == sorted(places)
    assert "8 shots" in said
    assert "chance is 50%" in said


@pytest.mark.slow
def test_the_page_stands_alone_with_input_output_and_truth(demo):
    page, sections, _ = demo
    text = page.read_text(encoding="utf-8")
    for section in sections:
        assert f'<section id="{section.name}">' in text
        assert section.samples
        assert all(sample.truth is not None for sample in section.samples)
    assert "data:image/webp;base64," in text  # the film moves
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "$" not in re.sub(r"base64,[^\"]+", "", text)


@pytest.mark.slow
def test_the_first_rows_are_one_picture(demo):
    page, _, _ = demo
    sheet = Image.open(page.with_name("demo.png"))
    assert sheet.width > 1000
    assert 500 < sheet.height < 2500


@pytest.mark.slow
def test_the_same_seed_shows_the_same(demo, variants, tmp_path):
    again, _, _ = show(variants, tmp_path)
    assert again.with_name("demo.png").read_bytes() == demo[0].with_name("demo.png").read_bytes()


def test_pictures_in_a_terminal_are_half_blocks_of_their_colours():
    picture = Image.new("RGB", (4, 4), "#ff0000")
    picture.paste("#0000ff", (0, 2, 4, 4))
    text = half_blocks(picture, 2)
    assert text.plain == "▀▀"
    assert {str(span.style) for span in text.spans} == {"#ff0000 on #0000ff"}


@pytest.mark.slow
def test_a_terminal_with_colours_shows_pictures(demo):
    said = StringIO()
    console = Console(file=said, width=120, force_terminal=True, color_system="truecolor")
    console.print(section_lines(demo[1][0], 1, pictures=True))
    assert said.getvalue().count("▀") > 200
