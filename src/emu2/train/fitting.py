"""A model made to read pictures as a run wants: at another resolution, or in another number of embeddings."""

from __future__ import annotations

import torch
from torch import nn

from emu2.model.eva import resize_pos_embed
from emu2.train.config import RunConfig
from emu2.train.whole import Whole


def fit_whole(whole: Whole, config: RunConfig) -> None:
    """Bring model and processor to `config.resolution`, `config.num_query` and `config.num_video_query`.

    The vision tower's positions are resized as EVA-CLIP's own from 224 to 448 pixels (`resize_pos_embed`). What is at
    its place already is left alone, so this may be called again.

    Raises:
        ValueError: a resolution that is no multiple of the patch size, or a number that does not fit the patch grid.
    """
    model, processor = whole.model, whole.processor
    if config.resolution is not None and config.resolution != model.config.vision_config.image_size:
        _resize(whole, config.resolution)
    for name in ("num_query", "num_video_query"):
        wanted = getattr(config, name)
        if wanted is None:
            wanted = getattr(model.config, name)  # which another resolution may have ruled out
        model.config.check_num_query(wanted, name=name)
        setattr(model.config, name, wanted)
        setattr(processor, name, wanted)


@torch.no_grad()
def _resize(whole: Whole, resolution: int) -> None:
    tower, vision = whole.model.model.visual, whole.model.config.vision_config
    if resolution % vision.patch_size:
        raise ValueError(
            f"resolution must be a multiple of the patch size, {vision.patch_size} pixels; got {resolution}."
        )
    resized = resize_pos_embed(tower.pos_embed, resolution // vision.patch_size)
    tower.pos_embed = nn.Parameter(resized.clone(), requires_grad=tower.pos_embed.requires_grad)
    for settings in {id(c): c for c in (vision, tower.config, whole.model.model.config.vision_config)}.values():
        settings.image_size = resolution
    processor = whole.processor.image_processor
    processor.size = {"height": resolution, "width": resolution}
