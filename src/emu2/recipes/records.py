"""What a pipeline's stages have left about themselves, as figures: nothing here is guessed or remembered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu2.train.config import RunConfig, to_dict
from emu2.train.metrics import read_log

if TYPE_CHECKING:
    from emu2.recipes.pipeline import Pipeline

#: Logged steps that a loss at the end is the mean of.
_TAIL = 10


@dataclass(frozen=True)
class StageRecord:
    """One stage.

    steps: done so far. sessions: pieces of work on it, each with its seconds and machine. loss: mean of the last logged
    steps; held_out: the last one measured on records it does not learn. trained: parameters that moved. bad: samples
    that could not be used, by cause. skipped: steps left out because something was not finite.
    """

    name: str
    config: RunConfig
    finished: bool
    steps: int
    sessions: list[dict[str, Any]] = field(default_factory=list)
    loss: float | None = None
    held_out: float | None = None
    trained: int | None = None
    bad: dict[str, int] = field(default_factory=dict)
    skipped: int = 0

    @property
    def seconds(self) -> float:
        return sum(session["seconds"] for session in self.sessions)

    @property
    def machines(self) -> list[str]:
        """What it ran on, each once: `Intel ..., 1 thread`, `NVIDIA H200`."""
        return list(dict.fromkeys(machine(session) for session in self.sessions))

    @property
    def settings(self) -> dict[str, Any]:
        return to_dict(self.config)

    def to_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "batch_size": self.config.data.batch_size,
            "seconds": round(self.seconds, 1),
            "pieces": len(self.sessions),
            "machines": self.machines,
            "loss": self.loss,
            "held_out_loss": self.held_out,
            "trained_parameters": self.trained,
            "bad": self.bad,
            "skipped": self.skipped,
        }


def machine(session: dict[str, Any]) -> str:
    if session.get("gpu"):
        return str(session["gpu"])
    threads = session["threads"]
    return f"{session['processor']}, {threads} thread{'s' if threads > 1 else ''}"


def stage_records(pipeline: Pipeline) -> list[StageRecord]:
    """Of every stage, in order."""
    return [_record(pipeline, name, config) for name, config in pipeline.stages.items()]


def _record(pipeline: Pipeline, name: str, config: RunConfig) -> StageRecord:
    run = pipeline.out / name
    log = read_log(run / "log.jsonl")
    losses = [line["loss"] for line in log if "loss" in line][-_TAIL:]
    measured = [line["validation/loss"] for line in log if "validation/loss" in line]
    summary = _read(run / "summary.json")
    return StageRecord(
        name,
        config,
        finished=pipeline.finished(name),
        steps=pipeline.step(name),
        sessions=pipeline.sessions(name),
        loss=sum(losses) / len(losses) if losses else None,
        held_out=measured[-1] if measured else None,
        trained=_read(run / "trained.json").get("parameters"),
        bad=summary.get("bad", {}),
        skipped=summary.get("skipped", 0),
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
