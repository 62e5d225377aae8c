"""Contrast things where they stand with the phrases that name them: for what is small in a picture.

CLIP's contrast knows a picture by the mean of its embeddings, in which a thing's details hardly count: of clock faces
and signs the small tower learned nothing in 130 batches of 48. Contrasting regions is Zhong et al. 2022, RegionCLIP.
A tower that others were trained on keeps how it shows other pictures: Li & Hoiem 2016, Learning without Forgetting.

A probe of one patch, that in the middle of a clock face, told 88 % of the hours where the mean of the same tower's
embeddings told 15 %: what has to be learned is to bring it there. So heads are told to look from every patch of a box
at its middle (as `emu2.train.looking_back` tells heads of the language model), and each patch is to tell the phrase.
That tower's attention had become hard (an entropy of 0.02, scores in the thousands: nothing normalises what EVA's
blocks attend to), and what is hard does not learn; `soften` divides its scores before the first step.

    B  pictures    Q  embeddings of a picture    P  patches of it    D  their width    R  phrases with boxes
    N  different phrases    M  patches in boxes
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from emu2.data.records import Record
from emu2.data.sequences import any_picture, covered
from emu2.model.bridge import pool_grid
from emu2.model.losses import whitening
from emu2.processing.grounding import Box, parse_grounding
from emu2.train.config import RunConfig
from emu2.train.objectives import Batch, Objective
from emu2.train.whole import Whole


@dataclass(frozen=True)
class Phrase:
    """Token ids; of the Q embeddings those that its boxes cover; of the P patches likewise, each with the patch in the
    middle of its box."""

    ids: tuple[int, ...]
    cells: tuple[bool, ...]
    patches: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PhrasedPicture:
    """A picture, float32[3, S, S], and its phrases; none: it is to be kept."""

    pixels: Tensor
    phrases: tuple[Phrase, ...]


class RegionObjective(Objective):
    """The mean embedding of a phrase's boxes, and each patch in them, finds its phrase among the others of the batch.

    `looking_back` names heads of the vision tower, for the kind "grounded_pair": from each patch of a box they learn to
    look at the patch in its middle.

    A record with phrases in boxes (a grounded pair) teaches them. Any other is a picture to be kept: with
    `kept_weight` its embeddings stay what they were when the run began, every direction counted by how embeddings
    spread in it (`emu2.model.losses.whitening`); of a clip one frame.

    The others are those of a rank's own micro-batch.
    """

    needs = ("text_tower",)
    trains = ("vision", "text_tower")

    def __init__(self, whole: Whole, config: RunConfig, device: torch.device):
        super().__init__(whole, config, device)
        visual = whole.model.model.visual
        self.side, self.grid = isqrt(whole.model.config.num_query), visual.config.grid_size
        self.before = deepcopy(visual).requires_grad_(False).eval() if config.kept_weight else None
        self.metric: Tensor | None = None
        told = config.looking_back
        self.heads = tuple(head for heads in told.heads.values() for head in heads) if told else ()
        for layer, head in self.heads:
            if layer >= len(visual.blocks) or head >= visual.config.num_attention_heads:
                raise ValueError(
                    f"looking_back.heads names head {head} of layer {layer}, and this vision tower has "
                    f"{len(visual.blocks)} layers of {visual.config.num_attention_heads} heads, both counted from 0."
                )
        # A resumed run starts here too, and then reads its weights.
        visual.soften(config.soften)

    @property
    def weights(self) -> dict[str, float]:
        kept = {"kept": self.config.kept_weight} if self.config.kept_weight else {}
        told = {"looking": self.config.looking_back.weight} if self.config.looking_back else {}
        return {"regions": 1.0, "patches": 1.0, **kept, **told}

    def sample(self, record: Record, chance: random.Random) -> PhrasedPicture:
        image, _ = any_picture(record, chance)
        assert self.whole.text_tower is not None
        longest, tokenizer = self.whole.text_tower.max_length, self.whole.processor.tokenizer
        text = "".join(segment for segment in record.segments if isinstance(segment, str))
        phrases = tuple(
            Phrase(
                tuple(tokenizer(found.phrase)["input_ids"][:longest]),
                tuple(covered(found.boxes, self.side)),
                tuple(patch for box in found.boxes for patch in self._patches(box)),
            )
            for found in parse_grounding(text, image.size)
            if found.phrase
        )
        if not phrases and self.before is None:
            raise ValueError(
                f"Record {record.key!r} ({record.kind}) has no phrase with a box to contrast. Give grounded pairs, or "
                "set kept_weight above 0 to keep how such pictures are seen."
            )
        return PhrasedPicture(self._pixels(image), phrases)

    def _patches(self, box: Box) -> list[tuple[int, int]]:
        """(patch, patch in the middle) of all patches of a box."""
        (left, top, right, bottom), (width, height) = box.xyxy, box.size
        column, row = (
            min(int(middle * self.grid), self.grid - 1)
            for middle in ((left + right) / 2 / width, (top + bottom) / 2 / height)
        )
        found = covered([box], self.grid)
        return [(patch, row * self.grid + column) for patch, inside in enumerate(found) if inside]

    def collate(self, samples: Sequence[PhrasedPicture], keys: list[str]) -> Batch:
        phrases = [(row, phrase) for row, sample in enumerate(samples) for phrase in sample.phrases]
        different = sorted({phrase.ids for _, phrase in phrases}) or [(0,)]
        patches = [
            (row, patch, middle, different.index(phrase.ids))
            for row, phrase in phrases
            for patch, middle in phrase.patches
        ]
        padded = self.whole.processor.tokenizer.pad(
            {"input_ids": [list(ids) for ids in different]}, padding_side="right", return_tensors="pt"
        )
        tensors = {
            "pixel_values": torch.stack([sample.pixels for sample in samples]),
            "input_ids": padded["input_ids"],  # [N, T]
            "attention_mask": padded["attention_mask"],
            "rows": torch.tensor([row for row, _ in phrases], dtype=torch.int64),
            "cells": torch.tensor([phrase.cells for _, phrase in phrases]).reshape(-1, self.side**2).float(),
            "named": torch.tensor([different.index(phrase.ids) for _, phrase in phrases], dtype=torch.int64),
            # Of each patch in a box: its picture, itself, the middle of its box, its phrase.
            "patches": torch.tensor(patches, dtype=torch.int64).reshape(-1, 4),
            "kept": torch.tensor([not sample.phrases for sample in samples]),
        }
        counts = {"regions": len(phrases), "patches": len(patches)}
        if self.heads:
            counts["looking"] = len(patches)
        if self.before is not None:
            counts["kept"] = sum(not sample.phrases for sample in samples)
        amounts = {"tokens": int(padded["attention_mask"].sum()), "images": len(samples)}
        return Batch(tensors, counts, amounts, keys)

    def begin(self, batches: Callable[[], Sequence[Batch]]) -> None:
        """Measure how the embeddings of the tower that the run began with spread."""
        if self.before is not None:
            seen = [self._before(batch.tensors["pixel_values"]).flatten(0, 1) for batch in batches()]
            self.metric = whitening(torch.cat(seen)).to(self.device)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        tower, tensors = self.whole.text_tower, batch.tensors
        assert tower is not None
        with self._watching() as attended:
            patches = self.whole.model.encode_image(tensors["pixel_values"], self.grid**2).float()  # [B, P, D]
        # pool_grid drops what stands in the class token's place
        embeddings = pool_grid(torch.cat([patches[:, :1], patches], dim=1), self.side**2)  # [B, Q, D]
        cells = tensors["cells"] / tensors["cells"].sum(dim=1, keepdim=True)
        rows, places, middles, named = tensors["patches"].unbind(dim=1)
        text = tower.embed_text(tensors["input_ids"], tensors["attention_mask"])
        seen = {
            "regions": (torch.einsum("rq,rqd->rd", cells, embeddings[tensors["rows"]]), tensors["named"]),
            "patches": (patches[rows, places], named),
        }
        terms = {}
        for name, (shown, right) in seen.items():
            scores = tower.scale() * tower.embed_vision(shown.unsqueeze(1)) @ text.T  # [R or M, N]
            terms[name] = F.cross_entropy(scores, right) if len(right) else scores.sum() * 0.0
        if self.heads:
            missed = [_missed(*attended[layer, head], rows, places, middles) for layer, head in self.heads]
            terms["looking"] = torch.stack(missed).mean() if len(rows) else patches.sum() * 0.0
        if self.before is not None and self.metric is not None:
            terms["kept"] = patches.sum() * 0.0
            if batch.counts["kept"]:
                kept = tensors["kept"]
                change = (embeddings[kept] - self._before(tensors["pixel_values"][kept])) @ self.metric
                terms["kept"] = change.square().mean()
        return terms

    @contextmanager
    def _watching(self) -> Iterator[dict[tuple[int, int], tuple[Tensor, Tensor]]]:
        """While entered, queries and keys of the told heads are kept from the latest forward pass: by layer, head."""
        attended: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

        def keep(layer: int, head: int, attention: Any, inputs: tuple[Tensor, ...]) -> None:
            attended[layer, head] = attention.queries_and_keys(inputs[0], head)

        blocks = self.whole.model.model.visual.blocks
        hooks = [blocks[layer].attn.register_forward_pre_hook(partial(keep, layer, head)) for layer, head in self.heads]
        try:
            yield attended
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def _before(self, pixels: Tensor) -> Tensor:
        """float32[B, Q, D] of the tower that the run began with."""
        assert self.before is not None
        self.before.to(self.device)
        return pool_grid(self.before(pixels).last_hidden_state, self.side**2).float()


def _missed(queries: Tensor, keys: Tensor, rows: Tensor, places: Tensor, middles: Tensor) -> Tensor:
    """float32[M]: -log of the share of one head's attention that lies on the middles, from the patches."""
    scores = torch.einsum("md,mnd->mn", queries[rows, 1 + places].float(), keys[rows].float())
    return F.cross_entropy(scores * queries.shape[-1] ** -0.5, 1 + middles, reduction="none")
