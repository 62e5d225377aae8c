"""The published Emu2-Gen folder, read part by part.

Its model_index.json names code that is not ours (a pipeline class and a model class of its repository) and a tokenizer
class whose ids changed in transformers 5, so the stock loader cannot open it. Nothing of that code runs here.
"""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from huggingface_hub import hf_hub_download, snapshot_download

try:  # the plain name stands for a torchvision class in recent versions, and warns that it falls back to this one
    from transformers import CLIPImageProcessorPil as CLIPImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor

from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
from emu2.processing.processor import Emu2Processor

#: Class name in the published model_index.json.
PUBLISHED_PIPELINE = "EmuVisualGenerationPipeline"

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


def published_folder(name_or_path: str | PathLike, **kwargs: Any) -> Path | None:
    """The local folder of a published Emu2-Gen pipeline, fetched from the hub where it is a name; None for others."""
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            hint = " It is a model without a decoder: open it with Emu2ForConditionalGeneration."
            raise ValueError(
                f"{folder} is not the folder of a pipeline: it has no model_index.json."
                f"{hint if (folder / 'config.json').is_file() else ''}"
            )
        return folder if _is_published(folder / "model_index.json") else None
    if folder.exists() or folder.is_absolute() or len(folder.parts) != 2 or str(name_or_path).startswith((".", "~")):
        raise ValueError(
            f"{name_or_path} is not a folder, and not a name on the Hugging Face hub (OWNER/NAME) either. Give the "
            "folder of a pipeline: it holds model_index.json, unet/ and vae/."
        )
    options = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
    index = hf_hub_download(str(name_or_path), "model_index.json", **options)
    return Path(snapshot_download(str(name_or_path), **options)) if _is_published(Path(index)) else None


def load_published_parts(
    folder: Path,
    *,
    dtype: torch.dtype,
    variant: str | None = None,
    device_map: Any = None,
    **given: Any,
) -> dict[str, Any]:
    """Arguments of `Emu2ImagePipeline` from a published folder.

    Args:
        folder: holds model_index.json, multimodal_encoder/, tokenizer/, unet/, vae/, scheduler/, and perhaps
            safety_checker/ and feature_extractor/.
        dtype: of all weights.
        variant: suffix of the weight files; None takes the plain files where they exist and else the only variant.
        device_map: how the multimodal encoder is spread, as in transformers; the other parts follow with `.to`.
        **given: components to use instead of the folder's, by name; None leaves an optional one out.

    Raises:
        ValueError: a part is missing, or its weights are there in several variants of which none was asked for.
    """
    index = json.loads((folder / "model_index.json").read_text())

    def missing(name: str) -> bool:
        return name not in given

    parts = {name: value for name, value in given.items() if name in _COMPONENTS}
    if missing("multimodal_encoder"):
        options = {} if device_map is None else {"device_map": device_map}
        parts["multimodal_encoder"] = Emu2ForConditionalGeneration.from_pretrained(
            _part(folder, "multimodal_encoder"), dtype=dtype, **options
        )
    if missing("processor"):
        parts["processor"] = Emu2Processor.from_pretrained(folder)
    for name, loader in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        if missing(name):
            path = _part(folder, name)
            found = _variant(path, "diffusion_pytorch_model", variant)
            parts[name] = loader.from_pretrained(path, variant=found, dtype=dtype)
    if missing("scheduler"):
        scheduler_class = getattr(diffusers, index.get("scheduler", [None, "EulerDiscreteScheduler"])[1])
        parts["scheduler"] = scheduler_class.from_pretrained(_part(folder, "scheduler"))
    if missing("safety_checker") and (folder / "safety_checker").is_dir():
        path = folder / "safety_checker"
        found = _variant(path, "model", variant)
        parts["safety_checker"] = StableDiffusionSafetyChecker.from_pretrained(path, variant=found, dtype=dtype)
    if missing("feature_extractor") and (folder / "feature_extractor").is_dir():
        parts["feature_extractor"] = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")
    return parts


_COMPONENTS = (
    "multimodal_encoder",
    "processor",
    "unet",
    "vae",
    "scheduler",
    "safety_checker",
    "feature_extractor",
    "default_original_size",
)


def _is_published(index: Path) -> bool:
    if not index.is_file():
        return False
    name = json.loads(index.read_text()).get("_class_name")
    # diffusers writes [module, class] where the class comes from the repository itself.
    return (name[-1] if isinstance(name, list) else name) == PUBLISHED_PIPELINE


def _part(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        raise ValueError(f"{folder} is a published Emu2-Gen folder, but its part {name}/ is missing.")
    return folder / name


def _variant(folder: Path, stem: str, variant: str | None) -> str | None:
    """Which variant of the weights to read: the one asked for, else the plain files, else the only one there is."""
    if variant is not None or any(folder.glob(f"{stem}.safetensors*")):
        return variant
    found = {path.name.split(".")[1].split("-")[0] for path in folder.glob(f"{stem}.*.safetensors")}
    if len(found) != 1:
        seen = f"weights in the variants {sorted(found)}; name one with variant=" if found else "no safetensors weights"
        raise ValueError(f"{folder} holds {seen}.")
    return found.pop()
