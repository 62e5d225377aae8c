"""What all questions about the world are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from emu2.world.clips import Clip
from emu2.world.dice import Dice
from emu2.world.scene import Scene, SceneObject
from emu2.world.studio import Studio

#: How an answer is given: in as few words as possible, or as a sentence.
FORMS = ("short", "detailed")


@dataclass(frozen=True)
class Exchange:
    """A question about a picture or clip, and its answer.

    kind: what kind of question. asked: the question. label: the answer in as few words as possible.
    tell: label -> the answer as a sentence; also for labels that would be wrong here.
    labels: all labels that come up, equally often whatever the question's words; empty where they are too many to list.
    chance: how often someone is right who has not seen the picture, and guesses. None where guessing makes no sense.
    accepted: other labels that are right too.
    sought: the question's words for what it is about, and the things that this is, of a clip as it starts, none where
        they are not there; None where it is about no thing, or two. Other ways of asking may not have these words.
    told: names of what question and answer give away, which later questions of a conversation must not ask about.
    facts: further truth, JSON-able.
    """

    kind: str
    asked: str
    label: str
    tell: Callable[[str], str]
    labels: Sequence[str] = ()
    chance: float | None = None
    accepted: Sequence[str] = ()
    told: frozenset[str] = frozenset()
    sought: tuple[str, Sequence[SceneObject]] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def answer(self, form: str, label: str | None = None) -> str:
        """The answer in one of FORMS; or what it would be with another label."""
        label = self.label if label is None else label
        return label if form == "short" else self.tell(label)

    def truth(self, form: str) -> dict[str, Any]:
        """All that is true of the exchange, JSON-able."""
        truth: dict[str, Any] = {
            "question": self.kind,
            "form": form,
            "asked": self.asked,
            "label": self.label,
            "answer": self.answer(form),
            "accepted": [self.answer(form, label) for label in (self.label, *self.accepted)],
        }
        if self.labels:
            truth["choices"] = [self.answer(form, label) for label in self.labels]
        if self.chance is not None:
            truth["chance"] = self.chance
        return truth | self.facts


@dataclass(frozen=True)
class View:
    """A scene that is being talked about, and what has been given away about it: short names, and "background".

    quizzed: in a quiz, which asks about numbers too; one question might give away the answer of another.
    """

    scene: Scene
    told: frozenset[str] = frozenset()
    quizzed: bool = False


#: Asks about a scene of its own (`None`) or about one that is given; `None` where it cannot ask about that one.
PictureQuestion = Callable[[Studio, Dice, View | None], tuple[Scene, Exchange] | None]
#: Asks about a clip of its own.
ClipQuestion = Callable[[Studio, Dice], tuple[Clip, Exchange]]

#: Scenes drawn before a question that asks about any scene gives up. About every fourth will do for the pickiest.
_ATTEMPTS = 500


def of_any_scene(
    ask: Callable[[Studio, Dice, View], Exchange | None],
) -> PictureQuestion:
    """A question that can be asked about many scenes, as a `PictureQuestion`: scenes are drawn until one fits."""

    def question(studio: Studio, dice: Dice, view: View | None) -> tuple[Scene, Exchange] | None:
        if view is not None:
            exchange = ask(studio, dice, view)
            return None if exchange is None else (view.scene, exchange)
        for _ in range(_ATTEMPTS):
            view = View(studio.scene(dice))
            exchange = ask(studio, dice, view)
            if exchange is not None:
                return view.scene, exchange
        raise ValueError(
            f"No scene for a question was found in {_ATTEMPTS} attempts; the configuration leaves too few different "
            "scenes. Allow more concepts or the style 'full'."
        )

    return question


def even(labels: Sequence[str]) -> float:
    """The chance where every label comes up equally often."""
    return 1 / len(labels)
