"""Drawing under more than words: from phrases with boxes, and from pictures of the objects.

Texts keep the spaces around them, so that texts and phrases, put together, are the caption.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emu2.data.records import Record
from emu2.processing.grounding import Box
from emu2.world.captions import at, caption, counted
from emu2.world.compose import arrange, draw_background, stand
from emu2.world.dice import Dice
from emu2.world.scene import Background, Scene, SceneObject
from emu2.world.studio import Studio

if TYPE_CHECKING:
    from emu2.data.records import Segment

#: How a prompt for a picture begins, as in Emu2-Gen's data.
OPENING = "A picture of "
#: Objects given as pictures, at most.
_MOST_GIVEN = 3
_POSES = (-45, -30, -15, 15, 30, 45)


def grounded_generation(studio: Studio, dice: Dice, key: str) -> Record:
    """Phrases, each with the box it shall stand in, and the background in words; then the picture."""
    scene = studio.scene(dice)
    parts: list[Segment] = [OPENING]
    for number, (item, box) in enumerate(zip(scene.objects, _boxes(studio, scene), strict=True)):
        if number:
            parts.append(_link(number, len(scene.objects)))
        parts.append(Box(box, _phrase(studio, item), (studio.config.image_size,) * 2))
    parts += [f" on {scene.background.text}", studio.render(scene)]
    truth = {
        "scene": studio.facts(scene),
        "caption": caption(scene, "full", studio.atlas, sizes=True),
        "phrases": [_phrase(studio, item) for item in scene.objects],
    }
    return Record("grounded_generation", tuple(parts), key, len(parts) - 1, truth)


def composition(studio: Studio, dice: Dice, key: str) -> Record:
    """Pictures of objects, and where each of them shall stand; then the picture of all of them.

    In an object's picture it is turned, larger or smaller, and on another background than in the target. Half of the
    records say with boxes where it goes and how large it gets, the others with words; half name the objects, in the
    others nothing but the picture tells what it is.
    """
    count = 1 + dice.below(min(_MOST_GIVEN, studio.style.capacity, len(studio.pool)))
    emoji = [studio.variant(dice, concept) for concept in studio.some(dice, count)]
    upright = replace(studio.style, tilted=0.0)
    scene = studio.until_allowed(
        lambda: Scene(arrange(dice, emoji, upright, studio.atlas), draw_background(dice, studio.style))
    )
    boxed, named = dice.chance(0.5), dice.chance(0.5)
    given = [_given(studio, dice, item, scene) for item in scene.objects]
    parts: list[Segment] = []
    said = OPENING
    for number, (item, box, shown) in enumerate(zip(scene.objects, _boxes(studio, scene), given, strict=True)):
        phrase = _phrase(studio, item) if named else None
        link = _link(number, count) if number else ""
        if boxed:
            parts.append(said + link)
            parts.append(Box(box, phrase, (studio.config.image_size,) * 2, studio.render(shown)))
            said = ""
        else:
            parts += [f"{said}{link}{phrase} " if phrase else f"{said}{link}", studio.render(shown)]
            said = f" {'' if item.size == 'medium' else item.size + ' '}{at(item.place)}"
    parts += [f"{said} on {scene.background.text}", studio.render(scene)]
    facts = [studio.facts(shown) for shown in (*given, scene)]
    truth: dict[str, Any] = {
        "scenes": facts,
        "caption": caption(scene, "full", studio.atlas, sizes=True),
        "boxed": boxed,
        "named": named,
    }
    return Record("composition", tuple(parts), key, len(parts) - 1, truth)


def _phrase(studio: Studio, item: SceneObject) -> str:
    return counted(studio.atlas[item.emoji], 1)


def _link(number: int, count: int) -> str:
    """What goes between phrase `number` - 1 and the next of `count`."""
    return " and " if number == count - 1 else ", "


def _boxes(studio: Studio, scene: Scene) -> list[tuple[float, float, float, float]]:
    return [
        (float(a), float(b), float(c), float(d)) for a, b, c, d in scene.boxes(studio.config.image_size, studio.atlas)
    ]


def _given(studio: Studio, dice: Dice, item: SceneObject, target: Scene) -> Scene:
    """A scene of the object alone, in another pose, size and background than in the target."""
    colours = [colour for colour in studio.style.colours if target.background != Background("plain", (colour,))]
    sizes = [size for size in ("small", "medium", "large") if size != item.size]

    def draw() -> Scene:
        alone = stand(dice, item.emoji, "center", dice.pick(sizes), studio.atlas, stray=studio.style.jitter)
        if alone is None:
            raise AssertionError("the middle cell holds any size")
        turned = replace(alone, rotation=dice.pick(_POSES))
        return Scene((turned,), Background("plain", (dice.pick(colours),)))

    return studio.until_allowed(draw)
