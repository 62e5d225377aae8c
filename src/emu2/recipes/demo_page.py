"""The demo's page: one self-contained HTML file, pictures and curves inside."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from emu2.recipes.demo_show import GUIDANCE, SHOTS, Results, Row
from emu2.train.report import card, data_url

#: Pictures are drawn enlarged with hard pixels, so that nothing is made prettier than it is.
_ZOOM = 2

#: Section -> (title, what the model is asked, what stands in the columns).
_SECTIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "captions": (
        "It says what it sees",
        "A picture goes in, the model writes. A caption counts as right only if every word is.",
        ("Input", "What the model wrote", "Truth"),
    ),
    "counting": (
        "It continues a pattern",
        f"{SHOTS} pictures with answers, then one without: the model has to see that counting is asked for, and in "
        "what form. Nothing else says so.",
        ("Input: demonstrations, then the query", "What the model wrote", "Truth"),
    ),
    "drawings": (
        "It draws from words",
        "The language model writes sixteen visual embeddings after the words; the decoder turns them into a picture "
        f"(guidance {GUIDANCE}). A drawing counts as right if every thing, its place and the background can be read "
        "back from its pixels by comparing it with renderings of all things there are; the model has no part in that.",
        ("Input", "What the model drew", "Truth: the scene the words tell"),
    ),
    "autoencoding": (
        "It draws what it sees",
        "A picture becomes sixteen visual embeddings and a picture again: what the vision tower keeps, and the decoder "
        "can show. No language model in between.",
        ("Input", "What came back", "Truth"),
    ),
}

_LIMITS = (
    "Everything it knows are {things} things on plain backgrounds in four places. What is new in the pictures above is "
    "the scene: which things stand where, how many, on what colour. A thing it never saw it cannot name or draw.",
    "Pictures are 64 pixels wide and a little soft: the autoencoder keeps a few numbers of every 4 by 4 pixels, and "
    "was trained for minutes.",
    "Its language is the handful of sentences above. It was never asked to chat, and it cannot.",
    "Made-up words bound by a few examples: a run that trained on such episodes answered none of 64 right, so they are "
    "left out here. Video, editing and boxes need stages that this demo does not run.",
)

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Emu2 from nothing</title>
<style>
:root { --ink:#1d2530; --soft:#5d6b7c; --line:#e3e8ee; --card:#fff; --page:#f5f7fa; --good:#1a8f5a; --bad:#c2483d }
@media (prefers-color-scheme: dark) { :root { --ink:#e8edf3; --soft:#97a5b6; --line:#2a3542; --card:#18212c;
  --page:#10171f; --good:#4cc38a; --bad:#f0857b } }
* { box-sizing:border-box }
body { margin:0; background:var(--page); color:var(--ink); font:16px/1.55 system-ui,"Segoe UI",sans-serif }
main { max-width:1080px; margin:0 auto; padding:40px 20px 80px }
h1 { font-size:34px; margin:0 0 6px; letter-spacing:-.5px } h2 { font-size:23px; margin:52px 0 4px }
p { margin:6px 0 14px; color:var(--soft); max-width:76ch }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:12px; margin:22px 0 }
.card { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:14px 16px }
.card b { display:block; font-size:27px; letter-spacing:-.5px }
.card span { color:var(--soft); font-size:13.5px; line-height:1.35; display:block }
.table { overflow-x:auto; background:var(--card); border:1px solid var(--line); border-radius:12px }
table { border-collapse:collapse; width:100% }
th { text-align:left; font-size:13px; color:var(--soft); font-weight:600; padding:10px 14px }
td { border-top:1px solid var(--line); padding:10px 14px; vertical-align:middle }
td.mark { width:34px; font-size:19px; font-weight:700; text-align:center }
.yes { color:var(--good) } .no { color:var(--bad) }
img { image-rendering:pixelated; border-radius:6px; display:block }
.seq { display:flex; flex-wrap:wrap; gap:8px; align-items:center }
.note { color:var(--soft); font-size:13px } code, pre { font:13.5px ui-monospace,Menlo,Consolas,monospace }
pre { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:14px; overflow-x:auto }
.curves { display:grid; grid-template-columns:repeat(auto-fit,minmax(310px,1fr)); gap:12px }
.curves .card { padding:12px }
svg text { fill:var(--soft); font:11px system-ui,sans-serif } .axis { stroke:var(--line) }
.line { fill:none; stroke-width:1.8 }
li { color:var(--soft); margin:6px 0; max-width:80ch }
</style></head><body><main>
<h1>Emu2, from nothing, in $minutes</h1>
<p>A small Emu2 of $parameters numbers, trained by one command on this machine ($machine) through the stages of the
paper: contrastive vision, captioning, unified text and picture prediction, and a diffusion decoder. Every picture below
shows a scene that training never drew; the rows are the first in order, none left out. ($form form, seed $seed)</p>
<div class="cards">$cards</div>
$sections
<section id="training"><h2>How it learned</h2>
<p>Loss of every stage, step by step. Two lanes ran side by side: vision, caption, unified; autoencoder, decoder.</p>
<div class="curves">$curves</div>
<div class="table" style="margin-top:14px"><table><tr><th>Stage</th><th>Steps</th><th>Records a step</th>
<th>Seconds</th><th>First loss</th><th>Last loss</th></tr>$stages</table></div>
<p class="note">Training $training s, showing $showing s, $total s in all. Numbers learned: $sizes.</p></section>
<section id="limits"><h2>What it cannot do yet</h2><ul>$limits</ul></section>
<section id="use"><h2>Use it</h2><pre>$commands</pre></section>
</main></body></html>
""")


def write_page(path: Path, report: dict[str, Any], results: Results, logs: dict[str, list[dict[str, float]]]) -> Path:
    """Write the page.

    Args:
        path: of the HTML file.
        report: what scores.json holds.
        results: rows and figures.
        logs: stage -> lines of its log.
    """
    seconds, scores = report["seconds"], report["scores"]
    values = {
        "minutes": f"{seconds['total'] / 60:.0f} minutes",
        "parameters": f"{sum(report['parameters'].values()) / 1e6:.1f} million",
        "machine": escape(report["machine"]),
        "form": report["form"].capitalize(),
        "seed": report["seed"],
        "cards": "".join(card(*one) for one in _cards(scores)),
        "sections": "".join(_section(name, results.rows[name], scores[name]) for name in _SECTIONS),
        "curves": "".join(_curve(name, log) for name, log in logs.items()),
        "stages": "".join(_stage(name, report, logs[name]) for name in logs),
        "training": seconds["training"],
        "showing": seconds["showing"],
        "total": seconds["total"],
        "sizes": ", ".join(f"{name} {number:,}" for name, number in report["parameters"].items()),
        "limits": "".join(f"<li>{escape(text.format(things=report['things']))}</li>" for text in _LIMITS),
        "commands": escape(_commands(path.parent / "model")),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_PAGE.substitute(values), encoding="utf-8")
    return path


def _cards(scores: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    def percent(section: str, figure: str) -> str:
        return f"{scores[section][figure]:.0%}"

    counting = scores["counting"]
    return [
        (percent("captions", "things and their numbers right"), "of unseen pictures: things and their numbers right"),
        (percent("captions", "whole caption word for word"), "captions right word for word"),
        (
            percent("counting", "answer right"),
            f"counting answers right after {SHOTS} examples (chance {counting['chance']:.0%})",
        ),
        (
            percent("drawings", "things in their places"),
            "of things drawn from words in the right place, read from pixels",
        ),
        (percent("autoencoding", "things in their places"), "of things kept when a picture is seen and drawn again"),
        (f"{scores['autoencoding']['PSNR in dB']:.1f} dB", "PSNR of seen and drawn again"),
    ]


def _section(name: str, rows: list[Row], scores: dict[str, float]) -> str:
    title, words, columns = _SECTIONS[name]
    head = "".join(f"<th>{escape(column)}</th>" for column in (*columns, ""))
    figures = "; ".join(f"{figure} {_figure(figure, value)}" for figure, value in scores.items())
    return (
        f'<section id="{name}"><h2>{escape(title)}</h2><p>{escape(words)}</p><div class="table"><table><tr>{head}</tr>'
        f"{''.join(map(_row, rows))}</table></div>"
        f'<p class="note">Measured in this run: {escape(figures)}.</p></section>'
    )


def _figure(name: str, value: float) -> str:
    if name in ("pictures", "episodes", "demonstrations"):
        return str(int(value))
    return f"{value:.1f}" if name.endswith("dB") else f"{value:.0%}"


def _row(row: Row) -> str:
    given = "".join(_part(part) for part in row.given)
    notes = "".join(f'<div class="note">{escape(k)} {escape(v)}</div>' for k, v in row.notes.items())
    mark = '<td class="mark yes">&#10003;</td>' if row.right else '<td class="mark no">&#10007;</td>'
    cells = f'<td><div class="seq">{given}</div></td><td>{_part(row.got)}{notes}</td><td>{_part(row.truth)}</td>'
    return f"<tr>{cells}{mark}</tr>"


def _part(part: Any) -> str:
    if isinstance(part, Image.Image):
        size = f'width="{part.width * _ZOOM}" height="{part.height * _ZOOM}"'
        return f'<img {size} alt="picture" src="{data_url(part)}">'
    return f"<span>{escape(str(part)) or '<i>nothing</i>'}</span>"


def _losses(log: list[dict[str, float]]) -> dict[str, list[tuple[float, float]]]:
    """Name -> (step, loss), the parts of a loss where it has several."""
    names = [name for name in log[0] if name.startswith("loss/")] if log else []
    return {
        name.removeprefix("loss/"): [(line["step"], line[name]) for line in log if name in line]
        for name in names or ["loss"]
    }


def _curve(stage: str, log: list[dict[str, float]]) -> str:
    """One small diagram as inline SVG, the loss axis from 0."""
    width, height, left, bottom, top = 300, 150, 38, 20, 8
    curves = _losses(log)
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    last = max(step for step, _ in points)
    # The first steps of a fresh network would flatten everything after them.
    settled = sorted(value for _, value in points)
    ceiling = max(settled[int(0.97 * (len(settled) - 1))], 1e-9) * 1.05

    def place(step: float, value: float) -> str:
        x = left + (width - left - 6) * step / last
        y = top + (height - top - bottom) * (1 - min(value, ceiling) / ceiling)
        return f"{x:.1f},{y:.1f}"

    colours = ("#4c8bf5", "#e8833a", "#3aa76d")
    lines = "".join(
        f'<polyline class="line" stroke="{colours[i % 3]}" points="{" ".join(place(*p) for p in curve)}"/>'
        f'<text x="{width - 8}" y="{top + 12 + 14 * i}" text-anchor="end" style="fill:{colours[i % 3]}">'
        f"{escape(name)}</text>"
        for i, (name, curve) in enumerate(curves.items())
    )
    grid = "".join(
        f'<line class="axis" x1="{left}" x2="{width - 6}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{ceiling * share:.2g}</text>'
        for share in (0.0, 0.5, 1.0)
        for y in [top + (height - top - bottom) * (1 - share)]
    )
    axis = (
        f'<text x="{left}" y="{height - 5}">0</text>'
        f'<text x="{width - 6}" y="{height - 5}" text-anchor="end">{last:.0f} steps</text>'
    )
    return (
        f'<div class="card"><b style="font-size:15px">{escape(stage)}</b>'
        f'<svg viewBox="0 0 {width} {height}" width="100%" role="img" aria-label="loss of {escape(stage)}">'
        f"{grid}{lines}{axis}</svg></div>"
    )


def _stage(name: str, report: dict[str, Any], log: list[dict[str, float]]) -> str:
    cells = (
        name,
        report["steps"][name],
        report["batch_size"][name],
        report["seconds"][f"stage {name}"],
        f"{log[0]['loss']:.3f}",
        f"{_mean_end(log):.3f}",
    )
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _mean_end(log: list[dict[str, float]], lines: int = 10) -> float:
    """Mean loss of the last logged steps; one step alone is noisy."""
    tail = [line["loss"] for line in log[-lines:]]
    return sum(tail) / len(tail)


def _commands(model: Path) -> str:
    return "\n".join(
        (
            f'emu2 draw -m {model} "two dogs on a blue background; the dogs are at the top left and at the top right"',
            f"emu2 complete -m {model} -i picture.png",
            f"emu2 train unified --model {model} --out runs/more",
        )
    )
