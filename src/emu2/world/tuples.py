"""Families 3 and 5 of the episodes: a picture told as a tuple, and a red circle that says what the answer is about."""

from __future__ import annotations

from itertools import permutations

from emu2.data.records import Record
from emu2.world.compose import draw_background, stand
from emu2.world.dice import Dice
from emu2.world.episodes import draw_order, draw_shots, episode
from emu2.world.scene import Background, Scene, SceneObject
from emu2.world.studio import Studio

#: What a tuple may tell, in the order of the published example, `[red, white, 3, bottom left].`
FIELDS = ("name", "background", "count", "place")
#: Every form of a tuple: two or more of the fields in any order.
FORMS: tuple[tuple[str, ...], ...] = tuple(
    form for length in range(2, len(FIELDS) + 1) for form in permutations(FIELDS, length)
)
#: Quarters of the picture; up to four tiny objects stand in one, this far from the edge and from each other.
_QUARTERS = ("top left", "top right", "bottom left", "bottom right")
_EDGE, _STEP, _MOST = 0.135, 0.23, 4


def in_brackets(fields: list[str]) -> str:
    """The form of tuples: `[dog, white, 3, bottom left].`"""
    return f"[{', '.join(fields)}]."


def tuple_of(studio: Studio, dice: Dice, key: str) -> Record:
    """What is there, on what, how many and where, as `[dog, white, 3, bottom left].`

    Which of the four are told, and in what order, is anew in every episode, so only the demonstrations say it. All
    pictures of an episode show the same two or three concepts, one of them at a time, crowded into a quarter. The
    chance is that of a reader who sees all that is there but has to guess the form.
    """
    form = dice.pick(FORMS)
    concepts = studio.some(dice, min(2 + dice.below(2), len(studio.pool)))

    def show() -> tuple[Scene, str, dict[str, str]]:
        values: dict[str, str] = {}

        def draw() -> Scene:
            concept, colour = dice.pick(concepts), dice.pick(studio.style.colours)
            count, place = 1 + dice.below(_MOST), dice.pick(_QUARTERS)
            values.update(name=concept.noun, background=colour, count=str(count), place=place)
            emoji = studio.variant(dice, concept)
            return Scene(_crowd(dice, emoji, count, place), Background("plain", (colour,)))

        scene = studio.until_allowed(draw)
        return scene, in_brackets([values[name] for name in form]), values

    query = show()
    demonstrations = [show()[:2] for _ in range(draw_shots(studio, key))]
    truth = {
        "form": list(form),
        "values": query[2],
        "names": sorted(concept.noun for concept in concepts),
        "chance": 1 / len(FORMS),
    }
    return episode(studio, "tuple", key, "", demonstrations, query[:2], truth)


def _crowd(dice: Dice, emoji: int, count: int, place: str) -> tuple[SceneObject, ...]:
    """`count` tiny emoji in a quarter of the picture, the first of them in its corner."""
    row, column = place.split()
    x, y = (0 if column == "left" else 1), (0 if row == "top" else 1)
    edge, inner = (_EDGE, 1 - _EDGE), (_EDGE + _STEP, 1 - _EDGE - _STEP)
    beside = dice.shuffled([(inner[x], edge[y]), (edge[x], inner[y])])
    spots = [(edge[x], edge[y]), *beside, (inner[x], inner[y])]
    return tuple(SceneObject(emoji, round(left, 4), round(top, 4), "tiny") for left, top in spots[:count])


def visual_prompt(studio: Studio, dice: Dice, key: str) -> Record:
    """The name of the object that a red circle marks.

    Every picture of an episode shows each of its two to four concepts once, so a reader who does not heed the circle is
    right once in as many times.
    """
    room = min(4, len(studio.pool), studio.style.capacity)
    concepts = studio.some(dice, 2 + dice.below(room - 1))
    size = (studio.style.sizes or ("small",))[0]

    def show(target: int) -> tuple[Scene, str]:
        def draw() -> Scene:
            places = dice.sample(studio.style.places, len(concepts))
            objects = [
                stand(dice, studio.variant(dice, concept), place, size, studio.atlas, stray=studio.style.jitter)
                for concept, place in zip(concepts, places, strict=True)
            ]
            background = draw_background(dice, studio.style)
            while "red" in background.colours:  # the circle would be hard to see
                background = draw_background(dice, studio.style)
            return Scene(tuple(item for item in objects if item), background, marked=target)

        return studio.until_allowed(draw), f"{concepts[target].noun}."

    query = show(dice.below(len(concepts)))
    demonstrations = [show(target) for target in draw_order(studio, dice, key, len(concepts))]
    truth = {
        "label": query[1].removesuffix("."),
        "choices": sorted(f"{concept.noun}." for concept in concepts),
        "chance": 1 / len(concepts),
    }
    return episode(studio, "visual_prompt", key, "", demonstrations, query, truth)
