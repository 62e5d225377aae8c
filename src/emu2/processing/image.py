"""Pictures: read whatever a person has, and turn it into what the vision tower takes.

`load_image` gives an upright RGB picture from a file, bytes, an array or a PIL image. `Emu2ImageProcessor` squashes it
to a square with PIL's bicubic filter, without keeping the aspect, and normalises it with CLIP's mean and deviation; on
Pillow before 13 this equals the published preprocessing bit for bit (Pillow 13 resizes differently).
"""

import base64
import binascii
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

# Not from `transformers` itself, which asks for torchvision there in some releases (5.17).
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from emu2.configuration import Emu2Config

#: What a picture may be given as.
ImageSource = Image.Image | str | Path | bytes | np.ndarray

#: Mean and standard deviation per RGB channel of CLIP (published file Emu2/emu/constants.py).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
#: Pictures above this many pixels are refused; Pillow's own limit (89478485), a quarter of a GiB decoded.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3
#: Raster formats that are opened. Others that Pillow knows (EPS, WMF, ...) start programs or need fonts.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "ICO", "JPEG2000", "TGA", "AVIF", "HEIF")


class Emu2ImageProcessor(BaseImageProcessor):
    """Pictures -> `pixel_values`, as the published models were fed.

    Args:
        size: side of the square picture in pixels, 448 in every published model; or `{"height": S, "width": S}`.
        image_mean, image_std: per RGB channel, of values in 0..1.
        max_pixels: larger pictures are refused.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        size: int | dict[str, int] = 448,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        max_pixels: int = MAX_PIXELS,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        side = size if isinstance(size, int) else size.get("height", 0)
        if side <= 0 or (not isinstance(size, int) and size.get("width") != side):
            raise ValueError(f"size is a positive number of pixels or {{'height': S, 'width': S}}; got {size!r}.")
        self.size = {"height": side, "width": side}
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.max_pixels = max_pixels

    @property
    def image_size(self) -> int:
        """Side of the square picture in pixels."""
        return self.size["height"]

    def resize(self, image: ImageSource) -> Image.Image:
        """The picture as RGB, squashed to the square size; the step before normalisation."""
        picture = load_image(image, max_pixels=self.max_pixels)
        return picture.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    def pixels(self, image: ImageSource) -> np.ndarray:
        """One picture as float32 [3, S, S]."""
        array = np.asarray(self.resize(image), dtype=np.float32) / np.float32(255)
        array -= np.asarray(self.image_mean, dtype=np.float32)
        array /= np.asarray(self.image_std, dtype=np.float32)
        return np.ascontiguousarray(array.transpose(2, 0, 1))

    def __call__(  # type: ignore[override]
        self, images: ImageSource | Sequence[ImageSource], return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """`pixel_values`: float32 [N, 3, S, S] for N pictures (one picture counts as a list of one).

        Raises:
            ValueError: no pictures, or one that cannot be read (says which and why).
        """
        return self.preprocess(images, return_tensors=return_tensors, **kwargs)

    def preprocess(
        self, images: ImageSource | Sequence[ImageSource], return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """See `__call__`."""
        if kwargs:
            raise TypeError(f"Emu2ImageProcessor takes no argument {', '.join(sorted(kwargs))}.")
        pictures: list[Any] = list(images) if isinstance(images, (list, tuple)) else [images]
        if not pictures:
            raise ValueError("No pictures given: pixel_values needs at least one.")
        arrays = []
        for index, picture in enumerate(pictures):
            try:
                arrays.append(self.pixels(picture))
            except ValueError as error:
                if len(pictures) == 1:
                    raise
                raise ValueError(f"images[{index}]: {error}") from error
        return BatchFeature({"pixel_values": np.stack(arrays)}, tensor_type=return_tensors)


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright RGB picture of anything a person may have.

    EXIF orientation is applied, transparency laid over white, palettes, grey, 16-bit, floating-point and CMYK pictures
    brought to 8-bit RGB; of an animation the first frame is taken.

    Args:
        source: PIL image, path of a file, bytes of a file, or array: [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4]
            (RGBA); integers up to 255 (65535 in uint16), floats in 0..1.
        max_pixels: limit on width x height, tested before anything is decoded.

    Raises:
        ValueError: names the picture and says what is wrong with it: missing, empty, not a picture, truncated, too
            large, without pixels, or of a form not understood.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, "The given picture", max_pixels)
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source), "The given array", max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), f"The picture of {len(source)} bytes"
    elif isinstance(source, (str, Path)):
        path = Path(source)
        name = f"Picture {path}"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{name} cannot be read: {error.strerror or error}.") from error
    else:
        raise ValueError(
            f"A picture is a PIL image, a path, the bytes of a file or a numpy array; got {type(source).__name__}."
        )
    if not data:
        raise ValueError(f"{name} is empty (0 bytes).")
    return _decode(data, name, max_pixels)


def load_data_url(url: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in a `data:` URL (base64), as OpenAI-style messages carry them.

    Raises:
        ValueError: another kind of URL (nothing is ever fetched from a network), broken base64, or a broken picture.
    """
    if not url.startswith("data:"):
        shown = url if len(url) <= 80 else url[:77] + "..."
        raise ValueError(
            f"Only data: URLs are read, nothing is fetched; got {shown!r}. Download the picture and give it as "
            "'data:image/png;base64,...', a path, bytes or a PIL image."
        )
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError(
            f"A picture's data: URL reads 'data:image/png;base64,...'; this one starts with {head[:60]!r}."
        )
    try:
        data = base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"The data: URL holds broken base64: {error}.") from error
    return load_image(data, max_pixels=max_pixels)


def _decode(data: bytes, name: str, max_pixels: int) -> Image.Image:
    Image.init()
    try:
        picture = Image.open(io.BytesIO(data), formats=[form for form in FORMATS if form in Image.OPEN])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} is too large: {error}") from error
    except Exception as error:  # Pillow's readers raise all sorts of things on broken files
        raise ValueError(
            f"{name} is not a picture in a known format ({', '.join(FORMATS[:5])}, ...), or its header is broken."
        ) from error
    _check_size(picture, name, max_pixels)
    try:
        picture.load()
    except Exception as error:
        raise ValueError(f"{name} is truncated or broken: {error}.") from error
    return _to_rgb(picture, name, max_pixels)


def _check_size(picture: Image.Image, name: str, max_pixels: int) -> None:
    width, height = picture.size
    if width == 0 or height == 0:
        raise ValueError(f"{name} has no pixels: it is {width}x{height}.")
    if width * height > max_pixels:
        raise ValueError(
            f"{name} is too large: {width}x{height} is {width * height} pixels, the limit is {max_pixels}. Shrink it, "
            "or raise max_pixels if you trust where it comes from."
        )


def _to_rgb(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Upright 8-bit RGB of an opened picture; the picture itself is left alone."""
    _check_size(picture, name, max_pixels)
    try:
        upright = ImageOps.exif_transpose(picture)
    except Exception:  # a broken EXIF block says nothing about the pixels
        upright = picture
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return upright.copy() if upright is picture else upright
    try:
        if upright.mode in ("I", "F") or upright.mode.startswith("I;"):
            return Image.fromarray(_to_uint8(np.asarray(upright), name)).convert("RGB")
        if upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
            # La and RGBa hold colours already multiplied by alpha; Pillow undoes that on the way to RGBA.
            rgba = (upright.convert("LA") if upright.mode == "La" else upright).convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, rgba).convert("RGB")
        return upright.convert("RGB")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{name} (mode {upright.mode}) cannot be converted to RGB: {error}") from error


def _to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """Grey values of any depth as uint8. Full scale is 1 for floats and, for integers, the smallest of 255, 65535 and
    2**31 - 1 that holds every value: files do not say which one they mean."""
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
    low, high = values.min(), values.max()
    if low < 0:
        raise ValueError(f"{name} holds negative values, down to {low}")
    if np.issubdtype(values.dtype, np.floating):
        scale = 1.0 if high <= 1 else 255.0
        if high > 255:
            raise ValueError(f"{name} holds floating-point values up to {high}; 0..1 or 0..255 are understood")
    elif values.dtype == np.uint16:
        scale = 65535.0
    else:
        scale = next(float(limit) for limit in (255, 65535, 2**31 - 1) if high <= limit)
    return np.rint(values.astype(np.float64) * (255.0 / scale)).astype(np.uint8)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0:
        raise ValueError(f"The given array has no pixels: its shape is {array.shape}.")
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ValueError(
            f"A picture array is [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; got shape {array.shape}"
            + (" (channels first: transpose it)." if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ".")
        )
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
            raise ValueError(f"A picture array holds integers or floats; got dtype {array.dtype}.")
        if np.issubdtype(array.dtype, np.floating) and array.max() > 1:
            raise ValueError(f"A floating-point picture array ranges from 0 to 1; its maximum is {array.max()}.")
        if np.issubdtype(array.dtype, np.integer) and array.dtype != np.uint16 and array.max() > 255:
            raise ValueError(f"A picture array of {array.dtype} ranges from 0 to 255; its maximum is {array.max()}.")
        array = _to_uint8(array, "The given array")
    return Image.fromarray(np.ascontiguousarray(array))


AutoImageProcessor.register(Emu2Config, slow_image_processor_class=Emu2ImageProcessor, exist_ok=True)
