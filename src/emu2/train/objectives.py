"""What a stage learns: records in, losses out. One class per stage; the loop knows nothing else about them.

The life of a sample: `sample(record, chance)` makes it ready (and raises ValueError when it is bad), `collate(samples)`
batches, `terms(batch)` gives each loss as a mean with the number of its targets, so that the loop can
accumulate gradients as if it had seen one large batch.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from emu2.data.collate import collate
from emu2.data.loader import Samples
from emu2.data.records import Record
from emu2.data.sequences import (
    IGNORE,
    SequenceBuilder,
    first_image,
    image_first,
    is_pair,
    joined_text,
    text_first,
)
from emu2.data.sequences import (
    Sequence as TokenSequence,
)
from emu2.train.config import RunConfig
from emu2.train.features import FeatureCache
from emu2.train.whole import Whole


@dataclass
class Batch:
    """One micro-batch.

    tensors: moved to the device by the loop. counts: targets of each loss term, known before anything runs. amounts:
    what the throughput counts. keys: of the records. extra: what stays on the host. seeds: one per sample, in their
    order, set by the loop; whatever the loss draws for a sample it draws from its seed (`train/chance.py`).
    """

    tensors: dict[str, Tensor]
    counts: dict[str, int]
    amounts: dict[str, int]
    keys: list[str]
    extra: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)

    def to(self, device: torch.device) -> Batch:
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return self


class Objective(ABC):
    """Base of all objectives.

    Args:
        whole: the model and its decoder's parts.
        config: of the run.
        device: where the batches go.
    """

    #: Parts the objective needs to exist, whether they train or not.
    needs: tuple[str, ...] = ()
    #: Parts this objective can train.
    trains: tuple[str, ...] = ()

    def __init__(self, whole: Whole, config: RunConfig, device: torch.device):
        self.whole, self.config, self.device = whole, config, device
        for part in self.needs:
            if getattr(whole, part) is None:
                raise ValueError(
                    f"The objective {config.objective!r} needs a {part}, which this model does not have. Start from a "
                    "model folder that has one (an earlier stage's), or from nothing with a recipe's own start."
                )
        for part in config.parts:
            if part not in self.trains:
                raise ValueError(
                    f"The objective {config.objective!r} cannot train {part!r}; it trains some of {self.trains}."
                )
        self.pooled = config.data.pool is not None

    @property
    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Weight of each loss term."""

    @abstractmethod
    def sample(self, record: Record, chance: random.Random) -> Any:
        """One record made ready; ValueError when it does not fit the objective."""

    @abstractmethod
    def collate(self, samples: Sequence[Any], keys: list[str]) -> Batch:
        """Samples as one batch; `keys` are their records'."""

    def batches(self, read: Sequence[Samples]) -> list[Batch | None]:
        """One optimizer step's micro-batches; None where no record could be read. Runs where the data are read."""
        made: list[Batch | None] = []
        for samples in read:
            batch = self.collate(samples.samples, samples.keys) if samples.samples else None
            if batch is not None:
                batch.seeds = samples.seeds
            made.append(batch)
        return made

    @abstractmethod
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Mean of each loss term over its `batch.counts` targets, float32 scalars; chance comes from `batch.seeds`."""

    def warm(self, samples: Sequence[Any]) -> None:  # noqa: B027 (a hook; most objectives need none)
        """Compute frozen features of a pool's samples ahead of the first step."""

    def finish(self, batches: Sequence[Batch]) -> None:  # noqa: B027 (likewise)
        """Called once after the last step, with a few batches: what is measured from the trained weights."""

    def preview(self, batch: Batch) -> dict[str, Any]:
        """A few pictures (PIL) and texts made by the model as it is, for the log."""
        return {}

    def _pixels(self, image: Any) -> Tensor:
        """float32[3, S, S] as the vision tower reads it."""
        return self.whole.processor.image_processor([image], return_tensors="pt")["pixel_values"][0]


class ContrastiveObjective(Objective):
    """CLIP's: a picture's mean visual embedding and its text meet in a shared space, against the batch's others."""

    needs = ("text_tower",)
    trains = ("vision", "text_tower")
    weights = {"contrastive": 1.0}

    def sample(self, record: Record, chance: random.Random) -> Any:
        assert self.whole.text_tower is not None
        ids = self.whole.processor.tokenizer(joined_text(record))["input_ids"]
        return ids[: self.whole.text_tower.max_length], self._pixels(first_image(record))

    def collate(self, samples: Sequence[Any], keys: list[str]) -> Batch:
        texts = self.whole.processor.tokenizer.pad(
            {"input_ids": [ids for ids, _ in samples]}, padding_side="right", return_tensors="pt"
        )
        tensors = {
            "input_ids": texts["input_ids"],
            "attention_mask": texts["attention_mask"],
            "pixel_values": torch.stack([pixels for _, pixels in samples]),
        }
        amounts = {"tokens": int(texts["attention_mask"].sum()), "images": len(samples)}
        return Batch(tensors, {"contrastive": len(samples)}, amounts, keys)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        tower = self.whole.text_tower
        assert tower is not None
        text = tower.embed_text(batch.tensors["input_ids"], batch.tensors["attention_mask"])
        vision = tower.embed_vision(self.whole.model.encode_image(batch.tensors["pixel_values"]))
        return {"contrastive": tower.loss(text, vision)}


class SequenceObjective(Objective):
    """What stage 1 and stage 2 share: documents as token sequences with pictures in their slots."""

    trains: tuple[str, ...] = ("vision", "bridge", "language")

    def __init__(self, whole: Whole, config: RunConfig, device: torch.device):
        super().__init__(whole, config, device)
        self.builder = SequenceBuilder(whole.processor, config.data.max_length)
        self.frozen_vision = "vision" not in config.parts
        model = whole.model.config
        queries = {"image": model.num_query, "video": model.num_video_query}
        self.features = {
            name: FeatureCache(partial(whole.model.encode_image, num_query=n), keep=self.pooled and self.frozen_vision)
            for name, n in queries.items()
        }

    def collate(self, samples: Sequence[TokenSequence], keys: list[str]) -> Batch:
        tensors = collate(samples, self.whole.processor.tokenizer.pad_token_id)
        targets = tensors["labels"][:, 1:]
        slots = torch.isin(targets, torch.tensor(sorted(self.builder.slot_ids)))
        counts = {"text": int(((targets != IGNORE) & ~slots).sum()), "visual": int(slots.sum())}
        amounts = {
            "tokens": int(tensors["attention_mask"].sum()),
            "images": sum(len(s.images) + len(s.frames) for s in samples),
        }
        return Batch(tensors, counts, amounts, keys, extra={"samples": list(samples)})

    def pictures(self, samples: Sequence[TokenSequence]) -> dict[str, Tensor]:
        """The model's picture arguments: pixels where the tower learns, features where it is frozen."""
        result = {}
        for name, images, keys in (
            ("image", [i for s in samples for i in s.images], [k for s in samples for k in s.image_keys]),
            ("video", [f for s in samples for f in s.frames], [k for s in samples for k in s.frame_keys]),
        ):
            if not images:
                continue
            if self.frozen_vision:
                makers = [lambda image=image: self._pixels(image) for image in images]
                result[f"{name}_features"] = self.features[name](keys, makers, self.device)
            else:
                argument = "pixel_values" if name == "image" else "video_pixel_values"
                result[argument] = torch.stack([self._pixels(image) for image in images]).to(self.device)
        return result

    def warm(self, samples: Sequence[TokenSequence]) -> None:
        if self.frozen_vision:
            self.pictures(samples)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        out = self.whole.model(**batch.tensors, **self.pictures(batch.extra["samples"]))
        return {"text": out.text_loss, "visual": out.visual_loss}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Any]:
        """What the model says after the first pictures of the batch."""
        processor, model = self.whole.processor, self.whole.model
        samples = [s for s in batch.extra["samples"] if s.images][:4]
        texts = {}
        for number, sample in enumerate(samples):
            inputs = processor([[sample.images[0]]], return_tensors="pt").to(self.device)
            ids = model.generate(**inputs, max_new_tokens=40, do_sample=False)
            said = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
            texts[f"caption/{number}/picture"] = sample.images[0]
            texts[f"caption/{number}/text"] = said
        return texts


class CaptionObjective(SequenceObjective):
    """Stage 1: cross entropy on the text after its picture; everything may train (paper, section 2.2.1)."""

    @property
    def weights(self) -> dict[str, float]:
        return {"text": self.config.text_loss_weight}

    def sample(self, record: Record, chance: random.Random) -> TokenSequence:
        return self.builder.build(image_first(record) if is_pair(record) else record, "text")

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"text": super().terms(batch)["text"]}


#: Segments of an episode's first demonstration: a picture and its answer.
_FIRST_DEMONSTRATION = 2


class UnifiedObjective(SequenceObjective):
    """Stage 2: next element of any document, token or embedding; the vision tower is frozen (section 2.2.2).

    The regression targets would move under a training tower, so training it here is refused.
    """

    trains = ("bridge", "language")

    @property
    def weights(self) -> dict[str, float]:
        return {"text": self.config.text_loss_weight, "visual": self.config.visual_loss_weight}

    def sample(self, record: Record, chance: random.Random) -> TokenSequence:
        # A picture with its caption goes either way; what asks for a picture in words (text to image) stays as it is.
        if (
            is_pair(record)
            and not isinstance(record.segments[0], str)
            and chance.random() >= self.config.data.image_first
        ):
            record = text_first(record)
        # Pretraining learns whole documents, not answers alone, with two exceptions (the paper names none). A picture
        # with its caption after it is no target: no word tells what to draw. And nothing before an episode's second
        # picture says that it is one: learning that part too would teach to answer any picture as if it were.
        if record.answer_from is not None:
            record = replace(record, answer_from=min(record.answer_from, _FIRST_DEMONSTRATION))
        return self.builder.build(record, "all")


def objective_class(name: str) -> Callable[[Whole, RunConfig, torch.device], Objective]:
    """The class of an objective by its name in a config."""
    from emu2.train.diffusion import AutoencoderObjective, DecoderObjective

    return {
        "contrastive": ContrastiveObjective,
        "caption": CaptionObjective,
        "unified": UnifiedObjective,
        "autoencoder": AutoencoderObjective,
        "decoder": DecoderObjective,
    }[name]
