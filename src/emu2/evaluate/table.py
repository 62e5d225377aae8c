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
    return f"{value:.1f} dB" if unit == "dB" else f"{value:.3f}"


def beside(row: Row) -> str:
    """What the value is compared with: chance in its words, or a baseline and what it is."""
    if row.measured is None or row.measured.beside is None:
        return ""
    spec = row.spec
    # a gain's baseline is what it is a gain over, not a gain itself
    unit = "share" if spec.unit == "gain" and spec.beside in ("first", "base") else spec.unit
    if spec.unit == "gain" and spec.beside in ("empty background", "random objects"):
        unit = "likeness"
    value = number(row.measured.beside, unit)
    return value if spec.beside == "chance" else f"{value} ({spec.beside})"


def target(spec: Spec) -> str:
    """The target in words; empty where there is none."""
    if spec.goal == "at chance":
        return "chance"
    if spec.target is None:
        return ""
    return f"> {number(spec.target, spec.unit)}" if spec.goal == "above" else f"≥ {number(spec.target, spec.unit)}"


def interval(row: Row) -> str:
    """The 95 % interval, in the unit of the value."""
    if row.measured is None:
        return ""
    low, high = (number(edge, row.spec.unit) for edge in row.measured.figure.interval)
    return f"{low} to {high}"


def table(rows: Sequence[Row]) -> Table:
    """All rows, in sections by group."""
    from rich.table import Table
    from rich.text import Text

    result = Table(title="The paper in miniature", title_justify="left", header_style="bold", expand=False)
    # In a narrow terminal the names stay whole as long as they can.
    result.add_column("", min_width=30, overflow="fold")
    for name in ("value", "95 %", "chance or baseline", "target", "n"):
        result.add_column(name, justify="right", overflow="fold")
    result.add_column("")
    for group, members in groupby(rows, key=lambda row: row.group):
        result.add_section()
        result.add_row(Text(group, style="bold"))
        for row in members:
            if row.measured is None:
                result.add_row(
                    f"  {row.spec.name}", Text("not measured", style="dim"), "", "", target(row.spec), "", ""
                )
                continue
            figure = row.measured.figure
            result.add_row(
                f"  {row.spec.name}",
                Text(number(figure.value, row.spec.unit), style="bold"),
                interval(row),
                beside(row),
                target(row.spec),
                str(figure.n),
                Text(MARKS[row.reached], style=_STYLES[row.reached]),
            )
    return result


def reasons(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Why rows were not measured -> their groups."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.measured is None and row.group not in found.setdefault(row.missing, []):
            found[row.missing].append(row.group)
    return found
