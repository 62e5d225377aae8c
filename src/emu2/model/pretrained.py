"""Loading weights into `Emu2ForConditionalGeneration`: our folders and the published Hugging Face ones.

`from_pretrained` recognises what it is given. Weights stream: names and shapes are checked against the model first,
then each tensor is read, converted and placed on its own, with one shard mapped at a time, so the host holds the
model where it must live there, and at most one shard beside it. The placing itself is transformers' own, hence
`dtype`, `device_map`, `quantization_config`, `tp_plan` and the rest work for every kind of file alike.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from emu2.configuration import Emu2Config
from emu2.model.key_map import Piece, ReadingPlan, plan_reading, recognise_scheme
from emu2.model.published_config import is_published_config, published_to_config
from emu2.model.runtime import resolve_device, resolve_dtype
from emu2.model.weight_files import (
    INDEX_NAMES,
    PICKLE_SUFFIXES,
    SAFETENSORS_SUFFIX,
    SINGLE_NAMES,
    Checkpoint,
    TensorInfo,
    open_checkpoint,
)

_PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")
#: from_pretrained arguments that ask for something beyond loading the plain weights of a folder.
_LEFT_TO_TRANSFORMERS = ("variant", "gguf_file", "state_dict", "ignore_mismatched_sizes", "key_mapping")
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


class LazyTensor:
    """One tensor of a checkpoint, or a third of one, read when indexed.

    It offers what transformers' loader asks of a safetensors slice: `get_shape`, `get_dtype` and `[...]`. What `[...]`
    returns shares no memory with the file once it is cast to `dtype`, so the shard can be let go.
    """

    def __init__(self, checkpoint: Checkpoint, piece: Piece, dtype: torch.dtype, *, check_finite: bool):
        self.checkpoint = checkpoint
        self.piece = piece
        self.dtype = dtype
        self.check_finite = check_finite
        self.info = piece_info(piece, checkpoint.infos[piece.source])

    def get_shape(self) -> list[int]:
        return list(self.info.shape)

    def get_dtype(self) -> str:
        return {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}.get(self.info.dtype, "F64")

    def __getitem__(self, index: Any) -> Tensor:
        tensor = take_piece(self.piece, self.checkpoint.read(self.piece.source))[index]
        if self.check_finite:
            check_finite(self.piece.source, tensor, self.checkpoint.source)
        return tensor.clone() if tensor.dtype == self.dtype else tensor


def piece_info(piece: Piece, info: TensorInfo) -> TensorInfo:
    """Shape and dtype of a piece of a tensor described by `info`."""
    if piece.part == "whole":
        return info
    return TensorInfo((info.shape[0] // 3, *info.shape[1:]), info.dtype)


def take_piece(piece: Piece, tensor: Tensor) -> Tensor:
    """The whole tensor, or the query (first) or value (last) third of a fused bias [3D]."""
    if piece.part == "whole":
        return tensor
    third = tensor.shape[0] // 3
    return tensor[:third] if piece.part == "query" else tensor[2 * third :]


def check_finite(name: str, tensor: Tensor, source: str | Path) -> None:
    """Raise ValueError naming the tensor when it holds NaN or infinity.

    A finite sum proves that every number is finite and costs one pass without a copy; only a sum that is not (which
    may be an overflow) is looked at number by number.
    """
    if not tensor.is_floating_point() or tensor.numel() == 0 or bool(tensor.sum(dtype=torch.float32).isfinite()):
        return
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{source}: tensor {name!r} holds {bad} value(s) that are NaN or infinite, of {tensor.numel()}. "
            "The file is damaged or comes from a run that diverged; pass check_finite=False to load it anyway."
        )


def check_listing(
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    *,
    source: str | Path,
    unexpected: Iterable[str] = (),
    optional: Iterable[str] = (),
    rename: Any = str,
) -> None:
    """Compare the tensors a model needs with those a file has, before any is read.

    Args:
        wanted: name -> shape in the model.
        found: name -> shape in the file, under the same names.
        source: the file, for the message.
        unexpected: further names of the file that match nothing.
        optional: names that may be missing (tied weights).
        rename: turns a name into the one the file uses, for the message.

    Raises:
        ValueError: one message with the number and the first few of the missing, unexpected and misshapen tensors.
    """
    optional = set(optional)
    missing = [rename(name) for name in wanted if name not in found and name not in optional]
    extra = [*unexpected, *(rename(name) for name in found if name not in wanted)]
    wrong = [
        f"{rename(name)} is {list(shape)} in the file and {list(wanted[name])} in the model"
        for name, shape in found.items()
        if name in wanted and tuple(shape) != tuple(wanted[name])
    ]
    complaints = [
        f"{len(items)} tensor(s) {what}: {', '.join(items[:4])}{', ...' if len(items) > 4 else ''}"
        for items, what in ((missing, "missing"), (extra, "unexpected"), (wrong, "of a wrong shape"))
        if items
    ]
    if complaints:
        raise ValueError(
            f"{source} does not fit the model. {'. '.join(complaints)}. Check the configuration and the variant."
        )


def meta_model(cls: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    """The model without storage: names and shapes only (the 37B model takes half a second)."""
    with torch.device("meta"):
        return cls(config)


def load_weights(
    cls: type[PreTrainedModel],
    config: Any,
    checkpoint: Checkpoint,
    plan: ReadingPlan,
    *,
    dtype: torch.dtype,
    check_finite: bool = True,
    made: Mapping[str, Any] | None = None,
    fresh: Iterable[str] = (),
    **kwargs: Any,
) -> Any:
    """A model with the weights of a checkpoint, strictly: every tensor there, none left over, every shape right.

    Args:
        cls: the model class; config: its configuration.
        checkpoint: the opened files; plan: what of them goes where.
        dtype: of the loaded weights.
        check_finite: refuse NaN and infinity.
        made: further tensors by our names, beside those of the plan.
        fresh: our names that may be missing and are then initialised as in a new model.
        **kwargs: passed on to transformers (`device_map`, `quantization_config`, `output_loading_info`, ...).

    Raises:
        ValueError: names, shapes or values are wrong; the message names the tensors.
    """
    empty = meta_model(cls, config)
    wanted = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    found = {
        name: piece_info(piece, checkpoint.infos[piece.source]).shape
        for name, piece in plan.pieces.items()
        if piece.source in checkpoint.infos
    }
    found.update({name: tuple(tensor.shape) for name, tensor in (made or {}).items()})
    check_listing(
        wanted,
        found,
        source=checkpoint.source,
        unexpected=plan.unknown,
        optional={*getattr(empty, "all_tied_weights_keys", {}), *fresh},
        rename=plan.source_name,
    )
    state_dict = {
        name: LazyTensor(checkpoint, piece, dtype, check_finite=check_finite) for name, piece in plan.pieces.items()
    }
    state_dict.update(made or {})
    try:
        # Without a folder, `PublishedCheckpointMixin` hands the call on to transformers.
        return cls.from_pretrained(None, config=config, state_dict=state_dict, dtype=dtype, **kwargs)
    finally:
        checkpoint.close()


class PublishedCheckpointMixin:
    """`from_pretrained` that also recognises published folders, and checks what it loads. First among the bases."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, check_finite: bool = True, **kwargs: Any
    ) -> Any:
        """Load from a folder of ours, of published Emu2 or Emu2-Chat, or from Emu2-Gen's `multimodal_encoder/`.

        Args:
            pretrained_model_name_or_path: the folder (or a hub name, which transformers resolves).
            check_finite: refuse weights with NaN or infinity.
            **kwargs: as in transformers: `dtype` (also by short name, "bf16"; left out: as stored in the config),
                `device_map` ("auto", a dict, or a device), `quantization_config`, `attn_implementation`,
                `output_loading_info`, `subfolder`, and configuration fields to override. `variant` is not needed for
                published folders: each holds its weights once.

        Raises:
            FileNotFoundError: no such folder, no weights in it, or shards missing (they are named).
            ValueError: not a model folder, names, shapes or values of its weights are wrong, or an argument that
                a published folder cannot be loaded with.
        """
        if kwargs.get("torch_dtype") is not None:
            kwargs.setdefault("dtype", kwargs["torch_dtype"])
        kwargs.pop("torch_dtype", None)
        if isinstance(kwargs.get("dtype"), str) and kwargs["dtype"] != "auto":
            kwargs["dtype"] = resolve_dtype(kwargs["dtype"])
        _check_device_map(kwargs.get("device_map"))
        upstream = super().from_pretrained  # type: ignore[misc]
        if pretrained_model_name_or_path is None:
            return upstream(None, *model_args, **kwargs)
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            _check_is_no_path(folder, str(pretrained_model_name_or_path))
            fetched = fetch_published(str(pretrained_model_name_or_path), **kwargs)
            if fetched is None:
                return upstream(pretrained_model_name_or_path, *model_args, **kwargs)
            folder = fetched
        if (folder / "adapter_config.json").is_file():
            return upstream(pretrained_model_name_or_path, *model_args, **kwargs)

        folder = folder / (kwargs.get("subfolder") or "")
        fields = read_folder_config(folder)
        published = is_published_config(fields)
        special = [name for name in _LEFT_TO_TRANSFORMERS if kwargs.get(name)]
        if published:
            _check_published_arguments(folder, special)
            kwargs.pop("variant", None)
        elif special:
            return upstream(pretrained_model_name_or_path, *model_args, **kwargs)
        config = kwargs.pop("config", None)
        if not isinstance(config, Emu2Config):
            config = published_to_config(fields) if published else Emu2Config.from_dict(fields)
            _override(config, kwargs)
        if getattr(config, "quantization_config", None) is not None:
            return upstream(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

        kwargs.pop("subfolder", None)
        checkpoint = open_checkpoint(folder)
        plan = plan_reading(checkpoint, recognise_scheme(checkpoint) or ("hf" if published else "ours"))
        dtype = kwargs.pop("dtype", None)
        if dtype in (None, "auto"):
            stored = getattr(config, "dtype", None)
            dtype = resolve_dtype(stored) if stored is not None else checkpoint.main_dtype()
        if "generation_config" not in kwargs and (folder / "generation_config.json").is_file():
            kwargs["generation_config"] = GenerationConfig.from_pretrained(folder)
        loaded = load_weights(cls, config, checkpoint, plan, dtype=dtype, check_finite=check_finite, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.config.name_or_path = model.name_or_path = str(folder)
        return loaded


def fetch_published(name: str, **kwargs: Any) -> Path | None:
    """The local copy of a published folder that is given by its name on the hub, fetched where it is not there yet.

    Args:
        name: such as "BAAI/Emu2-Chat".
        **kwargs: of these `subfolder` and the arguments of a download count (`revision`, `token`, `cache_dir`, ...).

    Returns:
        the folder that holds `subfolder`; None where the name is not that of a published Emu2, or cannot be reached
        (transformers then says why).
    """
    options = {key: kwargs[key] for key in _HUB_ARGUMENTS if kwargs.get(key) is not None}
    subfolder = kwargs.get("subfolder") or None
    try:
        config = Path(hf_hub_download(name, "config.json", subfolder=subfolder, **options))
        if not is_published_config(json.loads(config.read_text(encoding="utf-8"))):
            return None
    except (OSError, ValueError):
        return None
    # Without the Python files: nothing of them is run.
    wanted = f"{subfolder}/*" if subfolder else "*"
    return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns="*.py", **options))


def read_folder_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model folder.

    Raises:
        ValueError: the folder is no Emu2 model folder; says what was looked for and what is there.
    """
    path = folder / "config.json"
    if not path.is_file():
        here = sorted(entry.name for entry in folder.iterdir())
        hint = ""
        if "model_index.json" in here:
            hint = " It is a diffusers pipeline: open it with Emu2ImagePipeline, or give its multimodal_encoder folder."
        elif any(Path(name).suffix in (SAFETENSORS_SUFFIX, *PICKLE_SUFFIXES) for name in here):
            hint = " For a published native file use emu2.convert.load_native(file, variant=...)."
        raise ValueError(
            f"{folder} is not a model folder: looked for config.json beside weights "
            f"({', '.join((*INDEX_NAMES[:2], *SINGLE_NAMES[:1], INDEX_NAMES[3]))}); found "
            f"{', '.join(here[:8]) or 'nothing'}{', ...' if len(here) > 8 else ''}.{hint}"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not is_published_config(fields) and fields.get("model_type") != Emu2Config.model_type:
        raise ValueError(
            f"{folder} is not an Emu2 model: its config.json has model_type {fields.get('model_type')!r} and "
            f"architectures {fields.get('architectures')!r}; expected model_type 'emu2', or 'EmuForCausalLM' among "
            "the architectures."
        )
    return fields


def _override(config: Emu2Config, kwargs: dict[str, Any]) -> None:
    """Move the keyword arguments that are fields of the configuration into it, as transformers does."""
    reserved = {"dtype", "attn_implementation", "quantization_config"}
    for name in [name for name in kwargs if name not in reserved and hasattr(config, name)]:
        setattr(config, name, kwargs.pop(name))
    config.check_num_query(config.num_query, name="num_query")
    config.check_num_query(config.num_video_query, name="num_video_query")


def _check_published_arguments(folder: Path, special: list[str]) -> None:
    """Only transformers' own loader knows these arguments, and it would build another model from a published config."""
    refused = [name for name in special if name != "variant"]
    if refused:
        raise ValueError(
            f"{folder} is a published folder, which loads without {', '.join(refused)}. Convert it once (emu2 convert "
            "load FOLDER OUT), and load that with them."
        )


def _check_device_map(device_map: Any) -> None:
    if isinstance(device_map, str) and device_map not in _PLACEMENTS:
        resolve_device(device_map)
    elif isinstance(device_map, Mapping):
        for device in device_map.values():
            if device != "disk":
                resolve_device(device)


def _check_is_no_path(folder: Path, given: str) -> None:
    """A hub name is `owner/name`; anything else that is not there is a mistyped path."""
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file; from_pretrained takes a folder. For a published native file use "
            "emu2.convert.load_native(file, variant=...)."
        )
    if folder.is_absolute() or len(folder.parts) != 2 or given.startswith((".", "~")):
        raise FileNotFoundError(f"There is no folder {given}, and a name on the Hugging Face hub is OWNER/NAME.")
