"""What people give: a text, or one mixed list of texts, pictures, videos and boxes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

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


def content_parts(prompt: Any) -> list[dict[str, Any]]:
    """A mixed list as typed content parts of a chat message.

    Raises:
        ValueError: a part of a kind that a message cannot hold.
    """
    from emu2.processing.video import Video

    parts: list[dict[str, Any]] = []
    for part in as_parts(prompt):
        if isinstance(part, str):
            parts.append({"type": "text", "text": part})
        elif isinstance(part, Image.Image | Path):
            parts.append({"type": "image", "image": part})
        elif isinstance(part, Video):
            parts.append({"type": "video", "video": part})
        elif isinstance(part, dict):
            parts.append(part)
        else:
            raise ValueError(
                f"A chat message holds text, pictures (PIL or pathlib.Path) and emu2.Video; got {type(part).__name__}."
            )
    return parts


def as_parts(prompt: Any) -> list[Any]:
    """A prompt as a list."""
    if isinstance(prompt, list | tuple):
        return list(prompt)
    return [prompt]


def check_not_empty(prompt: Any, what: str = "The prompt") -> None:
    """Raise ValueError unless there is a picture, or a text of more than white space."""
    parts = as_parts(prompt)
    if prompt is None or not any(not isinstance(part, str) or part.strip() for part in parts):
        raise ValueError(f"{what} is empty; give a text, or a list of texts and pictures.")
