"""The stages of the paper at a size that two CPU cores train in minutes, from nothing, on the emoji world.

What differs from the paper, and why: rates are a hundred times higher and batches a hundred times smaller, because
the model is ten thousand times smaller. An autoencoder stage comes before the decoder, because there is no SDXL at this
size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu2.data.settings import DataConfig
from emu2.train.config import DiffusionConfig, OptimConfig, RunConfig

#: Pictures of the debug world: plain backgrounds, a few things in fixed places, captions that tell all of it.
_WORLD = {"style": "corners", "wording": "full"}
_CONCEPTS = 16


def _data(kinds: dict[str, float], **settings: Any) -> DataConfig:
    return DataConfig(
        **{"kinds": kinds, "image_size": 64, "concepts": _CONCEPTS, "world": _WORLD, "max_length": 512, **settings}
    )


def vision() -> RunConfig:
    """Vision tower start: contrast pictures with captions, beside a text tower that is thrown away."""
    return RunConfig(
        name="vision",
        objective="contrastive",
        parts=("vision", "text_tower"),
        steps=300,
        data=_data({"pair": 1.0}, batch_size=64),
        optim=OptimConfig(lr=1e-3, warmup_steps=30, clip_norm=1.0),
    )


def language() -> RunConfig:
    """Language model start: next token on sentences about the world. (`make train-demo` does without.)"""
    return RunConfig(
        name="language",
        objective="language",
        parts=("language",),
        steps=300,
        data=_data({"text": 1.0}, batch_size=16, max_length=128),
        optim=OptimConfig(lr=2e-3, warmup_steps=30, clip_norm=1.0, min_lr_ratio=0.1),
    )


def caption() -> RunConfig:
    """Stage 1: cross entropy on captions; everything trains (paper, section 2.2.1)."""
    return RunConfig(
        name="caption",
        objective="caption",
        parts=("vision", "bridge", "language"),
        steps=1200,
        data=_data({"pair": 1.0}, batch_size=32),
        optim=OptimConfig(lr=2e-3, warmup_steps=40, clip_norm=1.0, min_lr_ratio=0.05),
    )


def unified() -> RunConfig:
    """Stage 2: text and visual embeddings of every kind of document; the vision tower is frozen (section 2.2.2)."""
    return RunConfig(
        name="unified",
        objective="unified",
        parts=("bridge", "language"),
        steps=1000,
        data=_data(
            {"pair": 0.37, "text_to_image": 0.33, "counting": 0.27, "document": 0.015, "text": 0.015},
            mode="one_kind",
            batch_size=32,
            world={**_WORLD, "shots": [1, 2, 3], "max_pages": 3},
        ),
        optim=OptimConfig(lr=2e-3, warmup_steps=40, clip_norm=1.0, min_lr_ratio=0.02),
        # Colours take most of the embeddings' variance; which thing it is hides in the last few per cent of the error.
        visual_loss_weight=4.0,
    )


def autoencoder() -> RunConfig:
    """The small VAE that stands in for SDXL's: reconstruction and a little KL."""
    return RunConfig(
        name="autoencoder",
        objective="autoencoder",
        parts=("vae",),
        steps=1000,
        data=_data({"pair": 1.0}, batch_size=4),
        optim=OptimConfig(lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0, warmup_steps=50, clip_norm=1.0),
        kl_weight=1e-6,
    )


def decoder() -> RunConfig:
    """The visual decoder: denoise a picture's latents given its own embeddings; the U-Net trains (section 2.2.3)."""
    return RunConfig(
        name="decoder",
        objective="decoder",
        parts=("unet",),
        steps=1200,
        data=_data({"pair": 1.0}, batch_size=16, pool=4000),
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01, warmup_steps=50, clip_norm=1.0),
        diffusion=DiffusionConfig(timestep_power=4.0),
        ema_decay=0.99,
    )


def video_decoder() -> RunConfig:
    """The video decoder: denoise a clip's latents given its embeddings; all of it is new, so all of it trains."""
    return RunConfig(
        name="video_decoder",
        objective="video_decoder",
        parts=("video_unet",),
        steps=600,
        data=_data({"video_pair": 1.0}, batch_size=4, frames=(8,), frame_choice="uniform"),
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01, warmup_steps=50, clip_norm=1.0),
        diffusion=DiffusionConfig(timestep_power=4.0),
        ema_decay=0.99,
    )


def chat() -> RunConfig:
    """Instruction tuning to answer: cross entropy on the answers alone (section 2.3.1)."""
    return RunConfig(
        name="chat",
        objective="chat",
        parts=("bridge", "language"),
        steps=600,
        data=_data({"chat": 1.0}, batch_size=16, frames=(2, 3, 4), frame_choice="uniform"),
        optim=OptimConfig(lr=1e-3, betas=(0.9, 0.98), warmup_steps=20, clip_norm=1.0),
    )


def gen() -> RunConfig:
    """Instruction tuning to draw: regression of the last picture alone (section 2.3.2)."""
    return RunConfig(
        name="gen",
        objective="gen",
        parts=("bridge", "language"),
        steps=600,
        data=_data(
            {"text_to_image": 0.4, "grounded_generation": 0.2, "composition": 0.2, "edit": 0.2},
            mode="one_kind",
            batch_size=16,
        ),
        optim=OptimConfig(lr=1e-3, warmup_steps=20, clip_norm=1.0),
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {
    "vision": vision,
    "language": language,
    "caption": caption,
    "unified": unified,
    "autoencoder": autoencoder,
    "decoder": decoder,
    "video_decoder": video_decoder,
    "chat": chat,
    "gen": gen,
}
