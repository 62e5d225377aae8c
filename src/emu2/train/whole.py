"""The whole that a run works on: autoregressive model, its processor, and the decoder's parts, in one folder.

The folder is the image pipeline's: `multimodal_encoder/`, `processor/`, `vae/`, `unet/`, `scheduler/` and, once every
part exists, `model_index.json`. Before that (a run that only captions) the parts that exist are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
    from emu2.processing.processor import Emu2Processor
    from emu2.train.text_tower import TextTower

_ENCODER, _PROCESSOR = "multimodal_encoder", "processor"


@dataclass
class Whole:
    """Parts of one Emu2. `text_tower` serves the contrastive stage only and is never saved with the model."""

    model: Emu2ForConditionalGeneration
    processor: Emu2Processor
    vae: Any = None
    unet: Any = None
    scheduler: Any = None
    text_tower: TextTower | None = None

    @property
    def complete(self) -> bool:
        """Whether it can draw."""
        return self.vae is not None and self.unet is not None and self.scheduler is not None

    def modules(self) -> list[nn.Module]:
        return [m for m in (self.model, self.vae, self.unet, self.text_tower) if m is not None]

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Whole:
        for module in self.modules():
            module.to(device=device)
            if any(parameter.dtype != dtype for parameter in module.parameters()):
                module.to(dtype=dtype)
        return self

    def count_parameters(self) -> dict[str, int]:
        """Part -> numbers it holds."""
        model = self.model
        parts = {
            "vision tower": [model.model.visual],
            "bridge": [model.model.project_up, model.model.project_down],
            "language model": [model.model.language_model, model.lm_head],
            "vae": [self.vae],
            "unet": [self.unet],
        }
        return {
            name: sum(parameter.numel() for module in modules for parameter in module.parameters())
            for name, modules in parts.items()
            if modules[0] is not None
        }

    def pipeline(self) -> Any:
        """The image pipeline over these parts (shared, not copied).

        Raises:
            ValueError: the decoder's parts are missing.
        """
        if not self.complete:
            raise ValueError("This model cannot draw yet: train the stages 'autoencoder' and 'decoder' first.")
        from emu2.decoder.image_pipeline import Emu2ImagePipeline

        return Emu2ImagePipeline(
            multimodal_encoder=self.model,
            processor=self.processor,
            unet=self.unet,
            vae=self.vae,
            scheduler=self.scheduler,
        )

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        if self.complete:
            self.pipeline().save_pretrained(folder)
            return
        self.model.save_pretrained(folder / _ENCODER)
        self.processor.save_pretrained(folder / _PROCESSOR)
        for name in ("vae", "unet", "scheduler"):
            part = getattr(self, name)
            if part is not None:
                part.save_pretrained(folder / name)

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> Whole:
        """A whole from `save`, or from a plain folder of one model and its processor.

        Raises:
            ValueError: the folder holds no Emu2.
        """
        from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

        from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
        from emu2.processing.processor import Emu2Processor

        folder = Path(folder)
        nested = (folder / _ENCODER).is_dir()
        encoder, processor = (folder / _ENCODER, folder / _PROCESSOR) if nested else (folder, folder)
        if not (encoder / "config.json").is_file():
            raise ValueError(
                f"{folder} is no folder of an Emu2: it has neither {_ENCODER}/config.json nor config.json. Give the "
                "'model' folder of a finished run, or a converted checkpoint."
            )
        classes = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "scheduler": EulerDiscreteScheduler}
        found = {
            name: cls_.from_pretrained(folder / name) for name, cls_ in classes.items() if (folder / name).is_dir()
        }
        whole = cls(
            model=Emu2ForConditionalGeneration.from_pretrained(encoder, dtype=dtype),
            processor=Emu2Processor.from_pretrained(processor),
            **found,
        )
        return whole.to("cpu", dtype)
