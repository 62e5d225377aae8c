"""Questions about a clip that is given: which way, where from, where to, who, how many, what, and whether.

`number` is the place of the thing that is asked about among the clip's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emu2.world.asking import Exchange, even
from emu2.world.captions import NUMBERS, at, be, does, sentence
from emu2.world.clips import EDGES, MOTIONS, WAYS, Clip
from emu2.world.dice import Dice
from emu2.world.films import clip_caption
from emu2.world.scene import SceneObject
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
HOW_MANY = ("How many things move?", "How many things are moving?")


def _exchange(
    about: str,
    asked: str,
    label: str,
    tell: Callable[[str], str],
    labels: Sequence[str] = (),
    sought: tuple[str, Sequence[SceneObject]] | None = None,
) -> Exchange:
    chance = even(labels) if labels else None
    return Exchange("video", asked, label, tell, labels=labels, chance=chance, sought=sought, facts={"about": about})


def _name(studio: Studio, clip: Clip, number: int) -> str:
    return studio.atlas[clip.objects[number].emoji].noun


def _sought(studio: Studio, clip: Clip, number: int) -> tuple[str, Sequence[SceneObject]]:
    return _name(studio, clip, number), (clip.objects[number],)


def _do(noun: str) -> str:
    """The question's auxiliary verb: "does", or "do" for a plural."""
    return does(noun, "do")


def which_way(studio: Studio, dice: Dice, clip: Clip, number: int = 0) -> Exchange:
    noun, way = _name(studio, clip, number), clip.motions[number].way
    asked = dice.pick((f"Which way {_do(noun)} the {noun} go?", f"In which direction {_do(noun)} the {noun} move?"))
    return _exchange(
        "direction",
        asked,
        way,
        lambda label: f"The {noun} {does(noun, 'go')} {label}.",
        tuple(WAYS),
        _sought(studio, clip, number),
    )


def where_from(studio: Studio, dice: Dice, clip: Clip, number: int = 0) -> Exchange:
    noun, place = _name(studio, clip, number), clip.motions[number].places[0]
    asked = dice.pick((f"Where {be(noun)} the {noun} at the start?", f"Where {_do(noun)} the {noun} start?"))
    return _exchange(
        "start",
        asked,
        place,
        lambda label: f"The {noun} {does(noun, 'start')} {at(label)}.",
        studio.style.places,
        _sought(studio, clip, number),
    )


def where_to(studio: Studio, dice: Dice, clip: Clip, number: int = 0) -> Exchange:
    noun, place = _name(studio, clip, number), clip.motions[number].places[1]
    asked = dice.pick((f"Where {be(noun)} the {noun} at the end?", f"Where {_do(noun)} the {noun} stop?"))
    return _exchange(
        "end",
        asked,
        place,
        lambda label: f"The {noun} {does(noun, 'stop')} {at(label)}.",
        studio.style.places,
        _sought(studio, clip, number),
    )


def who(studio: Studio, dice: Dice, clip: Clip, number: int = 0) -> Exchange:
    """Of a clip of two things, of which `number` moves. The question names both, so nobody has to know more than
    which; what is sought is the one that is named last."""
    names = (_name(studio, clip, number), _name(studio, clip, 1 - number))
    first, second = dice.shuffled(names)
    return _exchange(
        "who",
        f"Which one moves, the {first} or the {second}?",
        names[0],
        lambda label: f"The {label} {does(label, 'move')}.",
        (first, second),
        _sought(studio, clip, number if second == names[0] else 1 - number),
    )


def how_many(studio: Studio, clip: Clip, asked: str) -> Exchange:
    """`asked`: one of HOW_MANY."""
    labels = ("zero", *NUMBERS[1 : most_movers(studio) + 1])

    def tell(label: str) -> str:
        return {"zero": "Nothing moves.", "one": "One thing moves."}.get(label, f"{sentence(label)} things move.")

    return _exchange("how many", asked, labels[sum(motion.moves for motion in clip.motions)], tell, labels)


def most_movers(studio: Studio) -> int:
    """Things that "How many things move?" may be asked about."""
    return min(3, len(studio.pool), studio.style.capacity)


def deed(studio: Studio, clip: Clip, number: int = 0) -> Exchange:
    noun = _name(studio, clip, number)

    def tell(label: str) -> str:
        words = label
        for verb in _VERBS:  # the labels are in the singular
            words = words.replace(does("thing", verb), does(noun, verb))
        return f"The {noun} {words}."

    label = DEEDS[clip.motions[number].kind]
    labels = tuple(DEEDS[one] for one in MOTIONS)
    return _exchange("deed", f"What {_do(noun)} the {noun} do?", label, tell, labels, _sought(studio, clip, number))


def whether_way(studio: Studio, clip: Clip, stated: str, number: int = 0) -> Exchange:
    """`stated`: the direction that the question names."""
    noun, way = _name(studio, clip, number), clip.motions[number].way
    it_does = f"the {noun} {does(noun, 'go')} {way}"
    return _exchange(
        "whether way",
        f"{_do(noun).capitalize()} the {noun} go {stated}?",
        "yes" if stated == way else "no",
        lambda label: f"{label.capitalize()}, {it_does}.",
        ("yes", "no"),
        _sought(studio, clip, number),
    )


def whether_moves(studio: Studio, clip: Clip, number: int = 0) -> Exchange:
    noun = _name(studio, clip, number)
    moves, stays = f"the {noun} {does(noun, 'move')}", f"the {noun} {does(noun, 'stay')} in place"
    return _exchange(
        "whether moves",
        f"{_do(noun).capitalize()} the {noun} move?",
        "yes" if clip.motions[number].moves else "no",
        lambda label: f"Yes, {moves}." if label == "yes" else f"No, {stays}.",
        ("yes", "no"),
        _sought(studio, clip, number),
    )


def edge(studio: Studio, clip: Clip, number: int = 0) -> Exchange:
    """Of a thing that comes or leaves."""
    noun, motion = _name(studio, clip, number), clip.motions[number]
    if motion.kind == "comes":
        asked = f"From which edge {_do(noun)} the {noun} come in?"
        told, rest = f"The {noun} {does(noun, 'come')} in from the ", ""
    else:
        asked = f"Over which edge {_do(noun)} the {noun} go out?"
        told, rest = f"The {noun} {does(noun, 'go')} out over the ", " edge"
    return _exchange(
        "edge",
        asked,
        motion.way,
        lambda label: f"{told}{label}{rest}.",
        tuple(EDGES),
        _sought(studio, clip, number),
    )


def describe(studio: Studio, dice: Dice, clip: Clip) -> Exchange:
    short, full = (clip_caption(clip, wording, studio.atlas) for wording in ("name", "full"))
    asked = dice.pick(("Describe the video.", "What happens in the video?"))
    return _exchange("describe", asked, short, lambda _: f"{sentence(full)}.")
