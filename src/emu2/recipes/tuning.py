"""A recipe on one's own data: what `emu2 train RECIPE --data PATH` changes in it.

A stage's numbers are for millions of records; a few dozen need a small batch, a length counted in passes over the data,
and with LoRA a higher rate. Everything here can be overridden with `--set`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from emu2.data.settings import kind_of
from emu2.train.config import LoraSettings, RunConfig

#: Objective -> the kinds of record that its data may be when only a path is given, the likelier first; "regions" is the
#: contrastive one of regions.
_KINDS = {
    "contrastive": ("pair",),
    "regions": ("grounded_pair", "pair"),
    "language": ("text",),
    "caption": ("pair", "video_pair"),
    "unified": ("pair", "document", "text"),
    "autoencoder": ("pair",),
    "decoder": ("pair",),
    "video_decoder": ("video_pair", "pair"),
    "chat": ("chat",),
    "gen": ("text_to_image", "edit", "grounded_generation", "video_pair"),
}
_TABLES = (".json", ".jsonl")
#: Format -> endings of the files it is tried on; "/" is a folder that holds no tars.
_TRIED_ON = {
    "llava": _TABLES,
    "folder": ("/",),
    "webdataset": (".tar",),
    "video2dataset": (".tar",),
    "instructpix2pix": ("/", ".tar", ".parquet", *_TABLES),
    "generation": _TABLES,
    "grit": (".tar", ".parquet"),
    "mmc4": _TABLES,
    "obelics": (".parquet",),
    "gqa": _TABLES,
    "coco_captions": _TABLES,
    "vqav2": _TABLES,
    "textvqa": _TABLES,
    "refcoco": _TABLES,
    "text": (".txt", ".jsonl", ".parquet", "/"),
}

#: Records of a step when tuning, at most, and at least as many steps as eight in a pass over the data.
_TUNING_BATCH, _STEPS_A_PASS = 64, 8
#: How much faster than weights adapters learn. Their best rate is about ten times that of full tuning, whatever the
#: model's size; half of that is safe.
_LORA_SPEED = 5.0


def with_data(config: RunConfig, given: Sequence[str]) -> RunConfig:
    """The same run on other data.

    Args:
        given: one source each, as PATH, KIND=PATH or KIND/NAME=PATH; instead of a path also the JSON of a source's
            settings, `chat={"format": "llava", "path": "my.jsonl", "images": "pictures"}`. Without a kind the recipe's
            own is taken, without a format the first one that fits.

    Raises:
        ValueError: no data found, or none in a form that the recipe can read.
    """
    sources: dict[str, dict[str, object]] = {}
    for text in given:
        name, spec = _read(text, _KINDS["regions" if config.contrast == "regions" else config.objective])
        if name in sources:
            name = next(free for free in (f"{name}/{n}" for n in range(2, len(given) + 2)) if free not in sources)
        sources[name] = spec
    sizes = {
        name: config.data.batch_sizes[kind_of(name)] for name in sources if kind_of(name) in config.data.batch_sizes
    }
    read = {kind_of(name) for name in sources}
    data = replace(
        config.data,
        kinds=dict.fromkeys(sources, 1.0),
        sources=sources,
        batch_sizes=sizes,
        worlds={},
        opening={},
        image_firsts={kind: share for kind, share in config.data.image_firsts.items() if kind in read},
    )
    told = config.looking_back
    if told is not None:
        heads = {name: heads for name, heads in told.heads.items() if name.partition(":")[0] in read}
        told = replace(told, heads=heads) if heads else None
    return replace(config, data=data, looking_back=told)


def tuned(config: RunConfig, *, epochs: float, lora: int | None = None, context: int | None = None) -> RunConfig:
    """A recipe's run at the scale of its own data: `epochs` passes, small batches, short warmup.

    Args:
        epochs: passes over all files of `config.data.sources`.
        lora: rank of adapters to train instead of the weights.
        context: longest sequence that the model takes; None leaves the recipe's.

    Raises:
        ValueError: the sources hold nothing.
    """
    from emu2.data.readers import open_source

    if epochs <= 0:
        raise ValueError(f"The data must be passed over more than 0 times; got {epochs}.")
    opened = [open_source(spec, kind_of(name)) for name, spec in config.data.sources.items()]
    records = sum(source.size or 0 for source in opened)
    if not records:
        raise ValueError("No data found: the sources hold no records.")
    batch = max(1, min(config.data.batch_size, _TUNING_BATCH, records // _STEPS_A_PASS))
    steps = max(1, math.ceil(epochs * records / batch))
    optim = config.optim
    optim = replace(
        optim,
        lr=optim.lr * (_LORA_SPEED if lora else 1.0),
        part_lr={part: rate * (_LORA_SPEED if lora else 1.0) for part, rate in optim.part_lr.items()},
        part_start={},
        warmup_steps=min(optim.warmup_steps, steps // 10),
    )
    # One file's rows weigh like another's, so that a pass is a pass over everything.
    kinds = {name: float(source.size or 0) for name, source in zip(config.data.sources, opened, strict=True)}
    data = replace(
        config.data,
        kinds=kinds,
        mode="mixed",
        batch_size=batch,
        batch_sizes={},
        max_length=min(config.data.max_length, context or config.data.max_length),
        workers=min(config.data.workers, 2),
    )
    return replace(
        config,
        steps=steps,
        data=data,
        optim=optim,
        lora=LoraSettings(rank=lora) if lora else config.lora,
        log_every=max(1, min(config.log_every, steps // 20)),
        validate_every=0,
        save_every=0,
    )


def _read(text: str, likely: tuple[str, ...]) -> tuple[str, dict[str, object]]:
    """Name and settings of one `--data`; `likely`: the kinds of record it may be."""
    name, equals, rest = text.partition("=")
    known = {kind for kinds in _KINDS.values() for kind in kinds} | set(_all_kinds())
    if not equals or kind_of(name) not in known:
        name, rest = "", text
    if rest.lstrip().startswith("{"):
        try:
            spec = json.loads(rest)
        except json.JSONDecodeError as error:
            raise ValueError(f"{rest!r} is neither a path nor the JSON of a source's settings: {error}.") from error
        return name or likely[0], spec
    if not rest.strip():
        raise ValueError(f"A source is written PATH or KIND=PATH; got {text!r}.")
    kinds = (name,) if name else likely
    return _recognise(rest, kinds)


def _all_kinds() -> list[str]:
    from emu2.data.readers import FORMATS

    return [kind for form in FORMATS.values() for kind in form.kinds]


def _recognise(path: str, names: Sequence[str]) -> tuple[str, dict[str, object]]:
    """The first kind and format that can read a path.

    Raises:
        ValueError: none can; the message is that of the likeliest.
    """
    from emu2.data.readers import FORMATS, open_source

    ending = _ending(path)
    first: ValueError | None = None
    for name in names:
        for form, endings in _TRIED_ON.items():
            if kind_of(name) not in FORMATS[form].kinds or (ending is not None and ending not in endings):
                continue
            spec: dict[str, Any] = {"format": form, "path": path}
            try:
                open_source(spec, kind_of(name))
            except ValueError as error:
                first = first or error
            else:
                return name, spec
    fitting = sorted({f for name in names for f, form in FORMATS.items() if kind_of(name) in form.kinds})
    raise first or ValueError(
        f"No data found: {path} is in no form that holds {' or '.join(names)}; these do: {', '.join(fitting)}. Name "
        f'one: --data \'{names[0]}={{"format": "{fitting[0] if fitting else "..."}", "path": "{path}"}}\'.'
    )


def _ending(path: str) -> str | None:
    """What a path's files end in: ".tar", ".jsonl", ...; "/" for a folder of other things; None when unknown."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return ".tar" if next(folder.glob("**/*.tar"), None) else "/"
    ending = Path(path.rstrip("/")).suffix.lower()
    return ending or None
