"""Rows about films: a thing that moves the way the text says, and stays what it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from emu2.data.records import Record
from emu2.evaluate.drawings import samples_of
from emu2.evaluate.exam import Exam, Models
from emu2.evaluate.figures import share
from emu2.evaluate.rows import Found, Group, Measured, Spec, UnableError
from emu2.evaluate.subject import Ask
from emu2.processing.video import Video
from emu2.world.clips import WAYS, Clip

_TARGET = 0.8
#: A thing has moved when its centre is this far from where it was, as a share of the picture's side.
_MOVED = 0.1
#: A frame shows something where it differs from the background in this share of its pixels.
_SOMETHING = 0.004


def _specs(exam: Exam) -> list[Spec]:
    claim = "a text becomes a clip (qualitative figures)"
    return [
        Spec("moves the way the text says", claim, _TARGET),
        Spec("identity kept", claim, _TARGET),
    ]


def one_way(record: Record) -> bool:
    """Whether a clip shows one thing that goes straight in a direction the caption names."""
    clip = Clip.from_dict(record.truth["clip"])
    return len(clip.objects) == 1 and clip.motions[0].kind == "goes" and bool(clip.motions[0].way)


def _films(models: Models, exam: Exam) -> Found:
    # All that the words can tell of a clip: where a thing starts must be known to draw it there.
    records = exam.records("video_pair", exam.config.clips, wording="full", keep=one_way)
    asks = [Ask((record.truth["caption"],), _clip(record)) for record in records]
    got = _filmed(models, asks, exam)
    clips = [Clip.from_dict(record.truth["clip"]) for record in records]
    ways = [way_seen(frames, exam) for frames in got]
    moved = [way == clip.motions[0].way for way, clip in zip(ways, clips, strict=True)]
    kept = [identity_kept(frames, clip.objects[0].emoji, exam) for frames, clip in zip(got, clips, strict=True)]
    notes = [{"seen": way or "no way"} for way in ways]
    samples = samples_of(asks, [Video(frames) for frames in got], exam, right=moved, notes=notes)
    yield "moves the way the text says", Measured(share(moved), 1 / len(WAYS), samples)
    yield "identity kept", Measured(share(kept), 1 / (1 + len(exam.reader.candidates)))


def _clip(record: Record) -> Video:
    clip = record.segments[0]
    if not isinstance(clip, Video):
        raise TypeError(f"Record {record.key!r} opens with no clip.")
    return clip


def _filmed(models: Models, asks: Sequence[Ask], exam: Exam) -> list[list[Image.Image]]:
    """By the first of the variants that has a video decoder."""
    reasons = []
    for subject in (models.gen, models.base, models.chat):
        try:
            films = subject.film(asks, exam.config.frames)
        except UnableError as error:
            reasons.append(str(error))
            continue
        return [[exam.fitting(frame) for frame in frames] for frames in films]
    raise UnableError(reasons[0])


def centres(frames: Sequence[Image.Image], exam: Exam) -> list[tuple[float, float] | None]:
    """The centre of what stands on the background of each frame, as shares of its sides; None where nothing does."""
    background = exam.reader.read_background(frames[0])
    found: list[tuple[float, float] | None] = []
    for frame in frames:
        mask = exam.reader.foreground(frame, background)
        if mask.mean() < _SOMETHING:
            found.append(None)
            continue
        rows, columns = np.nonzero(mask)
        # medians: specks far away do not move them
        found.append((float(np.median(columns)) / frame.width, float(np.median(rows)) / frame.height))
    return found


def way_seen(frames: Sequence[Image.Image], exam: Exam) -> str:
    """The direction (a key of WAYS) in which the clip's thing goes; empty where it hardly moves or cannot be seen."""
    seen = [centre for centre in centres(frames, exam) if centre is not None]
    if len(seen) < 2:
        return ""
    across, down = seen[-1][0] - seen[0][0], seen[-1][1] - seen[0][1]
    if math.hypot(across, down) < _MOVED:
        return ""

    def agreement(way: str) -> float:
        x, y = WAYS[way]
        return (x * across + y * down) / math.hypot(x, y)

    return max(WAYS, key=agreement)


def identity_kept(frames: Sequence[Image.Image], emoji: int, exam: Exam) -> bool:
    """Whether the first, the middle and the last frame all show the right thing, and nothing more."""
    for frame in (frames[0], frames[len(frames) // 2], frames[-1]):
        reading = exam.reader.read(frame, [emoji])
        if [thing.item.emoji for thing in reading.things] != [emoji]:
            return False
    return True


GROUPS = (
    Group(
        "Video",
        "Clips of one thing that goes straight, from the words for it. Its centre is tracked over the frames; it is "
        "told from other things in the first, the middle and the last frame.",
        _specs,
        _films,
    ),
)
