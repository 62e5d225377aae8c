"""The generator: any record of any kind, a pure function of (seed, split, kind, index)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from emu2.data.records import Record
from emu2.world.atlas import Atlas, default_atlas
from emu2.world.captions import WORDINGS
from emu2.world.chat import QUESTIONS, USUAL_QUESTIONS, chat
from emu2.world.compose import STYLES
from emu2.world.dice import Dice
from emu2.world.drawing import drawing
from emu2.world.edits import edit
from emu2.world.episodes import counting, naming
from emu2.world.films import storyboard, video_pair
from emu2.world.generation import composition, grounded_generation
from emu2.world.grounded import grounded_pair
from emu2.world.plain import pair, text_to_image
from emu2.world.rules import ATTRIBUTES, check_rules, rule
from emu2.world.splits import SPLITS
from emu2.world.stories import document
from emu2.world.studio import Studio
from emu2.world.text import text
from emu2.world.tuples import tuple_of, visual_prompt

#: Kind of record -> the function that makes one.
KINDS: dict[str, Callable[[Studio, Dice, str], Record]] = {
    "pair": pair,
    "document": document,
    "text": text,
    "text_to_image": text_to_image,
    "naming": naming,
    "counting": counting,
    "video_pair": video_pair,
    "storyboard": storyboard,
    "grounded_pair": grounded_pair,
    "chat": chat,
    "rule": rule,
    "tuple": tuple_of,
    "visual_prompt": visual_prompt,
    "drawing": drawing,
    "grounded_generation": grounded_generation,
    "composition": composition,
    "edit": edit,
}

#: Concepts that a kind needs at least; naming needs as many as it has ways.
_NEEDS = {"text": 2, "chat": 4, "tuple": 2, "visual_prompt": 2, "drawing": 2, "edit": 2}


@dataclass(frozen=True)
class WorldConfig:
    """What a world shows.

    image_size: side of the pictures in pixels, 16 to 1024.
    kinds: kind -> weight in the mixture, or names of kinds that come up equally often.
    split: "train"; "seen" (training's concepts in scenes that training never shows); "val" or "held" (other concepts).
    seed: another seed gives other records.
    concepts: `None` = all of the split's; n = the first n everyday ones of the split, or all it has if it has fewer; or
        a list of names.
    style: "corners" (plain backgrounds, up to 4 objects of 2 kinds in the corners, all of one size), "crowded" (the
        same with another thing in every corner, where no other number is asked for), "simple" (plain
        backgrounds, 3 x 3 grid, up to 4 objects of 2 kinds) or "full" (all backgrounds, free places, tilts, up to 6
        objects of 3 kinds).
    wording: `None` = a mixture of caption wordings, or one of them: "name", "background", "place", "full".
    gallery: scenes of one thing that episodes show are among so many for each thing, so that its pictures come round
        and what a frozen tower makes of them can be kept; `None` = drawn afresh every time.
    variants: whether skin tone, hair and gender variants stand in for the plain form of their concept.
    shots: numbers of demonstrations that episodes choose from. ways: numbers of words that naming episodes choose from.
    rounds: whether every run of as many demonstrations as there are words shows each word once. Else any word comes at
        any time, and the order tells nothing: who learns from rounds learns to count them, and says after one
        demonstration that the next is another word.
    distracted: share of rule episodes, 0 to 1, in which attributes that do not decide the word vary as well.
    spoken: share of rule episodes, 0 to 1, whose words are the values' own ("left", "right") instead of made up.
    cast: things of each kind that one rule episode shows, drawn for every episode anew; `None` = any there are. Where
        there are few (of 20 held concepts two animals and two plants), episodes are like those with a cast of two.
    mingled: share of rule episodes with a cast, 0 to 1, whose kinds are made up: things of any kind thrown together, so
        that a thing's word is told by the pictures that showed it before, and by nothing known of it.
    deciding: attributes that rules may follow ("group"), of those in `emu2.world.rules.ATTRIBUTES`; `None` = any.
    max_pages: pictures in a document or storyboard at most, 2 to 8 (a storyboard has 3 at least).
    frames: numbers of frames that clips choose from, 2 to 64.
    questions: kind of question -> weight in chat records, or names of kinds that come up equally often; all but
        quizzes, unless named.
    told: share of text records, 0 to 1, that are few-shot episodes with every picture told in words.
    echoed: share of the other text records, 0 to 1, that say made-up words again, and of naming episodes in which a
        word's pictures are all the same one.
    """

    image_size: int = 64
    kinds: Mapping[str, float] | Sequence[str] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))
    split: str = "train"
    seed: int = 0
    concepts: int | Sequence[str] | None = None
    style: str = "full"
    wording: str | None = None
    gallery: int | None = None
    variants: bool = False
    shots: Sequence[int] = (0, 1, 2, 4, 8, 16)
    ways: Sequence[int] = (2, 4)
    rounds: bool = True
    distracted: float = 1.0
    spoken: float = 0.0
    cast: int | None = None
    mingled: float = 0.0
    deciding: Sequence[str] | None = None
    max_pages: int = 8
    frames: Sequence[int] = (8, 12, 16)
    questions: Mapping[str, float] | Sequence[str] = USUAL_QUESTIONS
    told: float = 0.0
    echoed: float = 0.0

    def __post_init__(self) -> None:
        def check(fine: bool, name: str, expected: str) -> None:
            if not fine:
                raise ValueError(f"WorldConfig: {name} must be {expected}; got {getattr(self, name)!r}.")

        for name, what, known in (("kinds", "kind", KINDS), ("questions", "kind of question", QUESTIONS)):
            check(isinstance(getattr(self, name), Mapping | Sequence), name, "names, or names with weights")
            weights = _as_weights(getattr(self, name))
            object.__setattr__(self, name, weights)
            unknown = [key for key in weights if key not in known]
            if unknown:
                raise ValueError(f"WorldConfig: there is no {what} {unknown[0]!r}; choose from {', '.join(known)}.")
            fine = all(isinstance(weight, int | float) and weight >= 0 for weight in weights.values())
            check(fine and any(weights.values()), name, "weights, not all of them 0")
        check(_within(self.image_size, 16, 1024), "image_size", "from 16 to 1024 pixels")
        check(self.split in SPLITS, "split", f"one of {', '.join(SPLITS)}")
        check(self.style in STYLES, "style", f"one of {', '.join(STYLES)}")
        check(self.wording is None or self.wording in WORDINGS, "wording", f"None or one of {', '.join(WORDINGS)}")
        check(self.gallery is None or _within(self.gallery, 1), "gallery", "None or at least 1")
        check(self.cast is None or _within(self.cast, 1), "cast", "None or at least 1")
        named = isinstance(self.deciding, Sequence) and bool(self.deciding) and set(self.deciding) <= set(ATTRIBUTES)
        check(self.deciding is None or named, "deciding", f"None or names out of {', '.join(ATTRIBUTES)}")
        check(_within(self.max_pages, 2, 8), "max_pages", "from 2 to 8")
        for name, least, most in (("shots", 0, 64), ("ways", 2, 8), ("frames", 2, 64)):
            given = getattr(self, name)
            fine = isinstance(given, Sequence) and bool(given) and all(_within(number, least, most) for number in given)
            check(fine, name, f"numbers from {least} to {most}")
        for name in ("rounds", "variants"):
            check(isinstance(getattr(self, name), bool), name, "true or false")
        for name in ("distracted", "spoken", "mingled", "told", "echoed"):
            share = getattr(self, name)
            check(isinstance(share, int | float) and 0 <= share <= 1, name, "a share from 0 to 1")
        check(not self.mingled or self.cast is not None, "mingled", "0 without a cast (set cast, too)")

    @property
    def weights(self) -> dict[str, float]:
        """Kind -> weight."""
        return _as_weights(self.kinds)

    @property
    def question_weights(self) -> dict[str, float]:
        """Kind of question -> weight."""
        return _as_weights(self.questions)


def _within(number: object, least: int, most: float = math.inf) -> bool:
    return isinstance(number, int) and least <= number <= most


def _as_weights(given: Mapping[str, float] | Sequence[str]) -> dict[str, float]:
    """Names without weights weigh the same."""
    if isinstance(given, Mapping):
        return dict(given)
    return dict.fromkeys((given,) if isinstance(given, str) else given, 1.0)


class World:
    """All records of a configuration; they go on for ever.

    `world.record(kind, index)` (or `world[kind, index]`) is one record; `world[index]` and `world.stream()` mix the
    kinds by weight.

    Raises:
        ValueError: the configuration asks for concepts or kinds that its split cannot give.
    """

    def __init__(self, config: WorldConfig | None = None, atlas: Atlas | None = None) -> None:
        self.config = config or WorldConfig()
        self.studio = Studio(self.config, atlas or default_atlas())
        weights = {kind: weight for kind, weight in self.config.weights.items() if weight > 0}
        self._kinds = tuple(weights)
        self._cumulative = tuple(accumulate(weights.values()))
        for kind in self._kinds:
            self._check_pool(kind)
        if "rule" in self._kinds:
            check_rules(self.studio)

    def _check_pool(self, kind: str) -> None:
        needed = max(self.config.ways) if kind == "naming" else _NEEDS.get(kind, 1)
        if len(self.studio.pool) < needed:
            raise ValueError(
                f"Records of the kind {kind!r} need {needed} different concepts, but the split {self.config.split!r} "
                f"has only {len(self.studio.pool)} of concepts={self.config.concepts!r}. Allow more concepts or leave "
                "out this kind."
            )

    def record(self, kind: str, index: int) -> Record:
        """Record number `index` (from 0) of a kind, a pure function of (seed, split, kind, index).

        Raises:
            ValueError: unknown kind, negative index, or too few concepts for the kind.
        """
        if kind not in KINDS:
            raise ValueError(f"There is no kind {kind!r}; choose from {', '.join(KINDS)}.")
        if index < 0:
            raise ValueError(f"Records are numbered from 0; got {index}.")
        self._check_pool(kind)
        key = f"{self.config.seed}-{self.config.split}-{kind}-{index:09d}"
        return KINDS[kind](self.studio, Dice("emu2 world", key), key)

    def __getitem__(self, index: int | tuple[str, int]) -> Record:
        if isinstance(index, tuple):
            return self.record(*index)
        if index < 0:
            raise ValueError(f"Records are numbered from 0; got {index}.")
        dice = Dice("emu2 world mixture", self.config.seed, self.config.split, index)
        return self.record(dice.weighted(self._kinds, self._cumulative), index)

    def stream(self, start: int = 0) -> Iterator[Record]:
        """`self[start]`, `self[start + 1]`, ... without end. To resume, start at the number of records taken."""
        while True:
            yield self[start]
            start += 1
