"""What a run tells about itself: a log line per step, TensorBoard, throughput, a progress bar."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from emu2.train.config import RunConfig, to_dict

if TYPE_CHECKING:
    import torch

    from emu2.train.distributed import World
    from emu2.train.objectives import Batch
    from emu2.train.whole import Whole

#: Rates of `Throughput` that are no amount per second, and how they are shown.
_SHOWN = {"mfu": "MFU {:.1%}", "data_wait": "data wait {:.0%}", "memory_gib": "{:.1f} GiB"}


class Throughput:
    """Rates over the last `window` steps.

    Args:
        window: how many steps.
        peak: FLOP/s of the device at best; None where it is not known.
        work: model FLOPs of micro-batches, read where the peak is known.
        device: whose memory is told.
        processes: that work through as many records each.
    """

    def __init__(
        self,
        window: int = 20,
        *,
        peak: float | None = None,
        work: Callable[[Sequence[Batch]], float] | None = None,
        device: torch.device | None = None,
        processes: int = 1,
    ):
        self._window, self._peak, self._work, self._device = window, peak, work, device
        self._processes = processes
        self._marks: list[tuple[float, dict[str, float]]] = [(time.perf_counter(), {})]

    @classmethod
    def of_run(cls, whole: Whole, config: RunConfig, world: World) -> Throughput:
        """With the MFU, on a GPU whose peak is known."""
        from emu2.train.flops import FlopModel, compute_dtype, device_peak

        peak = device_peak(world.device, compute_dtype(config))
        work = FlopModel(whole, config).step if peak else None
        return cls(peak=peak, work=work, device=world.device, processes=world.data_size)

    def update(self, batches: Sequence[Batch], waited: float = 0.0) -> dict[str, float]:
        """Add one step.

        Args:
            batches: the micro-batches that this process worked through.
            waited: seconds it waited for them.

        Returns:
            each of the batches' amounts (tokens, images, ...) as a rate per second of all processes; `data_wait`, the
            share of the time spent waiting for data; `mfu`, where the peak is known; `memory_gib`, the most this
            process has held so far, on its GPU or else in all.
        """
        mark: Counter[str] = Counter({"data_wait": waited})  # type: ignore[dict-item]
        for batch in batches:
            mark.update({name: amount * self._processes for name, amount in batch.amounts.items()})
        if self._peak and self._work:
            mark["mfu"] = self._work(batches) / self._peak  # type: ignore[assignment]
        self._marks.append((time.perf_counter(), dict(mark)))
        self._marks = self._marks[-self._window - 1 :]
        seconds = max(self._marks[-1][0] - self._marks[0][0], 1e-9)
        rates = {name: sum(past.get(name, 0) for _, past in self._marks[1:]) / seconds for name in mark}
        return {**rates, "memory_gib": peak_memory(self._device) / 1024**3}


def peak_memory(device: torch.device | None = None) -> int:
    """Bytes: the most that torch has held on a GPU, or that this process has held of the host's memory."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    import resource  # Unix only

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # kilobytes on Linux


class WandbTracker:
    """Sends what is logged to Weights & Biases. A resumed run goes on in the same place.

    Raises:
        ValueError: its package is not installed.
    """

    def __init__(self, config: RunConfig, out: Path):
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                "tracker='wandb' needs the package wandb, which is not installed: pip install wandb, or leave tracker "
                "out (log.jsonl and TensorBoard files are written anyway)."
            ) from error
        self._wandb = wandb
        place = out / "wandb.json"
        known = json.loads(place.read_text())["id"] if place.is_file() else None
        self._run = wandb.init(
            project="emu2", name=config.name, dir=str(out), config=to_dict(config), id=known, resume="allow"
        )
        place.write_text(json.dumps({"id": self._run.id}))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def samples(self, step: int, samples: Mapping[str, Any]) -> None:
        shown = {
            name: self._wandb.Image(sample) if isinstance(sample, Image.Image) else str(sample)
            for name, sample in samples.items()
        }
        self._run.log(shown, step=step)

    def close(self) -> None:
        self._run.finish()


class RunLog:
    """`log.jsonl` (one object per logged step), samples/ and TensorBoard event files under the run's folder.

    Lines at or after the step a run resumes from are removed first, so that the log of an interrupted and resumed run
    is that of one that never stopped.
    """

    def __init__(
        self, out: Path, *, first_step: int = 0, tensorboard: bool = True, tracker: WandbTracker | None = None
    ):
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "log.jsonl"
        kept = [line for line in read_log(self.path) if line["step"] <= first_step] if first_step else []
        # Aside and renamed: a run that is killed right here must not lose the lines it wrote before.
        aside = self.path.with_suffix(".writing")
        aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        aside.replace(self.path)
        self._file = self.path.open("a")
        self._tracker = tracker
        self._writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=first_step or None)

    @classmethod
    def of_run(cls, config: RunConfig, out: Path, first_step: int, *, tensorboard: bool) -> RunLog:
        """With the tracker that `config` names.

        Raises:
            ValueError: its package is not installed.
        """
        tracker = WandbTracker(config, out) if config.tracker == "wandb" else None
        return cls(out, first_step=first_step, tensorboard=tensorboard, tracker=tracker)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._tracker is not None:
            self._tracker.step(step, values)
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def samples(self, step: int, samples: Mapping[str, Any]) -> None:
        """Pictures (PIL) and texts made by the half-trained model; kept in samples/step-00000400/."""
        folder = self.path.parent / "samples" / f"step-{step:08d}"
        for name, sample in samples.items():
            folder.mkdir(parents=True, exist_ok=True)
            stem = name.replace("/", "-")
            if isinstance(sample, Image.Image):
                sample.convert("RGB").save(folder / f"{stem}.png")
            else:
                (folder / f"{stem}.txt").write_text(str(sample), encoding="utf-8")
        if self._tracker is not None and samples:
            self._tracker.samples(step, samples)
        if self._writer is None:
            return
        for name, sample in samples.items():
            if isinstance(sample, Image.Image):
                self._writer.add_image(name, np.asarray(sample.convert("RGB")), step, dataformats="HWC")
            else:
                self._writer.add_text(name, str(sample), step)

    def close(self) -> None:
        self._file.close()
        if self._tracker is not None:
            self._tracker.close()
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
    """The bar of a run: name, steps, losses and rates, time gone, time left. The losses get what room there is."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
        disable=disable,
        expand=True,
    )


def describe(values: Mapping[str, float], rates: Mapping[str, float]) -> str:
    """`loss 1.234  text 1.1  120 tokens/s  MFU 41.0%  data wait 2%  11.5 GiB` for the progress bar."""
    losses = [f"{name.removeprefix('loss/')} {value:.4f}" for name, value in values.items() if name.startswith("loss")]
    speeds = [f"{rate:,.0f} {name}/s" for name, rate in rates.items() if rate and name not in _SHOWN]
    others = [form.format(rates[name]) for name, form in _SHOWN.items() if name in rates]
    return "  ".join(losses + speeds + others)
