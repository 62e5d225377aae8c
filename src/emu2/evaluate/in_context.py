"""Rows about learning from demonstrations in the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from emu2.data.records import Record
from emu2.evaluate.exam import Exam, Models
from emu2.evaluate.figures import mean, share
from emu2.evaluate.rows import Found, Group, Measured, Sample, Spec, UnableError
from emu2.evaluate.subject import Ask

_WAYS = (2, 4)
#: Family -> what rows call it.
_FAMILIES = {"rule": "rule", "tuple": "tuple", "counting": "counting", "visual_prompt": "red circle"}
_SPLITS = ("seen", "held")
_NAMING_TARGET, _GAIN_TARGET = 0.85, 0.3
#: Tokens of an answer at most: "[grinning face with sweat: 2, ...]." is the longest.
_ANSWER_TOKENS = 48


def shots_words(shots: int) -> str:
    """ "1 shot", "2 shots"."""
    return f"{shots} shot{'' if shots == 1 else 's'}"


def _ask(record: Record) -> Ask:
    return Ask(record.prompt, record.truth["answer"])


def answered(models: Models, records: Sequence[Record], exam: Exam) -> tuple[list[bool], Measured]:
    """Which answers are right, and the row of one number of demonstrations."""
    asks = [_ask(record) for record in records]
    said = models.base.complete(asks, _ANSWER_TOKENS)
    # What comes after an answer is the model going on; answers end in a full stop.
    right = [text.startswith(ask.answer) for text, ask in zip(said, asks, strict=True)]
    chance = sum(record.truth["chance"] for record in records) / len(records)
    samples = [Sample(ask.prompt, text, ask.answer, ok) for ask, text, ok in zip(asks, said, right, strict=True)]
    notes = []
    if "choices" in records[0].truth:
        among = sum(text.startswith(tuple(record.truth["choices"])) for text, record in zip(said, records, strict=True))
        notes.append(f"{among / len(records):.0%} of the answers are among the possible ones")
    if "ideal" in records[0].truth:
        ideal = sum(record.truth["ideal"] for record in records) / len(records)
        notes.append(f"the best reader of the demonstrations reaches {ideal:.0%}")
    return right, Measured(share(right), chance, tuple(samples[: exam.config.shown]), "; ".join(notes))


def _by_shots(
    models: Models, exam: Exam, kind: str, split: str, ways: int | None = None
) -> Iterator[tuple[int, list[bool] | None, Measured | str]]:
    """Number of demonstrations, which answers are right, and the row; the queries are the same for all numbers."""
    for shots in exam.config.shots:
        # Made-up words can stand for any held thing, also for a model that names few.
        settings: dict[str, Any] = {} if ways is None else {"ways": (ways,), "concepts": None}
        try:
            records = exam.records(kind, exam.config.episodes, split=split, shots=(shots,), **settings)
            right, measured = answered(models, records, exam)
        except UnableError as error:
            yield shots, None, str(error)
        else:
            yield shots, right, measured


# Naming --------------------------------------------------------------------------------------------------------------


def _naming_specs(exam: Exam) -> list[Spec]:
    claim = "names given in the prompt are learned from it, and more demonstrations help (table 1, and figure 1)"
    specs = []
    for ways in _WAYS:
        for shots in exam.config.shots:
            name = f"{ways}-way, {shots_words(shots)}"
            if shots == 0:
                specs.append(Spec(name, claim, goal="at chance"))
            else:
                specs.append(Spec(name, claim, _NAMING_TARGET if (ways, shots) == (2, 8) else None))
        specs.append(Spec(f"{ways}-way, least gain of a step", claim, 0.0, "gain", "more than", beside="gain in all"))
    return specs


def _naming(models: Models, exam: Exam) -> Found:
    for ways in _WAYS:
        rights: dict[int, list[bool]] = {}
        for shots, right, row in _by_shots(models, exam, "naming", "held", ways):
            yield f"{ways}-way, {shots_words(shots)}", row
            if right is not None:
                rights[shots] = right
        yield f"{ways}-way, least gain of a step", _least_gain(rights, exam.config.shots)


def _least_gain(rights: dict[int, list[bool]], shots: Sequence[int]) -> Measured | str:
    """The smallest rise from one number of demonstrations to the next."""
    if len(rights) < 2 or len(rights) < len(shots):
        return "Not every number of demonstrations could be measured."
    gains = [_differences(rights[low], rights[high]) for low, high in pairwise(shots)]
    least = min(gains, key=lambda gain: sum(gain))
    whole = mean(_differences(rights[shots[0]], rights[shots[-1]])).value
    step = gains.index(least)
    return Measured(mean(least), whole, note=f"from {shots_words(shots[step])} to {shots_words(shots[step + 1])}")


def _differences(before: Sequence[bool], after: Sequence[bool]) -> list[float]:
    return [float(one) - float(other) for one, other in zip(after, before, strict=True)]


# The other families --------------------------------------------------------------------------------------------------


def _family_specs(exam: Exam) -> list[Spec]:
    claim = "demonstrations alone say what is asked for and in what form (figure 1, and table 1)"
    specs = []
    for family in _FAMILIES.values():
        for split in _SPLITS:
            start = f"{family}, {split} concepts"
            specs += [Spec(f"{start}, {shots_words(shots)}", claim) for shots in exam.config.shots]
            name = f"{start}, {shots_words(exam.config.shots[-1])} over {exam.config.shots[0]}"
            specs.append(Spec(name, claim, _GAIN_TARGET, unit="gain", beside="first"))
    return specs


def _families(models: Models, exam: Exam) -> Found:
    first, last = exam.config.shots[0], exam.config.shots[-1]
    for kind, family in _FAMILIES.items():
        for split in _SPLITS:
            start = f"{family}, {split} concepts"
            rights: dict[int, list[bool]] = {}
            for shots, right, row in _by_shots(models, exam, kind, split):
                yield f"{start}, {shots_words(shots)}", row
                if right is not None:
                    rights[shots] = right
            gained: Measured | str = f"Not measured with both {shots_words(first)} and {shots_words(last)}."
            if first in rights and last in rights:
                gained = Measured(mean(_differences(rights[first], rights[last])), share(rights[first]).value)
            yield f"{start}, {shots_words(last)} over {first}", gained


GROUPS = (
    Group(
        "In context: naming",
        "Made-up words stand for concepts that no stage ever trained on, anew in every prompt. The base model writes; "
        "its answer is right only if it is the word.",
        _naming_specs,
        _naming,
    ),
    Group(
        "In context: rules, tuples, counting, red circle",
        "What is asked for is told by demonstrations alone. The same queries for every number of demonstrations, with "
        "concepts that training knows (in scenes it never saw) and with held ones.",
        _family_specs,
        _families,
    ),
)
