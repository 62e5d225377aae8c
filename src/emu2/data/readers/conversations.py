"""Conversations in LLaVA's form: JSON or JSON lines of turns whose texts mark where pictures stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from emu2.data.readers.base import Reader
from emu2.data.readers.config import SourceConfig
from emu2.data.readers.detect import wrong_format
from emu2.data.readers.pictures import Pictures
from emu2.data.readers.rows import Rows
from emu2.data.readers.wording import HINTS, system_turn
from emu2.data.records import Record
from emu2.data.sources import BadSampleError

if TYPE_CHECKING:
    from emu2.data.records import Segment, Turn

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_MARK = re.compile(r"\s*<(image|video)>\s*")


class Llava(Reader):
    """`conversations` of `{"from": "human" | "gpt" | "system", "value": ...}`, with `image` or `images` and `video` or
    `videos` naming the files that `<image>` and `<video>` stand for; or `messages` of `role` and `content`, a text with
    such marks or OpenAI's list of parts.

    Pictures that no mark stands for open the first question. The system message is the row's own, or the one for
    `config.style`; without a style, conversations with one of LLaVA-1.5's hints for short answers get the concise one.
    """

    def __init__(self, config: SourceConfig, kind: str):
        super().__init__(config, kind)
        self._rows = Rows(config.path, cache=config.cache)
        first = self._rows.first()
        if not isinstance(first, Mapping) or not ("conversations" in first or "messages" in first):
            raise wrong_format(self._rows.paths[0], config.format, "'conversations' in every record", first)
        self._pictures = Pictures(config, self._rows.paths[0].rpartition("/")[0])
        self._set_size(len(self._rows))

    def listing(self) -> str:
        return f"{self._rows.listing(f'llava {self.kind}')} {self._pictures.listing()}".strip()

    def read(self, index: int) -> Record:
        row, where = self._rows[index]
        named: dict[str, list[str]] = {"image": [], "video": []}
        turns = _turns(row, named, where)
        files = {what: names or _file_names(row, what) for what, names in named.items()}
        marks = [mark for _, text in turns for mark in _MARK.findall(text)]
        for what, names in files.items():
            number = marks.count(what)
            if number not in (0, len(names)):
                raise BadSampleError(
                    f"<{what}> marks and {what}s differ", f"{where}: {number} marks, {len(names)} {what}s"
                )
            if names and not number:
                place = next(i for i, (role, _) in enumerate(turns) if role == "user")
                turns[place] = ("user", f"<{what}>" * len(names) + turns[place][1])
        load: dict[str, Callable[..., Segment]] = {"image": self._pictures.image, "video": self._pictures.clip}
        left = {what: iter(names) for what, names in files.items()}
        made: list[Turn] = []
        if turns[0][0] != "system":
            concise = any(hint in text for _, text in turns for hint in HINTS)
            made.append(system_turn(self.config.style or ("concise" if concise else "detailed")))
        for role, text in turns:
            content: list[Segment] = []
            # Pieces alternate between text and the word of a mark.
            for number, piece in enumerate(_MARK.split(text)):
                if number % 2:
                    content.append(load[piece]([next(left[piece])], where))
                elif piece.strip():
                    content.append(piece.strip())
            if not content:
                raise BadSampleError("empty turn", f"{where}: a turn of the {role}")
            made.append((role, tuple(content)))
        truth = {"id": row["id"]} if isinstance(row.get("id"), (str, int)) else {}
        return Record.conversation(self.kind, tuple(made), where, truth)


def _turns(row: Any, named: dict[str, list[str]], where: str) -> list[tuple[str, str]]:
    """(role, text) of every turn up to the last answer, checked to take turns; files that parts name go to `named`."""
    given = row.get("conversations") or row.get("messages") if isinstance(row, Mapping) else None
    if not isinstance(given, list) or not given:
        raise BadSampleError("missing conversations", where)
    turns = []
    for turn in given:
        role = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
        text = turn.get("value", turn.get("content")) if isinstance(turn, Mapping) else None
        if isinstance(text, list):
            text = "".join(_part_text(part, named, where) for part in text)
        if role not in _ROLES or not isinstance(text, str):
            raise BadSampleError("turn without role or text", f"{where}: {str(turn)[:80]}")
        turns.append((_ROLES[role], text))
    if isinstance(row.get("system"), str) and row["system"].strip() and turns[0][0] != "system":
        turns.insert(0, ("system", row["system"]))
    spoken = turns[1:] if turns[0][0] == "system" else turns
    if any(role != ("user", "assistant")[i % 2] for i, (role, _) in enumerate(spoken)):
        raise BadSampleError("roles do not take turns", f"{where}: {', '.join(role for role, _ in spoken)}")
    while turns and turns[-1][0] != "assistant":
        turns.pop()
    if not turns:
        raise BadSampleError("missing answer", where)
    return turns


def _part_text(part: Any, named: dict[str, list[str]], where: str) -> str:
    """A part of OpenAI's form as text: a picture or clip as its mark."""
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    kind = str(part.get("type", "")).removesuffix("_url") if isinstance(part, Mapping) else ""
    if kind not in named:
        raise BadSampleError("turn without role or text", f"{where}: {str(part)[:80]}")
    source = next((part[field] for field in (f"{kind}_url", kind, "url", "path") if part.get(field)), None)
    if isinstance(source, Mapping):
        source = source.get("url")
    if isinstance(source, str):  # without one, the row's own list names it
        named[kind].append(source)
    return f"<{kind}>"


def _file_names(row: Mapping[str, Any], what: str) -> list[str]:
    value = row.get(what) or row.get(f"{what}s") or []
    return [str(name) for name in (value if isinstance(value, list) else [value])]
