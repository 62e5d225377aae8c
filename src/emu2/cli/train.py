"""`emu2 train`: carry out a named run."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emu2.cli.common import JsonOption, bad_usage, console, write_json

if TYPE_CHECKING:
    from emu2.train.config import RunConfig

HELP = """Train a model: one recipe is one stage, from nothing or from a model folder.

[bold]Examples[/bold]

  emu2 train vision --out runs/vision

  emu2 train caption --model runs/vision/model --out runs/caption --set optim.lr=1e-3 --set steps=500

  emu2 train unified --out runs/unified --resume

  emu2 train chat --model FOLDER --data my.jsonl --lora 16 --out runs/mine

  emu2 train gen --model FOLDER --data my_pairs/ --epochs 20

  emu2 train nano --all --budget cpu --minutes 60

  torchrun --nproc-per-node 8 --no-python emu2 train unified --size 37b --model FOLDER --accumulate 50

Recipes, in the order a model from nothing goes through them: vision, language, caption, unified, autoencoder, decoder,
video_decoder, reading (nano alone), chat, gen. With --all instead of one of them a size that starts from nothing, nano
or debug: all of its stages, in pieces if one likes; the same command goes on. A run's folder holds config.json,
log.jsonl, tensorboard/, checkpoints/ and, once it is complete, summary.json and model/ (with --lora adapter/).
"""

#: Beside a run's config.json: the model it started from, so that --resume need not be told.
_START = "start.json"
#: Passes over one's own data.
_EPOCHS = 3.0

_RUN, _ALL, _TUNE, _PLAN, _OUTPUT = "Run", "All stages", "Your own data", "Plan", "Output"


def command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Which run.", show_default=False)],
    all_stages: Annotated[
        bool,
        typer.Option("--all", help="RECIPE is a size, nano or debug: train all of its stages.", rich_help_panel=_ALL),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="BUDGET",
            help="gpu, or cpu: two cores, fewer steps.  \\[default: gpu where there is one]",
            rich_help_panel=_ALL,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", metavar="M", help="Stop in order after so long.", rich_help_panel=_ALL),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            help="Size the recipe is made for: debug, nano or 37b.  \\[default: the model's, else debug]",
            rich_help_panel=_RUN,
        ),
    ] = None,
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
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            metavar="[KIND=]PATH",
            help="Your own data instead of the recipe's: files, a folder or a glob. May be repeated.",
            rich_help_panel=_TUNE,
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option("--epochs", help="Passes over --data.  \\[default: 3]", rich_help_panel=_TUNE),
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            "--lora", min=1, metavar="RANK", help="Train adapters of this rank, not the weights.", rich_help_panel=_TUNE
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            "--accumulate",
            min=1,
            metavar="N",
            help="Cut every batch into N parts: learns the same in less memory.",
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
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Print what the run needs on --gpus of --gpu and leave.", rich_help_panel=_PLAN),
    ] = False,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="How many, for --plan.", rich_help_panel=_PLAN)] = 8,
    gpu: Annotated[str, typer.Option("--gpu", help="h100, h200 or a100, for --plan.", rich_help_panel=_PLAN)] = "h100",
    mfu: Annotated[
        float, typer.Option("--mfu", help="Share of the peak the run will reach, for --plan.", rich_help_panel=_PLAN)
    ] = 0.4,
    json_output: JsonOption = False,
) -> None:
    from emu2 import recipes
    from emu2.train.config import to_dict, with_overrides

    out = out or Path("runs") / recipe
    if all_stages:
        from emu2.cli.train_all import train_all

        single = {"--size": size, "--model": model, "--data": data, "--epochs": epochs, "--lora": lora, "--plan": plan}
        single |= {"--accumulate": accumulate, "--device": device, "--dtype": dtype}
        train_all(
            recipe,
            out,
            budget=budget,
            minutes=minutes,
            seed=seed or 0,
            settings=settings or [],
            refused=single,
            show=show,
            json_output=json_output,
        )
        return
    if budget is not None or minutes is not None:
        raise typer.BadParameter("--budget and --minutes are for all stages at once: emu2 train nano --all")
    model = _shipped(model) or (_started_from(out) if resume else None)
    if resume and not (data or epochs or lora or accumulate or size):
        config = _resolved(out, recipe)
    else:
        with bad_usage("RECIPE / --size"):
            config = recipes.recipe(recipe, size or _size_of(model) or "debug")
        if data:
            config = _on_own_data(config, data, model, epochs=epochs, lora=lora)
        elif epochs is not None:
            raise typer.BadParameter(
                "passes are counted over --data; without it --set steps=...", param_hint="'--epochs'"
            )
    given = {"seed": seed, "device": device, "dtype": dtype, "lora.rank": lora}
    with bad_usage("--set"):
        config = with_overrides(config, settings or [])
        chosen = {key: value for key, value in given.items() if value is not None}
        config = with_overrides(config, [f"{key}={value}" for key, value in chosen.items()])
    if accumulate is not None:
        with bad_usage("--accumulate"):
            config = recipes.accumulated(config, accumulate)
    if show:
        write_json(**to_dict(config))
        return
    if plan:
        _print_plan(config, gpus, gpu, mfu, json_output=json_output)
        return
    _carry_out(config, out, model, resume=resume, json_output=json_output)


def _print_plan(config: "RunConfig", gpus: int, gpu: str, mfu: float, *, json_output: bool) -> None:
    from emu2.train.plan import plan

    with bad_usage("--plan"):
        found = plan(config, gpus, gpu, mfu=mfu)
    if json_output:
        write_json(**found.to_dict())
    else:
        console().print(found.table())


def _carry_out(config: "RunConfig", out: Path, model: Path | None, *, resume: bool, json_output: bool) -> None:
    import dataclasses

    started = (out / "config.json").exists()
    if started and not resume:
        raise typer.BadParameter(f"--out: {out} holds a run already; give --resume to continue it, or another folder.")
    if resume and not started:
        raise _no_run(out)
    if model is not None:
        from emu2.recipes.checks import check_folder

        with bad_usage("--model"):
            check_folder(model)

    from emu2.model.runtime import resolve_device
    from emu2.recipes.start import quiet_libraries, train

    with bad_usage("--device"):
        resolve_device(config.device)
    config = dataclasses.replace(config, save_every=config.save_every or max(1, config.steps // 10))
    main = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    if main and model is not None and not resume:
        out.mkdir(parents=True, exist_ok=True)
        (out / _START).write_text(json.dumps({"model": str(model.absolute())}))
    quiet_libraries()
    summary = train(config, out, model=model, resume=resume, console=console(stderr=True), quiet=json_output)
    if not main:
        return
    made = out / ("adapter" if config.lora else "model")
    if json_output:
        write_json(**summary.to_dict(), **{made.name: str(made)})
        return
    if summary.stopped:
        console().print(f"Stopped by {summary.stopped} after {summary.steps} steps; --resume --out {out} continues.")
        return
    losses = ", ".join(f"{name} {value:.4f}" for name, value in summary.losses.items())
    console().print(f"[bold]{summary.name}[/bold]: {summary.steps} steps in {summary.seconds:.0f} s; {losses}.")
    console().print(f"{made.name.capitalize()}: {made}")


def _no_run(out: Path) -> typer.BadParameter:
    return typer.BadParameter(f"--resume: there is no run in {out} to continue.")


def _resolved(out: Path, recipe: str) -> "RunConfig":
    """The settings of the run in `out`.

    Raises:
        typer.BadParameter: there is none, or it is of another recipe.
    """
    from emu2.train.config import from_dict

    file = out / "config.json"
    if not file.is_file():
        raise _no_run(out)
    with bad_usage("--resume"):
        config = from_dict(json.loads(file.read_text(encoding="utf-8")))
    if config.name != recipe:
        raise typer.BadParameter(f"--resume: the run in {out} is one of the recipe {config.name!r}, not {recipe!r}.")
    return config


def _on_own_data(
    config: "RunConfig", data: list[str], model: Path | None, *, epochs: float | None, lora: int | None
) -> "RunConfig":
    from emu2.recipes.checks import context_of
    from emu2.recipes.tuning import tuned, with_data

    context = context_of(model) if model is not None else None
    with bad_usage("--data"):
        return tuned(with_data(config, data), epochs=_EPOCHS if epochs is None else epochs, lora=lora, context=context)


def _shipped(model: Path | None) -> Path | None:
    """Where a model lies that is given by the name it ships under; as given otherwise."""
    from emu2.inference.names import shipped_folder

    if model is None or model.exists():
        return model
    return shipped_folder(str(model)) or model


def _started_from(out: Path) -> Path | None:
    """The model that the run in `out` was started from."""
    file = out / _START
    return Path(json.loads(file.read_text())["model"]) if file.is_file() else None


def _size_of(model: Path | None) -> str | None:
    if model is None:
        return None
    from emu2.recipes.checks import size_of

    return size_of(model)
