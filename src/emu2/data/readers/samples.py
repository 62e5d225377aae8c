"""Reading the parts of one sample: texts, pictures, clips, each with a clear cause where it is bad."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from emu2.data.readers.config import SourceConfig
from emu2.data.sources import BadSample
from emu2.processing.image import MAX_PIXELS, load_image

if TYPE_CHECKING:
    from PIL import Image

    from emu2.processing.video import Video

#: Endings of still pictures that `load_image` reads.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
#: Words in the messages of `load_image` -> cause.
_CAUSES = (
    ("no pixels", "zero-size picture"),
    ("empty", "empty picture"),
    ("too large", "picture too large"),
    ("truncated", "truncated or broken picture"),
    ("not a picture", "not a picture"),
)


def decoded_text(data: bytes, where: str) -> str:
    """Text of UTF-8 bytes, without a byte order mark and outer white space.

    Raises:
        BadSample: the bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise BadSample("text is not UTF-8", f"{where}: {error.reason} at byte {error.start}") from error


def some_text(text: Any, what: str, where: str) -> str:
    """`text`, which must be there.

    Raises:
        BadSample: it is missing, empty or no text ("missing caption").
    """
    if not isinstance(text, str) or not text.strip():
        raise BadSample(f"missing {what}", where)
    return text.strip()


def decoded_json(data: bytes, where: str) -> Any:
    """Raises: BadSample: the bytes are not JSON in UTF-8."""
    try:
        return json.loads(decoded_text(data, where))
    except json.JSONDecodeError as error:
        raise BadSample("metadata is not JSON", f"{where}: {error}") from error


def picture(data: bytes, config: SourceConfig, where: str) -> Image.Image:
    """A picture of a file's bytes.

    Raises:
        BadSample: broken, without pixels, of another format, too large, or smaller than `config.min_side`.
    """
    try:
        image = load_image(data, max_pixels=config.max_pixels or MAX_PIXELS)
    except ValueError as error:
        message = str(error)
        cause = next((cause for words, cause in _CAUSES if words in message), "unreadable picture")
        raise BadSample(cause, f"{where}: {message}") from error
    if min(image.size) < config.min_side:
        raise BadSample(
            "picture too small", f"{where}: {image.width}x{image.height}, the shorter side must be {config.min_side}"
        )
    return image


def clip(data: bytes, config: SourceConfig, where: str) -> Video:
    """Up to `config.num_frames` frames of a video file's bytes; fewer where it has fewer.

    Raises:
        BadSample: the video cannot be read.
    """
    from emu2.processing.video import Video

    try:
        return Video.from_file(data, config.num_frames, max_pixels=config.max_pixels or MAX_PIXELS, repeat=False)
    except ValueError as error:
        raise BadSample("unreadable video", f"{where}: {error}") from error
