"""`emu2 film`: make a clip from text, pictures and boxes."""

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

HELP = """Make a clip, with a model that has a video decoder.

[bold]Examples[/bold]

  emu2 film -m FOLDER "a cat walks to the left" --seed 1 --out cat.mp4

  emu2 film -m FOLDER -i cat.jpg "it jumps" --num-frames 16 --fps 5 --out cat.gif

--out must be new, or come with --force; without --out the clip goes to emu2-film.mp4, emu2-film-2.mp4, ...
"""

_SUFFIXES = (".mp4", ".gif")
_PANEL = "Clip"


def command(
    ctx: typer.Context,
    prompt: PromptArgument = None,
    image: ImageOption = None,
    text: TextOption = None,
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
    num_frames: Annotated[
        int | None,
        typer.Option("--num-frames", min=1, help="Length.  \\[default: the model's]", rich_help_panel=_PANEL),
    ] = None,
    num_keyframes: Annotated[
        int | None,
        typer.Option(
            "--num-keyframes",
            min=1,
            help="Pictures that the language model writes for it.  \\[default: the model's]",
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
    fps: Annotated[
        int, typer.Option("--fps", min=1, help="Frames a second; the published clips have 5.", rich_help_panel=_PANEL)
    ] = 5,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where to write: .mp4 or .gif.", rich_help_panel="Output"),
    ] = None,
    force: ForceOption = False,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    check_model(model)
    parts = prompt_parts(ctx)
    (file,) = output_files(out, "emu2-film.mp4", count=1, force=force, suffixes=_SUFFIXES)
    emu2 = load_model(model, device, dtype, device_map, adapter=adapter, variant="gen", to_film=True)
    started = time.perf_counter()
    frames = emu2.film(
        parts,
        negative_prompt=negative,
        steps=steps,
        guidance=guidance,
        num_frames=num_frames,
        num_keyframes=num_keyframes,
        height=height,
        width=width,
        seed=seed,
        progress=not as_json,
    )
    from emu2.decoder.export import export_to_gif, export_to_mp4

    export = export_to_gif if file.suffix.lower() == ".gif" else export_to_mp4
    export(frames, file, fps=fps)
    if as_json:
        write_json(
            file=str(file),
            frames=len(frames),
            width=frames[0].width,
            height=frames[0].height,
            fps=fps,
            model=emu2.name,
            seed=seed,
            seconds=round(time.perf_counter() - started, 2),
        )
        return
    console(stderr=True).print(f"Wrote {file}", markup=False, highlight=False, soft_wrap=True)
