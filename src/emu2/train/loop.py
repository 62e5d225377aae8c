"""The one training loop: every stage is an objective, the parts it trains, and its data.

One optimizer step: read `accumulation` micro-batches, add up the gradients of their losses weighed by targets, refuse
anything non-finite before a weight moves, clip, step, log. All randomness of a step is a function of (seed, step), and
the position in the data is a few integers, so a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from emu2.data.loader import Loader, Samples
from emu2.data.mixture import Mixture
from emu2.data.sources import Source
from emu2.train import checkpoint
from emu2.train.config import RunConfig, to_dict
from emu2.train.metrics import RunLog, Throughput, describe, progress_bar
from emu2.train.objectives import Batch, Objective, objective_class
from emu2.train.optim import MovingAverage, build_optimizer, schedule_factor, set_rates
from emu2.train.trainable import parameter_groups, set_trainable, trained_parameters
from emu2.train.whole import Whole

#: Settings that may differ between a run and its resumption: they change what is shown or kept, never what is learned.
_FREE_ON_RESUME = ("log_every", "sample_every", "save_every", "keep_checkpoints", "device", "tracker")
#: Batches that `Objective.finish` measures on.
_FINISH_BATCHES = 8


class NonFiniteError(RuntimeError):
    """A loss or gradient is not a number. The weights are those before the step."""


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """What a run came to. losses: the last step's. bad: skipped samples by cause."""

    name: str
    steps: int
    seconds: float
    losses: dict[str, float]
    bad: dict[str, int]
    out: str

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Trainer:
    """One run.

    Args:
        config: of the run.
        whole: the model; trained in place.
        sources: kind of record -> source, for every kind that `config.data.kinds` weighs.
        out: the run's folder: config.json, log.jsonl, tensorboard/, checkpoints/; at the end model/ and summary.json.
        console: where the progress bar goes; None is standard error.
        quiet: no progress bar.
        tensorboard: write event files.

    Raises:
        ValueError: the objective lacks a part, or cannot train one that the config names.
    """

    def __init__(
        self,
        config: RunConfig,
        whole: Whole,
        sources: Mapping[str, Source],
        out: str | Path,
        *,
        console: Console | None = None,
        quiet: bool = False,
        tensorboard: bool = True,
    ):
        self.config, self.out = config, Path(out)
        self.device = torch.device(config.device)
        self.whole = whole.to(self.device, getattr(torch, config.dtype))
        self.objective: Objective = objective_class(config.objective)(whole, config, self.device)
        set_trainable(whole, config.parts)
        self.optimizer = build_optimizer(parameter_groups(whole, config.parts, config.optim), config.optim)
        self.parameters = {name: parameter for _, name, parameter in trained_parameters(whole, config.parts)}
        self.average = MovingAverage(self.parameters.items(), config.ema_decay) if config.ema_decay else None
        self.mixture = Mixture(sources, config.data.kinds, mode=config.data.mode, seed=config.seed)
        self.loader = Loader(self.mixture.sources, self.objective.sample, seed=config.seed)
        self.step = 0
        self.bad: Counter[str] = Counter()
        self._console, self._quiet, self._tensorboard = console, quiet, tensorboard

    def run(self, *, resume: bool = False, until: int | None = None) -> RunSummary:
        """Train to the end, or to step `until` (a checkpoint is written there and the run can be resumed).

        Args:
            resume: continue from the newest checkpoint in `out`; where there is none, start from the beginning.

        Raises:
            NonFiniteError: a loss or gradient is not finite; the weights have not moved in that step.
            ValueError: the checkpoint belongs to other settings; too many samples are bad.
        """
        if resume:
            self._resume()
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "config.json").write_text(json.dumps(to_dict(self.config), indent=1))
        last = self.config.steps if until is None else min(until, self.config.steps)
        log = RunLog(self.out, first_step=self.step, tensorboard=self._tensorboard)
        speed, started = Throughput(), time.perf_counter()
        values: dict[str, float] = {}
        batches: list[Batch] = []
        try:
            with progress_bar(self._console, disable=self._quiet) as bar:
                task = bar.add_task(self.config.name, total=self.config.steps, completed=self.step, status="")
                self._warm()
                while self.step < last:
                    values, batches = self._step()
                    rates = speed.update(_total(batch.amounts for batch in batches))
                    status = describe(values, rates)
                    bar.update(task, completed=self.step, status=status)
                    if self.step % self.config.log_every == 0 or self.step == last:
                        log.step(self.step, {**values, **{f"speed/{name}": rate for name, rate in rates.items()}})
                    if _due(self.step, self.config.sample_every):
                        log.samples(self.step, self._preview(batches[0]))
                    if _due(self.step, self.config.save_every) and self.step < last:
                        self.save()
                self.save()
        finally:
            log.close()
        if self.step == self.config.steps:
            self._finish()
        losses = {name.removeprefix("loss/"): value for name, value in values.items() if name.startswith("loss")}
        summary = RunSummary(
            self.config.name, self.step, time.perf_counter() - started, losses, dict(self.bad), str(self.out)
        )
        (self.out / "summary.json").write_text(json.dumps(summary.to_dict(), indent=1))
        return summary

    # One step

    def _step(self) -> tuple[dict[str, float], list[Batch]]:
        """Read, learn, move; the step's values for the log and its batches."""
        began = time.perf_counter()
        batches = self._read()
        waited = time.perf_counter() - began
        totals = _total(batch.counts for batch in batches)
        weights = {name: weight for name, weight in self.objective.weights.items() if totals.get(name)}
        torch.manual_seed(_seed(self.config.seed, self.step, "model"))
        set_rates(self.optimizer, schedule_factor(self.step, self.config.steps, self.config.optim), self.step)
        self.optimizer.zero_grad(set_to_none=True)

        sums: dict[str, float] = defaultdict(float)
        for batch in batches:
            terms = self.objective.terms(batch.to(self.device))
            # Each mean stands for its targets' share of the whole step's.
            shares = {name: terms[name] * (batch.counts[name] / totals[name]) for name in weights if batch.counts[name]}
            for name, share in shares.items():
                sums[name] += share.item()
            loss = sum((weights[name] * share for name, share in shares.items()), torch.zeros((), device=self.device))
            self._require_finite(loss, "loss", batches, dict(sums))
            if loss.requires_grad:
                loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.optim.clip_norm)
        self._require_finite(norm, "gradient norm", batches, dict(sums))
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.parameters.items())
        self.step += 1

        values = {"loss": sum(weights[name] * sums[name] for name in weights)}
        if len(self.objective.weights) > 1:
            values |= {f"loss/{name}": sums[name] for name in weights}
        values |= {"optim/grad_norm": norm.item(), "data/wait_seconds": waited}
        values |= {f"optim/lr_{group['part']}": group["lr"] for group in self.optimizer.param_groups}
        if self.bad:
            values["data/bad"] = self.bad.total()
        return values, batches

    def _read(self) -> list[Batch]:
        """The next step's micro-batches, without the samples that could not be read."""
        step = self.mixture.step
        batches = []
        for number, addresses in enumerate(
            self.mixture.next_step(self.config.accumulation, self.config.data.batch_size)
        ):
            read = self.loader.read(addresses, (step, number))
            self.bad.update(read.bad)
            if read.samples:
                batches.append(self._batch(read))
        seen = sum(self.mixture.taken.values())
        if self.bad.total() > self.config.max_bad_share * seen or not batches:
            causes = "; ".join(f"{number} x {cause}" for cause, number in self.bad.most_common(5))
            raise ValueError(
                f"{self.bad.total()} of the {seen} samples so far could not be used, more than the allowed share of "
                f"{self.config.max_bad_share:.0%} (max_bad_share), or all of one batch. Causes: {causes}."
            )
        return batches

    def _batch(self, read: Samples) -> Batch:
        batch = self.objective.collate(read.samples, read.keys)
        batch.seeds = read.seeds
        return batch

    def _require_finite(self, value: Tensor, what: str, batches: list[Batch], losses: dict[str, float]) -> None:
        number = value.item()
        if math.isfinite(number):
            return
        self.optimizer.zero_grad(set_to_none=True)
        keys = [key for batch in batches for key in batch.keys]
        raise NonFiniteError(
            f"The {what} of step {self.step} is {number}; no weight was moved. Losses so far: {losses}. Records "
            f"of this step: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}. A lower optim.lr or a longer "
            "optim.warmup_steps often helps; the newest checkpoint is from before this step."
        )

    # Around the steps

    def _warm(self) -> None:
        """Frozen features of all pooled records, in order and in blocks of one size.

        Done ahead and always alike, so that a resumed run holds the very same numbers: a row's last bits can depend on
        how many rows were computed beside it.
        """
        if self.config.data.pool is None:
            return
        for kind in self.mixture.kinds:
            size = self.mixture.sources[kind].size
            for start in range(0, size or 0, self.config.data.batch_size):
                stop = min(start + self.config.data.batch_size, size or 0)
                read = self.loader.read([(kind, index) for index in range(start, stop)], ("warm", start))
                if read.samples:
                    self.objective.warm(read.samples)

    def _preview(self, batch: Batch) -> dict[str, Any]:
        """Samples by the model as it is, without touching the run's state."""
        for module in self.whole.modules():
            module.eval()
        try:
            return self.objective.preview(batch)
        finally:
            set_trainable(self.whole, self.config.parts)

    def _finish(self) -> None:
        """The last act of a complete run: averaged weights, measurements, the model's folder."""
        if self.average is not None:
            self.average.swap(self.parameters.items())
        set_trainable(self.whole, ())
        kinds = [(kind, index) for index in range(self.config.data.batch_size) for kind in self.mixture.kinds[:1]]
        batches = []
        for number in range(_FINISH_BATCHES):
            size = self.mixture.sources[kinds[0][0]].size
            addresses = [(kind, index + number * len(kinds)) for kind, index in kinds]
            read = self.loader.read(
                [(kind, index % size if size else index) for kind, index in addresses], ("finish", number)
            )
            if read.samples:
                batches.append(self._batch(read).to(self.device))
        self.objective.finish(batches)
        self.whole.save(self.out / "model")

    def save(self) -> Path:
        """Write a checkpoint of the present step."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        tensors: dict[str, Mapping[str, Tensor]] = {
            "weights": dict(self.parameters),
            "optimizer": checkpoint.optimizer_tensors(self.optimizer, names),
            "rng": checkpoint.rng_tensors(),
        }
        if self.average is not None:
            tensors["average"] = self.average.shadow
        state = {
            "step": self.step,
            "data": self.mixture.state_dict(),
            "bad": dict(self.bad),
            "average_updates": self.average.updates if self.average else 0,
            "config": to_dict(self.config),
            "files": sorted(tensors),
        }
        return checkpoint.write_checkpoint(self.out, self.step, tensors, state, keep=self.config.keep_checkpoints)

    @torch.no_grad()
    def _resume(self) -> None:
        found = checkpoint.list_checkpoints(self.out)
        if not found:
            return
        tensors, state = checkpoint.read_checkpoint(found[-1])
        ours = to_dict(self.config)
        for key in sorted(set(ours) - set(_FREE_ON_RESUME)):
            if ours[key] != state["config"].get(key):
                raise ValueError(
                    f"The run in {self.out} was started with {key}={state['config'].get(key)!r}, and is to be resumed "
                    f"with {key}={ours[key]!r}. Resume with the same settings, or choose another folder."
                )
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors["weights"][name])
        checkpoint.load_optimizer(self.optimizer, self.parameters, tensors["optimizer"])
        checkpoint.set_rng(tensors["rng"])
        if self.average is not None:
            self.average.shadow = {name: value.to(self.device) for name, value in tensors["average"].items()}
            self.average.updates = state["average_updates"]
        self.mixture.load_state_dict(state["data"])
        self.bad = Counter(state["bad"])
        self.step = state["step"]


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _total(tables: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for table in tables:
        total.update(table)
    return dict(total)


def _seed(*parts: Any) -> int:
    """A 63-bit seed from a path of names and numbers, the same on every machine."""
    return random.Random("/".join(map(str, parts))).getrandbits(63)
