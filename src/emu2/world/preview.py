"""Contact sheets: records as a person reads them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from emu2.data.records import Record
from emu2.processing.grounding import Box

if TYPE_CHECKING:
    from emu2.processing.video import Video

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_INK, _ANSWER, _PAPER, _FAINT = (40, 40, 46), (0, 128, 64), (252, 252, 250), (150, 150, 158)
_BOX = (255, 0, 160)
_MARGIN, _TEXT_WIDTH, _LINE, _FONT_SIZE = 8, 150, 15, 12
#: Letters of the built-in font at this size are at most about this wide on average, in pixels.
_LETTER = 6.2
#: Side of a clip's frames, as a share of that of pictures.
_FRAME = 0.7
#: A box of four tokens, which is shown as "[84 84 145 145]".
_BOX_TOKENS = re.compile(r"<patch_index_0*(\d+)>" * 4)


def contact_sheet(records: Iterable[Record], width: int = 1200, picture: int = 96, boxes: bool = False) -> Image.Image:
    """One picture of many records: segments from left to right, what is to be learned in green.

    width: of the sheet, in pixels. picture: side at which pictures are shown. boxes: draws the boxes of the objects.

    Raises:
        ValueError: the sheet is too narrow for a picture.
    """
    if width < picture + 2 * _MARGIN or width < _TEXT_WIDTH + 2 * _MARGIN:
        raise ValueError(f"A sheet of {width} pixels is too narrow for pictures of {picture}; make it wider.")
    font = ImageFont.load_default(_FONT_SIZE)
    strips = [_strip(record, width, picture, boxes, font) for record in records]
    places, bottom = _flow(strips, width, 0)
    sheet = Image.new("RGB", (width, max(1, bottom)), _PAPER)
    for strip, place in zip(strips, places, strict=True):
        sheet.paste(strip, place)
    return sheet


def _flow(tiles: list[Image.Image], width: int, gap: int) -> tuple[list[tuple[int, int]], int]:
    """Where tiles go when they are laid out as words are, and where the last line ends."""
    places, left, top, line = [], 0, 0, 0
    for tile in tiles:
        if left and left + tile.width > width:
            left, top, line = 0, top + line + gap, 0
        places.append((left, top))
        left += tile.width + gap
        line = max(line, tile.height)
    return places, top + line


def learned_positions(record: Record) -> set[int]:
    """Which segments are to be learned: the assistant's in a conversation; none where the whole document is."""
    if record.turns is not None:
        roles = [role for role, content in record.turns for _ in content]
        return {position for position, role in enumerate(roles) if role == "assistant"}
    learned = len(record.segments) if record.answer_from is None else record.answer_from
    return set(range(learned, len(record.segments)))


def _scenes(record: Record) -> Iterator[dict]:
    """The facts of the record's pictures, in their order."""
    truth = record.truth
    if "scenes" in truth:
        yield from truth["scenes"]
    else:
        yield from (item["scene"] for item in truth.get("demonstrations", ()))
        if "scene" in truth:
            yield truth["scene"]


def _strip(record: Record, width: int, picture: int, boxes: bool, font: _Font) -> Image.Image:
    learned = learned_positions(record)
    scenes = _scenes(record)
    tiles = []
    for position, segment in enumerate(record.segments):
        colour = _ANSWER if position in learned else _INK
        if isinstance(segment, str):
            tiles.append(_text_tile(segment, colour, picture, width, font))
        elif isinstance(segment, Image.Image):
            scene = next(scenes, None) if boxes else None
            tiles.append(_picture_tile(segment, colour, picture, scene))
        elif isinstance(segment, Box):
            if segment.phrase:
                tiles.append(_text_tile(segment.phrase, colour, picture, width, font))
            tiles.append(_box_tile(segment, picture))
            if isinstance(segment.image, Image.Image):
                scene = next(scenes, None) if boxes else None
                tiles.append(_picture_tile(segment.image, colour, picture, scene))
        else:
            tiles += _frame_tiles(segment, colour, picture, record.truth.get("clip") if boxes else None)
    places, bottom = _flow(tiles, width - 2 * _MARGIN, _MARGIN)
    note = f"   chance {record.truth['chance']:.3f}" if "chance" in record.truth else ""
    title = f"{record.key}{note}"
    right = max(left + tile.width for tile, (left, _) in zip(tiles, places, strict=True))
    strip_width = min(width, 2 * _MARGIN + max(right, int(font.getlength(title))))
    head = _MARGIN + _LINE
    strip = Image.new("RGB", (strip_width, head + bottom + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(strip)
    draw.line((_MARGIN, 0, strip_width - _MARGIN, 0), _FAINT)
    draw.text((_MARGIN, 3), title, _FAINT, font=font)
    for tile, (left, top) in zip(tiles, places, strict=True):
        strip.paste(tile, (left + _MARGIN, top + head))
    return strip


def _text_tile(text: str, colour: tuple[int, int, int], height: int, width: int, font: _Font) -> Image.Image:
    # long texts take wider tiles, so that they do not become columns of one word
    tile_width = min(width - 2 * _MARGIN, _TEXT_WIDTH if len(text) < 150 else 3 * _TEXT_WIDTH)
    # spaces let the lines break between tokens
    text = _BOX_TOKENS.sub(r"[\1 \2 \3 \4]", text).replace("><", "> <").replace("]<", "] <").replace(">[", "> [")
    paragraphs = [textwrap.wrap(paragraph, int(tile_width / _LETTER)) or [""] for paragraph in text.split("\n")]
    lines = [line for paragraph in paragraphs for line in paragraph]
    # a line of wide letters is longer than that
    tile_width = min(width - 2 * _MARGIN, int(max(font.getlength(line) for line in lines)) + 4)
    tile = Image.new("RGB", (tile_width, max(height, len(lines) * _LINE)), _PAPER)
    draw = ImageDraw.Draw(tile)
    top = (tile.height - len(lines) * _LINE) // 2
    for number, line in enumerate(lines):
        draw.text((0, top + number * _LINE), line, colour, font=font)
    return tile


def _picture_tile(picture: Image.Image, colour: tuple[int, int, int], side: int, scene: dict | None) -> Image.Image:
    scale = side / picture.width
    tile = picture.resize((side, side), Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(tile)
    for item in scene["objects"] if scene else ():
        left, top, right, bottom = (value * scale for value in item["box"])
        draw.rectangle((left, top, right - 1, bottom - 1), outline=_BOX)
    draw.rectangle((0, 0, side - 1, side - 1), outline=colour if colour == _ANSWER else _FAINT)
    return tile


def _frame_tiles(video: Video, colour: tuple[int, int, int], side: int, clip: dict | None) -> list[Image.Image]:
    """The frames of a clip, smaller than pictures; the boxes of a clip's facts drawn in."""
    tiles = []
    for number, frame in enumerate(video):
        boxes = [item["boxes"][number] for item in clip["objects"]] if clip else []
        scene = {"objects": [{"box": box} for box in boxes if box]}
        tiles.append(_picture_tile(frame, colour, round(side * _FRAME), scene))
    return tiles


def _box_tile(box: Box, side: int) -> Image.Image:
    """A box as the model reads it, with a line thick enough for a small tile."""
    tile = Image.new("RGB", (side, side))
    corners = [value * side / length for value, length in zip(box.xyxy, box.size * 2, strict=True)]
    ImageDraw.Draw(tile).rectangle(corners, outline=(255, 255, 255), width=2)
    return tile
