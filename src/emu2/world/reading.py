"""Questions that are read off a drawing: the time on a clock face, the letters on a sign, the country of a flag.

They show the split's clock faces, signs and flags, whichever concepts the rest of the world is limited to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from emu2.world.asking import Exchange, View
from emu2.world.atlas import Atlas, Emoji
from emu2.world.dice import Dice
from emu2.world.scene import Scene
from emu2.world.splits import concept_split_of
from emu2.world.studio import Studio

#: Code points of the clock faces: one o'clock to twelve o'clock, then half past one to half past twelve.
_FIRST_HOUR, _FIRST_HALF = 0x1F550, 0x1F55C

#: Code points -> what is written on the drawing.
SIGNS = {
    "1F170 FE0F": "A", "1F18E": "AB", "1F171 FE0F": "B", "1F191": "CL", "1F192": "COOL", "1F193": "FREE",
    "1F194": "ID", "24C2 FE0F": "M", "1F195": "NEW", "1F196": "NG", "1F17E FE0F": "O", "1F197": "OK",
    "1F17F FE0F": "P", "1F198": "SOS", "1F199": "UP!", "1F19A": "VS", "1F519": "BACK", "1F51A": "END",
    "1F51B": "ON!", "1F51C": "SOON", "1F51D": "TOP", "1F3E7": "ATM", "1F6BE": "WC", "2139 FE0F": "i",
    "1F51E": "18", "1F51F": "10",
    **{f"{ord(digit):X} FE0F 20E3": digit for digit in "0123456789#*"},
}  # fmt: skip

#: How often something stands beside what is to be read.
_COMPANY = 0.3
#: Things that could be taken for what is to be read; they never stand beside it.
_ALIKE = ("time", "alphanum", "keycap", "arrow", "country-flag", "subdivision-flag", "flag")


@lru_cache(maxsize=16)
def clocks(atlas: Atlas, split: str) -> dict[str, Emoji]:
    """Time ("3:30") -> the clock face that shows it, of one concept split."""
    found = {}
    for entry in atlas.concepts(split):
        code = int(entry.codes.split()[0], 16)
        for first, minutes in ((_FIRST_HOUR, "00"), (_FIRST_HALF, "30")):
            if first <= code < first + 12:
                found[f"{code - first + 1}:{minutes}"] = entry
    return found


@lru_cache(maxsize=16)
def signs(atlas: Atlas, split: str) -> dict[str, Emoji]:
    """Text -> the sign with this text, of one concept split."""
    return {SIGNS[entry.codes]: entry for entry in atlas.concepts(split) if entry.codes in SIGNS}


@lru_cache(maxsize=16)
def flags(atlas: Atlas, split: str) -> dict[str, Emoji]:
    """Country, region or organisation -> its flag, of one concept split."""
    return {
        entry.name.removeprefix("flag: "): entry
        for entry in atlas.concepts(split)
        if entry.subgroup in ("country-flag", "subdivision-flag")
    }


def names_read(atlas: Atlas, split: str = "train") -> list[str]:
    """Names of the clock faces and signs of one concept split, as `WorldConfig.concepts` takes them."""
    return [entry.name for found in (clocks(atlas, split), signs(atlas, split)) for entry in found.values()]


def _read(
    studio: Studio,
    dice: Dice,
    view: View | None,
    kind: str,
    drawings: Callable[[Atlas, str], dict[str, Emoji]],
    questions: dict[str, str],
    tell: Callable[[str], str],
    listed: bool,
) -> tuple[Scene, Exchange] | None:
    """What is to be read stands upright, in one of the larger sizes, alone or beside something else.

    `questions`: each with its word for what is to be read. None where a picture is given already, which shows nothing
    to be read.
    """
    if view is not None:
        return None
    choices = drawings(studio.atlas, concept_split_of(studio.config.split))
    labels = tuple(choices)
    label = dice.pick(labels)
    emoji = [choices[label].index]
    company = dice.pick(studio.pool)
    if dice.chance(_COMPANY) and company.subgroup not in _ALIKE:
        emoji.append(studio.variant(dice, company))
    sizes = ("medium", "large") if len(emoji) == 1 else ("medium",)
    scene = studio.scene_of(dice, emoji, sizes=sizes, upright=True)
    asked = dice.pick(tuple(questions))
    return scene, Exchange(
        kind,
        asked,
        label,
        tell,
        labels=labels if listed else (),
        chance=1 / len(labels),
        told=frozenset((choices[label].noun,)),
        sought=(questions[asked], [item for item in scene.objects if item.emoji == emoji[0]]),
    )


def clock(studio: Studio, dice: Dice, view: View | None) -> tuple[Scene, Exchange] | None:
    """ "What time is it?", of a clock face."""
    questions = {"What time does the clock show?": "clock", "What time is it?": "time", "Read the clock.": "clock"}
    return _read(studio, dice, view, "clock", clocks, questions, lambda label: f"The clock shows {label}.", listed=True)


def letters(studio: Studio, dice: Dice, view: View | None) -> tuple[Scene, Exchange] | None:
    """ "What does the sign say?", of a sign with letters or digits."""
    questions = dict.fromkeys(("What does the sign say?", "What is written on the sign?", "Read the sign."), "sign")
    return _read(
        studio, dice, view, "letters", signs, questions, lambda label: f'The sign says "{label}".', listed=True
    )


def flag(studio: Studio, dice: Dice, view: View | None) -> tuple[Scene, Exchange] | None:
    """ "Whose flag is this?" """
    questions = dict.fromkeys(("Whose flag is this?", "Which flag is this?", "Whose flag can be seen?"), "flag")
    return _read(
        studio, dice, view, "flag", flags, questions, lambda label: f"It is the flag of {label}.", listed=False
    )
