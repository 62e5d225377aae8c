"""The report as one self-contained html page, with pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from PIL import Image

from emu2.evaluate.rows import Row, Sample
from emu2.evaluate.table import beside, interval, number, target
from emu2.processing.grounding import Box
from emu2.processing.video import Video
from emu2.train.report import STYLE, card, data_url, inline

if TYPE_CHECKING:
    from emu2.evaluate.miniature import Report

#: Small pictures are shown enlarged to this side, with hard pixels: nothing is made prettier than it is.
_SIDE = 112
#: Frames of a clip that are shown.
_FRAMES = 8
_FRAME_MS = 180
_MARKS = {True: '<span class="yes">&#10003;</span>', False: '<span class="no">&#10007;</span>', None: ""}
#: Ends of the bars, in each unit.
_SCALES = {"share": (0.0, 1.0), "likeness": (0.0, 1.0), "gain": (-0.2, 1.0), "lead": (-0.2, 0.5), "dB": (0.0, 40.0)}

#: Of pages about what a model did, beside the rules of all pages.
RESULT_STYLE = """td { font-size:14.5px } td.b { font-weight:650 }
.axis { stroke-width:6; stroke-linecap:round; stroke:var(--line) }
.range { stroke:var(--bar); stroke-width:6; stroke-linecap:round; opacity:.4 } .dot { fill:var(--bar) }
.base { stroke:var(--soft); stroke-width:2 } .goal { stroke:var(--mark); stroke-width:2 }
details { margin:10px 0 } summary { cursor:pointer; color:var(--soft); font-size:14px }
.seq span, td > span { font-size:13.5px; overflow-wrap:break-word }
img { outline:1px solid var(--line) }
.box { border:1px dashed var(--soft); border-radius:6px; padding:3px 6px; font-size:12px; color:var(--soft) }
"""

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>The paper in miniature</title>
<style>
$style
</style></head><body><main>
<h1>The paper in miniature</h1>
<p>What the paper claims, measured on scenes of the emoji world that training never showed; held concepts appear in no
training record of any stage. Every figure stands with its 95&nbsp;% interval and with chance or a baseline.
Samples are the first ones in order, none left out.</p>
<p>$models</p>
<div class="cards">$cards</div>
<p class="note">In the bars: <b style="color:var(--bar)">value</b> in its interval, <b>chance or baseline</b> in grey,
<b style="color:var(--mark)">target</b>.</p>
$groups
<h2>Settings</h2><details><summary>How much was asked, and how</summary><pre class="note">$settings</pre></details>
</main></body></html>
""")


def write_page(path: Path, report: Report) -> Path:
    """Write the page of a report."""
    from emu2.evaluate.miniature import GROUPS

    abouts = {group.name: group.about for group in GROUPS.values()}
    grouped = groupby(report.rows, lambda row: row.group)
    sections = [_section(group, abouts.get(group, ""), list(rows)) for group, rows in grouped]
    names: dict[str, list[str]] = {}
    for variant, name in report.names.items():
        names.setdefault(name, []).append(variant)
    settings = {**report.settings, **vars(report.config), "seconds": report.seconds}
    values = {
        "style": STYLE + RESULT_STYLE,
        "models": "; ".join(f"{escape(' and '.join(who))}: <code>{escape(name)}</code>" for name, who in names.items()),
        "cards": "".join(card(str(count), what) for what, count in report.summary.items()),
        "groups": "".join(sections),
        "settings": escape("\n".join(f"{name}: {value}" for name, value in settings.items())),
    }
    path.write_text(_PAGE.substitute(values), encoding="utf-8")
    return path


def _section(group: str, about: str, rows: Sequence[Row]) -> str:
    head = "".join(
        f"<th>{name}</th>" for name in ("", "value", "95&nbsp;%", "", "chance or baseline", "target", "n", "")
    )
    shown = "".join(_samples(row) for row in rows if row.measured is not None and row.measured.samples)
    claim = escape(rows[0].spec.claim)
    return (
        f"<section><h2>{escape(group)}</h2><p>Mirrors: {claim}. {escape(about)}</p>"
        f'<div class="wide"><table><tr>{head}</tr>{"".join(map(_row, rows))}</table></div>{shown}</section>'
    )


def _row(row: Row) -> str:
    name = escape(row.spec.name)
    if row.measured is None:
        why = f'<td colspan="4" class="note">not measured: {escape(row.missing)}</td>'
        return f'<tr><td>{name}</td>{why}<td class="number">{escape(target(row.spec))}</td><td></td><td></td></tr>'
    note = f'<div class="note">{escape(row.measured.note)}</div>' if row.measured.note else ""
    mark = _MARKS[row.reached]
    return (
        f"<tr><td>{name}{note}</td>"
        f'<td class="number b">{escape(number(row.measured.figure.value, row.spec.unit))}</td>'
        f'<td class="number">{escape(interval(row))}</td><td>{_bar(row)}</td>'
        f'<td class="number">{escape(beside(row))}{_baseline(row)}</td>'
        f'<td class="number">{escape(target(row.spec))}</td>'
        f'<td class="number">{row.measured.figure.n}</td><td>{mark}</td></tr>'
    )


def _baseline(row: Row) -> str:
    return "" if row.spec.beside == "chance" else f'<div class="note">{escape(row.spec.beside)}</div>'


def _bar(row: Row) -> str:
    """Value, interval, baseline and target on one line."""
    measured = row.measured
    assert measured is not None
    low, high = _SCALES[row.spec.unit]
    width, height = 150, 16

    def place(value: float) -> float:
        return 5 + (width - 10) * (min(max(value, low), high) - low) / (high - low)

    def tick(value: float | None, kind: str) -> str:
        if value is None:
            return ""
        x = place(value)
        return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="1" y2="{height - 1}"/>'

    start, end = (place(edge) for edge in measured.figure.interval)
    # of a difference the baseline is what it is a difference from
    base = 0.0 if row.spec.unit in ("gain", "lead") else measured.beside
    middle = height / 2
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="{escape(interval(row))}">'
        f'<line class="axis" x1="5" x2="{width - 5}" y1="{middle}" y2="{middle}"/>'
        f'<line class="range" x1="{start:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}"/>'
        f"{tick(base, 'base')}{tick(row.spec.target, 'goal')}"
        f'<circle class="dot" cx="{place(measured.figure.value):.1f}" cy="{middle}" r="4"/></svg>'
    )


# Samples -------------------------------------------------------------------------------------------------------------


def _samples(row: Row) -> str:
    assert row.measured is not None
    lines = "".join(map(sample_row, row.measured.samples))
    head = "<tr><th>given</th><th>what came</th><th>truth</th><th></th></tr>"
    return (
        f"<details><summary>{escape(row.spec.name)}: the first {len(row.measured.samples)}</summary>"
        f'<div class="wide"><table>{head}{lines}</table></div></details>'
    )


def sample_row(sample: Sample) -> str:
    """A sample as a row of a table: what was given, what came, what is true, right or not."""
    mark = {True: '<span class="yes">&#10003;</span>', False: '<span class="no">&#10007;</span>', None: ""}[
        sample.right
    ]
    notes = "".join(f'<div class="note">{escape(k)} {escape(v)}</div>' for k, v in sample.notes.items())
    given = "".join(_part(part) for part in sample.given)
    return (
        f'<tr><td><div class="seq">{given}</div></td><td>{_part(sample.got)}{notes}</td>'
        f"<td>{_part(sample.truth)}</td><td>{mark}</td></tr>"
    )


def _part(part: Any) -> str:
    if isinstance(part, Image.Image):
        return _picture(part, _SIDE)
    if isinstance(part, Video):
        frames = list(part)
        step = max(1, len(frames) // _FRAMES)
        strip = "".join(_picture(frame, _SIDE // 2) for frame in frames[::step])
        moving = f'<img width="{_SIDE}" height="{_SIDE}" alt="clip" src="{_moving(frames)}">'
        return f'<div class="seq">{moving}{strip}</div>'
    if isinstance(part, list):
        return f'<div class="seq">{"".join(map(_part, part))}</div>'
    if isinstance(part, Box):
        corners = ", ".join(f"{value:.0f}" for value in part.xyxy)
        inner = "" if part.image is None else _picture(part.image, _SIDE // 2)
        return f'<div class="box">{escape(part.phrase or "")} [{corners}]{inner}</div>'
    return f"<span>{escape(str(part)) or '<i>nothing</i>'}</span>"


def _picture(picture: Image.Image, side: int) -> str:
    return f'<img width="{side}" height="{side}" alt="picture" src="{data_url(picture)}">'


def _moving(frames: Sequence[Image.Image]) -> str:
    """The clip as a data URL of an animation that starts again."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"duration": _FRAME_MS, "loop": 0, "lossless": True}
    frames[0].save(buffer, "webp", save_all=True, append_images=list(frames[1:]), **options)
    return inline(buffer.getvalue(), "webp")
