"""`emu2.load`: a folder, whatever is in it, as one ready object."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from emu2 import presets, tokens
from emu2.inference.face import Emu2
from emu2.inference.names import DEFAULT_NAME, explain_missing, shipped_folder
from emu2.model.runtime import resolve_device, resolve_dtype
from emu2.model.variants import Variant, find_variant

if TYPE_CHECKING:
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
    from emu2.processing.processor import Emu2Processor

#: A folder may hold a video decoder beside everything else: its parts (a VAE only where it has one of its own), as
#: training saves them, or what Emu2VideoPipeline saved without its encoder.
VIDEO_FOLDER = "video"

_ENCODER, _PROCESSOR = "multimodal_encoder", "processor"
_NATIVE_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")
_EMBEDDINGS = "decoder.lm.model.embed_tokens.weight"


def load(
    folder_or_name: str | Path = DEFAULT_NAME,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    adapter: str | Path | None = None,
) -> Emu2:
    """Load a model with everything around it.

    Args:
        folder_or_name: a folder of ours (a language model's, a pipeline's, the `model/` of a training run), a published
            Hugging Face folder (Emu2, Emu2-Chat, Emu2-Gen), or a published native file of Emu2 or Emu2-Chat with
            LLaMA's tokeniser beside it; or "nano", "nano-chat" or "nano-gen", where they ship with the package.
        device: where it runs; None takes the first CUDA GPU, or the CPU where there is none.
        dtype: None takes float32 on a CPU (bfloat16 convolutions are two hundred times slower there) and bfloat16 on
            a GPU.
        device_map: spread the language model over devices ("auto", or a dict), instead of `device`; a decoder then
            goes to the first GPU, if there is one.
        adapter: folder of an adapter tuned on this model (`emu2 train ... --lora`), put on top of it.

    Returns:
        an `Emu2`, ready to complete, chat, embed, and draw and film where the folder holds decoders.

    Raises:
        ValueError: nothing to load under that name, unknown dtype or device, or a folder that is not a model's.
        FileNotFoundError: a model folder whose weights are missing; names the shards.
    """
    if device is not None and device_map is not None:
        raise ValueError(f"Give device or device_map, not both; got device={device!r}, device_map={device_map!r}.")
    device = resolve_device(device) if device is not None else _best_device()
    dtype = resolve_dtype(dtype) if dtype is not None else _default_dtype(device)
    path = Path(folder_or_name).expanduser()
    if not path.exists():
        shipped = shipped_folder(str(folder_or_name))
        if shipped is None:
            raise ValueError(explain_missing(str(folder_or_name)))
        path = shipped
    emu2 = _load_path(path, device, dtype, device_map)
    if adapter is not None:
        from emu2.inference.adapted import apply_adapter

        apply_adapter(emu2.model, emu2.processor, adapter)
    return emu2


def _load_path(path: Path, device: torch.device, dtype: torch.dtype, device_map: Any) -> Emu2:
    if path.is_file():
        return _load_native_file(path, device, dtype, device_map)
    variant = find_variant(path)
    if variant is not None:
        return _load_variant(variant, device, dtype, device_map)
    if (path / "model_index.json").is_file():
        return _load_pipeline(path, device, dtype, device_map)
    # A training run without a decoder saves the parts of a pipeline as far as it has them.
    in_parts = (path / _ENCODER / "config.json").is_file() and not (path / "config.json").is_file()
    model = _load_language_model(path / _ENCODER if in_parts else path, device, dtype, device_map)
    processor = _load_processor(path / _PROCESSOR if in_parts else path, model.config)
    return _with_video(Emu2(model, processor, name=str(path)), path, device, dtype)


def _load_variant(variant: Variant, device: torch.device, dtype: torch.dtype, device_map: Any) -> Emu2:
    """One of several variants in a folder, with the decoders that all share."""
    from emu2.decoder.image_pipeline import Emu2ImagePipeline

    model = variant.load(dtype=dtype, device_map=_placement(device, device_map)).eval()
    processor = _load_processor(variant.processor, model.config)
    processor.num_query, processor.num_video_query = model.config.num_query, model.config.num_video_query
    emu2 = Emu2(model, processor, name=str(variant.folder), drawing=dict(variant.drawing))
    if not variant.draws:
        return emu2
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    emu2.image_pipeline = Emu2ImagePipeline(
        multimodal_encoder=model,
        processor=processor,
        unet=UNet2DConditionModel.from_pretrained(variant.root / "unet", torch_dtype=dtype),
        vae=AutoencoderKL.from_pretrained(variant.root / "vae", torch_dtype=dtype),
        scheduler=EulerDiscreteScheduler.from_pretrained(variant.root / "scheduler"),
    )
    _place_decoder(emu2.image_pipeline, device)
    return _with_video(emu2, variant.root, device, dtype)


def _best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _default_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type in ("cpu", "meta") else torch.bfloat16


def _load_language_model(
    folder: Path, device: torch.device, dtype: torch.dtype, device_map: Any
) -> "Emu2ForConditionalGeneration":
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration

    where = _placement(device, device_map)
    return Emu2ForConditionalGeneration.from_pretrained(folder, dtype=dtype, device_map=where).eval()


def _placement(device: torch.device, device_map: Any) -> Any:
    """The `device_map` to load with: weights go straight to a GPU, so they need not fit into main memory first."""
    if device_map is not None:
        return device_map
    return None if device.type == "cpu" else {"": device}


def _load_processor(folder: Path, config: Any) -> "Emu2Processor":
    """The processor of a folder, ours or published, checked against the model it is for."""
    from emu2.processing.processor import Emu2Processor
    from emu2.processing.tokenizer import check_tokenizer

    processor = Emu2Processor.from_pretrained(folder)
    check_tokenizer(processor.tokenizer, config)
    return processor


def _native_processor(folder: Path, config: Any) -> "Emu2Processor":
    """A processor for a native file, which holds none, from LLaMA's tokeniser beside it and the model's sizes."""
    from emu2.processing.image import Emu2ImageProcessor
    from emu2.processing.processor import Emu2Processor
    from emu2.processing.tokenizer import load_tokenizer

    return Emu2Processor(
        Emu2ImageProcessor(size=config.vision_config.image_size),
        load_tokenizer(folder, chat=config.text_config.vocab_size == tokens.CHAT_VOCAB_SIZE),
        num_query=config.num_query,
        num_video_query=config.num_video_query,
    )


def _load_pipeline(folder: Path, device: torch.device, dtype: torch.dtype, device_map: Any) -> Emu2:
    from emu2.decoder.image_pipeline import Emu2ImagePipeline
    from emu2.decoder.video_pipeline import Emu2VideoPipeline

    films = _read_json(folder / "model_index.json").get("_class_name") == Emu2VideoPipeline.__name__
    parts: dict[str, Any] = {}
    if (folder / _ENCODER).is_dir():
        parts[_ENCODER] = _load_language_model(folder / _ENCODER, device, dtype, device_map)
    pipeline_class: Any = Emu2VideoPipeline if films else Emu2ImagePipeline
    pipeline = pipeline_class.from_pretrained(folder, dtype=dtype, **parts)
    if pipeline.multimodal_encoder is None or pipeline.processor is None:
        raise ValueError(
            f"{folder} holds a decoder without its multimodal_encoder and processor, so nothing there can read a "
            "prompt. Save the pipeline with both, or open it with from_pretrained(folder, multimodal_encoder=..., "
            "processor=...)."
        )
    _place_decoder(pipeline, device)
    emu2 = Emu2(
        pipeline.multimodal_encoder.eval(),
        pipeline.processor,
        image_pipeline=None if films else pipeline,
        video_pipeline=pipeline if films else None,
        name=str(folder),
    )
    return _with_video(emu2, folder, device, dtype)


def _with_video(emu2: Emu2, folder: Path, device: torch.device, dtype: torch.dtype) -> Emu2:
    """Add the video decoder that lies in a subfolder, if one does."""
    video = folder / VIDEO_FOLDER
    if emu2.video_pipeline is not None or not (video / "unet").is_dir():
        return emu2
    from diffusers import AutoencoderKL, EulerDiscreteScheduler

    from emu2.decoder.video_pipeline import Emu2VideoPipeline
    from emu2.decoder.video_unet import load_video_unet

    pipeline: Any
    if (video / "model_index.json").is_file():
        pipeline = Emu2VideoPipeline.from_pretrained(
            video, dtype=dtype, multimodal_encoder=emu2.model, processor=emu2.processor
        )
    else:
        own_vae = (video / "vae").is_dir()
        if not own_vae and emu2.image_pipeline is None:
            raise ValueError(
                f"{video} is a video decoder without a VAE, and {folder} has no image decoder to share one with: put "
                f"the VAE it was trained with into {video / 'vae'}."
            )
        pipeline = Emu2VideoPipeline(
            multimodal_encoder=emu2.model,
            processor=emu2.processor,
            unet=load_video_unet(
                video / "unet", image_unet=emu2.image_pipeline and emu2.image_pipeline.unet, dtype=dtype
            ),
            vae=AutoencoderKL.from_pretrained(video / "vae", torch_dtype=dtype) if own_vae else emu2.image_pipeline.vae,
            scheduler=EulerDiscreteScheduler.from_pretrained(video / "scheduler"),
        )
    _place_decoder(pipeline, device)
    emu2.video_pipeline = pipeline
    return emu2


def _place_decoder(pipeline: Any, device: torch.device) -> None:
    """Everything but the encoder, which may be spread over several devices."""
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and name != _ENCODER:
            part.to(device)


def _load_native_file(file: Path, device: torch.device, dtype: torch.dtype, device_map: Any) -> Emu2:
    from emu2.model.key_map import plan_reading, recognise_scheme
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
    from emu2.model.pretrained import load_weights
    from emu2.model.weight_files import open_checkpoint

    if file.suffix not in _NATIVE_SUFFIXES:
        raise ValueError(
            f"{file} is a file, but no weights ({', '.join(_NATIVE_SUFFIXES)}). Give the folder of a model instead."
        )
    checkpoint = open_checkpoint(file)
    config = _native_config({name: tuple(info.shape) for name, info in checkpoint.infos.items()}, file)
    # First what is cheap: a native file holds no tokeniser, and there may be none beside it.
    processor = _native_processor(file.parent, config)
    plan = plan_reading(checkpoint, recognise_scheme(checkpoint) or "native")
    where = _placement(device, device_map)
    model = load_weights(Emu2ForConditionalGeneration, config, checkpoint, plan, dtype=dtype, device_map=where)
    return Emu2(model.eval(), processor, name=str(file))


def _native_config(shapes: dict[str, tuple[int, ...]], file: Path) -> Any:
    """The published configuration of a native file; Emu2 and Emu2-Chat differ in two tokens."""
    if any(name.startswith("unet.") for name in shapes):
        raise ValueError(
            f"{file} is the native file of Emu2-Gen, an encoder and a decoder in one. Make a folder of it once: "
            f"emu2 convert load {file} FOLDER --tokenizer FOLDER_WITH_TOKENISER, and load that."
        )
    if _EMBEDDINGS not in shapes:
        raise ValueError(
            f"{file} is no published native file: it has no tensor {_EMBEDDINGS}. If it is a shard of a model folder, "
            "give the folder."
        )
    return presets.config("37b-chat" if shapes[_EMBEDDINGS][0] == tokens.CHAT_VOCAB_SIZE else "37b")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}.") from error
