"""Preprocessing against the recorded pictures: bytes after the resize, floats after normalisation, box pictures."""

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from emu2 import Box, Emu2ImageProcessor

#: Pillow 13 resizes differently (by up to 8 levels) where a picture shrinks in one direction and grows in the other.
OLD_PILLOW = int(PIL.__version__.split(".")[0]) < 13


@pytest.mark.parametrize(
    ("image", "size"), [("img0", 224), ("img1", 224), ("img2", 224), ("img3", 224), ("img0", 448), ("img1", 448)]
)
def test_resize_is_exact(load_parity, parity_dir, image, size):
    resized = np.asarray(Emu2ImageProcessor(size).resize(parity_dir / "images" / f"{image}.png"))
    if OLD_PILLOW:
        recorded = load_parity("preprocess_pillow12")[0]
    elif size == 448:
        recorded = load_parity("preprocess_448")[0]
    else:
        pytest.skip("Pillow 13's bytes at 224 pixels are recorded as floats only")
    assert np.array_equal(resized, recorded[f"{image}.s{size}.resized_u8"].numpy())


def test_resize_of_a_picture_that_shrinks_both_ways(load_parity, parity_dir):
    """517x449 to 448x448: every Pillow gives the same bytes."""
    resized = np.asarray(Emu2ImageProcessor(448).resize(parity_dir / "images" / "img3.png"))
    assert np.array_equal(resized, load_parity("preprocess_448")[0]["img3.s448.resized_u8"].numpy())


@pytest.mark.parametrize("image", ["img0", "img1", "img2", "img3"])
def test_normalisation_is_bit_equal(load_parity, parity_dir, image):
    """From the recorded bytes, and end to end where this Pillow resizes as the recording one did."""
    recorded = load_parity("preprocess")[0]
    expected = recorded[f"{image}.s224"]
    resized_elsewhere = load_parity("preprocess_pillow12")[0][f"{image}.s224.resized_u8"].numpy()
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (Emu2ImageProcessor().image_mean, Emu2ImageProcessor().image_std)
    )
    bytes_recorded = (expected * std + mean).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    processor = Emu2ImageProcessor(224)
    from_bytes = processor(Image.fromarray(bytes_recorded))["pixel_values"]
    assert torch.equal(from_bytes[0], expected)
    if not OLD_PILLOW or np.array_equal(resized_elsewhere, bytes_recorded):
        assert torch.equal(processor(parity_dir / "images" / f"{image}.png")["pixel_values"][0], expected)


@pytest.mark.parametrize("image", ["img0", "img1"])
def test_full_size_pictures(load_parity, image):
    """The 448-pixel pictures the chat cases were fed pass through unchanged and normalise to the recorded values."""
    recorded = load_parity("preprocess")[0]
    fed = load_parity("preprocess_448")[0][f"{image}.s448.resized_u8"].numpy()
    processor = Emu2ImageProcessor(448)
    assert np.array_equal(np.asarray(processor.resize(fed)), fed)
    pixels = processor(fed)["pixel_values"][0]
    assert torch.equal(pixels[:, ::16, ::16], recorded[f"{image}.s448.strided"])


@pytest.mark.parametrize(("name", "corners"), [("box0", (30, 40, 210, 260)), ("box1", (230, 60, 430, 300))])
def test_box_pictures(parity_dir, name, corners):
    expected = np.asarray(Image.open(parity_dir / "images" / f"{name}.png").convert("RGB"))
    assert np.array_equal(np.asarray(Box(corners).draw()), expected)
    half = tuple(value / 2 for value in corners)
    assert np.array_equal(np.asarray(Box(half, size=(224, 224)).draw()), expected)
