"""Objectives over token sequences: language, captions (stage 1), everything (stage 2), conversations.

All share one batch form: documents as rows of tokens with pictures in their slots, one or several documents to a row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from emu2.data.arrange import image_first, interleaves, is_pair, text_first, with_frames
from emu2.data.collate import collate, collate_packed
from emu2.data.loader import Samples
from emu2.data.packing import buckets, document_mask, pack
from emu2.data.records import Record
from emu2.data.sequences import IGNORE, SequenceBuilder, Targets
from emu2.data.sequences import Sequence as TokenSequence
from emu2.model.losses import whitening
from emu2.train.config import RunConfig
from emu2.train.features import FeatureCache, picture_key
from emu2.train.looking_back import Looks, check_heads, looking_back_loss, watching
from emu2.train.objectives import Batch, Objective
from emu2.train.whole import Whole

#: A prompt's ids, its stills and its frames.
_Prompt = tuple[list[int], list[Image.Image], list[Image.Image]]
#: Name of the loss term that tells attention where to look.
_LOOKING_BACK = "looking_back"
#: Attention that takes a mask of our own.
_MASKED_ATTENTION = ("sdpa", "eager")


class SequenceObjective(Objective):
    """What all stages of the autoregressive model share: documents as token sequences with pictures in their slots."""

    trains: tuple[str, ...] = ("vision", "bridge", "language")

    def __init__(self, whole: Whole, config: RunConfig, device: torch.device):
        super().__init__(whole, config, device)
        model, data = whole.model.config, config.data
        context = getattr(model.text_config, "max_position_embeddings", None)
        if context is not None and data.max_length > context:
            raise ValueError(
                f"data.max_length is {data.max_length} tokens, and the language model's context holds {context}: lower "
                "data.max_length."
            )
        self.attention = model.text_config._attn_implementation
        if data.pack and self.attention not in _MASKED_ATTENTION:
            raise ValueError(
                f"data.pack needs attention by {' or '.join(_MASKED_ATTENTION)}, which keep documents apart by a mask; "
                f"this model attends by {self.attention!r}."
            )
        self.builder = SequenceBuilder(whole.processor, data.max_length)
        self.frozen_vision = "vision" not in config.parts
        queries = {"image": model.num_query, "video": model.num_video_query}
        self.features = {
            name: FeatureCache(partial(whole.model.encode_image, num_query=n), keep=config.kept_features)
            for name, n in queries.items()
        }
        self.by_picture = self.pooled or config.kept_features > 0
        self._looking_back: dict[str, float] = {}
        if config.looking_back is not None:
            heads = [head for heads in config.looking_back.heads.values() for head in heads]
            check_heads(model.text_config, heads, self.attention)
            self._looking_back = {_LOOKING_BACK: config.looking_back.weight}

    def batches(self, read: Sequence[Samples]) -> list[Batch | None]:
        return super().batches(_bucketed(read) if self.config.data.bucket else read)

    def collate(self, samples: Sequence[TokenSequence], keys: list[str]) -> Batch:
        pad_id = self.whole.processor.tokenizer.pad_token_id
        if self.config.data.pack:
            rows = pack([len(sample.input_ids) for sample in samples], self.builder.max_length)
            tensors = collate_packed([[samples[index] for index in row] for row in rows], pad_id)
            samples = [samples[index] for row in rows for index in row]
            real = tensors["documents"] > 0
        else:
            tensors = collate(samples, pad_id)
            real = tensors["attention_mask"] > 0
        targets = tensors["labels"][:, 1:]
        slots = torch.isin(targets, torch.tensor(sorted(self.builder.slot_ids)))
        counts = {"text": int(((targets != IGNORE) & ~slots).sum()), "visual": int(slots.sum())}
        amounts = {
            "tokens": int(real.sum()),
            "images": sum(len(s.images) + len(s.frames) for s in samples),
        }
        extra: dict[str, Any] = {"samples": list(samples), "pixels": self._read_pixels(samples)}
        if self.config.looking_back is not None:
            looks = [Looks.of(samples, name, heads) for name, heads in self.config.looking_back.heads.items()]
            extra[_LOOKING_BACK] = looks
            counts[_LOOKING_BACK] = sum(map(len, looks))
        return Batch(tensors, counts, amounts, keys, extra=extra)

    def _read_pixels(self, samples: Sequence[TokenSequence]) -> dict[str, Tensor]:
        """float32[N, 3, S, S] of stills and of frames, made where the data are read, unless a cache knows them."""
        if self.by_picture and self.frozen_vision:
            return {}
        found = {"image": [i for s in samples for i in s.images], "video": [f for s in samples for f in s.frames]}
        return {name: torch.stack([self._pixels(i) for i in images]) for name, images in found.items() if images}

    def pictures(
        self, samples: Sequence[TokenSequence], pixels: Mapping[str, Tensor] | None = None, *, remember: bool = False
    ) -> dict[str, Tensor]:
        """The model's picture arguments, pooled features of stills and of frames; `pixels` as `collate` read them.

        Where another rank has pictures and this one has none, it takes part with none: the tower encodes an empty
        picture whose features are dropped.
        """
        model = self.whole.model
        read = pixels or {}
        found = {"image": [i for s in samples for i in s.images], "video": [f for s in samples for f in s.frames]}
        result = {}
        for (name, images), anywhere in zip(found.items(), self.world.any(*map(bool, found.values())), strict=True):
            if not anywhere:
                continue
            queries = model.config.num_query if name == "image" else model.config.num_video_query
            if not self.frozen_vision:
                shown = read.get(name)
                if shown is None:
                    shown = torch.stack([self._pixels(i) for i in images or [Image.new("RGB", (1, 1))]])
                features = model.encode_image(shown.to(self.device), queries)[: len(images)]
            elif images:
                keys = [picture_key(image) if self.by_picture else str(i) for i, image in enumerate(images)]
                ready = read.get(name)
                makers = [
                    partial(self._pixels, image) if ready is None else partial(ready.__getitem__, i)
                    for i, image in enumerate(images)
                ]
                features = self.features[name](keys, makers, self.device, remember=remember)
            else:
                features = torch.zeros(0, queries, model.config.vision_config.hidden_size, device=self.device)
            result[f"{name}_features"] = features
        return result

    def warm(self, samples: Sequence[TokenSequence]) -> None:
        if self.frozen_vision:
            self.pictures(samples, remember=True)

    @torch.no_grad()
    def begin(self, batches: Callable[[], Sequence[Batch]]) -> None:
        if self.config.visual_loss == "plain" or "visual" not in self.weights:
            return
        shown = [self.pictures(batch.extra["samples"], batch.extra["pixels"]) for batch in batches()]
        embeddings = [rows.flatten(0, 1) for pictures in shown for rows in pictures.values() if len(rows)]
        if not embeddings:
            raise ValueError(
                "visual_loss=whitened needs pictures to measure how their embeddings spread, and the first records of "
                f"{next(iter(self.config.data.kinds))!r}, the first of data.kinds, have none: name another kind first."
            )
        self.whole.model.visual_metric = whitening(torch.cat(embeddings)).to(self.device)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        inputs = self._inputs(batch.tensors) | self.pictures(batch.extra["samples"], batch.extra["pixels"])
        if self.config.looking_back is None:
            out, losses = self.whole.model(**inputs, use_cache=False), {}
        else:
            looks = [of_kind.to(self.device) for of_kind in batch.extra[_LOOKING_BACK]]
            with watching(self.whole.model.model.language_model, looks) as seen:
                out = self.whole.model(**inputs, use_cache=False)
            losses = {_LOOKING_BACK: looking_back_loss(seen, looks)}
        losses |= {"text": out.text_loss, "visual": out.visual_loss}
        return {name: losses[name] for name in self.weights if name in losses}

    def _inputs(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's arguments: packed documents get the mask that keeps them apart."""
        if "documents" not in tensors:
            return tensors
        inputs = dict(tensors)
        mask = document_mask(inputs.pop("documents"))
        if self.attention == "eager":  # which adds its mask to the scores
            dtype = self.whole.model.dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
        return {**inputs, "attention_mask": mask}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Any]:
        """What the model says where the first documents' targets begin."""
        shown: dict[str, Any] = {}
        for sample in batch.extra["samples"]:
            asked = self._question(sample)
            if asked is None:
                continue
            ids, images, frames = asked
            name, seen = f"{self._shown_as}/{len(shown) // 2}", [*images, *frames]
            shown |= {f"{name}/picture": seen[0]} if seen else {f"{name}/asked": self._text(ids)}
            shown[f"{name}/text"] = self._said(ids, images, frames)
            if len(shown) == 8:  # four documents, two lines each
                break
        return shown

    #: What this objective's samples are called in the log.
    _shown_as = "caption"

    def _question(self, sample: TokenSequence) -> _Prompt | None:
        """The prompt of a preview: what stands before a document's first target. None: this document has none."""
        first = next(t for t, label in enumerate(sample.labels) if label != IGNORE)
        ids = sample.input_ids[:first]
        images = ids.count(self.builder.image_id) // self.whole.processor.num_query
        frames = ids.count(self.builder.frame_id) // self.whole.processor.num_video_query
        return ids, sample.images[:images], sample.frames[:frames]

    def _said(self, ids: list[int], images: list[Image.Image], frames: list[Image.Image]) -> str:
        """What the model writes after a prompt, greedily."""
        inputs = {"input_ids": torch.tensor([ids], device=self.device)}
        for name, pictures in (("pixel_values", images), ("video_pixel_values", frames)):
            if pictures:
                inputs[name] = torch.stack([self._pixels(picture) for picture in pictures]).to(self.device)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        written = self.whole.model.generate(**inputs, max_new_tokens=40, do_sample=False)
        return self._text(written[0, len(ids) :].tolist())

    def _text(self, ids: list[int]) -> str:
        return self.whole.processor.batch_decode([ids], skip_special_tokens=True)[0].strip()

    def _read(self, record: Record, chance: random.Random) -> Record:
        """The record with as many frames of its clips as the run reads."""
        return with_frames(record, self.config.data.frames, self.config.data.frame_choice, chance)


def _bucketed(read: Sequence[Samples]) -> list[Samples]:
    """The samples of a step in as many micro-batches, those of like length together."""
    flat = [
        (sample, key, seed)
        for part in read
        for sample, key, seed in zip(part.samples, part.keys, part.seeds, strict=True)
    ]
    groups = buckets([len(sample.input_ids) for sample, _, _ in flat], len(read))
    result = []
    for number in range(len(read)):
        chosen = [flat[index] for index in groups[number]] if number < len(groups) else []
        samples, keys, seeds = zip(*chosen, strict=True) if chosen else ((), (), ())
        result.append(Samples(list(samples), list(keys), list(seeds), read[number].bad))
    return result


class LanguageObjective(SequenceObjective):
    """Next token of plain text, for a language model that starts from nothing. The paper starts from LLaMA.

    A document longer than `data.max_length` gives one chunk of that length; `data.pack` fills rows with shorter ones.
    """

    trains = ("language",)
    weights = {"text": 1.0}
    _shown_as = "language"

    def sample(self, record: Record, chance: random.Random) -> TokenSequence:
        return self.builder.chunk(record, chance)

    def _question(self, sample: TokenSequence) -> _Prompt:
        return sample.input_ids[:6], [], []  # <s> and a few words


class CaptionObjective(SequenceObjective):
    """Stage 1: cross entropy on the text after its picture or clip; everything may train (paper, section 2.2.1)."""

    @property
    def weights(self) -> dict[str, float]:
        return {"text": self.config.text_loss_weight}

    def sample(self, record: Record, chance: random.Random) -> TokenSequence:
        record = self._read(record, chance)
        return self.builder.build(image_first(record) if is_pair(record) else record, "text")


#: Segments of an episode's first demonstration: a picture and its answer.
_FIRST_DEMONSTRATION = 2


class UnifiedObjective(SequenceObjective):
    """Stage 2: next element of any document, token or embedding; the vision tower is frozen (section 2.2.2).

    The regression targets would move under a training tower, so training it here is refused. Pictures and clips stand
    before or after their texts, in pairs and in interleaved documents; a document goes one way throughout, so that it
    stays clear which text belongs to which picture. Text without pictures is learned in chunks of `data.max_length`.
    """

    trains = ("bridge", "language")

    @property
    def weights(self) -> dict[str, float]:
        weights = {"text": self.config.text_loss_weight, "visual": self.config.visual_loss_weight}
        return weights | self._looking_back

    def sample(self, record: Record, chance: random.Random) -> TokenSequence:
        if all(isinstance(segment, str) for segment in record.segments) and record.answer_from is None:
            return self.builder.chunk(record, chance)
        record = self._read(record, chance)
        targets: Targets = "all"
        # A picture with its caption goes either way; what asks for a picture in words (text to image) stays as it is.
        if is_pair(record):
            if not isinstance(record.segments[0], str):
                first = chance.random() < self.config.data.image_first_of(record.kind)
                record = replace(record, answer_from=1) if first else text_first(record)
        elif record.answer_from is not None and isinstance(record.segments[-1], str):
            # An episode that asks for words: its pictures might be of anything, and to guess them would drown what it
            # teaches.
            targets = "text"
        elif record.answer_from is None and interleaves(record):
            first = chance.random() < self.config.data.image_first_of(record.kind)
            record = replace(image_first(record), answer_from=1) if first else text_first(record)
        # Pretraining learns whole documents, not answers alone, with exceptions (the paper names none). A picture that
        # opens a pair or document is no target: no word tells what to draw. Nothing before an episode's second picture
        # says that it is one: learning that part too would teach to answer any picture as if it were.
        if record.answer_from is not None:
            record = replace(record, answer_from=min(record.answer_from, _FIRST_DEMONSTRATION))
        return self.builder.build(record, targets)

    def _question(self, sample: TokenSequence) -> _Prompt | None:
        if not sample.images:
            return None
        # The first picture by itself, wherever it stands.
        start = sample.input_ids.index(self.builder.image_id) - 1
        end = start + self.whole.processor.num_query + 2
        return [sample.input_ids[0], *sample.input_ids[start:end]], sample.images[:1], []


class ChatObjective(SequenceObjective):
    """Emu2-Chat: cross entropy on the assistant's turns, each with its `</s>` (paper, section 2.3.1).

    A picture takes `num_query` embeddings (256 in the paper), a clip 8, 12 or 16 evenly spaced frames
    (`data.frames`, `data.frame_choice`). Longer conversations are cut at `data.max_length`, between pictures. The paper
    does not say whether the vision tower trains here; the recipes freeze it, as in the stage before.
    """

    _shown_as = "chat"

    @property
    def weights(self) -> dict[str, float]:
        return {"text": 1.0} | self._looking_back

    def sample(self, record: Record, chance: random.Random) -> TokenSequence:
        return self.builder.conversation(self._read(record, chance))
