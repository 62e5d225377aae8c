"""Measures a half-trained model on records it does not learn from, and lets it show samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from emu2.data.loader import Loader
from emu2.data.mixture import Mixture
from emu2.data.records import Record
from emu2.data.sources import Source
from emu2.train.config import RunConfig
from emu2.train.objectives import Batch, Objective

if TYPE_CHECKING:
    from emu2.train.distributed import World

#: Records of a preview.
_PREVIEW = 8


class _Renamed:
    """Another source whose records' keys say that they are held out, so that no cache of features mixes them up."""

    def __init__(self, source: Source):
        self._source = source
        self.size = source.size

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        return replace(record, key=f"validation/{record.key}")

    def fingerprint(self) -> str:
        return self._source.fingerprint()


class Validation:
    """The same few batches every time, with the same noise.

    Args:
        objective: of the run.
        config: of the run.
        sources: kind -> held-out source; kinds of the run without one are not measured.
        world: the ranks that share each batch.
    """

    def __init__(self, objective: Objective, config: RunConfig, sources: Mapping[str, Source], world: World):
        self._objective, self._config, self._world = objective, config, world
        renamed = {kind: _Renamed(source) for kind, source in sources.items()}
        data = config.data
        self._loader = Loader(renamed, objective.sample, seed=config.seed)
        mixture = Mixture(
            renamed,
            {kind: weight for kind, weight in data.kinds.items() if kind in renamed},
            mode=data.mode,
            seed=config.seed,
            batch_sizes={kind: size for kind, size in data.batch_sizes.items() if kind in renamed},
        )
        self._mixed = [mixture.next_step(1, data.batch_size)[0] for _ in range(config.validate_batches)]
        self._kinds: dict[str, list[tuple[str, int]]] = {}
        if len(mixture.kinds) > 1:
            for kind in mixture.kinds:
                rows, size = data.batch_sizes.get(kind, data.batch_size), renamed[kind].size
                self._kinds[kind] = [(kind, index % size if size else index) for index in range(rows)]

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Mean of each loss term over all targets of the held-out batches, and their weighted sum.

        Of several kinds of records each is measured by itself too, on one batch: `kinds/NAME`.
        """
        names = self._objective.weights
        means = self._means(enumerate(self._mixed))
        values = {"validation/loss": sum(names[name] * mean for name, mean in means.items())}
        if len(names) > 1:
            values |= {f"validation/{name}": mean for name, mean in means.items()}
        for kind, addresses in self._kinds.items():
            own = self._means([(kind, addresses)])
            if own:
                values[f"kinds/{kind}"] = sum(names[name] * mean for name, mean in own.items())
        return values

    def _means(self, batches: Iterable[tuple[int | str, list[tuple[str, int]]]]) -> dict[str, float]:
        """Mean of each loss term over all targets of some batches, each with its place in the run."""
        names = self._objective.weights
        sums, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        for batch in self._batches(batches):
            terms = self._objective.terms(batch.to(self._objective.device))
            for name in names:
                number = batch.counts.get(name, 0)
                counts[name] += number
                sums[name] += terms[name].item() * number if number else 0.0
        total = summed(self._world.gather({**{f"sum/{k}": v for k, v in sums.items()}, **counts}))
        return {name: total[f"sum/{name}"] / total[name] for name in names if total[name]}

    def _batches(self, wanted: Iterable[tuple[int | str, list[tuple[str, int]]]]) -> Iterator[Batch]:
        for place, addresses in wanted:
            share = len(addresses) // self._world.data_size
            first = self._world.data_rank * share
            read = self._loader.read(addresses[first : first + share], ("validation", place), first)
            batch = self._objective.batches([read])[0]
            # Ranks compute in step: where one has nothing to measure, all leave it out.
            if not self._world.any(batch is None)[0] and batch is not None:
                yield batch

    def first(self) -> Batch | None:
        """The records to make samples from: alike on every rank."""
        return first_batch(self._objective, self._loader, self._mixed[0])


def first_batch(objective: Objective, loader: Loader, addresses: list[tuple[str, int]]) -> Batch | None:
    """The first few records of a micro-batch, with a place of their own in the run."""
    read = loader.read(addresses[:_PREVIEW], ("preview",))
    return objective.batches([read])[0]


@contextmanager
def evaluating(objective: Objective) -> Iterator[None]:
    """Evaluation mode and a copy of the generators' state, put back afterwards; the caller restores what trains."""
    devices: list[Any] = [objective.device] if objective.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), computing(objective):
        for module in objective.whole.modules():
            module.eval()
        yield


def summed(tables: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Tables of numbers, added up by name."""
    total: dict[str, float] = {}
    for table in tables:
        for name, value in table.items():
            total[name] = total.get(name, 0) + value
    return total


def computing(objective: Objective) -> torch.autocast:
    """The number format that the run computes in."""
    enabled = objective.config.autocast is not None
    return torch.autocast(objective.device.type, dtype=torch.bfloat16, enabled=enabled)
