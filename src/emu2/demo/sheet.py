"""The demo as one picture, to be shown where a page cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from emu2.demo.sections import Curve, Section
from emu2.demo.terminal import pictures_in
from emu2.evaluate.in_context import shots_words
from emu2.evaluate.rows import Sample
from emu2.processing.grounding import Box
from emu2.processing.video import Video

#: Section -> rows of it on the sheet, in each of its two columns.
_COLUMNS: tuple[dict[str, int], ...] = (
    {"captions": 2, "chat": 4, "few_shot": 3, "film": 1},
    {"draw": 2, "compose": 2, "edit": 2, "again": 1, "story": 1},
)
_WIDTH, _GAP, _SIDE, _LINE = 560, 10, 72, 17
_TEXT_WIDTHS = (200, 118)
_CURVE_HEIGHT = 74
_INK, _SOFT, _GOOD, _BAD, _BAR = "#1d2530", "#5d6b7c", "#1a8f5a", "#c2483d", "#4c8bf5"


def write_sheet(path: Path, sections: Sequence[Section]) -> Path:
    """Write the first rows of every section, what went in before the arrow, what came out behind it."""
    named = {section.name: section for section in sections}
    columns = [[_block(named[name], rows) for name, rows in column.items() if name in named] for column in _COLUMNS]
    height = max(sum(block.height + _GAP for block in column) for column in columns)
    canvas = Image.new("RGB", (len(columns) * (_WIDTH + _GAP) + _GAP, height + _GAP), "white")
    for number, column in enumerate(columns):
        top = _GAP
        for block in column:
            canvas.paste(block, (_GAP + number * (_WIDTH + _GAP), top))
            top += block.height + _GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, optimize=True)
    return path


def _block(section: Section, rows: int) -> Image.Image:
    """A section: its title, its curve where it has one, and its first rows."""
    parts = [_title(section)]
    parts += [_curve(curve) for curve in section.curves]
    # of each family of episodes one
    samples = section.samples[:: max(1, len(section.samples) // rows)] if section.curves else section.samples
    parts += [_row(sample) for sample in samples[:rows]]
    block = Image.new("RGB", (_WIDTH, sum(part.height + 6 for part in parts)), "white")
    top = 0
    for part in parts:
        block.paste(part, (0, top))
        top += part.height + 6
    return block


def _title(section: Section) -> Image.Image:
    title = Image.new("RGB", (_WIDTH, 26), "white")
    draw = ImageDraw.Draw(title)
    draw.text((0, 3), section.title, fill=_INK, font=ImageFont.load_default(17))
    draw.line((0, 25, _WIDTH, 25), fill="#e1e6ec")
    return title


def _curve(curve: Curve) -> Image.Image:
    """Bars of the share of right answers, by number of demonstrations."""
    picture = Image.new("RGB", (_WIDTH, _CURVE_HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    left, room, step, top = 190, _CURVE_HEIGHT - 34, 66, 16
    draw.text((0, _CURVE_HEIGHT // 2 - 10), curve.name.partition(":")[0], fill=_INK, font=ImageFont.load_default(13))
    for number, (shots, share) in enumerate(curve.shares.items()):
        place = left + number * step
        draw.rectangle((place, top + room * (1 - share), place + 42, top + room), fill=_BAR)
        draw.text((place + 21, top + room * (1 - share) - 2), f"{share:.0%}", fill=_INK, font=font, anchor="mb")
        draw.text((place + 21, top + 4 + room), shots_words(shots), fill=_SOFT, font=font, anchor="mt")
    level, end = top + room * (1 - curve.chance), left + len(curve.shares) * step - 16
    draw.line((left, level, end, level), fill=_SOFT)
    draw.text((end + 4, level), "chance", fill=_SOFT, font=font, anchor="lm")
    return picture


def _row(sample: Sample) -> Image.Image:
    """What was given, an arrow, what came and whether it is right."""
    colour = {True: _GOOD, False: _BAD, None: _INK}[sample.right]
    given, got = _pieces(sample.given, _INK), _pieces((sample.got,), colour)
    pieces = [*given, _arrow(), *got]
    if sample.right is not None:
        pieces.append(_text("right" if sample.right else "wrong", colour, 60))
    height, width = max(piece.height for piece in pieces), sum(piece.width + 6 for piece in pieces)
    row = Image.new("RGB", (max(_WIDTH, width), height), "white")
    left = 0
    for piece in pieces:
        row.paste(piece, (left, (height - piece.height) // 2))
        left += piece.width + 6
    # A long prompt is shown smaller rather than cut.
    return row if width <= _WIDTH else row.resize((_WIDTH, round(height * _WIDTH / width)), Image.Resampling.LANCZOS)


def _pieces(parts: Sequence[Any], colour: str) -> list[Image.Image]:
    """Pictures and pictures of words, in order."""
    pieces: list[Image.Image] = []
    many = len(parts) > 2 or any(isinstance(part, list) for part in parts)
    for part in parts:
        if isinstance(part, str):
            if part.strip():
                pieces.append(_text(part.strip(), colour, _TEXT_WIDTHS[many]))
        elif isinstance(part, list):
            pieces += _pieces(part, colour)
        elif isinstance(part, Video):
            pieces += [frame.convert("RGB").resize((48, 48)) for frame in list(part)[::2]]
        else:
            pieces += [_small(picture) for picture in pictures_in(part)]
            if isinstance(part, Box) and part.phrase:
                pieces.append(_text(part.phrase, colour, _TEXT_WIDTHS[1]))
    return pieces


def _arrow() -> Image.Image:
    piece = Image.new("RGB", (24, 12), "white")
    draw = ImageDraw.Draw(piece)
    draw.line((2, 6, 18, 6), fill=_SOFT, width=2)
    draw.polygon(((22, 6), (15, 1), (15, 11)), fill=_SOFT)
    return piece


def _small(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)


def _text(words: str, colour: str, width: int) -> Image.Image:
    """Words over as many lines as they need."""
    font = ImageFont.load_default(13)
    lines, line = [], ""
    for word in words.split():
        if line and font.getlength(f"{line} {word}") > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    lines.append(line)
    wide = max(round(font.getlength(one)) for one in lines) + 2
    piece = Image.new("RGB", (wide, _LINE * len(lines)), "white")
    ImageDraw.Draw(piece).multiline_text((0, 0), "\n".join(lines), fill=colour, font=font, spacing=3)
    return piece
