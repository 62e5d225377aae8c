"""`emu2 train`: carry out a named run."""

from pathlib import Path
from typing import Annotated

import typer

from emu2.cli.common import JsonOption, bad_usage, console, write_json

HELP = """Train a model: one recipe is one stage, from nothing or from a model folder.

[bold]Examples[/bold]

  emu2 train vision --out runs/vision

  emu2 train caption --model runs/vision/model --out runs/caption --set optim.lr=1e-3 --set steps=500

  emu2 train unified --model runs/caption/model --out runs/unified --seed 1

  emu2 train unified --model runs/caption/model --out runs/unified --resume

Recipes, in the order a model from nothing goes through them: vision, caption, unified, autoencoder, decoder. A run's
folder holds config.json, log.jsonl, tensorboard/, checkpoints/ and, once it is complete, model/ and summary.json.
"""

_RUN, _OUTPUT = "Run", "Output"


def command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Which run.", show_default=False)],
    size: Annotated[str, typer.Option("--size", help="Size the recipe is made for.", rich_help_panel=_RUN)] = "debug",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting. May be repeated.", rich_help_panel=_RUN),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            metavar="FOLDER",
            help="Model to start from; without it, from nothing.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of weights, data and noise.", rich_help_panel=_RUN)
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...  \\[default: cpu]", rich_help_panel=_RUN)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32 or bfloat16, of the weights  \\[default: float32]", rich_help_panel=_RUN),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out from its newest checkpoint.", rich_help_panel=_RUN),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FOLDER", help="The run's folder  \\[default: runs/RECIPE]", rich_help_panel=_OUTPUT
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the resolved settings as JSON and leave.", rich_help_panel=_OUTPUT)
    ] = False,
    json_output: JsonOption = False,
) -> None:
    import dataclasses

    from emu2 import recipes
    from emu2.train.config import to_dict, with_overrides

    with bad_usage("RECIPE / --size"):
        config = recipes.recipe(recipe, size)
    given = {"seed": seed, "device": device, "dtype": dtype}
    with bad_usage("--set"):
        config = with_overrides(config, settings or [])
        chosen = {key: value for key, value in given.items() if value is not None}
        config = with_overrides(config, [f"{key}={value}" for key, value in chosen.items()])
    if show:
        write_json(**to_dict(config))
        return
    out = out or Path("runs") / recipe
    started = (out / "config.json").exists()
    if started and not resume:
        raise typer.BadParameter(f"--out: {out} holds a run already; give --resume to continue it, or another folder.")
    if resume and not started:
        raise typer.BadParameter(f"--resume: there is no run in {out} to continue.")

    from emu2.model.runtime import resolve_device
    from emu2.recipes.start import train

    with bad_usage("--device"):
        resolve_device(config.device)
    config = dataclasses.replace(config, save_every=config.save_every or max(1, config.steps // 10))
    summary = train(config, out, model=model, resume=resume, console=console(stderr=True), quiet=json_output)
    if json_output:
        write_json(**summary.to_dict(), model=str(out / "model"))
        return
    losses = ", ".join(f"{name} {value:.4f}" for name, value in summary.losses.items())
    console().print(f"[bold]{summary.name}[/bold]: {summary.steps} steps in {summary.seconds:.0f} s; {losses}.")
    console().print(f"Model: {out / 'model'}")
