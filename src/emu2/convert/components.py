"""The stock parts of the image decoder, loaded strictly and lazily: U-Net, autoencoder, safety checker."""

from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from emu2.decoder import presets
from emu2.model.key_map import Piece, ReadingPlan, match_safety_checker
from emu2.model.pretrained import check_finite as refuse_non_finite
from emu2.model.pretrained import check_listing, load_weights, meta_model
from emu2.model.weight_files import Checkpoint

#: Names of the autoencoder's attention before diffusers 0.13, and today's.
_OLD_ATTENTION = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))


def empty_unet(config: Mapping[str, Any] | None = None) -> Any:
    """A `UNet2DConditionModel` without storage; the published one by default."""
    from diffusers import UNet2DConditionModel

    return _empty(UNet2DConditionModel, config if config is not None else presets.unet_config("sdxl"))


def empty_vae(config: Mapping[str, Any] | None = None) -> Any:
    """An `AutoencoderKL` without storage; the published one by default."""
    from diffusers import AutoencoderKL

    return _empty(AutoencoderKL, config if config is not None else presets.vae_config("sdxl"))


def safety_checker_class() -> Any:
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    return StableDiffusionSafetyChecker


def safety_checker_config(fields: Mapping[str, Any] | None = None) -> Any:
    """The `CLIPConfig` of a safety checker; the published one by default."""
    from transformers import CLIPConfig

    return CLIPConfig(**dict(fields if fields is not None else presets.safety_checker_config()))


def empty_safety_checker(config: Mapping[str, Any] | None = None) -> Any:
    """A `StableDiffusionSafetyChecker` without storage; the published one by default."""
    return meta_model(safety_checker_class(), safety_checker_config(config))


def _empty(cls: Any, config: Mapping[str, Any]) -> Any:
    # Configurations saved by older versions of diffusers carry fields that are no arguments today; it prints them.
    with torch.device("meta"), redirect_stdout(StringIO()):
        return cls.from_config(dict(config))


def modern_vae_name(name: str) -> str:
    """`...attentions.0.query.weight` -> `...attentions.0.to_q.weight`, and so on; other names unchanged."""
    stem, dot, last = name.rpartition(".")
    for old, new in _OLD_ATTENTION:
        if ".attentions." in stem and stem.endswith("." + old):
            return stem[: -len(old)] + new + dot + last
    return name


def fill_module(
    module: nn.Module,
    checkpoint: Checkpoint,
    sources: Mapping[str, str],
    *,
    dtype: torch.dtype,
    device: torch.device | str | None = None,
    check_finite: bool = True,
    special: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> nn.Module:
    """Give a module on the meta device the tensors of a checkpoint, strictly, each cast and placed on its own.

    Args:
        module: from `empty_unet` or `empty_vae`.
        checkpoint: the opened files.
        sources: name in the module -> name in the checkpoint.
        dtype, device: of the result.
        check_finite: refuse NaN and infinity.
        special: name -> function from the stored tensor to the one to use, for tensors that change shape; their stored
            shape is not checked.

    Raises:
        ValueError: names, shapes or values are wrong; the message names the tensors.
    """
    special = special or {}
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {
        name: wanted[name] if name in special and name in wanted else checkpoint.infos[source].shape
        for name, source in sources.items()
    }
    check_listing(
        wanted, found, source=checkpoint.source, rename=lambda name: sources.get(name, _beside(sources, name))
    )
    loaded: dict[str, Tensor] = {}
    for name, source in sources.items():
        tensor = checkpoint.read(source)
        if check_finite:
            refuse_non_finite(source, tensor, checkpoint.source)
        if name in special:
            tensor = special[name](tensor)
        loaded[name] = tensor.to(device=device or "cpu", dtype=dtype, copy=True)
    module.load_state_dict(loaded, strict=True, assign=True)
    checkpoint.close()
    return module.eval()


def _beside(sources: Mapping[str, str], name: str) -> str:
    """What the file would call a tensor that it lacks: with the prefix its other tensors have."""
    known, source = next(iter(sources.items()), ("", ""))
    return source[: len(source) - len(known)] + name if known and source.endswith(known) else name


def load_safety_checker(
    checkpoint: Checkpoint,
    sources: Mapping[str, str],
    config: Mapping[str, Any] | None,
    *,
    dtype: torch.dtype,
    check_finite: bool = True,
    **kwargs: Any,
) -> nn.Module:
    """A safety checker from names in either form (`sources`: name within it -> name in the checkpoint)."""
    clip_config = safety_checker_config(config)
    wanted = meta_model(safety_checker_class(), clip_config).state_dict()
    matched, _ = match_safety_checker(sources, wanted)
    plan = ReadingPlan(None, pieces={name: Piece(sources[inner]) for name, inner in matched.items()})
    return load_weights(
        safety_checker_class(), clip_config, checkpoint, plan, dtype=dtype, check_finite=check_finite, **kwargs
    )
