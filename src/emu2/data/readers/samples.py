"""Reading the parts of one sample: texts, pictures, clips, each with a clear cause where it is bad."""

from __future__ import annotations

import io
import json
import struct
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from emu2.data.readers.config import SourceConfig
from emu2.data.sources import BadSampleError
from emu2.processing.image import FORMATS, MAX_PIXELS, load_image

if TYPE_CHECKING:
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
        BadSampleError: the bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise BadSampleError("text is not UTF-8", f"{where}: {error.reason} at byte {error.start}") from error


def some_text(text: Any, what: str, where: str) -> str:
    """`text`, which must be there.

    Raises:
        BadSampleError: it is missing, empty or no text ("missing caption").
    """
    if not isinstance(text, str) or not text.strip():
        raise BadSampleError(f"missing {what}", where)
    return text.strip()


def decoded_json(data: bytes, where: str) -> Any:
    """Raises: BadSampleError: the bytes are not JSON in UTF-8."""
    try:
        return json.loads(decoded_text(data, where))
    except json.JSONDecodeError as error:
        raise BadSampleError("metadata is not JSON", f"{where}: {error}") from error


def picture(data: bytes, config: SourceConfig, where: str, *, see_through: bool = False) -> Image.Image:
    """A picture of a file's bytes: RGB, or with `see_through` RGBA where it has transparent parts.

    Raises:
        BadSampleError: broken, without pixels, of another format, too large, or smaller than `config.min_side`.
    """
    try:
        image = load_image(data, max_pixels=config.max_pixels or MAX_PIXELS)
    except ValueError as error:
        message = str(error)
        cause = next((cause for words, cause in _CAUSES if words in message), "unreadable picture")
        cause = "zero-size picture" if _is_sizeless(data) else cause
        raise BadSampleError(cause, f"{where}: {message}") from error
    if min(image.size) < config.min_side:
        raise BadSampleError(
            "picture too small", f"{where}: {image.width}x{image.height}, the shorter side must be {config.min_side}"
        )
    return _with_alpha(data) or image if see_through else image


def _with_alpha(data: bytes) -> Image.Image | None:
    """A picture that `load_image` could read, upright and as RGBA; None where it has no transparency."""
    opened = Image.open(io.BytesIO(data), formats=[form for form in FORMATS if form in Image.OPEN])
    if opened.mode not in ("RGBA", "LA", "PA") and "transparency" not in opened.info:
        return None
    return ImageOps.exif_transpose(opened).convert("RGBA")


def _is_sizeless(data: bytes) -> bool:
    """Whether a file's header says that it is no pixels wide or high; Pillow takes it for no picture then."""
    for start, place, form in ((b"\x89PNG", 16, ">II"), (b"GIF8", 6, "<HH"), (b"BM", 18, "<ii")):
        if data.startswith(start) and len(data) >= place + struct.calcsize(form):
            return 0 in struct.unpack_from(form, data, place)
    return False


def clip(data: bytes, config: SourceConfig, where: str) -> Video:
    """Up to `config.num_frames` frames of a video file's bytes; fewer where it has fewer.

    Raises:
        BadSampleError: the video cannot be read.
    """
    from emu2.processing.video import Video

    try:
        return Video.from_file(data, config.num_frames, max_pixels=config.max_pixels or MAX_PIXELS, repeat=False)
    except ValueError as error:
        raise BadSampleError("unreadable video", f"{where}: {error}") from error
