"""Captions whose phrases have boxes: GRIT, as Kosmos-2 published it and img2dataset downloads it."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emu2 import tokens
from emu2.data.readers.base import Reader
from emu2.data.readers.config import SourceConfig
from emu2.data.readers.detect import wrong_format
from emu2.data.readers.files import find
from emu2.data.readers.pairs import IMAGE_FIELDS, captioned
from emu2.data.readers.pictures import Pictures
from emu2.data.readers.rows import Rows
from emu2.data.readers.samples import decoded_json, picture, some_text
from emu2.data.readers.tars import TarShards
from emu2.data.records import Record
from emu2.data.sources import BadSampleError
from emu2.processing.grounding import Box, grounded_text

if TYPE_CHECKING:
    from PIL import Image

    from emu2.data.records import Segment

#: Samples that are looked at before a source is taken for what it was called.
_LOOKED_AT = 4
#: Words from one place of a caption to another, and the boxes of what they name.
Phrase = tuple[int, int, list[Box]]


class Grit(Reader):
    """Tars of pictures with `json` of `caption`, `ref_exps` and `noun_chunks`, or tables (parquet, JSON lines) with
    these columns and `image`.

    A phrase is [start, end, left, top, right, bottom, score]: characters of the caption, sides as shares of the
    picture's. `ref_exps` are read where there are any, else `noun_chunks`; of phrases that overlap the longest stays.

    Kinds: "grounded_pair" (picture, caption with boxes as tokens), "pair" and "text_to_image" (without boxes),
    "grounded_generation" (caption with boxes, then the picture) and "composition" (each box with a cut of its object).
    """

    def __init__(self, config: SourceConfig, kind: str):
        super().__init__(config, kind)
        files = find(config.path, (".tar", ".parquet", ".jsonl", ".json"), "tars or tables")
        tars = [path for path in files if path.endswith(".tar")]
        self._tars = TarShards(tars, config.cache) if tars else None
        self._rows: Rows | None = None
        if self._tars is None:
            columns = ("key", "caption", "ref_exps", "noun_chunks", "image", "image_path")
            self._rows = Rows(files, columns, config.cache)
            self._pictures = Pictures(config, files[0].rpartition("/")[0])
        self._set_size(len(self._tars if self._tars is not None else self._rows or ()))
        self._check_first(files[0])

    def _check_first(self, path: str) -> None:
        seen: Mapping[str, Any] | None = None
        for index in range(min(_LOOKED_AT, len(self))):
            with contextlib.suppress(BadSampleError):
                seen, _, _ = self._parts(index)
                if "ref_exps" in seen or "noun_chunks" in seen:
                    return
        if seen is not None:
            raise wrong_format(path, "grit", "'ref_exps' or 'noun_chunks' beside the caption", seen)

    def listing(self) -> str:
        label = f"grit {self.kind}"
        if self._tars is not None:
            return self._tars.fingerprint(label)
        assert self._rows is not None
        return f"{self._rows.listing(label)} {self._pictures.listing()}".strip()

    def _parts(self, index: int) -> tuple[Mapping[str, Any], Any, str]:
        """Annotation, picture (bytes, or the table's value), and words for where they stand."""
        if self._tars is not None:
            sample = self._tars[index]
            note = decoded_json(sample.fields.get("json", b"{}"), sample.key)
            data: Any = next((sample.fields[name] for name in IMAGE_FIELDS if name in sample.fields), None)
            where = sample.key
        else:
            assert self._rows is not None
            note, where = self._rows[index]
            data = note.get("image") or note.get("image_path") if isinstance(note, Mapping) else None
        if not isinstance(note, Mapping):
            raise BadSampleError("annotation is no table", f"{where}: a {type(note).__name__}")
        return note, data, where

    def read(self, index: int) -> Record:
        note, data, where = self._parts(index)
        image = self._image(data, where)
        caption = some_text(note.get("caption"), "caption", where)
        if self.kind in ("pair", "text_to_image"):
            return captioned(self.kind, image, caption, where, self.config, {})
        phrases = _phrases(note, caption, image.size, where)
        truth: dict[str, Any] = {
            "caption": caption,
            "boxes": [[caption[start:end], [list(box.xyxy) for box in boxes]] for start, end, boxes in phrases],
        }
        if self.kind == "grounded_pair":
            text = grounded_caption(caption, phrases)
            return Record(self.kind, (image, text), where, 1, {**truth, "answer": text})
        segments = (*_generation_prompt(caption, phrases, image if self.kind == "composition" else None), image)
        return Record(self.kind, segments, where, len(segments) - 1, truth)

    def _image(self, data: Any, where: str) -> Image.Image:
        if isinstance(data, Mapping):
            data = data.get("bytes") or data.get("path")
        if isinstance(data, bytes):
            return picture(data, self.config, where)
        if isinstance(data, str) and self._rows is not None:
            return self._pictures.image([data], where)
        raise BadSampleError("missing picture", where)


def _phrases(note: Mapping[str, Any], caption: str, size: tuple[int, int], where: str) -> list[Phrase]:
    """Phrases in order, none overlapping another.

    Raises:
        BadSampleError: there are none, or one is no phrase of the caption or no box of the picture.
    """
    given = _list(note.get("ref_exps")) or _list(note.get("noun_chunks"))
    if not given:
        raise BadSampleError("missing boxes", where)
    spans: dict[tuple[int, int], list[Box]] = {}
    for entry in given:
        if not isinstance(entry, list) or len(entry) < 6 or not all(_is_number(value) for value in entry[:6]):
            raise BadSampleError("malformed box", f"{where}: {str(entry)[:80]}")
        start, end = int(entry[0]), int(entry[1])
        if not (0 <= start < end <= len(caption) and caption[start:end].strip()):
            raise BadSampleError("phrase outside the caption", f"{where}: {start} to {end} of {len(caption)}")
        # Detectors reach over the edge by a hair.
        sides = [min(max(value, 0.0), 1.0) * side for value, side in zip(entry[2:6], size * 2, strict=True)]
        try:
            box = Box((sides[0], sides[1], sides[2], sides[3]), caption[start:end].strip(), size)
        except ValueError as error:
            raise BadSampleError("malformed box", f"{where}: {error}") from error
        spans.setdefault((start, end), []).append(box)
    kept: list[Phrase] = []
    for (start, end), boxes in sorted(spans.items(), key=lambda item: (item[0][0] - item[0][1], item[0][0])):
        if all(end <= other_start or start >= other_end for other_start, other_end, _ in kept):
            kept.append((start, end, boxes))
    return sorted(kept, key=lambda phrase: phrase[0])


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    return value if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def grounded_caption(caption: str, phrases: list[Phrase]) -> str:
    """`<grounding>` and the caption, each phrase followed by its boxes as tokens."""
    text, position = tokens.GROUNDING, 0
    for start, end, boxes in phrases:
        text += caption[position:start] + grounded_text(boxes[0].phrase, boxes)
        position = end
    return text + caption[position:]


def _generation_prompt(caption: str, phrases: list[Phrase], image: Image.Image | None) -> list[Segment]:
    """The caption with a `Box` for each phrase; with `image`, a cut of it stands in each box."""
    segments: list[Segment] = []
    position = 0
    for start, end, boxes in phrases:
        if caption[position:start]:
            segments.append(caption[position:start])
        # Only the first box: the released form has one box for a phrase.
        box = boxes[0]
        cut = None
        if image is not None:
            left, top = map(int, box.xyxy[:2])
            right, bottom = map(math.ceil, box.xyxy[2:])
            cut = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        segments.append(Box(box.xyxy, box.phrase, box.size, cut))
        position = end
    if caption[position:]:
        segments.append(caption[position:])
    return segments
