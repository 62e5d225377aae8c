"""WebDataset tars with random access: samples are runs of members with one base name.

Each tar is walked through once; its index, where every sample begins and ends, is kept in a cache folder. A sample is
then one read of a range of bytes.
"""

from __future__ import annotations

import bisect
import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import IO

import numpy as np

from emu2.data.readers.files import find, fingerprint, open_file, read_range, short_names, size_of
from emu2.data.readers.index_cache import cached_index
from emu2.data.sources import BadSampleError

#: WebDataset's rule: a sample's key is the path up to the first dot of the file name, the rest is the field.
_NAME = re.compile(r"^((?:.*/)?[^/.]+)\.([^/]*)$")
_TAR_BLOCK = 512
#: Tars indexed at the same time; the work is waiting for disks and networks.
_THREADS = 8
#: First bytes of compressed files, in which nothing can be found by its position.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}


@dataclass(frozen=True)
class TarSample:
    """key: unique within the source. fields: what follows the first dot of each member's name, in small letters -> the
    member's bytes. shard: the tar's path."""

    key: str
    fields: dict[str, bytes]
    shard: str


class TarShards:
    """Samples of many tars by index.

    Args:
        paths: tars, folders of tars, globs, brace ranges, URLs.
        cache: folder for the indices.

    Raises:
        ValueError: no tars, or one that is compressed or not a tar.
    """

    def __init__(self, paths: Sequence[str], cache: str | None = None):
        self.paths = find(paths, (".tar",), "tars")
        self._names = short_names(self.paths)
        with ThreadPoolExecutor(_THREADS) as pool:
            build = partial(cached_index, label="tar-samples", build=index_samples, cache=cache)
            self._indices = list(pool.map(build, self.paths))
        self._ends = list(accumulate(len(index) for index in self._indices))
        if not self._ends[-1]:
            raise ValueError(f"No data found: the tars {', '.join(paths)} hold no samples (files with endings).")

    def __len__(self) -> int:
        return self._ends[-1]

    def fingerprint(self, label: str) -> str:
        return fingerprint(label, self.paths, [len(index) for index in self._indices])

    def __getitem__(self, index: int) -> TarSample:
        """Raises: BadSampleError: the tar is damaged here."""
        shard = bisect.bisect_right(self._ends, index)
        path = self.paths[shard]
        place = index - (self._ends[shard - 1] if shard else 0)
        start, end = map(int, self._indices[shard][place])
        if end < 0:
            raise BadSampleError("corrupt tar member", f"{path} is damaged at byte {start}")
        data = read_range(path, start, end - start)
        fields: dict[str, bytes] = {}
        key = ""
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
                for member in tar:
                    match = _NAME.match(member.name)
                    if not member.isreg() or not match:
                        continue
                    key = match[1]
                    if member.offset_data + member.size > len(data):
                        raise BadSampleError("truncated tar member", f"{member.name} in {path}")
                    fields[match[2].lower()] = data[member.offset_data : member.offset_data + member.size]
        except tarfile.TarError as error:
            raise BadSampleError("corrupt tar member", f"{path} at byte {start}: {error}") from error
        return TarSample(f"{self._names[shard].removesuffix('.tar')}/{key}", fields, path)


def index_samples(path: str) -> np.ndarray:
    """int64[N, 2]: first byte of each sample and the byte after its last; -1 as the end marks a damaged place.

    Raises:
        ValueError: the file is empty, compressed, or not a tar.
    """
    samples: list[tuple[int, int]] = []
    previous, covered = None, 0
    with open_file(path) as file:
        for member in members(path, file):
            if member.offset > covered and _is_damage(file, covered, member.offset):
                samples.append((covered, -1))
                previous = None
            end = member.offset_data + -(-member.size // _TAR_BLOCK) * _TAR_BLOCK
            covered = end
            match = _NAME.match(member.name)
            if not member.isreg() or not match:
                continue  # folders and hidden files may stand between the members of a sample
            if match[1] == previous:
                samples[-1] = (samples[-1][0], end)
            else:
                samples.append((member.offset, end))
            previous = match[1]
        total = size_of(path)
        if not covered:
            raise ValueError(f"{path} is not a tar: it has no file headers.")
        if total > covered and _is_damage(file, covered, total):
            samples.append((covered, -1))
    return np.asarray(samples, dtype=np.int64).reshape(-1, 2)


def members(path: str, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Every member of a tar that can still be found, beyond damaged places too."""
    head = file.read(2)
    file.seek(0)
    if head in _COMPRESSED:
        form = _COMPRESSED[head]
        raise ValueError(f"{path} is compressed ({form}): samples are read by position, so unpack it first.")
    try:
        # With ignore_zeros tarfile looks for the next good header instead of ending quietly at a broken one.
        with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it keeps all of them, and nobody asks
                yield member
    except tarfile.ReadError as error:
        if file.tell() <= _TAR_BLOCK:
            raise ValueError(f"{path} is not a tar: {error}.") from error
        # The last member reaches beyond the end: reading it will say so.


def _is_damage(file: IO[bytes], start: int, end: int) -> bool:
    """Whether the bytes between two members are anything but zeros. The place in the file is kept."""
    place = file.tell()
    file.seek(start)
    found = False
    while start < end and not found:
        part = file.read(min(end - start, 1 << 20))
        if not part:
            break
        found = any(part)
        start += len(part)
    file.seek(place)
    return found
