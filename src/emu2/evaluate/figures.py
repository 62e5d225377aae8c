"""Figures with the interval they are known within, and how alike two pictures are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

#: Of the standard normal distribution: 95 % lie within so many deviations.
_Z = 1.959964
_RESAMPLES = 2000
#: What PSNR says of equal pictures, in dB.
_EQUAL = 99.0
#: Pixels that a masked comparison needs at least.
_LEAST_PIXELS = 16


@dataclass(frozen=True)
class Figure:
    """A measured value with its 95 % interval; n: how many measurements it is of."""

    value: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high


def share(rights: Sequence[bool]) -> Figure:
    """How often something is so, with Wilson's interval, which holds near 0 and 1 and for few measurements too.

    Raises:
        ValueError: nothing was measured.
    """
    n = _count(rights)
    p = sum(map(bool, rights)) / n
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return Figure(p, min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half)), n)


def mean(values: Sequence[float], *, groups: Sequence[int] | None = None, seed: int = 0) -> Figure:
    """A mean with its bootstrap interval. For a difference of two measurements of the same things give the differences.

    Args:
        groups: the group of each value: then it is the mean of the groups' means, and each is drawn from by itself.
        seed: of the resampling.

    Raises:
        ValueError: nothing was measured, or there are not as many groups as values.
    """
    n = _count(values)
    if groups is not None and len(groups) != n:
        raise ValueError(f"{n} values have {len(groups)} groups; give each value its group.")
    generator = np.random.default_rng(seed)
    table = np.asarray(values, np.float64)
    kinds = np.zeros(n, int) if groups is None else np.asarray(groups)
    parts = [table[kinds == kind] for kind in dict.fromkeys(kinds.tolist())]
    drawn = np.mean([part[generator.integers(0, len(part), (_RESAMPLES, len(part)))].mean(axis=1) for part in parts], 0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Figure(float(np.mean([part.mean() for part in parts])), float(low), float(high), n)


def _count(values: Sequence[object]) -> int:
    if not len(values):
        raise ValueError("There is nothing to take a figure of: no measurements.")
    return len(values)


# Pictures ------------------------------------------------------------------------------------------------------------


def psnr(one: Image.Image, other: Image.Image, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio of two RGB pictures of one size, in dB; 99 where they are equal.

    Args:
        mask: bool[H, W], the pixels that are compared; all where left out.

    Raises:
        ValueError: pictures of different sizes, or a mask of (almost) nothing.
    """
    a, b = _pair(one, other)
    squares = np.square(a - b)
    if mask is not None:
        if mask.sum() < _LEAST_PIXELS:
            raise ValueError(
                f"The mask leaves {int(mask.sum())} pixels to compare; at least {_LEAST_PIXELS} are needed."
            )
        squares = squares[mask]
    error = float(squares.mean())
    return _EQUAL if error == 0 else min(_EQUAL, float(10 * np.log10(255.0**2 / error)))


def ssim(one: Image.Image, other: Image.Image) -> float:
    """Structural similarity of two RGB pictures of one size, as scikit-image has it: 1 for equal ones.

    Raises:
        ImportError: scikit-image is not installed.
        ValueError: pictures of different sizes, or smaller than its window of 7 pixels.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise ImportError("SSIM needs scikit-image: pip install 'emu2[eval]'.") from error
    a, b = _pair(one, other)
    return float(structural_similarity(a, b, channel_axis=2, data_range=255.0))


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes, each (left, top, right, bottom)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both) if areas > both else 0.0


def similarities(ones: Tensor, others: Tensor) -> list[float]:
    """Cosines of pictures' features, row by row: the paper's CLIP-I, with the vision tower of the model itself.

    Args:
        ones, others: float[pictures, embeddings, width], as `Emu2.embed` gives them for a picture; their embeddings are
            averaged.
    """
    from torch.nn.functional import cosine_similarity

    return cosine_similarity(ones.float().mean(dim=1), others.float().mean(dim=1), dim=1).tolist()


def _pair(one: Image.Image, other: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    if one.size != other.size:
        raise ValueError(f"Pictures of {one.size} and {other.size} pixels cannot be compared; resize one of them.")
    a, b = (np.asarray(picture.convert("RGB"), np.float64) for picture in (one, other))
    return a, b
