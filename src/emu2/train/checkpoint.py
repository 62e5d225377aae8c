"""Checkpoints of a run: written aside, synced, then renamed, so that a torn write never replaces a good one.

out/checkpoints/step-00000400/
    weights.safetensors      what the run trains, by parameter name
    optimizer.safetensors    moments of AdamW, by parameter name
    average.safetensors      the moving average, where the run keeps one
    rng.safetensors          state of torch's generators
    state.json               step, position in the data, counters, the resolved config
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_NAME = re.compile(r"step-(\d{8})")


def checkpoint_folder(out: Path) -> Path:
    return out / "checkpoints"


def list_checkpoints(out: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folder = checkpoint_folder(out)
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and (path / "state.json").is_file()]
    return sorted(found, key=lambda path: path.name)


def write_checkpoint(
    out: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], *, keep: int
) -> Path:
    """Write one checkpoint and remove all but the newest `keep`.

    Args:
        tensors: file stem ("weights", "optimizer", ...) -> name -> tensor.
        state: JSON-able.
    """
    folder = checkpoint_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:08d}"
    aside = folder / f".writing-{final.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        for stem, named in tensors.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in named.items()}, aside / f"{stem}.safetensors")
        (aside / "state.json").write_text(json.dumps(state, indent=1))
        for path in aside.iterdir():
            _sync(path)
        _sync(aside)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        _sync(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for old in list_checkpoints(out)[:-keep]:
        shutil.rmtree(old)
    return final


def read_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The inverse of `write_checkpoint`: tensors by file stem, and the state.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    tensors = {}
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text())
        for stem in state["files"]:
            path = folder / f"{stem}.safetensors"
            tensors[stem] = load_file(path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"The checkpoint {folder} is damaged: {path.name} could not be read ({error}). Remove this folder to "
            "resume from the one before it."
        ) from error
    return tensors, state


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """State of the optimizer by parameter name: `{parameter}/{key}`. `names` maps id(parameter) to its name."""
    return {
        f"{names[id(parameter)]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put the state of `optimizer_tensors` back.

    Raises:
        ValueError: it belongs to other parameters.
    """
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition("/")
        if name not in parameters:
            raise ValueError(f"The checkpoint's optimizer knows {name!r}, which this run does not train.")
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU, its moments beside the parameter.
        optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)


def rng_tensors() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_rng(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
