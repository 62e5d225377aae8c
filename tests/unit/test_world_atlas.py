"""The atlas that ships: what is in it, which split it goes to, and that the font gives it again."""

from pathlib import Path

import pytest

from emu2.world.atlas import ASSETS, default_atlas, noun_of, plural_of, resolve_concepts
from emu2.world.build_atlas import (
    DEFAULT_FONT,
    DEFAULT_NAMES,
    build_atlas,
    decompose,
    draw_emoji,
    load_font,
    read_names,
)
from emu2.world.everyday import EVERYDAY
from emu2.world.splits import concept_split, concept_split_of

needs_font = pytest.mark.skipif(
    not (DEFAULT_FONT.is_file() and DEFAULT_NAMES.is_file()),
    reason="needs the Debian packages fonts-noto-color-emoji and unicode-data",
)


def test_the_table_is_whole_and_small_enough_to_ship():
    atlas = default_atlas()
    assert len(atlas) == 3655
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 12e6
    assert "SIL OPEN FONT LICENSE" in (ASSETS / "LICENSE-OFL.txt").read_text()
    assert "UNICODE, INC. LICENSE AGREEMENT" in (ASSETS / "LICENSE-UNICODE.txt").read_text()
    dog = atlas.find("dog")
    assert (dog.name, dog.codes, dog.group, dog.kind) == ("dog face", "1F436", "Animals & Nature", "animal")
    assert atlas.find("dog face") is atlas.find("\U0001f436") is dog


def test_concepts_fall_into_splits_of_80_10_10():
    concepts = default_atlas().concepts()
    for split, share in (("train", 0.8), ("val", 0.1), ("held", 0.1)):
        assert abs(len(default_atlas().concepts(split)) / len(concepts) - share) < 0.02


def test_splits_never_change():
    assert [concept_split(code) for code in ("1F436", "1F344", "1F511", "1F680")] == ["train", "held", "val", "train"]


def test_variants_go_with_their_concept():
    atlas = default_atlas()
    for entry in atlas.emoji:
        assert entry.split == atlas[entry.concept].split
    astronaut = atlas.find("astronaut")
    variants = atlas.variants(astronaut.index)
    assert len(variants) == 18
    assert {"skin": ["dark"], "gender": ["woman"]} in [entry.modifiers for entry in variants]


@pytest.mark.parametrize(
    ("codes", "concept", "modifiers"),
    [
        ((0x1F468, 0x1F3FF, 0x200D, 0x1F680), (0x1F9D1, 0x1F680), {"gender": ["man"], "skin": ["dark"]}),
        ((0x1F9D1, 0x200D, 0x1F9B0), (0x1F9D1,), {"hair": ["red"]}),
        ((0x1F3C3, 0x200D, 0x2640, 0xFE0F), (0x1F3C3,), {"gender": ["woman"]}),
        ((0x2640, 0xFE0F), (0x2640,), {}),
        ((0x1F469, 0x200D, 0x1F467), (0x1F46A,), {"gender": ["woman", "woman"]}),
        ((0x1FAF1, 0x1F3FB, 0x200D, 0x1FAF2, 0x1F3FF), (0x1F91D,), {"skin": ["light", "dark"]}),
    ],
)
def test_an_emoji_is_its_concept_and_modifiers(codes, concept, modifiers):
    assert decompose(codes) == (concept, modifiers)


def test_the_same_drawing_is_one_concept():
    atlas = default_atlas()
    france, clipperton = atlas.find("flag of France"), atlas.find("flag of Clipperton Island")
    assert clipperton.concept == france.index == france.concept


def test_everyday_names_are_in_the_table_and_unlike_all_others():
    atlas = default_atlas()
    assert len(atlas.everyday()) == len(EVERYDAY) == 120
    nouns = [entry.noun for entry in atlas.emoji]
    for entry in atlas.everyday():
        assert nouns.count(entry.noun) == 1
        assert " " not in entry.noun
        assert entry.concept == entry.index


@pytest.mark.parametrize(
    ("name", "noun", "plural"),
    [
        ("flag: Peru", "flag of Peru", "flags of Peru"),
        ("man: red hair", "man with red hair", "men with red hair"),
        ("face with tears of joy", "face with tears of joy", "faces with tears of joy"),
        ("keycap: 3", "keycap 3", "keycap 3s"),
        ("person running", "person running", "people running"),
        ("woman running: dark skin tone", "woman running with dark skin tone", "women running with dark skin tone"),
        ("chopsticks", "chopsticks", "chopsticks"),
        ("dog", "standing dog", "standing dogs"),
    ],
)
def test_names_become_nouns(name, noun, plural):
    assert noun_of(name) == noun
    assert plural_of(noun) == plural


def test_sprites_are_cut_to_what_is_visible():
    atlas = default_atlas()
    sprite = atlas.sprite(atlas.find("car").index, 48)
    assert sprite.image.size == sprite.mask.size == (sprite.box[2] - sprite.box[0], sprite.box[3] - sprite.box[1])
    assert sprite.image.mode == "RGB"
    assert 40 <= sprite.image.width <= 48
    assert sprite.image.height < 40


def test_choosing_concepts():
    atlas = default_atlas()
    assert resolve_concepts(atlas, None, "held") == atlas.concepts("held")
    assert [entry.noun for entry in resolve_concepts(atlas, 3, "train")] == ["dog", "apple", "cat"]
    assert [entry.noun for entry in resolve_concepts(atlas, ["cat", "dog"], "train")] == ["cat", "dog"]
    assert concept_split_of("seen") == "train"


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        (0, "1 to 120"),
        (121, "1 to 120"),
        ("dog", "give a list of names"),
        (["dogg"], "There is no emoji 'dogg'"),
        (["face with"], "Near it are: grinning face with big eyes"),
        (["dog", "mushroom"], r"mushroom \(held\)"),
    ],
)
def test_a_wrong_choice_of_concepts_is_told(concepts, message):
    with pytest.raises(ValueError, match=message):
        resolve_concepts(default_atlas(), concepts, "train")


def test_unknown_splits_are_told():
    with pytest.raises(ValueError, match="there is no 'test'"):
        default_atlas().concepts("test")
    with pytest.raises(ValueError, match="choose one of train, seen, val, held"):
        concept_split_of("test")


def test_missing_font_and_names_say_what_to_install(tmp_path):
    with pytest.raises(FileNotFoundError, match="Install the Debian package fonts-noto-color-emoji"):
        load_font(tmp_path / "none.ttf")
    with pytest.raises(FileNotFoundError, match="Install the Debian package unicode-data"):
        read_names(tmp_path / "none.txt")


def test_other_files_say_what_to_install(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("something else\n")
    with pytest.raises(ValueError, match=r"names no fully-qualified emoji.*unicode-data"):
        read_names(other)
    with pytest.raises(ValueError, match=r"is not the bitmap form of Noto Color Emoji.*fonts-noto-color-emoji"):
        load_font(other)


def _few_names(path: Path, count: int) -> Path:
    """The first `count` emoji of the names file."""
    lines, found = [], 0
    for line in DEFAULT_NAMES.read_text(encoding="utf-8").splitlines():
        lines.append(line)
        found += "; fully-qualified" in line
        if found == count:
            break
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@needs_font
def test_the_same_font_gives_the_same_bytes(tmp_path):
    names = _few_names(tmp_path / "names.txt", 70)
    counts = [build_atlas(DEFAULT_FONT, names, tmp_path / folder) for folder in ("one", "two")]
    assert counts[0] == counts[1]
    assert counts[0]["emoji"] == 70
    assert counts[0]["sheets"] == 2
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@needs_font
def test_the_shipped_atlas_is_what_the_font_gives():
    atlas, font, rows = default_atlas(), load_font(DEFAULT_FONT), read_names(DEFAULT_NAMES)
    if [" ".join(f"{code:X}" for code in row["codes"]) for row in rows] != [entry.codes for entry in atlas.emoji]:
        pytest.skip("the installed names are of another release than the shipped atlas")
    for index in range(0, len(atlas), 97):
        # premultiplied: WebP is free to choose the colour of what is transparent
        shipped, drawn = atlas.drawing(index).convert("RGBa"), draw_emoji(font, rows[index]["codes"]).convert("RGBa")
        assert shipped.tobytes() == drawn.tobytes()
