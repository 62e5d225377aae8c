"""The page of a whole pipeline: `report.html`, one self-contained file over all of its stages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu2.recipes.records import StageRecord, stage_records
from emu2.train.metrics import read_log
from emu2.train.report import RUN_STYLE, STYLE, card, diagram, duration, figure, samples, tail_mean

if TYPE_CHECKING:
    from emu2.recipes.pipeline import Pipeline

#: Diagrams of each stage; its own page has the others.
_DIAGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Loss": ("thin: every logged step; thick: running mean", ("loss",)),
    "Held-out loss": ("on records that the stage does not learn", ("validation/",)),
    "Held-out loss by kind": ("of record, one batch of each", ("kinds/",)),
}
#: Samples of each looked-at step.
_EACH = 4


def write_page(pipeline: Pipeline) -> Path:
    """Write `report.html` of what the stages have left so far."""
    records = stage_records(pipeline)
    begun = [record for record in records if record.sessions]
    done = sum(record.finished for record in records)
    about = ", ".join(f"{name} {value}" for name, value in pipeline.about.items() if name != "settings")
    cards = [
        (f"{done} of {len(records)}", "stages complete"),
        (duration(sum(record.seconds for record in begun)), "of work, all stages together"),
        (f"{sum(record.steps for record in begun):,}", "optimizer steps"),
    ]
    rows = "".join(_row(record) for record in records)
    head = "".join(
        f"<th>{title}</th>"
        for title in ("Stage", "Steps", "Trained parameters", "Loss", "Held out", "Time", "Pieces", "On")
    )
    name = f"emu2 {pipeline.about.get('size', '')}".strip()
    html = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><style>{STYLE}{RUN_STYLE} nav a {{ margin-right:14px }} "
        "td, th { padding:6px 10px } "
        ".curves { grid-template-columns:repeat(auto-fill,minmax(330px,1fr)) } "
        "h3 { font-size:16px; margin:18px 0 8px } .table { overflow-x:auto }</style></head><body><main>"
        f"<h1>{escape(name)}: all stages</h1><p>{escape(about)}</p>"
        f'<div class="cards">{"".join(card(*one) for one in cards)}</div>'
        f'<div class="table"><table><tr>{head}</tr>{rows}</table></div>'
        f"{''.join(_section(pipeline, record) for record in begun)}</main></body></html>\n"
    )
    page = pipeline.out / "report.html"
    page.write_text(html, encoding="utf-8")
    return page


def _row(record: StageRecord) -> str:
    link = f'<a href="#{record.name}">{record.name}</a>' if record.sessions else record.name
    cells = [
        f"{record.steps:,} of {record.config.steps:,}",
        f"{record.trained:,}" if record.trained else "",
        _shown(record.loss),
        _shown(record.held_out),
        duration(record.seconds) if record.sessions else "",
        str(len(record.sessions) or ""),
        ", ".join(record.machines),
    ]
    return f"<tr><td>{link}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _shown(value: float | None) -> str:
    return "" if value is None else figure(value)


def _section(pipeline: Pipeline, record: StageRecord) -> str:
    run = pipeline.out / record.name
    log = read_log(run / "log.jsonl")
    diagrams = "".join(diagram(title, *shown, log) for title, shown in _DIAGRAMS.items())
    return (
        f'<h2 id="{record.name}">{record.name}</h2><p>{escape(_what(record, pipeline.starts(record.name), log))}</p>'
        f'<div class="curves">{diagrams or "No step is logged."}</div>'
        f"{samples(run / 'samples', heading='h3', each=_EACH)}"
        f"<details><summary>Settings</summary><pre>{escape(json.dumps(record.settings, indent=1))}</pre></details>"
    )


def _what(record: StageRecord, starts: Mapping[str, str], log: list[dict[str, Any]]) -> str:
    config = record.config
    taken = [other if part == "whole" else f"the {part.replace('_', ' ')} of {other}" for part, other in starts.items()]
    text = f"Objective {config.objective}; trains {', '.join(config.parts)}; starts from {', '.join(taken)}. "
    text += f"{record.steps:,} of {config.steps:,} steps of {config.data.batch_size} records"
    if config.data.batch_sizes:
        text += " (" + ", ".join(f"{kind} {size}" for kind, size in config.data.batch_sizes.items()) + ")"
    if log:
        text += f"; loss at the end {figure(tail_mean(log, 'loss'))}"
    return text + "."
