"""The demo in a terminal: pictures in half blocks where it has colours, words and figures everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from emu2.demo.sections import Curve, Section
from emu2.evaluate.in_context import shots_words
from emu2.processing.grounding import Box
from emu2.processing.video import Video

#: Rows of a section that are shown here; the page has all of them.
_ROWS = 2
#: Side of a picture in the terminal: so many columns, and half as many lines.
_SIDE = 22
#: Pictures beside one another at most.
_PICTURES = 3
_BAR = 30


def shows_pictures(console: Console) -> bool:
    """Whether pictures can be seen in this terminal."""
    return console.is_terminal and console.color_system in ("truecolor", "256")


def section_lines(section: Section, number: int, *, pictures: bool) -> RenderableType:
    """A section as a terminal shows it."""
    lines: list[RenderableType] = [Text(f"{number}. {section.title}", style="bold"), Text(section.about, style="dim")]
    lines.append(Text(f">>> {section.code}", style="cyan"))
    lines += [_curve(curve) for curve in section.curves]
    shown = section.samples if section.name == "chat" and not pictures else section.samples[:_ROWS]
    for sample in shown:
        mark = {True: Text("✓", "bold green"), False: Text("✗", "bold red"), None: Text(" ")}[sample.right]
        told = Text.assemble(mark, " ", _words(sample.given), (" → ", "dim"), _words([sample.got]))
        if sample.right is False and isinstance(sample.truth, str):
            told.append(f"   (truth: {sample.truth})", style="dim")
        lines.append(told)
        if pictures:
            lines.append(_row(sample.given, sample.got, sample.truth))
    summary = f"{section.seconds:.0f} s"
    if section.right:
        summary = "{} of {} right, ".format(*section.right) + summary
    lines.append(Text(summary, style="dim italic"))
    return Padding(Group(*lines), (0, 0, 1, 0))


def _curve(curve: Curve) -> RenderableType:
    """A bar for each number of demonstrations, and a mark where chance is."""
    table = Table.grid(padding=(0, 1))
    chance = round(_BAR * curve.chance)
    for shots, share in curve.shares.items():
        bar = "█" * round(_BAR * share)
        rest = "".join("│" if place == chance else "·" for place in range(len(bar), _BAR))
        table.add_row(shots_words(shots), Text.assemble((bar, "green"), (rest, "dim")), f"{share:.0%}")
    return Group(Text(curve.name), table, Text(f"chance is {curve.chance:.0%}", style="dim"))


def _words(parts: Any) -> Text:
    """What was given, or came, in words."""
    told = Text()
    for part in parts:
        if isinstance(part, list | tuple):
            told.append_text(_words(part))
        elif isinstance(part, str):
            told.append(part.strip() + " ")
        elif isinstance(part, Box):
            told.append(f"[{part.phrase or 'thing'} in its box] ", style="magenta")
        elif isinstance(part, Video):
            told.append(f"[clip of {len(part)} frames] ", style="magenta")
        else:
            told.append("[picture] ", style="magenta")
    told.rstrip()
    return told


def _row(given: Any, got: Any, truth: Any) -> RenderableType:
    """Pictures of a row: what went in, what came out, what is true."""
    table = Table.grid(padding=(0, 2))
    columns = [pictures_in(part)[-_PICTURES:] for part in (given, got, truth)]
    if isinstance(got, Video):
        columns = [[], *(column[:: max(1, len(column) // 2)][:2] for column in columns[1:])]
    cells: list[RenderableType] = []
    heads: list[str] = []
    for head, column in zip(("given", "model", "truth"), columns, strict=True):
        for picture in column:
            cells.append(half_blocks(picture, _SIDE))
            heads.append(head)
    fitting = cells[: _PICTURES + 1]
    if not fitting:
        return Text()
    table.add_row(*fitting)
    table.add_row(*(Text(head, style="dim") for head in heads[: len(fitting)]))
    return table


def pictures_in(part: Any) -> list[Image.Image]:
    """All pictures of a prompt or an answer, in order."""
    if isinstance(part, Image.Image):
        return [part]
    if isinstance(part, Box):
        return [part.image] if isinstance(part.image, Image.Image) else []
    if isinstance(part, Video | list | tuple):
        return [picture for one in part for picture in pictures_in(one)]
    return []


def half_blocks(picture: Image.Image, side: int) -> Text:
    """A picture in characters: each stands for two pixels, one above the other."""
    pixels = np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BOX))
    text = Text()
    for row in range(0, side, 2):
        for column in range(side):
            upper, lower = ("#" + bytes(pixels[y, column]).hex() for y in (row, row + 1))
            text.append("▀", style=f"{upper} on {lower}")
        text.append("\n")
    text.rstrip()
    return text
