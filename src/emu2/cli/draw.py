"""`emu2 draw`: draw a picture from text, pictures and boxes in any order."""

import time
from pathlib import Path
from typing import Annotated

import typer

from emu2.cli.common import (
    AdapterOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    ImageOption,
    JsonOption,
    ModelOption,
    PromptArgument,
    SeedOption,
    TextOption,
    check_model,
    console,
    load_model,
    multiple_of_8,
    output_files,
    prompt_parts,
    write_json,
)

HELP = """Draw a picture: from text, by editing, of a subject, inside boxes; one picture alone is autoencoded.

[bold]Examples[/bold]

  emu2 draw -m FOLDER "a red bicycle in the rain" --seed 1 --out bicycle.png

  emu2 draw -m FOLDER -i photo.jpg "make it snow"

  emu2 draw -m FOLDER -i dog.jpg -t "and" -i beach.jpg "a dog on a beach"

  emu2 draw -m FOLDER --box "a dog=30,200,220,420" -i dog.jpg "on the grass"

  emu2 draw -m FOLDER -i photo.jpg --out again.png

--out must be new, or come with --force; without --out the picture goes to emu2-draw.png, emu2-draw-2.png, ...
"""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_PANEL = "Picture"

BoxOption = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="[NAME=]X1,Y1,X2,Y2",
        help="Where the thing named (or described next) goes, in pixels of a 448 x 448 picture. May be repeated.",
        rich_help_panel="Prompt (in the order given)",
    ),
]


def command(
    ctx: typer.Context,
    prompt: PromptArgument = None,
    image: ImageOption = None,
    text: TextOption = None,
    box: BoxOption = None,
    model: ModelOption = "nano-gen",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    adapter: AdapterOption = None,
    device_map: DeviceMapOption = None,
    negative: Annotated[
        str | None,
        typer.Option("--negative", metavar="TEXT", help="What to keep away from.", rich_help_panel=_PANEL),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", min=1, max=1000, help="Denoising steps.  \\[default: the model's]", rich_help_panel=_PANEL
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance",
            min=0.0,
            help="How strongly to follow the prompt; 1 or less is off.  \\[default: the model's]",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(
            "--height", callback=multiple_of_8, help="In pixels.  \\[default: the decoder's]", rich_help_panel=_PANEL
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            "--width", callback=multiple_of_8, help="In pixels.  \\[default: the decoder's]", rich_help_panel=_PANEL
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=1, help="Pictures to draw of one prompt.", rich_help_panel=_PANEL)
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where to write: .png, .jpg or .webp; several get numbers.",
            rich_help_panel="Output",
        ),
    ] = None,
    force: ForceOption = False,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    check_model(model)
    parts = prompt_parts(ctx)
    files = output_files(out, "emu2-draw.png", count=count, force=force, suffixes=_SUFFIXES)
    emu2 = load_model(model, device, dtype, device_map, adapter=adapter, variant="gen", to_draw=True)
    started = time.perf_counter()
    drawn = emu2.draw(
        parts,
        negative_prompt=negative,
        steps=steps,
        guidance=guidance,
        height=height,
        width=width,
        count=count,
        seed=seed,
        progress=not as_json,
    )
    pictures = drawn if isinstance(drawn, list) else [drawn]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file)
    if as_json:
        steps, guidance = emu2.denoising(steps, guidance)
        write_json(
            files=[str(file) for file in files],
            width=pictures[0].width,
            height=pictures[0].height,
            model=emu2.name,
            seed=seed,
            steps=steps,
            guidance=guidance,
            seconds=round(time.perf_counter() - started, 2),
        )
        return
    for file in files:
        console(stderr=True).print(f"Wrote {file}", markup=False, highlight=False, soft_wrap=True)
