"""Reading weight files safely and lazily: `.safetensors`, `.bin`, `.pt`, `.pth`, single or sharded.

Opening reads names, shapes and dtypes only. A tensor is read when asked for, through a memory map, and one shard is
mapped at a time, so that the host never holds more of a checkpoint than one shard. Pickles are opened with
`weights_only=True` alone: whatever code they carry is refused, never run.
"""

import json
import pickle
import pickletools
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SAFETENSORS_SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")

#: Index and single-file names a model folder may hold, in order of preference. Emu2-Gen publishes two indexes.
INDEX_NAMES = (
    "model.safetensors.index.json",
    "model.safetensors.index.bf16.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
SINGLE_NAMES = (
    "model.safetensors",
    "model.bf16.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bf16.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)

#: How much of a plain pickle is looked through for the names it calls.
_SCANNED_BYTES = 16 * 2**20
#: Where the functions live by which torch rebuilds tensors and parameters.
_TENSOR_GLOBALS = (
    "torch._utils.",
    "torch._tensor.",
    "torch.storage.",
    "torch.nn.parameter.",
    "collections.OrderedDict",
)

_WRAPPERS = ("model", "module", "state_dict")

_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a tensor that has not been read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


class WeightFile:
    """One weight file, opened: `infos` lists it, `read` returns a tensor of it (on the CPU, from the memory map).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, is no weight file, or is a pickle with code in it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no weight file at {self.path}.")
        if self.path.suffix == SAFETENSORS_SUFFIX:
            self._open_safetensors()
        elif self.path.suffix in PICKLE_SUFFIXES:
            self._open_pickle()
        else:
            known = ", ".join((SAFETENSORS_SUFFIX, *PICKLE_SUFFIXES))
            raise ValueError(f"{self.path} is not a weight file: its name ends in none of {known}.")

    def read(self, name: str) -> Tensor:
        if self._tensors is not None:
            return self._tensors[name]
        return self._handle.get_tensor(name)

    def _open_safetensors(self) -> None:
        self._tensors: Mapping[str, Tensor] | None = None
        try:
            self._handle = safe_open(self.path, framework="pt", device="cpu")
            slices = {name: self._handle.get_slice(name) for name in self._handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(
                f"{self.path} cannot be read as safetensors ({error}). It is truncated or not such a file; "
                f"copy it again."
            ) from error
        self.infos = {
            name: TensorInfo(tuple(piece.get_shape()), _SAFETENSORS_DTYPES[piece.get_dtype()])
            for name, piece in slices.items()
        }

    def _open_pickle(self) -> None:
        with self.path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # files of torch.save before 1.6 are no zip and cannot be mapped
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of unusual pickle protocols; what cannot be read raises
                content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True if is_zip else None)
        except pickle.UnpicklingError as error:
            raise _refusal(self.path, is_zip) from error
        except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{self.path} cannot be read as a torch file ({error!r:.200}). It is truncated or not "
                f"such a file; copy it again."
            ) from error
        self._tensors = unwrap_state_dict(content, self.path)
        self.infos = {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in self._tensors.items()}


def _refusal(path: Path, is_zip: bool) -> ValueError:
    """What to say of a file that torch would not open with weights_only."""
    found = _foreign_globals(path, is_zip)
    if found:
        return ValueError(
            f"{path} is a pickle with code in it and was refused; nothing of it was executed. It calls "
            f"{', '.join(found[:5])}. Ask for the weights as .safetensors, or for a file that holds tensors only."
        )
    return ValueError(f"{path} is not a torch weight file, or it is truncated. Copy it again.")


def _foreign_globals(path: Path, is_zip: bool) -> list[str]:
    """Names a pickle refers to that no tensor needs, read off its instructions without executing any."""
    names: list[str] = []
    try:
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                pickles = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
        else:
            pickles = [path.read_bytes()[:_SCANNED_BYTES]]
        for content in pickles:
            stream, strings = BytesIO(content), [""]
            while stream.tell() < len(content):  # files of torch.save before 1.6 hold several pickles in a row
                for instruction, argument, _ in pickletools.genops(stream):
                    if instruction.name == "GLOBAL":
                        names.append(str(argument).replace(" ", "."))
                    elif instruction.name == "STACK_GLOBAL":
                        names.append(".".join(strings[-2:]))
                    elif isinstance(argument, str):
                        strings.append(argument)
    except (ValueError, OSError, zipfile.BadZipFile):
        pass  # the rest is no pickle; what was found before still tells
    return [
        name for name in dict.fromkeys(names) if not name.startswith(_TENSOR_GLOBALS) and not name.endswith("Storage")
    ]


def unwrap_state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a loaded torch file, out of a wrapper `{"model" | "module" | "state_dict": {...}}` if any.

    A `module.` prefix common to all names, as DistributedDataParallel leaves it, is dropped.

    Raises:
        ValueError: there is no state dict in it.
    """
    for _ in range(len(_WRAPPERS)):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content, Mapping) and key in content), None)
        if not isinstance(inner, Mapping):
            break
        content = inner
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(
            f"{path} holds no state dict: expected a mapping of names to tensors, bare or under one of "
            f"{', '.join(_WRAPPERS)}; found {_describe(content)}."
        )
    if all(name.startswith("module.") for name in content):
        return {name.removeprefix("module."): tensor for name, tensor in content.items()}
    return dict(content)


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with {', '.join(repr(key) for key in list(content)[:5]) or 'nothing in it'}"
    return f"a {type(content).__name__}"


class Checkpoint:
    """All tensors of one file or of a sharded folder, listed at once and read on demand.

    At most one shard is mapped at a time; a tensor that was handed out keeps its shard mapped until it is freed.

    Attributes:
        source: what was opened, for messages.
        infos: name -> `TensorInfo`, over all shards.
        files: the shards, in order.
    """

    def __init__(self, source: str | Path, files: list[Path], index: Mapping[str, str] | None = None):
        self.source = Path(source)
        self.files = files
        self.infos: dict[str, TensorInfo] = {}
        self._where: dict[str, Path] = {}
        self._open: WeightFile | None = None
        self._lock = threading.Lock()
        for path in files:
            opened = WeightFile(path)
            self.infos.update(opened.infos)
            self._where.update(dict.fromkeys(opened.infos, path))
        if index is not None:
            lost = [(name, shard) for name, shard in index.items() if name not in self.infos]
            if lost:
                name, shard = lost[0]
                raise ValueError(
                    f"{self.source}: the index places {name!r} in {shard}, which does not hold it "
                    f"({len(lost)} such tensor(s)). Index and shards do not belong together."
                )

    def read(self, name: str) -> Tensor:
        with self._lock:
            path = self._where[name]
            if self._open is None or self._open.path != path:
                self._open = WeightFile(path)
            return self._open.read(name)

    def close(self) -> None:
        """Let go of the mapped shard; reading again maps it again."""
        with self._lock:
            self._open = None

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def main_dtype(self) -> torch.dtype:
        """The dtype most of the floating point numbers are in; float32 for a checkpoint without any."""
        counts: dict[torch.dtype, int] = {}
        for info in self.infos.values():
            if info.dtype.is_floating_point:
                counts[info.dtype] = counts.get(info.dtype, 0) + info.numel
        return max(counts, key=counts.__getitem__) if counts else torch.float32


def find_index(folder: Path) -> Path | None:
    """The index of a sharded checkpoint in `folder`, by its well-known names."""
    return next((folder / name for name in INDEX_NAMES if (folder / name).is_file()), None)


def read_index(path: Path) -> dict[str, str]:
    """`{tensor name: shard file name}` of an index file.

    Raises:
        ValueError: it is no index, or it names a file outside its folder.
    """
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        entries = {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a checkpoint index: expected JSON with a 'weight_map' ({error!r}).") from error
    for shard in entries.values():
        if Path(shard).name != shard:
            raise ValueError(f"{path} names the shard {shard!r}; a shard lies beside its index, without any folder.")
    return entries


def has_weights(folder: str | Path) -> bool:
    """Whether `folder` holds an index or a single weight file under one of the well-known names."""
    folder = Path(folder)
    return find_index(folder) is not None or any((folder / name).is_file() for name in SINGLE_NAMES)


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Open a weight file, or a folder with a single file or an index and shards.

    Raises:
        FileNotFoundError: nothing there; the message lists what was looked for, or the shards that are missing.
        ValueError: a file is damaged, refused, or disagrees with its index.
    """
    source = Path(source)
    if source.is_file():
        return Checkpoint(source, [source])
    if not source.is_dir():
        raise FileNotFoundError(f"There is neither a weight file nor a folder at {source}.")
    index = find_index(source)
    if index is not None:
        entries = read_index(index)
        shards = sorted(set(entries.values()))
        missing = [shard for shard in shards if not (source / shard).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{source}: {len(missing)} of {len(shards)} shards named by {index.name} are missing: "
                f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. Copy them again."
            )
        return Checkpoint(source, [source / shard for shard in shards], entries)
    for name in SINGLE_NAMES:
        if (source / name).is_file():
            return Checkpoint(source, [source / name])
    raise FileNotFoundError(
        f"{source} holds no weights: looked for {', '.join(INDEX_NAMES)}, {', '.join(SINGLE_NAMES)}."
    )
