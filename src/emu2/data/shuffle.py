"""Seeded orders of a table's rows: one at a time, so that a position in one is an integer."""

from __future__ import annotations

import random

#: Up to this many rows an order is a list; beyond it, a permutation that is computed row by row and takes no memory.
_LIST_ROWS = 1 << 20
_ROUNDS = 6
_MASK = (1 << 64) - 1


class Order:
    """`order[place]` is a row, for places 0 to `size` - 1; every row comes once.

    Args:
        size: number of rows.
        seed: of the order; equal seeds give equal orders on every machine.
    """

    def __init__(self, size: int, seed: str):
        self.size = size
        chance = random.Random(seed)
        self._rows: list[int] | None = None
        if size <= _LIST_ROWS:
            self._rows = list(range(size))
            chance.shuffle(self._rows)
        self._half = ((size - 1).bit_length() + 1) // 2
        self._keys = [chance.getrandbits(64) for _ in range(_ROUNDS)]

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.size:
            raise IndexError(place)
        if self._rows is not None:
            return self._rows[place]
        # A Feistel network permutes the smallest square power of two that holds all rows; where it leaves them, it is
        # followed on (at most four times on average) until it comes back.
        row = self._network(place)
        while row >= self.size:
            row = self._network(row)
        return row

    def _network(self, value: int) -> int:
        low = (1 << self._half) - 1
        left, right = value >> self._half, value & low
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & low)
        return (left << self._half) | right


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of the input reaches every bit of the output."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
