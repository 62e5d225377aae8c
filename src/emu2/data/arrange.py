"""Records rearranged before they become sequences: what comes first, and which frames of a clip stay."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

from PIL import Image

from emu2.data.records import Record
from emu2.processing.video import Video


def is_pair(record: Record) -> bool:
    """Whether a record is one text and one picture or clip, in either order."""
    return len(record.segments) == 2 and alternates(record)


def alternates(record: Record) -> bool:
    """Whether a record is texts and pictures (or clips) by turns, as many of the one as of the other."""
    shown = [_shows(segment) for segment in record.segments]
    told = [isinstance(segment, str) for segment in record.segments]
    by_turns = all(a != b for a, b in pairwise(told))
    return len(shown) % 2 == 0 and by_turns and all(s != t for s, t in zip(shown, told, strict=True))


def image_first(record: Record) -> Record:
    """A pair or an alternating document with each picture (or clip) before its text."""
    return _ordered(record, text_first=False)


def text_first(record: Record) -> Record:
    """A pair or an alternating document with each text before its picture (or clip)."""
    return _ordered(record, text_first=True)


def with_frames(
    record: Record, frames: Sequence[int], choice: Literal["random", "uniform"], chance: random.Random
) -> Record:
    """A record whose clips hold as many frames as a run reads.

    Args:
        frames: how many; of several numbers one that the shortest clip can give is drawn for the record.
        choice: "random" draws the frames and keeps their order, "uniform" takes the midpoints of equal parts.
        chance: the record's own.

    Raises:
        ValueError: a clip has fewer frames than the smallest number.
    """
    clips = [segment for segment in record.segments if isinstance(segment, Video)]
    if not clips:
        return record
    shortest = min(len(clip) for clip in clips)
    possible = [number for number in frames if number <= shortest]
    if not possible:
        raise ValueError(
            f"Record {record.key!r} ({record.kind}) has a clip of {shortest} frames, and this run reads "
            f"{' or '.join(map(str, sorted(frames)))}: lower data.frames, or leave short clips out."
        )
    number = chance.choice(possible)

    def cut(segment: Any) -> Any:
        if not isinstance(segment, Video) or len(segment) == number:
            return segment
        if choice == "uniform":
            return segment.sample(number)
        kept = sorted(chance.sample(range(len(segment)), number))
        fps = None if segment.fps is None else segment.fps * number / len(segment)
        return Video([segment[index] for index in kept], fps)

    if record.turns is None:
        return replace(record, segments=tuple(map(cut, record.segments)))
    turns = tuple((role, tuple(map(cut, content))) for role, content in record.turns)
    return replace(record, turns=turns, segments=tuple(segment for _, content in turns for segment in content))


def _shows(segment: Any) -> bool:
    return isinstance(segment, (Image.Image, Video))


def _couples(record: Record) -> list[tuple[Any, Any]]:
    return list(zip(record.segments[::2], record.segments[1::2], strict=True))


def _ordered(record: Record, *, text_first: bool) -> Record:
    if not alternates(record):
        raise ValueError(
            f"Record {record.key!r} is no pair of text and picture, nor a document of such pairs: it has "
            f"{len(record.segments)} segments."
        )
    couples = [sorted(couple, key=lambda segment: _shows(segment) == text_first) for couple in _couples(record)]
    return replace(record, segments=tuple(segment for couple in couples for segment in couple), answer_from=None)
