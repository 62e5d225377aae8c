"""Several sources of one kind as one, such as the academic tasks that a chat model learns."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from emu2.data.records import Record
from emu2.data.sources import Source


class JoinedSource:
    """Records of the first source, then of the next; a mixture shuffles them all."""

    def __init__(self, sources: Sequence[Source]):
        if not sources:
            raise ValueError("The format 'several' needs sources: a list of at least one.")
        self._sources = list(sources)
        self._ends = list(accumulate(source.size or 0 for source in sources))
        self.size: int | None = self._ends[-1]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"The source has records 0 to {len(self) - 1}; asked for {index}.")
        number = bisect.bisect_right(self._ends, index)
        record = self._sources[number][index - (self._ends[number - 1] if number else 0)]
        return replace(record, key=f"{number}/{record.key}")

    def fingerprint(self) -> str:
        return "; ".join(source.fingerprint() for source in self._sources)
