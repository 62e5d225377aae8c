"""Family 6 of the episodes: pictures drawn in a style that no word tells, only the demonstrations show."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from emu2.data.records import Record
from emu2.world.atlas import Emoji
from emu2.world.captions import at, with_article
from emu2.world.compose import Style, stand
from emu2.world.dice import Dice
from emu2.world.episodes import draw_shots
from emu2.world.scene import BORDER, Background, Scene
from emu2.world.studio import Studio

#: What a style may change. All else is as in the plain style: white, medium, without a border.
CHANGES = ("background", "size", "border")
#: What stays free at the edge of the picture: enough that a border hides nothing, or a little.
_BORDERED, _PLAIN_MARGIN = BORDER + 0.02, 0.02
#: Drawings tried until the split may show one, and styles until one serves.
_ATTEMPTS = 200
#: The plain style is white, so these are not changes of it.
_PLAIN = "white"


@dataclass(frozen=True)
class DrawingStyle:
    """How the drawings of an episode look; the picture's content is told by words."""

    background: str = _PLAIN
    size: str = "medium"
    border: str | None = None


def styles(style: Style) -> dict[str, list[DrawingStyle]]:
    """What may be changed -> the drawing styles that change it, for scenes of a style."""
    colours = [colour for colour in style.colours if colour != _PLAIN]
    found = {
        "background": [DrawingStyle(background=colour) for colour in colours],
        "size": [] if style.sizes else [DrawingStyle(size=size) for size in ("small", "large")],
        "border": [DrawingStyle(border=colour) for colour in colours],
    }
    return {change: found[change] for change in CHANGES if found[change]}


def drawing(studio: Studio, dice: Dice, key: str) -> Record:
    """Words (or a picture and words), then a drawing, several times; the last drawing is to be made.

    The demonstrations' drawings share a background, a size or a border that is never told; the query's has it too, and
    shows a concept that they do not show. In half of the episodes a picture of the object, in another style and place,
    goes before the words.

    The chance is that of always guessing the likeliest style.
    """
    choices = styles(studio.style)
    change, style, query, others = _draw_query(studio, dice, choices)
    from_picture = dice.chance(0.5)
    segments: list[Any] = []
    scenes: list[Scene] = []
    words: list[str] = []

    def show(target: Scene) -> None:
        item = target.objects[0]
        if from_picture:
            scenes.append(studio.until_allowed(lambda: _elsewhere(studio, dice, target)))
            segments.append(studio.render(scenes[-1]))
        words.append(f"{with_article(studio.atlas[item.emoji].noun)} {at(item.place)}")
        segments.append(words[-1])
        scenes.append(target)
        segments.append(studio.render(target))

    # the query comes first, so that it does not depend on the number of demonstrations
    show(query)
    length = len(segments), len(scenes)
    shots = draw_shots(studio, key)
    for _ in range(shots):
        show(studio.until_allowed(lambda: _styled(studio, dice, style, others)))
    segments = segments[length[0] :] + segments[: length[0]]
    scenes = scenes[length[1] :] + scenes[: length[1]]
    truth = {
        "scenes": [studio.facts(scene) for scene in scenes],
        "form": "picture" if from_picture else "text",
        "change": change,
        "style": asdict(style),
        "choices": [asdict(other) for several in choices.values() for other in several],
        "words": words[1:] + words[:1],
        "shots": shots,
        "chance": max(1 / len(choices) / len(several) for several in choices.values()),
    }
    return Record("drawing", tuple(segments), key, len(segments) - 1, truth)


def _draw_query(
    studio: Studio, dice: Dice, choices: dict[str, list[DrawingStyle]]
) -> tuple[str, DrawingStyle, Scene, list[Emoji]]:
    """What is changed, the style, the query's drawing, and the concepts left for the demonstrations.

    A small pool may leave the split no scene of a style, or none for the demonstrations: then there is another style.
    """
    for _ in range(_ATTEMPTS):
        change = dice.pick(tuple(choices))
        style = dice.pick(choices[change])
        drawn = (_styled(studio, dice, style, studio.pool) for _ in range(_ATTEMPTS))
        query = next(filter(studio.allows, drawn), None)
        if query is None:
            continue
        concept = studio.atlas[query.objects[0].emoji].concept
        others = [entry for entry in studio.pool if entry.concept != concept]
        if any(studio.allows(_styled(studio, dice, style, others)) for _ in range(_ATTEMPTS)):
            return change, style, query, others
    raise ValueError(
        f"No style of drawing leaves the split {studio.config.split!r} scenes enough for a query and demonstrations; "
        "allow more concepts."
    )


def _styled(studio: Studio, dice: Dice, style: DrawingStyle, concepts: list[Emoji]) -> Scene:
    """A drawing of one of the concepts in the style, at a place that fits."""
    size = (studio.style.sizes or (style.size,))[0]
    margin = _BORDERED if style.border else _PLAIN_MARGIN
    item = None
    while item is None:  # flat drawings fit into every cell, and into the middle one any does
        emoji = studio.variant(dice, dice.pick(concepts))
        item = stand(dice, emoji, dice.pick(studio.style.places), size, studio.atlas, margin=margin)
    return Scene((item,), Background("plain", (style.background,)), border=style.border)


def _elsewhere(studio: Studio, dice: Dice, target: Scene) -> Scene:
    """The target's emoji in a scene of its own, with neither its place nor its background, and without a border."""
    item = target.objects[0]
    place = dice.pick([place for place in studio.style.places if place != item.place])
    colour = dice.pick([colour for colour in studio.style.colours if colour != target.background.colours[0]])
    source = stand(dice, item.emoji, place, (studio.style.sizes or ("medium",))[0], studio.atlas)
    return Scene((source,) if source else (), Background("plain", (colour,)))
