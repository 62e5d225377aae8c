"""Questions about clips with a clip of their own, whose answers come up equally often; and many about one clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from emu2.world import clip_asking
from emu2.world.asking import Exchange
from emu2.world.clips import EDGES, MOTIONS, WAYS, Clip
from emu2.world.dice import Dice
from emu2.world.films import random_clip
from emu2.world.motions import Role, shoot
from emu2.world.studio import Studio

#: Questions of a quiz, and how often a thing of its clip moves.
_QUIZ_TURNS, _MOVING = 8, 0.7


def _cast(studio: Studio, dice: Dice, count: int) -> list[int]:
    """Emoji of different concepts; fewer than `count` where there are no more."""
    concepts = studio.some(dice, min(count, len(studio.pool), studio.style.capacity))
    return [studio.variant(dice, concept) for concept in concepts]


def _beside(dice: Dice, emoji: Sequence[int]) -> list[Role]:
    """What the things do that a question is not about: mostly nothing."""
    return [Role(one, "stays" if dice.chance(0.6) else "goes") for one in emoji]


def _which_way(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    way = dice.pick(tuple(WAYS))

    def cast() -> list[Role]:
        first, *rest = _cast(studio, dice, 1 + dice.below(3))
        return [Role(first, "goes", way=way), *_beside(dice, rest)]

    clip = shoot(studio, dice, cast)
    return clip, clip_asking.which_way(studio, dice, clip)


def _from_or_to(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    """The place that is asked about is drawn first, each equally likely."""
    at_start = dice.chance(0.5)
    place = dice.pick(studio.style.places)

    def cast() -> list[Role]:
        first, *rest = _cast(studio, dice, 1 + dice.below(3))
        role = Role(first, "goes", start=place) if at_start else Role(first, "goes", end=place)
        return [role, *_beside(dice, rest)]

    clip = shoot(studio, dice, cast)
    return clip, (clip_asking.where_from if at_start else clip_asking.where_to)(studio, dice, clip)


def _who(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    motion = dice.pick(tuple(motion for motion in MOTIONS if motion != "stays"))

    def cast() -> list[Role]:
        mover, other = _cast(studio, dice, 2)
        return [Role(mover, motion), Role(other, "stays")]

    clip = shoot(studio, dice, cast)
    return clip, clip_asking.who(studio, dice, clip)


def _how_many(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    most = clip_asking.most_movers(studio)
    movers = dice.below(most + 1)

    def cast() -> list[Role]:
        return [
            Role(one, dice.pick(("goes", "returns", "bounces")) if number < movers else "stays")
            for number, one in enumerate(_cast(studio, dice, most))
        ]

    asked = dice.pick(clip_asking.HOW_MANY)
    clip = shoot(studio, dice, cast)
    return clip, clip_asking.how_many(studio, clip, asked)


def _what_happens(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    motion = dice.pick(MOTIONS)

    def cast() -> list[Role]:
        first, *rest = _cast(studio, dice, 1 + dice.below(2))
        return [Role(first, motion), *_beside(dice, rest)]

    clip = shoot(studio, dice, cast)
    return clip, clip_asking.deed(studio, clip)


def _whether_way(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    """Both edges of the answer are alike: the true direction and the one asked about are drawn from the same."""
    way, other = dice.sample(tuple(WAYS), 2)
    is_so = dice.chance(0.5)

    def cast() -> list[Role]:
        first, *rest = _cast(studio, dice, 1 + dice.below(2))
        return [Role(first, "goes", way=way), *_beside(dice, rest)]

    clip = shoot(studio, dice, cast)
    return clip, clip_asking.whether_way(studio, clip, way if is_so else other)


def _whether_moves(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    """Another thing moves as often when this one does as when it does not."""
    is_so = dice.chance(0.5)
    motion = dice.pick(("goes", "returns", "circles", "bounces")) if is_so else "stays"

    def cast() -> list[Role]:
        first, *rest = _cast(studio, dice, 2)
        return [Role(first, motion), *(Role(one, "goes" if dice.chance(0.5) else "stays") for one in rest)]

    clip = shoot(studio, dice, cast)
    return clip, clip_asking.whether_moves(studio, clip)


def _edge(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    comes = dice.chance(0.5)
    edge = dice.pick(tuple(EDGES))

    def cast() -> list[Role]:
        first, *rest = _cast(studio, dice, 1 + dice.below(2))
        return [Role(first, "comes" if comes else "leaves", way=edge), *(Role(one, "stays") for one in rest)]

    clip = shoot(studio, dice, cast)
    return clip, clip_asking.edge(studio, clip)


def _describe(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    clip = random_clip(studio, dice)
    return clip, clip_asking.describe(studio, dice, clip)


_QUESTIONS: tuple[Callable[[Studio, Dice], tuple[Clip, Exchange]], ...] = (
    _which_way,
    _from_or_to,
    _who,
    _how_many,
    _what_happens,
    _whether_way,
    _whether_moves,
    _edge,
    _describe,
)


def video(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    """One of the questions about a clip, and its clip."""
    return dice.pick(_QUESTIONS)(studio, dice)


def video_quiz(studio: Studio, dice: Dice) -> tuple[Clip, list[Exchange]]:
    """Questions of few answers about one clip, each as if it were the only one; none comes twice."""

    def cast() -> list[Role]:
        # Most questions are about what goes straight. Clips of what stays in place are found more easily than others:
        # in the end about as much stays as moves.
        moves = ("goes", "goes", dice.pick(tuple(motion for motion in MOTIONS if motion != "stays")))
        return [
            Role(one, dice.pick(moves) if dice.chance(_MOVING) else "stays")
            for one in _cast(studio, dice, 1 + dice.below(3))
        ]

    clip = shoot(studio, dice, cast)
    found = dice.shuffled(list(_all_about(studio, dice, clip)))
    return clip, found[:_QUIZ_TURNS]


def _all_about(studio: Studio, dice: Dice, clip: Clip) -> Iterator[Exchange]:
    """What can be asked about a clip, except for a description."""
    if len(clip.objects) <= clip_asking.most_movers(studio):
        yield clip_asking.how_many(studio, clip, dice.pick(clip_asking.HOW_MANY))
    movers = [number for number, motion in enumerate(clip.motions) if motion.moves]
    if len(clip.objects) == 2 and len(movers) == 1:
        yield clip_asking.who(studio, dice, clip, movers[0])
    for number, motion in enumerate(clip.motions):
        yield clip_asking.whether_moves(studio, clip, number)
        yield clip_asking.deed(studio, clip, number)
        if motion.kind in ("comes", "leaves"):
            yield clip_asking.edge(studio, clip, number)
        if motion.kind == "goes":
            yield clip_asking.where_from(studio, dice, clip, number)
            yield clip_asking.where_to(studio, dice, clip, number)
            if motion.way:
                yield clip_asking.which_way(studio, dice, clip, number)
                yield clip_asking.whether_way(studio, clip, motion.way, number)
                stated = dice.pick([way for way in WAYS if way != motion.way])
                yield clip_asking.whether_way(studio, clip, stated, number)
