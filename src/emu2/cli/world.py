"""`emu2 world`: the emoji world, the package's own data."""

import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emu2.cli.common import ForceOption, JsonOption, console, write_json

if TYPE_CHECKING:
    from emu2.data.records import Segment
    from emu2.world import World

HELP = """Look at the emoji world, the endless data set that the package draws itself.

[bold]Examples[/bold]

  emu2 world preview --kind counting --concepts 64 --style simple

  emu2 world show pair 3

  emu2 world names dog

  emu2 world shards my-shards --kind pair --kind edit --count 5000

  emu2 world atlas --out my-atlas
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=HELP)

#: Where the Debian packages put the two files. Repeated from emu2.world.build_atlas, which would import Pillow.
_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
_NAMES = Path("/usr/share/unicode/emoji/emoji-test.txt")


class Split(str, Enum):
    """emu2.world.splits.SPLITS, for the help."""

    train = "train"
    seen = "seen"
    val = "val"
    held = "held"


class Style(str, Enum):
    """The names of emu2.world.compose.STYLES, for the help."""

    corners = "corners"
    crowded = "crowded"
    simple = "simple"
    full = "full"


_SplitOption = Annotated[Split, typer.Option("--split", help="seen: training's concepts in scenes it never shows.")]
_CountOption = Annotated[int, typer.Option("--count", "-n", min=1, help="Records of each kind.")]
_StartOption = Annotated[int, typer.Option("--start", min=0, help="Number of the first record.")]
_SeedOption = Annotated[int, typer.Option("--seed", help="Another seed gives other records.")]
_SizeOption = Annotated[int, typer.Option("--size", help="Side of the pictures in pixels.")]
_StyleOption = Annotated[Style, typer.Option("--style", help="How varied the scenes are.")]
_ConceptsOption = Annotated[
    int | None, typer.Option("--concepts", help="Only the first so many everyday concepts.  \\[default: all]")
]
_ShotsOption = Annotated[
    list[int] | None, typer.Option("--shots", help="Demonstrations in an episode. May be repeated.")
]
_QuestionOption = Annotated[
    list[str] | None,
    typer.Option("--question", "-q", help="Only this kind of question in chat records. May be repeated."),
]


def _world(
    kinds: list[str] | None,
    split: Split,
    seed: int,
    size: int,
    style: Style,
    concepts: int | None,
    shots: list[int] | None,
    questions: list[str] | None,
) -> "World":
    from emu2.world import KINDS, World, WorldConfig

    config = WorldConfig(
        image_size=size,
        kinds=kinds or list(KINDS),
        split=split.value,
        seed=seed,
        style=style.value,
        concepts=concepts,
    )
    config = replace(config, shots=tuple(shots)) if shots else config
    return World(replace(config, questions=tuple(questions)) if questions else config)


@app.command("preview")
def preview_command(
    kind: Annotated[
        list[str] | None, typer.Option("--kind", "-k", help="A kind of record. May be repeated.  \\[default: all]")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The picture that is written.")] = Path(
        "world.png"
    ),
    count: _CountOption = 6,
    start: _StartOption = 0,
    split: _SplitOption = Split.train,
    seed: _SeedOption = 0,
    size: _SizeOption = 96,
    style: _StyleOption = Style.full,
    concepts: _ConceptsOption = None,
    shots: _ShotsOption = None,
    question: _QuestionOption = None,
    boxes: Annotated[bool, typer.Option("--boxes", help="Draw the box of every object.")] = False,
    force: ForceOption = False,
) -> None:
    """Write a contact sheet: records with their pictures and texts, what is to be learned in green."""
    from emu2.world.preview import contact_sheet

    if out.exists() and not force:
        raise FileExistsError(f"{out} exists already; name another file with --out, or give --force.")
    world = _world(kind, split, seed, size, style, concepts, shots, question)
    records = [world.record(name, start + number) for name in world.config.weights for number in range(count)]
    out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(records, picture=max(64, min(size, 256)), boxes=boxes).save(out)
    console().print(f"{len(records)} records in {out}", highlight=False)


@app.command("show")
def show_command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="pair, video_pair, chat, naming, ...")],
    index: Annotated[int, typer.Argument(metavar="INDEX", help="Number of the record.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Also write the record's pictures there.")
    ] = None,
    split: _SplitOption = Split.train,
    seed: _SeedOption = 0,
    size: _SizeOption = 96,
    style: _StyleOption = Style.full,
    concepts: _ConceptsOption = None,
    shots: _ShotsOption = None,
    question: _QuestionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one record: its segments, and with --json all that is true of it."""
    from emu2.world.preview import learned_positions

    record = _world([kind], split, seed, size, style, concepts, shots, question).record(kind, index)
    segments = [
        _shown(segment, f"{record.key}-{position:02d}", out) for position, segment in enumerate(record.segments)
    ]
    if as_json:
        write_json(
            kind=record.kind,
            key=record.key,
            segments=segments,
            answer_from=record.answer_from,
            truth=record.truth,
        )
        return
    screen = console()
    learned = learned_positions(record)
    for position, part in enumerate(segments):
        words = part.get("text") or "; ".join(f"[{name}: {value}]" for name, value in part.items())
        screen.print(
            words, style="green" if position in learned else None, markup=False, highlight=False, soft_wrap=True
        )


def _shown(segment: "Segment", name: str, out: Path | None) -> dict[str, str]:
    """A segment as text; its pictures are written into the folder `out`, where there is one."""
    from PIL import Image

    from emu2.processing.grounding import Box

    if isinstance(segment, str):
        return {"text": segment}
    if isinstance(segment, Box):
        part = {"box": " ".join([*([segment.phrase] if segment.phrase else []), str(list(segment.xyxy))])}
        return part if segment.image is None else part | _shown(segment.image, name, out)
    if not isinstance(segment, Image.Image):  # a clip
        frames = [_shown(frame, f"{name}-{number:02d}", out)["image"] for number, frame in enumerate(segment)]
        return {"video": ", ".join(frames) if out is not None else f"{len(frames)} frames of {frames[0]}"}
    if out is None:
        return {"image": f"{segment.width} x {segment.height} pixels"}
    out.mkdir(parents=True, exist_ok=True)
    segment.save(out / f"{name}.png")
    return {"image": str(out / f"{name}.png")}


@app.command("shards")
def shards_command(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the shards go, a folder for each kind.")],
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", "-k", help="A kind of record. May be repeated.  \\[default: all that have a format]"),
    ] = None,
    count: _CountOption = 1000,
    start: _StartOption = 0,
    per_shard: Annotated[int, typer.Option("--per-shard", min=1, help="Records in a shard.")] = 1000,
    split: _SplitOption = Split.train,
    seed: _SeedOption = 0,
    size: _SizeOption = 96,
    style: _StyleOption = Style.full,
    concepts: _ConceptsOption = None,
    shots: _ShotsOption = None,
    question: _QuestionOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write records as files: WebDataset tars, MMC4, LLaVA, GRIT and InstructPix2Pix forms, text."""
    from emu2.world.shards import SOURCES, writable, write_shards

    kinds = writable(kind)
    world = _world(kinds, split, seed, size, style, concepts, shots, question)
    written = write_shards(world, out, kinds, count, start=start, per_shard=per_shard, force=force)
    if as_json:
        write_json(shards=[vars(item) for item in written], sources=str(out / SOURCES))
        return
    screen = console()
    for item in written:
        screen.print(
            f"{item.kind:<20} {item.format:<16} {item.records:>7} records {item.files:>4} files "
            f"{item.bytes / 1e6:>8.1f} MB",
            highlight=False,
        )
    screen.print(f"{out / SOURCES} names them as sources of a training run", highlight=False)


@app.command("names")
def names_command(
    word: Annotated[str, typer.Argument(metavar="[WORD]", help="Only emoji with this in their name or group.")] = "",
    everyday: Annotated[bool, typer.Option("--everyday", help="Only the everyday ones, plainest first.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the emoji, tab-separated: character, short name, concept, split, group, subgroup, Unicode name."""
    from emu2.world import default_atlas

    atlas = default_atlas()
    rows = [
        {
            "character": entry.character,
            "name": entry.noun,
            "concept": atlas[entry.concept].noun,
            "split": entry.split,
            "group": entry.group,
            "subgroup": entry.subgroup,
            "unicode_name": entry.name,
        }
        for entry in (atlas.everyday() if everyday else atlas.emoji)
        if word.lower() in f"{entry.noun} {entry.name} {entry.group} {entry.subgroup}".lower()
    ]
    if not rows:
        raise ValueError(f"No emoji has {word!r} in its name or group. `emu2 world names` lists all of them.")
    if as_json:
        write_json(emoji=rows)
    else:
        sys.stdout.writelines("\t".join(row.values()) + "\n" for row in rows)


@app.command("atlas")
def atlas_command(
    font: Annotated[
        Path, typer.Option("--font", metavar="FILE", help="Noto Color Emoji (Debian: fonts-noto-color-emoji).")
    ] = _FONT,
    names: Annotated[
        Path, typer.Option("--names", metavar="FILE", help="Unicode's emoji-test.txt (Debian: unicode-data).")
    ] = _NAMES,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where sheets and table go.")] = Path(
        "atlas"
    ),
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw the atlas anew from the font. Only needed after a change of font or names: the atlas ships with emu2."""
    from emu2.world.build_atlas import build_atlas

    if (out / "table.json").exists() and not force:
        raise FileExistsError(f"{out} holds an atlas already; name another folder with --out, or give --force.")
    counts = build_atlas(font, names, out)
    if as_json:
        write_json(**counts)
        return
    console().print(
        f"{counts['emoji']} emoji of {counts['concepts']} concepts on {counts['sheets']} sheets in {out}, "
        f"{counts['bytes'] / 1e6:.1f} MB",
        highlight=False,
    )
