"""Run the demo: load the variants, show every section in the terminal, leave the page."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from emu2.demo.sections import Section, Size
    from emu2.inference.face import Emu2

#: What is left in the folder: the page, and its first rows as one picture.
PAGE, SHEET = "index.html", "demo.png"
#: Prompts that the model goes through at a time; the longest have nine pictures.
_BATCH = 20


def run(
    out: str | Path,
    console: Console,
    *,
    load: Callable[[str], Emu2],
    folders: dict[str, str],
    size: Size,
    name: str = "nano",
    seed: int = 0,
) -> tuple[Path, list[Section]]:
    """Show what a model does.

    Args:
        out: folder for the page.
        load: what loads a folder or a name. folders: "base", "chat" and "gen" -> folder or name.
        size: how much is shown.
        name: what the page calls the model, and its commands too.
        seed: of records and noise.

    Returns:
        the page, and what it shows.
    """
    from emu2.demo.page import write_page
    from emu2.demo.sections import sections, stage
    from emu2.demo.sheet import write_sheet
    from emu2.demo.terminal import section_lines, shows_pictures
    from emu2.evaluate.miniature import examined

    began = time.perf_counter()
    with console.status("Loading"):
        loaded = {folder: load(folder) for folder in dict.fromkeys(folders.values())}
    models = examined(folders, loaded.__getitem__, batch_size=_BATCH, steps=size.steps, seed=seed)
    base = loaded[folders["base"]]
    on = stage(models, base, size, seed=seed)
    shown: list[Section] = []
    pictures = shows_pictures(console)
    for number, make in enumerate(sections(on), start=1):
        with console.status(f"Section {number}"):
            section = make()
        shown.append(section)
        console.print(section_lines(section, number, pictures=pictures))
    seconds = time.perf_counter() - began
    facts: dict[str, Any] = {
        "model": name,
        "parameters": f"{_parameters(base) / 1e6:.1f}",
        "seconds": f"{seconds:.0f}",
        "machine": f"{os.cpu_count()} cores of {platform.machine()}",
    }
    page = write_page(Path(out) / PAGE, shown, facts)
    write_sheet(Path(out) / SHEET, shown)
    console.print(f"Done in {seconds:.0f} seconds. Everything, with pictures: [bold]{page.resolve()}[/bold]")
    return page, shown


def _parameters(base: Emu2) -> int:
    """Of the base variant with what it draws and films with."""
    modules = [base.model]
    for pipeline, names in ((base.image_pipeline, ("unet", "vae")), (base.video_pipeline, ("unet",))):
        modules += [getattr(pipeline, name) for name in names if pipeline is not None]
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
