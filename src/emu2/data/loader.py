"""Reads the records a mixture has chosen and makes them ready, setting bad ones aside by cause."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import UnidentifiedImageError

from emu2.data.mixture import Address
from emu2.data.records import Record
from emu2.data.sources import BadSampleError, Source

#: What a damaged or unfit sample raises. Anything else is a fault of the program and is not swallowed.
BAD_SAMPLE_ERRORS = (ValueError, OSError, EOFError, UnicodeError, UnidentifiedImageError)
#: Parts of a message that differ from one sample to the next: what is quoted, paths, and numbers.
_OWN = re.compile(r"'[^']*'|\"[^\"]*\"|(?:/[^\s:,]+){2,}|0x[0-9a-f]+")
_NUMBER = re.compile(r"\d+(?:[.x]\d+)*")
_CAUSE_LENGTH = 160


@dataclass
class Samples:
    """The records of one micro-batch that could be read.

    samples, keys, seeds: one each; a seed is its record's own, for what is drawn later (`emu2.train.chance`).
    bad: how many could not be read, by cause. examples: one whole message per cause.
    """

    samples: list[Any] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    bad: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


def cause_of(kind: str, error: BaseException) -> str:
    """What is wrong with a sample, without the names and numbers that are its own: equal for all that share it."""
    if isinstance(error, BadSampleError):
        return f"{kind}: {error.cause}"
    message = _NUMBER.sub("N", _OWN.sub("...", str(error)))
    return f"{kind}: {type(error).__name__}: {message[:_CAUSE_LENGTH]}"


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

    def read(self, addresses: Sequence[Address], place: tuple[Any, ...], first: int = 0) -> Samples:
        """The samples at `addresses`.

        Args:
            addresses: which records.
            place: of this micro-batch in the run.
            first: position of the first address in the micro-batch, of which a rank may read a slice.
        """
        read = Samples()
        for number, (kind, index) in enumerate(addresses, first):
            path = "/".join(map(str, (self._seed, *place, number)))
            try:
                record = self._sources[kind][index]
                sample = self._sample(record, random.Random(f"sample/{path}"))
            except BAD_SAMPLE_ERRORS as error:
                cause = cause_of(kind, error)
                read.bad[cause] += 1
                read.examples.setdefault(cause, str(error))
            else:
                read.samples.append(sample)
                read.keys.append(record.key)
                read.seeds.append(random.Random(f"noise/{path}").getrandbits(63))
        return read
