"""Options that `emu2 complete` and `emu2 chat` share: how text is decoded."""

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

_PANEL = "Decoding"

NewTokensOption = Annotated[
    int | None, typer.Option("--max-new-tokens", "-n", min=1, help="Most tokens to write.", rich_help_panel=_PANEL)
]
BeamsOption = Annotated[
    int | None, typer.Option("--num-beams", min=1, help="Width of a beam search; 1 is none.", rich_help_panel=_PANEL)
]
TemperatureOption = Annotated[
    float | None,
    typer.Option("--temperature", min=0.0, help="Sample; 0 takes the likeliest token.", rich_help_panel=_PANEL),
]
LengthPenaltyOption = Annotated[
    float | None,
    typer.Option("--length-penalty", help="Of a beam search; above 0 favours long answers.", rich_help_panel=_PANEL),
]
RepetitionPenaltyOption = Annotated[
    float | None,
    typer.Option("--repetition-penalty", min=0.01, help="Above 1 discourages repetition.", rich_help_panel=_PANEL),
]
PublishedOption = Annotated[
    bool,
    typer.Option(
        "--published",
        help="Decode as the published code did: 5 beams, 10 new tokens, length penalty -1, and its rules.",
        rich_help_panel=_PANEL,
    ),
]


def answer_options(
    published: bool,
    max_new_tokens: int | None,
    num_beams: int | None,
    temperature: float | None,
    length_penalty: float | None,
    repetition_penalty: float | None,
    seed: int | None,
    stream: bool,
    as_json: bool,
) -> dict[str, Any]:
    """The options of `Emu2.complete` and `Emu2.chat`.

    Raises:
        typer.BadParameter: options that exclude each other.
    """
    if stream and as_json:
        raise typer.BadParameter("--stream and --json exclude each other: JSON is written when the answer is whole.")
    if published and temperature:
        raise typer.BadParameter("--published and --temperature exclude each other: the published code never sampled.")
    return {
        "max_new_tokens": max_new_tokens,
        "num_beams": num_beams,
        "temperature": None if published else temperature,
        "length_penalty": length_penalty,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stream": stream,
        "decoding": "published" if published else "transformers",
    }


def print_pieces(pieces: Iterable[str]) -> str:
    """Write an answer to stdout piece by piece, with a line end after it; returns the whole of it."""
    whole = ""
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
        whole += piece
    sys.stdout.write("\n")
    return whole
