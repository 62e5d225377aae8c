"""Which records make up each micro-batch: a weighted mixture whose whole position is a few integers.

The order is ours and is decided ahead of reading: `Mixture` yields (kind, index) pairs, a loader reads them with as
many workers as it likes, and the batches that follow a position are the same whoever reads them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Literal

from emu2.data.sources import Source

#: One record's address: the kind (a source's name in the mixture) and the index in it.
Address = tuple[str, int]


class Mixture:
    """Addresses for one optimizer step after another.

    Args:
        sources: kind -> source.
        weights: kind -> weight, at least one above 0.
        mode: "mixed": each record's kind is drawn by weight. "one_kind": one kind is drawn for the whole step.
        seed: of every choice.

    A finite source is walked through in a fresh seeded order each epoch; an endless one from index 0 upwards.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        weights: Mapping[str, float],
        *,
        mode: Literal["mixed", "one_kind"] = "mixed",
        seed: int = 0,
    ):
        missing = sorted(set(weights) - set(sources))
        if missing:
            raise ValueError(f"The mixture weighs {missing[0]!r}, but has no source for it; it has {sorted(sources)}.")
        self.kinds = [kind for kind in sorted(weights) if weights[kind] > 0]
        if not self.kinds:
            raise ValueError(f"A mixture needs a weight above 0; got {dict(weights)}.")
        self.sources = dict(sources)
        self.weights = [float(weights[kind]) for kind in self.kinds]
        self.mode = mode
        self.seed = seed
        self.step = 0
        self.taken = dict.fromkeys(self.kinds, 0)
        self._orders: dict[str, tuple[int, list[int]]] = {}

    def next_step(self, micro_batches: int, batch_size: int) -> list[list[Address]]:
        """Addresses of the next optimizer step: `micro_batches` lists of `batch_size`."""
        chance = random.Random(f"mixture/{self.seed}/{self.step}")
        number = micro_batches * batch_size
        if self.mode == "one_kind":
            kinds = chance.choices(self.kinds, self.weights) * number
        else:
            kinds = chance.choices(self.kinds, self.weights, k=number)
        addresses = [(kind, self._next_index(kind)) for kind in kinds]
        self.step += 1
        return [addresses[i : i + batch_size] for i in range(0, number, batch_size)]

    def _next_index(self, kind: str) -> int:
        count = self.taken[kind]
        self.taken[kind] += 1
        size = self.sources[kind].size
        if size is None:
            return count
        epoch, place = divmod(count, size)
        if self._orders.get(kind, (-1, []))[0] != epoch:
            order = list(range(size))
            random.Random(f"order/{self.seed}/{kind}/{epoch}").shuffle(order)
            self._orders[kind] = (epoch, order)
        return self._orders[kind][1][place]

    def state_dict(self) -> dict[str, Any]:
        """The position: JSON-able."""
        return {"step": self.step, "taken": dict(self.taken)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state["taken"]) != set(self.kinds):
            raise ValueError(
                f"The saved position is over the kinds {sorted(state['taken'])}, this mixture over {self.kinds}: "
                "resume with the data settings the run was started with."
            )
        self.step = int(state["step"])
        self.taken = {kind: int(count) for kind, count in state["taken"].items()}
