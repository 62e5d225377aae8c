"""`emu2 chat`: one question, or a conversation at the keyboard."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    console,
    describe_error,
    load_model,
    print_error,
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

if TYPE_CHECKING:
    from emu2.inference.conversation import Conversation

HELP = """Ask a model that was tuned on conversations; without a question, talk to it.

[bold]Examples[/bold]

  emu2 chat -m FOLDER -i squirrel.jpg "Why is this funny?"

  emu2 chat -m FOLDER --video clip.mp4 --frames 16 "What happens here?" --json

  emu2 chat -m FOLDER -i street.jpg "Where is the dog?" --grounding

  emu2 chat -m FOLDER
"""

_TALK_HELP = """/image FILE    show a picture with what you say next
/video FILE    show a clip with what you say next
/reset         forget the conversation
/help          this
/quit          leave (so does Ctrl-D)"""


def command(
    ctx: typer.Context,
    prompt: PromptArgument = None,
    image: ImageOption = None,
    text: TextOption = None,
    video: VideoOption = None,
    frames: FramesOption = 8,
    model: ModelOption = "nano-chat",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    adapter: AdapterOption = None,
    device_map: DeviceMapOption = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="System message, instead of the published one.")
    ] = None,
    grounding: Annotated[bool, typer.Option("--grounding", help="Ask for boxes; the answer keeps its markup.")] = False,
    concise: Annotated[bool, typer.Option("--concise", help="Ask for a short answer.")] = False,
    interactive: Annotated[bool, typer.Option("--interactive", "-I", help="Talk on after the first answer.")] = False,
    max_new_tokens: NewTokensOption = None,
    num_beams: BeamsOption = None,
    temperature: TemperatureOption = None,
    length_penalty: LengthPenaltyOption = None,
    repetition_penalty: RepetitionPenaltyOption = None,
    published: PublishedOption = False,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    check_model(model)
    parts = prompt_parts(ctx, num_frames=frames, required=False)
    talking = interactive or not parts
    if talking and as_json:
        raise typer.BadParameter("--json answers one question; give one, and leave --interactive out.")
    options = answer_options(
        published, max_new_tokens, num_beams, temperature, length_penalty, repetition_penalty, seed, False, as_json
    )
    emu2 = load_model(model, device, dtype, device_map, adapter=adapter, variant="chat")
    # A beam search knows its answer only at the end, and the published default is one.
    options["stream"] = not as_json and (num_beams or (5 if published else 1)) == 1
    style = "concise" if concise else "detailed"
    conversation = emu2.conversation(system=system, style=style, grounding=grounding, **options)
    if parts:
        answer = conversation.say(*parts)
        if as_json:
            _write_answer(answer, emu2, parts, grounding, seed)
            return
        print_pieces([answer] if isinstance(answer, str) else answer)
    if talking:
        Talk(conversation, num_frames=frames).run()


def _write_answer(answer: Any, emu2: Any, parts: list[Any], grounding: bool, seed: int | None) -> None:
    fields: dict[str, Any] = {"text": answer, "model": emu2.name, "seed": seed}
    if grounding:
        from PIL import Image

        pictures = [part for part in parts if isinstance(part, Image.Image)]
        size = pictures[-1].size if pictures else (448, 448)
        phrases = emu2.processor.parse_grounding(answer, size)
        fields["phrases"] = [
            {"phrase": one.phrase, "boxes": [[round(v, 1) for v in box.xyxy] for box in one.boxes]} for one in phrases
        ]
    write_json(**fields)


class Talk:
    """A conversation at the keyboard.

    Args:
        conversation: what answers and remembers.
        num_frames: frames taken of a clip.
    """

    def __init__(self, conversation: "Conversation", *, num_frames: int = 8):
        self._conversation = conversation
        self._num_frames = num_frames
        self._pending: list[Any] = []
        self._console = console(stderr=True)

    def run(self) -> None:
        """Read lines until /quit or the end of the input."""
        if sys.stdin.isatty():
            import readline  # noqa: F401 (gives input() its history and editing)

            self._note("Type a question; /help lists what else there is.")
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                self._note("\n/quit leaves.")
                continue
            if line in ("/quit", "/exit"):
                return
            try:
                self._heed(line)
            except KeyboardInterrupt:
                self._note("\n(stopped)")
            except Exception as error:
                print_error(describe_error(error)[0])

    def _heed(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name in ("/image", "/video"):
            self._show(name, rest.strip())
        elif name == "/reset":
            self._conversation.reset()
            self._pending.clear()
            self._note("Forgotten.")
        elif name == "/help":
            self._note(_TALK_HELP)
        elif name.startswith("/"):
            raise ValueError(f"There is no {name}; /help lists what there is.")
        elif line:
            answer = self._conversation.say(*self._pending, line)
            print_pieces([answer] if isinstance(answer, str) else answer)
            self._pending.clear()

    def _show(self, kind: str, file: str) -> None:
        from emu2.processing.image import load_image
        from emu2.processing.video import Video

        if not file:
            raise ValueError(f"{kind} wants a file, such as '{kind} picture.jpg'.")
        path = Path(file).expanduser()
        if kind == "/image":
            self._pending.append(load_image(path))
        else:
            self._pending.append(Video.from_file(path, num_frames=self._num_frames))
        self._note(f"{path.name} goes with what you say next.")

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, highlight=False)
