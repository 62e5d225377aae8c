"""How annotations are worded as conversations: questions, hints for short answers, boxes.

The paper gives the system messages and says that output-format hints follow LLaVA-1.5; the hints are that project's
(its supplement, table 7). The paper gives no words for captions and boxes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu2.data.readers.config import SourceConfig
from emu2.data.records import Record
from emu2.processing.prompts import SYSTEM_CONCISE, SYSTEM_DETAILED

if TYPE_CHECKING:
    from emu2.data.records import Segment, Turn

#: LLaVA-1.5's words after a question with a short answer, after a multiple choice, and for a caption.
SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."
CAPTION_REQUEST = "Provide a one-sentence caption for the provided image."
CLIP_CAPTION_REQUEST = "Provide a one-sentence caption for the provided video."

_SYSTEM = {"concise": SYSTEM_CONCISE, "detailed": SYSTEM_DETAILED}


def system_turn(style: str) -> Turn:
    """The system message of "concise" (academic tasks) or "detailed" (conversation) answers."""
    return "system", (_SYSTEM[style],)


def question_turns(
    kind: str,
    shown: Segment,
    question: str,
    answer: str,
    key: str,
    config: SourceConfig,
    truth: dict[str, Any],
    *,
    hint: str = SHORT_ANSWER,
) -> Record:
    """One question about a picture and its short answer, in the concise style of academic tasks."""
    asked = f"{question}\n{hint}" if config.hint and hint else question
    turns: tuple[Turn, ...] = (
        system_turn(config.style or "concise"),
        ("user", (shown, asked)),
        ("assistant", (answer,)),
    )
    return Record.conversation(kind, turns, key, {"question": question, "answer": answer, **truth})


def caption_turns(
    kind: str, shown: Segment, caption: str, key: str, config: SourceConfig, truth: dict[str, Any]
) -> Record:
    """A caption as the answer to a request for one."""
    from emu2.processing.video import Video

    request = CLIP_CAPTION_REQUEST if isinstance(shown, Video) else CAPTION_REQUEST
    return question_turns(kind, shown, request, caption, key, config, truth, hint="")
