"""The trained whole as a folder, written by all the processes that hold it: nobody gathers it.

Each process writes its pieces of a sharded part, and the first joins them file by file on disk, so that no process
ever holds more than one piece of one tensor beyond its own. The folder is the one that `Whole.save` writes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from emu2.train.distributed import World
from emu2.train.pieces import once

if TYPE_CHECKING:
    from emu2.train.whole import Whole

#: Bytes of one file, as the libraries' own writers split them.
_FILE_BYTES = 5 << 30
#: Names that torch gives the joined files.
_STEM, _INDEX = "model", "model.safetensors.index.json"


def save_whole(whole: Whole, folder: str | Path, world: World) -> None:
    """Write the whole; every process calls it."""
    folder = Path(folder)
    for module in whole.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    split = [module for module in whole.modules() if any(isinstance(p, DTensor) for p in module.parameters())]
    places: dict[int, str] = {}
    with _weights_left_out(split, places):
        if world.main:
            whole.save(folder)
    told: list[str | None] | None = world.first([places.get(id(module)) for module in split] if world.main else None)
    for module, place in zip(split, told or [], strict=True):
        if place is not None:
            _write_pieces(module, Path(place), world)
    world.wait()


@contextmanager
def _weights_left_out(modules: list[nn.Module], places: dict[int, str]) -> Iterator[None]:
    """While it is entered, `save_pretrained` of these writes all but the weights, and notes where they belong."""
    classes = [type(module) for module in modules]
    for module, own in zip(modules, classes, strict=True):
        # Under its library's name: FSDP2 gives a module a class of its own.
        plain: Any = next(c for c in own.__mro__ if not issubclass(c, FSDPModule))
        module.__class__ = plain
        module.save_pretrained = _describe(module, places)  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, own in zip(modules, classes, strict=True):
            del module.save_pretrained
            module.__class__ = own


def _describe(module: Any, places: dict[int, str]) -> Any:
    def save_pretrained(save_directory: str | Path, **_: Any) -> None:
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        places[id(module)] = str(folder)
        if hasattr(module, "save_config"):  # diffusers
            module.save_config(folder)
            return
        module.config.architectures = [type(module).__name__]
        module.config.dtype = module.dtype
        module.config.save_pretrained(folder)
        if module.can_generate():
            module.generation_config.save_pretrained(folder)

    return save_pretrained


def _write_pieces(module: nn.Module, folder: Path, world: World) -> None:
    """All weights of one module, joined into files of the names its library looks for."""
    weights = once(module)
    numbers, written = {}, 0
    for name, tensor in weights.items():
        numbers[name] = 1 + written // _FILE_BYTES
        written += tensor.numel() * tensor.element_size()
    writer = HuggingFaceStorageWriter(
        str(folder), fqn_to_index_mapping=numbers, save_distributed=True, enable_consolidation=True
    )
    dcp.save(dict(weights), storage_writer=writer, process_group=world.checkpoint_group)
    if not world.main:
        return
    shutil.rmtree(folder / "sharded")
    stem = "diffusion_pytorch_model" if hasattr(module, "save_config") else _STEM
    index = json.loads((folder / _INDEX).read_text())
    (folder / _INDEX).unlink()
    names = {name: name.replace(_STEM, stem, 1) for name in set(index["weight_map"].values())}
    if len(names) == 1:
        names = dict.fromkeys(names, f"{stem}.safetensors")
    else:
        index["weight_map"] = {tensor: names[name] for tensor, name in index["weight_map"].items()}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2))
    for name, wanted in names.items():
        (folder / name).rename(folder / wanted)
