"""Which records make up each micro-batch: a weighted mixture whose whole position is a few integers.

The order is ours and is decided ahead of reading: `Mixture` yields (kind, index) pairs, a loader reads them with as
many workers as it likes, and the batches that follow a position are the same whoever reads them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Literal

from emu2.data.shuffle import Order
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
        batch_sizes: kind -> records in a micro-batch of that kind, where it differs; for "one_kind".
        opening: kind -> so many steps read nothing else, before all others and in this order.

    A finite source is walked through in a fresh seeded order each epoch; an endless one from index 0 upwards.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        weights: Mapping[str, float],
        *,
        mode: Literal["mixed", "one_kind"] = "mixed",
        seed: int = 0,
        batch_sizes: Mapping[str, int] | None = None,
        opening: Mapping[str, int] | None = None,
    ):
        missing = sorted(set(weights) - set(sources))
        if missing:
            raise ValueError(f"The mixture weighs {missing[0]!r}, but has no source for it; it has {sorted(sources)}.")
        self.kinds = [kind for kind in sorted(weights) if weights[kind] > 0]
        if not self.kinds:
            raise ValueError(f"A mixture needs a weight above 0; got {dict(weights)}.")
        empty = [kind for kind in self.kinds if sources[kind].size == 0]
        if empty:
            raise ValueError(f"The source of {empty[0]!r} holds no records; give it data, or the kind no weight.")
        self.sources = dict(sources)
        self.weights = [float(weights[kind]) for kind in self.kinds]
        self.mode = mode
        self.seed = seed
        self.batch_sizes = dict(batch_sizes or {})
        self.opening = dict(opening or {})
        self.step = 0
        self.taken = dict.fromkeys(self.kinds, 0)
        self._orders: dict[str, tuple[int, Order]] = {}

    def next_step(self, micro_batches: int, batch_size: int) -> list[list[Address]]:
        """Addresses of the next optimizer step: `micro_batches` lists of `batch_size`, or of the kind's own size."""
        chance = random.Random(f"mixture/{self.seed}/{self.step}")
        alone = self._opens()
        if self.mode == "one_kind" or alone:
            kind = alone or chance.choices(self.kinds, self.weights)[0]
            batch_size = self.batch_sizes.get(kind, batch_size)
            kinds = [kind] * (micro_batches * batch_size)
        else:
            kinds = chance.choices(self.kinds, self.weights, k=micro_batches * batch_size)
        addresses = [(kind, self._next_index(kind)) for kind in kinds]
        self.step += 1
        return [addresses[i : i + batch_size] for i in range(0, len(addresses), batch_size)]

    def _opens(self) -> str | None:
        """The kind that this step reads alone as one of the first."""
        end = 0
        for kind, steps in self.opening.items():
            end += steps
            if self.step < end:
                return kind
        return None

    def _next_index(self, kind: str) -> int:
        count = self.taken[kind]
        self.taken[kind] += 1
        size = self.sources[kind].size
        if size is None:
            return count
        epoch, place = divmod(count, size)
        known = self._orders.get(kind)
        if known is None or known[0] != epoch:
            known = self._orders[kind] = (epoch, Order(size, f"order/{self.seed}/{kind}/{epoch}"))
        return known[1][place]

    def ahead(self) -> Mixture:
        """Another mixture at this position, for reading ahead; moving it leaves this one where it is."""
        other = Mixture(
            self.sources,
            dict(zip(self.kinds, self.weights, strict=True)),
            mode=self.mode,
            seed=self.seed,
            batch_sizes=self.batch_sizes,
            opening=self.opening,
        )
        other.load_state_dict(self.state_dict())
        return other

    def fingerprints(self) -> dict[str, str]:
        """Kind -> what its source was made of (shard list, annotation files), for sources that can tell."""
        known = {kind: getattr(self.sources[kind], "fingerprint", None) for kind in self.kinds}
        return {kind: str(tell()) for kind, tell in known.items() if tell is not None}

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
