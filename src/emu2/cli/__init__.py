"""The command line: `emu2 complete | chat | draw | film | ...`.

Command modules import torch and the rest of the package only when they run, so that `emu2 --help` is quick.
Exit codes: 0, 1 (failed while running), 2 (something that was given is wrong), 130 (interrupted).
"""

from typing import Annotated

import typer

from emu2 import __version__
from emu2.cli import chat, complete, convert, demo, draw, eval, film, info, train, world
from emu2.cli.common import ErrorGroup, PromptCommand

app = typer.Typer(
    name="emu2",
    cls=ErrorGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Emu2: a model that reads and writes text, pictures and clips in any order.",
)

_USE, _MAKE = "Use a model", "Make a model"
app.command("complete", cls=PromptCommand, help=complete.HELP, rich_help_panel=_USE)(complete.command)
app.command("chat", cls=PromptCommand, help=chat.HELP, rich_help_panel=_USE)(chat.command)
app.command("draw", cls=PromptCommand, help=draw.HELP, rich_help_panel=_USE)(draw.command)
app.command("film", cls=PromptCommand, help=film.HELP, rich_help_panel=_USE)(film.command)
app.command("demo", help=demo.HELP, rich_help_panel=_USE)(demo.command)
app.command("train", help=train.HELP, rich_help_panel=_MAKE)(train.command)
app.add_typer(eval.app, name="eval", rich_help_panel=_MAKE)
app.add_typer(convert.app, name="convert", rich_help_panel=_MAKE)
app.add_typer(world.app, name="world", rich_help_panel=_MAKE)
app.command("info", help=info.HELP, rich_help_panel=_MAKE)(info.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"emu2 {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point `emu2`."""
    app()
