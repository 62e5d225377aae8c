"""The grounded pair: a picture, and a caption whose phrases say where their things are."""

from __future__ import annotations

from collections.abc import Sequence

from emu2 import tokens
from emu2.data.records import Record
from emu2.processing.grounding import Box, grounded_text
from emu2.world.captions import at, counted, joined, with_article
from emu2.world.dice import Dice
from emu2.world.scene import Scene, SceneObject
from emu2.world.studio import Studio

#: What the caption tells beside things and boxes: nothing, the background, the places, or both; and how often, as
#: running sums.
_WORDINGS = ("name", "background", "place", "full")
_WEIGHTS = (2.0, 4.0, 5.0, 7.0)


def boxes_of(studio: Studio, items: Sequence[SceneObject], phrase: str | None = None) -> list[Box]:
    """The boxes of objects in a picture of the configuration's size."""
    side = studio.config.image_size
    return [Box(item.box(side, studio.atlas), phrase, (side, side)) for item in items]


def grounded_pair(studio: Studio, dice: Dice, key: str) -> Record:
    """A picture, then its caption with the box of every phrase, which is to be learned.

    A phrase is a group of equal things ("two dogs") with a box for each, or one thing and its place ("a cat at the
    top").
    """
    scene = studio.scene(dice)
    wording = studio.config.wording or dice.weighted(_WORDINGS, _WEIGHTS)
    phrases = _phrases(studio, scene, apart=wording in ("place", "full"))
    written = joined([grounded_text(phrase, boxes_of(studio, items)) for phrase, items in phrases])
    background = f" on {scene.background.text}" if wording in ("background", "full") else ""
    words = f"{tokens.GROUNDING}{written}{background}"
    side = studio.config.image_size
    truth = {
        "scene": studio.facts(scene),
        "wording": wording,
        "caption": joined([phrase for phrase, _ in phrases]) + background,
        "phrases": [
            {"phrase": phrase, "boxes": [list(item.box(side, studio.atlas)) for item in items]}
            for phrase, items in phrases
        ],
        "answer": words,
    }
    return Record("grounded_pair", (studio.render(scene), words), key, 1, truth)


def _phrases(studio: Studio, scene: Scene, apart: bool) -> list[tuple[str, list[SceneObject]]]:
    """(phrase, its objects); `apart` gives every object a phrase of its own, with its place."""
    atlas = studio.atlas
    if apart:
        return [
            (f"{with_article(atlas[item.emoji].noun)} {at(item.place)}", [item]) for item in scene.in_reading_order()
        ]
    return [(counted(atlas[emoji], len(items)), items) for emoji, items in scene.groups()]
