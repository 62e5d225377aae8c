"""Rows about seeing and answering: captions, conversations, and what instruction tuning adds."""

from __future__ import annotations

from collections.abc import Sequence

from emu2.data.records import Record
from emu2.data.sequences import first_image
from emu2.evaluate.drawings import samples_of
from emu2.evaluate.exam import Exam, Models
from emu2.evaluate.figures import iou, mean, share
from emu2.evaluate.rows import Found, Group, Measured, Spec, agreeing
from emu2.evaluate.said import counts_said, opens_with, same, tells_all
from emu2.evaluate.subject import Ask
from emu2.processing.grounding import parse_grounding
from emu2.processing.prompts import few_shot_parts
from emu2.world.scene import Scene

#: Kinds of questions whose mean is the target, and others that are reported beside it.
KINDS = ("what", "count", "where", "colour", "group", "yes_no", "clock", "letters", "referring", "video")
MORE_KINDS = ("things", "choice", "flag")
_WORDS = {
    "count": "how many",
    "colour": "which colour",
    "group": "which group",
    "yes_no": "yes or no",
    "clock": "clock face",
    "letters": "letters on a sign",
    "referring": "referring expression, box",
    "video": "about a clip",
    "things": "how many in all",
    "choice": "multiple choice",
    "flag": "whose flag",
}
#: Kinds whose answers are asked for as sentences too, in one row for all of them.
_TOLD = ("what", "count", "where", "colour", "group", "yes_no", "clock", "letters")
_SENTENCES = "answers in whole sentences"
#: Kinds that a base model is asked too, all of them with answers of a word or two.
_ZERO_SHOT = ("what", "count", "where", "colour", "yes_no")
#: A box is right when it overlaps the true one this much (RefCOCO's measure).
_OVERLAP = 0.5


# Captions ------------------------------------------------------------------------------------------------------------


def _caption_specs(exam: Exam) -> list[Spec]:
    claim = "pretraining on pairs teaches to tell what is in a picture (section 2.2.1)"
    return [
        Spec("object names exact", claim, 0.9, beside="caption of another picture"),
        Spec("full scene right", claim, 0.7, beside="caption of another picture"),
    ]


def _captions(models: Models, exam: Exam) -> Found:
    records = exam.records("pair", exam.config.questions, wording="full")
    asks = [Ask((first_image(record),), record.truth["caption"]) for record in records]
    said = models.base.complete(asks)
    atlas = exam.atlas
    scenes = [Scene.from_dict(record.truth["scene"]) for record in records]
    counted = [(counts_said(text, atlas), scene.counts(atlas)) for text, scene in zip(said, scenes, strict=True)]
    named = [set(one) == set(other) for one, other in counted]
    numbered = sum(one == other for one, other in counted) / len(counted)
    told = [tells_all(text, scene, atlas) for text, scene in zip(said, scenes, strict=True)]
    yield (
        "object names exact",
        Measured(
            share(named),
            agreeing([set(scene.counts(atlas)) for scene in scenes]),
            samples_of(asks, said, exam, right=named),
            f"names and numbers {numbered:.0%}",
        ),
    )
    others = agreeing([record.truth["caption"] for record in records])
    yield "full scene right", Measured(share(told), others, samples_of(asks, said, exam, right=told))


# Conversations -------------------------------------------------------------------------------------------------------


def _chat_specs(exam: Exam) -> list[Spec]:
    claim = "Emu2-Chat follows questions about pictures and clips (tables 2 and 3)"
    return [
        Spec("mean of the ten kinds", claim, 0.9),
        *(Spec(_WORDS.get(kind, kind), claim, 0.7) for kind in KINDS),
        *(Spec(_WORDS.get(kind, kind), f"{claim}; not in the mean") for kind in MORE_KINDS),
        Spec(_SENTENCES, f"{claim}; not in the mean"),
    ]


def conversation(record: Record) -> Ask:
    """The conversation of a record up to the last answer, and that answer."""
    turns = record.turns or ()
    messages = tuple({"role": role, "content": list(content)} for role, content in turns[:-1])
    return Ask(messages, record.truth["answer"])


def questions_of(exam: Exam, kind: str, number: int, form: str = "short") -> list[Record]:
    """Records of one kind of question, answered in one form; clips that are to be described are left out."""

    def fits(record: Record) -> bool:
        return record.truth["form"] == form and record.truth.get("about") != "describe"

    return exam.records("chat", number, questions=(kind,), keep=fits)


def answers_right(records: Sequence[Record], said: Sequence[str], exam: Exam) -> list[bool]:
    """Which answers are right: by the accepted ones, boxes by their overlap with the true one."""
    return [_right(record, text, exam.image_size) for record, text in zip(records, said, strict=True)]


def _right(record: Record, said: str, size: int) -> bool:
    if record.truth["question"] != "referring":
        return same(said, record.truth["accepted"])
    boxes = [box.xyxy for phrase in parse_grounding(said, (size, size)) for box in phrase.boxes]
    return len(boxes) == 1 and iou(boxes[0], record.truth["box"]) >= _OVERLAP


def _chance(records: Sequence[Record]) -> float:
    return sum(record.truth.get("chance", 0.0) for record in records) / len(records)


def _chat(models: Models, exam: Exam) -> Found:
    rights: list[bool] = []
    kinds: list[int] = []
    chances: list[float] = []
    for number, kind in enumerate((*KINDS, *MORE_KINDS)):
        records = questions_of(exam, kind, exam.config.questions)
        asks = [conversation(record) for record in records]
        said = models.chat.chat(asks, grounding=kind == "referring")
        right = answers_right(records, said, exam)
        chance = _chance(records)
        yield _WORDS.get(kind, kind), Measured(share(right), chance, samples_of(asks, said, exam, right=right))
        if kind in KINDS:
            rights += right
            kinds += [number] * len(right)
            chances.append(chance)
    number = -(-exam.config.questions // len(_TOLD))
    records = [record for kind in _TOLD for record in questions_of(exam, kind, number, "detailed")]
    asks = [conversation(record) for record in records]
    said = models.chat.chat(asks)
    right = answers_right(records, said, exam)
    # To guess a whole sentence is harder than to guess its word, which this is the chance of.
    yield _SENTENCES, Measured(share(right), _chance(records), samples_of(asks, said, exam, right=right))
    yield "mean of the ten kinds", Measured(mean(rights, groups=kinds), sum(chances) / len(chances))


# Base and chat -------------------------------------------------------------------------------------------------------


def _tuning_specs(exam: Exam) -> list[Spec]:
    claim = "instruction tuning brings zero-shot answers far ahead of the base model's (tables 1 and 2)"
    return [
        Spec("base, zero-shot", claim),
        Spec("chat, zero-shot", claim),
        Spec("chat ahead of base", claim, 0.2, unit="gain", beside="base"),
    ]


def _tuning(models: Models, exam: Exam) -> Found:
    number = -(-exam.config.questions // len(_ZERO_SHOT))
    records = [record for kind in _ZERO_SHOT for record in questions_of(exam, kind, number)]
    answers = [record.truth["accepted"] for record in records]
    # The paper's words for a question without demonstrations (supplement E).
    worded = [tuple(few_shot_parts([], (first_image(record), record.truth["asked"]))) for record in records]
    asks = [Ask(prompt, record.truth["answer"]) for prompt, record in zip(worded, records, strict=True)]
    base_said = models.base.complete(asks, 24)
    base = [opens_with(text, right) for text, right in zip(base_said, answers, strict=True)]
    chance = _chance(records)
    yield "base, zero-shot", Measured(share(base), chance, samples_of(asks, base_said, exam, right=base))
    asks = [conversation(record) for record in records]
    chat_said = models.chat.chat(asks)
    chat = answers_right(records, chat_said, exam)
    yield "chat, zero-shot", Measured(share(chat), chance, samples_of(asks, chat_said, exam, right=chat))
    ahead = mean([float(one) - float(other) for one, other in zip(chat, base, strict=True)])
    yield "chat ahead of base", Measured(ahead, share(base).value)


GROUPS = (
    Group(
        "Captioning",
        "The base model is given a picture and nothing else. Names are read from the first clause; the full scene "
        "is right only if every word of the caption is.",
        _caption_specs,
        _captions,
    ),
    Group(
        "Chat",
        "One question each; answers are right only if they are exactly those of the world. A box is right if it "
        "overlaps the true one by half (IoU).",
        _chat_specs,
        _chat,
    ),
    Group(
        "Base and chat",
        "The same questions to both: to the base model in the paper's words for zero demonstrations, to the chat "
        "model as a conversation.",
        _tuning_specs,
        _tuning,
    ),
)
