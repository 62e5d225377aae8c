"""Where records come from, behind one small interface: a finite or endless table of records by index.

A source is a pure function of its index, so any worker can read any record and a position is one integer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from emu2.data.records import Record


class BadSampleError(ValueError):
    """One damaged or unfit sample, set aside and counted by its cause.

    cause: a few words, the same for every sample with this trouble. detail: which sample, and what exactly.
    """

    def __init__(self, cause: str, detail: str = ""):
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause, self.detail = cause, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.cause, self.detail)


@runtime_checkable
class Source(Protocol):
    """`source[index]` for any index from 0; `size` is the number of different records, None when there is no end.

    `fingerprint()` changes when the list of records does: a run that is resumed compares it with its checkpoint's.
    """

    size: int | None

    def __getitem__(self, index: int) -> Record: ...

    def fingerprint(self) -> str: ...


class EndlessSource:
    """Records made on demand by a function of the index, such as one kind of the emoji world.

    Args:
        make: the function.
        name: tells it from other functions; the fingerprint.
    """

    size: int | None = None

    def __init__(self, make: Callable[[int], Record], name: str = "endless"):
        self._make, self._name = make, name

    def __getitem__(self, index: int) -> Record:
        return self._make(index)

    def fingerprint(self) -> str:
        return self._name


class ListSource:
    """Records that are already in memory."""

    def __init__(self, records: Sequence[Record]):
        if not records:
            raise ValueError("A list source needs at least one record; got none.")
        self._records = list(records)
        self.size: int | None = len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._records[index]

    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(record.key for record in self._records).encode()).hexdigest()[:32]


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

    def fingerprint(self) -> str:
        return f"{self.size} of {self._source.fingerprint()}"
