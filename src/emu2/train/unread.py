"""A model whose weights nobody has read yet: each process will read its own pieces, and never holds the whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from emu2.train.pieces import once

if TYPE_CHECKING:
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
    from emu2.train.config import RunConfig


def reads_in_pieces(config: RunConfig, processes: int) -> bool:
    """Whether a run's processes read the model piece by piece: what changes a weight's shape or adds one needs it all.

    Those are a resolution (positions are resized), chat (tokens are added), and adapters.
    """
    changes = config.resolution is not None or config.objective == "chat" or config.lora is not None
    return processes > 1 and config.parallel.shard == "full" and not changes


def unread_model(folder: Path, dtype: torch.dtype) -> Emu2ForConditionalGeneration | None:
    """The model of a folder with its parameters on the meta device; None where the files hold other names than ours."""
    from accelerate import init_empty_weights
    from transformers import GenerationConfig

    from emu2.configuration import Emu2Config
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration

    with init_empty_weights(include_buffers=False):
        model = Emu2ForConditionalGeneration._from_config(Emu2Config.from_pretrained(folder), dtype=dtype)
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            names |= set(opened.keys())
    if not set(once(model)) <= names:
        return None
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def make_room(module: nn.Module, device: torch.device, *, offload: bool) -> None:
    """Memory for parameters on the meta device, on `device`; for the pieces of split ones on the host if `offload`."""

    def room(tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        return torch.empty_like(tensor, device="cpu" if offload and isinstance(tensor, DTensor) else device)

    module._apply(room)


@torch.no_grad()
def read_pieces(module: nn.Module, folder: Path, group: Any) -> None:
    """Fill a module from a folder's safetensors, each process the pieces it holds; every process calls it."""
    import torch.distributed.checkpoint as dcp

    dcp.load(dict(once(module)), storage_reader=dcp.HuggingFaceStorageReader(str(folder)), process_group=group)
