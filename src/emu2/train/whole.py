"""The whole that a run works on: autoregressive model, its processor, and the decoder's parts, in one folder.

The folder is the image pipeline's: `multimodal_encoder/`, `processor/`, `vae/`, `unet/`, `scheduler/` and, once every
part exists, `model_index.json`. Before that (a run that only captions) the parts that exist are there. A video
decoder is beside them in `video/`: `video/unet/`, `video/scheduler/`, and `video/vae/` where it has a VAE of its own.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
    from emu2.model.variants import Variant
    from emu2.processing.processor import Emu2Processor
    from emu2.train.text_tower import TextTower

_ENCODER, _PROCESSOR, _VIDEO = "multimodal_encoder", "processor", "video"


@dataclass
class Whole:
    """Parts of one Emu2.

    text_tower: serves the contrastive stage only and is never saved with the model.
    video_unet, video_scheduler, video_vae: of the video decoder; without a VAE of its own it shares `vae`.
    unread: folder of the model's weights while its parameters are on the meta device.
    """

    model: Emu2ForConditionalGeneration
    processor: Emu2Processor
    vae: Any = None
    unet: Any = None
    scheduler: Any = None
    text_tower: TextTower | None = None
    video_unet: Any = None
    video_scheduler: Any = None
    video_vae: Any = None
    unread: Path | None = None

    @property
    def complete(self) -> bool:
        """Whether it can draw."""
        return self.vae is not None and self.unet is not None and self.scheduler is not None

    @property
    def films(self) -> bool:
        """Whether it can film."""
        return self.frame_vae is not None and self.video_unet is not None and self.video_scheduler is not None

    @property
    def frame_vae(self) -> Any:
        """The VAE of the video decoder."""
        return self.vae if self.video_vae is None else self.video_vae

    def modules(self) -> list[nn.Module]:
        parts = (self.model, self.vae, self.unet, self.text_tower, self.video_unet, self.video_vae)
        return [module for module in parts if module is not None]

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Whole:
        for module in self.modules():
            if self.unread is None or module is not self.model:
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
            "video_unet": [self.video_unet],
            "video_vae": [self.video_vae],
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

    def video_pipeline(self) -> Any:
        """The video pipeline over these parts (shared, not copied).

        Raises:
            ValueError: the video decoder's parts are missing.
        """
        if not self.films:
            raise ValueError("This model cannot film yet: train the stage 'video_decoder' first.")
        from emu2.decoder.video_pipeline import Emu2VideoPipeline

        return Emu2VideoPipeline(
            multimodal_encoder=self.model,
            processor=self.processor,
            unet=self.video_unet,
            vae=self.frame_vae,
            scheduler=self.video_scheduler,
        )

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        for name in ("unet", "scheduler", "vae"):
            part = getattr(self, f"video_{name}")
            if part is not None:
                part.save_pretrained(folder / _VIDEO / name)
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
    def load(cls, folder: str | Path, dtype: torch.dtype = torch.float32, *, in_pieces: bool = False) -> Whole:
        """A whole from `save`, from a plain folder of one model and its processor, or of several variants.

        Args:
            in_pieces: leave the model's weights unread where they can be, for `World.place` to read.

        Raises:
            ValueError: the folder holds no Emu2.
        """
        from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
        from emu2.model.variants import find_variant
        from emu2.processing.processor import Emu2Processor
        from emu2.train.unread import unread_model

        folder = Path(folder)
        variant = find_variant(folder)
        if variant is not None:
            return cls._of_variant(variant, dtype)
        nested = (folder / _ENCODER).is_dir()
        encoder, processor = (folder / _ENCODER, folder / _PROCESSOR) if nested else (folder, folder)
        if not (encoder / "config.json").is_file():
            raise ValueError(
                f"{folder} is no folder of an Emu2: it has neither {_ENCODER}/config.json nor config.json. Give the "
                "'model' folder of a finished run, or a converted checkpoint."
            )
        unread = unread_model(encoder, dtype) if in_pieces else None
        whole = cls(
            model=unread or Emu2ForConditionalGeneration.from_pretrained(encoder, dtype=dtype),
            processor=Emu2Processor.from_pretrained(processor),
            unread=encoder if unread is not None else None,
            **_decoders(folder),
        )
        return whole.to("cpu", dtype)

    @classmethod
    def _of_variant(cls, variant: Variant, dtype: torch.dtype) -> Whole:
        from emu2.processing.processor import Emu2Processor

        model, processor = variant.load(dtype=dtype), Emu2Processor.from_pretrained(variant.processor)
        processor.num_query, processor.num_video_query = model.config.num_query, model.config.num_video_query
        return cls(model, processor, **(_decoders(variant.root) if variant.draws else {})).to("cpu", dtype)


def _decoders(folder: Path) -> dict[str, Any]:
    """The parts of decoders that a folder holds, by their names in `Whole`."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    from emu2.decoder.video_unet import load_video_unet

    classes: dict[str, Any] = {
        "vae": AutoencoderKL,
        "unet": UNet2DConditionModel,
        "scheduler": EulerDiscreteScheduler,
        f"{_VIDEO}/vae": AutoencoderKL,
        f"{_VIDEO}/scheduler": EulerDiscreteScheduler,
    }
    found = {
        name.replace("/", "_"): cls.from_pretrained(folder / name)
        for name, cls in classes.items()
        if (folder / name).is_dir()
    }
    if (folder / _VIDEO / "unet").is_dir():
        # A copy of the image decoder's: either may train, and the other stays.
        found["video_unet"] = load_video_unet(folder / _VIDEO / "unet", image_unet=deepcopy(found.get("unet")))
    return found
