"""Pictures of the world are read back exactly: true ones always, noisy and soft ones too, and others not."""

from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageFilter

from emu2.evaluate.readback import PictureReader
from emu2.evaluate.readings import agreement
from emu2.world import Background, Scene, SceneObject, World, WorldConfig


@cache
def world(style: str, size: int) -> World:
    return World(WorldConfig(image_size=size, style=style, split="seen", concepts=24, wording="full"))


@cache
def reader(style: str) -> PictureReader:
    return PictureReader(style, [concept.index for concept in world(style, 64).studio.pool[:12]])


def scenes(style: str, size: int, number: int):
    """(scene, its picture) of the first records."""
    for index in range(number):
        record = world(style, size)["text_to_image", index]
        yield Scene.from_dict(record.truth["scene"]), record.segments[1]


def reads(style: str, scene: Scene, picture: Image.Image):
    reading = reader(style).read(picture, [item.emoji for item in scene.objects])
    return agreement(reading, scene.objects, scene.background)


@pytest.mark.parametrize(
    ("style", "size"), [("corners", 64), ("simple", 32), ("simple", 96), ("full", 64), ("full", 96)]
)
def test_true_renderings_are_read_right(style, size):
    for scene, picture in scenes(style, size, 4):
        assert reads(style, scene, picture).everything, scene


def test_noisy_and_soft_ones_too():
    noise = np.random.default_rng(0)
    for scene, picture in scenes("simple", 96, 4):
        rough = np.asarray(picture, float) + noise.normal(0, 25, (96, 96, 3))
        rough = Image.fromarray(np.clip(rough, 0, 255).astype(np.uint8))
        assert reads("simple", scene, rough).everything, scene
        assert reads("simple", scene, picture.filter(ImageFilter.GaussianBlur(1))).everything, scene


def test_another_scene_is_not_taken_for_this_one():
    found = list(scenes("simple", 64, 4))
    for (scene, _), (_, picture) in zip(found, found[1:] + found[:1], strict=True):
        assert not reads("simple", scene, picture).everything


def test_each_thing_that_can_be_wrong_is_told():
    pool = world("simple", 64).studio.pool
    dog, cat = pool[0].index, pool[1].index
    right = Scene((SceneObject(dog, 0.2, 0.2, "small"),), Background("plain", ("blue",)))
    drawn = {
        "objects": Scene((SceneObject(cat, 0.2, 0.2, "small"),), right.background),
        "count": Scene((*right.objects, SceneObject(dog, 0.8, 0.2, "small")), right.background),
        "places": Scene((SceneObject(dog, 0.8, 0.8, "small"),), right.background),
        "background": Scene(right.objects, Background("plain", ("green",))),
    }
    for wrong, scene in drawn.items():
        found = reads("simple", right, scene.render(64))
        assert not getattr(found, wrong)
        others = {"objects", "count", "places", "background"} - {wrong}
        others -= {"objects": {"places"}, "count": {"places"}}.get(wrong, set())
        assert all(getattr(found, other) for other in others), (wrong, found)
    assert reads("simple", right, right.render(64)).everything


def test_sizes_places_and_borders_are_read():
    pool = world("full", 64).studio.pool
    for size, border in (("small", "red"), ("large", None), ("medium", "blue")):
        item = SceneObject(pool[0].index, 0.5, 0.5, size)
        picture = Scene((item,), Background("plain", ("white",)), border=border).render(96)
        reading = reader("full").read(picture, [item.emoji], bordered=True)
        assert reading.border == border
        assert reading.shows(item, sized=True)
        assert not reading.shows(SceneObject(item.emoji, 0.1, 0.5, size))
        assert len(reading.things) == 1


def test_an_empty_picture_shows_nothing():
    background = Background("stripes", ("pink", "gray"))
    reading = reader("full").read(background.render(64))
    assert reading.things == ()
    assert reading.background == background
    assert not reader("full").foreground(background.render(64)).any()


def test_pictures_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="square; this one has 20 x 10"):
        reader("simple").read(Image.new("RGB", (20, 10)))
