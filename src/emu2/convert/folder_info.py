"""What a folder or weight file is, without loading it: kind, parameters per part, dtypes, memory, what is missing.

Only names, shapes and dtypes are read: safetensors headers, and torch files through a memory map.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from emu2 import tokens
from emu2.model.key_map import plan_reading, recognise_scheme, split_components
from emu2.model.pretrained import meta_model, piece_info
from emu2.model.published_config import is_published_config, published_to_config
from emu2.model.variants import MANIFEST, PROCESSOR, TEMPORAL, VISION, WEIGHTS
from emu2.model.weight_files import (
    PICKLE_SUFFIXES,
    SAFETENSORS_SUFFIX,
    SINGLE_NAMES,
    TensorInfo,
    WeightFile,
    find_index,
    has_weights,
    read_index,
)

_TITLES = {
    "emu2": "Emu2 model folder",
    "emu2-pipeline": "Emu2 image pipeline folder",
    "emu2-video-pipeline": "Emu2 video pipeline folder",
    "hf-base": "published Hugging Face folder of Emu2",
    "hf-chat": "published Hugging Face folder of Emu2-Chat",
    "hf-gen": "published Hugging Face folder of Emu2-Gen",
    "native-base": "published native file of Emu2",
    "native-chat": "published native file of Emu2-Chat",
    "native-gen": "published native file of Emu2-Gen",
    "eva-clip": "EVA-CLIP vision tower",
    "language-model": "transformers language model folder",
    "diffusers": "diffusers pipeline folder",
    "emu2-variants": "Emu2 in several variants, shared parts stored once",
    "adapter": "PEFT adapter folder",
    "unknown": "not recognised",
}
#: Order of the parts in the table, whatever the order in the files; any others come last.
_PARTS = ("vision tower", "bridge", "language model", "U-Net", "VAE", "safety checker")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
#: Bits a 4-bit weight takes with its scales: 4, and one doubly quantised scale for each 64 (bitsandbytes NF4, QLoRA).
_BITS_4BIT = 4.127


@dataclass
class PartInfo:
    """Parameters of one part, and how many of its numbers are stored in which dtype."""

    parameters: int = 0
    #: Parameters in matrices of linear layers, which int8 and 4-bit loading compress.
    compressible: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, info: TensorInfo) -> None:
        self.parameters += info.numel
        if len(info.shape) == 2 and not any(mark in name for mark in ("embed", "lm_head", "pos_")):
            self.compressible += info.numel
        key = str(info.dtype).removeprefix("torch.")
        self.dtypes[key] = self.dtypes.get(key, 0) + info.numel


@dataclass
class FolderInfo:
    """What `inspect` found.

    Attributes:
        path: what was looked at.
        kind: "emu2", "emu2-pipeline", "hf-base", "native-gen", "eva-clip", ... or "unknown".
        title: the same for people.
        parts: part -> `PartInfo`.
        missing: files and tensors that should be there and are not.
        notes: further remarks.
    """

    path: str
    kind: str
    title: str
    parts: dict[str, PartInfo] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts.values())

    def memory(self) -> dict[str, int]:
        """Bytes of the weights alone when loaded in each precision; activations and caches come on top.

        int8 and 4-bit loading compress the matrices of linear layers and leave the rest in bfloat16.
        """
        compressible = sum(part.compressible for part in self.parts.values())
        rest = self.parameters - compressible
        return {
            "float32": 4 * self.parameters,
            "bfloat16": 2 * self.parameters,
            "int8": compressible + 2 * rest,
            "4bit": int(compressible * _BITS_4BIT / 8) + 2 * rest,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return {**asdict(self), "parameters": self.parameters, "memory": self.memory()}


def recognise(path: str | Path) -> str:
    """The kind of a folder or weight file; see `FolderInfo`.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: a weight file that is damaged or refused.
    """
    path = Path(path)
    if path.is_file():
        return _recognise_names(WeightFile(path).infos)
    if not path.is_dir():
        raise FileNotFoundError(f"There is neither a folder nor a file at {path}.")
    index = _json(path / "model_index.json")
    if index is not None:
        name = index.get("_class_name")
        name = name[-1] if isinstance(name, list) else name
        known = {
            "Emu2ImagePipeline": "emu2-pipeline",
            "Emu2VideoPipeline": "emu2-video-pipeline",
            "EmuVisualGenerationPipeline": "hf-gen",
        }
        return known.get(name or "", "diffusers")
    if (path / MANIFEST).is_file():
        return "emu2-variants"
    if (path / "adapter_config.json").is_file():
        return "adapter"
    fields = _json(path / "config.json")
    if fields is None:
        return "unknown"
    if fields.get("model_type") == "emu2":
        return "emu2"
    if is_published_config(fields):
        chat = fields.get("model_version") == "chat" or fields.get("vocab_size") == tokens.CHAT_VOCAB_SIZE
        return "hf-chat" if chat else "hf-base"
    return "language-model" if "hidden_size" in fields and has_weights(path) else "unknown"


def _recognise_names(infos: Mapping[str, TensorInfo]) -> str:
    if any(name.startswith("multimodal_encoder.") for name in infos):
        return "native-gen"
    if any(name.startswith("decoder.lm.") for name in infos):
        rows = infos.get("decoder.lm.lm_head.weight", TensorInfo((0,), next(iter(infos.values())).dtype)).shape[0]
        return "native-chat" if rows == tokens.CHAT_VOCAB_SIZE else "native-base"
    if any(name.removeprefix("visual.").removeprefix("trunk.") == "cls_token" for name in infos):
        return "eva-clip"
    return "unknown"


def inspect(path: str | Path) -> FolderInfo:
    """Describe a model folder, pipeline folder or weight file, from headers alone.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: a weight file that is damaged or refused.
    """
    path = Path(path)
    kind = recognise(path)
    info = FolderInfo(str(path), kind, _TITLES[kind])
    if path.is_file():
        _count(info, WeightFile(path).infos)
    elif kind in ("emu2-pipeline", "emu2-video-pipeline", "hf-gen", "diffusers"):
        _inspect_pipeline(info, path)
    elif kind == "emu2-variants":
        _inspect_variants(info, path)
    elif kind != "unknown":
        listed = _listing(info, path)
        _count(info, listed)
        if kind in ("emu2", "hf-base", "hf-chat"):
            _compare(info, path, listed)
            _look_for_tokenizer(info, path)
    else:
        found = sorted(entry.name for entry in path.iterdir())
        info.notes.append(
            "looked for config.json, model_index.json and adapter_config.json; found "
            + (", ".join(found[:8]) + (", ..." if len(found) > 8 else "") if found else "nothing")
        )
    return info


def _inspect_pipeline(info: FolderInfo, path: Path) -> None:
    index = _json(path / "model_index.json") or {}
    for name, described in index.items():
        if name.startswith("_") or not isinstance(described, list) or described[0] is None:
            continue
        if not (path / name).is_dir():
            info.missing.append(f"{name}/")
            continue
        if not has_weights(path / name):
            continue
        listed = _listing(info, path / name, prefix=f"{name}/")
        _count(info, {f"{name}.{key}": value for key, value in listed.items()})
        if name == "multimodal_encoder":
            _compare(info, path / name, listed)
    if info.kind != "diffusers":
        holder = next((path / name for name in ("processor", "tokenizer") if (path / name).is_dir()), None)
        if holder is None:
            info.missing.append("processor/ (tokeniser and image settings)")
        else:
            _look_for_tokenizer(info, holder, needs_processor=holder.name == "processor")


def _inspect_variants(info: FolderInfo, path: Path) -> None:
    variants = (_json(path / MANIFEST) or {}).get("variants", {})
    files = {"vision tower": path / VISION}
    for name in variants:
        files[f"{name}: bridge, language model"] = path / name / WEIGHTS
        if (path / name / VISION).is_file():
            files[f"{name}: its own vision tower"] = path / name / VISION
    for part, folder in {"U-Net": "unet", "VAE": "vae", "video U-Net": "video/unet"}.items():
        whole, temporal = (path / folder / name for name in ("diffusion_pytorch_model.safetensors", TEMPORAL))
        files[part] = temporal if temporal.is_file() else whole
    for part, file in files.items():
        if not file.is_file():
            info.missing.append(str(file.relative_to(path)))
            continue
        counted = info.parts.setdefault(part, PartInfo())
        for name, tensor in WeightFile(file).infos.items():
            counted.add(name, tensor)
    _look_for_tokenizer(info, path / PROCESSOR)


def _listing(info: FolderInfo, folder: Path, *, prefix: str = "") -> dict[str, TensorInfo]:
    """Names and shapes of all shards that are there; those that are not are noted."""
    index = find_index(folder)
    if index is not None:
        wanted = sorted(set(read_index(index).values()))
        files = [folder / name for name in wanted if (folder / name).is_file()]
        info.missing += [f"{prefix}{name} (shard)" for name in wanted if not (folder / name).is_file()]
    else:
        files = [folder / name for name in SINGLE_NAMES if (folder / name).is_file()][:1]
        if not files:
            here = [file for file in sorted(folder.iterdir()) if file.suffix in (SAFETENSORS_SUFFIX, *PICKLE_SUFFIXES)]
            files = here if info.kind == "adapter" else []
        if not files:
            info.missing.append(f"{prefix}model.safetensors (no weights)")
    listed: dict[str, TensorInfo] = {}
    for file in files:
        listed.update(WeightFile(file).infos)
    return listed


def _count(info: FolderInfo, listed: Mapping[str, TensorInfo]) -> None:
    for name, tensor in listed.items():
        if name.endswith((".rotary_emb.inv_freq", "position_ids")):
            continue
        info.parts.setdefault(_part_of(name, info.kind), PartInfo()).add(name, tensor)
    known = [name for name in _PARTS if name in info.parts]
    info.parts = {name: info.parts[name] for name in [*known, *(name for name in info.parts if name not in known)]}


def _part_of(name: str, kind: str) -> str:
    """The part a tensor belongs to, for the table."""
    if kind == "language-model":
        return "language model"
    component = next((key for key in split_components([name]) if key), "")
    inner = name.removeprefix(f"{component}.") if component else name
    if component not in ("", "multimodal_encoder"):
        return {"unet": "U-Net", "vae": "VAE", "safety_checker": "safety checker"}[component]
    for mark, part in (
        ("project_", "bridge"),
        ("visual.", "vision tower"),
        ("lm_head", "language model"),
        ("language_model.", "language model"),
        ("decoder.lm.", "language model"),
        ("text.", "text tower"),
    ):
        if inner.removeprefix("model.").startswith(mark):
            return part
    return "vision tower" if kind == "eva-clip" else inner.split(".")[0] if kind == "diffusers" else "other"


def _compare(info: FolderInfo, folder: Path, listed: Mapping[str, TensorInfo]) -> None:
    """Tensors that the configuration asks for and no shard holds, or of another shape."""
    from emu2.configuration import Emu2Config
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration

    fields = _json(folder / "config.json")
    if fields is None or not listed:
        return
    try:
        config = published_to_config(fields) if is_published_config(fields) else Emu2Config.from_dict(fields)
        empty = meta_model(Emu2ForConditionalGeneration, config)
    except Exception as error:  # whatever a damaged configuration may raise; the rest can still be told
        info.notes.append(f"no model can be built from config.json: {error}")
        return
    plan = plan_reading(listed, recognise_scheme(listed) or "ours")
    if fields.get("quantization_config"):
        info.notes.append("weights are quantised; shapes are not compared")
        return
    tied = empty.all_tied_weights_keys
    lost = [name for name in empty.state_dict() if name not in plan.pieces and name not in tied]
    info.missing += _shortened(f"tensor {plan.source_name(name)}" for name in lost)
    for name, tensor in empty.state_dict().items():
        piece = plan.pieces.get(name)
        if piece is not None and piece_info(piece, listed[piece.source]).shape != tuple(tensor.shape):
            found = list(listed[piece.source].shape)
            info.notes.append(f"tensor {piece.source} is {found}, the configuration asks for {list(tensor.shape)}")


def _look_for_tokenizer(info: FolderInfo, folder: Path, *, needs_processor: bool = True) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        info.missing.append(" or ".join(_TOKENIZER_FILES))
    ours = info.kind.startswith("emu2")
    if needs_processor and ours and not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        info.missing.append("processor_config.json")


def _shortened(items: Iterable[str], most: int = 5) -> list[str]:
    listed = list(items)
    return listed[:most] + ([f"... and {len(listed) - most} more"] if len(listed) > most else [])


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not what it should be: expected a JSON object.")
    return content
