"""Records as token sequences with targets: what each objective learns of a document.

A target is a label at the position that is predicted (the model shifts): a text token's id, the slot's own id for a
visual embedding to be regressed, or IGNORE.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from PIL import Image

from emu2 import tokens
from emu2.data.records import Record

if TYPE_CHECKING:
    from emu2.processing.processor import Emu2Processor

#: Label of a position that is no target.
IGNORE = -100

Targets = Literal["text", "all"]


@dataclass(frozen=True)
class Sequence:
    """One document, ready for a batch.

    input_ids, labels: of equal length. images, frames: stills and video frames in reading order. keys: one name for
    each still, for caches of frozen features.
    """

    input_ids: list[int]
    labels: list[int]
    images: list[Image.Image]
    frames: list[Image.Image]
    image_keys: list[str]
    frame_keys: list[str]

    @property
    def num_text_targets(self) -> int:
        return sum(label != IGNORE for label in self.labels) - self.num_visual_targets

    @property
    def num_visual_targets(self) -> int:
        return sum(label in self._slot_ids for label in self.labels) if self._slot_ids else 0

    _slot_ids: frozenset[int] = frozenset()


class SequenceBuilder:
    """Turns records into sequences for one processor.

    Args:
        processor: encodes the parts.
        max_length: longest sequence; a longer one is refused.
    """

    def __init__(self, processor: Emu2Processor, max_length: int):
        self.processor = processor
        self.max_length = max_length
        tokenizer = processor.tokenizer
        ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (*tokens.SLOT_TOKENS, tokens.VIDEO)}
        self.start_id, self.end_id = ids[tokens.IMG], ids[tokens.IMG_END]
        self.slot_ids = frozenset({ids[tokens.IMAGE_SLOT], ids[tokens.FRAME_SLOT]})
        self._picture_ids = self.slot_ids | {self.start_id, self.end_id, ids[tokens.VIDEO]}

    def build(self, record: Record, targets: Targets) -> Sequence:
        """The sequence of a record.

        Args:
            targets: "text": text tokens only, never a picture or the tokens around it (stage 1 of the paper).
                "all": text, `[IMG]`, and every visual embedding (stage 2). With `record.answer_from`, only segments
                from there on are targets.

        Raises:
            ValueError: the sequence is longer than `max_length`, or has no target at all.
        """
        encoded = self.processor.encode(list(record.segments), add_bos=True, add_eos=True)
        ids = list(encoded.input_ids)
        if len(ids) > self.max_length:
            raise ValueError(
                f"Record {record.key!r} takes {len(ids)} tokens, and the longest sequence of this run is "
                f"{self.max_length}: raise data.max_length or leave the record out."
            )
        first = encoded.spans[record.answer_from][0] if record.answer_from else 1
        never = self._picture_ids if targets == "text" else {self.end_id}
        labels = [IGNORE] * len(ids)
        for t in range(max(first, 1), len(ids)):
            if ids[t] not in never:
                labels[t] = ids[t]
        if all(label == IGNORE for label in labels):
            raise ValueError(f"Record {record.key!r} has nothing to learn: no text and no picture among its targets.")
        return Sequence(
            input_ids=ids,
            labels=labels,
            images=list(encoded.images),
            frames=list(encoded.frames),
            image_keys=[f"{record.key}#image{i}" for i in range(len(encoded.images))],
            frame_keys=[f"{record.key}#frame{i}" for i in range(len(encoded.frames))],
            _slot_ids=self.slot_ids,
        )


def image_first(record: Record) -> Record:
    """A pair with its picture (or clip) before its text."""
    return _ordered(record, text_first=False)


def text_first(record: Record) -> Record:
    """A pair with its text before its picture (or clip)."""
    return _ordered(record, text_first=True)


def _ordered(record: Record, *, text_first: bool) -> Record:
    if not is_pair(record):
        raise ValueError(f"Record {record.key!r} is no pair: it has {len(record.segments)} segments.")
    text, picture = sorted(record.segments, key=lambda segment: not isinstance(segment, str))
    return replace(record, segments=(text, picture) if text_first else (picture, text), answer_from=None)


def is_pair(record: Record) -> bool:
    """Whether a record is one text and one picture or clip, in either order."""
    return len(record.segments) == 2 and sum(isinstance(segment, str) for segment in record.segments) == 1


def first_image(record: Record) -> Image.Image:
    """The first still of a record.

    Raises:
        ValueError: it has none.
    """
    for segment in record.segments:
        if isinstance(segment, Image.Image):
            return segment
    raise ValueError(f"Record {record.key!r} ({record.kind}) has no picture, and this objective needs one.")


def joined_text(record: Record) -> str:
    """All text of a record, in order.

    Raises:
        ValueError: it has none.
    """
    text = " ".join(segment.strip() for segment in record.segments if isinstance(segment, str) and segment.strip())
    if not text:
        raise ValueError(f"Record {record.key!r} ({record.kind}) has no text, and this objective needs some.")
    return text
