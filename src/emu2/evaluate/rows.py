"""What an evaluation reports: rows of a table, each a claim, a figure and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emu2.evaluate.figures import Figure

if TYPE_CHECKING:
    from emu2.evaluate.exam import Exam, Models

#: How a row is measured. A "gain" is a difference of two shares, a "lead" one of two likenesses.
UNITS = ("share", "gain", "likeness", "lead", "dB")
#: When a row's target is reached: its value is as large; it is larger; its whole interval lies above the target; chance
#: lies in its interval.
GOALS = ("at least", "more than", "above", "at chance")


class UnableError(Exception):
    """A part of the model that rows need is missing, or too small for them; the message says which and why."""


@dataclass(frozen=True)
class Sample:
    """One of the things a row is a figure of, to be shown.

    given: what the model was given, in order. got, truth: texts, pictures or lists of frames. right: whether they
    agree, or None where that is no question. notes: name -> value.
    """

    given: tuple[Any, ...]
    got: Any
    truth: Any
    right: bool | None = None
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """A row before it is measured.

    name: of the row, unlike any other of its group. claim: of the paper, that it mirrors. target: to be reached, where
    there is one. unit: one of UNITS. goal: one of GOALS. beside: what `Measured.beside` is.
    """

    name: str
    claim: str
    target: float | None = None
    unit: str = "share"
    goal: str = "at least"
    beside: str = "chance"


@dataclass(frozen=True)
class Measured:
    """What a row was measured to be.

    beside: chance or a baseline, to compare the value with. note: what else there is to say.
    """

    figure: Figure
    beside: float | None = None
    samples: tuple[Sample, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A row of the table. measured: None where a part of the model is missing, and `missing` says why."""

    group: str
    spec: Spec
    measured: Measured | None = None
    missing: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None where there is no target or nothing was measured."""
        if self.measured is None:
            return None
        figure, target = self.measured.figure, self.spec.target
        if self.spec.goal == "at chance":
            return None if self.measured.beside is None else figure.low <= self.measured.beside <= figure.high
        if target is None:
            return None
        if self.spec.goal == "at least":
            return figure.value >= target
        return (figure.low if self.spec.goal == "above" else figure.value) > target

    def to_dict(self) -> dict[str, Any]:
        """The row without its samples, JSON-able."""
        spec, found = self.spec, self.measured
        return {
            "group": self.group,
            "name": spec.name,
            "claim": spec.claim,
            "unit": spec.unit,
            "value": None if found is None else found.figure.value,
            "interval": None if found is None else list(found.figure.interval),
            "n": 0 if found is None else found.figure.n,
            spec.beside: None if found is None else found.beside,
            "target": spec.target,
            "goal": spec.goal,
            "reached": self.reached,
            "note": "" if found is None else found.note,
            "missing": self.missing,
        }


#: What measuring a group gives: names of its rows, and what they were measured to be, or why they cannot be.
Found = Iterator[tuple[str, "Measured | str"]]


@dataclass(frozen=True)
class Group:
    """Rows that belong together.

    about: what is asked for, and how it is scored. specs: its rows. measure: does it.
    """

    name: str
    about: str
    specs: Callable[[Exam], Sequence[Spec]]
    measure: Callable[[Models, Exam], Found]

    def rows(self, models: Models, exam: Exam) -> list[Row]:
        """Every row of `specs`, in order: measured, or with the reason why it is not."""
        found: dict[str, Measured | str] = {}
        reason = ""
        try:
            for name, what in self.measure(models, exam):
                found[name] = what
        except UnableError as error:
            reason = str(error)
        specs = self.specs(exam)
        strangers = set(found) - {spec.name for spec in specs}
        if strangers or (not reason and len(found) < len(specs)):
            raise AssertionError(f"{self.name}: rows without a spec {sorted(strangers)}, or specs without a row")
        return [_row(self.name, spec, found.get(spec.name, reason)) for spec in specs]


def _row(group: str, spec: Spec, what: Measured | str) -> Row:
    return Row(group, spec, missing=what) if isinstance(what, str) else Row(group, spec, what)


def next_ones(values: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    """Each value with the next, the last one with the first: what belongs to another record serves as a baseline."""
    return zip(values, [*values[1:], *values[:1]], strict=True)


def agreeing(values: Sequence[Any]) -> float:
    """How often a value is also right for the next record."""
    return sum(one == other for one, other in next_ones(values)) / len(values)
