"""What is kept of a step whose loss or gradient is not a number, so that somebody can look at it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

if TYPE_CHECKING:
    from emu2.train.objectives import Batch


class NonFiniteError(RuntimeError):
    """A loss or gradient is not a number. The weights are those before the step."""


def keep_batches(
    out: Path, step: int, batches: Sequence[Batch | None], found: Mapping[str, Any], *, rank: int = 0
) -> Path:
    """Write the micro-batches of a step under `out/nonfinite/step-N/`.

    batch-0.safetensors ...: tensors of a micro-batch. batches.json: `found`, and of each micro-batch its records' keys,
    seeds and counts of targets. With several ranks each writes into a folder of its own.
    """
    folder = out / "nonfinite" / f"step-{step:08d}" / (f"rank-{rank}" if rank else "")
    folder.mkdir(parents=True, exist_ok=True)
    facts = []
    for number, batch in enumerate(batches):
        if batch is None:
            continue
        if batch.tensors:
            tensors = {name: value.detach().cpu().contiguous() for name, value in batch.tensors.items()}
            save_file(tensors, folder / f"batch-{number}.safetensors")
        facts.append({"batch": number, "keys": batch.keys, "seeds": batch.seeds, "counts": batch.counts})
    values = {name: str(value) if isinstance(value, float) else value for name, value in found.items()}
    (folder / "batches.json").write_text(json.dumps({"step": step, **values, "batches": facts}, indent=1))
    return folder


def complaint(step: int, norm: float, losses: Mapping[str, float], batches: Sequence[Batch | None], kept: Path) -> str:
    """What a run says before it stops; `losses` by term, `norm` of the gradient."""
    bad_loss = {name: value for name, value in losses.items() if value != value or abs(value) == float("inf")}
    what, value = ("loss", next(iter(bad_loss.values()))) if bad_loss else ("gradient norm", norm)
    keys = [key for batch in batches if batch is not None for key in batch.keys]
    return (
        f"The {what} of step {step} is {value}; no weight was moved. Losses: {dict(losses)}. Records of this step: "
        f"{', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}; they are kept in {kept}. A lower optim.lr or a "
        'longer optim.warmup_steps often helps; nonfinite="skip" leaves such steps out. The newest checkpoint is '
        "from before this step."
    )
