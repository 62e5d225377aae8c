"""The model card of a trained pipeline, written from what its runs recorded.

    python -m emu2.recipes.card runs/nano [--figures FILE.json] [--notes FILE.md] [--out MODEL_CARD.md]
    python -m emu2.recipes.card --model FOLDER --out MODEL_CARD.md --figures FILE.json --notes FILE.md

The second writes the figures, the notes and the sizes of the parts anew in the card of an assembled model, whose runs
are elsewhere; what the runs recorded stays.

Every figure on it is read from a file: the runs' logs, sessions and summaries, the weights' own headers, and the JSON
that an evaluation wrote (`--figures`). What only a person can say, known failures and their pictures, is in `--notes`;
where these have a section "After the budget", its first paragraph stands in `card.json` too.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emu2.inference.names import CARD
from emu2.model.variants import VISION
from emu2.recipes.assemble import VARIANTS, folder_bytes
from emu2.recipes.pipeline import Pipeline
from emu2.recipes.records import StageRecord, stage_records
from emu2.train.report import duration, figure

#: In the notes, what was trained beyond the stages that the card tells of.
_AFTER = "## After the budget"
#: Of an objective, or of a stage whose name is none.
_PURPOSE = {
    "contrastive": "pictures against their captions",
    "reading": "clock faces and signs where they stand, against their names",
    "autoencoder": "pictures through the VAE and back",
    "language": "sentences, next token",
    "caption": "text after a picture or clip",
    "unified": "everything interleaved: next token, next embedding",
    "decoder": "a picture from its own embeddings",
    "video_decoder": "a clip from the embeddings of its keyframes",
    "chat": "answers in conversations",
    "gen": "the last picture's embeddings, from words, boxes and pictures",
}


def write_card(
    pipeline: Pipeline,
    *,
    figures: str | Path | None = None,
    notes: str | Path | None = None,
    out: str | Path | None = None,
) -> Path:
    """Write the card, and `card.json` beside the variants where they are assembled.

    Args:
        figures: JSON of an evaluation, `{"rows": [...]}`; None looks for `figures.json` in the pipeline's folder.
        notes: Markdown to stand under "Known failures"; None looks for `notes.md` there.
        out: the card; None is `MODEL_CARD.md` in the pipeline's folder.

    Raises:
        ValueError: no stage has begun; or a file of figures that is not one.
    """
    records = [record for record in stage_records(pipeline) if record.sessions]
    if not records:
        raise ValueError(f"There is nothing to tell of {pipeline.out}: no stage of it has begun.")
    found = _evaluation(Path(figures)) if figures else _evaluation(pipeline.out / "figures.json", needed=False)
    rows = found["rows"]
    told = Path(notes) if notes else pipeline.out / "notes.md"
    model = pipeline.out / "model"
    text = "\n".join(
        [
            *_head(pipeline, records, model),
            *_recipe(pipeline, records),
            *_data(records),
            *_measured(found),
            *_failures(told, rows),
        ]
    )
    card = Path(out) if out else pipeline.out / "MODEL_CARD.md"
    card.write_text(text + "\n", encoding="utf-8")
    if model.is_dir():
        stages = {record.name: record.to_dict() for record in records}
        scenes = {"scenes": _scenes(records[-1])}
        known = {**pipeline.about, **scenes, "stages": stages, **_after(told), "figures": rows}
        (model / CARD).write_text(json.dumps(known, indent=1), encoding="utf-8")
    return card


def _head(pipeline: Pipeline, records: Sequence[StageRecord], model: Path) -> list[str]:
    about, last = pipeline.about, records[-1]
    size = about.get("size", last.config.size)
    seconds = sum(record.seconds for record in records)
    machines = list(dict.fromkeys(machine for record in records for machine in record.machines))
    lines = [
        f"# emu2-{size}",
        "",
        f"A whole Emu2, small: it reads and writes text, pictures of {last.config.data.image_size} pixels and clips. "
        f"It was trained from nothing by the recipes of this package on the emoji world, in the budget "
        f"`{about.get('budget')}`: {sum(record.steps for record in records):,} steps in {duration(seconds)} of work on "
        f"{' and '.join(machines)}.",
        "",
    ]
    unfinished = [record.name for record in records if not record.finished]
    if unfinished:
        lines += [f"Not complete: {', '.join(unfinished)}.", ""]
    if model.is_dir():
        lines += [*_sizes(model), ""]
    lines += ["```python", "import emu2", ""]
    lines += [f'{variant} = emu2.load("{(model / variant).as_posix()}")' for variant in VARIANTS]
    return [*lines, "```", ""]


def _sizes(model: Path) -> list[str]:
    return [
        *("| part | parameters | bytes |", "|---|---:|---:|"),
        *(f"| {name} | {numbers:,} | {length:,} |" for name, (numbers, length) in parts(model).items()),
        f"| all | | {folder_bytes(model):,} |",
    ]


def write_again(model: str | Path, card: str | Path, *, figures: str | Path, notes: str | Path) -> None:
    """Put new figures, notes and sizes into the card of an assembled model, and into its `card.json`.

    Args:
        model: folder of the variants, with `card.json`.
        card: Markdown that `write_card` wrote.
        figures, notes: as for `write_card`.

    Raises:
        ValueError: there is no such card, or the figures are none.
    """
    model, card = Path(model), Path(card)
    found = _evaluation(Path(figures))
    rows = found["rows"]
    try:
        known = {**json.loads((model / CARD).read_text(encoding="utf-8")), "figures": rows}
        text = card.read_text(encoding="utf-8")
        top, measured = text.index("| part | parameters | bytes |"), text.index("## Measured")
        below = text.index("\n\n", top)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{card} and {model / CARD} are not the two halves of a model card ({error}): give what "
            "'python -m emu2.recipes.card RUNS' wrote."
        ) from error
    known.pop("after", None)
    (model / CARD).write_text(json.dumps({**known, **_after(Path(notes))}, indent=1), encoding="utf-8")
    new = "\n".join([*_measured(found), *_failures(Path(notes), rows)])
    sizes = "\n".join(_sizes(model))
    card.write_text(f"{text[:top]}{sizes}{text[below:measured]}{new}\n", encoding="utf-8")


def _recipe(pipeline: Pipeline, records: Sequence[StageRecord]) -> list[str]:
    size, budget = pipeline.about.get("size"), pipeline.about.get("budget")
    changed = "".join(f" --set {shlex.quote(setting)}" for setting in pipeline.about.get("settings", ()))
    lines = [
        "## How it was made",
        "",
        "```console",
        f"$ emu2 train {size} --all --budget {budget} --seed {pipeline.about.get('seed')}{changed} --out FOLDER",
        "```",
        "",
        "| stage | starts from | learns | steps x records | loss at the end | held out | time | pieces |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for record in records:
        data = record.config.data
        sizes = sorted({data.batch_size, *data.batch_sizes.values()})
        batch = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        starts = ", ".join(pipeline.needs(record.name))
        cells = [
            record.name,
            starts,
            _PURPOSE[record.name if record.name in _PURPOSE else record.config.objective],
            f"{record.steps:,} x {batch}",
            _number(record.loss),
            _number(record.held_out),
            duration(record.seconds),
            str(len(record.sessions)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    unusable = sum(sum(record.bad.values()) for record in records)
    told = f"Samples that could not be used: {unusable:,}. Curves and samples by step: `report.html` of the runs."
    return [*lines, "", told, ""]


def _data(records: Sequence[StageRecord]) -> list[str]:
    lines = [
        "## Data and licences",
        "",
        "Everything was drawn by the emoji world (docs/world.md): pictures of Noto Color Emoji (SIL Open Font License "
        "1.1) with the names of the Unicode emoji data (Unicode License). Concepts of the splits `val` and `held`, and "
        "the scenes of the split `seen`, are in no training record. The weights are under the licence of the package "
        "(Apache 2.0).",
        "",
        "| stage | kinds of records and their shares | things shown |",
        "|---|---|---|",
    ]
    for record in records:
        data = record.config.data
        kinds = ", ".join(f"{kind} {weight:g}" for kind, weight in data.kinds.items() if weight > 0)
        lines.append(f"| {record.name} | {kinds} | {_things(record)} |")
    return [*lines, ""]


def _things(record: StageRecord) -> str:
    """Which concepts a stage shows, by kind of record where they differ."""
    data = record.config.data
    said: dict[str, list[str]] = {}
    for kind in data.kinds:
        number = data.worlds.get(kind, {}).get("concepts", data.concepts)
        what = "chosen ones"
        if number is None:
            what = "all of the training split"
        elif isinstance(number, int):
            what = f"those of the training split among the first {number} everyday ones"
        said.setdefault(what, []).append(kind)
    if len(said) == 1:
        return next(iter(said))
    return "; ".join(f"{', '.join(kinds)}: {what}" for what, kinds in said.items())


def _scenes(record: StageRecord) -> dict[str, Any]:
    """Style and number of everyday concepts of a stage's scenes, as `emu2 eval miniature` takes them."""
    data = record.config.data
    return {
        "style": data.world.get("style", "full"),
        "concepts": data.concepts if isinstance(data.concepts, int) else None,
    }


def _measured(found: Mapping[str, Any]) -> list[str]:
    rows = found["rows"]
    if not rows:
        return ["## Measured", "", "Nothing has been measured on these weights yet.", ""]
    lines = [
        "## Measured",
        "",
        *_asked(found.get("config") or {}),
        "| what | | value | 95 % interval | of | target | reached |",
        "|---|---|---:|---|---:|---:|---|",
    ]
    for row in rows:
        value = row["missing"] if row.get("value") is None else _number(row["value"])
        interval = "" if not row.get("interval") else " to ".join(_number(end) for end in row["interval"])
        reached = {True: "yes", False: "no", None: ""}[row.get("reached")]
        target, number = _number(row.get("target")), f"{row.get('n', 0):,}"
        cells = [row["group"], row["name"], value, interval, number, target, reached]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return [*lines, ""]


def _asked(config: Mapping[str, Any]) -> list[str]:
    """The command that measured, and of what scenes, as the evaluation's JSON tells."""
    if not {"style", "concepts", "seed"} <= set(config):
        return []
    concepts = f" --concepts {config['concepts']}" if config["concepts"] else ""
    known = f"the first {config['concepts']} everyday concepts of each split" if config["concepts"] else "all concepts"
    return [
        f"Printed by `emu2 eval miniature --style {config['style']}{concepts} --seed {config['seed']}`: scenes that "
        f"training never showed, in the style `{config['style']}`, of {known}.",
        "",
    ]


def _wanted(row: Mapping[str, Any]) -> str:
    least = _number(row.get("target"))
    return f"more than {least}" if row.get("goal") == "more than" else least


def _failures(notes: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["## Known failures", ""]
    missed = [row for row in rows if row.get("reached") is False]
    if missed:
        lines += ["Targets missed:", ""]
        lines += [
            f"- {row['group']}, {row['name']}: {_number(row['value'])} where {_wanted(row)} was wanted"
            for row in missed
        ]
        lines.append("")
    if notes.is_file():
        lines += [notes.read_text(encoding="utf-8").strip(), ""]
    lines += [
        "It knows the emoji world and nothing else: a photograph is answered in the words of that world.",
    ]
    return lines


def _after(notes: Path) -> dict[str, str]:
    """What `emu2 info` tells of the training that came after the stages, where there are notes of it."""
    text = notes.read_text(encoding="utf-8") if notes.is_file() else ""
    first = text.partition(f"{_AFTER}\n")[2].strip().partition("\n\n")[0]
    return {"after": " ".join(first.split())} if first else {}


def _number(value: float | None) -> str:
    return "" if value is None else figure(value)


def parts(folder: Path) -> dict[str, tuple[int, int]]:
    """Weight file of an assembled model -> numbers in it, bytes of it; from the headers alone."""
    from emu2.model.weight_files import WeightFile

    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        numbers = sum(info.numel for info in WeightFile(file).infos.values())
        place = file.relative_to(folder)
        # A part's folder says what it is, but that of a variant with a tower of its own.
        named = place.parent == Path() or place.name == VISION
        found[str(place.with_suffix("") if named else place.parent)] = (numbers, file.stat().st_size)
    return found


def _evaluation(file: Path, *, needed: bool = True) -> dict[str, Any]:
    """The JSON of an evaluation, of which at least "rows" is there."""
    if not needed and not file.is_file():
        return {"rows": []}
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        rows = found["rows"]
        missing = [row for row in rows if not {"group", "name", "value"} <= set(row)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} holds no figures: expected the JSON of an evaluation ({error!r}).") from error
    if missing:
        raise ValueError(f"{file}: a row without group, name and value: {missing[0]}.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m emu2.recipes.card", description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="?", help="folder of a pipeline")
    parser.add_argument("--model", type=Path, help="folder of an assembled model, instead of a pipeline's")
    parser.add_argument("--figures", type=Path, help="JSON that an evaluation wrote")
    parser.add_argument("--notes", type=Path, help="Markdown for the section on known failures")
    parser.add_argument("--out", type=Path, help="the card; RUNS/MODEL_CARD.md if left out")
    given = parser.parse_args()
    if given.model is not None:
        if given.runs or not (given.figures and given.notes and given.out):
            parser.error("--model takes --figures, --notes and --out, the card to be written again, and no pipeline")
        write_again(given.model, given.out, figures=given.figures, notes=given.notes)
        print(given.out)
        return
    if given.runs is None:
        parser.error("give the folder of a pipeline, or --model with that of an assembled model")
    card = write_card(Pipeline.reopened(given.runs), figures=given.figures, notes=given.notes, out=given.out)
    print(card)


if __name__ == "__main__":
    main()
