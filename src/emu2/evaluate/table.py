"""Rows as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from emu2.evaluate.rows import Row, Spec

if TYPE_CHECKING:
    from rich.table import Table

MARKS = {True: "✓", False: "✗", None: ""}
_STYLES = {True: "green", False: "red", None: ""}


def number(value: float | None, unit: str) -> str:
    """A figure in its unit: "84 %", "+12 %", "0.913", "21.3 dB"."""
    if value is None:
        return ""
    if unit == "share":
        return f"{value:.0%}".replace("%", " %")
    if unit == "gain":
        return f"{value:+.1%}".replace("%", " %")
    if unit == "dB":
        return f"{value:.1f} dB"
    return f"{value:+.3f}" if unit == "lead" else f"{value:.3f}"


def beside(row: Row) -> str:
    """What the value is compared with: chance, or a baseline."""
    if row.measured is None or row.measured.beside is None:
        return ""
    # a difference stands beside what it is a difference from
    unit = {"gain": "share", "lead": "likeness"}.get(row.spec.unit, row.spec.unit)
    return number(row.measured.beside, "gain" if row.spec.beside == "gain in all" else unit)


def target(spec: Spec) -> str:
    """The target in words; empty where there is none."""
    if spec.goal == "at chance":
        return "chance"
    if spec.target is None:
        return ""
    sign = "≥" if spec.goal == "at least" else ">"
    return f"{sign} {number(spec.target, spec.unit)}"


def interval(row: Row) -> str:
    """The 95 % interval, in the unit of the value."""
    if row.measured is None:
        return ""
    low, high = (number(edge, row.spec.unit) for edge in row.measured.figure.interval)
    unit = " %" if high.endswith("%") else " dB" if high.endswith("dB") else ""
    return f"{low.removesuffix(unit)} to {high}"


def table(rows: Sequence[Row]) -> Table:
    """All rows, in sections by group; names are folded where the terminal is narrow, figures are not."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(title="The paper in miniature", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    result.add_column("", overflow="fold", min_width=20)
    for name in ("value", "95 %", "beside", "target"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("", no_wrap=True)
    for group, members in groupby(rows, key=lambda row: row.group):
        result.add_section()
        result.add_row(Text(group, style="bold"))
        for row in members:
            words = Text(f"  {row.spec.name}")
            if row.spec.beside != "chance":
                words.append(f", beside {row.spec.beside}", style="dim")
            if row.measured is None:
                result.add_row(words, Text("missing", style="dim"), "", "", target(row.spec))
                continue
            value = Text(number(row.measured.figure.value, row.spec.unit), style="bold")
            mark = Text(MARKS[row.reached], style=_STYLES[row.reached])
            result.add_row(words, value, interval(row), beside(row), target(row.spec), mark)
    return result


def reasons(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Why rows were not measured -> their groups."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.measured is None and row.group not in found.setdefault(row.missing, []):
            found[row.missing].append(row.group)
    return found
