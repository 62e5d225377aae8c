"""Counts the samples that could not be used, and stops a run that loses too many."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

_log = logging.getLogger(__name__)
#: Until so many samples are seen the share is taken of so many, lest one bad sample in the first batch end the run.
_FIRST = 50
#: Causes that a complaint lists.
_LISTED = 5


def require_usable(
    bad: Counter[str], seen: int, limit: float, examples: Mapping[str, str], *, nothing_left: bool = False
) -> None:
    """Refuse to go on where more than a share `limit` of the `seen` samples was bad, or nothing is left of a step.

    Raises:
        ValueError: with the most frequent causes, and an example of each.
    """
    if bad.total() <= limit * max(seen, _FIRST) and not nothing_left:
        return
    causes = "; ".join(
        f"{number} x {cause}" + (f" ({examples[cause]})" if cause in examples else "")
        for cause, number in bad.most_common(_LISTED)
    )
    raise ValueError(
        f"{bad.total()} of the {seen} samples so far could not be used, more than the allowed share of {limit:.0%} "
        f"(max_bad_share), or all of one step. Causes: {causes}."
    )


def tell_new(step: int, bad: Counter[str], known: Counter[str], examples: Mapping[str, str]) -> None:
    """Log each cause the first time it is met."""
    for cause in sorted(set(bad) - set(known)):
        _log.warning("Step %d: unusable sample left out: %s", step, examples.get(cause, cause))
