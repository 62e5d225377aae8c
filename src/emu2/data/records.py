"""The one unit that every data source yields and every objective reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from emu2.processing.grounding import Box
    from emu2.processing.video import Video

    #: What a record is made of: text, a still picture, a clip, or a box with what stands in it.
    Segment = str | Image.Image | Video | Box

#: One turn of a conversation: its role ("system", "user", "assistant") and its content in order.
Turn = tuple[str, tuple["Segment", ...]]

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Sought:
    """What a question is about, and where in the picture it is.

    words: the question's own for it, letter by letter; none where the picture marks it. boxes: in a still; none where
        it is not there. moments: in a clip instead, those of each frame.
    """

    words: str
    boxes: tuple[Box, ...] = ()
    moments: tuple[tuple[Box, ...], ...] = ()


@dataclass(frozen=True)
class Record:
    """One document: segments in reading order, and what is known to be true about them.

    kind: the kind of data, e.g. "pair" or "counting"; mixtures and metrics group by it.
    segments: text (`str`), pictures (`PIL.Image.Image`), clips (`Video`) and boxes (`Box`) in reading order; at least
        one.
    key: a name unique within its source, stable over runs.
    answer_from: index of the first segment that is to be learned (training) or answered (evaluation); `None` means that
        the whole document is.
    truth: JSON-able facts about the record (scene, answer, label, ...), for exact evaluation. Never shown to a model.
    sought: of a conversation about one still or one clip, for each of its answers, and of an episode for each of its
        pictures: what its question is about; None where that is not known or has no place.
    turns: a conversation's turns, each a role and its content; `segments` is then all content in order. An optional
        "system" turn comes first, then "user" and "assistant" in turn. None where the record is no conversation.
    """

    kind: str
    segments: tuple[Segment, ...]
    key: str
    answer_from: int | None = None
    truth: dict[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] | None = None
    sought: tuple[Sought | None, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.segments, str) or not self.segments:
            raise ValueError(
                f"Record {self.key!r} needs a tuple of at least one segment (text, picture, clip or box); "
                f"got {self.segments!r}."
            )
        if self.answer_from is not None and not 0 <= self.answer_from < len(self.segments):
            raise ValueError(
                f"Record {self.key!r} has {len(self.segments)} segments, so answer_from must lie between 0 and "
                f"{len(self.segments) - 1} or be None; got {self.answer_from}."
            )
        for role, content in self.turns or ():
            if role not in _ROLES or isinstance(content, str):
                raise ValueError(
                    f"A turn of record {self.key!r} is (role, content), a role of {', '.join(_ROLES)} and a tuple of "
                    f"segments; got ({role!r}, {type(content).__name__})."
                )

    @classmethod
    def conversation(
        cls,
        kind: str,
        turns: tuple[Turn, ...],
        key: str,
        truth: dict[str, Any] | None = None,
        sought: tuple[Sought | None, ...] = (),
    ) -> Record:
        """A record of `turns`, its segments being their content in order."""
        segments = tuple(segment for _, content in turns for segment in content)
        return cls(kind, segments, key, truth=truth or {}, turns=turns, sought=sought)

    @property
    def prompt(self) -> tuple[Segment, ...]:
        """The segments before the answer; none when the whole document is to be learned."""
        return self.segments[: self.answer_from or 0]

    @property
    def answer(self) -> tuple[Segment, ...]:
        """The segments to be learned or answered."""
        return self.segments[self.answer_from or 0 :]
