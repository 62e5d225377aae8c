"""Records rearranged before they become sequences: what comes first, and which frames of a clip stay."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import Any, Literal

from PIL import Image

from emu2.data.records import Record, Sought
from emu2.processing.video import Video, sample_midpoints


def is_pair(record: Record) -> bool:
    """Whether a record is one text and one picture or clip, in either order."""
    return len(record.segments) == 2 and interleaves(record)


def interleaves(record: Record) -> bool:
    """Whether a record is made of texts and pictures (or clips), at least one of each, and nothing else."""
    told = {isinstance(segment, str) for segment in record.segments}
    return len(told) == 2 and all(isinstance(s, (str, Image.Image, Video)) for s in record.segments)


def image_first(record: Record) -> Record:
    """A pair or an interleaved document with pictures (or clips) before the texts they belong to.

    Which belong together is told by what the document opens with: where it opens with a text, the pictures after a text
    are that text's, and the other way round. Texts that come to stand side by side are joined by a space.
    """
    return _ordered(record, text_first=False)


def text_first(record: Record) -> Record:
    """A pair or an interleaved document with the texts before their pictures (or clips); see `image_first`."""
    return _ordered(record, text_first=True)


def with_frames(
    record: Record, frames: Sequence[int], choice: Literal["random", "uniform"], chance: random.Random
) -> Record:
    """A record whose clips hold as many frames as a run reads, and what is sought in a clip its moments.

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

    def picked(length: int) -> list[int]:
        if choice == "uniform" or length == number:
            return sample_midpoints(length, number)
        return sorted(chance.sample(range(length), number))

    kept = [picked(len(clip)) for clip in clips]
    unread = iter(kept)

    def cut(segment: Any) -> Any:
        if not isinstance(segment, Video):
            return segment
        indices = next(unread)
        return segment if len(segment) == number else segment.select(indices)

    sought = tuple(_cut_moments(each, kept[0]) for each in record.sought)
    if record.turns is None:
        return replace(record, segments=tuple(map(cut, record.segments)), sought=sought)
    turns = tuple((role, tuple(map(cut, content))) for role, content in record.turns)
    segments = tuple(segment for _, content in turns for segment in content)
    return replace(record, turns=turns, segments=segments, sought=sought)


def _cut_moments(sought: Sought | None, kept: Sequence[int]) -> Sought | None:
    if sought is None or not sought.moments:
        return sought
    return replace(sought, moments=tuple(sought.moments[index] for index in kept))


def _ordered(record: Record, *, text_first: bool) -> Record:
    if not interleaves(record):
        raise ValueError(
            f"Record {record.key!r} is no pair of text and picture, nor a document of them: it has "
            f"{len(record.segments)} segments."
        )
    runs = [list(run) for _, run in groupby(record.segments, key=lambda segment: isinstance(segment, str))]
    if isinstance(record.segments[0], str) != text_first:
        runs = [run for start in range(0, len(runs), 2) for run in reversed(runs[start : start + 2])]
    segments: list[Any] = []
    for segment in chain.from_iterable(runs):
        if isinstance(segment, str) and segments and isinstance(segments[-1], str):
            segments[-1] = f"{segments[-1]} {segment}"
        else:
            segments.append(segment)
    return replace(record, segments=tuple(segments), answer_from=None)
