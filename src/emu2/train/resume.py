"""What a run may change when it is resumed, and what it may not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emu2.train.config import from_dict, to_dict

#: Settings that may differ between a run and its resumption, with all that is below them: they change what is shown or
#: kept, who computes and who reads, never what is learned (beyond the rounding of another device or another order).
FREE_ON_RESUME = (
    *("log_every", "sample_every", "save_every", "save_async", "keep_checkpoints", "validate_every"),
    *("validate_batches", "data.validation_split", "device", "compile", "checkpoint_activations", "parallel"),
    *("data.workers", "max_bad_share", "nonfinite", "stop_deadline_s", "tracker"),
)
_ABSENT = object()


def check_settings(ours: Mapping[str, Any], saved: Mapping[str, Any], out: Path) -> None:
    """Compare two resolved configurations (`to_dict`).

    Raises:
        ValueError: the checkpoint is of another stage, or a setting that must stay differs; the message names it.
    """
    if ours["objective"] != saved.get("objective"):
        raise ValueError(
            f"The run in {out} is of another stage: its checkpoint was written for the objective "
            f"{saved.get('objective')!r}, and is to be resumed for {ours['objective']!r}. To start a stage from the "
            f"model another one left, give that run's 'model' folder (--model) and a new folder for this run (--out)."
        )
    # Read as a configuration: settings that came later have the values they stand for.
    present, before = _flat(ours), _flat(to_dict(from_dict(dict(saved))))
    for path in sorted(set(present) | set(before)):
        if any(path == free or path.startswith(f"{free}.") for free in FREE_ON_RESUME):
            continue
        now, then = present.get(path, _ABSENT), before.get(path, _ABSENT)
        if now != then:
            raise ValueError(
                f"The run in {out} was started with {_told(path, then)}, and is to be resumed with "
                f"{_told(path, now)}. Resume with the same settings, or choose another folder."
            )


def check_data(ours: Mapping[str, str], saved: Mapping[str, str], out: Path) -> None:
    """Compare the sources' fingerprints (`Mixture.fingerprints`).

    Raises:
        ValueError: a source's shard list or annotation files changed since the checkpoint.
    """
    for kind in sorted(set(ours) | set(saved)):
        if ours.get(kind) != saved.get(kind):
            raise ValueError(
                f"The data of kind {kind!r} changed since the checkpoint in {out}: its shard list or annotation files "
                "are others than the run was started with, so its position in them means nothing. Put the data back as "
                "it was, or start a new run from the model trained so far."
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _told(path: str, value: Any) -> str:
    return f"no {path}" if value is _ABSENT else f"{path}={value!r}"
