"""A run's state on disk: what a checkpoint holds, and putting it back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emu2.train import checkpoint
from emu2.train.config import to_dict
from emu2.train.resume import check_data, check_settings

if TYPE_CHECKING:
    from emu2.train.loop import Trainer


def save(run: Trainer) -> Path:
    """Write a checkpoint of the run's present step."""
    names = {id(parameter): name for name, parameter in run.parameters.items()}
    tensors: dict[str, Mapping[str, Tensor]] = {
        "weights": dict(run.parameters),
        "optimizer": checkpoint.optimizer_tensors(run.optimizer, names),
        "rng": checkpoint.rng_tensors(),
    }
    if run.average is not None:
        tensors["average"] = run.average.shadow
    state = {
        "step": run.step,
        "data": run.mixture.state_dict(),
        "sources": run.mixture.fingerprints(),
        "bad": dict(run.bad),
        "skipped": run.skipped,
        "average_updates": run.average.updates if run.average else 0,
        "config": to_dict(run.config),
        "files": sorted(tensors),
    }
    return checkpoint.write_checkpoint(run.out, run.step, tensors, state, keep=run.config.keep_checkpoints)


@torch.no_grad()
def restore(run: Trainer) -> None:
    """Put the newest checkpoint of the run's folder back; nothing where there is none.

    Raises:
        ValueError: it is damaged, or belongs to another stage, other settings, or other data.
    """
    found = checkpoint.list_checkpoints(run.out)
    if not found:
        return
    tensors, state = checkpoint.read_checkpoint(found[-1])
    check_settings(to_dict(run.config), state["config"], run.out)
    check_data(run.mixture.fingerprints(), state["sources"], run.out)
    for name, parameter in run.parameters.items():
        parameter.copy_(tensors["weights"][name])
    checkpoint.load_optimizer(run.optimizer, run.parameters, tensors["optimizer"])
    checkpoint.set_rng(tensors["rng"])
    if run.average is not None:
        run.average.shadow = {name: value.to(run.device) for name, value in tensors["average"].items()}
        run.average.updates = state["average_updates"]
    run.mixture.load_state_dict(state["data"])
    run.bad = Counter(state["bad"])
    run.skipped = state["skipped"]
    run.step = state["step"]
