"""`emu2 info`: what a folder or weight file is."""

from pathlib import Path
from typing import Annotated

import typer

from emu2.cli.common import JsonOption, console, write_json

HELP = """Tell what a model folder or weight file is: its parts, their size, the memory they need, what is missing.

Reads headers only, so it answers at once, whatever the size.

[bold]Examples[/bold]

  emu2 info my-model

  emu2 info Emu2-Gen_pytorch_model.bf16.safetensors --json
"""


def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model or pipeline folder, or a weight file.")],
    as_json: JsonOption = False,
) -> None:
    from emu2.convert.folder_info import inspect

    info = inspect(folder)
    if as_json:
        write_json(**info.to_dict())
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


def format_bytes(size: int) -> str:
    """1536 -> "1.5 KiB"."""
    amount, units = float(size), ["bytes", "KiB", "MiB", "GiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{int(amount)} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"
