"""Plain text: files, lines, or the `text` of JSON lines and parquet (the Pile's form)."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from emu2.data.readers.base import Reader
from emu2.data.readers.config import SourceConfig
from emu2.data.readers.detect import wrong_format
from emu2.data.readers.files import find, fingerprint, read_bytes, short_names
from emu2.data.readers.rows import TextLines, open_table
from emu2.data.readers.samples import decoded_text, some_text
from emu2.data.records import Record
from emu2.data.sources import BadSampleError

#: Endings of files whose records are tables; packed ones are refused when they are opened.
_TABLES = (".jsonl", ".json", ".parquet", ".gz", ".zst", ".zip")


class Texts(Reader):
    """`.txt` and `.md` files, each a document or (with `unit="line"`) each line one; `.jsonl`, `.json` and `.parquet`
    with a field `text`, or the one that `caption` names."""

    def __init__(self, config: SourceConfig, kind: str):
        super().__init__(config, kind)
        self._paths = find(config.path, (".txt", ".md", ".jsonl", ".json", ".parquet"), "texts")
        self._names = short_names(self._paths)
        self._field = config.caption or "text"
        # A whole file is a table of one row that is read when it is asked for.
        self._tables: list[Any] = [self._open(path) for path in self._paths]
        counts = [1 if table is None else len(table) for table in self._tables]
        self._counts, self._ends = counts, list(accumulate(counts))
        if not self._ends[-1]:
            raise ValueError(f"No data found: {', '.join(config.path)} holds no text.")
        self._check_first()
        self._set_size(self._ends[-1])

    def _open(self, path: str) -> Any:
        if path.endswith(_TABLES):
            return open_table(path, (self._field,), self.config.cache)
        return TextLines(path, self.config.cache) if self.config.unit == "line" else None

    def _check_first(self) -> None:
        for path, table in zip(self._paths, self._tables, strict=True):
            if not path.endswith(_TABLES) or not len(table):
                continue
            try:
                first = table.value(0, path)
            except BadSampleError:
                continue  # counted when it is read
            if not isinstance(first, Mapping) or self._field not in first:
                raise wrong_format(path, "text", f"{self._field!r} in every record", first)

    def listing(self) -> str:
        return fingerprint(f"text {self.kind}", self._paths, self._counts)

    def read(self, index: int) -> Record:
        number = bisect.bisect_right(self._ends, index)
        path, table = self._paths[number], self._tables[number]
        place = index - (self._ends[number - 1] if number else 0)
        where = f"{self._names[number]}/{place}"
        if table is None:
            text: Any = decoded_text(read_bytes(path), where)
        elif not path.endswith(_TABLES):
            text = decoded_text(table.line(place), where)
        else:
            row = table.value(place, where)
            if not isinstance(row, Mapping):
                raise BadSampleError("missing text", where)
            text = row.get(self._field)
        return Record(self.kind, (some_text(text, "text", where),), where)
