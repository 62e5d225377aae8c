"""Records without a picture: sentences about the things of the world, few-shot episodes told in words, and echoes."""

from __future__ import annotations

from emu2.data.records import Record
from emu2.world.captions import NUMBERS, WORDINGS, be, caption, counted, sentence, with_article
from emu2.world.compose import MAX_OBJECTS
from emu2.world.dice import Dice
from emu2.world.episodes import MADE_UP_WORDS, counting, naming
from emu2.world.plain import PAIR_WEIGHTS, draw_wording
from emu2.world.rules import rule
from emu2.world.studio import Studio
from emu2.world.tuples import tuple_of

#: Episodes that can be told, and how often each is. Naming is the plainest case of looking back for what is alike.
_TOLD = (naming, rule, tuple_of, counting)
_TOLD_WEIGHTS = (5.0, 7.0, 8.0, 10.0)


#: Made-up words in a list at most, pairs at most, and look-ups after them. Few pairs and many look-ups: of two pairs
#: `nano` then finds nine answers in ten after 300 batches of 24; with more of one and fewer of the other it guessed.
_ECHO_WORDS, _ECHO_PAIRS, _LOOK_UPS = 10, 4, 8


def text(studio: Studio, dice: Dice, key: str) -> Record:
    """One to four true sentences about the world; or, where the settings ask for it, an episode or an echo."""
    if studio.config.told and dice.chance(studio.config.told):
        return _episode(studio, dice, key)
    if studio.config.echoed and dice.chance(studio.config.echoed):
        return _echo(dice, key)
    forms = (_kind_sentence, _sum_sentence, _relation_sentence, _list_sentence, _scene_sentence)
    sentences = [dice.pick(forms)(studio, dice) for _ in range(1 + dice.below(4))]
    return Record("text", (" ".join(sentences),), key, None, {"sentences": sentences})


def _episode(studio: Studio, dice: Dice, key: str) -> Record:
    """ "bako or limu? a dog: bako. an apple: limu. a dog: bako." """
    family = dice.weighted(_TOLD, _TOLD_WEIGHTS)
    wording = dice.pick(WORDINGS) if family is naming else "full"
    record = family(studio.tellers[wording], dice, key)
    parts = [str(segment) for segment in record.segments]
    opening = [parts.pop(0)] if len(parts) % 2 else []
    shown = [f"{told}: {answer}" for told, answer in zip(parts[::2], parts[1::2], strict=True)]
    return Record("text", (" ".join([*opening, *shown]),), key, None, {"episode": record.kind, **record.truth})


def _echo(dice: Dice, key: str) -> Record:
    """Made-up words that come again: "toko bila gena toko bila gena.", or "toko: bila. gena: fovi. toko: bila."

    Only the first half tells the second. To go on from where the same was said before (an induction head) is what all
    learning from a prompt is built on, and sentences about the world hardly ask for it.
    """
    if dice.chance(0.5):
        words = dice.sample(MADE_UP_WORDS, 3 + dice.below(_ECHO_WORDS - 2))
        said = " ".join((*words, *words))
        return Record("text", (f"{said}.",), key, None, {"echo": words})
    number = 2 + dice.below(_ECHO_PAIRS - 1)
    words = dice.sample(MADE_UP_WORDS, 2 * number)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    asked = [dice.pick(pairs) for _ in range(_LOOK_UPS)]
    said = " ".join(f"{word}: {answer}." for word, answer in (*pairs, *asked))
    return Record("text", (said,), key, None, {"echo": words})


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
    wording = draw_wording(dice, studio, PAIR_WEIGHTS)
    return f"{sentence(caption(studio.scene(dice), wording, studio.atlas))}."
