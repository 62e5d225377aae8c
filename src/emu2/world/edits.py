"""Pictures before and after an instruction: add, remove, replace, move, resize, recolour, change somebody's looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from emu2.data.records import Record
from emu2.world.atlas import Atlas
from emu2.world.captions import at, caption, counted, with_article
from emu2.world.compose import apart, draw_background, inside, stand
from emu2.world.dice import Dice
from emu2.world.scene import Scene, SceneObject
from emu2.world.studio import Studio


class _Edit(NamedTuple):
    """Scenes before and after, the instruction, and what it is about."""

    before: Scene
    after: Scene
    instruction: str
    facts: dict[str, Any]


#: Scenes drawn until one allows the edit that was chosen.
_ATTEMPTS = 200


def edit(studio: Studio, dice: Dice, key: str) -> Record:
    """A picture, an instruction, and the picture after it. Nothing changes but what the instruction says.

    Every kind of edit that the configuration allows comes up equally often.
    """
    kind, found = _draw_edit(studio, dice)
    truth = {
        "scenes": [studio.facts(found.before), studio.facts(found.after)],
        "edit": {"kind": kind, **found.facts},
        "instruction": found.instruction,
        "captions": [caption(scene, "full", studio.atlas, sizes=True) for scene in (found.before, found.after)],
    }
    segments = (studio.render(found.before), found.instruction, studio.render(found.after))
    return Record("edit", segments, key, 2, truth)


def _draw_edit(studio: Studio, dice: Dice) -> tuple[str, _Edit]:
    """The kind of edit and the edit. A small pool may leave the split none of a kind: then it is another kind."""
    for kind in dice.shuffled(_possible(studio)):
        for _ in range(_ATTEMPTS):
            found = _EDITS[kind](studio, dice)
            if found is not None and studio.allows(found.after):
                return kind, found
    raise ValueError(
        f"No scene of the split {studio.config.split!r} was found that can be edited; allow more concepts or the style "
        "'full'."
    )


def _possible(studio: Studio) -> list[str]:
    """The kinds of edits that the configuration allows."""
    kinds = ["add", "remove", "replace", "move", "background"]
    if not studio.style.sizes:
        kinds.append("resize")
    concepts = tuple(concept.index for concept in studio.pool)
    return kinds + [kind for kind in LOOKS if changeable(studio.atlas, concepts, kind, not studio.config.variants)]


def _the(studio: Studio, scene: Scene, item: SceneObject) -> str:
    """ "the dog", or "the dog at the top" where there are several."""
    noun = studio.atlas[item.emoji].noun
    same = [other for other in scene.objects if studio.atlas[other.emoji].noun == noun]
    return f"the {noun}" if len(same) == 1 else f"the {noun} {at(item.place)}"


def _with(scene: Scene, number: int, *items: SceneObject) -> Scene:
    """The scene with these in the place of object `number`."""
    objects = list(scene.objects)
    objects[number : number + 1] = items
    return replace(scene, objects=tuple(objects))


def _free(studio: Studio, dice: Dice, scene: Scene) -> str | None:
    """A grid cell without an object."""
    taken = {item.place for item in scene.objects}
    places = [place for place in studio.style.places if place not in taken]
    return dice.pick(places) if places else None


def _fits(studio: Studio, scene: Scene, number: int) -> bool:
    """Whether an object lies in the picture and touches no other."""
    item = scene.objects[number]
    others = scene.objects[:number] + scene.objects[number + 1 :]
    return inside(item, studio.atlas) and apart(item, others, studio.atlas)


def _add(studio: Studio, dice: Dice) -> _Edit | None:
    before = studio.scene(dice)
    guest = studio.variant(dice, dice.pick(studio.pool))
    place = _free(studio, dice, before)
    size = dice.pick(studio.style.sizes or ("small", "medium"))
    item = stand(dice, guest, place, size, studio.atlas, stray=studio.style.jitter) if place else None
    full = len(before.objects) >= studio.style.capacity
    if item is None or full or any(other.emoji == guest for other in before.objects):
        return None
    after = replace(before, objects=(*before.objects, item))
    if not _fits(studio, after, len(after.objects) - 1):
        return None
    adjective = "small" if size == "small" else ""
    told = f"add {counted(studio.atlas[guest], 1, adjective)} {at(item.place)}"
    return _Edit(before, after, told, {"after": len(before.objects)})


def _remove(studio: Studio, dice: Dice) -> _Edit | None:
    before = studio.scene(dice)
    if len(before.objects) < 2:
        return None
    number = dice.below(len(before.objects))
    told = f"remove {_the(studio, before, before.objects[number])}"
    return _Edit(before, _with(before, number), told, {"before": number})


def _replace(studio: Studio, dice: Dice) -> _Edit | None:
    before = studio.scene(dice)
    number = dice.below(len(before.objects))
    old = before.objects[number]
    guest = studio.variant(dice, dice.pick(studio.pool))
    after = _with(before, number, replace(old, emoji=guest))
    if any(other.emoji == guest for other in before.objects) or not _fits(studio, after, number):
        return None
    told = f"replace {_the(studio, before, old)} with {counted(studio.atlas[guest], 1)}"
    return _Edit(before, after, told, {"before": number, "after": number})


def _move(studio: Studio, dice: Dice) -> _Edit | None:
    before = studio.scene(dice)
    number = dice.below(len(before.objects))
    old, place = before.objects[number], _free(studio, dice, before)
    item = stand(dice, old.emoji, place, old.size, studio.atlas, stray=studio.style.jitter) if place else None
    if item is None or old.rotation:  # turned ones reach further: they stay where they are
        return None
    after = _with(before, number, item)
    if not _fits(studio, after, number):
        return None
    where = "to the center" if item.place == "center" else f"to the {item.place}"
    return _Edit(before, after, f"move {_the(studio, before, old)} {where}", {"before": number, "after": number})


def _resize(studio: Studio, dice: Dice) -> _Edit | None:
    before = studio.scene(dice)
    number = dice.below(len(before.objects))
    old = before.objects[number]
    size = dice.pick([size for size in ("small", "medium", "large") if size != old.size])
    after = _with(before, number, replace(old, size=size))
    if not _fits(studio, after, number):
        return None
    word = "medium-sized" if size == "medium" else size
    return _Edit(
        before, after, f"make {_the(studio, before, old)} {word}", {"before": number, "after": number, "size": size}
    )


def _background(studio: Studio, dice: Dice) -> _Edit | None:
    before = studio.scene(dice)
    background = draw_background(dice, studio.style)
    if background == before.background:
        return None
    plain = background.kind == "plain"
    told = f"make the background {background.colours[0]}" if plain else f"put everything on {background.text}"
    return _Edit(before, replace(before, background=background), told, {"background": background.text})


# Looks ---------------------------------------------------------------------------------------------------------------

#: What of somebody's looks an edit changes -> the modifier in the table of emoji.
LOOKS = {"skin tone": "skin", "gender": "gender"}


@lru_cache(maxsize=64)
def changeable(
    atlas: Atlas, concepts: tuple[int, ...], look: str, plain: bool
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The concepts of which some emoji differ in one look alone: for each, the pairs (before, after).

    Both show one person, so it is clear whose looks are meant. plain: only pairs that start from the emoji which stands
    for its concept.
    """
    modifier = LOOKS[look]
    found = []
    for concept in concepts:
        variants = atlas.variants(concept)
        pairs = tuple(
            (one.index, other.index)
            for one in variants
            if one.index == concept or not plain
            for other in variants
            if len(other.modifiers.get(modifier, ())) == 1
            and len(one.modifiers.get(modifier, ("none",))) == 1
            and one.modifiers.get(modifier) != other.modifiers[modifier]
            and {**one.modifiers, modifier: None} == {**other.modifiers, modifier: None}
        )
        if pairs:
            found.append(pairs)
    return tuple(found)


def _look(look: str) -> Callable[[Studio, Dice], _Edit | None]:
    def change(studio: Studio, dice: Dice) -> _Edit | None:
        concepts = tuple(concept.index for concept in studio.pool)
        pairs = changeable(studio.atlas, concepts, look, not studio.config.variants)
        old, new = dice.pick(dice.pick(pairs))
        if studio.atlas.drawing(old).tobytes() == studio.atlas.drawing(new).tobytes():  # both have the same drawing
            return None
        room = min(3, studio.style.capacity, len(studio.pool))
        others = [
            entry.index for entry in studio.some(dice, dice.below(room)) if entry.index != studio.atlas[old].concept
        ]
        before = studio.scene_of(dice, dice.shuffled([old, *others]))
        number = next(number for number, item in enumerate(before.objects) if item.emoji == old)
        after = _with(before, number, replace(before.objects[number], emoji=new))
        value = studio.atlas[new].modifiers[LOOKS[look]][0]
        who = _the(studio, before, before.objects[number])
        if look == "gender":
            told = f"turn {who} into {with_article(studio.atlas[new].noun)}"
        else:
            told = f"give {who} {with_article(value)} skin tone"
        return _Edit(before, after, told, {"before": number, "after": number, "value": value})

    return change


_EDITS: dict[str, Callable[[Studio, Dice], _Edit | None]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "resize": _resize,
    "background": _background,
    "skin tone": _look("skin tone"),
    "gender": _look("gender"),
}
