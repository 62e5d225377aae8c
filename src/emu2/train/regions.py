"""Contrast things where they stand with the phrases that name them: for what is small in a picture.

CLIP's contrast knows a picture by the mean of its embeddings, in which a thing's details hardly count: of clock faces
and signs the small tower learned nothing in 130 batches of 48. Contrasting regions is Zhong et al. 2022, RegionCLIP.
A tower that others were trained on keeps how it shows other pictures: Li & Hoiem 2016, Learning without Forgetting.

    B  pictures    Q  embeddings of a picture    D  their width    R  phrases with boxes    P  different phrases
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from emu2.data.records import Record
from emu2.data.sequences import covered, first_image
from emu2.model.losses import whitening
from emu2.processing.grounding import parse_grounding
from emu2.processing.video import Video
from emu2.train.config import RunConfig
from emu2.train.objectives import Batch, Objective
from emu2.train.whole import Whole


@dataclass(frozen=True)
class PhrasedPicture:
    """A picture, float32[3, S, S], and its phrases: token ids, and which of the Q embeddings their boxes cover."""

    pixels: Tensor
    phrases: tuple[tuple[tuple[int, ...], tuple[bool, ...]], ...]


class RegionObjective(Objective):
    """The mean embedding of a phrase's boxes finds its phrase among the others of the batch.

    A record with phrases in boxes (a grounded pair) teaches them. Any other is a picture to be kept: with
    `kept_weight` its embeddings stay what they were when the run began, every direction counted by how embeddings
    spread in it (`emu2.model.losses.whitening`); of a clip one frame.

    The others are those of a rank's own micro-batch.
    """

    needs = ("text_tower",)
    trains = ("vision", "text_tower")

    def __init__(self, whole: Whole, config: RunConfig, device: torch.device):
        super().__init__(whole, config, device)
        self.side = isqrt(whole.model.config.num_query)
        self.before = deepcopy(whole.model.model.visual).requires_grad_(False).eval() if config.kept_weight else None
        self.metric: Tensor | None = None

    @property
    def weights(self) -> dict[str, float]:
        kept = {"kept": self.config.kept_weight} if self.config.kept_weight else {}
        return {"regions": 1.0, **kept}

    def sample(self, record: Record, chance: random.Random) -> PhrasedPicture:
        clip = next((segment for segment in record.segments if isinstance(segment, Video)), None)
        image = first_image(record) if clip is None else clip[chance.randrange(len(clip))]
        assert self.whole.text_tower is not None
        longest, tokenizer = self.whole.text_tower.max_length, self.whole.processor.tokenizer
        text = "".join(segment for segment in record.segments if isinstance(segment, str))
        phrases = tuple(
            (tuple(tokenizer(found.phrase)["input_ids"][:longest]), tuple(covered(found.boxes, self.side)))
            for found in parse_grounding(text, image.size)
            if found.phrase
        )
        if not phrases and self.before is None:
            raise ValueError(
                f"Record {record.key!r} ({record.kind}) has no phrase with a box to contrast. Give grounded pairs, or "
                "set kept_weight above 0 to keep how such pictures are seen."
            )
        return PhrasedPicture(self._pixels(image), phrases)

    def collate(self, samples: Sequence[PhrasedPicture], keys: list[str]) -> Batch:
        phrases = [(row, ids, cells) for row, sample in enumerate(samples) for ids, cells in sample.phrases]
        different = sorted({ids for _, ids, _ in phrases}) or [(0,)]
        padded = self.whole.processor.tokenizer.pad(
            {"input_ids": [list(ids) for ids in different]}, padding_side="right", return_tensors="pt"
        )
        tensors = {
            "pixel_values": torch.stack([sample.pixels for sample in samples]),
            "input_ids": padded["input_ids"],  # [P, T]
            "attention_mask": padded["attention_mask"],
            "rows": torch.tensor([row for row, _, _ in phrases], dtype=torch.int64),
            "cells": torch.tensor([cells for _, _, cells in phrases]).reshape(-1, self.side**2).float(),
            "named": torch.tensor([different.index(ids) for _, ids, _ in phrases], dtype=torch.int64),
            "kept": torch.tensor([not sample.phrases for sample in samples]),
        }
        counts = {"regions": len(phrases)}
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
        embeddings = self.whole.model.encode_image(tensors["pixel_values"]).float()  # [B, Q, D]
        cells = tensors["cells"] / tensors["cells"].sum(dim=1, keepdim=True)
        regions = torch.einsum("rq,rqd->rd", cells, embeddings[tensors["rows"]])
        if self.metric is not None:
            regions = regions @ self.metric  # where all directions count, details do
        text = tower.embed_text(tensors["input_ids"], tensors["attention_mask"])
        scores = tower.scale() * tower.embed_vision(regions.unsqueeze(1)) @ text.T  # [R, P]
        terms = {"regions": F.cross_entropy(scores, tensors["named"]) if len(regions) else scores.sum() * 0.0}
        if self.before is not None and self.metric is not None:
            terms["kept"] = embeddings.sum() * 0.0
            if batch.counts["kept"]:
                kept = tensors["kept"]
                change = (embeddings[kept] - self._before(tensors["pixel_values"][kept])) @ self.metric
                terms["kept"] = change.square().mean()
        return terms

    @torch.no_grad()
    def _before(self, pixels: Tensor) -> Tensor:
        """float32[B, Q, D] of the tower that the run began with."""
        from emu2.model.bridge import pool_grid

        assert self.before is not None
        self.before.to(self.device)
        return pool_grid(self.before(pixels).last_hidden_state, self.side**2).float()
