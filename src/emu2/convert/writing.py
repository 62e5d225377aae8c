"""Writing weight files: what goes in is a list of tensors to be made one by one, what comes out is files and an index.

The tensors may live in a model or still lie in another checkpoint; at most one file's worth of them is in memory.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file
from torch import Tensor

from emu2.model.key_map import Piece, Scheme, Written, plan_writing
from emu2.model.pretrained import check_finite, take_piece
from emu2.model.weight_files import PICKLE_SUFFIXES, SAFETENSORS_SUFFIX, Checkpoint, TensorInfo


@dataclass(frozen=True)
class Outgoing:
    """A tensor to be written: its name in the file, its description, and how to make it."""

    name: str
    info: TensorInfo
    make: Callable[[], Tensor]
    is_parameter: bool = True

    @property
    def nbytes(self) -> int:
        return self.info.numel * self.info.dtype.itemsize


def outgoing_of_module(
    module: torch.nn.Module, *, prefix: str = "", rename: Callable[[str], str] = str, dtype: torch.dtype | None = None
) -> list[Outgoing]:
    """Every tensor of a module's state dict, renamed and prefixed."""
    return [
        _from_tensor(prefix + rename(name), tensor, dtype)
        for name, tensor in module.state_dict(keep_vars=False).items()
    ]


def outgoing_of_model(
    model: Any, scheme: Scheme, *, prefix: str = "", dtype: torch.dtype | None = None, inv_freq: bool = True
) -> list[Outgoing]:
    """Every tensor of an `Emu2ForConditionalGeneration` in a naming scheme and its published order.

    Args:
        model: the model, also on the meta device (then only names and shapes can be had).
        scheme: "ours", "native" or "hf".
        prefix: put before every name ("multimodal_encoder." in image-generation files).
        dtype: to cast floating point parameters to; None keeps them.
        inv_freq: also write the rotary tables, float32, that published files hold. They exist for LLaMA with plain
            rotary positions, the only published language model.
    """
    state = model.state_dict()
    if model.config.tie_word_embeddings and scheme == "ours":
        state.pop("lm_head.weight", None)
    table = rotary_table(model.config.text_config)
    plan = plan_writing(state, scheme, inv_freq=inv_freq and table is not None)
    return [_from_plan(entry, state, prefix, dtype, table) for entry in plan]


def rotary_table(text_config: Any) -> Tensor | None:
    """`inv_freq` float32[head_dim / 2] as transformers 4.31 kept it in every layer; None for other language models."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    if text_config.model_type != "llama" or rope.get("rope_type", "default") != "default":
        return None
    head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    steps = torch.arange(0, head_dim, 2, device="cpu").float() / head_dim
    return 1.0 / (rope.get("rope_theta", 10000.0) ** steps)


def _from_tensor(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Outgoing:
    target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    return Outgoing(name, TensorInfo(tuple(tensor.shape), target), lambda: _to_host(name, tensor, target))


def _to_host(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.is_meta:
        raise ValueError(
            f"{name} has no values: the model is on the meta device or offloaded to disk. Load it fully first."
        )
    return tensor.detach().to("cpu", dtype)


def _from_plan(
    entry: Written, state: dict[str, Tensor], prefix: str, dtype: torch.dtype | None, table: Tensor | None
) -> Outgoing:
    name = prefix + entry.name
    if entry.kind == "inv_freq":
        assert table is not None
        return Outgoing(name, TensorInfo(tuple(table.shape), table.dtype), table.clone, is_parameter=False)
    if entry.kind == "fused_bias":
        query, value = (state[source] for source in entry.sources)
        target = dtype or query.dtype

        def fuse() -> Tensor:
            return _to_host(name, torch.cat([query, torch.zeros_like(query), value]), target)

        return Outgoing(name, TensorInfo((3 * query.shape[0],), target), fuse)
    return _from_tensor(name, state[entry.sources[0]], dtype)


def outgoing_of_checkpoint(
    checkpoint: Checkpoint, pieces: dict[str, Piece], dtype: torch.dtype | None, *, finite: bool = True
) -> list[Outgoing]:
    """Tensors that still lie in another checkpoint, under new names; each is read when it is written."""

    def describe(name: str, piece: Piece) -> Outgoing:
        info = checkpoint.infos[piece.source]
        shape = info.shape if piece.part == "whole" else (info.shape[0] // 3,)
        target = dtype if dtype is not None and info.dtype.is_floating_point else info.dtype

        def make() -> Tensor:
            tensor = take_piece(piece, checkpoint.read(piece.source))
            if finite:
                check_finite(piece.source, tensor, checkpoint.source)
            return tensor.to(target, copy=True)

        return Outgoing(name, TensorInfo(shape, target), make)

    return [describe(name, piece) for name, piece in pieces.items()]


def check_suffix(path: Path) -> None:
    if path.suffix not in (SAFETENSORS_SUFFIX, *PICKLE_SUFFIXES):
        raise ValueError(f"{path}: weights are written as .safetensors or .bin; got the suffix {path.suffix!r}.")


def write_file(tensors: Iterable[Outgoing], path: Path) -> None:
    """Write one `.safetensors` or `.bin` file; it appears under its name only when it is complete.

    Raises:
        ValueError: another suffix, or a tensor has no values (a model on the meta device or offloaded to disk).
    """
    check_suffix(path)
    made: dict[str, Tensor] = {}
    storages: set[int] = set()
    for item in tensors:
        tensor = item.make().contiguous()
        if tensor.untyped_storage().data_ptr() in storages or tensor.untyped_storage().nbytes() != item.nbytes:
            tensor = tensor.clone()  # tied weights, and views into something larger, must not share or drag it along
        storages.add(tensor.untyped_storage().data_ptr())
        made[item.name] = tensor
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    if path.suffix == SAFETENSORS_SUFFIX:
        save_file(made, partial, metadata={"format": "pt"})
    else:
        torch.save(made, partial)
    os.replace(partial, path)


def write_shards(
    tensors: Sequence[Outgoing],
    folder: Path,
    pattern: str,
    *,
    index_names: Sequence[str],
    max_shard_size: int | str = "10GB",
    always_shard: bool = False,
) -> list[Path]:
    """Write `tensors` in order into files of at most `max_shard_size` and their index.

    Args:
        tensors: what to write.
        folder: where.
        pattern: file name with `{suffix}`, filled with "-00001-of-00015", or with nothing for a single file.
        index_names: names to write the index under (Emu2-Gen has two); no index is written for a single file.
        max_shard_size: bytes, or "10GB" (10 ** 10, transformers' rule of the published folders).
        always_shard: number and index a single file too, as published folders do.

    Returns:
        The weight files.
    """
    by_name = {item.name: item for item in tensors}
    split = split_state_dict_into_shards_factory(
        by_name,
        get_storage_size=lambda item: item.nbytes,
        filename_pattern=pattern,
        max_shard_size=max_shard_size,
    )
    files = dict(split.filename_to_tensors)
    if always_shard and len(files) == 1:
        files = {pattern.format(suffix="-00001-of-00001"): next(iter(files.values()))}
    for file_name, members in files.items():
        write_file((by_name[name] for name in members), folder / file_name)
    if len(files) > 1 or always_shard:
        weight_map = {name: file_name for file_name, members in files.items() for name in members}
        index = {"metadata": {"total_size": sum(item.nbytes for item in tensors)}, "weight_map": weight_map}
        for index_name in index_names:
            (folder / index_name).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [folder / file_name for file_name in files]
