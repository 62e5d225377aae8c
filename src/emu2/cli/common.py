"""What the commands share: one prompt from many options in order, one way to load, one line for an error."""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count as count_from
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

    from emu2.inference.face import Emu2

#: Set it to see the traceback behind an error line.
DEBUG_VARIABLE = "EMU2_DEBUG"
#: Exit codes: something that was given is wrong, or it failed while running.
BAD_USAGE, FAILED = 2, 1

#: Options that make up the prompt, and the place in the context where their values lie in command-line order.
_PROMPT_OPTIONS = ("image", "text", "video", "box", "prompt")
_PARTS_KEY = "emu2.parts"

_PROMPT_PANEL, _MODEL_PANEL, _OUTPUT_PANEL = "Prompt (in the order given)", "Model", "Output"

PromptArgument = Annotated[
    str | None,
    typer.Argument(metavar="[TEXT]", help="Text that comes after all the options below.", show_default=False),
]
ImageOption = Annotated[
    list[Path] | None,
    typer.Option("--image", "-i", metavar="FILE", help="A picture. May be repeated.", rich_help_panel=_PROMPT_PANEL),
]
TextOption = Annotated[
    list[str] | None,
    typer.Option("--text", "-t", metavar="TEXT", help="Some text. May be repeated.", rich_help_panel=_PROMPT_PANEL),
]
VideoOption = Annotated[
    list[Path] | None,
    typer.Option("--video", metavar="FILE", help="A clip. May be repeated.", rich_help_panel=_PROMPT_PANEL),
]
FramesOption = Annotated[
    int, typer.Option("--frames", min=1, help="Frames taken from each --video.", rich_help_panel=_PROMPT_PANEL)
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="FOLDER",
        help="A model folder; 'emu2 info' explains one.",
        rich_help_panel=_MODEL_PANEL,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, ...  \\[default: a GPU if there is one]",
        rich_help_panel=_MODEL_PANEL,
    ),
]
AdapterOption = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="FOLDER",
        help="An adapter tuned on this model, put on top of it.",
        rich_help_panel=_MODEL_PANEL,
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="float32, bfloat16 or float16  \\[default: float32 on a CPU, bfloat16 on a GPU]",
        rich_help_panel=_MODEL_PANEL,
    ),
]
DeviceMapOption = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        metavar="MAP",
        help="'auto' spreads the language model over all devices, instead of --device.",
        rich_help_panel=_MODEL_PANEL,
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Makes the result repeatable.", rich_help_panel=_OUTPUT_PANEL)
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Write one JSON object to stdout, nothing else.", rich_help_panel=_OUTPUT_PANEL),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite what is there.", rich_help_panel=_OUTPUT_PANEL)]


#: Placements that accelerate works out; anything else is a device.
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


class PromptCommand(TyperCommand):
    """A command whose prompt options keep their order across different options.

    Options are collected one name at a time, so `--image a --text b --image c` would lose its order. The parser knows
    it, and this command keeps it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        given = {name: list(values.get(name) or []) for name in _PROMPT_OPTIONS if name != "prompt"}
        parts = [(param.name, given[param.name].pop(0)) for param in order if param.name in given]
        if isinstance(values.get("prompt"), str):
            parts.append(("text", values["prompt"]))
        ctx.meta[_PARTS_KEY] = parts
        return super().parse_args(ctx, args)


class ErrorGroup(TyperGroup):
    """The top command: whatever goes wrong below it ends in one red line and an exit code, never in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, KeyboardInterrupt, EOFError, BrokenPipeError):
            raise
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            if type(error).__name__ == "NoArgsIsHelpError":  # a bare `emu2 world`: typer prints its help
                raise
            message, code = describe_error(error)
            print_error(message)
            raise typer.Exit(code) from None


def describe_error(error: Exception) -> tuple[str, int]:
    """One line for a person, and the exit code."""
    usage_text = getattr(error, "format_message", None)
    if usage_text is not None:  # typer's own: an option is missing, unknown or wrong
        context = getattr(error, "ctx", None)
        hint = f" (see: {context.command_path} --help)" if context is not None else ""
        return f"{_one_line(usage_text())}{hint}", BAD_USAGE
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"{error.filename}: no such file or folder.", BAD_USAGE
    text = _one_line(str(error)) or type(error).__name__
    if isinstance(error, ValueError | FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return text, BAD_USAGE
    if isinstance(error, OSError | RuntimeError | ImportError):
        return text, FAILED
    return f"{type(error).__name__}: {text} (set {DEBUG_VARIABLE}=1 to see where it comes from)", FAILED


def print_error(message: str) -> None:
    """One red line on stderr."""
    console(stderr=True).print(f"Error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)


def console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr)


def write_json(**fields: Any) -> None:
    """The machine's output: one object on stdout."""
    sys.stdout.write(json.dumps(fields, ensure_ascii=False) + "\n")
    sys.stdout.flush()


@contextmanager
def bad_usage(option: str) -> Iterator[None]:
    """Tell which option holds the value that is wrong."""
    try:
        yield
    except (ValueError, OSError) as error:
        text, _ = describe_error(error)
        raise typer.BadParameter(text, param_hint=f"'{option}'") from error


def prompt_parts(ctx: typer.Context, *, num_frames: int = 8, required: bool = True) -> list[Any]:
    """The prompt as a mixed list, files opened: str, PIL picture, `emu2.Video` or `emu2.Box`, in the order given.

    Raises:
        typer.BadParameter: a file that cannot be read, or a box that is none.
        ValueError: there is no prompt, or an empty one, where one is `required`.
    """
    from emu2.inference.prompt_parts import check_not_empty

    given = ctx.meta.get(_PARTS_KEY, [])
    # What is cheap to know comes first: reading a picture imports half the package.
    for kind, value in given:
        if kind in ("image", "video") and not Path(value).is_file():
            raise typer.BadParameter(f"there is no file {value}.", param_hint=f"'--{kind}'")
    if required or given:
        check_not_empty([value for _, value in given])
    parts: list[Any] = []
    for kind, value in given:
        with bad_usage(f"--{kind}"):
            parts.append(_read_part(kind, value, num_frames))
    return parts


def _read_part(kind: str, value: Any, num_frames: int) -> Any:
    if kind == "image":
        from emu2.processing.image import load_image

        return load_image(Path(value))
    if kind == "video":
        from emu2.processing.video import Video

        return Video.from_file(Path(value), num_frames=num_frames)
    return parse_box(value) if kind == "box" else value


def check_model(model: str) -> None:
    """Raise ValueError where there is nothing to load, before anything slow is imported."""
    from emu2.inference.names import explain_missing, shipped_folder

    if not Path(model).expanduser().exists() and shipped_folder(model) is None:
        raise ValueError(explain_missing(model))


def check_draws(model: str) -> None:
    """Raise ValueError where a folder holds no image decoder, before its weights are read."""
    from emu2.inference.names import explain_no_image_decoder, variant_draws

    folder, draws = Path(model).expanduser(), variant_draws(model)
    if draws is False or (draws is None and folder.is_dir() and not (folder / "model_index.json").is_file()):
        raise ValueError(explain_no_image_decoder(model))


def check_films(model: str) -> None:
    """Raise ValueError where a folder holds no video decoder, before its weights are read."""
    from emu2.inference.names import explain_no_video_decoder, variant_draws

    folder, draws = Path(model).expanduser(), variant_draws(model)
    index = folder / "model_index.json"
    films = index.is_file() and "Emu2VideoPipeline" in index.read_text(encoding="utf-8")
    films = films or (folder / "video").is_dir()
    if draws is False or (draws is None and folder.is_dir() and not films):
        raise ValueError(explain_no_video_decoder(model))


def parse_box(text: str) -> Any:
    """`x1,y1,x2,y2` or `a phrase=x1,y1,x2,y2`, in pixels of a 448 x 448 picture, as an `emu2.Box`.

    Raises:
        ValueError: not four numbers, or a box that leaves the picture.
    """
    from emu2.processing.grounding import Box

    phrase, _, corners = text.rpartition("=")
    try:
        x1, y1, x2, y2 = (float(corner) for corner in corners.split(","))
    except ValueError:
        raise ValueError(
            f"{text!r} is no box; write x1,y1,x2,y2 in pixels of a 448 x 448 picture, such as 100,100,300,300, "
            "with a name before it if you like: 'a dog=100,100,300,300'."
        ) from None
    return Box((x1, y1, x2, y2), phrase=phrase.strip() or None)


def load_model(
    model: str,
    device: str | None,
    dtype: str | None,
    device_map: str | None = None,
    *,
    adapter: Path | None = None,
    variant: str | None = None,
    to_draw: bool = False,
    to_film: bool = False,
) -> "Emu2":
    """`emu2.load`, with the option named that holds a wrong value, and a missing decoder told before weights are read.

    Args:
        variant: what the command takes of a model in several variants that is named as a whole.
        to_draw, to_film: the command needs an image or a video decoder.
    """
    from emu2.inference.load import load
    from emu2.inference.names import fitting, variant_draws
    from emu2.model.runtime import resolve_device, resolve_dtype

    model = model if variant is None else fitting(model, variant)
    if device is not None:
        with bad_usage("--device"):
            resolve_device(device)
    if dtype is not None:
        with bad_usage("--dtype"):
            resolve_dtype(dtype)
    if device_map is not None and device_map not in DEVICE_MAPS:
        with bad_usage("--device-map"):
            resolve_device(device_map)
    if adapter is not None and not adapter.is_dir():
        raise typer.BadParameter(f"there is no folder {adapter}.", param_hint="'--adapter'")
    if to_draw:
        check_draws(model)
    if to_film:
        check_films(model)
    draws = (Path(model) / "model_index.json").exists() or bool(variant_draws(model))
    _quiet_libraries(uses_diffusers=draws)
    return load(model, device=device, dtype=dtype, device_map=device_map, adapter=adapter)


def _quiet_libraries(*, uses_diffusers: bool) -> None:
    """Advice of the libraries to programmers has no place between a person and an answer."""
    if os.environ.get(DEBUG_VARIABLE):
        return
    warnings.simplefilter("ignore", FutureWarning)
    import transformers

    libraries: list[Any] = [transformers]
    if uses_diffusers:  # importing it takes seconds
        import diffusers

        libraries.append(diffusers)
    for library in libraries:
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()


def multiple_of_8(value: int | None) -> int | None:
    """Check a height or width.

    Raises:
        typer.BadParameter: the decoder works on blocks of 8 x 8 pixels, and this is no whole number of them.
    """
    if value is not None and (value <= 0 or value % 8):
        near = max(8, round(value / 8) * 8)
        raise typer.BadParameter(f"must be a positive multiple of 8; got {value}. {near} is the nearest.")
    return value


def output_files(out: Path | None, default: str, *, count: int, force: bool, suffixes: tuple[str, ...]) -> list[Path]:
    """Where to write `count` files, settled before anything slow runs.

    An `--out` that exists is refused without `--force`; without `--out`, `default` gets a number that is free, so
    that nothing is ever overwritten unasked. Several files are `--out` with numbers: out-1.png, out-2.png.

    Raises:
        typer.BadParameter: a file exists, its folder does not, or its suffix names no known format.
    """
    if out is None:
        candidates = _numbered(Path(default), start=2)
        return [next(file for file in candidates if not file.exists()) for _ in range(count)]
    if out.suffix.lower() not in suffixes:
        raise _bad_out(f"{out} must end in one of {', '.join(suffixes)}.")
    if not out.parent.is_dir():
        raise _bad_out(f"there is no folder {out.parent}.")
    files = [out] if count == 1 else [out.with_stem(f"{out.stem}-{number}") for number in range(1, count + 1)]
    taken = [str(file) for file in files if file.exists()]
    if taken and not force:
        raise _bad_out(f"{', '.join(taken)} exists; give another name, or --force to overwrite it.")
    return files


def _bad_out(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="'--out'")


def _numbered(file: Path, *, start: int) -> Iterator[Path]:
    yield file
    for number in count_from(start):
        yield file.with_stem(f"{file.stem}-{number}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
