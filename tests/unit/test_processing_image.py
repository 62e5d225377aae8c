"""Pictures as people have them, and the errors for those nobody can read."""

import base64
import hashlib
import io

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageSequence

from emu2 import Emu2ImageProcessor
from emu2.processing.image import load_data_url, load_image


def encoded(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format=form, **options)
    return buffer.getvalue()


def pixel(picture, x=0, y=0):
    return picture.getpixel((x, y))


@pytest.fixture
def two_colours():
    """4x2: left half red, right half blue."""
    picture = Image.new("RGB", (4, 2), (255, 0, 0))
    picture.paste((0, 0, 255), (2, 0, 4, 2))
    return picture


@pytest.mark.parametrize("kind", ["pil", "path", "string", "bytes", "array"])
def test_every_source_gives_the_same(two_colours, tmp_path, kind):
    file = tmp_path / "picture.png"
    file.write_bytes(encoded(two_colours))
    source = {
        "pil": two_colours,
        "path": file,
        "string": str(file),
        "bytes": file.read_bytes(),
        "array": np.asarray(two_colours),
    }[kind]
    loaded = load_image(source)
    assert loaded.mode == "RGB"
    assert np.array_equal(np.asarray(loaded), np.asarray(two_colours))


def test_the_given_picture_is_left_alone(two_colours):
    loaded = load_image(two_colours)
    loaded.putpixel((0, 0), (1, 2, 3))
    assert pixel(two_colours) == (255, 0, 0)


def test_exif_orientation(two_colours):
    """Orientation 6: the camera was turned, the picture must be turned clockwise to stand upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = load_image(encoded(two_colours, exif=exif.tobytes()))
    assert upright.size == (2, 4)
    assert pixel(upright, 0, 0) == (255, 0, 0)
    assert pixel(upright, 0, 3) == (0, 0, 255)


def test_transparency_lies_over_white():
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    half.putpixel((1, 0), (0, 0, 0, 128))
    for picture in (half, half.convert("LA")):
        loaded = load_image(encoded(picture))
        assert pixel(loaded, 0) == (255, 255, 255)
        assert pixel(loaded, 1) == (127, 127, 127)
    premultiplied = load_image(half.convert("RGBa"))
    assert pixel(premultiplied, 0) == (255, 255, 255)


def test_palette_with_and_without_transparency():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert pixel(load_image(encoded(palette)), 1) == (40, 50, 60)
    transparent = load_image(encoded(palette, transparency=1))
    assert (pixel(transparent, 0), pixel(transparent, 1)) == ((10, 20, 30), (255, 255, 255))
    grey = load_image(encoded(Image.new("L", (1, 1), 7), transparency=7))
    assert pixel(grey) == (255, 255, 255)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit(form):
    deep = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    loaded = load_image(encoded(deep, form))
    assert [pixel(loaded, x)[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize(("values", "expected"), [([0, 100, 255], [0, 100, 255]), ([0, 32768, 65535], [0, 128, 255])])
def test_mode_i_takes_the_smallest_full_scale(values, expected):
    loaded = load_image(Image.fromarray(np.array([values], dtype=np.int32)))
    assert [pixel(loaded, x)[0] for x in range(3)] == expected


@pytest.mark.parametrize("values", [[0.0, 0.5, 1.0], [0.0, 127.5, 255.0]])
def test_mode_f(values):
    loaded = load_image(Image.fromarray(np.array([values], dtype=np.float32)))
    assert [pixel(loaded, x)[0] for x in range(3)] == [0, 128, 255]


def test_cmyk_grey_and_black_and_white():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = pixel(load_image(encoded(cmyk, "JPEG", quality=95)))
    assert red > 245
    assert max(green, blue) < 10
    assert pixel(load_image(encoded(Image.new("L", (1, 1), 99)))) == (99, 99, 99)
    assert pixel(load_image(encoded(Image.new("1", (1, 1), 1)))) == (255, 255, 255)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(data))))) == 2
    assert pixel(load_image(data)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((1, 1), 200, np.uint8), 200),
        (np.full((1, 1, 1), 200, np.int64), 200),
        (np.full((1, 1), 65535, np.uint16), 255),
        (np.full((1, 1, 3), 0.5, np.float32), 128),
        (np.full((1, 1), True), 255),
        (np.array([[[200, 200, 200, 255]]], np.uint8), 200),
    ],
)
def test_arrays(array, expected):
    assert pixel(load_image(array)) == (expected,) * 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"got shape \(3, 8, 8\) \(channels first: transpose it\)"),
        (np.zeros((0, 8, 3), np.uint8), r"has no pixels: its shape is \(0, 8, 3\)"),
        (np.full((2, 2), 7.0), "floating-point picture array ranges from 0 to 1; its maximum is 7.0"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.full((2, 2), -1), "negative values, down to -1"),
        (np.full((2, 2), 300), "int64 ranges from 0 to 255; its maximum is 300"),
        (np.full((2, 2), "x"), "holds integers or floats; got dtype <U1"),
        (Image.new("RGB", (0, 5)), "The given picture has no pixels: it is 0x5"),
        (b"", r"The picture of 0 bytes is empty"),
        (b"hello, this is text", "The picture of 19 bytes is not a picture in a known format"),
        (42, "A picture is a PIL image, a path, the bytes of a file or a numpy array; got int"),
        ("missing.png", "Picture missing.png cannot be read: No such file"),
        (Image.fromarray(np.full((2, 2), 1e6, np.float32)), r"holds floating-point values up to 1000000"),
    ],
)
def test_unreadable(source, message):
    with pytest.raises(ValueError, match=message):
        load_image(source)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP"])
def test_truncated(tmp_path, form):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, form)
    file = tmp_path / f"half.{form.lower()}"
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=f"Picture .*half.{form.lower()} is (truncated or broken|not a picture)"):
        load_image(file)


def test_directory(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        load_image(tmp_path)


def test_size_limits(tmp_path, monkeypatch):
    file = tmp_path / "huge.png"
    file.write_bytes(encoded(Image.new("1", (3000, 2000))))
    with pytest.raises(ValueError, match=r"huge.png is too large: 3000x2000 is 6000000 pixels, the limit is 1000000"):
        load_image(file, max_pixels=1_000_000)
    with pytest.raises(ValueError, match="The given picture is too large: 3000x2000"):
        load_image(Image.new("1", (3000, 2000)), max_pixels=1_000_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)  # Pillow's own refusal reads the same
    with pytest.raises(ValueError, match=r"huge.png is too large: .*decompression bomb"):
        load_image(file)


def test_programs_are_not_started():
    """EPS would start Ghostscript; it is not among the formats that are opened."""
    with pytest.raises(ValueError, match="not a picture in a known format"):
        load_image(encoded(Image.new("RGB", (2, 2)), "EPS"))


def test_data_url(two_colours):
    body = base64.b64encode(encoded(two_colours)).decode()
    assert pixel(load_data_url(f"data:image/png;base64,{body}")) == (255, 0, 0)
    for url, message in (
        ("https://example.org/cat.png", r"nothing is fetched; got 'https://example.org/cat.png'"),
        ("file:///etc/passwd", "Only data: URLs are read"),
        ("data:image/png;base64,@@@", "broken base64"),
        ("data:image/png,xyz", "reads 'data:image/png;base64,...'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_data_url(url)


def test_processor_values(two_colours):
    """Squashed to the square whatever the aspect, CHW, CLIP's mean and deviation."""
    processor = Emu2ImageProcessor(2)
    pixels = processor([two_colours, Image.new("RGB", (9, 5), (255, 0, 51))])["pixel_values"]
    assert pixels.shape == (2, 3, 2, 2)
    assert pixels.dtype == torch.float32
    assert pixels[0, 0, 0, 0] > 0 > pixels[0, 0, 0, 1]  # red on the left only
    for channel, (value, mean, std) in enumerate(
        [(1.0, 0.48145466, 0.26862954), (0.0, 0.4578275, 0.26130258), (0.2, 0.40821073, 0.27577711)]
    ):
        assert pixels[1, channel].flatten().tolist() == pytest.approx([(value - mean) / std] * 4, abs=1e-6)
    assert isinstance(processor(two_colours, return_tensors="np")["pixel_values"], np.ndarray)


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) >= 13, reason="Pillow 13 resizes differently")
def test_golden_bytes():
    """A picture that shrinks in one direction and grows in the other, as Pillow 10 to 12 resize it."""
    y, x = np.mgrid[0:40, 0:300]
    picture = np.stack([x * 7 % 256, y * 31 % 256, (x * y) % 256], axis=-1).astype(np.uint8)
    resized = np.asarray(Emu2ImageProcessor(64).resize(picture))
    assert hashlib.sha256(resized.tobytes()).hexdigest()[:16] == "1a5c1359254caf67"


def test_processor_saves_and_loads(tmp_path):
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    Emu2ImageProcessor(56, max_pixels=1000).save_pretrained(tmp_path)
    for load in (Emu2ImageProcessor, AutoImageProcessor):
        loaded = load.from_pretrained(tmp_path)
        assert type(loaded) is Emu2ImageProcessor
        assert (loaded.image_size, loaded.max_pixels, len(loaded.image_mean)) == (56, 1000, 3)


def test_processor_errors(two_colours):
    with pytest.raises(ValueError, match=r"images\[1\]: The picture of 3 bytes is not a picture"):
        Emu2ImageProcessor(8)([two_colours, b"abc"])
    with pytest.raises(ValueError, match="No pictures given"):
        Emu2ImageProcessor(8)([])
    with pytest.raises(ValueError, match="size is a positive number of pixels"):
        Emu2ImageProcessor(0)
    with pytest.raises(ValueError, match="size is a positive number of pixels"):
        Emu2ImageProcessor({"height": 4, "width": 5})
    with pytest.raises(TypeError, match="takes no argument do_center_crop"):
        Emu2ImageProcessor(8)(two_colours, do_center_crop=True)
