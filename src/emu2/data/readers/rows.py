"""Tables of JSON values by index: JSON lines with random access, JSON arrays, parquet files."""

from __future__ import annotations

import bisect
import contextlib
import json
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from emu2.data.readers.files import find, fingerprint, open_file, read_bytes, read_range, short_names, size_of
from emu2.data.readers.index_cache import cached_index
from emu2.data.readers.samples import decoded_json
from emu2.data.sources import BadSampleError

#: Endings of packed files, in which nothing can be found by its position.
_PACKED = (".gz", ".zst", ".zip", ".bz2", ".xz")
_CHUNK = 1 << 22
#: Records that are looked at before a file is taken for what it was called.
_LOOKED_AT = 4


class Rows:
    """Values by index over several files.

    Args:
        paths: files, folders, globs, brace ranges, URLs; of folders and globs, `.jsonl`, `.json` and `.parquet`.
        columns: of parquet files, those to read where they are there; None reads all.
        cache: folder for indices of lines.

    Raises:
        ValueError: nothing found, a packed file, or a file that is neither JSON nor parquet.
    """

    suffixes: tuple[str, ...] = (".jsonl", ".json", ".parquet")

    def __init__(self, paths: Sequence[str], columns: Sequence[str] | None = None, cache: str | None = None):
        self.paths = find(paths, self.suffixes, "annotations")
        self._names = short_names(self.paths)
        self._tables = [open_table(path, columns, cache) for path in self.paths]
        self._ends = list(accumulate(len(table) for table in self._tables))
        if not self._ends[-1]:
            raise ValueError(f"No data found: {', '.join(paths)} holds no records.")

    def __len__(self) -> int:
        return self._ends[-1]

    def listing(self, label: str) -> str:
        return fingerprint(label, self.paths, [len(table) for table in self._tables])

    def __getitem__(self, index: int) -> tuple[Any, str]:
        """A value, and words for where it stands: its file and number in it.

        Raises:
            BadSampleError: the line is not JSON in UTF-8.
        """
        table = bisect.bisect_right(self._ends, index)
        place = index - (self._ends[table - 1] if table else 0)
        where = f"{self._names[table]}/{place}"
        return self._tables[table].value(place, where), where

    def first(self) -> Any:
        """The first value that can be read, of the first few; by it a file of another format is told.

        Raises:
            BadSampleError: none of them can.
        """
        for index in range(last := min(_LOOKED_AT, len(self))):
            try:
                return self[index][0]
            except BadSampleError:
                if index == last - 1:
                    raise
        return None


def open_table(path: str, columns: Sequence[str] | None, cache: str | None) -> Any:
    if path.endswith(_PACKED):
        raise ValueError(f"{path} is packed: records are read by position, so unpack it first.")
    if path.endswith(".parquet"):
        return _Parquet(path, columns)
    if path.endswith(".json"):
        value = whole_json(path)
        if isinstance(value, list):
            return _Array(value)
        if isinstance(value, dict):
            return _Array([value])
        raise ValueError(f"{path} is not a list of records; it holds a {type(value).__name__}.")
    return TextLines(path, cache)


def whole_json(path: str) -> Any:
    """The value of a JSON file, or the list of values of a `.jsonl`.

    Raises:
        ValueError: it is missing, or neither.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        text = data.decode("utf-8-sig")
        if path.endswith(".jsonl"):
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not JSON: its text is not UTF-8.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error


class _Array:
    """Values of one JSON array, kept as bytes: a tenth of the memory of Python's objects, and shared by processes."""

    def __init__(self, values: list[Any]):
        self._lines = [json.dumps(value).encode() for value in values]

    def __len__(self) -> int:
        return len(self._lines)

    def value(self, index: int, where: str) -> Any:
        return json.loads(self._lines[index])


class TextLines:
    """Lines of a file that are not blank."""

    def __init__(self, path: str, cache: str | None):
        self._path = path
        self._index = cached_index(path, "lines", index_lines, cache)

    def __len__(self) -> int:
        return len(self._index)

    def line(self, index: int) -> bytes:
        start, size = map(int, self._index[index])
        return read_range(self._path, start, size)

    def value(self, index: int, where: str) -> Any:
        return decoded_json(self.line(index), where)


def index_lines(path: str) -> np.ndarray:
    """int64[N, 2]: first byte and size of every line that is not blank."""
    starts: list[np.ndarray] = []
    position, total = 0, size_of(path)
    with open_file(path) as file:
        while chunk := file.read(_CHUNK):
            breaks = np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == ord("\n"))
            starts.append(breaks.astype(np.int64) + position + 1)
            position += len(chunk)
        first = np.concatenate([np.zeros(1, np.int64), *starts])
        last = np.append(first[1:] - 1, max(total, position))
        # Only short lines can be blank.
        keep = last > first
        for index in np.flatnonzero(keep & (last - first < 16)):
            file.seek(int(first[index]))
            keep[index] = bool(file.read(int(last[index] - first[index])).strip())
    return np.column_stack((first, last - first))[keep]


class _Parquet:
    """Rows of a parquet file. A row's whole row group is read, and the last few are kept: files whose groups are small
    (a hundred rows) are read fastest in random order."""

    _KEPT = 4

    def __init__(self, path: str, columns: Sequence[str] | None):
        self._path = path
        with _parquet_file(path) as file:
            names = file.schema_arrow.names
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._columns = None if columns is None else [name for name in columns if name in names]
        if self._columns is not None and not self._columns:
            self._columns = None
        self._ends = list(accumulate(groups)) or [0]
        self._groups: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_groups": {}}

    def value(self, index: int, where: str) -> Any:
        import pyarrow

        group = bisect.bisect_right(self._ends, index)
        if group not in self._groups:
            while len(self._groups) >= self._KEPT:
                del self._groups[next(iter(self._groups))]
            try:
                with _parquet_file(self._path) as file:
                    self._groups[group] = file.read_row_group(group, columns=self._columns)
            except (pyarrow.ArrowException, OSError) as error:
                raise BadSampleError("corrupt parquet file", f"{where}: {error}") from error
        return self._groups[group].slice(index - (self._ends[group - 1] if group else 0), 1).to_pylist()[0]


@contextlib.contextmanager
def _parquet_file(path: str) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{path} is a parquet file, which takes pyarrow: pip install 'emu2[data]'.") from error
    with open_file(path) as opened:
        try:
            file = pyarrow.parquet.ParquetFile(opened)
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path} is not a parquet file: {error}") from error
        yield file
