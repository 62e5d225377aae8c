"""The one training loop: every stage is an objective, the parts it trains, and its data.

One optimizer step: read `accumulation` micro-batches, add up the gradients of their losses weighed by targets, refuse
anything non-finite before a weight moves, clip, step, log. All randomness of a step is a function of (seed, step), and
the position in the data is a few integers, so a resumed run continues as if it had never stopped. Until a step is
complete nothing of the run's state has changed, so it can be given up at any moment.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from emu2.data.feed import Feed, StepData
from emu2.data.loader import Loader
from emu2.data.mixture import Mixture
from emu2.data.sources import Source
from emu2.model.adapters import save_adapter
from emu2.train import blocks, state
from emu2.train.bad import require_usable, tell_new
from emu2.train.chance import seed_of
from emu2.train.checkpoint import Checkpoints
from emu2.train.config import RunConfig, to_dict
from emu2.train.distributed import World
from emu2.train.export import save_whole
from emu2.train.fitting import fit_whole
from emu2.train.metrics import RunLog, Throughput, describe, progress_bar
from emu2.train.nonfinite import NonFiniteError, complaint, keep_batches
from emu2.train.objectives import Batch, Objective, objective_class
from emu2.train.optim import MovingAverage, build_optimizer, schedule_factor, set_rates, warn_of_rates
from emu2.train.report import write_report
from emu2.train.stopping import StopRequest
from emu2.train.summary import RunSummary
from emu2.train.trainable import parameter_groups, set_trainable, trained_parameters
from emu2.train.validation import Validation, computing, evaluating, first_batch, summed
from emu2.train.whole import Whole

__all__ = ["NonFiniteError", "RunSummary", "Trainer"]

#: Batches that `Objective.begin` and `Objective.finish` measure on.
_FIXED_BATCHES = 8
#: Steps in a row that nonfinite="skip" leaves out before it gives up: the weights themselves are spoilt then.
_SKIPS_IN_A_ROW = 20

_log = logging.getLogger(__name__)


class Trainer:
    """One run.

    Args:
        config: of the run.
        whole: the model; trained in place.
        sources: kind of record -> source, for every kind that `config.data.kinds` weighs.
        out: the run's folder: config.json, log.jsonl, tensorboard/, checkpoints/; at the end model/ and summary.json.
        validation: kind -> held-out source, for the losses of `config.validate_every`; None measures none.
        world: the processes that share the run; None is what the launcher started, usually this one alone.
        console: where the progress bar goes; None is standard error.
        quiet: no progress bar.
        tensorboard: write event files.

    Raises:
        ValueError: the objective lacks a part, or cannot train one that the config names; the ranks do not divide a
            batch.
    """

    def __init__(
        self,
        config: RunConfig,
        whole: Whole,
        sources: Mapping[str, Source],
        out: str | Path,
        *,
        validation: Mapping[str, Source] | None = None,
        world: World | None = None,
        console: Console | None = None,
        quiet: bool = False,
        tensorboard: bool = True,
    ):
        self.config, self.out = config, Path(out)
        self.world = World.start(config.parallel, config.device) if world is None else world
        self.device = self.world.device
        self.whole = whole
        fit_whole(whole, config)
        if config.checkpoint_activations:
            blocks.checkpoint_activations(whole)
        if config.compile:
            blocks.compile_blocks(whole)
        self.world.place(whole, config)
        self.objective: Objective = objective_class(config.objective)(whole, config, self.device)
        self.objective.world = self.world
        set_trainable(whole, config.parts)
        self.optimizer = build_optimizer(parameter_groups(whole, config.parts, config.optim), config.optim)
        warn_of_rates(config)
        self.parameters = {name: parameter for _, name, parameter in trained_parameters(whole, config.parts)}
        self.average = MovingAverage(self.parameters.items(), config.ema_decay) if config.ema_decay else None
        self.mixture = Mixture(
            sources,
            config.data.kinds,
            mode=config.data.mode,
            seed=config.seed,
            batch_sizes=config.data.batch_sizes,
            opening=config.data.opening,
        )
        self.loader = Loader(self.mixture.sources, self.objective.sample, seed=config.seed)
        self.feed = Feed(
            self.mixture,
            self.loader,
            self.objective.batches,
            micro_batches=config.accumulation,
            batch_size=config.data.batch_size,
            rank=self.world.data_rank,
            size=self.world.data_size,
            workers=config.data.workers,
        )
        self.validation = Validation(self.objective, config, validation, self.world) if validation else None
        self.checkpoints = Checkpoints(
            self.out, keep=config.keep_checkpoints, world=self.world, asynchronous=config.save_async
        )
        self.step = 0
        self.bad: Counter[str] = Counter()
        self.skipped = 0
        self._skips_in_a_row = 0
        self._shown: Batch | None = None
        self._spare: Batch | None = None
        self._console, self._quiet, self._tensorboard = console, quiet, tensorboard

    def run(self, *, resume: bool = False, until: int | None = None) -> RunSummary:
        """Train to the end, or to step `until` (a checkpoint is written there and the run can be resumed).

        SIGTERM and SIGINT end it before the next step, with a checkpoint (`emu2.train.stopping`).

        Args:
            resume: continue from the newest checkpoint in `out`; where there is none, start from the beginning.

        Raises:
            NonFiniteError: a loss or gradient is not finite; the weights have not moved in that step.
            ValueError: the checkpoint belongs to other settings or other data; too many samples are bad.
        """
        if resume:
            state.restore(self)
        self.out.mkdir(parents=True, exist_ok=True)
        if self.world.main:
            (self.out / "config.json").write_text(json.dumps(to_dict(self.config), indent=1))
        last = self.config.steps if until is None else min(until, self.config.steps)
        main = self.world.main
        log = RunLog.of_run(self.config, self.out, self.step, tensorboard=self._tensorboard) if main else None
        speed, started = Throughput.of_run(self.whole, self.config, self.world), time.perf_counter()
        values: dict[str, float] = {}
        with StopRequest(self.config.stop_deadline_s) as stop:
            try:
                with progress_bar(self._console, disable=self._quiet or not main) as bar:
                    task = bar.add_task(self.config.name, total=self.config.steps, completed=self.step, status="")
                    self._warm()
                    self.objective.begin(self._fixed_batches)
                    steps = self.feed.steps(last)
                    while self.step < last:
                        began = time.perf_counter()
                        data = self._next(steps, stop)
                        waited = time.perf_counter() - began
                        learned = self._learn(data, stop)
                        if learned is None or data is None:
                            break
                        values = learned | {"data/wait_seconds": waited}
                        rates = speed.update([batch for batch in data.batches if batch is not None], waited)
                        bar.update(task, completed=self.step, status=describe(values, rates))
                        measured = self._measure(log)
                        if log and (measured or self.step % self.config.log_every == 0 or self.step == last):
                            speeds = {f"speed/{name}": rate for name, rate in rates.items()}
                            log.step(self.step, {**values, **measured, **speeds})
                        if _due(self.step, self.config.save_every) and self.step < last:
                            self.save()
                    self.save()
                    self.checkpoints.wait()
            finally:
                if log:
                    log.close()
            if self.step == self.config.steps:
                self._finish()
        losses = {name.removeprefix("loss/"): value for name, value in values.items() if name.startswith("loss")}
        summary = RunSummary(
            name=self.config.name,
            steps=self.step,
            seconds=time.perf_counter() - started,
            losses=losses,
            bad=dict(self.bad),
            out=str(self.out),
            skipped=self.skipped,
            stopped=stop.received if self.step < last else None,
        )
        if main:
            (self.out / "summary.json").write_text(json.dumps(summary.to_dict(), indent=1))
            write_report(self.out)
        return summary

    # One step

    def _next(self, steps: Iterator[StepData], stop: StopRequest) -> StepData | None:
        """The next step's data; None where a signal that ended this process's workers too left none."""
        try:
            return next(steps)
        except RuntimeError:
            if stop.received is None:
                raise
            return None

    def _learn(self, data: StepData | None, stop: StopRequest) -> dict[str, float] | None:
        """One optimizer step; its values for the log. None when the run was told to stop: nothing has changed then."""
        names = self.objective.weights
        told_to_stop = self.world.first(stop.received)
        if told_to_stop is not None or data is None:
            stop.received = stop.received or told_to_stop
            return None
        counts = summed(batch.counts for batch in data.batches if batch is not None)
        told = self.world.gather((counts, data.bad))
        totals = summed(count for count, _ in told)
        bad = sum((found for _, found in told), self.bad)
        seen = sum(data.position["taken"].values())
        weights = {name: weight for name, weight in names.items() if totals.get(name)}
        require_usable(bad, seen, self.config.max_bad_share, data.examples, nothing_left=not weights)
        torch.manual_seed(seed_of(self.config.seed, self.step, "model", self.world.data_rank))
        set_rates(self.optimizer, schedule_factor(self.step, self.config.steps, self.config.optim), self.step)
        self.optimizer.zero_grad(set_to_none=True)

        sums = self._gradients(data.batches, weights, totals, stop)
        if sums is None:
            self.optimizer.zero_grad(set_to_none=True)
            return None
        self.world.reduce_rest(self.parameters.values())
        norm = self.world.clip(self.parameters.values(), self.config.optim.clip_norm).item()
        values = {"loss": sum(weights[name] * sums[name] for name in weights)}
        if len(names) > 1:
            values |= {f"loss/{name}": sums[name] for name in weights}
        values |= {"optim/grad_norm": norm}
        if all(map(math.isfinite, values.values())):
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.parameters.items())
            self._skips_in_a_row = 0
        else:
            self._leave_out(data.batches, sums, norm)
            values = {}
        self.step += 1
        self.mixture.load_state_dict(data.position)
        tell_new(self.step, bad, self.bad, data.examples)
        self.bad = bad

        values |= {f"optim/lr_{group['part']}": group["lr"] for group in self.optimizer.param_groups}
        if self.bad:
            values["data/bad"] = self.bad.total()
        if self.skipped:
            values["optim/skipped"] = self.skipped
        return values

    def _gradients(
        self, batches: list[Batch | None], weights: Mapping[str, float], totals: Mapping[str, float], stop: StopRequest
    ) -> dict[str, float] | None:
        """Add up the micro-batches' gradients; returns each loss term's mean over all ranks' targets.

        Each micro-batch's mean stands for its targets' share of the whole step's. None when told to stop midway.
        """
        alone = self.world.data_size == 1
        shares: dict[str, list[Tensor]] = {name: [] for name in weights}
        if self.world.any(self._spare is None and None in batches)[0]:
            self._spare = self.world.first(next((batch for batch in batches if batch is not None), None))
        for batch in batches:
            if self.world.size == 1 and stop.received is not None:
                return None
            if batch is None and alone:
                continue
            # Ranks compute in step: one that has nothing to learn here goes through the motions with another batch.
            counted = batch is not None
            batch = batch if batch is not None else self._spare
            assert batch is not None
            self._spare = None if alone else batch
            with computing(self.objective):
                terms = self.objective.terms(batch.to(self.device))
            loss = torch.zeros((), device=self.device)
            for name, weight in weights.items():
                number = batch.counts.get(name, 0) if counted else 0
                if number:
                    share = terms[name] * (number / totals[name])
                    shares[name].append(share.detach())
                    loss = loss + weight * share
                elif not alone:
                    loss = loss + terms[name] * 0.0
            if loss.requires_grad:
                self.world.scale(loss).backward()
        mine = {name: torch.stack(found).double().sum().item() if found else 0.0 for name, found in shares.items()}
        return summed(self.world.gather(mine))

    def _leave_out(self, batches: list[Batch | None], sums: Mapping[str, float], norm: float) -> None:
        """Deal with a step whose loss or gradient is not finite: keep it for inspection, then stop or skip."""
        self.optimizer.zero_grad(set_to_none=True)
        found = {"losses": {name: str(value) for name, value in sums.items()}, "gradient_norm": norm}
        kept = keep_batches(self.out, self.step, batches, found, rank=self.world.rank)
        self.skipped += 1
        self._skips_in_a_row += 1
        if self.config.nonfinite == "stop" or self._skips_in_a_row >= _SKIPS_IN_A_ROW:
            raise NonFiniteError(complaint(self.step, norm, sums, batches, kept))
        _log.warning("Step %d left out: its loss or gradient is not finite; its batch is kept in %s", self.step, kept)

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

    def _measure(self, log: RunLog | None) -> dict[str, float]:
        """Held-out losses and samples, where they are due, by the model as it is and without touching its state."""
        validate = _due(self.step, self.config.validate_every)
        if not validate and not _due(self.step, self.config.sample_every):
            return {}
        try:
            with evaluating(self.objective):
                values = self.validation.measure() if self.validation is not None and validate else {}
                shown = self._to_show()
                samples = self.objective.preview(shown) if shown is not None else {}
                if log:
                    log.samples(self.step, samples)
        finally:
            set_trainable(self.whole, self.config.parts)
        return values

    def _to_show(self) -> Batch | None:
        """The records that samples are made from: the same throughout the run, and on every rank."""
        if self._shown is None and self.validation is not None:
            self._shown = self.validation.first()
        elif self._shown is None:
            first = self.mixture.ahead()
            first.load_state_dict({"step": 0, "taken": dict.fromkeys(first.kinds, 0)})
            addresses = first.next_step(1, self.config.data.batch_size)[0]
            self._shown = first_batch(self.objective, self.loader, addresses)
        return self._shown.to(self.device) if self._shown is not None else None

    def _finish(self) -> None:
        """The last act of a complete run: averaged weights, measurements, the model's folder."""
        if self.average is not None:
            self.average.swap(self.parameters.items())
        set_trainable(self.whole, ())
        self.objective.finish(self._fixed_batches())
        if self.config.lora is not None:
            save_adapter(self.whole.model, self.out / "adapter", processor=self.whole.processor, write=self.world.main)
            return
        save_whole(self.whole, self.out / "model", self.world)

    def _fixed_batches(self) -> list[Batch]:
        """Of the first records of the first kind, the same whenever and on whatever rank they are made."""
        kind = self.mixture.kinds[0]
        size, rows = self.mixture.sources[kind].size, self.config.data.batch_size
        batches = []
        for number in range(_FIXED_BATCHES):
            indices = range(number * rows, (number + 1) * rows)
            read = self.loader.read([(kind, index % size if size else index) for index in indices], ("finish", number))
            batches += [batch.to(self.device) for batch in self.objective.batches([read]) if batch is not None]
        return batches

    def save(self) -> Path:
        """Write a checkpoint of the present step."""
        return state.save(self)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
