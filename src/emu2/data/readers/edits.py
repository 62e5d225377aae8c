"""Instruction edits: a picture, what to change, and the changed picture (InstructPix2Pix)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emu2.data.readers.base import Reader
from emu2.data.readers.config import SourceConfig
from emu2.data.readers.detect import wrong_format
from emu2.data.readers.files import find, fingerprint, is_folder, open_file
from emu2.data.readers.pairs import IMAGE_FIELDS, first_fields
from emu2.data.readers.pictures import Pictures
from emu2.data.readers.rows import Rows, whole_json
from emu2.data.readers.samples import decoded_json, decoded_text, picture, some_text
from emu2.data.readers.tars import TarShards
from emu2.data.records import Record
from emu2.data.sources import BadSampleError

if TYPE_CHECKING:
    from PIL import Image

#: Names of the picture before, of the instruction and of the picture after, the published data set's first.
_BEFORE = ("original_image", "input_image", "source_image", "input", "source", "before", "0")
_INSTRUCTION = ("edit_prompt", "instruction", "edit")
_AFTER = ("edited_image", "output_image", "target_image", "output", "target", "after", "1")
_NEEDS = "original_image, edit_prompt and edited_image"


class Edits(Reader):
    """InstructPix2Pix-like triples, in one of three forms.

    - The published folder: `seeds.json`, a list of [folder, [seeds]]; `FOLDER/prompt.json` with `edit`;
      `FOLDER/SEED_0.jpg` and `FOLDER/SEED_1.jpg`.
    - Tables (parquet, JSON lines) of `original_image`, `edit_prompt`, `edited_image`, pictures as bytes or by name.
    - Tars of `KEY.original_image.jpg`, `KEY.edited_image.jpg`, and `KEY.txt` or `KEY.json` with `edit_prompt`.

    Instead of the published names `input`, `instruction`, `output` and the like are understood.
    """

    def __init__(self, config: SourceConfig, kind: str):
        super().__init__(config, kind)
        self._tars: TarShards | None = None
        self._rows: Rows | None = None
        self._seeds: list[tuple[str, str]] = []
        self._seeds_path = _seeds_file(config.path)
        if self._seeds_path is not None:
            published = _published(self._seeds_path, whole_json(self._seeds_path))
            self._seeds = [(name, str(seed)) for name, seeds in published for seed in seeds]
            self._pictures = Pictures(config, self._seeds_path.rpartition("/")[0])
            found = len(self._seeds)
        else:
            files = find(config.path, (".tar", ".parquet", ".jsonl", ".json"), "seeds.json, tars or tables")
            tars = [path for path in files if path.endswith(".tar")]
            if tars:
                self._tars = TarShards(tars, config.cache)
                found = len(self._tars)
                seen = first_fields(self._tars)
                if not all(any(_is_picture(name, names) for name in seen) for names in (_BEFORE, _AFTER)):
                    raise ValueError(
                        f"The shards of {', '.join(config.path)} hold no edits: {config.format!r} needs two pictures "
                        f"a sample, such as KEY.original_image.jpg and KEY.edited_image.jpg; the first samples have "
                        f"{', '.join(sorted(seen)) or 'nothing'}."
                    )
            else:
                self._rows = Rows(files, (*_BEFORE, *_INSTRUCTION, *_AFTER), config.cache)
                self._pictures = Pictures(config, files[0].rpartition("/")[0])
                found = len(self._rows)
                first = self._rows.first()
                wanted = (_BEFORE, _INSTRUCTION, _AFTER)
                if not isinstance(first, Mapping) or any(_field(first, names) is None for names in wanted):
                    raise wrong_format(files[0], config.format, _NEEDS, first)
        if not found:
            raise ValueError(f"No data found: {', '.join(config.path)} holds no edits.")
        self._set_size(found)

    def listing(self) -> str:
        label = f"edits {self.kind}"
        if self._tars is not None:
            return self._tars.fingerprint(label)
        if self._rows is not None:
            return f"{self._rows.listing(label)} {self._pictures.listing()}".strip()
        assert self._seeds_path is not None
        return fingerprint(label, [self._seeds_path])

    def read(self, index: int) -> Record:
        if self._tars is not None:
            before, instruction, after, where = self._from_tar(self._tars, index)
        elif self._rows is not None:
            row, where = self._rows[index]
            if not isinstance(row, Mapping):
                raise BadSampleError("annotation is no table", f"{where}: a {type(row).__name__}")
            before, instruction, after = (_field(row, names) for names in (_BEFORE, _INSTRUCTION, _AFTER))
        else:
            name, seed = self._seeds[index]
            where = f"{name}/{seed}"
            note = decoded_json(self._pictures.read([f"{name}/prompt.json"], where, what="instruction"), where)
            instruction = note.get("edit") if isinstance(note, Mapping) else None
            before, after = f"{name}/{seed}_0.jpg", f"{name}/{seed}_1.jpg"
        words = some_text(instruction, "instruction", where)
        segments = (self._image(before, "before", where), words, self._image(after, "after", where))
        return Record(self.kind, segments, where, 2, {"instruction": words})

    def _from_tar(self, tars: TarShards, index: int) -> tuple[Any, Any, Any, str]:
        sample = tars[index]
        note = decoded_json(sample.fields["json"], sample.key) if "json" in sample.fields else {}
        instruction = _field(note, _INSTRUCTION) if isinstance(note, Mapping) else None
        if instruction is None:
            for name in ("txt", *(f"{field}.txt" for field in _INSTRUCTION)):
                if name in sample.fields:
                    instruction = decoded_text(sample.fields[name], f"{sample.key}.{name}")
                    break
        before, after = (
            next((data for name, data in sample.fields.items() if _is_picture(name, names)), None)
            for names in (_BEFORE, _AFTER)
        )
        if before is None and after is None:
            raise BadSampleError("missing picture", f"{sample.key} has {', '.join(sample.fields) or 'nothing'}")
        return before, instruction, after, sample.key

    def _image(self, data: Any, which: str, where: str) -> Image.Image:
        if isinstance(data, Mapping):
            data = data.get("bytes") or data.get("path")
        if isinstance(data, bytes):
            return picture(data, self.config, f"{where}, the picture {which}")
        if isinstance(data, str) and data:
            return self._pictures.image([data], where)
        raise BadSampleError("missing picture", f"{where}: the one {which} the edit")


def _field(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _is_picture(name: str, stems: tuple[str, ...]) -> bool:
    stem, _, ending = name.rpartition(".")
    return stem in stems and ending in IMAGE_FIELDS


def _seeds_file(paths: tuple[str, ...]) -> str | None:
    """The published form's `seeds.json`, named or in a folder that is named."""
    if len(paths) != 1:
        return None
    path = paths[0].rstrip("/")
    if path.rpartition("/")[2] == "seeds.json":
        return path
    if not is_folder(path):
        return None
    try:
        open_file(f"{path}/seeds.json").close()
    except OSError:
        return None
    return f"{path}/seeds.json"


def _published(path: str, value: Any) -> list[tuple[str, list[Any]]]:
    if not isinstance(value, list) or not all(
        isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], list) for entry in value
    ):
        raise wrong_format(path, "instructpix2pix", "a list of [folder, [seeds]]", value)
    return [(str(name), seeds) for name, seeds in value]
