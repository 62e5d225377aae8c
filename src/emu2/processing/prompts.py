"""Wordings: what the published models were asked with, as lists of parts that `Emu2Processor` encodes.

A part is text (`str`), a picture (PIL image, `Path`, bytes, array), a `Video` or a `Box`. docs/prompts.md shows each
wording with an example.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image

from emu2 import tokens
from emu2.processing.grounding import Box
from emu2.processing.image import load_data_url
from emu2.processing.video import VIDEO_SUFFIXES, Video

#: One element of a prompt.
Part = str | Path | bytes | np.ndarray | Image.Image | Video | Box

#: System messages of Emu2-Chat (paper, section 2.3.1): for academic tasks and grounding, and for conversation.
SYSTEM_CONCISE = "You are a helpful assistant, dedicated to provide concise and efficient answers."
SYSTEM_DETAILED = "You are a helpful assistant, dedicated to delivering comprehensive and meticulous responses."

#: Where prompt strings stand for pictures and video frames (published constants).
IMAGE_PLACEHOLDER = "[<IMG_PLH>]"
FRAME_PLACEHOLDER = "[<VID_PLH>]"
#: Ends the frames that follow a part "[VIDEO]"; never written into the prompt (published constant).
VIDEO_END = "[/VIDEO]"

WORDINGS = ("native", "huggingface")
STYLES = ("detailed", "concise")
FEW_SHOT_WORDINGS = ("paper", "list")

# Private-use characters hide what a person wrote from the template, so that it can be found again afterwards.
_HIDDEN = re.compile("\ue000(\\d+)\ue001")
_WRITTEN = re.compile(
    f"{_HIDDEN.pattern}|({re.escape(IMAGE_PLACEHOLDER)})|{re.escape(tokens.VIDEO)}((?:{re.escape(FRAME_PLACEHOLDER)})+)"
)


@dataclass(frozen=True)
class ChatPart:
    """One part of a worded conversation, and whether it is the assistant's (an answer, or the `</s>` after it)."""

    content: Part
    is_answer: bool


@cache
def default_chat_template() -> str:
    """The Jinja template of Emu2-Chat's conversations, in both published wordings."""
    return (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")


# Conversations -------------------------------------------------------------------------------------------------------


def chat_parts(
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str | None = None,
    grounding: bool = False,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    style: str = "detailed",
    wording: str = "native",
    **variables: Any,
) -> list[ChatPart]:
    """A conversation in the published wording, as parts in reading order.

    Args:
        messages: dicts of `role` ("system" first, then "user" and "assistant" in turn) and `content`: a text, or parts
            in OpenAI's form ({"type": "text", "text": ...}, {"type": "image", "image": ...}, {"type": "image_url",
            "image_url": {"url": "data:..."}}, {"type": "video", "video": Video | path | list of frames}) or bare ones.
        template: a Jinja chat template in place of `default_chat_template()`.
        grounding: ask for boxes: the concise system message, and `<grounding>` at the end.
        add_generation_prompt: end with `[ASSISTANT]:` for the model to answer.
        continue_final_message: the last message is the assistant's and unfinished; the model goes on with it.
        style: "detailed" or "concise", which system message; a system message in `messages` replaces both.
        wording: "native" (released code) or "huggingface" (model card: no system message, no spaces).
        variables: further variables for a template of your own.

    Raises:
        ValueError: no messages, unknown role, style, wording or content, roles out of order, a remote URL.
    """
    _check_choice("wording", wording, WORDINGS)
    _check_choice("style", style, STYLES)
    _check_roles(messages, add_generation_prompt, continue_final_message)
    hidden: list[tuple[str, bool]] = []
    seen: list[tuple[Part, bool]] = []
    shown = []
    for index, message in enumerate(messages):
        answers = message["role"] == "assistant"
        content: list[dict[str, Any]] = []
        for part in _content_parts(message.get("content"), index):
            if isinstance(part, str):
                content.append({"type": "text", "text": f"\ue000{len(hidden)}\ue001"})
                hidden.append((part, answers))
                continue
            seen.append((part, answers))
            if isinstance(part, Video):
                content.append({"type": "video", "num_frames": len(part)})
            else:
                content.append({"type": "image"})
        shown.append({"role": message["role"], "content": content})
    rendered = _render(
        template or default_chat_template(),
        messages=shown,
        add_generation_prompt=add_generation_prompt and not continue_final_message,
        continue_final_message=continue_final_message,
        grounding=grounding,
        style=style,
        wording=wording,
        **{"bos_token": "", "eos_token": tokens.EOS} | variables,
    )
    return _read_rendered(rendered, hidden, seen)


def _read_rendered(rendered: str, hidden: list[tuple[str, bool]], seen: list[tuple[Part, bool]]) -> list[ChatPart]:
    """Put texts and pictures back where the template wrote their marks."""
    parts: list[ChatPart] = []
    pictures = iter(seen)
    position, used = 0, 0
    after_answer = False
    for match in [*_WRITTEN.finditer(rendered), None]:
        text = rendered[position : match.start() if match else len(rendered)]
        if after_answer and text.startswith(tokens.EOS):
            parts.append(ChatPart(tokens.EOS, True))
            text = text.removeprefix(tokens.EOS)
        if text:
            parts.append(ChatPart(text, False))
        if match is None:
            break
        if match[1] is not None:
            content, after_answer = hidden[int(match[1])]
        else:
            try:
                content, after_answer = next(pictures)
            except StopIteration:
                raise ValueError("The chat template writes more pictures than the messages hold.") from None
            used += 1
        parts.append(ChatPart(content, after_answer))
        position = match.end()
    if used < len(seen):
        raise ValueError(f"The chat template writes {used} of the {len(seen)} pictures and videos in the messages.")
    return parts


def prompt_string(parts: Sequence[Part]) -> str:
    """The prompt as the published code would show it: `[<IMG_PLH>]` for a picture, `[<VID_PLH>]` for a frame."""
    written, in_video = "", False
    for part in parts:
        if isinstance(part, str):
            in_video = {tokens.VIDEO: True, VIDEO_END: False}.get(part, in_video)
            written += "" if part == VIDEO_END else part
        elif isinstance(part, Video):
            written += tokens.VIDEO + FRAME_PLACEHOLDER * len(part)
        elif isinstance(part, Box):
            written += prompt_string(box_parts(part))
        else:
            written += FRAME_PLACEHOLDER if in_video else IMAGE_PLACEHOLDER
    return written


@lru_cache(maxsize=16)
def _compiled(template: str) -> Template:
    """A template ready to be rendered; making it so takes a hundred times as long as rendering it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def _render(template: str, **variables: Any) -> str:
    try:
        return _compiled(template).render(**variables)
    except TemplateError as error:
        raise ValueError(f"The chat template cannot be rendered: {error}") from error


def _refuse(message: str) -> None:
    """What chat templates call `raise_exception`."""
    raise TemplateError(message)


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(map(repr, allowed))}; got {value!r}.")


def _check_roles(messages: Sequence[Mapping[str, Any]], generate: bool, continued: bool) -> None:
    if isinstance(messages, (str, Mapping)) or not all(isinstance(message, Mapping) for message in messages):
        raise ValueError("messages is a list of {'role': ..., 'content': ...}; got something else.")
    turns = list(messages)[1:] if messages and messages[0].get("role") == "system" else list(messages)
    if not turns:
        raise ValueError("The conversation is empty: at least one user message is needed.")
    for index, turn in enumerate(turns):
        wanted = ("user", "assistant")[index % 2]
        if turn.get("role") != wanted:
            raise ValueError(
                f"messages[{len(messages) - len(turns) + index}] has role {turn.get('role')!r} where {wanted!r} is "
                "due: an optional 'system' comes first, then 'user' and 'assistant' take turns."
            )
    ends_with_answer = turns[-1]["role"] == "assistant"
    if continued and not ends_with_answer:
        raise ValueError(
            "continue_final_message=True continues an assistant's message, but the last one is the user's."
        )
    if ends_with_answer and generate and not continued:
        raise ValueError(
            "The last message is the assistant's, so there is nothing to answer. Pass add_generation_prompt=False for "
            "a finished conversation, or continue_final_message=True to let the model go on with it."
        )


def _content_parts(content: Any, index: int) -> list[Part]:
    items = content if isinstance(content, (list, tuple)) else [content]
    return [_content_part(item, index) for item in items]


def _content_part(item: Any, index: int) -> Part:
    if not isinstance(item, Mapping):
        if isinstance(item, Path) and item.suffix.lower() in VIDEO_SUFFIXES:
            return Video.from_file(item)
        if isinstance(item, (str, Path, bytes, np.ndarray, Image.Image, Video, Box)):
            return item
        raise ValueError(
            f"messages[{index}] holds a {type(item).__name__}: content is text, pictures, videos or parts."
        )
    kind = item.get("type")
    if kind == "text" and isinstance(item.get("text"), str):
        return item["text"]
    if kind == "image_url":
        url = item.get("image_url")
        url = url.get("url") if isinstance(url, Mapping) else url
        if isinstance(url, str):
            return load_data_url(url)
    if kind == "image":
        source = next((item[key] for key in ("image", "url", "path") if item.get(key) is not None), None)
        if isinstance(source, str):
            is_url = source.startswith("data:") or "://" in source
            return load_data_url(source) if is_url else Path(source)
        if source is not None:
            return source
    if kind == "video":
        source = next((item[key] for key in ("video", "path", "url") if item.get(key) is not None), None)
        if isinstance(source, Video):
            return source
        if isinstance(source, str) and (source.startswith("data:") or "://" in source):
            raise ValueError(
                f"messages[{index}]: a video is read from a file or frames, nothing is fetched; got {source[:80]!r}."
            )
        if isinstance(source, (str, Path)):
            return Video.from_file(source, item.get("num_frames") or 8)
        if source is not None:
            return Video(list(source))
    raise ValueError(
        f"messages[{index}]: a content part is {{'type': 'text', 'text': ...}}, {{'type': 'image', 'image': ...}}, "
        f"{{'type': 'image_url', 'image_url': {{'url': 'data:...'}}}} or {{'type': 'video', 'video': ...}}; "
        f"got type {kind!r} with fields {sorted(map(str, item))}."
    )


# Few shots -----------------------------------------------------------------------------------------------------------


def few_shot_parts(demonstrations: Sequence[Sequence[Any]], query: Any, *, wording: str = "paper") -> list[Part]:
    """A few-shot prompt.

    "paper" (supplement E): demonstrations (picture, question, answer), query (picture, question), worded
    `[picture]based on the picture, [question] short answer: [answer]`, joined by ". "; without demonstrations the
    query asks for one word or phrase. "list" (published README): demonstrations (picture, answer), query a picture;
    `[picture][cobalt, four].` each, where an answer may be a text or a sequence of fields.

    Raises:
        ValueError: unknown wording, or a demonstration or query of another form (says which).
    """
    _check_choice("wording", wording, FEW_SHOT_WORDINGS)
    length, form = (3, "(picture, question, answer)") if wording == "paper" else (2, "(picture, answer)")
    for index, shot in enumerate(demonstrations):
        if not isinstance(shot, (tuple, list)) or len(shot) != length:
            raise ValueError(f"demonstrations[{index}] must be {form} for wording={wording!r}; got {_form(shot)}.")
    parts: list[Part] = []
    if wording == "list":
        for picture, answer in demonstrations:
            parts += [picture, f"[{answer if isinstance(answer, str) else ', '.join(map(str, answer))}]."]
        return [*parts, query[0] if isinstance(query, (tuple, list)) and len(query) == 1 else query]
    if not isinstance(query, (tuple, list)) or len(query) != 2:
        raise ValueError(f"The query must be (picture, question) for wording='paper'; got {_form(query)}.")
    for picture, question, answer in demonstrations:
        parts += [picture, f"based on the picture, {question} short answer: {answer}. "]
    picture, question = query
    hint = "" if demonstrations else "answer in one word or phrase. "
    return [*parts, picture, f"based on the picture, {hint}{question} short answer:"]


def _form(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(type(item).__name__ for item in value) + ")"
    return type(value).__name__


# Boxes ---------------------------------------------------------------------------------------------------------------


def box_parts(box: Box) -> list[Part]:
    """`<phrase>...</phrase><object>` box picture `</object>` and the object's picture, as far as the box has them."""
    parts: list[Part] = []
    if box.phrase is not None:
        parts.append(f"{tokens.PHRASE}{box.phrase}{tokens.PHRASE_END}")
    parts += [tokens.OBJECT, box.draw(), tokens.OBJECT_END]
    return parts if box.image is None else [*parts, box.image]
