"""`emu2 complete`: go on with a prompt of text and pictures."""

from typing import Annotated

import typer

from emu2.cli.common import (
    AdapterOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    FramesOption,
    ImageOption,
    JsonOption,
    ModelOption,
    PromptArgument,
    SeedOption,
    TextOption,
    VideoOption,
    check_model,
    load_model,
    prompt_parts,
    write_json,
)
from emu2.cli.text_options import (
    BeamsOption,
    LengthPenaltyOption,
    NewTokensOption,
    PublishedOption,
    RepetitionPenaltyOption,
    TemperatureOption,
    answer_options,
    print_pieces,
)

HELP = """Go on with a prompt, as the base model was trained to.

Pictures, clips and texts are read in the order given, so demonstrations come before the question.

[bold]Examples[/bold]

  emu2 complete -m FOLDER -i dog.jpg "A photo of"

  emu2 complete -m FOLDER -i 1.jpg -t "[red, 1]." -i 2.jpg -t "[blue, 3]." -i 3.jpg

  emu2 complete -m FOLDER -i cat.jpg "The cat is" --temperature 0.8 --seed 1 --json

  emu2 complete -m FOLDER -i cat.jpg "The cat is" --published
"""


def command(
    ctx: typer.Context,
    prompt: PromptArgument = None,
    image: ImageOption = None,
    text: TextOption = None,
    video: VideoOption = None,
    frames: FramesOption = 8,
    model: ModelOption = "nano",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    adapter: AdapterOption = None,
    device_map: DeviceMapOption = None,
    max_new_tokens: NewTokensOption = None,
    num_beams: BeamsOption = None,
    temperature: TemperatureOption = None,
    length_penalty: LengthPenaltyOption = None,
    repetition_penalty: RepetitionPenaltyOption = None,
    published: PublishedOption = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text as it is written.")] = False,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    check_model(model)
    parts = prompt_parts(ctx, num_frames=frames)
    options = answer_options(
        published, max_new_tokens, num_beams, temperature, length_penalty, repetition_penalty, seed, stream, as_json
    )
    emu2 = load_model(model, device, dtype, device_map, adapter=adapter)
    answer = emu2.complete(parts, **options)
    if as_json:
        write_json(text=answer, model=emu2.name, seed=seed, decoding=options["decoding"])
    else:
        print_pieces([answer] if isinstance(answer, str) else answer)
