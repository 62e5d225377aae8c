"""Folders of pictures or clips with their captions beside them, the way people keep their own."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from emu2.data.readers.base import Reader
from emu2.data.readers.config import SourceConfig
from emu2.data.readers.detect import wrong_format
from emu2.data.readers.files import base_name, find, fingerprint, is_folder, is_url, local, read_bytes, short_names
from emu2.data.readers.pairs import captioned
from emu2.data.readers.rows import whole_json
from emu2.data.readers.samples import IMAGE_SUFFIXES, clip, decoded_json, decoded_text, picture, some_text
from emu2.data.records import Record
from emu2.data.sources import BadSampleError
from emu2.processing.video import VIDEO_SUFFIXES

#: Tables of captions, as Hugging Face's image folders have them; a row names its file by `file_name`.
_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.json", "captions.jsonl", "captions.csv", "captions.json")
_CAPTION_FIELDS = ("caption", "text", "prompt", "description")


class Folder(Reader):
    """Pictures (kind "video_pair": clips) at any depth below a folder.

    A picture's caption is in the file of its name that ends in `.txt` (the whole text) or `.json` (a field `caption`,
    `text`, `prompt` or `description`, or the one that `config.caption` names), or in a table at the folder's top
    (`metadata.jsonl`, `.csv` or `.json`; `captions...` likewise) whose rows name pictures by `file_name`.
    """

    def __init__(self, config: SourceConfig, kind: str):
        super().__init__(config, kind)
        self._clips = kind == "video_pair"
        shown = tuple(sorted(VIDEO_SUFFIXES)) if self._clips else IMAGE_SUFFIXES
        folders = [(path if is_url(path) else local(path)).rstrip("/") for path in config.path]
        for folder in folders:
            if not is_folder(folder):
                raise ValueError(f"No data found: {folder} is not a folder.")
        what = "clips" if self._clips else "pictures"
        files = find(folders, (*shown, ".txt", ".json", ".jsonl", ".csv"), what)
        self._files = set(files)
        self._captions: dict[str, Any] = {}
        for folder in folders:
            for name in _TABLES:
                if f"{folder}/{name}" in self._files:
                    self._captions.update(self._table(folder, name))
        self._shown = [path for path in files if path.lower().endswith(shown)]
        if not self._shown:
            raise ValueError(f"No data found: {', '.join(config.path)} holds no {what} ({', '.join(shown)}).")
        captioned_files = [path for path in self._shown if path in self._captions or self._beside(path)]
        if not captioned_files:
            raise ValueError(
                f"No data found: none of the {len(self._shown)} files in {folders[0]} has a caption: put it "
                f"into {base_name(self._shown[0]).rpartition('.')[0]}.txt beside {base_name(self._shown[0])}, or "
                "into metadata.jsonl."
            )
        self._names = short_names([f"{folder}/" for folder in folders] + self._shown)[len(folders) :]
        self._set_size(len(self._shown))

    def listing(self) -> str:
        return fingerprint(f"folder {self.kind}", sorted(self._files))

    def _table(self, folder: str, name: str) -> dict[str, Any]:
        path = f"{folder}/{name}"
        if name.endswith(".csv"):
            rows: Any = list(csv.DictReader(io.StringIO(decoded_text(read_bytes(path), path))))
        else:
            rows = whole_json(path)
        if isinstance(rows, Mapping):  # picture's name -> caption
            rows = [{"file_name": file, "caption": caption} for file, caption in rows.items()]
        if not rows or not isinstance(rows[0], Mapping) or "file_name" not in rows[0]:
            raise wrong_format(path, "folder", "'file_name' in every row", rows)
        return {f"{folder}/{row['file_name']}": row for row in rows if row.get("file_name")}

    def _beside(self, path: str) -> str | None:
        stem = path.rpartition(".")[0]
        return next((stem + end for end in (".txt", ".json") if stem + end in self._files), None)

    def read(self, index: int) -> Record:
        path = self._shown[index]
        where = self._names[index]
        beside = self._beside(path)
        if path in self._captions:
            caption = self._field(self._captions[path])
        elif beside is None:
            raise BadSampleError("missing caption", where)
        elif beside.endswith(".txt"):
            caption = decoded_text(read_bytes(beside), base_name(beside))
        else:
            caption = self._field(decoded_json(read_bytes(beside), base_name(beside)))
        words = some_text(caption, "caption", where)
        shown = (clip if self._clips else picture)(read_bytes(path), self.config, where)
        return captioned(self.kind, shown, words, where, self.config, {})

    def _field(self, row: Any) -> Any:
        if isinstance(row, str):
            return row
        names = (self.config.caption,) if self.config.caption else _CAPTION_FIELDS
        return next((row[name] for name in names if row.get(name)), None) if isinstance(row, Mapping) else None
