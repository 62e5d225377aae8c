"""Captioned pictures and clips in WebDataset tars, as img2dataset and video2dataset write them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from emu2.data.readers.base import Reader
from emu2.data.readers.config import SourceConfig
from emu2.data.readers.samples import IMAGE_SUFFIXES, clip, decoded_json, decoded_text, picture, some_text
from emu2.data.readers.tars import TarSample, TarShards
from emu2.data.readers.wording import caption_turns
from emu2.data.records import Record
from emu2.data.sources import BadSampleError
from emu2.processing.video import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from emu2.data.records import Segment

IMAGE_FIELDS = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
VIDEO_FIELDS = tuple(sorted(suffix[1:] for suffix in VIDEO_SUFFIXES))
#: Samples that are looked at before a source is taken for what it was called.
_LOOKED_AT = 4
#: Format -> fields by which its samples are known.
_OTHERS = {
    "video2dataset": set(VIDEO_FIELDS),
    "webdataset": set(IMAGE_FIELDS),
    "instructpix2pix": {f"edited_image.{ending}" for ending in IMAGE_FIELDS},
}


def first_fields(shards: TarShards) -> set[str]:
    """The fields of the first few samples that can be read."""
    seen: set[str] = set()
    for index in range(min(_LOOKED_AT, len(shards))):
        with contextlib.suppress(BadSampleError):
            seen.update(shards[index].fields)
    return seen


def captioned(kind: str, shown: Segment, caption: str, key: str, config: SourceConfig, truth: dict[str, Any]) -> Record:
    """A picture or clip and its caption in the order its kind asks for, the second of them to be learned."""
    if kind == "text_to_image":
        return Record(kind, (caption, shown), key, 1, {"caption": caption, **truth})
    if kind == "chat":
        return caption_turns(kind, shown, caption, key, config, truth)
    return Record(kind, (shown, caption), key, 1, {"caption": caption, "answer": caption, **truth})


class PairTars(Reader):
    """Samples of a picture (`jpg`, `png`, `webp`, ...) and a caption (`txt`, or `caption` in `json`)."""

    fields, shown = IMAGE_FIELDS, "picture"

    def __init__(self, config: SourceConfig, kind: str):
        super().__init__(config, kind)
        self._shards = TarShards(config.path, config.cache)
        self._set_size(len(self._shards))
        self._check_first()

    def listing(self) -> str:
        return self._shards.fingerprint(f"{self.config.format} {self.kind}")

    def read(self, index: int) -> Record:
        sample = self._shards[index]
        metadata = decoded_json(sample.fields["json"], sample.key) if "json" in sample.fields else {}
        caption = self._caption(sample, metadata)
        name = next((name for name in self.fields if name in sample.fields), None)
        if name is None:
            raise BadSampleError(f"missing {self.shown}", f"{sample.key} has {', '.join(sample.fields) or 'nothing'}")
        shown = self._load(sample.fields[name], f"{sample.key}.{name}")
        truth = {"url": metadata["url"]} if isinstance(metadata, dict) and metadata.get("url") else {}
        return captioned(self.kind, shown, caption, sample.key, self.config, truth)

    def _load(self, data: bytes, where: str) -> Any:
        return picture(data, self.config, where)

    def _caption(self, sample: TarSample, metadata: Any) -> str:
        name = self.config.caption
        if (name or "txt") in sample.fields:
            text: Any = decoded_text(sample.fields[name or "txt"], f"{sample.key}.{name or 'txt'}")
        else:
            text = metadata.get(name or "caption") if isinstance(metadata, dict) else None
        return some_text(text, "caption", sample.key)

    def _check_first(self) -> None:
        """Tell shards of another kind from shards with a few bad samples."""
        seen = first_fields(self._shards)
        if not seen or any(name in self.fields for name in seen):
            return
        looks = next((f"; they look like {form!r}" for form, names in _OTHERS.items() if names & seen), "")
        raise ValueError(
            f"The shards of {', '.join(self.config.path)} hold no {self.shown}s{looks} (the first samples have "
            f"{', '.join(sorted(seen))}), so they are not {self.config.format!r}."
        )


class ClipTars(PairTars):
    """Samples of a clip (`mp4`, `webm`, ...) and a caption (`txt`, or `caption` in `json`)."""

    fields, shown = VIDEO_FIELDS, "clip"

    def _load(self, data: bytes, where: str) -> Any:
        return clip(data, self.config, where)
