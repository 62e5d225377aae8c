"""The native files of the published code: `Emu2_pytorch_model.bf16.bin` and its siblings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from emu2 import presets, tokens
from emu2.configuration import Emu2Config
from emu2.convert import components
from emu2.convert.writing import Outgoing, outgoing_of_model, outgoing_of_module, write_file
from emu2.decoder import presets as decoder_presets
from emu2.model.key_map import plan_reading, recognise_scheme, safety_checker_to_published, split_components
from emu2.model.pretrained import load_weights
from emu2.model.runtime import resolve_device, resolve_dtype
from emu2.model.weight_files import Checkpoint, open_checkpoint

Variant = Literal["base", "chat", "gen"]
VARIANTS: tuple[str, ...] = ("base", "chat", "gen")
_PRESETS = {"base": "37b", "chat": "37b-chat", "gen": "37b-gen"}
_PREFIX = "multimodal_encoder."


def check_variant(variant: str) -> None:
    """Raise ValueError unless `variant` is one of the published ones."""
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}: use one of {', '.join(VARIANTS)}.")


def load_native(
    file: str | Path,
    variant: Variant = "base",
    config: Emu2Config | Mapping[str, Any] | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    *,
    unet_config: Mapping[str, Any] | None = None,
    vae_config: Mapping[str, Any] | None = None,
    scheduler_config: Mapping[str, Any] | None = None,
    safety_checker_config: Mapping[str, Any] | None = None,
    processor: Any = None,
    check_finite: bool = True,
    **kwargs: Any,
) -> Any:
    """Load a published native file, strictly: every tensor there, none left over, every shape right.

    Args:
        file: `.bin`/`.pt` (opened with weights_only, memory-mapped) or `.safetensors`; a bare state dict or one
            wrapped under `model`, `module` or `state_dict`.
        variant: "base", "chat" or "gen". The file itself does not say which.
        config: replaces the published configuration of the variant. For "gen" also a mapping with the keys
            "multimodal_encoder", "unet", "vae", "scheduler", "safety_checker" (each optional).
        dtype: of the loaded weights. None keeps what the file holds (published: bfloat16), except that float16, which
            the model was never run in, becomes float32.
        device: where the weights go; the CPU by default. `device_map=` spreads the model over several.
        unet_config, vae_config, scheduler_config, safety_checker_config: for "gen", in place of the published ones.
        processor: for "gen", the pipeline's processor. No native file holds a tokeniser.
        check_finite: refuse NaN and infinity.
        **kwargs: passed on to `from_pretrained` (`device_map`, `quantization_config`, `attn_implementation`, ...).

    Returns:
        `Emu2ForConditionalGeneration`, in eval mode; for "gen" an `Emu2ImagePipeline`. A safety checker in the file is
        loaded with it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, carries code, or does not fit; tensors are named.
    """
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration

    check_variant(variant)
    target_device = None if device is None else resolve_device(device)
    if target_device is not None:
        kwargs.setdefault("device_map", {"": target_device})
    parts = native_parts(config, variant)
    checkpoint = open_checkpoint(file)
    groups = split_components(checkpoint)
    target_dtype = _choose_dtype(dtype, checkpoint)
    _check_kind(checkpoint, variant, groups, parts["multimodal_encoder"])

    if variant == "gen":
        names, prefix = groups["multimodal_encoder"].values(), _PREFIX
    else:
        names, prefix = groups.get("", {}).values(), ""
    scheme = recognise_scheme(name.removeprefix(prefix) for name in names) or "native"
    plan = plan_reading(names, scheme, prefix=prefix)
    if variant == "gen":
        plan.unknown += groups.get("", {}).values()
    model = load_weights(
        Emu2ForConditionalGeneration,
        parts["multimodal_encoder"],
        checkpoint,
        plan,
        dtype=target_dtype,
        check_finite=check_finite,
        **kwargs,
    )
    if variant != "gen":
        return model

    placed: dict[str, Any] = {"dtype": target_dtype, "device": target_device, "check_finite": check_finite}
    unet = components.empty_unet(unet_config or parts.get("unet"))
    components.fill_module(unet, checkpoint, groups["unet"], **placed)
    vae = components.empty_vae(vae_config or parts.get("vae"))
    vae_names = {components.modern_vae_name(name): source for name, source in groups["vae"].items()}
    components.fill_module(vae, checkpoint, vae_names, **placed)
    safety_checker = None
    if "safety_checker" in groups:
        safety_checker = components.load_safety_checker(
            checkpoint,
            groups["safety_checker"],
            safety_checker_config or parts.get("safety_checker"),
            dtype=target_dtype,
            check_finite=check_finite,
            **({"device_map": {"": target_device}} if target_device is not None else {}),
        )
    return build_pipeline(model, unet, vae, scheduler_config or parts.get("scheduler"), processor, safety_checker)


def build_pipeline(
    model: Any,
    unet: Any,
    vae: Any,
    scheduler_config: Mapping[str, Any] | None = None,
    processor: Any = None,
    safety_checker: Any = None,
    feature_extractor_config: Mapping[str, Any] | None = None,
) -> Any:
    """An `Emu2ImagePipeline` from loaded parts; the published Euler scheduler and CLIP preprocessing by default."""
    from diffusers import EulerDiscreteScheduler

    from emu2.decoder.image_pipeline import Emu2ImagePipeline

    feature_extractor = None
    if safety_checker is not None:
        from emu2.decoder.published import CLIPImageProcessor

        # The defaults are those of the published feature_extractor/.
        feature_extractor = CLIPImageProcessor(**_without_class_names(feature_extractor_config or {}))
    settings = scheduler_config if scheduler_config is not None else decoder_presets.scheduler_config("sdxl")
    return Emu2ImagePipeline(
        multimodal_encoder=model,
        processor=processor,
        unet=unet,
        vae=vae,
        scheduler=EulerDiscreteScheduler.from_config(dict(settings)),
        safety_checker=safety_checker,
        feature_extractor=feature_extractor,
    )


def _without_class_names(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.endswith("_type") and key != "processor_class"}


def save_native(model_or_pipe: Any, file: str | Path, variant: Variant, *, inv_freq: bool = True) -> None:
    """Write a native file that the published code loads strictly, without loss: `load_native` gives back the same bits.

    Args:
        model_or_pipe: `Emu2ForConditionalGeneration`, or an `Emu2ImagePipeline` (needed for "gen").
        file: ends in `.safetensors`, or in `.bin` for a torch file.
        variant: "base", "chat" or "gen".
        inv_freq: also write the float32 rotary tables that the published code of 2023 expects.

    Raises:
        ValueError: unknown variant or suffix, a model where a pipeline is needed, or one of another variant.
    """
    check_variant(variant)
    path = Path(file)
    pipeline = model_or_pipe if hasattr(model_or_pipe, "unet") else None
    if variant == "gen" and pipeline is None:
        raise ValueError(
            f"Variant 'gen' holds the image decoder too: give an Emu2ImagePipeline, not {type(model_or_pipe).__name__}."
        )
    model = model_or_pipe if pipeline is None else pipeline.multimodal_encoder
    check_vocabulary(model.config, variant)
    write_file(_outgoing(model, pipeline if variant == "gen" else None, inv_freq=inv_freq), path)


def check_vocabulary(config: Emu2Config, variant: str) -> None:
    """Raise ValueError where a model of published size is to be written as the variant that it is not.

    Emu2-Chat's vocabulary has two tokens more; a vocabulary of another size fits any variant.
    """
    rows = config.text_config.vocab_size
    other = {tokens.BASE_VOCAB_SIZE: ("base", "gen"), tokens.CHAT_VOCAB_SIZE: ("chat",)}.get(rows, (variant,))
    if variant not in other:
        raise ValueError(
            f"The model has {rows} token embeddings, as {' or '.join(map(repr, other))} has; the published code could "
            f"not load it as {variant!r}."
        )


def _outgoing(model: Any, pipeline: Any, *, inv_freq: bool) -> list[Outgoing]:
    if pipeline is None:
        return outgoing_of_model(model, "native", inv_freq=inv_freq)
    listed = outgoing_of_model(model, "native", prefix=_PREFIX, inv_freq=inv_freq)
    listed += outgoing_of_module(pipeline.unet, prefix="unet.")
    listed += outgoing_of_module(pipeline.vae, prefix="vae.")
    if pipeline.safety_checker is not None:
        listed += outgoing_of_module(
            pipeline.safety_checker, prefix="safety_checker.", rename=safety_checker_to_published
        )
    return listed


def native_parts(config: Emu2Config | Mapping[str, Any] | None, variant: str) -> dict[str, Any]:
    """The configuration of every component; the multimodal encoder's as an `Emu2Config`."""
    if isinstance(config, Emu2Config):
        return {"multimodal_encoder": config}
    known = ("multimodal_encoder", "unet", "vae", "scheduler", "safety_checker")
    parts = dict(config or {})
    if parts and not set(parts) <= set(known):
        if not set(parts) & set(known):  # the fields of an Emu2Config
            return {"multimodal_encoder": Emu2Config(**parts)}
        raise ValueError(f"Unknown parts in config: {sorted(set(parts) - set(known))}; known are {', '.join(known)}.")
    encoder = parts.get("multimodal_encoder")
    if encoder is None:
        encoder = presets.config(_PRESETS[variant])
    parts["multimodal_encoder"] = encoder if isinstance(encoder, Emu2Config) else Emu2Config(**encoder)
    return parts


def _choose_dtype(dtype: str | torch.dtype | None, checkpoint: Checkpoint) -> torch.dtype:
    if dtype is not None:
        return resolve_dtype(dtype)
    stored = checkpoint.main_dtype()
    return torch.float32 if stored == torch.float16 else resolve_dtype(stored)


def _check_kind(checkpoint: Checkpoint, variant: str, groups: Mapping[str, Any], config: Emu2Config) -> None:
    """Tell a mixed-up variant before a hundred shapes disagree."""
    is_gen = "multimodal_encoder" in groups
    if is_gen != (variant == "gen"):
        kind = "an image-generation file (variant 'gen')" if is_gen else "a language-model file ('base' or 'chat')"
        raise ValueError(f"{checkpoint.source} is {kind}, but variant={variant!r} was asked for.")
    if variant == "gen":
        absent = [name for name in ("unet", "vae") if name not in groups]
        if absent:
            raise ValueError(f"{checkpoint.source} holds no tensor of {' and '.join(absent)}; it is not complete.")
    rows = next((i.shape[0] for n, i in checkpoint.infos.items() if n.endswith("embed_tokens.weight")), None)
    other = {tokens.BASE_VOCAB_SIZE: "base' or 'gen", tokens.CHAT_VOCAB_SIZE: "chat"}.get(rows or 0)
    if other is not None and rows != config.text_config.vocab_size:
        raise ValueError(
            f"{checkpoint.source} has {rows} token embeddings, as variant '{other}' has; the configuration for "
            f"variant={variant!r} says {config.text_config.vocab_size}."
        )
