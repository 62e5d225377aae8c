"""Feeds a run: each optimizer step's micro-batches, read ahead by as many processes as one likes.

What is read is decided by the mixture before anybody reads it, and a record's chance belongs to its place in the run.
So the batches after a position are the same for any number of workers and of ranks, and the position that is saved is
that of the last step the training consumed, however far the workers have read ahead. (torchdata's StatefulDataLoader
keeps the state of each worker instead, and so refuses to go on with another number of them.)
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from emu2.data.loader import Loader, Samples
from emu2.data.mixture import Address, Mixture

#: Steps that each worker prepares ahead.
_AHEAD = 2


@dataclass(frozen=True)
class _Job:
    """What one rank reads for one step: a slice of every micro-batch; the position is the mixture's after it."""

    step: int
    first: list[int]
    addresses: list[list[Address]]
    position: dict[str, Any]


@dataclass
class StepData:
    """One optimizer step for one rank.

    batches: micro-batches, in order; None where no record could be read. bad: records that could not, by cause.
    examples: one whole message per cause.
    position: of the mixture once this step is consumed (`Mixture.load_state_dict`).
    """

    batches: list[Any]
    bad: Counter[str]
    examples: dict[str, str]
    position: dict[str, Any]


class Feed:
    """The steps that follow a mixture's position.

    Args:
        mixture: gives the position to start from. Whoever has consumed a step moves it on, to the step's `position`.
        loader: reads.
        batches: makes a step's micro-batches of what was read for them, in the worker; its result is pickled.
        micro_batches, batch_size: of one step, over all ranks; the mixture may know other sizes for some kinds.
        rank, size: this process reads the `rank`-th of `size` equal slices of each micro-batch.
        workers: processes that read ahead; 0 reads when asked. Workers are forked, and never touch the accelerator.

    Raises:
        ValueError: the ranks do not divide a micro-batch; workers are asked for where processes cannot fork.
    """

    def __init__(
        self,
        mixture: Mixture,
        loader: Loader,
        batches: Callable[[Sequence[Samples]], list[Any]],
        *,
        micro_batches: int,
        batch_size: int,
        rank: int = 0,
        size: int = 1,
        workers: int = 0,
    ):
        own = {f"data.batch_sizes.{kind}": number for kind, number in mixture.batch_sizes.items()}
        for name, number in {"data.batch_size": batch_size, **own}.items():
            if number % size:
                raise ValueError(
                    f"{name}={number} records are shared by {size} data-parallel ranks, and must be a multiple of "
                    f"{size}: set it to {number // size * size or size} or {(number // size + 1) * size}, or start "
                    "another number of processes."
                )
        if workers and not hasattr(os, "fork"):
            raise ValueError(f"data.workers={workers} needs a system whose processes can fork; use data.workers=0.")
        self._mixture, self._loader, self._batches = mixture, loader, batches
        self._micro_batches, self._batch_size = micro_batches, batch_size
        self._rank, self._size, self._workers = rank, size, workers

    def steps(self, last: int) -> Iterator[StepData]:
        """One step after another, from the mixture's position up to step `last`."""
        if self._workers:
            # Tokenisers with threads of their own warn, once per worker, when they find themselves forked.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        loader: DataLoader[StepData] = DataLoader(
            _Reading(self._loader, self._batches),
            batch_size=None,
            sampler=_Jobs(self._plan, last - self._mixture.step),  # type: ignore[arg-type]
            num_workers=self._workers,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            prefetch_factor=_AHEAD if self._workers else None,
            multiprocessing_context="fork" if self._workers else None,
            # Its own generator: the one of the process is left alone.
            generator=torch.Generator(),
        )
        yield from loader

    def _plan(self, number: int) -> Iterator[_Job]:
        mixture = self._mixture.ahead()
        for _ in range(number):
            step = mixture.step
            whole = mixture.next_step(self._micro_batches, self._batch_size)
            share = [len(addresses) // self._size for addresses in whole]
            first = [self._rank * length for length in share]
            parts = [a[f : f + n] for a, f, n in zip(whole, first, share, strict=True)]
            yield _Job(step, first, parts, mixture.state_dict())


class _Jobs:
    """The sampler's form of a plan: iterable, of known length."""

    def __init__(self, plan: Callable[[int], Iterator[_Job]], number: int):
        self._plan, self._number = plan, max(number, 0)

    def __iter__(self) -> Iterator[_Job]:
        return self._plan(self._number)

    def __len__(self) -> int:
        return self._number


class _Reading(Dataset[StepData]):
    """Map-style: the index is a job, the item is what was read for it."""

    def __init__(self, loader: Loader, batches: Callable[[Sequence[Samples]], list[Any]]):
        self._loader, self._batches = loader, batches

    def __getitem__(self, job: _Job) -> StepData:
        read = [
            self._loader.read(addresses, (job.step, number), first)
            for number, (addresses, first) in enumerate(zip(job.addresses, job.first, strict=True))
        ]
        bad: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for samples in read:
            bad.update(samples.bad)
            examples = samples.examples | examples
        return StepData(self._batches(read), bad, examples, job.position)


def _unchanged(data: Any) -> Any:
    return data


def _start_worker(number: int) -> None:
    """A worker ends when the training process tells it to, and at no other signal to stop.

    Schedulers and terminals signal a whole group of processes. A worker that left at once would leave half a batch in
    the pipe, on which the training process would wait for ever instead of writing its checkpoint.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_leave_when_told, args=(os.getppid(),), daemon=True).start()


def _leave_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
