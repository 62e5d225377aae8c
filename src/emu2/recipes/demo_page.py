"""The demo's page: one self-contained HTML file, pictures and curves inside."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from emu2.recipes.demo_show import GUIDANCE, SHOTS, Results, Row
from emu2.train.report import STYLE, card, data_url, diagram, tail_mean

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

_STYLE = """td.mark { width:34px; font-size:19px; text-align:center }
li { color:var(--soft); margin:6px 0; max-width:80ch }
"""

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Emu2 from nothing</title>
<style>
$style</style></head><body><main>
<h1>Emu2, from nothing, in $minutes</h1>
<p>A small Emu2 of $parameters numbers, trained by one command on this machine ($machine) through the stages of the
paper: contrastive vision, captioning, unified text and picture prediction, and a diffusion decoder. Every picture below
shows a scene that training never drew; the rows are the first in order, none left out. ($form form, seed $seed)</p>
<div class="cards">$cards</div>
$sections
<section id="training"><h2>How it learned</h2>
<p>Loss of every stage, step by step. Two lanes ran side by side: vision, caption, unified; autoencoder, decoder.</p>
<div class="curves">$curves</div>
<div class="wide" style="margin-top:14px"><table><tr><th>Stage</th><th>Steps</th><th>Records a step</th>
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
        "style": STYLE + _STYLE,
        "minutes": f"{seconds['total'] / 60:.0f} minutes",
        "parameters": f"{sum(report['parameters'].values()) / 1e6:.1f} million",
        "machine": escape(report["machine"]),
        "form": report["form"].capitalize(),
        "seed": report["seed"],
        "cards": "".join(card(*one) for one in _cards(scores)),
        "sections": "".join(_section(name, results.rows[name], scores[name]) for name in _SECTIONS),
        "curves": "".join(diagram(name, "", ("loss",), log) for name, log in logs.items()),
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
        f'<section id="{name}"><h2>{escape(title)}</h2><p>{escape(words)}</p><div class="wide"><table><tr>{head}</tr>'
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


def _stage(name: str, report: dict[str, Any], log: list[dict[str, float]]) -> str:
    cells = (
        name,
        report["steps"][name],
        report["batch_size"][name],
        report["seconds"][f"stage {name}"],
        f"{log[0]['loss']:.3f}",
        f"{tail_mean(log, 'loss'):.3f}",
    )
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _commands(model: Path) -> str:
    return "\n".join(
        (
            f'emu2 draw -m {model} "two dogs on a blue background; the dogs are at the top left and at the top right"',
            f"emu2 complete -m {model} -i picture.png",
            f"emu2 train unified --model {model} --out runs/more",
        )
    )
