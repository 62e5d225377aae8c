"""`emu2 eval`: measure a model."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from emu2.cli.common import (
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    ModelOption,
    bad_usage,
    check_model,
    console,
    load_model,
    write_json,
)

HELP = """Measure what a model can do, on scenes that it never trained on.

[bold]Examples[/bold]

  emu2 eval miniature --model FOLDER --quick

  emu2 eval miniature --model runs/unified/model --chat runs/chat/model --gen runs/gen/model --out eval

  emu2 eval miniature --model FOLDER --only captioning --only naming --json
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=HELP)

_MODELS, _ASKED, _OUTPUT = "Model", "What is asked", "Output"


class GroupName(str, Enum):
    """emu2.evaluate.miniature.GROUPS, for the help."""

    captioning = "captioning"
    chat = "chat"
    naming = "naming"
    families = "families"
    tuning = "tuning"
    autoencoding = "autoencoding"
    text_to_image = "text_to_image"
    subject = "subject"
    edit = "edit"
    drawing = "drawing"
    video = "video"


@app.callback()
def _eval() -> None:
    """`emu2 eval` is a group of commands, however few there are."""


@app.command("miniature")
def miniature_command(
    model: ModelOption = "nano",
    chat: Annotated[
        Path | None,
        typer.Option(
            "--chat",
            metavar="FOLDER",
            help="The variant that chats.  \\[default: chat/ in --model, or --model itself]",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    gen: Annotated[
        Path | None,
        typer.Option(
            "--gen",
            metavar="FOLDER",
            help="The variant that draws.  \\[default: gen/ in --model, or --model itself]",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few of everything; wide intervals.", rich_help_panel=_ASKED)
    ] = False,
    only: Annotated[
        list[GroupName] | None,
        typer.Option("--only", help="This group of rows alone. May be repeated.", rich_help_panel=_ASKED),
    ] = None,
    number: Annotated[
        int | None,
        typer.Option(
            "--number",
            min=2,
            metavar="N",
            help="Ask N of everything, half as many where it is drawn.  \\[default: 200; 12 with --quick]",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    style: Annotated[
        str | None,
        typer.Option(
            "--style",
            help="Of the scenes: corners, crowded, simple or full.  \\[default: what the model's card says that it was "
            "trained on, else full]",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    concepts: Annotated[
        int | None,
        typer.Option(
            "--concepts",
            min=1,
            metavar="N",
            help="Only the first N everyday concepts of each split, for a model that knows no others.  \\[default: "
            "what the card says, else all; all where --style is given]",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", min=1, help="Denoising steps.  \\[default: 20; 10 with --quick]", rich_help_panel=_ASKED
        ),
    ] = None,
    guidance: Annotated[
        float,
        typer.Option(
            "--guidance", min=0.0, help="Of drawings; 1 is none. The published 3 is for SDXL.", rich_help_panel=_ASKED
        ),
    ] = 1.0,
    seed: Annotated[
        int, typer.Option("--seed", help="Of scenes and noise; training's is 0.", rich_help_panel=_ASKED)
    ] = 1,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Prompts at a time.", rich_help_panel=_ASKED)
    ] = 32,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Where miniature.json and index.html go.  \\[default: eval]",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """The paper in miniature: every claim with a figure, its interval, chance and target; a page with pictures."""
    out = out or Path("eval")
    if (out / "miniature.json").exists() and not force:
        raise typer.BadParameter(
            f"{out} holds a report already; give another folder, or --force.", param_hint="'--out'"
        )
    check_model(model)
    for option, folder in (("--chat", chat), ("--gen", gen)):
        if folder is not None:
            with bad_usage(option):
                check_model(str(folder))

    from emu2.evaluate.exam import MiniatureConfig
    from emu2.evaluate.miniature import examined, miniature, scenes_of, variant_folders
    from emu2.evaluate.table import reasons, table

    asked: dict[str, Any] = {} if number is None else _numbers(number)
    folders = variant_folders(model, chat, gen)
    with bad_usage("--model"):
        told = scenes_of(folders["base"]) if style is None and concepts is None else {}
    scenes = told or {"style": style or "full", "concepts": concepts}
    with bad_usage("--number / --style"):
        config = (MiniatureConfig.quick if quick else MiniatureConfig)(**asked, **scenes, seed=seed)
    steps = steps or (10 if quick else 20)
    models = examined(
        folders,
        lambda folder: load_model(folder, device, dtype),
        batch_size=batch_size,
        steps=steps,
        guidance=guidance,
        seed=seed,
    )
    terminal = console(stderr=as_json)
    with terminal.status("Asking") as status:
        report = miniature(
            models,
            config,
            only=[group.value for group in only or ()],
            names=folders,
            settings={"steps": steps, "guidance": guidance, "batch_size": batch_size},
            progress=lambda name: status.update(f"Asking: {name}"),
        )
    scores, page = report.save(out)
    if as_json:
        write_json(**report.to_dict(), page=str(page))
        return
    terminal.print(table(report.rows))
    whose = ", as the model's card says that it was trained on; --style full asks for all" if told else ""
    known = f"{config.concepts} everyday concepts of each split" if config.concepts else "all concepts"
    terminal.print(f"Scenes in the style {config.style!r}, {known}{whose}.", highlight=False)
    terminal.print("95 %: interval. beside: chance, where nothing else is named.", style="dim")
    for reason, groups in reasons(report.rows).items():
        terminal.print(f"Missing ({', '.join(groups)}): {reason}", markup=False, highlight=False)
    terminal.print(", ".join(f"{what} {count}" for what, count in report.summary.items()), highlight=False)
    terminal.print(f"{scores} and {page}", markup=False, highlight=False)


def _numbers(number: int) -> dict[str, Any]:
    """`MiniatureConfig`'s numbers for one that was given."""
    half = max(2, number // 2)
    return {"questions": number, "episodes": number, "drawings": half, "clips": max(2, number // 4)}
