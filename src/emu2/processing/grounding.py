"""Boxes: drawn as pictures for the model to read, and written as `<patch_index_NNNN>` tokens.

Two forms are published. For image generation a box is a picture, a white outline on black (file Emu2/README.md). In
text a box is four tokens, left, top, right, bottom on a grid of 0 to 224 over the picture, whatever its size.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from emu2 import tokens

#: Side of a box picture and width of its outline in pixels (published function draw_box).
BOX_PICTURE_SIZE = 448
BOX_LINE_WIDTH = 3

_INDEX = re.compile(r"<patch_index_(\d{4})>")
_DELIMITER = re.compile(re.escape(tokens.OBJECT_DELIMITER))
#: A run of box tokens, with whatever a model may write between them: white space, brackets, commas, delimiters.
_RUN = re.compile(rf"{_INDEX.pattern}(?:(?:[\s,\[\]()]|{_DELIMITER.pattern})*{_INDEX.pattern})*")
_PHRASE_BEFORE = re.compile(
    rf"{re.escape(tokens.PHRASE)}((?:(?!{re.escape(tokens.PHRASE)}).)*?){re.escape(tokens.PHRASE_END)}"
    rf"\s*(?:{re.escape(tokens.OBJECT)})?[\s\[(]*$",
    re.DOTALL,
)


@dataclass(frozen=True)
class Box:
    """A rectangle in a picture, with the phrase it belongs to and the object that shall stand in it.

    Args:
        xyxy: left, top, right, bottom in pixels of a picture of `size`.
        phrase: words for what is in the box, without special tokens.
        size: width and height of the picture the pixels refer to.
        image: picture of the object, in any form `load_image` takes; subject-driven generation puts it in the box.

    Raises:
        ValueError: not four finite numbers, corners in the wrong order, or a box outside the picture.
    """

    xyxy: tuple[float, float, float, float]
    phrase: str | None = None
    size: tuple[int, int] = (BOX_PICTURE_SIZE, BOX_PICTURE_SIZE)
    image: Any = None

    def __post_init__(self) -> None:
        width, height = self.size
        if width <= 0 or height <= 0:
            raise ValueError(f"A box needs a picture with pixels; size={self.size} (width, height).")
        box = tuple(self.xyxy)
        if len(box) != 4 or not all(math.isfinite(value) for value in box):
            raise ValueError(f"A box is four finite numbers (left, top, right, bottom); got {self.xyxy}.")
        left, top, right, bottom = box
        if left > right or top > bottom:
            raise ValueError(f"A box is (left, top, right, bottom) with left <= right and top <= bottom; got {box}.")
        if left < 0 or top < 0 or right > width or bottom > height:
            raise ValueError(
                f"Box {box} lies outside its picture of {width}x{height} pixels: left and right range from 0 to "
                f"{width}, top and bottom from 0 to {height}. Give the picture's own size as size=(width, height)."
            )
        if self.phrase is not None:
            found = [token for token in tokens.special_tokens(chat=True) if token in self.phrase]
            if found:
                raise ValueError(f"A box's phrase is plain text; {self.phrase!r} holds the special token {found[0]}.")
        object.__setattr__(self, "xyxy", box)

    def draw(self) -> Image.Image:
        """The box as the model reads it: 448x448 RGB, black, with a white outline 3 pixels wide."""
        scale_x, scale_y = (BOX_PICTURE_SIZE / side for side in self.size)
        scales, last = (scale_x, scale_y, scale_x, scale_y), BOX_PICTURE_SIZE - 1
        corners = [min(round(value * scale), last) for value, scale in zip(self.xyxy, scales, strict=True)]
        picture = Image.new("RGB", (BOX_PICTURE_SIZE, BOX_PICTURE_SIZE))
        ImageDraw.Draw(picture).rectangle(corners, outline=(255, 255, 255), width=BOX_LINE_WIDTH)
        return picture

    def to_indices(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom on the grid of 0 to 224."""
        width, height = self.size
        sides = (width, height, width, height)
        left, top, right, bottom = (
            round(value / side * tokens.GROUNDING_RESOLUTION) for value, side in zip(self.xyxy, sides, strict=True)
        )
        return left, top, right, bottom

    def to_tokens(self) -> str:
        """`<phrase>...</phrase><object>` + four `<patch_index_NNNN>` + `</object>`; no phrase where there is none."""
        return grounded_text(self.phrase, [self])


@dataclass(frozen=True)
class GroundedPhrase:
    """A phrase (None where the text gives none) and its boxes, in pixels of the picture asked for."""

    phrase: str | None
    boxes: tuple[Box, ...]


def grounded_text(phrase: str | None, boxes: list[Box]) -> str:
    """Text of a phrase with one or more boxes, `</delimiter_of_multi_objects/>` between them."""
    if not boxes:
        raise ValueError("A grounded phrase needs at least one box.")
    written = tokens.OBJECT_DELIMITER.join("".join(map(tokens.patch_index, box.to_indices())) for box in boxes)
    named = f"{tokens.PHRASE}{phrase}{tokens.PHRASE_END}" if phrase is not None else ""
    return f"{named}{tokens.OBJECT}{written}{tokens.OBJECT_END}"


def parse_grounding(
    text: str, size: tuple[int, int] | Image.Image = (BOX_PICTURE_SIZE, BOX_PICTURE_SIZE)
) -> list[GroundedPhrase]:
    """The boxes in a model's answer, in pixels of the picture asked about: `size` is it, or its (width, height).

    Decode the answer with special tokens kept. Read are `<phrase>...</phrase><object>...</object>`, objects without a
    phrase, and bare runs of box tokens. Answers come from a model, so this is lenient: fewer than four tokens at the
    end of a box are dropped, indices above 224 count as 224, swapped corners are put in order.
    """
    size = size.size if isinstance(size, Image.Image) else size
    found = []
    for run in _RUN.finditer(text):
        boxes = []
        for group in _DELIMITER.split(run.group()):
            indices = [min(int(index), tokens.GROUNDING_RESOLUTION) for index in _INDEX.findall(group)]
            boxes += [_box(indices[start : start + 4], size) for start in range(0, len(indices) - 3, 4)]
        if not boxes:
            continue
        named = _PHRASE_BEFORE.search(text, 0, run.start())
        phrase = named.group(1).strip() if named else None
        if phrase is not None:
            boxes = [Box(box.xyxy, _plain(phrase), size) for box in boxes]
        found.append(GroundedPhrase(phrase, tuple(boxes)))
    return found


def _box(indices: list[int], size: tuple[int, int]) -> Box:
    (left, right), (top, bottom) = sorted(indices[0::2]), sorted(indices[1::2])
    width, height = size
    grid = tokens.GROUNDING_RESOLUTION
    return Box((left / grid * width, top / grid * height, right / grid * width, bottom / grid * height), None, size)


def _plain(phrase: str) -> str | None:
    """The phrase for a `Box`; None where a model wrote special tokens into it."""
    return None if any(token in phrase for token in tokens.special_tokens(chat=True)) else phrase
