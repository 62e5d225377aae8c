"""Stable Diffusion XL -> Emu2's image decoder: the same U-Net, reading Emu2's embeddings.

At full size 141 of the U-Net's 1680 tensors change shape: the 140 key and value projections of cross-attention, whose
input is now as wide as the embeddings, and the first layer of the added conditioning, in which the mean embedding takes
the place of SDXL's pooled text. How the authors started these is not published; here the projections start fresh, and
the columns of the six embedded size numbers are copied.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emu2.convert import components
from emu2.convert.report import PartReport
from emu2.model.weight_files import open_checkpoint


def build_decoder(
    folder: Path,
    width: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    check_finite: bool = True,
) -> tuple[Any, Any, dict[str, Any] | None, dict[str, PartReport]]:
    """U-Net and autoencoder of an SDXL folder, the U-Net made to read embeddings of another width.

    Args:
        folder: holds `unet/` and `vae/`, perhaps `scheduler/`; plain or fp16 weights, safetensors or pickles, old
            attention names in the autoencoder or today's.
        width: of the embeddings (1792 published).
        dtype, device: of the result.
        seed: of what starts fresh.
        check_finite: refuse NaN and infinity.

    Returns:
        the U-Net, the autoencoder, the scheduler's configuration if there is one, and a report for each.

    Raises:
        ValueError: not an SDXL folder, or its weights do not fit its configuration.
    """
    for name in ("unet", "vae"):
        if not (folder / name / "config.json").is_file():
            raise ValueError(f"{folder} is not an SDXL folder: looked for {name}/config.json.")
    unet, unet_report = _unet(folder / "unet", width, seed, dtype=dtype, device=device, check_finite=check_finite)

    files = open_checkpoint(folder / "vae")
    sources = {components.modern_vae_name(name): name for name in files}
    vae = components.fill_module(
        components.empty_vae(_json(folder / "vae" / "config.json")),
        files,
        sources,
        dtype=dtype,
        device=device,
        check_finite=check_finite,
    )
    vae_report = PartReport(str(folder / "vae"), copied=list(sources))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    return unet, vae, _json(scheduler) if scheduler.is_file() else None, {"U-Net": unet_report, "VAE": vae_report}


def _unet(folder: Path, width: int, seed: int, **placed: Any) -> tuple[Any, PartReport]:
    fields = _json(folder / "config.json")
    if fields.get("addition_embed_type") != "text_time":
        raise ValueError(f"{folder} is not a U-Net of SDXL's form: its addition_embed_type is not 'text_time'.")
    # six size numbers (original, crop, target), each embedded on its own; diffusers puts them behind the text's mean
    size_columns = 6 * fields["addition_time_embed_dim"]
    unet = components.empty_unet(
        {
            **fields,
            "cross_attention_dim": width,
            "projection_class_embeddings_input_dim": width + size_columns,
            "encoder_hid_dim": None,
            "encoder_hid_dim_type": None,
        }
    )
    generator = torch.Generator().manual_seed(seed)
    report = PartReport(str(folder))
    special: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, tensor in unet.state_dict().items():
        shape = tuple(tensor.shape)
        if name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight")):
            special[name] = partial(_fresh, shape, generator)
            report.fresh.append(name)
        elif name == "add_embedding.linear_1.weight":
            special[name] = partial(_keep_last_columns, shape, generator, size_columns)
            report.resized.append(name)
        else:
            report.copied.append(name)
    checkpoint = open_checkpoint(folder)
    sources = {name: name for name in checkpoint}
    return components.fill_module(unet, checkpoint, sources, special=special, **placed), report


def _fresh(shape: tuple[int, ...], generator: torch.Generator, _: Tensor) -> Tensor:
    """What `nn.Linear` starts with: uniform within one over the root of the number of inputs."""
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _keep_last_columns(shape: tuple[int, ...], generator: torch.Generator, count: int, old: Tensor) -> Tensor:
    return torch.cat([_fresh(shape, generator, old)[:, :-count], old[:, -count:].float()], dim=1)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
