"""What a run came to, in a few values."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """The end of a run.

    losses: the last step's. bad: unusable samples by cause. skipped: steps left out because something was not finite.
    stopped: the signal that ended the run before its last step, if one did; it can be resumed.
    """

    name: str
    steps: int
    seconds: float
    losses: dict[str, float]
    bad: dict[str, int]
    out: str
    skipped: int = 0
    stopped: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
