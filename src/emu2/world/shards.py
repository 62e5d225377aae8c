"""The world as files, in the forms that the field keeps its data in and `emu2.data.readers` reads.

Nothing is lost: pictures are PNG, clips are lossless H.264, and a record's truth stands beside it, where readers pass
over it. The same records give the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from emu2.data.records import Record
from emu2.processing.grounding import Box
from emu2.processing.video import Video
from emu2.world.world import KINDS, World

#: Kind of record -> the format it is written in, by its name in `emu2.data.readers.FORMATS`.
FORMAT_OF = {
    "pair": "webdataset",
    "text_to_image": "webdataset",
    "video_pair": "video2dataset",
    "grounded_pair": "grit",
    "grounded_generation": "grit",
    "edit": "instructpix2pix",
    "chat": "llava",
    "text": "text",
    "document": "mmc4",
    "storyboard": "mmc4",
    "naming": "mmc4",
    "counting": "mmc4",
    "rule": "mmc4",
    "tuple": "mmc4",
    "visual_prompt": "mmc4",
    "drawing": "mmc4",
}
#: No format says that one kind of document is to be answered at its end, so episodes are read as documents.
_EPISODES = ("naming", "counting", "rule", "tuple", "visual_prompt", "drawing")

#: The table of what was written, for `data.sources` of a training run.
SOURCES = "sources.json"

#: Frames a second of clips that name no rate.
_FPS = 5

#: Files of a sample, by what follows its key in their names, and the row of the annotation file if there is one.
_Sample = tuple[dict[str, bytes], dict[str, Any] | None]


@dataclass(frozen=True)
class Written:
    """What was written of one kind: its format, the number of records, of files and of bytes."""

    kind: str
    format: str
    records: int
    files: int
    bytes: int


def writable(kinds: tuple[str, ...] | list[str] | None) -> list[str]:
    """The kinds that are asked for, or all that have a format.

    Raises:
        ValueError: an unknown kind, or one without a format.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise ValueError(f"There is no kind {kind!r}; choose from {', '.join(FORMAT_OF)}.")
        if kind not in FORMAT_OF:
            raise ValueError(
                f"Records of the kind {kind!r} have no format on disk that is in use; train on the world itself for "
                f"them. Written are {', '.join(FORMAT_OF)}."
            )
    return list(dict.fromkeys(kinds or [kind for kind in KINDS if kind in FORMAT_OF]))


def write_shards(
    world: World, out: Path, kinds: list[str], count: int, *, start: int = 0, per_shard: int = 1000, force: bool = False
) -> list[Written]:
    """Write records `start` to `start + count - 1` of each kind into `out/KIND/`, and `out/sources.json`.

    per_shard: records in one tar or annotation file. force: older shards in these folders are removed first.

    Raises:
        ValueError: a kind without a format, or numbers below 1.
        FileExistsError: there are shards already, and no `force`.
    """
    if count < 1 or per_shard < 1:
        raise ValueError(f"count and per_shard are at least 1; got {count} and {per_shard}.")
    written = []
    chosen = writable(kinds)
    older = [path for kind in chosen for ending in ("tar", "jsonl") for path in (out / kind).glob(f"*.{ending}")]
    if older and not force:
        raise FileExistsError(f"{older[0]} exists already; name another folder, or give --force to replace its shards.")
    for path in older:
        path.unlink()
    for kind in chosen:
        folder = out / kind
        folder.mkdir(parents=True, exist_ok=True)
        files: list[Path] = []
        for shard, first in enumerate(range(start, start + count, per_shard)):
            numbers = range(first, min(first + per_shard, start + count))
            files += _write_shard(world, kind, numbers, folder / f"{shard:05d}", f"{shard:05d}")
        size = sum(file.stat().st_size for file in files)
        written.append(Written(kind, FORMAT_OF[kind], count, len(files), size))
    text = json.dumps(sources(out, [item.kind for item in written], max(world.config.frames)), indent=2) + "\n"
    _put(out / SOURCES, lambda path: path.write_text(text, encoding="utf-8"))
    return written


def sources(out: Path, kinds: list[str], frames: int) -> dict[str, dict[str, Any]]:
    """Name for `data.kinds` and `data.sources` -> the source to open, for written kinds.

    Episodes are "document/naming" and the like, beside "document". frames: of the longest clip.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        form, folder = FORMAT_OF[kind], out / kind
        spec: dict[str, Any] = {"format": form, "path": str(folder / "*.tar")}
        if form in ("mmc4", "llava", "text"):
            spec["path"] = str(folder / "*.jsonl")
        if form in ("mmc4", "llava"):
            spec["images"] = str(folder / "*.tar")
        if form in ("video2dataset", "llava"):
            spec["num_frames"] = frames
        if kind in _EPISODES:
            spec["max_images"] = None  # a demonstration that is left out would take its answer from the next one
        found[f"document/{kind}" if kind in _EPISODES else kind] = spec
    return found


def _write_shard(world: World, kind: str, numbers: range, stem: Path, name: str) -> list[Path]:
    """One tar, one annotation file, or both, from the records of these numbers."""
    form, rows, made = FORMAT_OF[kind], [], []

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        for place, number in enumerate(numbers):
            key = f"{name}{place:04d}"  # img2dataset's names: number of the shard, number in it
            files, row = _WRITERS[form](world.record(kind, number), key)
            if row is not None:
                rows.append(json.dumps(row, ensure_ascii=False) + "\n")
            yield key, files

    def fill_tar(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            for key, files in samples():
                for ending, data in files.items():
                    member = tarfile.TarInfo(f"{key}{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))

    if form == "text":
        for _ in samples():  # rows alone
            pass
    else:
        made.append(_put(stem.with_suffix(".tar"), fill_tar))
    if rows:
        made.append(_put(stem.with_suffix(".jsonl"), lambda path: path.write_text("".join(rows), encoding="utf-8")))
    return made


def _put(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file aside and put it in place when it is whole."""
    aside = path.with_name(path.name + ".part")
    write(aside)
    os.replace(aside, path)
    return path


# Formats -------------------------------------------------------------------------------------------------------------


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _mp4(video: Video) -> bytes:
    """A clip without loss: H.264 of RGB, which PyAV and ffmpeg read but not every browser plays."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=round(video.fps or _FPS), options={"qp": "0"})
        stream.width, stream.height = video[0].size
        stream.pix_fmt = "rgb24"
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return buffer.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _still(record: Record) -> Image.Image:
    return next(segment for segment in record.segments if isinstance(segment, Image.Image))


def _captioned(record: Record, key: str) -> _Sample:
    """img2dataset's and video2dataset's samples: what is shown, caption, metadata."""
    shown = next(segment for segment in record.segments if not isinstance(segment, str))
    caption = next(segment for segment in record.segments if isinstance(segment, str))
    note: dict[str, Any] = {
        "key": key,
        "caption": caption,
        "status": "success",
        "record": record.key,
        "truth": record.truth,
    }
    if isinstance(shown, Video):
        return {".mp4": _mp4(shown), ".txt": caption.encode(), ".json": _json(note)}, None
    assert isinstance(shown, Image.Image)
    note |= {"width": shown.width, "height": shown.height}
    return {".png": _png(shown), ".txt": caption.encode(), ".json": _json(note)}, None


def _grounded(record: Record, key: str) -> _Sample:
    """GRIT's samples: a picture, and places in its caption with boxes in shares of the picture's sides."""
    picture = _still(record)
    caption, phrases = "", []

    def add(phrase: str, boxes: list[list[float]]) -> None:
        nonlocal caption
        for box in boxes:
            shares = [value / side for value, side in zip(box, picture.size * 2, strict=True)]
            phrases.append([len(caption), len(caption) + len(phrase), *shares, 1.0])
        caption += phrase

    if record.kind == "grounded_pair":
        rest = record.truth["caption"]
        for item in record.truth["phrases"]:
            before, _, rest = rest.partition(item["phrase"])
            caption += before
            add(item["phrase"], item["boxes"])
        caption += rest
    else:
        for segment in record.segments[: record.answer_from]:
            if isinstance(segment, Box):
                add(segment.phrase or "", [list(segment.xyxy)])
            else:
                caption += str(segment)
    note = {
        "key": key,
        "caption": caption,
        "width": picture.width,
        "height": picture.height,
        "noun_chunks": phrases,
        "ref_exps": phrases,
        "record": record.key,
        "truth": record.truth,
    }
    return {".png": _png(picture), ".txt": caption.encode(), ".json": _json(note)}, None


def _edited(record: Record, key: str) -> _Sample:
    """InstructPix2Pix's fields."""
    before, instruction, after = record.segments
    assert isinstance(before, Image.Image)
    assert isinstance(after, Image.Image)
    captions = record.truth["captions"]
    note = {
        "key": key,
        "original_prompt": captions[0],
        "edit_prompt": instruction,
        "edited_prompt": captions[1],
        "record": record.key,
        "truth": record.truth,
    }
    return {".original_image.png": _png(before), ".edited_image.png": _png(after), ".json": _json(note)}, None


def _shown(record: Record) -> Iterator[tuple[str, str, bytes]]:
    """Every picture and clip of a record: "image" or "video", the end of its file's name, and its bytes."""
    number = 0
    for segment in record.segments:
        if isinstance(segment, (Image.Image, Video)):
            if isinstance(segment, Video):
                yield "video", f"_{number:02d}.mp4", _mp4(segment)
            else:
                yield "image", f"_{number:02d}.png", _png(segment)
            number += 1


def _interleaved(record: Record, key: str) -> _Sample:
    """MMC4's rows: sentences, and pictures each matched with the sentence it follows.

    A document that opens with a picture has an empty first sentence, since a picture cannot stand before all of them.
    """
    sentences: list[str] = []
    infos: list[dict[str, Any]] = []
    pictures = [(ending, data) for _, ending, data in _shown(record)]
    for segment in record.segments:
        if isinstance(segment, str):
            sentences.append(segment)
            continue
        sentences = sentences or [""]
        name = f"{key}{pictures[len(infos)][0]}"
        infos.append({"image_name": name, "matched_text_index": len(sentences) - 1, "matched_sim": 1.0})
    row = {"text_list": sentences, "image_info": infos, "url": None, "record": record.key, "truth": record.truth}
    return dict(pictures), row


def _conversation(record: Record, key: str) -> _Sample:
    """LLaVA's rows: turns whose texts mark where pictures and clips stand."""
    shown = list(_shown(record))
    speakers = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = []
    for role, content in record.turns or ():
        pieces = [
            segment if isinstance(segment, str) else "<video>" if isinstance(segment, Video) else "<image>"
            for segment in content
        ]
        turns.append({"from": speakers[role], "value": "\n".join(pieces)})
    row: dict[str, Any] = {"id": record.key}
    for what in ("image", "video"):
        names = [f"{key}{ending}" for kind, ending, _ in shown if kind == what]
        if names:
            row[what] = names[0] if len(names) == 1 else names
    row |= {"conversations": turns, "truth": record.truth}
    return {ending: data for _, ending, data in shown}, row


def _plain(record: Record, key: str) -> _Sample:
    """The Pile's rows."""
    return {}, {"text": record.segments[0], "meta": {"key": key, "record": record.key, **record.truth}}


_WRITERS: dict[str, Callable[[Record, str], _Sample]] = {
    "webdataset": _captioned,
    "video2dataset": _captioned,
    "grit": _grounded,
    "instructpix2pix": _edited,
    "llava": _conversation,
    "text": _plain,
    "mmc4": _interleaved,
}
