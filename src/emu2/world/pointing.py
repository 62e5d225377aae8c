"""Referring expressions: words for one thing of a picture, answered with its box."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from emu2 import tokens
from emu2.world.asking import Exchange, View, of_any_scene
from emu2.world.captions import at
from emu2.world.dice import Dice
from emu2.world.grounded import boxes_of
from emu2.world.questions import called, noun_of
from emu2.world.scene import SIZES, Scene, SceneObject
from emu2.world.studio import Studio

#: Whoever is "the leftmost" stands out by this share of the picture's side.
_CLEAR = 0.12
#: Whatever is the largest covers this many times as much as the next.
_LARGER = 1.6

#: Words for who is first along a line -> its position on it, smallest first.
_ENDS: dict[str, Callable[[SceneObject], float]] = {
    "leftmost": lambda item: item.x,
    "rightmost": lambda item: -item.x,
    "topmost": lambda item: item.y,
    "bottommost": lambda item: -item.y,
}


def expressions(studio: Studio, scene: Scene, item: SceneObject) -> Iterator[tuple[str, str]]:
    """(way of referring, words) for all the ways that point at this thing and at no other of two or more."""
    noun = noun_of(studio, item)
    same = called(studio, scene, noun)
    if len(same) == 1:
        yield "name", f"the {noun}"
    if sum(other.place == item.place for other in scene.objects) == 1:
        yield "place", f"the thing {at(item.place)}"
        yield "name and place", f"the {noun} {at(item.place)}"
    others = [_area(studio, other) for other in scene.objects if other is not item]
    for word, outdone in (
        ("largest", _area(studio, item) / max(others)),
        ("smallest", min(others) / _area(studio, item)),
    ):
        if outdone >= _LARGER:
            yield "size", f"the {word} thing"
    for word, position in _ENDS.items():
        first, *rest = sorted(same, key=position)
        if rest and first is item and position(rest[0]) - position(first) >= _CLEAR:
            yield "end", f"the {word} {noun}"


def _area(studio: Studio, item: SceneObject) -> float:
    """What an object's box covers, without a unit."""
    left, top, right, bottom = studio.atlas.extent(item.emoji, item.rotation)
    return (right - left) * (bottom - top) * SIZES[item.size] ** 2


def _referring(studio: Studio, dice: Dice, view: View) -> Exchange | None:
    """The way of referring is drawn first, so that the rarer ones come up too."""
    scene = view.scene
    open_items = [item for item in scene.objects if noun_of(studio, item) not in view.told]
    if len(scene.objects) < 2 or not open_items:
        return None
    found: dict[str, list[tuple[SceneObject, str]]] = {}
    for item in open_items:
        for way, words in expressions(studio, scene, item):
            found.setdefault(way, []).append((item, words))
    if not found:
        return None
    way = dice.pick(tuple(found))
    item, words = dice.pick(found[way])
    box = boxes_of(studio, [item], words)[0]
    answer = f"{tokens.GROUNDING}{box.to_tokens()}"
    asked = dice.pick((f"Find {words}.", f"Give the box of {words}.", f"Point at {words}."))
    return Exchange(
        "referring",
        asked,
        answer,
        lambda label: label,
        chance=1 / len(scene.objects),
        told=frozenset((noun_of(studio, item),)),
        sought=(words, (item,)),
        facts={
            "expression": words,
            "way": way,
            "box": [int(value) for value in box.xyxy],
            "indices": list(box.to_indices()),
        },
    )


referring = of_any_scene(_referring)
