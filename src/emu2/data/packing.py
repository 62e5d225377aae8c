"""Rows without much padding: several documents in one row, or documents of like length in one batch.

Neither changes a loss: packed documents see only themselves and count their positions from 0, and a step's losses are
means over the targets of all its micro-batches, however these are cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of documents: indices into `lengths`, each row's sum at most `capacity` (first fit, longest first).

    Raises:
        ValueError: a document is longer than a row.
    """
    if lengths and max(lengths) > capacity:
        raise ValueError(f"A document of {max(lengths)} tokens does not fit a row of {capacity}.")
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = next((row for row, free in enumerate(room) if free >= lengths[index]), None)
        if fitting is None:
            rows.append([])
            room.append(capacity)
            fitting = len(rows) - 1
        rows[fitting].append(index)
        room[fitting] -= lengths[index]
    return rows


def buckets(lengths: Sequence[int], number: int) -> list[list[int]]:
    """Documents by length in `number` groups of like size: indices into `lengths`, shortest group first.

    Fewer groups come back where there are fewer documents.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    size = max(1, -(-len(order) // number))
    return [order[start : start + size] for start in range(0, len(order), size)]


def document_mask(documents: Tensor) -> Tensor:
    """Which positions each position sees: those of its own document up to itself.

    Args:
        documents: int[B, T], the number of each position's document; padding is a document of its own.

    Returns:
        bool[B, 1, T, T], True where row t may look at column s, as torch's scaled dot product attention takes it.
    """
    own = documents[:, None, :, None] == documents[:, None, None, :]
    return own & torch.ones(own.shape[-2:], dtype=torch.bool, device=documents.device).tril()
