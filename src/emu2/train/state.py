"""A run's state on disk: what a checkpoint holds, and putting it back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from emu2.train import checkpoint
from emu2.train.config import to_dict
from emu2.train.resume import check_data, check_settings

if TYPE_CHECKING:
    from emu2.train.loop import Trainer


def save(run: Trainer) -> Path:
    """Write a checkpoint of the run's present step.

    It holds no generator's state: all chance is a function of the seed and the place in the run.
    """
    names = {id(parameter): name for name, parameter in run.parameters.items()}
    tensors: dict[str, Mapping[str, Tensor]] = {
        "weights": run.parameters,
        "optimizer": checkpoint.optimizer_tensors(run.optimizer, names),
        "average": run.average.shadow if run.average else {},
    }
    state = {
        "step": run.step,
        "data": run.mixture.state_dict(),
        "sources": run.mixture.fingerprints(),
        "bad": dict(run.bad),
        "skipped": run.skipped,
        "average_updates": run.average.updates if run.average else 0,
        "config": to_dict(run.config),
    }
    return run.checkpoints.save(run.step, tensors, state)


def restore(run: Trainer) -> None:
    """Put the newest checkpoint of the run's folder back; nothing where there is none.

    Raises:
        ValueError: it is damaged, or belongs to another stage, other settings, or other data.
    """
    found = checkpoint.list_checkpoints(run.out)
    if not found:
        return
    state = checkpoint.read_state(found[-1])
    check_settings(to_dict(run.config), state["config"], run.out)
    check_data(run.mixture.fingerprints(), state["sources"], run.out)
    moments = checkpoint.stored_tensors(found[-1], "optimizer")
    tensors: dict[str, Mapping[str, Tensor]] = {
        "weights": run.parameters,
        "optimizer": checkpoint.room_for_optimizer(run.optimizer, run.parameters, moments),
        "average": run.average.shadow if run.average else {},
    }
    checkpoint.load_tensors(found[-1], tensors, run.world)
    if run.average is not None:
        run.average.updates = state["average_updates"]
    run.mixture.load_state_dict(state["data"])
    run.bad = Counter(state["bad"])
    run.skipped = state["skipped"]
    run.step = state["step"]
