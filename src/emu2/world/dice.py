"""Seeded random choices that stay the same over Python versions."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Random choices, a pure function of the seed parts.

    Python promises that `random.Random.random()` gives the same numbers in every version, but not how `choice`,
    `shuffle` and `sample` use them; so those are built here on `random()` alone.
    """

    def __init__(self, *seed: object) -> None:
        self._random = random.Random("/".join(str(part) for part in seed)).random

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random() < probability

    def below(self, count: int) -> int:
        """A whole number from 0 to `count` - 1."""
        return int(self._random() * count)

    def between(self, low: float, high: float) -> float:
        """A real number in [low, high)."""
        return low + (high - low) * self._random()

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, each equally likely."""
        return items[int(self._random() * len(items))]

    def weighted(self, items: Sequence[T], cumulative: Sequence[float]) -> T:
        """One of the items; `cumulative` holds the running sums of their weights."""
        position = self._random() * cumulative[-1]
        for item, bound in zip(items, cumulative, strict=True):
            if position < bound:
                return item
        return items[-1]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order."""
        if count > len(items):
            raise ValueError(f"{count} different items were asked for, out of {len(items)}.")
        if count * 4 < len(items):  # few out of many: draw again instead of copying the list
            taken: dict[int, None] = {}
            while len(taken) < count:
                taken[int(self._random() * len(items))] = None
            return [items[position] for position in taken]
        pool = list(items)
        for position in range(count):
            other = position + int(self._random() * (len(pool) - position))
            pool[position], pool[other] = pool[other], pool[position]
        return pool[:count]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order."""
        return self.sample(items, len(items)) if items else []
