"""How a whole Emu2 is split over processes: FSDP2 by blocks, tensor parallelism for the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from emu2.train.blocks import transformer_blocks
from emu2.train.pieces import is_sharded
from emu2.train.settings import ParallelConfig

if TYPE_CHECKING:
    from emu2.train.whole import Whole

#: Methods besides `forward` by which the objectives enter a module.
_ENTRIES = {
    "model": ("encode_image", "embed_inputs", "generate_visual"),
    "text_tower": ("embed_text", "embed_vision"),
    "vae": ("encode", "decode"),
    "video_vae": ("encode", "decode"),
    "unet": (),
    "video_unet": (),
}


def shard_whole(whole: Whole, mesh: DeviceMesh, parallel: ParallelConfig, autocast: str | None) -> None:
    """Split what trains over the mesh's data dimensions; with shard=full the language model in any case.

    Each transformer (or residual) block is one unit, and what is left of a part another. A part is one root, entered
    by its forward and by the methods above, so that the next block's parameters travel while one computes.
    """
    settings: dict[str, Any] = {
        "mesh": mesh["shard"] if mesh["replicate"].size() == 1 else mesh["replicate", "shard"],
        "reshard_after_forward": True,
        # Autocast casts the inputs of each layer as it needs them; the parameters travel in the type of the compute.
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=getattr(torch, autocast) if autocast else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        ),
    }
    if parallel.cpu_offload and mesh.device_type != "cpu":
        settings["offload_policy"] = CPUOffloadPolicy()
    # FSDP2 cannot split a scalar, and need not gather what never changes.
    ignored = {p for module in _kept_whole(whole, parallel) for p in module.parameters()}
    ignored |= {p for module in whole.modules() for p in module.parameters() if p.ndim == 0}
    units = [block for blocks in transformer_blocks(whole).values() for block in blocks] + _further_units(whole)
    for unit in units:
        first = unit[0] if isinstance(unit, list) else unit
        if any(p not in ignored and not is_sharded(p) for p in first.parameters()):
            fully_shard(unit, ignored_params=ignored, **settings)
    for name, methods in _ENTRIES.items():
        root = getattr(whole, name)
        if root is None or all(p in ignored for p in root.parameters()):
            continue
        fully_shard(root, ignored_params=ignored, **settings)
        for method in methods:
            register_fsdp_forward_method(root, method)


def _kept_whole(whole: Whole, parallel: ParallelConfig) -> list[nn.Module]:
    """Frozen modules that every rank holds."""
    inner = whole.model.model
    modules = [inner.visual, inner.project_up, inner.project_down]
    modules += [m for m in whole.modules() if m is not whole.model]
    if parallel.shard == "none":
        modules += [inner.language_model, whole.model.lm_head]
    return [m for m in modules if not any(p.requires_grad for p in m.parameters())]


def _further_units(whole: Whole) -> list[Any]:
    """Units beside the repeated blocks, inner ones first."""
    model, inner = whole.model, whole.model.model
    embed, head = model.get_input_embeddings(), model.lm_head
    # Tied matrices are one parameter, which one unit must own.
    ends: list[Any] = [[embed, head]] if embed.weight is head.weight else [embed, head]
    units = [inner.visual, inner.project_up, inner.project_down, *ends, inner.language_model]
    for part in (whole.vae, whole.video_vae, whole.text_tower):
        # Entered several times in a step, like the model, so nothing is left to the root: children are entered once.
        units += [] if part is None else [child for child in part.children() if any(True for _ in child.parameters())]
    return units


def split_layers(whole: Whole, mesh: DeviceMesh) -> None:
    """Split the language model's layers over a mesh of one dimension, as its configuration says they can be.

    Raises:
        ValueError: its configuration does not say how, or heads do not divide.
    """
    config, parts = whole.model.config.text_config, mesh.size()
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, name, None) or config.num_attention_heads
        if heads % parts:
            raise ValueError(
                f"parallel.tensor={parts} does not divide the language model's {name}={heads}; use one of "
                f"{[n for n in range(1, heads + 1) if heads % n == 0]}."
            )
    language_model = whole.model.model.language_model
    if any("lora_" in name for name, _ in language_model.named_parameters()):
        raise ValueError("parallel.tensor splits plain layers only: train adapters (lora) with parallel.tensor=1.")
    styles = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
    wanted = getattr(config, "base_model_tp_plan", None) or {}
    plan: dict[str, ParallelStyle] = {name: styles[kind]() for name, kind in wanted.items() if kind in styles}
    if not plan or len(plan) != len(wanted):
        raise ValueError(
            f"The language model {config.model_type!r} cannot be split by layers (its plan: {wanted}); use "
            "parallel.tensor=1."
        )
    parallelize_module(language_model, mesh, plan)


def leave_on_device(module: nn.Module, device: torch.device) -> None:
    """Move what no mesh manages: frozen parts, scalars, buffers."""
    for inner in module.modules():
        for parameter in inner._parameters.values():
            if parameter is not None and not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(device)
        for name, buffer in inner._buffers.items():
            if buffer is not None:
                inner._buffers[name] = buffer.to(device)
