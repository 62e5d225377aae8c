"""Scenes in words. Few wordings, and regular ones, so that a small model learns them in minutes."""

from __future__ import annotations

from collections.abc import Sequence

from emu2.world.atlas import Atlas, Emoji
from emu2.world.scene import Scene, SceneObject

#: What a caption tells: objects; objects and background; objects and places; everything.
WORDINGS = ("name", "background", "place", "full")

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def is_plural(words: str) -> bool:
    """Whether a noun phrase is a plural already: "chopsticks", "people with bunny ears"."""
    head = words.split(" with ")[0].split(" of ")[0]
    return head.startswith("people") or (head.endswith("s") and not head.endswith(("ss", "us")))


def be(noun: str) -> str:
    """ "is", or "are" after a plural."""
    return "are" if is_plural(noun) else "is"


def does(noun: str, verb: str) -> str:
    """The verb in the form that the noun asks for: "comes", or "come" after a plural."""
    if is_plural(noun):
        return verb
    return f"{verb}es" if verb.endswith("o") else f"{verb}s"


def with_article(words: str) -> str:
    """ "apple" -> "an apple"; "chopsticks", a plural, stays as it is."""
    if is_plural(words):
        return words
    silent = words.lower().startswith(("uni", "us ", "eu", "one"))  # a unicorn, a one o'clock
    return f"{'an' if words[:1].lower() in tuple('aeiou') and not silent else 'a'} {words}"


def counted(emoji: Emoji, count: int, adjective: str = "") -> str:
    """ "a dog", "two dogs", "no dogs"; with an adjective: "a small dog", "two small dogs"."""
    prefix = f"{adjective} " if adjective else ""
    if count == 1:
        return with_article(prefix + emoji.noun)
    return f"{NUMBERS[count]} {prefix}{emoji.plural}"


def joined(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def at(place: str) -> str:
    """ "at the top left", "in the center"."""
    return "in the center" if place == "center" else f"at the {place}"


def _common_size(items: Sequence[SceneObject]) -> str:
    """The size that all of the objects share, as an adjective; "medium" goes without saying."""
    sizes = {item.size for item in items}
    size = sizes.pop() if len(sizes) == 1 else ""
    return "" if size == "medium" else size


def caption(scene: Scene, wording: str, atlas: Atlas, sizes: bool = False) -> str:
    """The caption of a scene; the same scene and wording give the same words.

    wording: one of WORDINGS. sizes: also says which objects are small or large (in the wording "full").

    Raises:
        ValueError: unknown wording.
    """
    if wording not in WORDINGS:
        raise ValueError(f"There is no caption wording {wording!r}; choose one of {', '.join(WORDINGS)}.")
    groups = scene.groups()
    objects = joined(
        [
            counted(atlas[emoji], len(items), _common_size(items) if sizes and wording == "full" else "")
            for emoji, items in groups
        ]
    )
    background = f" on {scene.background.text}" if wording in ("background", "full") else ""
    if wording not in ("place", "full"):
        return objects + background
    if len(scene.objects) == 1:
        return f"{objects} {at(scene.objects[0].place)}{background}"
    clauses = []
    for emoji, items in groups:
        places = joined([at(item.place) for item in items])
        if len(items) == 1:
            clauses.append(f"the {atlas[emoji].noun} {be(atlas[emoji].noun)} {places}")
        elif len(items) <= 3:
            clauses.append(f"the {atlas[emoji].plural} are {places}")
    if wording == "place" and clauses:  # one place is enough to make the wording exact about something
        clauses = clauses[-1:]
    return "; ".join([objects + background, *clauses])


def sentence(words: str) -> str:
    """The words with a capital at the front."""
    return words[:1].upper() + words[1:]
