"""Reads the records a mixture has chosen and makes them ready, setting bad ones aside by cause."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import UnidentifiedImageError

from emu2.data.mixture import Address
from emu2.data.records import Record
from emu2.data.sources import Source

#: What a damaged or unfit sample raises. Anything else is a fault of the program and is not swallowed.
BAD_SAMPLE_ERRORS = (ValueError, OSError, EOFError, UnicodeError, UnidentifiedImageError)


class Loader:
    """Records of given addresses, made ready by `sample`.

    Args:
        sources: kind -> source.
        sample: makes one record ready; its second argument is the record's own chance, a function of the seed and of
            the record's place in the run, so it does not matter who reads it, and when.
        seed: of those chances.
    """

    def __init__(self, sources: Mapping[str, Source], sample: Callable[[Record, random.Random], Any], *, seed: int = 0):
        self._sources, self._sample, self._seed = sources, sample, seed

    def read(self, addresses: Sequence[Address], place: tuple[Any, ...]) -> tuple[list[Any], list[str], Counter[str]]:
        """Samples and keys of the records that could be read, and how many could not, by cause.

        Args:
            addresses: which records.
            place: of this micro-batch in the run.
        """
        samples, keys, bad = [], [], Counter[str]()
        for number, (kind, index) in enumerate(addresses):
            chance = random.Random("/".join(map(str, ("sample", self._seed, *place, number))))
            try:
                record = self._sources[kind][index]
                samples.append(self._sample(record, chance))
            except BAD_SAMPLE_ERRORS as error:
                bad[f"{kind}: {type(error).__name__}: {error}"] += 1
            else:
                keys.append(record.key)
        return samples, keys, bad
