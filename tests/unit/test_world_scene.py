"""Scenes: the picture follows from the data, boxes are exact, nothing overlaps."""

import json

import numpy as np
import pytest

from emu2.world import Background, Scene, SceneObject, default_atlas
from emu2.world.captions import caption, counted, joined, with_article
from emu2.world.compose import STYLES, arrange, draw_background
from emu2.world.dice import Dice
from emu2.world.scene import BACKGROUNDS, COLOURS, PLACES, place_at

WHITE = Background("plain", ("white",))


def _emoji(name: str) -> int:
    return default_atlas().find(name).index


def _scenes(style: str, count: int) -> list[Scene]:
    atlas, scenes = default_atlas(), []
    for number in range(count):
        dice = Dice("scenes", style, number)
        objects = 1 + number % STYLES[style].capacity
        emoji = [entry.index for entry in dice.sample(atlas.everyday(), objects)]
        scenes.append(Scene(arrange(dice, emoji, STYLES[style], atlas), draw_background(dice, STYLES[style])))
    return scenes


def test_rendering_is_pure():
    for scene in _scenes("full", 6):
        first = np.asarray(scene.render(64))
        assert first.shape == (64, 64, 3)
        np.testing.assert_array_equal(first, np.asarray(scene.render(64)))


def test_facts_give_the_scene_again():
    for scene in _scenes("full", 6):
        facts = json.loads(json.dumps(scene.to_dict(96)))
        assert Scene.from_dict(facts) == scene
        assert [tuple(item["box"]) for item in facts["objects"]] == scene.boxes(96)


@pytest.mark.parametrize("size", [64, 96, 448])
def test_boxes_hold_what_is_drawn(size):
    for name, centre in (("car", 0.5), ("dog", 0.31), ("lightning", 0.7)):
        scene = Scene((SceneObject(_emoji(name), centre, 0.5, "medium", 15),), WHITE)
        # the same drawing on two colours: what is opaque does not change with the background
        on_white, on_black = (
            np.asarray(Scene(scene.objects, Background("plain", (colour,))).render(size), dtype=int)
            for colour in ("white", "black")
        )
        left, top, right, bottom = scene.boxes(size)[0]
        drawn = np.abs(on_white - on_black).max(axis=2) < 200
        rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
        assert left <= columns[0] <= left + 1
        assert right - 2 <= columns[-1] < right
        assert top <= rows[0] <= top + 1
        assert bottom - 2 <= rows[-1] < bottom


@pytest.mark.parametrize("style", list(STYLES))
def test_objects_are_inside_and_apart(style):
    for scene in _scenes(style, 120):
        boxes = scene.boxes(192)
        for left, top, right, bottom in boxes:
            assert 0 < left < right < 192
            assert 0 < top < bottom < 192
        for number, one in enumerate(boxes):
            for other in boxes[:number]:
                assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert len({item.place for item in scene.objects}) == len(scene.objects)


def test_every_size_and_place_comes_up():
    scenes = _scenes("full", 400)
    assert {item.size for scene in scenes for item in scene.objects} == {"small", "medium", "large"}
    assert {item.place for scene in scenes for item in scene.objects} == set(PLACES)
    assert {scene.background.kind for scene in scenes} == set(BACKGROUNDS)


def test_six_objects_fit_and_seven_are_refused():
    atlas = default_atlas()
    for number in range(40):  # flags are the widest drawings
        arrange(Dice(number), [_emoji("flag of Peru")] * 6, STYLES["full"], atlas)
    with pytest.raises(ValueError, match="holds 1 to 6 objects; 7 were asked for"):
        arrange(Dice(0), [_emoji("dog")] * 7, STYLES["full"], atlas)


def test_places():
    assert place_at(0.1, 0.1) == "top left"
    assert place_at(0.5, 0.5) == "center"
    assert place_at(1.0, 0.4) == "right"


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_backgrounds_show_their_colours(kind):
    colours = ("red",) if kind == "plain" else ("red", "white")
    picture = np.asarray(Background(kind, colours).render(64)).reshape(-1, 3)
    for colour in colours:
        assert np.abs(picture - np.array(COLOURS[colour])).max(axis=1).min() <= 4


@pytest.mark.parametrize(
    ("kind", "colours", "message"),
    [
        ("plaid", ("red",), "no background 'plaid'"),
        ("plain", ("mauve",), "no colour 'mauve'"),
        ("plain", ("red", "blue"), r"has 1 colour\(s\)"),
        ("dots", ("red",), r"has 2 colour\(s\)"),
    ],
)
def test_wrong_backgrounds_are_told(kind, colours, message):
    with pytest.raises(ValueError, match=message):
        Background(kind, colours)


def test_captions_say_what_is_there():
    atlas = default_atlas()
    blue = Background("plain", ("blue",))
    apple = Scene((SceneObject(_emoji("apple"), 0.5, 0.5, "large"),), blue)
    assert caption(apple, "name", atlas) == "an apple"
    assert caption(apple, "background", atlas) == "an apple on a blue background"
    assert caption(apple, "place", atlas) == "an apple in the center"
    assert caption(apple, "full", atlas) == "an apple in the center on a blue background"
    assert caption(apple, "full", atlas, sizes=True) == "a large apple in the center on a blue background"
    three = Scene(
        (
            SceneObject(_emoji("cat"), 0.2, 0.2),
            SceneObject(_emoji("dog"), 0.8, 0.2),
            SceneObject(_emoji("dog"), 0.5, 0.8),
        ),
        blue,
    )
    assert caption(three, "name", atlas) == "two dogs and a cat"
    assert caption(three, "place", atlas) == "two dogs and a cat; the cat is at the top left"
    assert caption(three, "full", atlas) == (
        "two dogs and a cat on a blue background; the dogs are at the top right and at the bottom; "
        "the cat is at the top left"
    )
    with pytest.raises(ValueError, match="no caption wording 'long'"):
        caption(three, "long", atlas)


def test_words():
    atlas = default_atlas()
    assert with_article("unicorn") == "a unicorn"
    assert with_article("octopus") == "an octopus"
    assert with_article("chopsticks") == "chopsticks"
    assert counted(atlas.find("butterfly"), 3) == "three butterflies"
    assert joined(["a dog", "a cat", "a car"]) == "a dog, a cat and a car"
