"""Interleaved documents: MMC4-like JSON lines and OBELICS-like tables."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emu2.data.readers.base import Reader
from emu2.data.readers.config import SourceConfig
from emu2.data.readers.detect import wrong_format
from emu2.data.readers.pictures import Pictures
from emu2.data.readers.rows import Rows
from emu2.data.readers.samples import picture
from emu2.data.records import Record
from emu2.data.sources import BadSampleError

if TYPE_CHECKING:
    from emu2.data.records import Segment


class _Documents(Reader):
    """One document a row; `config.images` are the pictures it names."""

    needs: tuple[str, ...] = ()

    def __init__(self, config: SourceConfig, kind: str):
        super().__init__(config, kind)
        self._rows = Rows(config.path, columns=("texts", "images", "metadata"), cache=config.cache)
        first = self._rows.first()
        if not isinstance(first, Mapping) or any(name not in first for name in self.needs):
            raise wrong_format(self._rows.paths[0], config.format, " and ".join(map(repr, self.needs)), first)
        self._pictures = Pictures(config, self._rows.paths[0].rpartition("/")[0])
        self._set_size(len(self._rows))

    def listing(self) -> str:
        return f"{self._rows.listing(f'{self.config.format} {self.kind}')} {self._pictures.listing()}".strip()

    def _record(self, segments: list[Segment], where: str) -> Record:
        joined: list[Segment] = []
        for segment in segments:
            if isinstance(segment, str) and joined and isinstance(joined[-1], str):
                joined[-1] = f"{joined[-1]} {segment}"
            else:
                joined.append(segment)
        if not joined:
            raise BadSampleError("empty document", where)
        return Record(self.kind, tuple(joined), where)

    def _chosen(self, number: int, where: str) -> list[int]:
        """Which of `number` pictures are kept: `max_images` drawn at random, always the same of one document."""
        limit = self.config.max_images
        if limit is None or number <= limit:
            return list(range(number))
        return sorted(random.Random(f"pictures/{where}").sample(range(number), limit))


class Mmc4(_Documents):
    """`text_list` (sentences) and `image_info` (each with `image_name` and `matched_text_index`).

    A picture follows the sentence it is matched with. Pictures whose download failed are left out; a document that
    keeps none is a bad sample. Where `max_images` leaves some out, only the sentences of the others stay (the paper:
    "8 random images + their sentences").
    """

    needs = ("text_list", "image_info")

    def read(self, index: int) -> Record:
        row, where = self._rows[index]
        sentences, infos = _listed(row, "text_list", where), _listed(row, "image_info", where)
        there = [info for info in infos if self._pictures.has(_names(info, where))]
        if infos and not there:
            raise BadSampleError("missing picture", f"{where}: none of its {len(infos)} pictures is there")
        kept = [there[i] for i in self._chosen(len(there), where)]
        matched: dict[int, list[Mapping[str, Any]]] = {}
        for info in kept:
            place = info.get("matched_text_index")
            if not isinstance(place, int) or not 0 <= place < len(sentences):
                raise BadSampleError("picture matched to no sentence", f"{where}: matched_text_index is {place!r}")
            matched.setdefault(place, []).append(info)
        segments: list[Segment] = []
        for place, sentence in enumerate(sentences):
            if (len(kept) == len(there) or place in matched) and isinstance(sentence, str) and sentence.strip():
                segments.append(sentence.strip())
            segments += [self._pictures.image(_names(info, where), where) for info in matched.get(place, ())]
        return self._record(segments, where)


def _names(info: Any, where: str) -> list[str]:
    names = [info[field] for field in ("image_name", "raw_url") if isinstance(info, Mapping) and info.get(field)]
    if not names:
        raise BadSampleError("picture without a name", f"{where}: {str(info)[:80]}")
    return names


class Obelics(_Documents):
    """`texts` and `images`, lists of equal length of which one holds a value at each place and the other null.

    A picture is its bytes, `{"bytes": ..., "path": ...}` as Hugging Face's data sets keep it, or the path or URL by
    which it is found in `config.images`. Nothing is fetched from the web: img2dataset does that.
    """

    needs = ("texts", "images")

    def read(self, index: int) -> Record:
        row, where = self._rows[index]
        texts, images = _listed(row, "texts", where), _listed(row, "images", where)
        if len(texts) != len(images):
            raise BadSampleError("texts and images differ in length", f"{where}: {len(texts)} and {len(images)}")
        there = [place for place, image in enumerate(images) if image and self._is_there(image)]
        if any(images) and not there:
            raise BadSampleError("missing picture", f"{where}: none of its pictures is there")
        kept = {there[i] for i in self._chosen(len(there), where)}
        cut = len(kept) < len(there)
        segments: list[Segment] = []
        for place, (text, image) in enumerate(zip(texts, images, strict=True)):
            # Of a cut document the texts beside a kept picture stay.
            beside = not cut or place - 1 in kept or place + 1 in kept
            if isinstance(text, str) and text.strip() and beside:
                segments.append(text.strip())
            if place in kept:
                segments.append(self._image(image, where))
        return self._record(segments, where)

    def _is_there(self, image: Any) -> bool:
        return not isinstance(image, str) or self._pictures.has([image])

    def _image(self, image: Any, where: str) -> Segment:
        if isinstance(image, Mapping):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, bytes):
            return picture(image, self.config, where)
        if isinstance(image, str):
            return self._pictures.image([image], where)
        raise BadSampleError("missing picture", f"{where}: neither bytes nor a path")


def _listed(row: Any, name: str, where: str) -> list[Any]:
    value = row.get(name) if isinstance(row, Mapping) else None
    if isinstance(value, str):  # some tables keep lists as JSON
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list):
        raise BadSampleError(f"missing {name}", where)
    return value
