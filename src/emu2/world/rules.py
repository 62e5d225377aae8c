"""Family 2 of the episodes: two made-up words follow one hidden attribute, and the demonstrations alone say which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emu2.data.records import Record
from emu2.world.atlas import Emoji
from emu2.world.captions import NUMBERS
from emu2.world.compose import stand
from emu2.world.dice import Dice
from emu2.world.episodes import MADE_UP_WORDS, choice_of, draw_order, episode
from emu2.world.scene import Background, Scene
from emu2.world.studio import Studio

#: What the words may follow.
ATTRIBUTES = ("colour", "count", "position", "size", "group")

#: Rules tried until the split has scenes for one, and scenes until it may show one.
_ATTEMPTS = 100

#: Cells of each side of the picture, from end to end.
_SIDES = {
    "left": ("top left", "left", "bottom left"),
    "right": ("top right", "right", "bottom right"),
    "top": ("top left", "top", "top right"),
    "bottom": ("bottom left", "bottom", "bottom right"),
}


@dataclass(frozen=True)
class _Rule:
    """What an episode's pictures vary in: attribute -> its two values, and the one that the words follow.

    The values' order is random, and so are the words: neither says which word belongs to which value. alone: only that
    attribute varies.
    """

    hidden: str
    values: dict[str, tuple]
    groups: dict[str, list[Emoji]]
    alone: bool


def rule(studio: Studio, dice: Dice, key: str) -> Record:
    """Made-up words stand for the two values of one attribute of the pictures, anew in every episode.

    The pictures vary in background colour, count, side, size and kind of thing, each as often one way as the other and
    each for itself; only one of these decides the word. In episodes that are not `distracted` the others stay the
    same. With a `cast` an episode shows so many things of each kind, which come again: then its word can be told by
    the thing as well as by the kind. With `rounds` every two demonstrations show each word once. In episodes that are
    `spoken` the words are the values' own ("left", "right"). Half of these open with both ("left or right?"), which
    teaches what pictures vary in; half with nothing, so that whoever reads a picture has to keep all of it until words
    say what matters.
    `truth["ideal"]` says how right the best reader of the demonstrations is: 1, or 0 where they mislead, or 0.5 where
    they leave it open (without any always), so that its mean is the most that a model can reach.
    """
    groups = _cast(studio, Dice(key, "cast"))
    law = _draw_rule(studio, dice, groups, alone=not Dice(key, "distracted").chance(studio.config.distracted))
    words, spoken, opened = dice.sample(MADE_UP_WORDS, 2), Dice(key, "spoken"), True
    if spoken.chance(studio.config.spoken):
        words = [NUMBERS[value] if law.hidden == "count" else value for value in law.values[law.hidden]]
        opened = spoken.chance(0.5)

    def show(side: int) -> tuple[Scene, str, dict[str, int]]:
        scene, sides = _draw_scene(studio, dice, law, side)
        while not studio.allows(scene):
            scene, sides = _draw_scene(studio, dice, law, side)
        return scene, f"{words[side]}.", sides

    target = dice.below(2)
    query = show(target)
    shown = [show(side) for side in draw_order(studio, dice, key, 2)]
    truth = {
        "ways": 2,
        "label": words[target],
        "choices": [f"{word}." for word in words],
        "rule": law.hidden,
        "binding": dict(zip(words, law.values[law.hidden], strict=True)),
        "varied": {name: list(values) for name, values in law.values.items()},
        "chance": 0.5,
        "ideal": _ideal([(sides, sides[law.hidden]) for _, _, sides in shown], query[2], target),
    }
    opening = choice_of(words) if opened else ""
    return episode(studio, "rule", key, opening, [item[:2] for item in shown], query[:2], truth, whole=True)


def _cast(studio: Studio, dice: Dice) -> dict[str, list[Emoji]]:
    """Kind of thing -> those of it that this episode may show: all that there are, or the configuration's `cast`.

    In an episode that is `mingled` the kinds are two, of any things, and are called by their things' names.
    """
    most = studio.config.cast
    if most is None:
        return studio.kinds_of_things
    if dice.chance(studio.config.mingled):
        things = dice.sample(studio.pool, min(2 * most, len(studio.pool)))
        parts = (things[::2], things[1::2])
        return {" or ".join(thing.noun for thing in part): part for part in parts if part}
    return {kind: dice.sample(things, min(most, len(things))) for kind, things in studio.kinds_of_things.items()}


def _draw_rule(studio: Studio, dice: Dice, groups: dict[str, list[Emoji]], alone: bool) -> _Rule:
    """A rule of which the split has scenes on both sides."""
    for _ in range(_ATTEMPTS):
        law = _any_rule(studio, dice, groups, alone)
        if all(
            any(studio.allows(_draw_scene(studio, dice, law, side)[0]) for _ in range(_ATTEMPTS)) for side in (0, 1)
        ):
            return law
    raise ValueError(f"The split {studio.config.split!r} has too few scenes for any rule; allow more concepts.")


def check_rules(studio: Studio) -> None:
    """See that there is something for rules to follow.

    Raises:
        ValueError: the style with these concepts varies in none of the attributes that may decide.
    """
    kinds = studio.pool if studio.config.mingled == 1 else studio.kinds_of_things
    _may_decide(studio, _varied(studio, len(kinds)))


def _varied(studio: Studio, kinds: int) -> list[str]:
    """What pictures vary in: the style may give all things one size, and there may be one kind of thing only."""
    missing = {"size"} if studio.style.sizes else set()
    return [name for name in ATTRIBUTES if name not in missing and (name != "group" or kinds > 1)]


def _may_decide(studio: Studio, names: list[str]) -> list[str]:
    wanted = names if studio.config.deciding is None else studio.config.deciding
    found = [name for name in names if name in wanted]
    if not found:
        raise ValueError(
            f"Rules were to follow {' or '.join(wanted)} (deciding), but the style "
            f"{studio.config.style!r} with these concepts varies in {', '.join(names)} only. Choose among these."
        )
    return found


def _any_rule(studio: Studio, dice: Dice, groups: dict[str, list[Emoji]], alone: bool) -> _Rule:
    style, names = studio.style, _varied(studio, len(groups))
    hidden = dice.pick(_may_decide(studio, names))
    # three objects only fit side by side when all are small, so what varies in size has at most two
    if "size" in names and hidden != "size" and (hidden == "count" or dice.chance(0.5)):
        names.remove("size")
    most = 3 if "size" not in names and not style.sizes else 2
    sizes = style.sizes or (("small", "medium") if "size" in names else ("small",))
    values: dict[str, tuple] = {
        "colour": tuple(dice.sample(style.colours, 2)),
        "count": tuple(dice.sample(range(1, most + 1), 2)),
        "position": tuple(dice.shuffled(dice.pick((("left", "right"), ("top", "bottom"))))),
    }
    if "size" in names:
        values["size"] = tuple(dice.shuffled(sizes))
    if "group" in names:
        values["group"] = tuple(dice.sample(sorted(groups), 2))
    return _Rule(hidden, values, groups, alone)


def _draw_scene(studio: Studio, dice: Dice, law: _Rule, side: int) -> tuple[Scene, dict[str, int]]:
    """A scene on the given side of the rule, and on which side of every attribute it is."""
    sides = {name: side if name == law.hidden else 0 if law.alone else dice.below(2) for name in law.values}
    value = {name: values[sides[name]] for name, values in law.values.items()}
    concept = dice.pick(law.groups[value["group"]] if "group" in value else studio.pool)
    emoji = studio.variant(dice, concept)
    size = value.get("size") or (studio.style.sizes or ("small",))[0]
    cells = _cells(dice, value["position"], value["count"], studio.style.places)
    objects = [stand(dice, emoji, cell, size, studio.atlas, stray=studio.style.jitter) for cell in cells]
    if None in objects:
        raise AssertionError("small and medium objects stand in any cell")
    return Scene(tuple(item for item in objects if item), Background("plain", (value["colour"],))), sides


def _cells(dice: Dice, position: str, count: int, places: Sequence[str]) -> list[str]:
    """Cells on one side of the picture: any one, the two at its ends, or all three."""
    cells = [cell for cell in _SIDES[position] if cell in places]
    if count == 1:
        return [dice.pick(cells)]
    return [cells[0], cells[-1]] if count == 2 else cells


def _ideal(shown: list[tuple[dict[str, int], int]], query: dict[str, int], target: int) -> float:
    """How right the best reader of the demonstrations is: one that knows the attributes, all of them equally likely."""
    votes = [0, 0]
    for name, asked in query.items():
        agree = [sides[name] == word for sides, word in shown]
        if all(agree):
            votes[asked] += 1
        if not any(agree):  # the same attribute, its values bound to the words the other way round
            votes[1 - asked] += 1
    return 0.5 if votes[0] == votes[1] else float(votes[target] > votes[1 - target])
