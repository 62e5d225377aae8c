"""Questions about clips: which way, where from, where to, who, how many, what, and whether."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emu2.world.asking import Exchange, even
from emu2.world.captions import NUMBERS, at, be, does, sentence
from emu2.world.clips import EDGES, MOTIONS, WAYS, Clip
from emu2.world.dice import Dice
from emu2.world.films import clip_caption, random_clip
from emu2.world.motions import Role, shoot
from emu2.world.studio import Studio

#: Short names of motions, for "What does the dog do?".
DEEDS = {
    "goes": "goes somewhere",
    "returns": "goes away and comes back",
    "comes": "comes in",
    "leaves": "goes out",
    "circles": "goes around in a circle",
    "bounces": "bounces",
    "stays": "stays",
}
_VERBS = ("go", "come", "bounce", "stay")


def _cast(studio: Studio, dice: Dice, count: int) -> list[int]:
    """Emoji of different concepts; fewer than `count` where there are no more."""
    concepts = studio.some(dice, min(count, len(studio.pool), studio.style.capacity))
    return [studio.variant(dice, concept) for concept in concepts]


def _beside(dice: Dice, emoji: Sequence[int]) -> list[Role]:
    """What the things do that a question is not about: mostly nothing."""
    return [Role(one, "stays" if dice.chance(0.6) else "goes") for one in emoji]


def _exchange(
    about: str,
    asked: str,
    label: str,
    tell: Callable[[str], str],
    labels: Sequence[str] = (),
) -> Exchange:
    chance = even(labels) if labels else None
    return Exchange("video", asked, label, tell, labels=labels, chance=chance, facts={"about": about})


def _name(studio: Studio, clip: Clip, number: int = 0) -> str:
    return studio.atlas[clip.objects[number].emoji].noun


def _do(noun: str) -> str:
    """The question's auxiliary verb: "does", or "do" for a plural."""
    return does(noun, "do")


def _which_way(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    way = dice.pick(tuple(WAYS))

    def cast() -> list[Role]:
        first, *rest = _cast(studio, dice, 1 + dice.below(3))
        return [Role(first, "goes", way=way), *_beside(dice, rest)]

    clip = shoot(studio, dice, cast)
    noun = _name(studio, clip)
    asked = dice.pick((f"Which way {_do(noun)} the {noun} go?", f"In which direction {_do(noun)} the {noun} move?"))
    return clip, _exchange(
        "direction", asked, way, lambda label: f"The {noun} {does(noun, 'go')} {label}.", tuple(WAYS)
    )


def _from_or_to(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    """The place that is asked about is drawn first, each equally likely."""
    at_start = dice.chance(0.5)
    place = dice.pick(studio.style.places)

    def cast() -> list[Role]:
        first, *rest = _cast(studio, dice, 1 + dice.below(3))
        role = Role(first, "goes", start=place) if at_start else Role(first, "goes", end=place)
        return [role, *_beside(dice, rest)]

    clip = shoot(studio, dice, cast)
    noun = _name(studio, clip)
    if at_start:
        asked = dice.pick((f"Where {be(noun)} the {noun} at the start?", f"Where {_do(noun)} the {noun} start?"))
        return clip, _exchange(
            "start", asked, place, lambda label: f"The {noun} {does(noun, 'start')} {at(label)}.", studio.style.places
        )
    asked = dice.pick((f"Where {be(noun)} the {noun} at the end?", f"Where {_do(noun)} the {noun} stop?"))
    return clip, _exchange(
        "end", asked, place, lambda label: f"The {noun} {does(noun, 'stop')} {at(label)}.", studio.style.places
    )


def _who(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    """One of two moves; the question names both, so nobody has to know more than which."""
    motion = dice.pick(tuple(motion for motion in MOTIONS if motion != "stays"))

    def cast() -> list[Role]:
        mover, other = _cast(studio, dice, 2)
        return [Role(mover, motion), Role(other, "stays")]

    clip = shoot(studio, dice, cast)
    names = (_name(studio, clip, 0), _name(studio, clip, 1))
    first, second = dice.shuffled(names)
    return clip, _exchange(
        "who",
        f"Which one moves, the {first} or the {second}?",
        names[0],
        lambda label: f"The {label} {does(label, 'move')}.",
        (first, second),
    )


def _how_many(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    most = min(3, len(studio.pool), studio.style.capacity)
    movers = dice.below(most + 1)

    def cast() -> list[Role]:
        return [
            Role(one, dice.pick(("goes", "returns", "bounces")) if number < movers else "stays")
            for number, one in enumerate(_cast(studio, dice, most))
        ]

    labels = ("zero", *NUMBERS[1 : most + 1])

    def tell(label: str) -> str:
        return {"zero": "Nothing moves.", "one": "One thing moves."}.get(label, f"{sentence(label)} things move.")

    asked = dice.pick(("How many things move?", "How many things are moving?"))
    return shoot(studio, dice, cast), _exchange("how many", asked, labels[movers], tell, labels)


def _what_happens(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    motion = dice.pick(MOTIONS)

    def cast() -> list[Role]:
        first, *rest = _cast(studio, dice, 1 + dice.below(2))
        return [Role(first, motion), *_beside(dice, rest)]

    clip = shoot(studio, dice, cast)
    noun = _name(studio, clip)

    def tell(label: str) -> str:
        words = label
        for verb in _VERBS:  # the labels are in the singular
            words = words.replace(does("thing", verb), does(noun, verb))
        return f"The {noun} {words}."

    return clip, _exchange(
        "deed", f"What {_do(noun)} the {noun} do?", DEEDS[motion], tell, tuple(DEEDS[one] for one in MOTIONS)
    )


def _whether_way(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    """Both edges of the answer are alike: the true direction and the one asked about are drawn from the same."""
    way, other = dice.sample(tuple(WAYS), 2)
    is_so = dice.chance(0.5)

    def cast() -> list[Role]:
        first, *rest = _cast(studio, dice, 1 + dice.below(2))
        return [Role(first, "goes", way=way), *_beside(dice, rest)]

    clip = shoot(studio, dice, cast)
    noun = _name(studio, clip)
    it_does = f"the {noun} {does(noun, 'go')} {way}"
    return clip, _exchange(
        "whether way",
        f"{_do(noun).capitalize()} the {noun} go {way if is_so else other}?",
        "yes" if is_so else "no",
        lambda label: f"{label.capitalize()}, {it_does}.",
        ("yes", "no"),
    )


def _whether_moves(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    """Another thing moves as often when this one does as when it does not."""
    is_so = dice.chance(0.5)
    motion = dice.pick(("goes", "returns", "circles", "bounces")) if is_so else "stays"

    def cast() -> list[Role]:
        first, *rest = _cast(studio, dice, 2)
        return [Role(first, motion), *(Role(one, "goes" if dice.chance(0.5) else "stays") for one in rest)]

    clip = shoot(studio, dice, cast)
    noun = _name(studio, clip)
    moves, stays = f"the {noun} {does(noun, 'move')}", f"the {noun} {does(noun, 'stay')} in place"
    return clip, _exchange(
        "whether moves",
        f"{_do(noun).capitalize()} the {noun} move?",
        "yes" if is_so else "no",
        lambda label: f"Yes, {moves}." if label == "yes" else f"No, {stays}.",
        ("yes", "no"),
    )


def _edge(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    comes = dice.chance(0.5)
    edge = dice.pick(tuple(EDGES))

    def cast() -> list[Role]:
        first, *rest = _cast(studio, dice, 1 + dice.below(2))
        return [Role(first, "comes" if comes else "leaves", way=edge), *(Role(one, "stays") for one in rest)]

    clip = shoot(studio, dice, cast)
    noun = _name(studio, clip)
    if comes:
        asked = f"From which edge {_do(noun)} the {noun} come in?"
        told = f"The {noun} {does(noun, 'come')} in from the "
    else:
        asked = f"Over which edge {_do(noun)} the {noun} go out?"
        told = f"The {noun} {does(noun, 'go')} out over the "
    return clip, _exchange("edge", asked, edge, lambda label: f"{told}{label}{'' if comes else ' edge'}.", tuple(EDGES))


def _describe(studio: Studio, dice: Dice) -> tuple[Clip, Exchange]:
    clip = random_clip(studio, dice)
    short, full = (clip_caption(clip, wording, studio.atlas) for wording in ("name", "full"))
    asked = dice.pick(("Describe the video.", "What happens in the video?"))
    return clip, _exchange("describe", asked, short, lambda _: f"{sentence(full)}.")


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
