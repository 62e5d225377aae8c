"""Drawn pictures read back without asking any model: which things stand where, how large, on what.

A picture is compared with renderings of the things it may show. First its background is found, then the rendering that
explains most of what differs from it, then the next beside it, until nothing is left that a rendering explains. Things
never overlap in the world, so what is explained once is out of the way of the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from emu2.evaluate.readings import Reading, Thing
from emu2.world.atlas import Atlas, default_atlas
from emu2.world.compose import MAX_OBJECTS, STYLES, TILTS, Style
from emu2.world.scene import BACKGROUNDS, BORDER, COLOURS, SIZES, Background, SceneObject

#: Side in pixels of the small copies that are searched; what is found there is settled at full size.
_SMALL = 48
#: Side of the search's transforms: no rendering reaches around the edge from one side of the picture to the other.
_FIELD = 2 * _SMALL
#: Of a pixel's squared difference from a background (three channels of 0 to 1), counted at most: whatever stands on it
#: differs as much as it likes.
_OTHER = 0.03
#: Likeness that a thing needs to be there.
_LEAST_LIKENESS = 0.6
#: Renderings that are compared at full size for each thing.
_RIVALS = 6
#: Finds that turn out to be nothing, before the search ends.
_DISAPPOINTMENTS = 6
#: Share of each side of a box that another thing may reach into.
_REACH = 0.15
#: What a find must explain, in variances of the noise on the bare background: noise alone explains about 40 of them at
#: the best of all places.
_ABOVE_NOISE = 60
#: Both sides are softened by this share of the picture's side before they are compared at full size, so that a drawing
#: need not be as sharp as a rendering; and pixels around a rendering that it reaches into then.
_SOFT, _MARGIN = 1 / 96, 3
#: The least contrast of a drawing, in that of the rendering.
_FAINTEST = 0.35
#: Of a mask, where a rendering counts as being there.
_VISIBLE = 0.1
#: Renderings whose transforms are kept: about 300 kB each.
_KEPT = 600


@dataclass(frozen=True)
class _Template:
    """One rendering of one emoji, and its box around its centre in shares of the picture's side."""

    emoji: int
    size: str
    rotation: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class _Renderings:
    """All renderings of one emoji: transforms complex64[T, 9, F, F // 2 + 1], and what they lose without a picture."""

    templates: list[_Template]
    transforms: np.ndarray
    constants: np.ndarray


class PictureReader:
    """Reads pictures of a world's style.

    Args:
        style: a style's name or the style itself: which backgrounds, sizes and tilts there are.
        candidates: emoji that pictures may show, by index in the atlas. The fewer, the faster; a drawing has to be
            nearer to its own emoji than to all others.
        sizes: sizes that things may have; the style's where left out.
        atlas: the drawings.
    """

    def __init__(
        self,
        style: str | Style,
        candidates: Iterable[int] = (),
        *,
        sizes: Sequence[str] | None = None,
        atlas: Atlas | None = None,
    ):
        self.atlas = atlas or default_atlas()
        self.style = STYLES[style] if isinstance(style, str) else style
        self.candidates = tuple(dict.fromkeys(candidates))
        self.sizes = tuple(sizes or self.style.sizes or ("small", "medium", "large"))
        self.turns = (0, *TILTS) if self.style.tilted else (0,)
        self.backgrounds = _backgrounds(self.style)
        self._bare = np.stack([_values(background.render(_SMALL)) for background in self.backgrounds])
        kept = max(8, _KEPT // (len(self.sizes) * len(self.turns)))
        self._renderings = lru_cache(maxsize=kept)(self._render)

    def read(
        self, picture: Image.Image, also: Iterable[int] = (), *, most: int = MAX_OBJECTS + 2, bordered: bool = False
    ) -> Reading:
        """What the picture shows.

        Args:
            also: emoji beside the candidates, such as those of the scene it shall show. Candidates that are drawn just
                like one of them are left out.
            most: things that are looked for at most.
            bordered: whether there may be a border, which then hides what lies under it.

        Raises:
            ValueError: the picture is not square.
        """
        picture = _square(picture)
        background = self.read_background(picture)
        border = self._read_border(_values(picture), background) if bordered else None
        small, full = (_with_border(background.render(side), border) for side in (_SMALL, picture.width))
        return Reading(tuple(self._things(picture, small, full, self._chosen(also), most)), background, border)

    def read_background(self, picture: Image.Image) -> Background:
        """The background that most of the picture is nearest to; border and things make no difference."""
        small = _small_copy(_square(picture))
        edge = round(BORDER * _SMALL) + 1
        errors = np.square(self._bare - small).sum(axis=3)[:, edge:-edge, edge:-edge]
        return self.backgrounds[int(np.minimum(errors, _OTHER).mean(axis=(1, 2)).argmin())]

    def foreground(self, picture: Image.Image, background: Background | None = None) -> np.ndarray:
        """bool[H, W]: where the picture differs from its background."""
        picture = _square(picture)
        background = background or self.read_background(picture)
        return np.square(_values(picture) - _values(background.render(picture.width))).sum(axis=2) > _OTHER

    def _chosen(self, also: Iterable[int]) -> list[int]:
        first = tuple(dict.fromkeys(also))
        looks = {_look(self.atlas, emoji) for emoji in first}
        return [*first, *(one for one in self.candidates if one not in first and _look(self.atlas, one) not in looks)]

    def _read_border(self, pixels: np.ndarray, background: Background) -> str | None:
        """The colour of the frame, where it is not just the background."""
        size = pixels.shape[0]
        edge = pixels[_frame(size)]

        def error(wanted: np.ndarray) -> float:
            return float(np.minimum(np.square(edge - wanted).sum(axis=1), 3 * _OTHER).mean())

        errors = {name: error(np.asarray(colour, np.float32) / 255) for name, colour in COLOURS.items()}
        nearest = min(errors, key=errors.__getitem__)
        own = error(_values(background.render(size))[_frame(size)])
        return nearest if errors[nearest] < 0.5 * own else None

    # The search ------------------------------------------------------------------------------------------------------

    def _things(
        self, picture: Image.Image, small_bare: Image.Image, full_bare: Image.Image, emoji: Sequence[int], most: int
    ) -> Iterator[Thing]:
        if not emoji:
            return
        renderings = [self._renderings(one) for one in emoji]
        templates = [template for one in renderings for template in one.templates]
        gains = _gains(_small_copy(picture), _values(small_bare), renderings)
        noise = float(np.median(np.square(_values(picture) - _values(full_bare)).sum(axis=2))) / 3
        pixels, bare = (_values(_softened(one, picture.width)) for one in (picture, full_bare))
        found = disappointed = 0
        while found < most and disappointed < _DISAPPOINTMENTS:
            best, y, x = map(int, np.unravel_index(int(gains.argmax()), gains.shape))
            if not gains[best, y, x] > 0:
                return
            top, left = max(0, y - 2), max(0, x - 2)
            near = gains[:, top : y + 3, left : x + 3]
            rivals = np.argsort(-near.max(axis=(1, 2)))[:_RIVALS]
            settled = []
            for number in rivals:
                down, across = divmod(int(near[number].argmax()), near.shape[2])
                centre = ((left + across + 0.5) / _SMALL, (top + down + 0.5) / _SMALL)
                settled.append(self._settle(templates[number], centre, pixels, bare))
            thing, gain = max(settled, key=lambda pair: pair[1])
            if thing.likeness < _LEAST_LIKENESS or gain < _ABOVE_NOISE * noise:
                gains[:, top : y + 3, left : x + 3] = -np.inf
                disappointed += 1
                continue
            found += 1
            yield thing
            _take_away(gains, templates, [edge / picture.width for edge in thing.box])

    def _settle(
        self, template: _Template, centre: tuple[float, float], pixels: np.ndarray, bare: np.ndarray
    ) -> tuple[Thing, float]:
        """A rendering at the best place around a centre, at full size, and how much it explains there."""
        size = pixels.shape[0]
        side = max(1, round(SIZES[template.size] * size))
        sprite = self.atlas.sprite(template.emoji, side, template.rotation)
        rendering = Image.new("RGBa", (sprite.mask.width + 2 * _MARGIN, sprite.mask.height + 2 * _MARGIN))
        sharp = Image.merge("RGBA", (*sprite.image.split(), sprite.mask)).convert("RGBa")
        rendering.paste(sharp, (_MARGIN, _MARGIN))
        values = np.asarray(_softened(rendering, size), np.float32) / 255
        colour, mask = values[..., :3], values[..., 3:]
        left, top = (round(middle * size - side / 2) for middle in centre)
        reach = max(1, round(size / _SMALL))
        best = (-np.inf, 0.0, left, top)
        for y in range(top - reach, top + reach + 1):
            for x in range(left - reach, left + reach + 1):
                corner = x + sprite.box[0] - _MARGIN, y + sprite.box[1] - _MARGIN
                measured = _explained(pixels, bare, colour, mask, *corner)
                best = max(best, (*measured, x, y))
        gain, likeness, left, top = best
        item = SceneObject(
            template.emoji,
            round((left + side / 2) / size, 4),
            round((top + side / 2) / size, 4),
            template.size,
            template.rotation,
        )
        return Thing(item, item.box(size, self.atlas), likeness), gain

    def _render(self, emoji: int) -> _Renderings:
        """Of the emoji in all sizes and tilts, what `_gains` needs."""
        templates, kernels, constants = [], [], []
        for size in self.sizes:
            side = max(1, round(SIZES[size] * _SMALL))
            for rotation in self.turns:
                sprite = self.atlas.sprite(emoji, side, rotation)
                colour, mask = _values(sprite.image), np.asarray(sprite.mask, np.float32)[..., None] / 255
                box = [edge / _SMALL - SIZES[size] / 2 for edge in sprite.box]
                templates.append(_Template(emoji, size, rotation, (box[0], box[1], box[2], box[3])))
                rows, columns = (
                    np.arange(start - side // 2, start - side // 2 + length) % _FIELD
                    for start, length in zip(sprite.box[1::-1], mask.shape[:2], strict=True)
                )
                kernel = np.zeros((_FIELD, _FIELD, 9), np.float32)
                kernel[rows[:, None], columns] = np.concatenate(
                    [mask * colour, -mask, -2 * mask**2 * colour, mask**2, mask > _VISIBLE], axis=2
                )
                kernels.append(kernel.transpose(2, 0, 1))
                constants.append(float(np.square(mask * colour).sum()))
        transforms = np.conj(np.fft.rfft2(np.stack(kernels))).astype(np.complex64)
        return _Renderings(templates, transforms, np.asarray(constants, np.float32))


def _gains(small: np.ndarray, bare: np.ndarray, renderings: Sequence[_Renderings]) -> np.ndarray:
    """float32[T, S, S]: how much of the picture each rendering explains (`_gain`), by its centre.

    What differs from the background, R, and what the rendering changes of it, C = a (S - B) with its colour S and mask
    a on the background B, come into it as RC, C^2 and R^2 summed over the rendering: three sums of correlations.
    """
    rest = small - bare
    planes = np.concatenate(
        [
            rest,
            (rest * bare).sum(axis=2, keepdims=True),
            bare,
            np.square(bare).sum(axis=2, keepdims=True),
            np.square(rest).sum(axis=2, keepdims=True),
        ],
        axis=2,
    )
    field = np.fft.rfft2(planes.transpose(2, 0, 1), (_FIELD, _FIELD)).astype(np.complex64)
    result = []
    for one in renderings:
        sums = [
            np.einsum("tcyx,cyx->tyx", one.transforms[:, part], field[part])
            for part in (np.s_[:4], np.s_[4:8], np.s_[8:])
        ]
        both, own, there = np.fft.irfft2(np.stack(sums), (_FIELD, _FIELD))[..., :_SMALL, :_SMALL]
        result.append(_gain(both, own + one.constants[:, None, None], there))
    return np.concatenate(result).astype(np.float32)


def _explained(
    pixels: np.ndarray, bare: np.ndarray, colour: np.ndarray, mask: np.ndarray, left: int, top: int
) -> tuple[float, float]:
    """What a rendering at (left, top) explains of the picture, as `_gains` counts it, and its likeness."""
    size = pixels.shape[0]
    x, y = max(0, left), max(0, top)
    right, bottom = min(size, left + mask.shape[1]), min(size, top + mask.shape[0])
    if x >= right or y >= bottom:
        return -np.inf, 0.0
    inner = np.s_[y - top : bottom - top, x - left : right - left]
    behind = bare[y:bottom, x:right]
    change = colour[inner] - mask[inner] * behind  # the colour is multiplied by its mask already
    rest = (pixels[y:bottom, x:right] - behind) * (mask[inner] > _VISIBLE)
    own, there, both = (float((a * b).sum()) for a, b in ((change, change), (rest, rest), (rest, change)))
    return float(_gain(both, own, there)), 2 * both / max(own + there, 1e-6)


def _gain(both: Any, own: Any, there: Any) -> Any:
    """What there is to explain, less twice what a rendering leaves of it.

    Counted once, what is wrong would cost a large rendering over several small things less than it gains. Drawings of
    small models are faint where they are unsure, so the rendering may be fainter than it is, down to a limit.

    Args:
        both, own, there: RC, C^2 and R^2, summed over the rendering.
    """
    faint = np.clip(both / np.maximum(own, 1e-6), _FAINTEST, 1.0)
    return 4 * faint * both - 2 * faint**2 * own - there


def _take_away(gains: np.ndarray, templates: Sequence[_Template], box: Sequence[float]) -> None:
    """Rule out all places where a rendering would overlap what was found in a box (shares of the side)."""
    left, top, right, bottom = box
    across, down = _REACH * (right - left), _REACH * (bottom - top)
    for row, template in zip(gains, templates, strict=True):
        first_x, last_x = left + across - template.box[2], right - across - template.box[0]
        first_y, last_y = top + down - template.box[3], bottom - down - template.box[1]
        x, end_x, y, end_y = (max(0, round(edge * _SMALL)) for edge in (first_x, last_x, first_y, last_y))
        row[y:end_y, x:end_x] = -np.inf


def _backgrounds(style: Style) -> list[Background]:
    """All that a style has."""
    found = [Background("plain", (colour,)) for colour in style.colours]
    if style.plain < 1:
        pairs = list(permutations(style.colours, 2))
        found += [Background(kind, pair) for kind in BACKGROUNDS if kind != "plain" for pair in pairs]
    return found


@lru_cache(maxsize=4096)
def _look(atlas: Atlas, emoji: int) -> bytes:
    return atlas.drawing(emoji).tobytes()


def _frame(size: int) -> np.ndarray:
    """bool[size, size]: the pixels of a border."""
    width = max(1, round(BORDER * size))
    mask = np.ones((size, size), bool)
    mask[width:-width, width:-width] = False
    return mask


def _with_border(picture: Image.Image, border: str | None) -> Image.Image:
    picture = picture.copy()
    if border is not None:
        picture.paste(COLOURS[border], (0, 0), Image.fromarray(_frame(picture.width)))
    return picture


def _square(picture: Image.Image) -> Image.Image:
    if picture.width != picture.height:
        raise ValueError(f"Pictures of the world are square; this one has {picture.width} x {picture.height} pixels.")
    return picture.convert("RGB")


def _softened(picture: Image.Image, size: int) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(_SOFT * size))


def _small_copy(picture: Image.Image) -> np.ndarray:
    how = Image.Resampling.BOX if picture.width >= _SMALL else Image.Resampling.BICUBIC
    return _values(picture.resize((_SMALL, _SMALL), how))


def _values(picture: Image.Image) -> np.ndarray:
    """float32[H, W, 3] from 0 to 1, a copy."""
    return np.asarray(picture.convert("RGB"), np.float32) / 255
