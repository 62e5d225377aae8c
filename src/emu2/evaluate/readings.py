"""What a picture was found to show, and how that agrees with what it should show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from emu2.world.scene import Background, SceneObject


@dataclass(frozen=True)
class Thing:
    """Something found in a picture.

    item: what it is and where, as scenes hold it. box: of what is visible, in pixels. likeness: 1 for its exact
    rendering, 0 for what has nothing in common with it, such as the bare background.
    """

    item: SceneObject
    box: tuple[int, int, int, int]
    likeness: float

    @property
    def place(self) -> str:
        return self.item.place


@dataclass(frozen=True)
class Reading:
    """What a picture shows. border: its colour, or None where there is none."""

    things: tuple[Thing, ...]
    background: Background
    border: str | None = None

    @property
    def emoji(self) -> Counter[int]:
        """Emoji -> how many."""
        return Counter(thing.item.emoji for thing in self.things)

    @property
    def placed(self) -> Counter[tuple[int, str]]:
        """(Emoji, place) -> how many."""
        return Counter((thing.item.emoji, thing.place) for thing in self.things)

    def shows(self, item: SceneObject, *, sized: bool = False) -> bool:
        """Whether this is there, at its place and, with `sized`, in its size."""
        return any(
            thing.item.emoji == item.emoji and thing.place == item.place and (not sized or thing.item.size == item.size)
            for thing in self.things
        )


@dataclass(frozen=True)
class Agreement:
    """How a reading agrees with a scene.

    objects: the kinds of things are the scene's, none missing and none more. count: there are as many things.
    places: each is where it shall be, and no other is. background: is the scene's.
    """

    objects: bool
    count: bool
    places: bool
    background: bool

    @property
    def everything(self) -> bool:
        return self.objects and self.count and self.places and self.background


def agreement(reading: Reading, objects: Sequence[SceneObject], background: Background) -> Agreement:
    """The reading of a drawing against the scene it shall show."""
    return Agreement(
        objects=set(reading.emoji) == {item.emoji for item in objects},
        count=len(reading.things) == len(objects),
        places=reading.placed == Counter((item.emoji, item.place) for item in objects),
        background=reading.background == background,
    )
