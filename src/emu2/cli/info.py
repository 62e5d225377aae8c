"""`emu2 info`: what a folder or weight file is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from emu2.cli.common import JsonOption, bad_usage, check_model, console, write_json

HELP = """Tell what a model folder or weight file is: its parts, their size, the memory they need, what is missing.

Reads headers only, so it answers at once, whatever the size.

[bold]Examples[/bold]

  emu2 info nano

  emu2 info my-model

  emu2 info Emu2-Gen_pytorch_model.bf16.safetensors --json
"""


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A model or pipeline folder, a weight file, or nano.")
    ],
    as_json: JsonOption = False,
) -> None:
    from emu2.convert.folder_info import inspect
    from emu2.inference.names import model_card

    folder = _of_name(folder)
    info = inspect(folder)
    with bad_usage("FOLDER"):
        card = model_card(str(folder))
    if as_json:
        write_json(**info.to_dict(), **({"card": card} if card else {}))
        return
    from rich.table import Table

    out = console()
    out.print(f"[bold]{info.path}[/bold]: {info.title}", highlight=False)
    if info.parts:
        table = Table(box=None, pad_edge=False)
        for title, side in (("part", "left"), ("parameters", "right"), ("dtype", "left")):
            table.add_column(title, justify=side)  # type: ignore[arg-type]
        for name, part in info.parts.items():
            table.add_row(name, f"{part.parameters:,}", ", ".join(sorted(part.dtypes)))
        table.add_row("all", f"{info.parameters:,}", "", style="bold")
        out.print(table)
        needed = ", ".join(f"{name} {format_bytes(size)}" for name, size in info.memory().items())
        out.print(f"memory for the weights: {needed}", highlight=False)
    for what in info.missing:
        out.print(f"missing: {what}", style="red", highlight=False, markup=False)
    for note in info.notes:
        out.print(f"note: {note}", highlight=False, markup=False)
    if card:
        _print_card(card)


def _of_name(folder: Path) -> Path:
    """The folder of a name that ships with the package, whichever of its variants was named; else as given.

    Raises:
        ValueError: there is nothing there, or the weights of this name do not ship with this version.
    """
    from emu2.inference.names import SHIPPED_FOLDER

    check_model(str(folder))
    folder = folder.expanduser()
    return folder if folder.exists() else SHIPPED_FOLDER


def _print_card(card: dict[str, Any]) -> None:
    from rich.table import Table

    out, stages = console(), card.get("stages", {})
    seconds = sum(stage["seconds"] for stage in stages.values())
    machines = list(dict.fromkeys(machine for stage in stages.values() for machine in stage["machines"]))
    out.print(
        f"trained from nothing in the budget {card.get('budget')}: {seconds / 3600:.1f} h on {', '.join(machines)}",
        highlight=False,
        markup=False,
    )
    table = Table(box=None, pad_edge=False)
    for title, side in (("stage", "left"), ("steps", "right"), ("records a step", "right"), ("minutes", "right")):
        table.add_column(title, justify=side)  # type: ignore[arg-type]
    for name, stage in stages.items():
        table.add_row(name, f"{stage['steps']:,}", str(stage["batch_size"]), f"{stage['seconds'] / 60:.1f}")
    out.print(table)
    if card.get("after"):
        out.print(card["after"], highlight=False, markup=False)
    if card.get("figures"):
        measured = Table(box=None, pad_edge=False)
        for title in ("measured", "", "value", "target"):
            measured.add_column(title)
        for row in card["figures"]:
            values = ["" if row.get(key) is None else f"{row[key]:.3g}" for key in ("value", "target")]
            measured.add_row(row["group"], row["name"], *values)
        out.print(measured)


def format_bytes(size: int) -> str:
    """1536 -> "1.5 KiB"."""
    amount, units = float(size), ["bytes", "KiB", "MiB", "GiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{int(amount)} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"
