"""What a source of records is read from: one checked table of settings per kind of record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SourceConfig:
    """One source. Only `format` and `path` are always needed; the page docs/data.md says what each format reads.

    format: a name in `readers.FORMATS`.
    path: file, folder, glob (`shards/*.tar`) or brace range (`shards/{00000..00099}.tar`), or several; each a local
        path or any URL that fsspec opens (`s3://...`, `https://...`).
    images: where pictures named in annotation files lie: a folder, or tars (given like `path`).
    annotations: a second file: VQAv2's answers, RefCOCO's instances.json, TextVQA's OCR tokens.
    split: records of this split only, where files name one (RefCOCO: "train").
    caption: where the caption of a sample stands: a member's ending ("txt") or a field of its metadata ("caption");
        None takes the one that is there.
    limit: only the first so many records.
    num_frames: frames taken of a video file, at segment midpoints; objectives take fewer of them.
    max_images: pictures kept of a document that has more, drawn at random, with their sentences (8 in the paper); None
        keeps all.
    hint: whether questions with a short answer end with LLaVA-1.5's words asking for one.
    style: system message of conversations, "concise" or "detailed"; None takes what the format calls for.
    unit: of plain text: a document is a whole "file" or one "line".
    min_side, max_pixels: pictures with a shorter side below, or more pixels, are bad samples; None is the limit of
        `emu2.processing.image`.
    cache: folder where indices of tars and text files are kept; None is `~/.cache/emu2/index`.
    """

    format: str
    path: tuple[str, ...]
    images: tuple[str, ...] = ()
    annotations: str | None = None
    split: str | None = None
    caption: str | None = None
    limit: int | None = None
    num_frames: int = 16
    max_images: int | None = 8
    hint: bool = True
    style: str | None = None
    unit: str = "file"
    min_side: int = 1
    max_pixels: int | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        for name in ("path", "images"):
            value = getattr(self, name)
            if value is None:
                value = ()
            paths = tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)
            object.__setattr__(self, name, paths)
        if not self.path or not all(self.path):
            raise ValueError("A source needs a path: a file, folder, glob, brace range or URL.")
        for name in ("annotations", "split", "caption", "cache"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"A source's {name} is a text or null; got {getattr(self, name)!r}.")
        if not isinstance(self.hint, bool):
            raise ValueError(f"A source's hint is true or false; got {self.hint!r}.")
        for name in ("limit", "max_images", "max_pixels"):
            value = getattr(self, name)
            if value is not None and not _is_count(value):
                raise ValueError(f"A source's {name} is a whole number of 1 or more, or null; got {value!r}.")
        for name in ("num_frames", "min_side"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"A source's {name} is a whole number of 1 or more; got {getattr(self, name)!r}.")
        if self.style not in (None, "concise", "detailed"):
            raise ValueError(f"A source's style is 'concise', 'detailed' or null; got {self.style!r}.")
        if self.unit not in ("file", "line"):
            raise ValueError(f"A source's unit is 'file' or 'line'; got {self.unit!r}.")

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> SourceConfig:
        """The config of a table of settings.

        Raises:
            ValueError: `format` or `path` is missing, or there is an unknown setting.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(spec) - set(known))
        if unknown:
            raise ValueError(f"A source has no setting {unknown[0]!r}; it has {', '.join(known)}.")
        missing = [name for name in ("format", "path") if not spec.get(name)]
        if missing:
            raise ValueError(
                f"A source needs {missing[0]!r}, as in {{'format': 'webdataset', 'path': 'shards/*.tar'}}; "
                f"got {dict(spec)}."
            )
        return cls(**spec)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
