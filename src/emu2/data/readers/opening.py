"""Opening a source by the name of its format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from emu2.data.readers.config import SourceConfig
from emu2.data.sources import Source


@dataclass(frozen=True)
class Format:
    """A format that is read.

    reader: module and class below `emu2.data.readers`. kinds: of records that it can give. summary: one line.
    """

    reader: str
    kinds: tuple[str, ...]
    summary: str


_PAIRS = ("pair", "text_to_image", "chat")
_DOCUMENTS = ("document", "storyboard")

#: Name of a format -> what reads it.
FORMATS: dict[str, Format] = {
    "webdataset": Format("pairs.PairTars", _PAIRS, "captioned pictures in tars, as img2dataset writes them"),
    "video2dataset": Format(
        "pairs.ClipTars", ("video_pair", "chat"), "captioned clips in tars, as video2dataset writes them"
    ),
    "folder": Format("folders.Folder", (*_PAIRS, "video_pair"), "pictures or clips in a folder, captions beside them"),
    "mmc4": Format("documents.Mmc4", _DOCUMENTS, "interleaved documents in JSON lines, pictures in tars or folders"),
    "obelics": Format("documents.Obelics", _DOCUMENTS, "interleaved documents in parquet"),
    "grit": Format(
        "grounded.Grit",
        ("grounded_pair", "pair", "text_to_image", "grounded_generation", "composition"),
        "captions whose phrases have boxes, in tars or parquet (Kosmos-2)",
    ),
    "llava": Format("conversations.Llava", ("chat",), "conversations in JSON or JSON lines"),
    "coco_captions": Format("annotations.CocoCaptions", _PAIRS, "COCO's caption files"),
    "vqav2": Format("annotations.Vqav2", ("chat",), "VQAv2's and OK-VQA's questions and answers"),
    "gqa": Format("annotations.Gqa", ("chat",), "GQA's questions"),
    "textvqa": Format("annotations.TextVqa", ("chat",), "TextVQA's questions"),
    "refcoco": Format("referring.RefCoco", ("chat", "grounded_pair"), "RefCOCO's, RefCOCO+'s and RefCOCOg's phrases"),
    "instructpix2pix": Format("edits.Edits", ("edit",), "a picture, an instruction and the edited picture"),
    "generation": Format(
        "generation.Generation",
        ("text_to_image", "grounded_generation", "composition", "edit"),
        "prompts of text, boxes and object pictures, and the picture they ask for",
    ),
    "text": Format("texts.Texts", ("text",), "plain text in files, lines, JSON lines or parquet"),
}


def open_source(spec: Mapping[str, Any], kind: str) -> Source:
    """The source that `spec` describes (see `SourceConfig`), giving records of `kind`.

    Raises:
        ValueError: unknown format or setting, a kind that the format does not hold, no data found, or files that are
            of another format than named (says which they look like).
    """
    config = SourceConfig.from_dict(spec)
    form = FORMATS.get(config.format)
    if form is None:
        raise ValueError(f"There is no format {config.format!r}; there are {', '.join(FORMATS)}.")
    if kind not in form.kinds:
        fitting = [name for name, other in FORMATS.items() if kind in other.kinds]
        raise ValueError(
            f"The format {config.format!r} gives records of the kinds {', '.join(form.kinds)}, not {kind!r}"
            + (f", which these give: {', '.join(fitting)}." if fitting else ".")
        )
    module, _, name = form.reader.partition(".")
    try:
        return getattr(import_module(f"emu2.data.readers.{module}"), name)(config, kind)
    except OSError as error:
        raise ValueError(f"The source {', '.join(config.path)} cannot be read: {error}") from error
