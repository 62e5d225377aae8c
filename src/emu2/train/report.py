"""The page of a run: `report.html`, one self-contained file with curves, samples and what could not be read."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from emu2.train.metrics import read_log

#: Diagram -> what it says under its title, and the beginnings of the names in the log that it shows.
_DIAGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Loss": ("thin: every logged step; thick: running mean", ("loss",)),
    "Held-out loss": ("on records that the run does not learn", ("validation/",)),
    "Held-out loss by kind": ("of record, one batch of each", ("kinds/",)),
    "Learning rate": ("of each part", ("optim/lr_",)),
    "Gradient norm": ("before clipping", ("optim/grad_norm",)),
    "Tokens per second": ("", ("speed/tokens",)),
    "Pictures per second": ("", ("speed/images",)),
    "MFU": ("share of the hardware's peak", ("speed/mfu",)),
    "Waiting for data": ("share of the time", ("speed/data_wait",)),
    "Memory": ("GiB, the most so far", ("speed/memory_gib",)),
}
_COLOURS = (
    *("#3b78e7", "#e07b2e", "#2f9e6b", "#a24fc2", "#c8423b", "#7a8794", "#0fa3b1", "#b58900", "#d6559b", "#5b6ee1"),
    *("#6a994e", "#9c6644", "#2b2d42"),
)
#: Points of a curve: more are thinned out, for a page of a few hundred kilobytes however long the run.
_MOST_POINTS = 600
#: Sampled steps that are shown, the last ones, and samples of each.
_MOST_STEPS, _MOST_SAMPLES = 6, 16
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 420, 190, 52, 22, 10

#: How all pages look; each adds rules of its own.
STYLE = """:root { --ink:#1d2530; --soft:#5d6b7c; --line:#e1e6ec; --card:#fff; --page:#f5f7fa; --good:#1a8f5a;
  --bad:#c2483d; --bar:#4c8bf5; --mark:#e0a030 }
@media (prefers-color-scheme: dark) { :root { --ink:#e8edf3; --soft:#97a5b6; --line:#2a3542; --card:#18212c;
  --page:#10171f; --good:#4cc38a; --bad:#f0857b } }
* { box-sizing:border-box }
body { margin:0; background:var(--page); color:var(--ink); font:16px/1.5 system-ui,"Segoe UI",sans-serif }
main { max-width:1120px; margin:0 auto; padding:36px 20px 70px }
h1 { font-size:32px; margin:0 0 4px; letter-spacing:-.4px } h2 { font-size:22px; margin:44px 0 4px }
p { margin:4px 0 12px; color:var(--soft); max-width:82ch } .note { color:var(--soft); font-size:13px; line-height:1.4 }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(140px,1fr)); gap:12px; margin:20px 0 }
.card { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:13px 16px }
.card b { display:block; font-size:26px; letter-spacing:-.4px }
.card span { color:var(--soft); font-size:13.5px; line-height:1.35 }
.wide { overflow-x:auto; background:var(--card); border:1px solid var(--line); border-radius:12px }
table { border-collapse:collapse; width:100% }
th { text-align:left; font-size:12.5px; color:var(--soft); font-weight:600; padding:9px 12px }
td { border-top:1px solid var(--line); padding:8px 12px; vertical-align:middle }
td.number { text-align:right; white-space:nowrap; font-variant-numeric:tabular-nums }
.yes { color:var(--good); font-weight:700 } .no { color:var(--bad); font-weight:700 }
.seq { display:flex; flex-wrap:wrap; gap:7px; align-items:center; max-width:640px }
img { image-rendering:pixelated; border-radius:5px; display:block }
.curves { display:grid; grid-template-columns:repeat(auto-fit,minmax(330px,1fr)); gap:12px }
.curves b { font-size:15px } .curves .legend { float:right; font-size:12.5px }
.curves svg { display:block; width:100%; margin-top:6px }
.curves text { fill:var(--soft); font:11px system-ui,sans-serif } .curves .axis { stroke:var(--line) }
.line { fill:none; stroke-linejoin:round }
pre { font:13px ui-monospace,Menlo,Consolas,monospace; overflow-x:auto; background:var(--card);
  border:1px solid var(--line); border-radius:10px; padding:12px 14px }
"""
#: Of pages about runs.
RUN_STYLE = """.samples { display:flex; flex-wrap:wrap; gap:12px; align-items:flex-start }
figure { margin:0; background:var(--card); border:1px solid var(--line); border-radius:10px; padding:9px;
  max-width:520px }
figure img { max-width:100% } figcaption { color:var(--soft); font-size:12.5px; margin-bottom:5px }
table { background:var(--card); border:1px solid var(--line); border-radius:10px }
"""

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$name</title>
<style>$style</style></head><body><main>
<h1>$name</h1><p>$what</p>
<div class="cards">$cards</div>
<h2>Curves</h2><div class="curves">$curves</div>
$samples
<h2>What could not be used</h2>$bad
<h2>Settings</h2><details><summary>$settings_title</summary><pre>$settings</pre></details>
</main></body></html>
""")


def write_report(out: Path) -> Path:
    """Write `out`/report.html from what the run has left there so far: config.json, log.jsonl, summary.json, samples/.

    Raises:
        ValueError: there is no run in `out`.
    """
    out = Path(out)
    if not (out / "config.json").is_file():
        raise ValueError(f"There is no run in {out}: it has no config.json. Give the folder of a run (--out).")
    config = json.loads((out / "config.json").read_text())
    path = out / "summary.json"
    summary = json.loads(path.read_text()) if path.is_file() else {}
    log = read_log(out / "log.jsonl")
    values = {
        "style": STYLE + RUN_STYLE,
        "name": escape(str(config["name"])),
        "what": escape(_what(config, summary, log)),
        "cards": "".join(card(*one) for one in _cards(config, summary, log)),
        "curves": "".join(diagram(title, *shown, log) for title, shown in _DIAGRAMS.items()) or "No step is logged.",
        "samples": samples(out / "samples"),
        "bad": _bad(summary),
        "settings_title": f"{len(config)} settings, as in config.json",
        "settings": escape(json.dumps(config, indent=1)),
    }
    page = out / "report.html"
    page.write_text(_PAGE.substitute(values), encoding="utf-8")
    return page


def _what(config: Mapping[str, Any], summary: Mapping[str, Any], log: Sequence[Mapping[str, float]]) -> str:
    steps = summary.get("steps") or (log[-1]["step"] if log else 0)
    text = f"Objective {config['objective']}, size {config['size']}; trains {', '.join(config['parts'])}. "
    text += f"{steps:,.0f} of {config['steps']:,} steps."
    if summary.get("stopped"):
        text += f" Stopped by {summary['stopped']}; it can be resumed."
    return text


def _cards(
    config: Mapping[str, Any], summary: Mapping[str, Any], log: Sequence[Mapping[str, float]]
) -> Iterable[tuple[str, str]]:
    last = log[-1] if log else {}
    if "seconds" in summary:
        yield duration(summary["seconds"]), "of the last start of the run"
    if log:
        yield figure(tail_mean(log, "loss")), f"loss, mean of the last {min(len(log), 10)} logged steps"
    if "validation/loss" in _names(log):
        yield figure(_last(log, "validation/loss")), "held-out loss, last"
    for name, words in (("speed/tokens", "tokens a second"), ("speed/images", "pictures a second")):
        if last.get(name):
            yield f"{tail_mean(log, name):,.0f}", words
    if "speed/mfu" in last:
        yield f"{tail_mean(log, 'speed/mfu'):.1%}", "MFU"
    if "speed/data_wait" in last:
        yield f"{tail_mean(log, 'speed/data_wait'):.1%}", "of the time waiting for data"
    if "speed/memory_gib" in last:
        yield f"{last['speed/memory_gib']:.2f} GiB", "memory, the most"
    if summary.get("skipped"):
        yield f"{summary['skipped']:,}", "steps skipped: something was not finite"
    yield f"{sum(summary.get('bad', {}).values()):,}", "samples that could not be used"


def card(value: str, words: str) -> str:
    """One figure in large type and what it is."""
    return f'<div class="card"><b>{escape(value)}</b><span>{escape(words)}</span></div>'


def data_url(image: Image.Image) -> str:
    """The picture as PNG within the page itself."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return inline(buffer.getvalue(), "png")


def inline(data: bytes, form: str) -> str:
    """The data of a picture in a form (png, webp) as a URL within the page itself."""
    return f"data:image/{form};base64," + base64.b64encode(data).decode()


# Curves


def _names(log: Iterable[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for line in log for name in line))


def diagram(title: str, words: str, beginnings: tuple[str, ...], log: Sequence[Mapping[str, float]]) -> str:
    """One diagram as inline SVG, or nothing where the log has no such values."""
    curves = {}
    for name in _names(log):
        if name.startswith(beginnings):
            points = [(line["step"], line[name]) for line in log if name in line and math.isfinite(line[name])]
            if points:
                curves[name] = points
    if not curves:
        return ""
    low, high = _range([value for points in curves.values() for _, value in points])
    last = max(step for points in curves.values() for step, _ in points)

    def place(point: tuple[float, float]) -> str:
        x = _LEFT + (_WIDTH - _LEFT - 8) * point[0] / max(last, 1)
        y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (min(max(point[1], low), high) - low) / (high - low))
        return f"{x:.1f},{y:.1f}"

    drawn, legend = [], []
    for number, (name, points) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        smooth = beginnings == ("loss",) and len(points) > 20
        for shown, width, opacity in ((points, 1.0 if smooth else 1.8, 0.35 if smooth else 1.0),) + (
            ((_running_mean(points), 2.0, 1.0),) if smooth else ()
        ):
            places = " ".join(map(place, _thinned(shown)))
            if len(shown) == 1:
                x, y = places.split(",")
                drawn.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
            drawn.append(
                f'<polyline class="line" stroke="{colour}" stroke-width="{width}" opacity="{opacity}" '
                f'points="{places}"/>'
            )
        if len(curves) > 1:
            legend.append(f'<span style="color:{colour}">{escape(_short(name, beginnings))}</span>')
    grid = "".join(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{figure(low + (high - low) * share)}</text>'
        for share in (0.0, 0.5, 1.0)
        for y in [_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)]
    )
    axis = (
        f'<text x="{_LEFT}" y="{_HEIGHT - 5}">0</text>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 5}" text-anchor="end">{last:,.0f} steps</text>'
    )
    note = f" <span>{escape(words)}</span>" if words else ""
    return (
        f'<div class="card"><span class="legend">{" &nbsp; ".join(legend)}</span><b>{escape(title)}</b>{note}'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{grid}{"".join(drawn)}{axis}'
        "</svg></div>"
    )


def _short(name: str, beginnings: tuple[str, ...]) -> str:
    for beginning in beginnings:
        if name != beginning:
            name = name.removeprefix(beginning)
    return name.strip("/_") or "all"


def _range(values: list[float]) -> tuple[float, float]:
    """What the vertical axis shows: from 0 where nothing is below, up to nearly all values.

    The first steps of a fresh network would flatten everything after them.
    """
    ordered = sorted(values)
    high = ordered[int(0.98 * (len(ordered) - 1))]
    low = min(0.0, ordered[0])
    return low, low + max(high - low, 1e-12) * 1.05


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    every = -(-len(points) // _MOST_POINTS)
    return points[::every] if every > 1 else points


def _running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Each point as the mean of the twentieth of the run that it ends."""
    window = max(2, len(points) // 20)
    total, means = 0.0, []
    for place, (step, value) in enumerate(points):
        total += value - (points[place - window][1] if place >= window else 0.0)
        means.append((step, total / min(place + 1, window)))
    return means


def tail_mean(log: Sequence[Mapping[str, float]], name: str, lines: int = 10) -> float:
    """Mean over the last lines that have the value; one step alone is noisy."""
    tail = [line[name] for line in log[-lines:] if name in line]
    return sum(tail) / len(tail) if tail else math.nan


def _last(log: Sequence[Mapping[str, float]], name: str) -> float:
    return next(line[name] for line in reversed(log) if name in line)


def figure(value: float) -> str:
    """`12,345`, `0.0123`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3.5 h`, `12.1 days`."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


# Samples and bad records


def samples(folder: Path, *, heading: str = "h2", each: int = _MOST_SAMPLES) -> str:
    """The pictures and texts of the last steps that made some, `each` of every step; nothing where none did."""
    steps = sorted(path for path in folder.glob("step-*") if path.is_dir())[-_MOST_STEPS:]
    if not steps:
        return ""
    sections = []
    for step in reversed(steps):
        figures = "".join(_sample(name, files) for name, files in list(_grouped(step).items())[:each])
        sections.append(f'<p>After step {int(step.name[5:]):,}</p><div class="samples">{figures}</div>')
    return f"<{heading}>Samples</{heading}>{''.join(sections)}"


def _grouped(step: Path) -> dict[str, list[Path]]:
    """Sample -> its files: `caption-0-picture.png` and `caption-0-text.txt` are one."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(path for path in step.iterdir() if path.suffix in (".png", ".txt")):
        groups.setdefault(path.stem.removesuffix("-picture").removesuffix("-text"), []).append(path)
    return groups


def _sample(name: str, files: Iterable[Path]) -> str:
    return f"<figure><figcaption>{escape(name)}</figcaption>{''.join(map(_shown, files))}</figure>"


def _shown(path: Path) -> str:
    if path.suffix == ".png":
        return f'<img alt="{escape(path.stem)}" src="{inline(path.read_bytes(), "png")}">'
    return f"<div>{escape(path.read_text(encoding='utf-8')) or '<i>nothing</i>'}</div>"


def _bad(summary: Mapping[str, Any]) -> str:
    causes = summary.get("bad", {})
    if not causes:
        return "<p>Every sample could be used.</p>"
    rows = "".join(
        f'<tr><td class="number">{number:,}</td><td>{escape(cause)}</td></tr>'
        for cause, number in sorted(causes.items(), key=lambda item: -item[1])
    )
    return f"<table><tr><th>Samples</th><th>Cause</th></tr>{rows}</table>"
