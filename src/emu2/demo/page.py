"""The demo as one self-contained page: what went in, what came out and what is true, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from emu2.demo.sections import KNOWN, Curve, Section
from emu2.evaluate.page import RESULT_STYLE, sample_row
from emu2.train.report import STYLE, card

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Emu2 at work</title>
<style>
$style
.wide-seq { max-width:none; margin:0 0 12px }
svg text { fill:var(--soft); font:12px system-ui,sans-serif }
</style></head><body><main>
<h1>Emu2 at work</h1>
<p>$model, $parameters million numbers, trained from nothing by this package's own recipes. Nothing was trained to make
this page: it took $seconds seconds on $machine. Every scene below is one that training never drew; the rows are the
first in order, none left out.</p>
<div class="cards">$cards</div>
$sections
<h2>Go on</h2><pre>$commands</pre>
</main></body></html>
""")
_COMMANDS = """# what it is, how it was trained, what it can do, in figures
emu2 info $model
# every claim of the paper, measured on it
emu2 eval miniature --model $model --style $style --concepts $concepts
# train one from nothing, in minutes
make train-demo
# train this one from nothing, in hours
emu2 train nano --all"""


def write_page(path: Path, sections: Sequence[Section], facts: dict[str, Any]) -> Path:
    """Write the page.

    Args:
        path: of the HTML file.
        facts: `model`, `parameters` in millions, `seconds` and `machine`.
    """
    values = {name: escape(str(value)) for name, value in facts.items()}
    values |= {
        "style": STYLE + RESULT_STYLE,
        "cards": "".join(card(*one) for section in sections if (one := _card(section))),
        "sections": "".join(map(_section, sections)),
        "commands": Template(_COMMANDS).substitute(values, **KNOWN),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_PAGE.substitute(values), encoding="utf-8")
    return path


def _card(section: Section) -> tuple[str, str] | None:
    if section.curves:
        best = max(section.curves, key=lambda curve: max(curve.shares.values()) - curve.shares[0])
        most = max(best.shares)
        return (
            f"{best.shares[0]:.0%} → {best.shares[most]:.0%}",
            f"right with 0 and with {most} demonstrations ({best.name.partition(':')[0]})",
        )
    if section.right is None:
        return None
    return "{}/{}".format(*section.right), f"right: {section.title.removeprefix('It ')}"


def _section(section: Section) -> str:
    head = "<tr><th>given</th><th>what the model made</th><th>truth</th><th></th></tr>"
    curves = "".join(map(_curve, section.curves))
    return (
        f'<section id="{section.name}"><h2>{escape(section.title)}</h2><p>{escape(section.about)}</p>'
        f'<div class="seq wide-seq">{curves}</div>'
        f'<pre>{escape(section.code)}</pre><div class="wide"><table>{head}'
        f"{''.join(map(sample_row, section.samples))}</table></div>"
        f'<p class="note">{section.seconds:.0f} seconds.</p></section>'
    )


def _curve(curve: Curve) -> str:
    """Share of right answers by number of demonstrations, as bars, with chance as a line."""
    width, height, left, bottom, top = 340, 170, 44, 26, 38
    bars = []
    step = (width - left) / len(curve.shares)

    def level(share: float) -> float:
        return top + (height - top - bottom) * (1 - share)

    for number, (shots, share) in enumerate(curve.shares.items()):
        x = left + step * number + step * 0.2
        y = level(share)
        bars.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{step * 0.6:.1f}" height="{height - bottom - y:.1f}" rx="3" '
            f'fill="var(--bar)"/><text x="{x + step * 0.3:.1f}" y="{y - 5:.1f}" text-anchor="middle">{share:.0%}</text>'
            f'<text x="{x + step * 0.3:.1f}" y="{height - 8}" text-anchor="middle">{shots}</text>'
        )
    line = level(curve.chance)
    chance = (
        f'<line x1="{left}" x2="{width}" y1="{line:.1f}" y2="{line:.1f}" stroke="var(--soft)" stroke-dasharray="5 4"/>'
        f'<text x="{left - 4}" y="{line + 4:.1f}" text-anchor="end">chance</text>'
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(curve.name)}">'
        f'<text x="{left}" y="14">{escape(curve.name)}</text>{"".join(bars)}{chance}</svg>'
    )
