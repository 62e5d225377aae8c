"""What an annotation file looks like, for those who named another format."""

from __future__ import annotations

from typing import Any


def looks_like(value: Any) -> str | None:
    """Words for the format of a whole annotation file, or of one of its records; None when it is none we know."""
    if isinstance(value, list):
        return looks_like(value[0]) if value else None
    if not isinstance(value, dict) or not value:
        return None
    first = next(iter(value.values()))
    return _file_form(value) or _record_form(value) or (_record_form(first) if isinstance(first, dict) else None)


def _file_form(value: dict[str, Any]) -> str | None:
    annotation = first_of(value.get("annotations"))
    if "caption" in annotation:
        return "'coco_captions'"
    if "multiple_choice_answer" in annotation or "answers" in annotation:
        return "the answers of 'vqav2' (give them as its annotations=)"
    if "bbox" in annotation:
        return "COCO's instances (give them as the annotations= of 'refcoco')"
    if "question_id" in first_of(value.get("questions")):
        return "'vqav2'"
    data = first_of(value.get("data"))
    if "ocr_tokens" in data and "question" not in data:
        return "the OCR tokens of 'textvqa' (give them as its annotations=)"
    if "caption_str" in data:
        return "'coco_captions' (TextCaps)"
    return "'textvqa'" if "question" in data else None


#: Format -> the fields that tell it, of which a record must have all.
_FIELDS = (
    ("'llava'", ("conversations",)),
    ("'llava'", ("messages",)),
    ("'mmc4'", ("text_list", "image_info")),
    ("'obelics'", ("texts", "images")),
    ("'gqa'", ("imageId", "question")),
    ("'refcoco'", ("ref_id", "sentences")),
    ("'grit'", ("caption", "ref_exps")),
    ("'grit'", ("caption", "noun_chunks")),
    ("'instructpix2pix'", ("edit_prompt",)),
    ("'generation'", ("prompt", "image")),
    ("'folder' (its metadata)", ("file_name",)),
    ("'text'", ("text",)),
)


def _record_form(record: dict[str, Any]) -> str | None:
    return next((name for name, fields in _FIELDS if all(field in record for field in fields)), None)


def first_of(values: Any) -> dict[str, Any]:
    """The first table of a list of them; an empty one where there is none."""
    return values[0] if isinstance(values, list) and values and isinstance(values[0], dict) else {}


def wrong_format(path: str, named: str, needs: str, value: Any) -> ValueError:
    """The error for an annotation file of another format than named."""
    seen = looks_like(value)
    shown = f"it looks like {seen}" if seen else f"it holds {_shown(value)}"
    return ValueError(f"{path} is not in the format {named!r}, which needs {needs}; {shown}.")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"a table of {', '.join(map(repr, list(value)[:6]))}" if value else "an empty table"
    if isinstance(value, list):
        return f"a list of {_shown(value[0])}" if value else "an empty list"
    return f"a {type(value).__name__}"
