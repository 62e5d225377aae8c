"""Prompts of the decoders: mixed lists of text, pictures, videos and boxes, told apart and checked.

A prompt is one list of parts in reading order, or a single part; a batch is a list of lists. A flat list of strings is
therefore *one* prompt, whose strings follow each other. The wording (boxes, slots) is the processor's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, get_args

from emu2.processing.grounding import Box
from emu2.processing.prompts import Part
from emu2.processing.video import VIDEO_SUFFIXES, Video

Prompts: TypeAlias = Part | Sequence[Part] | Sequence[Sequence[Part]]

_PARTS = get_args(Part)


def as_batch(prompt: Any, *, name: str = "prompt") -> list[list[Part]]:
    """A list of prompts, each a list of at least one part, from whatever form the caller used.

    Raises:
        ValueError: no prompt, a prompt without parts, lists and parts side by side, or a part of an unknown type
            (names its type and place). The empty text "" is a part like any other.
    """
    if isinstance(prompt, _PARTS):
        return [[prompt]]
    if not isinstance(prompt, list | tuple):
        raise ValueError(f"{name} is a list of text, pictures, videos and boxes; got {_kind(prompt)}.")
    if not prompt:
        raise ValueError(f'{name} is an empty list; give at least one part (the empty text "" is one).')
    nested = [isinstance(part, list | tuple) for part in prompt]
    if any(nested) and not all(nested):
        raise ValueError(
            f"{name} mixes lists and single parts: give one flat list (one prompt) or a list of lists (a batch); "
            f"element {nested.index(not nested[0])} is {_kind(prompt[nested.index(not nested[0])])}."
        )
    batch = [list(parts) for parts in prompt] if nested[0] else [list(prompt)]
    for row, parts in enumerate(batch):
        where = f"{name} {row}" if nested[0] else name
        if not parts:
            raise ValueError(f'{where} is an empty list; give at least one part (the empty text "" is one).')
        for place, part in enumerate(parts):
            if not isinstance(part, _PARTS):
                raise ValueError(
                    f"Part {place} of {where} is {_kind(part)}; a part is text (str), a picture (PIL image, "
                    "pathlib.Path, bytes or array), an emu2.Video or an emu2.Box."
                )
    return batch


def is_autoencoding(parts: Sequence[Part]) -> bool:
    """Whether a prompt is exactly one picture and nothing else: it is then decoded without the language model."""
    return len(parts) == 1 and not isinstance(parts[0], str | Box) and not is_clip(parts)


def is_clip(parts: Sequence[Part]) -> bool:
    """Whether a prompt is exactly one clip and nothing else: of several keyframes it is made again from its own."""
    part = parts[0]
    file = isinstance(part, Path) and part.suffix.lower() in VIDEO_SUFFIXES
    return len(parts) == 1 and (file or isinstance(part, Video))


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
