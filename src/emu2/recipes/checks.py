"""Whether a stage can start from what it is given, told before anything slow happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emu2.train.config import RunConfig
    from emu2.train.whole import Whole


def check_folder(folder: str | Path) -> None:
    """Raise ValueError where a folder is one of ours, but not a model's: says which it is, and which to give."""
    folder = Path(folder)
    if not folder.exists():
        raise ValueError(f"There is no model folder {folder}.")
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} holds an adapter, not a model. Merge it with the model it was trained on (emu2 convert merge "
            f"MODEL {folder} FOLDER) and give that folder."
        )
    if (folder / "state.json").is_file():
        raise ValueError(
            f"{folder} is a checkpoint in the middle of a run, not a model. Continue its run with --resume, or give "
            "the 'model' folder of a finished one."
        )
    settings = _read(folder / "config.json")
    if "objective" in settings:
        finished = (folder / "model").is_dir()
        raise ValueError(
            f"{folder} is a run's folder, not a model. "
            + (f"Give {folder / 'model'}." if finished else "Its run is not finished: continue it with --resume.")
        )
    kind = settings.get("model_type")
    if kind is not None and not str(kind).lower().startswith("emu"):
        raise ValueError(
            f"{folder} holds a model of the type {kind!r}, not an Emu2. `emu2 convert parts` makes an Emu2 of a "
            "language model."
        )


#: Objectives that learn to make pictures, hence need as many embeddings of a picture as the decoder was trained on.
_MAKES_PICTURES = ("unified", "gen")


def check_start(config: RunConfig, whole: Whole, name: str) -> None:
    """Raise ValueError where a stage starts from a model of the wrong kind.

    A chat model takes more embeddings of a picture than it can draw (256 instead of 64 in the published one); stages
    that regress them start from the base model.
    """
    model = whole.model.config
    asked = config.num_query or model.num_query
    if config.objective in _MAKES_PICTURES and asked != (config.num_video_query or model.num_video_query):
        raise ValueError(
            f"{name} is a chat model: it takes {model.num_query} embeddings of a picture, and drawing goes by "
            f"{model.num_video_query}. The stage {config.name!r} starts from the base model it was tuned from "
            f"(or set num_query={model.num_video_query})."
        )


def size_of(folder: str | Path) -> str | None:
    """The size of recipes whose numbers fit a model folder best, by the width of its language model.

    None when the folder's configuration cannot be read.
    """
    width = _of_language_model(folder, "hidden_size")
    if width is None:
        return None
    return "debug" if width <= _DEBUG_WIDTH else "nano" if width <= _NANO_WIDTH else "37b"


def context_of(folder: str | Path) -> int | None:
    """Longest sequence in tokens that a model folder's language model takes; None when it cannot be read."""
    return _of_language_model(folder, "max_position_embeddings")


def _of_language_model(folder: str | Path, field: str) -> int | None:
    from emu2.model.variants import find_variant

    variant = find_variant(folder)
    own = variant.folder if variant is not None else Path(folder)
    for place in (own / "multimodal_encoder", own):
        settings = _read(place / "config.json")
        text: Any = settings.get("text_config", settings)
        value = text.get(field) if isinstance(text, dict) else None
        if isinstance(value, int):
            return value
    return None


#: Widest language models that the small sizes' rates suit; published billions begin at 1024.
_DEBUG_WIDTH, _NANO_WIDTH = 128, 1023


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
