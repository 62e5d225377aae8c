"""A conversation that remembers its turns."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emu2.inference.face import Emu2


class Conversation:
    """Turns of a user and the model; `Emu2.conversation` makes one.

    talk = m.conversation()
    talk.say(picture, "What is this?")
    talk.say("And what colour is it?")

    Args:
        emu2: the model that answers.
        system, grounding, options: as in `Emu2.chat`, for every answer.

    Attributes:
        messages: the turns so far, as `Emu2.chat` takes them, without the system message.
    """

    def __init__(self, emu2: "Emu2", *, system: str | None = None, grounding: bool = False, **options: Any):
        self._emu2 = emu2
        self._options = {"system": system, "grounding": grounding, **options}
        self.messages: list[dict[str, Any]] = []

    def say(self, *parts: Any, **options: Any) -> str | Iterator[str]:
        """Say something (texts, pictures, videos) and get the answer; both are remembered.

        A turn that fails, or whose stream is not read to its end, is forgotten.

        Args:
            **options: as in `Emu2.chat`, for this answer only; with `stream=True` its pieces come from an iterator.
        """
        turn = {"role": "user", "content": list(parts)}
        answer = self._emu2.chat([*self.messages, turn], **(self._options | options))
        if isinstance(answer, str):
            self._remember(turn, answer)
            return answer
        return self._streamed(turn, answer)

    def reset(self) -> None:
        """Forget all turns."""
        self.messages.clear()

    def _streamed(self, turn: dict[str, Any], pieces: Iterator[str]) -> Iterator[str]:
        answer = ""
        for piece in pieces:
            answer += piece
            yield piece
        self._remember(turn, answer)

    def _remember(self, turn: dict[str, Any], answer: str) -> None:
        self.messages += [turn, {"role": "assistant", "content": answer}]
