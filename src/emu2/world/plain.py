"""The plain kinds of records: pair, text to image and text."""

from __future__ import annotations

from typing import Any

from emu2.data.records import Record
from emu2.world.captions import NUMBERS, WORDINGS, be, caption, counted, sentence, with_article
from emu2.world.compose import MAX_OBJECTS
from emu2.world.dice import Dice
from emu2.world.scene import Scene
from emu2.world.studio import Studio

#: How often each caption wording comes up when the configuration names none, in the order of WORDINGS.
_PAIR_WEIGHTS = (1.0, 2.0, 3.0, 4.0)
#: A picture is only determined by a caption that tells much of it.
_DRAW_WEIGHTS = (1.0, 3.0, 4.0, 6.0)


def _draw_wording(dice: Dice, studio: Studio, cumulative: tuple[float, ...]) -> str:
    return studio.config.wording or dice.weighted(WORDINGS, cumulative)


def _captioned(studio: Studio, dice: Dice, cumulative: tuple[float, ...]) -> tuple[Scene, str, dict[str, Any]]:
    scene = studio.scene(dice)
    wording = _draw_wording(dice, studio, cumulative)
    words = caption(scene, wording, studio.atlas, sizes=studio.config.style == "full")
    return scene, words, {"scene": studio.facts(scene), "wording": wording, "caption": words}


def pair(studio: Studio, dice: Dice, key: str) -> Record:
    """A picture, then its caption, which is to be learned."""
    scene, words, truth = _captioned(studio, dice, _PAIR_WEIGHTS)
    return Record("pair", (studio.render(scene), words), key, 1, {**truth, "answer": words})


def text_to_image(studio: Studio, dice: Dice, key: str) -> Record:
    """A caption, then its picture, which is to be learned."""
    scene, words, truth = _captioned(studio, dice, _DRAW_WEIGHTS)
    return Record("text_to_image", (words, studio.render(scene)), key, 1, truth)


def text(studio: Studio, dice: Dice, key: str) -> Record:
    """One to four true sentences about the things of the world, without a picture."""
    forms = (_kind_sentence, _sum_sentence, _relation_sentence, _list_sentence, _scene_sentence)
    sentences = [dice.pick(forms)(studio, dice) for _ in range(1 + dice.below(4))]
    return Record("text", (" ".join(sentences),), key, None, {"sentences": sentences})


def _kind_sentence(studio: Studio, dice: Dice) -> str:
    emoji = dice.pick(studio.pool)
    if not emoji.kind:
        return f"{sentence(with_article(emoji.noun))} is one, {emoji.plural} are many."
    fact = f"{sentence(with_article(emoji.noun))} is {with_article(emoji.kind)}"
    other = dice.pick(studio.pool)
    if other is emoji or not other.kind or dice.chance(0.5):
        return f"{fact}."
    if other.kind == emoji.kind:
        return f"{fact}, and so is {with_article(other.noun)}."
    return f"{fact}, {with_article(other.noun)} is not."


def _sum_sentence(studio: Studio, dice: Dice) -> str:
    emoji = dice.pick(studio.pool)
    first = 1 + dice.below(MAX_OBJECTS - 1)
    second = 1 + dice.below(MAX_OBJECTS - first)
    return f"{sentence(NUMBERS[first])} and {NUMBERS[second]} make {counted(emoji, first + second)}."


def _relation_sentence(studio: Studio, dice: Dice) -> str:
    left, right = studio.some(dice, 2)
    one, other = dice.pick(
        (("left of", "right of"), ("above", "below"), ("right of", "left of"), ("below", "above")),
    )
    first, second = (be(left.noun), be(right.noun))
    return f"If the {left.noun} {first} {one} the {right.noun}, the {right.noun} {second} {other} the {left.noun}."


def _list_sentence(studio: Studio, dice: Dice) -> str:
    first, second = studio.some(dice, 2)
    many, few = 1 + dice.below(3), 1 + dice.below(3)
    row = dice.shuffled([first.noun] * many + [second.noun] * few)
    return f"{sentence(', '.join(row))}: {counted(first, many)} and {counted(second, few)}."


def _scene_sentence(studio: Studio, dice: Dice) -> str:
    wording = _draw_wording(dice, studio, _PAIR_WEIGHTS)
    return f"{sentence(caption(studio.scene(dice), wording, studio.atlas))}."
