"""Where a module works, and in which precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Not public, but the only way to ask; diffusers' own pipelines do the same.
from diffusers.hooks.group_offloading import _get_group_onload_device
from torch import nn


def execution_device(module: nn.Module) -> torch.device:
    """Where a module's inputs belong: with offloading that is not where its weights lie at the moment.

    Knows accelerate's hooks (model and sequential offload, device maps) and diffusers' own (group offload).
    """
    try:
        return torch.device(_get_group_onload_device(module))
    except ValueError:  # no group offload here
        pass
    for submodule in module.modules():
        device = getattr(getattr(submodule, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(module.parameters()).device


@contextmanager
def working_dtype(module: Any, dtype: torch.dtype) -> Iterator[None]:
    """Have a module in another dtype for a while; it gets its own back, also after an error."""
    before = module.dtype
    if before == dtype:
        yield
        return
    module.to(dtype)
    try:
        yield
    finally:
        module.to(before)
