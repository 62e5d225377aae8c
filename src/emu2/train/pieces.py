"""Tensors that several processes hold in pieces (DTensors), seen from one of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """The piece of a tensor that this process holds; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def layout(tensor: Tensor) -> Any:
    """What tensors must have in common to be handled in one operation: None where all of it is here."""
    return tensor.device_mesh if isinstance(tensor, DTensor) else None


def full(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered; every process that holds a piece must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether FSDP2 manages it."""
    return isinstance(tensor, DTensor) and "shard" in (tensor.device_mesh.mesh_dim_names or ())


def once(module: nn.Module) -> dict[str, Tensor]:
    """What a module's state dict holds, tied parameters once."""
    first = {name for name, _ in module.named_parameters()}
    every = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return {name: tensor.detach() for name, tensor in module.state_dict().items() if name in first or name not in every}
