"""Pictures and clips that annotation files name: in folders, or in tars where they are found by name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from emu2.data.readers.config import SourceConfig
from emu2.data.readers.files import (
    base_name,
    find,
    fingerprint,
    is_file,
    is_folder,
    open_file,
    read_bytes,
    read_range,
    subfolders,
    top_names,
)
from emu2.data.readers.index_cache import cached_index
from emu2.data.readers.samples import IMAGE_SUFFIXES, clip, picture
from emu2.data.readers.tars import members
from emu2.data.sources import BadSampleError
from emu2.processing.video import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from PIL import Image

    from emu2.processing.video import Video

_THREADS = 8
_SHOWN = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}
#: Fields of a sample's metadata by which its picture may be asked for (img2dataset keeps them of its input).
_NAMING_FIELDS = ("url", "image_name", "raw_url")


class Pictures:
    """Files by name.

    Args:
        config: `images` are folders, in which and one level below which names are looked up, or tars; with none, names
            are relative to `beside`.
        beside: folder of the annotation file.

    Raises:
        ValueError: a folder or tar that is not there.
    """

    def __init__(self, config: SourceConfig, beside: str):
        self._config = config
        self._folders: list[str] = []
        self._below: list[str] = []
        tars: list[str] = []
        for path in config.images or (beside or ".",):
            if is_folder(path) and not (config.images and _holds_tars(path)):
                self._folders.append(path.rstrip("/"))
                self._below += subfolders(path) if config.images else []
            else:
                tars += find([path], (".tar",), "folder of pictures and no tars")
        self._tars = tars
        with ThreadPoolExecutor(_THREADS) as pool:
            build = partial(cached_index, label="tar-names", build=index_names, cache=config.cache)
            tables = list(pool.map(build, tars))
        shard = np.repeat(np.arange(len(tables), dtype=np.int64), [len(table) for table in tables])
        table = np.concatenate([*tables, np.empty((0, 3), np.int64)])
        order = np.argsort(table[:, 0], kind="stable")
        self._names, self._places = table[order, 0], np.column_stack((shard, table[:, 1:]))[order]

    def listing(self) -> str:
        """Of the tars; folders are not walked through."""
        return fingerprint("pictures", self._tars) if self._tars else ""

    def image(self, names: Sequence[str], where: str, *, see_through: bool = False) -> Image.Image:
        """The picture by the first of `names` that is there: RGB, or with `see_through` RGBA where it has an alpha.

        Raises:
            BadSampleError: it is missing or broken.
        """
        data = self.read(names, where)
        return picture(data, self._config, f"{where}, {names[0]}", see_through=see_through)

    def clip(self, names: Sequence[str], where: str) -> Video:
        """Likewise a clip."""
        return clip(self.read(names, where, what="clip"), self._config, f"{where}, {names[0]}")

    def read(self, names: Sequence[str], where: str, what: str = "picture") -> bytes:
        """Bytes of the first of `names` that is there."""
        found = self._find(names)
        if found is None:
            places = ", ".join([*self._folders, *self._tars[:2]]) + (", ..." if len(self._tars) > 2 else "")
            raise BadSampleError(f"missing {what}", f"{where}: no {' or '.join(names[:2])} in {places}")
        path, start, size = found
        data = read_bytes(path) if size < 0 else read_range(path, start, size)
        if len(data) < size:
            raise BadSampleError("truncated tar member", f"{where}: {names[0]} in {path}")
        return data

    def has(self, names: Sequence[str]) -> bool:
        return self._find(names) is not None

    def _find(self, names: Sequence[str]) -> tuple[str, int, int] | None:
        """(path, start, size); a size of -1 is the whole file."""
        for name in names:
            if "://" in name:  # nothing is fetched from addresses that annotations name; they are only looked up
                found = self._in_tars(name, alone=False)
            else:
                found = self._in_folders(name) or self._in_tars(name) or self._in_tars(base_name(name))
            if found is not None:
                return found
        return None

    def _in_folders(self, name: str) -> tuple[str, int, int] | None:
        # Without its own folders a name is only looked up where the source says: elsewhere it may be another's.
        paths = [_joined(folder, one) for one in dict.fromkeys((name, base_name(name))) for folder in self._folders]
        found = [next((path for path in paths if is_file(path)), None)]
        if found == [None]:
            found = [path for folder in self._below if is_file(path := _joined(folder, name))]
        return (found[0], 0, -1) if len(found) == 1 and found[0] is not None else None

    def _in_tars(self, name: str, *, alone: bool = True) -> tuple[str, int, int] | None:
        """`alone`: a name that several files share means none of them."""
        number = _number(name)
        first = int(np.searchsorted(self._names, number, side="left"))
        count = int(np.searchsorted(self._names, number, side="right")) - first
        if count == 0 or (alone and count > 1):
            return None
        shard, start, size = map(int, self._places[first])
        return self._tars[shard], start, size


def index_names(path: str) -> np.ndarray:
    """int64[N, 3]: number of a name, first byte and size of the file it means; a file has several names: its path in
    the tar, its base name, and those in its sample's metadata."""
    rows: list[tuple[int, int, int]] = []
    with open_file(path) as file:
        # Of the sample that is being read: its picture and its metadata, which come in either order.
        stem, shown, metadata = "", None, None
        for member in members(path, file):
            if not member.isreg():
                continue
            place = (member.offset_data, member.size)
            own_stem, suffix = os.path.splitext(member.name)
            if own_stem != stem:
                stem, shown, metadata = own_stem, None, None
            if suffix.lower() in _SHOWN:
                shown = place
                names = dict.fromkeys((member.name, base_name(member.name)))
                rows += [(_number(name), *place) for name in names]
            elif suffix.lower() == ".json":
                metadata = place
            if shown and metadata:
                rows += [(_number(name), *shown) for name in _other_names(path, *metadata)]
                metadata = None
    return np.asarray(rows, dtype=np.int64).reshape(-1, 3)


def _other_names(path: str, start: int, size: int) -> Iterator[str]:
    try:
        metadata = json.loads(read_range(path, start, size))
    except ValueError:
        return
    if isinstance(metadata, dict):
        yield from (metadata[field] for field in _NAMING_FIELDS if isinstance(metadata.get(field), str))


def _number(name: str) -> int:
    """A 64-bit number for a name: two of ten million names share one with a chance below one in 100,000."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def _joined(folder: str, name: str) -> str:
    return name if os.path.isabs(name) else f"{folder}/{name}"


def _holds_tars(path: str) -> bool:
    return any(name.endswith(".tar") for name in top_names(path))
