"""How annotations are worded as conversations: questions, hints for short answers, boxes.

The paper gives the system messages and says that output-format hints follow LLaVA-1.5; the hints are that project's
(its supplement, table 7), as is the request for a box. The paper gives no words for captions and boxes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu2 import tokens
from emu2.data.readers.config import SourceConfig
from emu2.data.records import Record
from emu2.processing.grounding import Box
from emu2.processing.prompts import SYSTEM_CONCISE, SYSTEM_DETAILED
from emu2.processing.video import Video

if TYPE_CHECKING:
    from emu2.data.records import Segment, Turn

#: LLaVA-1.5's words after a question with a short answer, after a multiple choice, for a caption and for a box.
SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."
CAPTION_REQUEST = "Provide a one-sentence caption for the provided image."
CLIP_CAPTION_REQUEST = "Provide a one-sentence caption for the provided video."
BOX_REQUEST = "Provide the bounding box coordinate of the region this sentence describes: {}"
#: By any of these a conversation is known to ask for short answers.
HINTS = (SHORT_ANSWER, LETTER_ANSWER, CAPTION_REQUEST, CLIP_CAPTION_REQUEST)

_SYSTEM = {"concise": SYSTEM_CONCISE, "detailed": SYSTEM_DETAILED}


def system_turn(style: str) -> Turn:
    """The system message of "concise" (academic tasks) or "detailed" (conversation) answers."""
    return "system", (_SYSTEM[style],)


def _one_turn(
    kind: str, shown: Segment, asked: str, answer: str, key: str, config: SourceConfig, truth: dict[str, Any]
) -> Record:
    """One request and its answer, in the concise style of academic tasks unless the source names another."""
    turns: tuple[Turn, ...] = (
        system_turn(config.style or "concise"),
        ("user", (shown, asked)),
        ("assistant", (answer,)),
    )
    return Record.conversation(kind, turns, key, truth)


def question_turns(
    kind: str, shown: Segment, question: str, answer: str, key: str, config: SourceConfig, truth: dict[str, Any]
) -> Record:
    """A question about a picture and its short answer; LLaVA-1.5's hint follows the question unless switched off."""
    asked = f"{question}\n{SHORT_ANSWER}" if config.hint else question
    return _one_turn(kind, shown, asked, answer, key, config, {"question": question, "answer": answer, **truth})


def caption_turns(
    kind: str, shown: Segment, caption: str, key: str, config: SourceConfig, truth: dict[str, Any]
) -> Record:
    """A caption as the answer to a request for one."""
    request = CLIP_CAPTION_REQUEST if isinstance(shown, Video) else CAPTION_REQUEST
    return _one_turn(kind, shown, request, caption, key, config, {"caption": caption, "answer": caption, **truth})


def box_turns(kind: str, shown: Segment, box: Box, key: str, config: SourceConfig, truth: dict[str, Any]) -> Record:
    """A box as the answer to a request for the place of its phrase.

    The answer opens with `<grounding>`, where the published code puts it before a grounded answer, and is worded as
    Kosmos-2's: the paper documents no answer string.
    """
    asked = BOX_REQUEST.format(box.phrase)
    answer = f"{tokens.GROUNDING}{box.to_tokens()}"
    return _one_turn(kind, shown, asked, answer, key, config, {"question": box.phrase, "answer": answer, **truth})
