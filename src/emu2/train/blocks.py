"""The transformer blocks of a whole Emu2: what is recomputed, compiled and sharded as a unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from emu2.train.trainable import part_modules

if TYPE_CHECKING:
    from emu2.train.whole import Whole

#: Block classes of diffusers' U-Nets, named rather than imported: importing them takes seconds.
_UNET_BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D", "TemporalConvLayer", "PassingConvolution")


def transformer_blocks(whole: Whole) -> dict[str, list[nn.Module]]:
    """Part -> its repeated blocks in the order they run: layers of the language model and of the vision tower, and the
    transformer and residual blocks of the U-Nets. Parts without such blocks (VAE, bridge) are left out."""
    model = whole.model.model
    blocks: dict[str, list[nn.Module]] = {
        "vision": list(model.visual.blocks),
        "language": list(model.language_model.layers),
    }
    if whole.text_tower is not None:
        blocks["text_tower"] = list(whole.text_tower.encoder.encoder.layer)
    for part, modules in part_modules(whole).items():
        if part in ("unet", "video_unet"):
            inner = [block for _, module in modules for block in module.modules()]
            blocks[part] = [block for block in inner if type(block).__name__ in _UNET_BLOCKS]
    return blocks


def checkpoint_activations(whole: Whole) -> None:
    """Keep only what goes into each block, and compute it again in the backward pass.

    The libraries' own switch, where they have one: it acts in training mode, so frozen parts are untouched.
    """
    modules: list[Any] = whole.modules()
    for module in modules:
        # transformers calls it by the second name up to 5.22
        switch = getattr(module, "activation_checkpointing_enable", None)
        older = getattr(module, "gradient_checkpointing_enable", None)
        if switch is not None:
            switch(activation_checkpointing_kwargs={"use_reentrant": False})
        elif older is not None:
            older(gradient_checkpointing_kwargs={"use_reentrant": False})
        elif getattr(module, "_supports_gradient_checkpointing", False):
            module.enable_gradient_checkpointing()
    for block in transformer_blocks(whole).get("video_unet", []):
        _recompute(block)


def _recompute(block: nn.Module) -> None:
    """Do as the libraries' switch does, for the blocks of the video U-Net, which has none."""
    plain = block.forward

    def forward(*args: Any, **settings: Any) -> Any:
        if block.training and torch.is_grad_enabled():
            return checkpoint(plain, *args, use_reentrant=False, **settings)
        return plain(*args, **settings)

    block.forward = forward  # type: ignore[method-assign]


def compile_blocks(whole: Whole, backend: str = "inductor") -> None:
    """Let torch.compile fuse every block, in place: parameter names stay, and equal blocks share one compilation."""
    for blocks in transformer_blocks(whole).values():
        for block in blocks:
            block.compile(backend=backend)
