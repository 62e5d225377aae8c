"""Frozen features of pictures, computed once where a run reads from a pool."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor


def picture_key(image: Image.Image) -> str:
    """A name for a picture's pixels: the same for equal pictures, wherever they come from."""
    return hashlib.blake2b(image.tobytes(), digest_size=16, salt=image.mode.encode()).hexdigest()


class FeatureCache:
    """`cache(keys, inputs, device)` = `encode(stack of inputs)`, without gradients, with rows remembered by key.

    Only what is asked for with `remember` is kept, so that a run which warms up its pool's rows in a fixed order holds
    the same numbers after a resumption: a row's last bits can depend on the rows computed beside it. Rows computed one
    at a time do not, so those may be kept as they come.

    Args:
        encode: float[N, ...] -> float[N, ...], row by row (no row may depend on another).
        chunk: rows encoded at a time.
        keep: compute rows one at a time, and keep so many of them, the last ones asked for; 0 does neither.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], *, chunk: int = 64, keep: int = 0):
        self._encode = encode
        self._chunk = 1 if keep else chunk
        self._keep = keep
        self._rows: dict[str, Tensor] = {}
        self._passing: OrderedDict[str, Tensor] = OrderedDict()

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
        rows = {key: known[key] for known in (self._rows, self._passing) for key in keys if key in known}
        missing = [(key, make) for key, make in dict(zip(keys, inputs, strict=True)).items() if key not in rows]
        for start in range(0, len(missing), self._chunk):
            part = missing[start : start + self._chunk]
            encoded = self._encode(torch.stack([make() for _, make in part]).to(device))
            rows.update(zip([key for key, _ in part], encoded.unbind(), strict=True))
        if remember:
            self._rows.update({key: rows[key].clone() for key, _ in missing})
        elif self._keep:
            self._pass(keys, rows)
        return torch.stack([rows[key] for key in keys])

    def _pass(self, keys: Sequence[str], rows: Mapping[str, Tensor]) -> None:
        """Keep rows, the last ones asked for at the end, and let those go that were not asked for longest."""
        for key in keys:
            if key in self._rows:
                continue
            self._passing[key] = rows[key]
            self._passing.move_to_end(key)
        while len(self._passing) > self._keep:
            self._passing.popitem(last=False)
