"""What a stage learns: records in, losses out. One class per stage; the loop knows nothing else about them.

The life of a sample: `sample(record, chance)` makes it ready (and raises ValueError when it is bad), `collate(samples)`
batches, `terms(batch)` gives each loss as a mean with the number of its targets, so that the loop can
accumulate gradients as if it had seen one large batch.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from emu2.data.loader import Samples
from emu2.data.records import Record
from emu2.data.sequences import first_image, joined_text
from emu2.train.config import RunConfig
from emu2.train.distributed import World
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
        world: the ranks that share each batch; the loop sets it. All of them must run the same modules equally often.
    """

    world = World()
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

    def begin(self, batches: Callable[[], Sequence[Batch]]) -> None:  # noqa: B027 (likewise)
        """Called before the first step and after every resumption; `batches` makes a few, always the same."""

    def finish(self, batches: Sequence[Batch]) -> None:  # noqa: B027 (likewise)
        """Called once after the last step, with a few batches: what is measured from the trained weights."""

    def preview(self, batch: Batch) -> dict[str, Any]:
        """A few pictures (PIL) and texts made by the model as it is, for the log."""
        return {}

    def _pixels(self, image: Any) -> Tensor:
        """float32[3, S, S] as the vision tower reads it."""
        return self.whole.processor.image_processor([image], return_tensors="pt")["pixel_values"][0]


class ContrastiveObjective(Objective):
    """CLIP's: a picture's mean visual embedding and its text meet in a shared space, against the batch's others.

    The others are those of all ranks.
    """

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
        others, first = self.world.all_rows(torch.cat([text, vision], dim=1))
        return {"contrastive": tower.loss(text, vision, others, first)}


def objective_class(name: str) -> Callable[[Whole, RunConfig, torch.device], Objective]:
    """The class of an objective by its name in a config."""
    from emu2.train import diffusion, documents, generation, regions, video_diffusion

    def contrastive(whole: Whole, config: RunConfig, device: torch.device) -> Objective:
        kinds = {"pictures": ContrastiveObjective, "regions": regions.RegionObjective}
        return kinds[config.contrast](whole, config, device)

    classes: dict[str, Callable[[Whole, RunConfig, torch.device], Objective]] = {
        "contrastive": contrastive,
        "language": documents.LanguageObjective,
        "caption": documents.CaptionObjective,
        "unified": documents.UnifiedObjective,
        "autoencoder": diffusion.AutoencoderObjective,
        "decoder": diffusion.DecoderObjective,
        "video_decoder": video_diffusion.VideoDecoderObjective,
        "chat": documents.ChatObjective,
        "gen": generation.GenObjective,
    }
    return classes[name]
