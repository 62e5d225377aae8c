"""Any recognised checkpoint -> a folder of ours, from disk to disk: one shard in memory at a time."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from emu2.configuration import Emu2Config
from emu2.convert import components
from emu2.convert.folder_info import recognise
from emu2.convert.native import build_pipeline, native_parts
from emu2.convert.writing import outgoing_of_checkpoint, write_shards
from emu2.model.key_map import (
    Piece,
    ReadingPlan,
    match_safety_checker,
    plan_reading,
    recognise_scheme,
    split_components,
)
from emu2.model.pretrained import check_listing, meta_model, piece_info
from emu2.model.published_config import published_to_config
from emu2.model.runtime import resolve_dtype
from emu2.model.weight_files import Checkpoint, open_checkpoint

_SHARD_SIZE = "5GB"


def to_ours(
    source: str | Path,
    folder: str | Path,
    *,
    variant: str | None = None,
    config: Emu2Config | Mapping[str, Any] | None = None,
    dtype: str | torch.dtype | None = None,
    processor: Any = None,
    max_shard_size: int | str = _SHARD_SIZE,
    check_finite: bool = True,
) -> str:
    """Convert a native file or a published folder into a folder of ours, without building the model.

    Args:
        source: a native file (base, chat, gen), or a published Hugging Face folder.
        folder: is made. A language model becomes a transformers folder, Emu2-Gen a diffusers pipeline folder.
        variant: of a native file; None recognises it by its names and its number of token embeddings.
        config: for native files, see `load_native`.
        dtype: of the written weights; None keeps the stored one.
        processor: saved with the model. Without one, that of a published folder with a tokeniser is built.
        max_shard_size: of the written safetensors.
        check_finite: refuse NaN and infinity.

    Returns:
        What `source` was recognised as: "native-base", "hf-gen", ...

    Raises:
        FileNotFoundError, ValueError: the source is not one of these, is damaged, or does not fit; names are given.
    """
    source, folder = Path(source), Path(folder)
    kind = f"native-{variant}" if variant is not None and source.is_file() else recognise(source)
    target = None if dtype is None else resolve_dtype(dtype)
    options = {"dtype": target, "max_shard_size": max_shard_size, "check_finite": check_finite}
    if kind in ("native-base", "native-chat", "native-gen"):
        _from_native(source, folder, kind.removeprefix("native-"), config, processor, options)
    elif kind in ("hf-base", "hf-chat"):
        _from_published(source, folder, processor, options)
    elif kind == "hf-gen":
        _from_published_gen(source, folder, processor, options)
    else:
        raise ValueError(
            f"{source} is {kind!r}, which is not converted: expected a native file of Emu2, Emu2-Chat or Emu2-Gen, or "
            "one of their published folders. For EVA-CLIP, LLaMA and SDXL see emu2.convert.from_parts."
        )
    return kind


def _from_native(
    source: Path, folder: Path, variant: str, config: Any, processor: Any, options: Mapping[str, Any]
) -> None:
    parts = native_parts(config, variant)
    checkpoint = open_checkpoint(source)
    groups = split_components(checkpoint)
    if variant != "gen":
        names = list(checkpoint)
        plan = plan_reading(names, recognise_scheme(names) or "native")
        _write_model(checkpoint, plan, parts["multimodal_encoder"], folder, processor, options)
        return
    names = list(groups.get("multimodal_encoder", {}).values())
    plan = plan_reading(names, "native", prefix="multimodal_encoder.")
    plan.unknown += groups.get("", {}).values()
    _write_model(checkpoint, plan, parts["multimodal_encoder"], folder / "multimodal_encoder", None, options)
    _write_decoder(
        folder,
        parts,
        {name: (checkpoint, groups[name]) for name in ("unet", "vae", "safety_checker") if name in groups},
        processor,
        options,
    )


def _from_published(source: Path, folder: Path, processor: Any, options: Mapping[str, Any]) -> Emu2Config:
    checkpoint = open_checkpoint(source)
    config = published_to_config(_json(source / "config.json"))
    plan = plan_reading(checkpoint, recognise_scheme(checkpoint) or "hf")
    _write_model(checkpoint, plan, config, folder, processor or _processor_of(source, config), options)
    return config


def _from_published_gen(source: Path, folder: Path, processor: Any, options: Mapping[str, Any]) -> None:
    encoder = source / "multimodal_encoder"
    config = published_to_config(_json(encoder / "config.json"))
    checkpoint = open_checkpoint(encoder)
    plan = plan_reading(checkpoint, recognise_scheme(checkpoint) or "hf")
    _write_model(checkpoint, plan, config, folder / "multimodal_encoder", None, options)
    parts: dict[str, Any] = {
        "multimodal_encoder": config,
        "scheduler": _json(source / "scheduler" / "scheduler_config.json"),
    }
    if (source / "feature_extractor").is_dir():
        parts["feature_extractor"] = _json(source / "feature_extractor" / "preprocessor_config.json")
    opened: dict[str, tuple[Checkpoint, Mapping[str, str]]] = {}
    for name in ("unet", "vae", "safety_checker"):
        if (source / name).is_dir():
            parts[name] = _json(source / name / "config.json")
            files = open_checkpoint(source / name)
            opened[name] = (files, {key: key for key in files})
    _write_decoder(folder, parts, opened, processor or _processor_of(source / "tokenizer", config), options)


def _write_model(
    checkpoint: Checkpoint,
    plan: ReadingPlan,
    config: Emu2Config,
    folder: Path,
    processor: Any,
    options: Mapping[str, Any],
) -> None:
    """config.json, generation_config.json and safetensors shards, as `save_pretrained` writes them."""
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration

    empty = meta_model(Emu2ForConditionalGeneration, config)
    wanted = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    found = {name: piece_info(piece, checkpoint.infos[piece.source]).shape for name, piece in plan.pieces.items()}
    check_listing(
        wanted,
        found,
        source=checkpoint.source,
        unexpected=plan.unknown,
        optional=empty.all_tied_weights_keys,
        rename=plan.source_name,
    )
    pieces = {name: plan.pieces[name] for name in wanted if name in plan.pieces}
    tensors = outgoing_of_checkpoint(checkpoint, pieces, options["dtype"], finite=options["check_finite"])
    write_shards(
        tensors,
        folder,
        "model{suffix}.safetensors",
        index_names=("model.safetensors.index.json",),
        max_shard_size=options["max_shard_size"],
    )
    written = copy.deepcopy(config)
    written.architectures = [Emu2ForConditionalGeneration.__name__]
    written.dtype = options["dtype"] or checkpoint.main_dtype()
    written.save_pretrained(folder)
    empty.generation_config.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    checkpoint.close()


def _write_decoder(
    folder: Path,
    parts: Mapping[str, Any],
    opened: Mapping[str, tuple[Checkpoint, Mapping[str, str]]],
    processor: Any,
    options: Mapping[str, Any],
) -> None:
    """Everything of a pipeline folder but the multimodal encoder."""
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration

    missing = [name for name in ("unet", "vae") if name not in opened]
    if missing:
        raise ValueError(f"The image decoder is not complete: no {' and no '.join(missing)}.")
    makers = {
        "unet": components.empty_unet,
        "vae": components.empty_vae,
        "safety_checker": components.empty_safety_checker,
    }
    modules = {name: makers[name](parts.get(name)) for name in opened}
    for name, (checkpoint, sources) in opened.items():
        wanted = {key: tuple(tensor.shape) for key, tensor in modules[name].state_dict().items()}
        if name == "safety_checker":
            matched, _ = match_safety_checker(sources, wanted)
            sources = {key: sources[inner] for key, inner in matched.items()}
        elif name == "vae":
            sources = {components.modern_vae_name(key): source for key, source in sources.items()}
        found = {key: checkpoint.infos[source].shape for key, source in sources.items()}
        check_listing(wanted, found, source=checkpoint.source, rename=lambda key, s=sources: s.get(key, key))
        pieces = {key: Piece(sources[key]) for key in wanted}
        write_shards(
            outgoing_of_checkpoint(checkpoint, pieces, options["dtype"], finite=options["check_finite"]),
            folder / name,
            ("model" if name == "safety_checker" else "diffusion_pytorch_model") + "{suffix}.safetensors",
            index_names=(
                ("model" if name == "safety_checker" else "diffusion_pytorch_model") + ".safetensors.index.json",
            ),
            # diffusers cuts at 10GB; the published U-Net is one file of 5 GB
            max_shard_size="10GB",
        )
        if name == "safety_checker":
            modules[name].config.architectures = [type(modules[name]).__name__]
            modules[name].config.save_pretrained(folder / name)
        else:
            modules[name].save_config(folder / name)
        checkpoint.close()
    pipeline = build_pipeline(
        meta_model(Emu2ForConditionalGeneration, parts["multimodal_encoder"]),
        modules["unet"],
        modules["vae"],
        parts.get("scheduler"),
        processor,
        modules.get("safety_checker"),
        parts.get("feature_extractor"),
    )
    pipeline.save_config(folder)
    for name in ("scheduler", "feature_extractor", "processor"):
        part = getattr(pipeline, name)
        if part is not None:
            part.save_pretrained(folder / name)


def processor_for(folder: str | Path, config: Emu2Config) -> Any:
    """The processor of a model, with the tokeniser in `folder`: ours, or LLaMA's published files.

    Raises:
        ValueError: no tokeniser there, or one that does not fit the model (says what is missing or different).
    """
    from emu2 import tokens
    from emu2.processing.image import Emu2ImageProcessor
    from emu2.processing.processor import Emu2Processor
    from emu2.processing.tokenizer import check_tokenizer, load_tokenizer

    added = config.text_config.vocab_size - config.pad_token_id
    tokenizer = load_tokenizer(folder, chat=added == len(tokens.special_tokens(chat=True)))
    check_tokenizer(tokenizer, config)
    return Emu2Processor(
        image_processor=Emu2ImageProcessor(size=config.vision_config.image_size),
        tokenizer=tokenizer,
        num_query=config.num_query,
        num_video_query=config.num_video_query,
    )


def _processor_of(folder: Path, config: Emu2Config) -> Any:
    """The processor of a published folder that has a tokeniser, None for others."""
    has_one = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    return processor_for(folder, config) if has_one else None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not complete: it has no {path.name}.")
    return json.loads(path.read_text(encoding="utf-8"))
