"""`emu2 train SIZE --all`: every stage of a size that starts from nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from emu2.cli.common import bad_usage, console, write_json


def train_all(
    size: str,
    out: Path,
    *,
    budget: str | None,
    minutes: float | None,
    seed: int,
    settings: list[str],
    refused: Mapping[str, Any],
    show: bool,
    json_output: bool,
) -> None:
    """Carry out a pipeline, or a piece of it.

    Args:
        refused: options that belong to single recipes, by name; none may be given.

    Raises:
        typer.BadParameter: such an option was given; an unknown size or budget; a wrong setting; a folder that is in
            use or belongs to another pipeline.
        RuntimeError: a stage failed.
    """
    given = [name for name, value in refused.items() if value]
    if given:
        raise typer.BadParameter(
            f"{given[0]} is for a single recipe; with --all settings are changed with --set key=value, or "
            "--set STAGE.key=value for one stage."
        )
    if minutes is not None and minutes <= 0:
        raise typer.BadParameter(f"--minutes must be above 0; got {minutes:g}.")
    from emu2.recipes.budgets import BUDGETS, stages

    budget = budget or ("gpu" if _has_gpu() else "cpu")
    with bad_usage("--all"):
        chosen = stages(size, budget, seed=seed, settings=settings)
    if show:
        from emu2.train.config import to_dict

        write_json(**{name: to_dict(config) for name, config in chosen.items()})
        return
    from emu2.model.runtime import resolve_device

    with bad_usage("--budget"):
        for config in chosen.values():
            resolve_device(config.device)
    from emu2.recipes.pipeline import Pipeline

    with bad_usage("--out"):
        pipeline = Pipeline(
            out,
            chosen,
            lanes=BUDGETS[budget].lanes,
            about={"size": size, "budget": budget, "seed": seed, "settings": settings},
        )
        outcome = pipeline.run(minutes=minutes, console=console(stderr=True), quiet=json_output)
    if json_output:
        write_json(**outcome.to_dict())
        return
    done = f"{len(outcome.finished)} of {len(chosen)} stages complete"
    if outcome.stopped:
        why = "The time is up" if outcome.stopped == "minutes" else f"Stopped by {outcome.stopped}"
        console().print(f"{why}: {done}. The same command goes on.")
    else:
        console().print(f"[bold]{size}[/bold]: {done}.")
    for name, path in (("Model", outcome.model), ("Report", outcome.report)):
        if path is not None:
            console().print(f"{name}: {path}", highlight=False)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
