"""The published Hugging Face folders: Emu2 and Emu2-Chat (sharded float32 pickles), Emu2-Gen (a diffusers folder)."""

import json
from pathlib import Path
from typing import Any, Literal

import torch

from emu2.convert import components
from emu2.convert.native import check_vocabulary
from emu2.convert.writing import outgoing_of_model, outgoing_of_module, write_file, write_shards
from emu2.model.key_map import safety_checker_to_published
from emu2.model.published_config import config_to_published
from emu2.model.runtime import resolve_device, resolve_dtype
from emu2.model.weight_files import open_checkpoint

PublishedLayout = Literal["hf-base", "hf-chat", "hf-gen"]

#: What the published model_index.json says of each part.
_MODEL_INDEX: dict[str, Any] = {
    "_class_name": "EmuVisualGenerationPipeline",
    "_diffusers_version": "0.21.2",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "multimodal_encoder": ["transformers_modules.multimodal_encoder.modeling_emu", "EmuForCausalLM"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "tokenizer": ["transformers", "LlamaTokenizerFast"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def load_published(
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    check_finite: bool = True,
    **kwargs: Any,
) -> Any:
    """Load a published Hugging Face folder.

    Args:
        folder: of Emu2, Emu2-Chat, or Emu2-Gen (with its model_index.json), or Emu2-Gen's `multimodal_encoder/`.
        dtype: None keeps what the folder states (float32 for Emu2 and Emu2-Chat, bfloat16 for Emu2-Gen).
        device: where the weights go; the CPU by default.
        check_finite: refuse NaN and infinity.
        **kwargs: passed on to `Emu2ForConditionalGeneration.from_pretrained`.

    Returns:
        `Emu2ForConditionalGeneration`; for Emu2-Gen an `Emu2ImagePipeline`, with its processor where the folder has a
        tokeniser, and with the safety checker where it has one.

    Raises:
        FileNotFoundError, ValueError: see `Emu2ForConditionalGeneration.from_pretrained`.
    """
    from emu2.decoder.image_pipeline import Emu2ImagePipeline
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration

    folder = Path(folder)
    if device is not None:
        kwargs.setdefault("device_map", {"": resolve_device(device)})
    wanted = None if dtype is None else resolve_dtype(dtype)
    is_pipeline = (folder / "model_index.json").is_file()
    encoder_folder = folder / "multimodal_encoder" if is_pipeline else folder
    model = Emu2ForConditionalGeneration.from_pretrained(
        encoder_folder, dtype=wanted, check_finite=check_finite, **kwargs
    )
    if not is_pipeline:
        return model

    placed: dict[str, Any] = {"dtype": model.dtype, "device": device, "check_finite": check_finite}
    loaded: dict[str, Any] = {}
    for name, empty in (("unet", components.empty_unet), ("vae", components.empty_vae)):
        checkpoint = open_checkpoint(folder / name)
        rename = components.modern_vae_name if name == "vae" else str
        sources = {rename(source): source for source in checkpoint}
        loaded[name] = components.fill_module(empty(_config(folder / name)), checkpoint, sources, **placed)
    if (folder / "safety_checker").is_dir():
        checkpoint = open_checkpoint(folder / "safety_checker")
        loaded["safety_checker"] = components.load_safety_checker(
            checkpoint,
            {name: name for name in checkpoint},
            _config(folder / "safety_checker"),
            dtype=model.dtype,
            check_finite=check_finite,
            **({"device_map": kwargs["device_map"]} if device is not None else {}),
        )
    if not (folder / "tokenizer").is_dir():
        loaded["processor"] = None
    return Emu2ImagePipeline.from_pretrained(folder, dtype=model.dtype, multimodal_encoder=model, **loaded)


def save_published(
    model_or_pipe: Any,
    folder: str | Path,
    layout: PublishedLayout,
    *,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int | str = "10GB",
) -> None:
    """Write a folder in a published Hugging Face form, file names and shard sizes included.

    The published folders also hold Python files of their own (remote code) and a tokeniser, which are not written; to
    open the result with the published code, copy those beside it.

    Args:
        model_or_pipe: `Emu2ForConditionalGeneration`, or an `Emu2ImagePipeline` (needed for "hf-gen").
        folder: is made; files of the same names are replaced.
        layout: "hf-base", "hf-chat" (`pytorch_model-*.bin`) or "hf-gen" (a diffusers folder of bf16 safetensors).
        dtype: of the written weights; None takes the published one (float32; bfloat16 for "hf-gen"). Give the model's
            own dtype where nothing may be lost.
        max_shard_size: the published 10GB by default.

    Raises:
        ValueError: unknown layout, a model where a pipeline is needed, or one of another variant.
    """
    check_layout(layout)
    folder = Path(folder)
    pipeline = model_or_pipe if hasattr(model_or_pipe, "unet") else None
    model = model_or_pipe if pipeline is None else pipeline.multimodal_encoder
    if layout == "hf-gen":
        if pipeline is None:
            raise ValueError(
                f"Layout 'hf-gen' holds the image decoder too: give an Emu2ImagePipeline, not {type(model).__name__}."
            )
        _save_gen(pipeline, folder, resolve_dtype(dtype or torch.bfloat16), max_shard_size)
        return
    check_vocabulary(model.config, layout.removeprefix("hf-"))
    target = resolve_dtype(dtype or torch.float32)
    _write_config(folder, config_to_published(model.config, version=layout.removeprefix("hf-"), dtype=target))
    write_shards(
        outgoing_of_model(model, "hf", dtype=target),
        folder,
        "pytorch_model{suffix}.bin",
        index_names=("pytorch_model.bin.index.json",),
        max_shard_size=max_shard_size,
        always_shard=True,
    )


def check_layout(layout: str) -> None:
    if layout not in ("hf-base", "hf-chat", "hf-gen"):
        raise ValueError(f"Unknown layout {layout!r}: use hf-base, hf-chat or hf-gen.")


def _save_gen(pipeline: Any, folder: Path, dtype: torch.dtype, max_shard_size: int | str) -> None:
    encoder = pipeline.multimodal_encoder
    _write_config(folder / "multimodal_encoder", config_to_published(encoder.config, version="base", dtype=dtype))
    write_shards(
        outgoing_of_model(encoder, "hf", dtype=dtype),
        folder / "multimodal_encoder",
        "model.bf16{suffix}.safetensors",
        index_names=("model.safetensors.index.bf16.json", "model.safetensors.index.json"),
        max_shard_size=max_shard_size,
        always_shard=True,
    )
    for name in ("unet", "vae"):
        module = getattr(pipeline, name)
        module.save_config(folder / name)
        write_file(outgoing_of_module(module, dtype=dtype), folder / name / "diffusion_pytorch_model.bf16.safetensors")
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    index = dict(_MODEL_INDEX)
    if pipeline.safety_checker is not None:
        checker = pipeline.safety_checker
        _write_config(folder / "safety_checker", checker.config.to_dict())
        tensors = outgoing_of_module(checker, rename=safety_checker_to_published, dtype=dtype)
        write_file(tensors, folder / "safety_checker" / "model.bf16.safetensors")
    else:
        index["safety_checker"] = [None, None]
    if pipeline.feature_extractor is not None:
        pipeline.feature_extractor.save_pretrained(folder / "feature_extractor")
    else:
        index["feature_extractor"] = [None, None]
    if pipeline.processor is not None:
        pipeline.processor.tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{folder} is not a part of a published pipeline: it has no {name}.")
    return json.loads(path.read_text(encoding="utf-8"))


def _write_config(folder: Path, fields: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(fields, indent=2, sort_keys=True, default=str)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
