"""Between tower and language model: pool the patch grid to a few embeddings, project them up and back down."""

from math import isqrt

import torch.nn.functional as F
from torch import Tensor, nn


def pool_grid(states: Tensor, num_query: int) -> Tensor:
    """Average-pool the tower's patch states to a smaller square grid.

    Source: published file Emu2/emu/emu.py, encode_image.

    Args:
        states: float[B, 1 + G*G, D], the class token first; it is dropped.
        num_query: embeddings to keep, n*n where n divides G (64 of 32x32 patches in Emu2, 256 in Emu2-Chat).

    Returns:
        float[B, num_query, D] in row-major order.

    Raises:
        ValueError: `num_query` is no square number whose root divides the grid.
    """
    B, N, D = states.shape
    grid = isqrt(N - 1)
    side = isqrt(num_query) if num_query > 0 else 0
    if side == 0 or side * side != num_query or grid % side:
        usable = [n * n for n in range(1, grid + 1) if grid % n == 0]
        raise ValueError(f"num_query={num_query} does not fit a {grid}x{grid} patch grid: use one of {usable}.")
    map_BDGG = states[:, 1:].transpose(1, 2).reshape(B, D, grid, grid)
    return F.avg_pool2d(map_BDGG, kernel_size=grid // side).flatten(2).transpose(1, 2)


def beside(x: Tensor, layer: nn.Linear) -> Tensor:
    """`x` on the device of a layer's weight; where the weight is offloaded, the layer's own hook moves its input."""
    return x if layer.weight.is_meta else x.to(layer.weight.device)
