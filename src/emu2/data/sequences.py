"""Records as token sequences with targets: what each objective learns of a document.

A target is a label at the position that is predicted (the model shifts): a text token's id, the slot's own id for a
visual embedding to be regressed, or IGNORE.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise, product
from typing import TYPE_CHECKING, Literal

from PIL import Image

from emu2 import tokens
from emu2.data.records import Record
from emu2.data.settings import ANSWER, FRAME, PICTURE
from emu2.processing.prompts import ChatPart, chat_parts
from emu2.processing.video import Video

if TYPE_CHECKING:
    from emu2.processing.grounding import Box
    from emu2.processing.processor import Emu2Processor

#: Label of a position that is no target.
IGNORE = -100

Targets = Literal["text", "all", "last picture"]

#: A space that is a token of its own, as byte-level vocabularies and sentencepiece's write it.
_BLANK = ("\u0120", "\u2581")

#: What marks boxes in an answer.
_BOX_TOKENS = (tokens.GROUNDING, tokens.PHRASE, tokens.OBJECT)


@dataclass(frozen=True)
class Look:
    """Where to look for an answer.

    query: the position that looks: before the answer, or where a question names what it asks about. keys: positions to
    choose from. wanted: for each, whether it is one of those.
    """

    query: int
    keys: tuple[int, ...]
    wanted: tuple[bool, ...]


@dataclass(frozen=True)
class Sequence:
    """One document, ready for a batch.

    input_ids, labels: of equal length. images, frames: stills and video frames in reading order, RGB, of the side the
    vision tower reads. kind: of the record. looks: for answers of which that is known (`emu2.train.looking_back`), by
    what looks: the record's kind, and with ANSWER the position before a conversation's answer, with
    PICTURE the `[/IMG]` of an episode's pictures, with FRAME and a number from 0 a question about a clip.
    """

    input_ids: list[int]
    labels: list[int]
    images: list[Image.Image]
    frames: list[Image.Image]

    _slot_ids: frozenset[int] = frozenset()
    kind: str = ""
    looks: Mapping[str, tuple[Look, ...]] = field(default_factory=dict)

    @property
    def num_text_targets(self) -> int:
        return sum(label != IGNORE for label in self.labels) - self.num_visual_targets

    @property
    def num_visual_targets(self) -> int:
        return sum(label in self._slot_ids for label in self.labels)


class SequenceBuilder:
    """Turns records into sequences for one processor.

    Args:
        processor: encodes the parts.
        max_length: longest sequence.
    """

    def __init__(self, processor: Emu2Processor, max_length: int):
        self.processor = processor
        self.max_length = max_length
        tokenizer = processor.tokenizer
        names = (*tokens.SLOT_TOKENS, tokens.VIDEO)
        ids: dict[str, int] = {token: tokenizer.convert_tokens_to_ids(token) for token in names}
        self.start_id, self.end_id = ids[tokens.IMG], ids[tokens.IMG_END]
        self.image_id, self.frame_id, self.video_id = ids[tokens.IMAGE_SLOT], ids[tokens.FRAME_SLOT], ids[tokens.VIDEO]
        self.slot_ids = frozenset({self.image_id, self.frame_id})
        vocabulary = tokenizer.get_vocab()
        self.blank_ids = frozenset(vocabulary[token] for token in _BLANK if token in vocabulary)
        self._picture_ids = self.slot_ids | {self.start_id, self.end_id, self.video_id}

    def build(self, record: Record, targets: Targets) -> Sequence:
        """The sequence of a document.

        Args:
            targets: "text": text tokens only, never a picture or the tokens around it (stage 1 of the paper).
                "all": text, `[IMG]`, and every visual embedding (stage 2). With `record.answer_from`, only segments
                from there on are targets. "last picture": the embeddings of the last segment, of a clip those of its
                frames, nothing else (Emu2-Gen).

        Raises:
            ValueError: the sequence is longer than `max_length`, has no target at all, or does not end in a picture or
                clip that is to be learned.
        """
        encoded = self.processor.encode(list(record.segments), add_bos=True, add_eos=True)
        ids = list(encoded.input_ids)
        if len(ids) > self.max_length:
            raise ValueError(
                f"Record {record.key!r} takes {len(ids)} tokens, and the longest sequence of this run is "
                f"{self.max_length}: raise data.max_length or leave the record out."
            )
        labels = [IGNORE] * len(ids)
        if targets == "last picture":
            if not isinstance(record.segments[-1], (Image.Image, Video)):
                raise ValueError(
                    f"Record {record.key!r} ({record.kind}) must end in the picture or clip to be learned; it ends in "
                    f"a {type(record.segments[-1]).__name__}."
                )
            start, end = encoded.spans[-1]
            wanted = [t for t in range(start, end) if ids[t] in self.slot_ids]
        else:
            first = encoded.spans[record.answer_from][0] if record.answer_from else 1
            never = self._picture_ids if targets == "text" else {self.end_id}
            wanted = [t for t in range(max(first, 1), len(ids)) if ids[t] not in never]
        for t in wanted:
            labels[t] = ids[t]
        sequence = self._sequence(record, ids, labels, encoded.images, encoded.frames)
        looks = {
            record.kind: _at_earlier_answers(record, encoded.spans),
            f"{record.kind}{PICTURE}": self._at_what_is_marked(record, encoded.spans),
        }
        return replace(sequence, looks=looks)

    def _at_what_is_marked(self, record: Record, spans: Seq[tuple[int, int]]) -> tuple[Look, ...]:
        """In an episode `[/IMG]` looks at those embeddings of its picture that lie in the boxes of what is sought;
        where that is all of them, at its picture rather than at what comes before it."""
        side = math.isqrt(self.processor.num_query)
        stills = [span for part, span in zip(record.segments, spans, strict=True) if isinstance(part, Image.Image)]
        looks = []
        for (start, end), sought in zip(stills, record.sought, strict=False):
            if sought is None or not sought.boxes:
                continue
            cells = tuple(covered(sought.boxes, side))
            before = start + 1 if all(cells) else 0  # offered as well
            looks.append(Look(end - 1, tuple(range(start + 1 - before, end - 1)), (False,) * before + cells))
        return tuple(looks)

    def chunk(self, record: Record, chance: random.Random) -> Sequence:
        """All text of a record as `<s>` text `</s>`; of a longer one a chunk of `max_length` tokens drawn at random.

        Chunks follow each other without overlap, but that the last one is as long as the others. Its first token is no
        target: nothing stands before it.
        """
        ids = list(self.processor.encode([joined_text(record)], add_bos=True, add_eos=True).input_ids)
        if len(ids) > self.max_length:
            start = chance.randrange(-(-len(ids) // self.max_length)) * self.max_length
            start = min(start, len(ids) - self.max_length)
            ids = ids[start : start + self.max_length]
        return self._sequence(record, ids, [IGNORE, *ids[1:]], [], [])

    def conversation(self, record: Record) -> Sequence:
        """The sequence of a conversation in the wording of Emu2-Chat; targets are the assistant's turns, each with its
        `</s>`, but no picture in them.

        A conversation without a system turn gets the wording's own message, the concise one where an answer holds
        boxes. Such an answer has `<grounding>` right before it, as the wording asks for boxes, and does not learn it. A
        longer conversation than `max_length` is cut there, before a picture that would be cut in two.

        Raises:
            ValueError: the record has no turns, its turns are out of order, or nothing of an answer is left.
        """
        if record.turns is None:
            raise ValueError(
                f"Record {record.key!r} ({record.kind}) is no conversation: its source must give its turns (user, "
                "assistant)."
            )
        messages = [{"role": role, "content": list(content)} for role, content in record.turns]
        parts = chat_parts(
            messages,
            template=self.processor.chat_template,  # type: ignore[arg-type]
            add_generation_prompt=False,
            style="concise" if any(_holds_boxes(part) for part in _answers(record)) else "detailed",
        )
        parts = _grounded(parts)
        encoded = self.processor.encode([part.content for part in parts], add_bos=True)
        ids = list(encoded.input_ids)
        labels = [IGNORE] * len(ids)
        # A prompt ends in "[ASSISTANT]:". The space after it is the answer's, also where it is a token of its own.
        starts = [
            start - (part.is_answer and start > 0 and ids[start - 1] in self.blank_ids)
            for part, (start, _) in zip(parts, encoded.spans, strict=True)
        ]
        for part, start, (_, end) in zip(parts, starts, encoded.spans, strict=True):
            for t in range(start, end if part.is_answer else start):
                if ids[t] not in self._picture_ids:
                    labels[t] = ids[t]
        end = self._cut(ids)
        images = ids[:end].count(self.image_id) // self.processor.num_query
        frames = ids[:end].count(self.frame_id) // self.processor.num_video_query
        sequence = self._sequence(record, ids[:end], labels[:end], encoded.images[:images], encoded.frames[:frames])
        # Where each question ends: its answer begins there.
        ends = [
            start
            for (before, part), start in zip(pairwise(parts), starts[1:], strict=True)
            if part.is_answer and not before.is_answer
        ]
        return replace(sequence, looks=self._at_what_is_sought(record, sequence, ends))

    def _at_what_is_sought(self, record: Record, sequence: Sequence, ends: list[int]) -> dict[str, tuple[Look, ...]]:
        """Of a conversation about one still or clip: the word for what is sought looks at the embeddings that lie in
        its boxes, and at `[IMG]` where that is not in the picture, of a clip in each frame by heads of its own; the
        answer looks at that word."""
        ids = sequence.input_ids
        if not record.sought or len(sequence.images) + bool(sequence.frames) != 1:
            return {}
        starts = [t for t, token in enumerate(ids) if token == self.start_id]
        each = self.processor.num_video_query if sequence.frames else self.processor.num_query
        keys = tuple(t for start in starts for t in range(start, start + 1 + each))
        looks: dict[str, list[Look]] = {}
        for start, end, sought in zip([keys[-1], *ends], ends, record.sought, strict=False):
            if sought is None or end > len(ids):
                continue
            named = self._end_of(sought.words, ids, start, end)
            if named is None:
                continue
            if sequence.frames:
                shown = {f"{record.kind}{FRAME}{number}": boxes for number, boxes in enumerate(sought.moments)}
            else:
                shown = {record.kind: sought.boxes}
            for first, (name, boxes) in zip(starts, shown.items(), strict=False):
                cells = covered(boxes, math.isqrt(each))
                wanted = {first + 1 + cell for cell, there in enumerate(cells) if there} or {first}
                looks.setdefault(name, []).append(Look(named, keys, tuple(key in wanted for key in keys)))
            asked = tuple(range(start, end))
            answer = Look(end - 1, asked, tuple(t == named for t in asked))
            looks.setdefault(f"{record.kind}{ANSWER}", []).append(answer)
        return {name: tuple(found) for name, found in looks.items()}

    def _end_of(self, words: str, ids: list[int], start: int, end: int) -> int | None:
        """Position of the last token of some words between two positions, where they stand there."""
        said = [_spelt(token) for token in self.processor.tokenizer.convert_ids_to_tokens(ids[start:end])]
        at = "".join(said).rfind(words)
        if at < 0:
            return None
        reached = list(accumulate(map(len, said)))
        return start + next(i for i, length in enumerate(reached) if length >= at + len(words))

    def _cut(self, ids: list[int]) -> int:
        """Where a sequence ends that may hold `max_length` tokens and whole pictures."""
        if len(ids) <= self.max_length:
            return len(ids)
        end = self.max_length
        if ids[end] in self.slot_ids or ids[end] == self.end_id:
            while ids[end] != self.start_id:
                end -= 1
        return end - 1 if ids[end - 1] == self.video_id else end

    def _sequence(
        self,
        record: Record,
        ids: list[int],
        labels: list[int],
        images: Iterable[Image.Image],
        frames: Iterable[Image.Image],
    ) -> Sequence:
        if all(label == IGNORE for label in labels):
            raise ValueError(
                f"Record {record.key!r} has nothing to learn: no text and no picture among its targets, or none that "
                f"fits {self.max_length} tokens."
            )
        resize = self.processor.image_processor.resize
        return Sequence(ids, labels, list(map(resize, images)), list(map(resize, frames)), self.slot_ids, record.kind)


def _at_earlier_answers(record: Record, spans: Seq[tuple[int, int]]) -> tuple[Look, ...]:
    """Texts right after a still look at the first tokens of earlier ones, those of the same words; where some earlier
    ones are of the same words and others are not."""
    parts = list(zip(record.segments, spans, strict=True))
    answers = [
        (start, text)
        for (before, _), (text, (start, _)) in pairwise(parts)
        if isinstance(before, Image.Image) and isinstance(text, str)
    ]
    looks = []
    for number, (position, words) in enumerate(answers):
        earlier = answers[:number]
        same = tuple(said == words for _, said in earlier)
        if any(same) and not all(same):
            looks.append(Look(position - 1, tuple(start for start, _ in earlier), same))
    return tuple(looks)


def _spelt(token: str) -> str:
    """A token's letters: vocabularies mark a word's beginning instead of writing the space before it."""
    for blank in _BLANK:
        token = token.replace(blank, " ")
    return token


def covered(boxes: Iterable[Box], side: int) -> list[bool]:
    """Which cells of a grid of `side` x `side` over a picture, row by row, have their middle in one of the boxes; of a
    box that holds no middle, the cell of its own.
    """
    found = [False] * side**2
    for box in boxes:
        left, top, right, bottom = (value / box.size[i % 2] * side for i, value in enumerate(box.xyxy))
        middle = (min(int((left + right) / 2), side - 1), min(int((top + bottom) / 2), side - 1))
        for row, column in product(range(side), repeat=2):
            holds = left <= column + 0.5 <= right and top <= row + 0.5 <= bottom
            found[row * side + column] |= holds or (column, row) == middle
    return found


def _answers(record: Record) -> Iterable[object]:
    return (part for role, content in record.turns or () if role == "assistant" for part in content)


def _holds_boxes(part: object) -> bool:
    return isinstance(part, str) and any(token in part for token in _BOX_TOKENS)


def _grounded(parts: list[ChatPart]) -> list[ChatPart]:
    """The parts with `<grounding>` at the end of what stands before an answer with boxes, as it asks for boxes."""
    result: list[ChatPart] = []
    for index, part in enumerate(parts):
        opens = part.is_answer and bool(result) and not result[-1].is_answer
        if not opens:
            result.append(part)
            continue
        answer: list[object] = []
        for later in parts[index:]:
            if not later.is_answer:
                break
            answer.append(later.content)
        before = result[-1].content
        if any(map(_holds_boxes, answer)) and isinstance(before, str):
            result[-1] = replace(result[-1], content=before.rstrip(" ") + tokens.GROUNDING)
            if isinstance(part.content, str):
                part = replace(part, content=part.content.lstrip().removeprefix(tokens.GROUNDING).lstrip())
        result.append(part)
    return result


def first_image(record: Record) -> Image.Image:
    """The first still of a record.

    Raises:
        ValueError: it has none.
    """
    for segment in record.segments:
        if isinstance(segment, Image.Image):
            return segment
    raise ValueError(f"Record {record.key!r} ({record.kind}) has no picture, and this objective needs one.")


def any_picture(record: Record, chance: random.Random) -> tuple[Image.Image, str]:
    """The first still of a record, or of one that has none a frame of its clip; and which frame, for a key.

    Raises:
        ValueError: it has neither.
    """
    clip = next((segment for segment in record.segments if isinstance(segment, Video)), None)
    if clip is None or any(isinstance(segment, Image.Image) for segment in record.segments):
        return first_image(record), ""
    index = chance.randrange(len(clip))
    return clip[index], f"#frame{index}"


def joined_text(record: Record) -> str:
    """All text of a record, in order.

    Raises:
        ValueError: it has none.
    """
    text = " ".join(segment.strip() for segment in record.segments if isinstance(segment, str) and segment.strip())
    if not text:
        raise ValueError(f"Record {record.key!r} ({record.kind}) has no text, and this objective needs some.")
    return text
