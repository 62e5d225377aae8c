"""What a run tells about itself: a log line per step, TensorBoard, throughput, a progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Throughput:
    """Rates over the last `window` steps."""

    def __init__(self, window: int = 20):
        self._window = window
        self._marks: list[tuple[float, dict[str, int]]] = [(time.perf_counter(), {})]

    def update(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Add one step's counts (tokens, images, ...); returns each as a rate per second."""
        self._marks.append((time.perf_counter(), dict(counts)))
        self._marks = self._marks[-self._window - 1 :]
        seconds = max(self._marks[-1][0] - self._marks[0][0], 1e-9)
        return {name: sum(mark[1].get(name, 0) for mark in self._marks[1:]) / seconds for name in self._marks[-1][1]}


class RunLog:
    """`log.jsonl` (one object per logged step) and TensorBoard event files under the run's folder.

    Lines at or after the step a run resumes from are removed first, so that the log of an interrupted and resumed run
    is that of one that never stopped.
    """

    def __init__(self, out: Path, *, first_step: int = 0, tensorboard: bool = True):
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "log.jsonl"
        kept = [line for line in read_log(self.path) if line["step"] <= first_step] if first_step else []
        # Aside and renamed: a run that is killed right here must not lose the lines it wrote before.
        aside = self.path.with_suffix(".writing")
        aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        aside.replace(self.path)
        self._file = self.path.open("a")
        self._writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=first_step or None)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def samples(self, step: int, samples: Mapping[str, Any]) -> None:
        """Pictures (PIL) and texts made by the half-trained model."""
        if self._writer is None:
            return
        for name, sample in samples.items():
            if isinstance(sample, Image.Image):
                self._writer.add_image(name, np.asarray(sample.convert("RGB")), step, dataformats="HWC")
            else:
                self._writer.add_text(name, str(sample), step)

    def close(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a `log.jsonl`; a last line torn by an interruption is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def progress_bar(console: Console | None, *, disable: bool = False) -> Progress:
    """The bar of a run: name, losses and rates, steps, time gone, time left."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
        disable=disable,
    )


def describe(values: Mapping[str, float], rates: Mapping[str, float]) -> str:
    """`loss 1.234  text 1.1  120 tokens/s` for the progress bar."""
    losses = [f"{name.removeprefix('loss/')} {value:.4f}" for name, value in values.items() if name.startswith("loss")]
    speeds = [f"{rate:,.0f} {name}/s" for name, rate in rates.items() if rate]
    return "  ".join(losses + speeds)
