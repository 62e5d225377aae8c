"""Frozen features of pictures, computed once where a run reads from a pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class FeatureCache:
    """`cache(keys, inputs)` = `encode(stack of inputs)`, without gradients, remembering each row by its key.

    Args:
        encode: float[N, ...] -> float[N, ...], row by row (no row may depend on another).
        keep: False computes afresh every time and remembers nothing.
        chunk: rows encoded at a time.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], *, keep: bool, chunk: int = 64):
        self._encode = encode
        self._keep = keep
        self._chunk = chunk
        self._rows: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, keys: Sequence[str], inputs: Sequence[Callable[[], Tensor]], device: torch.device) -> Tensor:
        """Rows for `keys`, in order; `inputs[i]()` makes the input of row i and is called only where it is needed."""
        rows = {key: self._rows[key] for key in keys if key in self._rows}
        missing = [(key, make) for key, make in dict(zip(keys, inputs, strict=True)).items() if key not in rows]
        for start in range(0, len(missing), self._chunk):
            part = missing[start : start + self._chunk]
            encoded = self._encode(torch.stack([make() for _, make in part]).to(device))
            rows.update(zip([key for key, _ in part], encoded.unbind(), strict=True))
        if self._keep:
            self._rows.update({key: rows[key].clone() for key, _ in missing})
        return torch.stack([rows[key] for key in keys])
