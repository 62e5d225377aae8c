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


def collate_packed(rows: Seq[Seq[Sequence]], pad_id: int) -> dict[str, Tensor]:
    """Several documents in a row, each int64[B, T], padded on the right.

    Returns:
        `input_ids`; `labels`; `position_ids`, which start again with every document; `documents`, numbered from 1 in
        each row, 0 where padded (`emu2.data.packing.document_mask` makes the mask of it).
    """
    return {
        "input_ids": pad_right([[i for document in row for i in document.input_ids] for row in rows], pad_id),
        "labels": pad_right([[i for document in row for i in document.labels] for row in rows], IGNORE),
        "position_ids": pad_right([[t for document in row for t in range(len(document.input_ids))] for row in rows], 0),
        "documents": pad_right(
            [[number for number, document in enumerate(row, 1) for _ in document.input_ids] for row in rows], 0
        ),
    }
