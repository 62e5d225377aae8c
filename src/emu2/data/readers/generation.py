"""Prompts of text, boxes and object pictures with the picture they ask for: what Emu2-Gen is tuned on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emu2.data.readers.base import Reader
from emu2.data.readers.config import SourceConfig
from emu2.data.readers.detect import wrong_format
from emu2.data.readers.pictures import Pictures
from emu2.data.readers.rows import Rows
from emu2.data.records import Record
from emu2.data.sources import BadSampleError
from emu2.processing.grounding import Box

if TYPE_CHECKING:
    from PIL import Image

    from emu2.data.records import Segment

_PART = "a text, {'image': name}, or {'box': [left, top, right, bottom], 'phrase': words, 'image': name}"


class Generation(Reader):
    """JSON lines (or JSON, parquet) of `prompt`, a list of parts, and `image`, the name of the picture to be drawn.

    A part is a text; `{"image": NAME}`, an object's picture; or `{"box": [left, top, right, bottom], "phrase": ...,
    "image": NAME}`, where phrase and picture may be left out. Boxes are in pixels of the picture to be drawn, or of one
    of `size` [width, height]. See-through pictures of objects stay so, and the `gen` stage puts them on backgrounds.
    """

    def __init__(self, config: SourceConfig, kind: str):
        super().__init__(config, kind)
        self._rows = Rows(config.path, ("prompt", "image"), config.cache)
        first = self._rows.first()
        if not isinstance(first, Mapping) or not isinstance(first.get("prompt"), list) or "image" not in first:
            raise wrong_format(self._rows.paths[0], config.format, "'prompt', a list of parts, and 'image'", first)
        self._pictures = Pictures(config, self._rows.paths[0].rpartition("/")[0])
        self._set_size(len(self._rows))

    def listing(self) -> str:
        return f"{self._rows.listing(f'generation {self.kind}')} {self._pictures.listing()}".strip()

    def read(self, index: int) -> Record:
        row, where = self._rows[index]
        parts = row.get("prompt") if isinstance(row, Mapping) else None
        if not isinstance(parts, list) or not parts:
            raise BadSampleError("missing prompt", where)
        target = self._image(row.get("image"), where)
        segments = [self._segment(part, target.size, where) for part in parts]
        return Record(self.kind, (*segments, target), where, len(segments))

    def _segment(self, part: Any, size: tuple[int, int], where: str) -> Segment:
        if isinstance(part, str) and part:
            return part
        if not isinstance(part, Mapping) or not (part.get("box") or part.get("image")):
            raise BadSampleError("malformed prompt", f"{where}: a part is {_PART}; got {str(part)[:80]}")
        if not part.get("box"):
            return self._image(part["image"], where, see_through=True)
        image = self._image(part["image"], where, see_through=True) if part.get("image") else None
        try:
            box, own_size = tuple(map(float, part["box"])), tuple(part.get("size") or size)
            return Box(box, part.get("phrase"), own_size, image)  # type: ignore[arg-type]  # Box checks their lengths
        except (ValueError, TypeError) as error:
            raise BadSampleError("malformed box", f"{where}: {error}") from error

    def _image(self, name: Any, where: str, *, see_through: bool = False) -> Image.Image:
        if not isinstance(name, str) or not name:
            raise BadSampleError("missing picture", f"{where}: image is {str(name)[:80]}")
        return self._pictures.image([name], where, see_through=see_through)
