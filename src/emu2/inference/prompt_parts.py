"""What people give: a text, or one mixed list of texts, pictures, videos and boxes."""

from collections.abc import Sequence
from typing import Any

#: A prompt: text, or a mixed list of text, pictures (PIL pictures or paths), `Video` and `Box`.
Prompt = str | Sequence[Any]


def is_conversation(messages: Any) -> bool:
    """Whether this is a list of `{"role": ..., "content": ...}` messages rather than a prompt."""
    return (
        isinstance(messages, Sequence)
        and not isinstance(messages, str)
        and len(messages) > 0
        and all(isinstance(message, dict) and "role" in message for message in messages)
    )


def as_parts(prompt: Any) -> list[Any]:
    """A prompt as a list."""
    if isinstance(prompt, list | tuple):
        return list(prompt)
    return [prompt]


def check_not_empty(prompt: Any, what: str = "The prompt") -> None:
    """Raise ValueError unless there is a picture, or a text of more than white space."""
    if not any(part.strip() if isinstance(part, str) else part is not None for part in as_parts(prompt)):
        raise ValueError(f"{what} is empty; give a text, or a list of texts and pictures.")
