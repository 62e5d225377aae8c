"""`emu2 demo`: look at what the shipped model does."""

from pathlib import Path
from typing import Annotated

import typer

from emu2.cli.common import DeviceOption, DtypeOption, ModelOption, check_films, check_model, console, load_model

HELP = """See a small trained Emu2 work: it looks, answers, learns from the prompt, draws, edits and films.

Nothing is trained and nothing is downloaded; two CPU cores take about two minutes.

[bold]Examples[/bold]

  emu2 demo

  emu2 demo --seed 7 --out demo-7
"""


def command(
    model: ModelOption = "nano",
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where index.html and demo.png go.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed shows other scenes.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A row or two of everything.")] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """The demo."""
    check_model(model)
    check_films(model)
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"{out} is a file; give a folder.", param_hint="'--out'")

    from emu2.demo.run import run
    from emu2.demo.sections import Size
    from emu2.evaluate.miniature import variant_folders

    run(
        out,
        console(),
        load=lambda folder: load_model(folder, device, dtype),
        folders=variant_folders(model),
        name=model,
        size=Size.quick() if quick else Size(),
        seed=seed,
    )
