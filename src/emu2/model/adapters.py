"""Low-rank adapters (LoRA, through PEFT) on the language model and the bridge: add, save, load, merge, take apart.

An adapter's folder is PEFT's own form, so `peft.PeftModel.from_pretrained(model, folder)` reads it too:

    adapter_config.json, adapter_model.safetensors, and of a training run also processor/

In memory adapters sit in the model's layers; the model stays an `Emu2ForConditionalGeneration`, and everything that
takes one (pipelines, generation, training) works as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

if TYPE_CHECKING:
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
#: Beside the two files, where the processor was changed with the model.
PROCESSOR_FOLDER = "processor"
#: PEFT writes names as they are below its own wrapper.
_PREFIX = "base_model.model."
_ADAPTER = "default"


def add_lora(
    model: Emu2ForConditionalGeneration,
    rank: int,
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Put fresh adapters beside linear layers; they change nothing until trained.

    Args:
        rank: of the two factors.
        alpha: their product counts alpha / rank times; None is twice the rank.
        dropout: of what goes into the factors.
        targets: ends of layer names; empty is every linear layer of the language model's blocks, its head, and the
            bridge. (PEFT usually leaves the head out; but small models are asked for words they never said, whose rows
            in the head are as they were drawn.)
        seed: of the first factor's values (the second is zero).

    Raises:
        ValueError: the model has adapters already, or no layer is called so.
    """
    from peft import LoraConfig

    if has_adapter(model):
        raise ValueError("This model has an adapter already; merge it (fold_adapter) before adding another.")
    wanted = re.compile(_target_pattern(model, targets))
    if not any(wanted.fullmatch(name) for name, module in model.named_modules() if isinstance(module, nn.Linear)):
        raise ValueError(
            f"No linear layer's name ends in one of {', '.join(targets)}; there are "
            f"{', '.join(sorted(_linear_ends(model.model.language_model)))}, lm_head, project_up, project_down."
        )
    config = LoraConfig(
        r=rank,
        # PEFT's annotation asks for a whole number; it divides, and any number works.
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=wanted.pattern,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(config, _ADAPTER)


def _target_pattern(model: Emu2ForConditionalGeneration, targets: Sequence[str]) -> str:
    if targets:
        return rf"(?:.*\.)?(?:{'|'.join(map(re.escape, targets))})"
    ends = "|".join(map(re.escape, sorted(_linear_ends(model.model.language_model))))
    return rf"lm_head|model\.(?:language_model\..*\.(?:{ends})|project_up|project_down)"


def _linear_ends(module: nn.Module) -> set[str]:
    return {name.rpartition(".")[2] for name, part in module.named_modules() if isinstance(part, nn.Linear)}


def has_adapter(model: nn.Module) -> bool:
    """Whether adapters sit in this model."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def is_adapter_parameter(name: str) -> bool:
    """Whether a parameter's name is one of an adapter."""
    return any(part.startswith("lora_") for part in name.split("."))


def save_adapter(
    model: Emu2ForConditionalGeneration,
    folder: str | Path,
    *,
    base: str | None = None,
    processor: Any = None,
    write: bool = True,
) -> None:
    """Write the adapter alone.

    Args:
        base: what the adapter was trained on, for whoever reads the folder.
        processor: written too, into `processor/`: tuning may have changed what a picture takes, or added tokens.
        write: False only takes part in putting sharded adapters together, on the ranks that write nothing.

    Raises:
        ValueError: the model has no adapter.
    """
    from peft import get_peft_model_state_dict

    _require_adapter(model)
    # A sharded parameter is put together here; adapters are small.
    # The head is adapted, not changed: its own weights stay with the model.
    own = get_peft_model_state_dict(model, adapter_name=_ADAPTER, save_embedding_layers=False)
    tensors = {f"{_PREFIX}{name}": _full(tensor).detach().cpu().contiguous() for name, tensor in own.items()}
    if not write:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    if processor is not None:
        processor.save_pretrained(folder / PROCESSOR_FOLDER)
    config = model.peft_config[_ADAPTER]
    config.base_model_name_or_path = base
    training, config.inference_mode = config.inference_mode, True
    config.save_pretrained(folder)
    config.inference_mode = training


def load_adapter(model: Emu2ForConditionalGeneration, folder: str | Path) -> None:
    """Put a saved adapter into the model it was trained on.

    Raises:
        ValueError: no adapter there, the model has one already, or the adapter is another model's.
    """
    from peft import PeftConfig, set_peft_model_state_dict

    folder = Path(folder)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no adapter's folder: it has no {name}. Give the 'adapter' folder of a run.")
    if has_adapter(model):
        raise ValueError("This model has an adapter already; merge it (fold_adapter) before loading another.")
    try:
        tensors = load_file(folder / WEIGHTS_NAME)
        config = PeftConfig.from_pretrained(str(folder))
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"The adapter in {folder} is damaged: {error}.") from error
    try:
        model.add_adapter(config, _ADAPTER)
        found = set_peft_model_state_dict(
            model, {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}, adapter_name=_ADAPTER
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"The adapter in {folder} belongs to another model: {_first_line(error)}") from error
    missing = [name for name in found.missing_keys if is_adapter_parameter(name)]
    if missing or found.unexpected_keys:
        odd = (*found.unexpected_keys, *missing)[0]
        raise ValueError(f"The adapter in {folder} belongs to another model: {odd} exists on one side only.")
    model.requires_grad_(False)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "mismatch" in line), lines[0] if lines else type(error).__name__)


def merge_adapter(model: Emu2ForConditionalGeneration) -> None:
    """Add the adapter to the weights; `unmerge_adapter` takes it out again. Merged, a model is as fast as without."""
    _require_adapter(model)
    for _, layer in _adapted_layers(model):
        if not layer.merged:
            layer.merge()


def unmerge_adapter(model: Emu2ForConditionalGeneration) -> None:
    """Take a merged adapter out of the weights (equal up to rounding)."""
    _require_adapter(model)
    for _, layer in _adapted_layers(model):
        if layer.merged:
            layer.unmerge()


def fold_adapter(model: Emu2ForConditionalGeneration) -> None:
    """Merge for good: a plain model remains, to be saved, shared or tuned like any other."""
    merge_adapter(model)
    for name, layer in list(_adapted_layers(model)):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    model._hf_peft_config_loaded = False
    del model.peft_config


def _adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module


def _require_adapter(model: nn.Module) -> None:
    if not has_adapter(model):
        raise ValueError("This model has no adapter; add one (add_lora) or load one (load_adapter).")


def _full(tensor: torch.Tensor) -> torch.Tensor:
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()
