"""A folder of one small model in several variants, with what they share stored once.

    variants.json            what there is
    vision.safetensors       the vision tower, of all variants that have none of their own
    base/ chat/ gen/         config.json and model.safetensors: bridge and language model of each; vision.safetensors
                             where its tower learned on
    processor/               tokeniser and picture processor, of all variants
    vae/ unet/ scheduler/    the image decoder;   video/: the video decoder (they share the VAE; where it is the image
                             decoder over time, video/unet/ holds what it has beyond that, temporal.safetensors)

`FOLDER` itself stands for its first variant, `FOLDER/chat` for another.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from emu2.configuration import Emu2Config

MANIFEST, VISION, WEIGHTS, PROCESSOR = "variants.json", "vision.safetensors", "model.safetensors", "processor"
#: What a video U-Net has beyond the image decoder's, where it is that over time (`emu2.decoder.video_unet`).
TEMPORAL = "temporal.safetensors"
#: How the tower's names begin in the model's state dict.
TOWER = "model.visual."


@dataclass(frozen=True)
class Variant:
    """One variant on disk.

    root: folder of all. name: of this one, its subfolder. draws: whether the decoders beside it read its embeddings.
    drawing: `steps`, `guidance`, `frames` and `keyframes` that its decoders were made for.
    """

    root: Path
    name: str
    draws: bool
    drawing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def processor(self) -> Path:
        return self.root / PROCESSOR

    @property
    def tower(self) -> Path:
        """File of its vision tower."""
        own = self.folder / VISION
        return own if own.is_file() else self.root / VISION

    def load(self, *, dtype: torch.dtype, device_map: Any = None) -> Any:
        """The `Emu2ForConditionalGeneration` of this variant.

        Raises:
            FileNotFoundError: a weight file is missing.
            ValueError: weights and configuration do not fit each other.
        """
        from emu2.model.key_map import plan_reading
        from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
        from emu2.model.pretrained import load_weights, read_folder_config
        from emu2.model.weight_files import Checkpoint

        config = Emu2Config.from_dict(read_folder_config(self.folder))
        checkpoint = Checkpoint(self.folder, [self.tower, self.folder / WEIGHTS])
        plan = plan_reading(checkpoint, "ours")
        model = load_weights(Emu2ForConditionalGeneration, config, checkpoint, plan, dtype=dtype, device_map=device_map)
        model.config.name_or_path = model.name_or_path = str(self.folder)
        return model


def find_variant(path: str | Path) -> Variant | None:
    """The variant that a path stands for; None where it is no folder of this form.

    Raises:
        ValueError: variants.json is damaged.
    """
    path = Path(path)
    for root, name in ((path, None), (path.parent, path.name)):
        file = root / MANIFEST
        if not file.is_file():
            continue
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            listed: dict[str, Any] = told["variants"]
            if name is None:
                name = next(iter(listed))
            if name in listed:
                return Variant(root, name, bool(listed[name]["draws"]), dict(told.get("drawing", {})))
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise ValueError(f"{file} is damaged: expected the variants of a model ({error!r}).") from error
    return None
