"""Reading what a model wrote: answers against accepted ones, and captions taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from emu2.world.atlas import Atlas
from emu2.world.captions import NUMBERS, caption
from emu2.world.scene import COLOURS, Scene

_NUMBERS = {"a": 1, "an": 1} | {word: number for number, word in enumerate(NUMBERS) if number}
_SIZES = ("tiny", "small", "medium", "large")
#: What may follow an answer of a model that goes on.
_BREAKS = ".,;\n<["
#: What ends the clause of a caption that says what is there.
_CLAUSE_END = re.compile(r";| on an? | on | at the | in the center")
_BACKGROUND = re.compile(rf"on an? ({'|'.join(COLOURS)}) background")


def same(said: str, accepted: Iterable[str]) -> bool:
    """Whether an answer is one of those that are right, whatever its capitals and final full stop."""
    return plain(said) in {plain(one) for one in accepted}


def plain(text: str) -> str:
    """The text without capitals, outer white space and a final full stop."""
    return text.strip().removesuffix(".").strip().casefold()


def opens_with(said: str, accepted: Iterable[str]) -> bool:
    """Whether a base model's text begins with an accepted answer, with or without an article, and then breaks off."""
    bare = _bare(said)
    return any(bare == one or (bare.startswith(one) and bare[len(one)] in _BREAKS) for one in map(_bare, accepted))


def _bare(text: str) -> str:
    return re.sub(r"^(a|an|the) ", "", plain(text))


@lru_cache(maxsize=8)
def _nouns(atlas: Atlas) -> tuple[re.Pattern[str], dict[str, str], frozenset[str]]:
    """What finds counted nouns, the short name of each plural, and all short names."""
    # Some drawings are one thing in the plural ("houses"); several houses are the plural of another.
    backwards = list(reversed(atlas.emoji))  # of two things of one name, the first counts
    plurals = {entry.plural: entry.noun for entry in backwards}
    plurals |= {entry.plural: entry.noun for entry in backwards if entry.plural != entry.noun}
    numbers, sizes = "|".join(_NUMBERS), "|".join(_SIZES)
    names = frozenset(entry.noun for entry in backwards)
    either = "|".join(re.escape(word) for word in sorted({*plurals, *names}, key=lambda word: (-len(word), word)))
    item = rf"(?:({numbers}) )?(?:(?:{sizes}) )?({either})"
    return re.compile(rf"{item}(?=, | and |$)"), plurals, names


def counts_said(text: str, atlas: Atlas) -> dict[str, int]:
    """Short name -> how many, as the first clause of a caption says; a noun without a number is one thing."""
    clause = text.strip()
    nouns = _nouns(atlas)
    # Names may hold the words that end the clause ("person in lotus position"): the longest clause that is all nouns.
    ends = [match.start() for match in _CLAUSE_END.finditer(clause)] + [len(clause)]
    for end in reversed(ends):
        found = _all_nouns(clause[:end].strip(), *nouns)
        if found:
            return found
    return {}


def _all_nouns(clause: str, pattern: re.Pattern[str], plurals: dict[str, str], names: frozenset[str]) -> dict[str, int]:
    """The counts that a clause tells; empty where anything else stands in it.

    A plural may be another thing's name: two houses are houses, while one "houses" is the drawing of a group of them.
    """
    counts: dict[str, int] = {}
    position = 0
    while position < len(clause):
        match = pattern.match(clause, position)
        if match is None:
            return {}
        number = _NUMBERS[match[1] or "a"]
        noun = match[2]
        if noun in plurals and (number > 1 or noun not in names):
            noun = plurals[noun]
        counts[noun] = counts.get(noun, 0) + number
        position = match.end()
        for link in (", ", " and "):
            if clause.startswith(link, position):
                position += len(link)
                break
    return counts


def background_said(text: str) -> str:
    """The colour of the plain background that a caption names; empty where it names none."""
    found = _BACKGROUND.search(text)
    return found.group(1) if found else ""


def tells_all(text: str, scene: Scene, atlas: Atlas) -> bool:
    """Whether a caption is the scene's full one, with the sizes of its things or without."""
    return same(text, (caption(scene, "full", atlas, sizes=sizes) for sizes in (True, False)))
