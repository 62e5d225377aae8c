"""Sequences as one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from emu2.data.sequences import IGNORE, Sequence


def pad_right(rows: Seq[list[int]], value: int) -> Tensor:
    """int64[B, T], T the longest row; shorter rows are filled up with `value` on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], dtype=torch.int64)


def collate(sequences: Seq[Sequence], pad_id: int) -> dict[str, Tensor]:
    """`input_ids`, `labels` (IGNORE where padded) and `attention_mask`, each int64[B, T], padded on the right.

    Raises:
        ValueError: there are no sequences.
    """
    if not sequences:
        raise ValueError("A batch needs at least one sequence; every sample of this one was bad.")
    ids = [sequence.input_ids for sequence in sequences]
    return {
        "input_ids": pad_right(ids, pad_id),
        "labels": pad_right([sequence.labels for sequence in sequences], IGNORE),
        "attention_mask": pad_right([[1] * len(row) for row in ids], 0),
    }
