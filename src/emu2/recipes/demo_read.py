"""Reading a scene back, from a caption or from pixels, without asking the model: what the demo's figures rest on."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from emu2.world import Background, Scene, SceneObject, World

_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}


@dataclass(frozen=True)
class Reading:
    """things: place -> short name. background: its colour."""

    things: dict[str, str]
    background: str

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(self.things.values()))


def truth_of(facts: dict[str, Any]) -> Reading:
    """The reading of a record's own truth (`truth["scene"]`)."""
    return Reading({item["place"]: item["name"] for item in facts["objects"]}, facts["background"]["colours"][0])


def caption_counts(caption: str, nouns: dict[str, str]) -> dict[str, int]:
    """Short name -> how many, as the first clause of a caption says.

    Args:
        nouns: singular or plural -> short name.
    """
    clause = caption.split(";")[0].split(" on a")[0]
    words = "|".join(sorted(map(re.escape, nouns), key=len, reverse=True))
    found = re.findall(rf"\b({'|'.join(_NUMBERS)}) ({words})\b", clause)
    counts: Counter[str] = Counter()
    for number, noun in found:
        counts[nouns[noun]] += _NUMBERS[number]
    return dict(counts)


def caption_background(caption: str) -> str:
    """The colour that a caption names; empty where it names none."""
    found = re.search(r"on an? (\w+) background", caption)
    return found.group(1) if found else ""


class PixelReader:
    """Reads pictures of the style "corners" by the nearest rendering of each quarter: emoji or nothing, on each colour.

    It knows nothing of the model, so a drawing that it reads right shows the right things in the right places.
    """

    def __init__(self, world: World):
        studio = world.studio
        side = world.config.image_size
        self._half = side // 2
        self._colours = studio.style.colours
        self._places = studio.style.places
        atlas = studio.atlas
        self.nouns = {word: emoji.noun for emoji in studio.pool for word in (emoji.noun, emoji.plural)}
        # One object in every corner, its centre as scenes of this style have it.
        self._names = ["", *(emoji.noun for emoji in studio.pool)]
        centres = self._centres(world)
        templates = np.zeros((len(self._colours), len(self._names), 4, self._half, self._half, 3), np.float32)
        for c, colour in enumerate(self._colours):
            background = Background("plain", (colour,))
            for n, emoji in enumerate([None, *studio.pool]):
                objects = (
                    tuple(
                        SceneObject(emoji.index, *centres[emoji.index, p], studio.style.sizes[0]) for p in self._places
                    )
                    if emoji
                    else ()
                )
                templates[c, n] = self._quarters(Scene(objects, background).render(side, atlas))
        self._templates = templates

    def _centres(self, world: World) -> dict[tuple[int, str], tuple[float, float]]:
        """(emoji, place) -> centre, asked of the world's own arranging."""
        from emu2.world.compose import arrange
        from emu2.world.dice import Dice

        studio = world.studio
        centres: dict[tuple[int, str], tuple[float, float]] = {}
        for emoji in studio.pool:
            for item in arrange(Dice("reader"), [emoji.index] * 4, studio.style, studio.atlas):
                centres[emoji.index, item.place] = (item.x, item.y)
        return centres

    def _quarters(self, picture: Image.Image) -> np.ndarray:
        """float32[4, h, h, 3]: top left, top right, bottom left, bottom right."""
        values, h = np.asarray(picture.convert("RGB"), np.float32), self._half
        return np.stack([values[:h, :h], values[:h, h:], values[h:, :h], values[h:, h:]])

    def read(self, picture: Image.Image) -> Reading:
        """What the picture shows, each quarter by its nearest rendering on the colour that fits all four best."""
        errors = np.square(self._templates - self._quarters(picture)).mean(axis=(3, 4, 5))
        colour = int(errors.min(axis=1).sum(axis=1).argmin())
        names = [self._names[int(n)] for n in errors[colour].argmin(axis=0)]
        order = ("top left", "top right", "bottom left", "bottom right")
        return Reading({p: name for p, name in zip(order, names, strict=True) if name}, self._colours[colour])


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB pictures of one size, in dB; 99 where they are equal."""
    a, b = (np.asarray(picture.convert("RGB"), np.float64) for picture in (one, other))
    error = float(np.square(a - b).mean())
    return 99.0 if error == 0 else float(10 * np.log10(255.0**2 / error))
