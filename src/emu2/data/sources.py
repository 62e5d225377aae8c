"""Where records come from, behind one small interface: a finite or endless table of records by index.

A source is a pure function of its index, so any worker can read any record and a position is one integer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from emu2.data.records import Record


@runtime_checkable
class Source(Protocol):
    """`source[index]` for any index from 0; `size` is the number of different records, None when there is no end."""

    size: int | None

    def __getitem__(self, index: int) -> Record: ...


class EndlessSource:
    """Records made on demand by a function of the index, such as one kind of the emoji world."""

    size: int | None = None

    def __init__(self, make: Callable[[int], Record]):
        self._make = make

    def __getitem__(self, index: int) -> Record:
        return self._make(index)


class ListSource:
    """Records that are already in memory."""

    def __init__(self, records: Sequence[Record]):
        if not records:
            raise ValueError("A list source needs at least one record; got none.")
        self._records = list(records)
        self.size: int | None = len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._records[index]


class PooledSource:
    """The first `size` records of another source, kept in memory once made.

    Frozen features are kept by record key, so a small pool lets a stage compute each of them once.
    """

    def __init__(self, source: Source, size: int):
        if size < 1:
            raise ValueError(f"A pool holds at least one record; got size={size}.")
        self.size: int | None = size if source.size is None else min(size, source.size)
        self._source = source
        self._kept: dict[int, Record] = {}

    def __getitem__(self, index: int) -> Record:
        if index not in self._kept:
            self._kept[index] = self._source[index]
        return self._kept[index]
