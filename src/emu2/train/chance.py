"""Random numbers of a batch, each row's from a generator of its own.

What befalls a record then depends on its place in the run alone: not on the records beside it, nor on how many ranks
share the batch, nor on the kind of device.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor


class RowChance:
    """Draws for a batch, one row per seed, in the order they are asked for.

    Args:
        seeds: `Batch.seeds`, one per row.
        device: where the results go; the numbers are made on the CPU, so they are the same for every device.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._device = torch.device(device)

    def normal(self, *shape: int) -> Tensor:
        """float32[B, *shape], standard normal."""
        return torch.stack([torch.randn(shape, generator=g) for g in self._generators]).to(self._device)

    def uniform(self, *shape: int) -> Tensor:
        """float32[B, *shape] in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=g) for g in self._generators]).to(self._device)


def seed_of(*path: object) -> int:
    """A 63-bit seed from a path of names and numbers, the same on every machine."""
    return random.Random("/".join(map(str, path))).getrandbits(63)
