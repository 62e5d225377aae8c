"""Frozen features of pictures, computed once where a run reads from a pool."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor


def picture_key(image: Image.Image) -> str:
    """A name for a picture's pixels: the same for equal pictures, wherever they come from."""
    return hashlib.blake2b(image.tobytes(), digest_size=16, salt=image.mode.encode()).hexdigest()


class FeatureCache:
    """`cache(keys, inputs, device)` = `encode(stack of inputs)`, without gradients, with rows remembered by key.

    Only what is asked for with `remember` is kept, so that a run which warms up its pool's rows in a fixed order holds
    the same numbers after a resumption: a row's last bits can depend on the rows computed beside it.

    Args:
        encode: float[N, ...] -> float[N, ...], row by row (no row may depend on another).
        chunk: rows encoded at a time.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], *, chunk: int = 64):
        self._encode = encode
        self._chunk = chunk
        self._rows: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(
        self,
        keys: Sequence[str],
        inputs: Sequence[Callable[[], Tensor]],
        device: torch.device,
        *,
        remember: bool = False,
    ) -> Tensor:
        """Rows for `keys`, in order; `inputs[i]()` makes the input of row i and is called only where it is needed."""
        rows = {key: self._rows[key] for key in keys if key in self._rows}
        missing = [(key, make) for key, make in dict(zip(keys, inputs, strict=True)).items() if key not in rows]
        for start in range(0, len(missing), self._chunk):
            part = missing[start : start + self._chunk]
            encoded = self._encode(torch.stack([make() for _, make in part]).to(device))
            rows.update(zip([key for key, _ in part], encoded.unbind(), strict=True))
        if remember:
            self._rows.update({key: rows[key].clone() for key, _ in missing})
        return torch.stack([rows[key] for key in keys])
