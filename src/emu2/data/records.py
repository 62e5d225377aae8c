"""The one unit that every data source yields and every objective reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from emu2.processing.video import Video

    #: What a record is made of: text, a still picture, or a clip.
    Segment = str | Image.Image | Video


@dataclass(frozen=True)
class Record:
    """One document: segments in reading order, and what is known to be true about them.

    kind: the kind of data, e.g. "pair" or "counting"; mixtures and metrics group by it.
    segments: text (`str`), pictures (`PIL.Image.Image`) and clips (`Video`) in reading order; at least one.
    key: a name unique within its source, stable over runs.
    answer_from: index of the first segment that is to be learned (training) or answered (evaluation); `None` means that
        the whole document is.
    truth: JSON-able facts about the record (scene, answer, label, ...), for exact evaluation. Never shown to a model.
    """

    kind: str
    segments: tuple[Segment, ...]
    key: str
    answer_from: int | None = None
    truth: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.segments, str) or not self.segments:
            raise ValueError(
                f"Record {self.key!r} needs a tuple of at least one segment (text, picture or clip); "
                f"got {self.segments!r}."
            )
        if self.answer_from is not None and not 0 <= self.answer_from < len(self.segments):
            raise ValueError(
                f"Record {self.key!r} has {len(self.segments)} segments, so answer_from must lie between 0 and "
                f"{len(self.segments) - 1} or be None; got {self.answer_from}."
            )

    @property
    def prompt(self) -> tuple[Segment, ...]:
        """The segments before the answer; none when the whole document is to be learned."""
        return self.segments[: self.answer_from or 0]

    @property
    def answer(self) -> tuple[Segment, ...]:
        """The segments to be learned or answered."""
        return self.segments[self.answer_from or 0 :]
