"""The finished stages of a pipeline as one folder of three variants: base, chat, gen (`emu2.model.variants`).

    python -m emu2.recipes.assemble runs/nano [FOLDER]

Matrices and kernels are stored in bfloat16. Vectors (biases, norms) stay in float32: they are a hundredth of the bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin
from safetensors.torch import save_file
from torch import Tensor, nn

from emu2.decoder.video_unet import FilmUNet
from emu2.model.variants import MANIFEST, PROCESSOR, TOWER, VISION, WEIGHTS
from emu2.train.whole import Whole

#: Variant -> the stage that made it, and whether the decoders draw what it writes. Chat reads more embeddings of a
#: picture than the decoders know, and learned to answer; as in the paper it draws nothing. So its tower may be its own.
VARIANTS: dict[str, tuple[str, bool]] = {"base": ("unified", True), "chat": ("chat", False), "gen": ("gen", True)}

#: How the small decoders draw best: few steps are enough at this size, and guidance makes their pictures worse. Clips
#: have as many frames and keyframes as those that a decoder learned from.
DRAWING = {"steps": 20, "guidance": 1.0, "frames": 8, "keyframes": 1}


def assemble(runs: str | Path, folder: str | Path) -> Path:
    """Write the three variants.

    Args:
        runs: folder of a pipeline whose stages are complete.
        folder: is replaced, once the new one is whole.

    Raises:
        ValueError: a stage is missing; or the variants do not share what they are to share (a vision tower where they
            draw, a VAE, a tokeniser), because the stages belong to different pipelines.
    """
    runs, folder = Path(runs), Path(folder)
    wholes = {name: _load(runs, stage) for name, (stage, _) in VARIANTS.items()}
    drawing, filming = _load(runs, "decoder"), _load(runs, "video_decoder")
    learned = json.loads((runs / "video_decoder" / "config.json").read_text())
    clips = {"frames": learned["data"]["frames"][0], "keyframes": learned["diffusion"].get("keyframes", 1)}
    return write_variants(wholes, drawing, filming, folder, clips=clips)


def write_variants(
    wholes: Mapping[str, Whole],
    drawing: Whole,
    filming: Whole,
    folder: Path,
    *,
    clips: Mapping[str, int] | None = None,
) -> Path:
    """Write wholes as variants, with the image decoder of `drawing` and the video decoder of `filming`.

    clips: `frames` and `keyframes` of what the video decoder learned from.
    """
    first = next(iter(wholes.values()))
    tower = first.model.model.visual
    # One that draws nothing may see in its own way: no decoder reads its embeddings.
    apart = [
        name for name, whole in wholes.items() if not VARIANTS[name][1] and not _same(tower, whole.model.model.visual)
    ]
    for name, whole in {**wholes, "the image decoder's": drawing, "the video decoder's": filming}.items():
        if name not in apart:
            _require_same(tower, whole.model.model.visual, f"vision tower of {name}")
    _require_same(drawing.vae, filming.frame_vae, "VAE of the video decoder")
    words = first.processor.tokenizer.get_vocab()
    for name, whole in wholes.items():
        if whole.processor.tokenizer.get_vocab() != words:
            raise ValueError(f"The tokeniser of {name} is not that of the other variants: they cannot share one.")
    aside = folder.with_name(f"{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _save(_named(first.model.state_dict(), tower=True), aside / VISION)
    for name, whole in wholes.items():
        whole.model.config.save_pretrained(aside / name)
        if whole.model.generation_config is not None:
            whole.model.generation_config.save_pretrained(aside / name)
        _save(_named(whole.model.state_dict(), tower=False), aside / name / WEIGHTS)
        if name in apart:
            _save(_named(whole.model.state_dict(), tower=True), aside / name / VISION)
    first.processor.save_pretrained(aside / PROCESSOR)
    film = filming.video_unet
    shared = isinstance(film, FilmUNet) and film.draws_as(drawing.unet)
    for place, module in {"vae": drawing.vae, "unet": drawing.unet}.items():
        small(module).save_pretrained(aside / place)
    # A video U-Net that is this image decoder over time is stored as what it has beyond it.
    (small(film).save_temporal if shared else small(film).save_pretrained)(aside / "video" / "unet")
    drawing.scheduler.save_pretrained(aside / "scheduler")
    filming.video_scheduler.save_pretrained(aside / "video" / "scheduler")
    listed = {name: {"draws": VARIANTS[name][1]} for name in wholes}
    (aside / MANIFEST).write_text(json.dumps({"variants": listed, "drawing": DRAWING | dict(clips or {})}, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return folder


def small(module: nn.Module) -> Any:
    """A module with its matrices and kernels in bfloat16, in place, and without the name of the folder it was in."""
    if isinstance(module, ConfigMixin):
        module.register_to_config(_name_or_path="")
    for parameter in module.parameters():
        parameter.data = _small(parameter.data)
    return module


def _small(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.ndim > 1 else tensor


def _named(tensors: Mapping[str, Tensor], *, tower: bool) -> dict[str, Tensor]:
    return {
        name: _small(tensor).contiguous().clone() for name, tensor in tensors.items() if name.startswith(TOWER) == tower
    }


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    save_file(tensors, file, metadata={"format": "pt"})


def _load(runs: Path, stage: str) -> Whole:
    folder = runs / stage / "model"
    if not folder.is_dir():
        raise ValueError(f"The stage {stage!r} is not complete: there is no {folder}.")
    return Whole.load(folder)


def _same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _require_same(one: nn.Module, other: nn.Module, what: str) -> None:
    if not _same(one, other):
        raise ValueError(
            f"The {what} is another than the others': these stages do not belong to one pipeline. Train the ones that "
            "follow `caption` and `autoencoder` again from these."
        )


def folder_bytes(folder: str | Path) -> int:
    """Of all files below a folder."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m emu2.recipes.assemble", description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, help="folder of a pipeline")
    parser.add_argument("folder", type=Path, nargs="?", help="where to write; RUNS/model if left out")
    given = parser.parse_args()
    folder = assemble(given.runs, given.folder or given.runs / "model")
    print(f"{folder}: {folder_bytes(folder) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
