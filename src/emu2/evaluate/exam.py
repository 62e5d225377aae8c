"""What an examination is made of: settings, records that no training ever showed, and a reader of drawings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from emu2.data.records import Record
from emu2.evaluate.readback import PictureReader
from emu2.evaluate.rows import UnableError
from emu2.evaluate.subject import Subject
from emu2.world import World, WorldConfig, default_atlas
from emu2.world.atlas import Atlas
from emu2.world.compose import STYLES
from emu2.world.dice import Dice
from emu2.world.everyday import EVERYDAY
from emu2.world.scene import SceneObject

#: Records looked through for each that is wanted, before it is said that there are too few.
_PATIENCE = 60


@dataclass(frozen=True)
class MiniatureConfig:
    """How much is asked, and of what.

    questions: of each kind, and pictures that are captioned. episodes: of each family, split and number of
    demonstrations. drawings: of each row that draws. clips: of the row that films.
    shots, drawing_shots: numbers of demonstrations. frames: of a clip.
    rivals: other things that a drawing is told from. shown: samples that a row keeps.
    style, concepts, image_size: of the world, as in `WorldConfig`; `image_size=None` is what the model reads.
    seed: of the records; training's is 0.
    """

    questions: int = 200
    episodes: int = 200
    drawings: int = 100
    clips: int = 48
    shots: tuple[int, ...] = (0, 1, 2, 4, 8)
    drawing_shots: tuple[int, ...] = (0, 1, 2, 4)
    frames: int = 8
    rivals: int = 24
    shown: int = 4
    style: str = "full"
    concepts: int | None = None
    image_size: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ValueError(f"style must be one of {', '.join(STYLES)}; got {self.style!r}.")
        if self.concepts is not None and not 1 <= self.concepts <= len(EVERYDAY):
            raise ValueError(f"concepts is a number of everyday concepts, 1 to {len(EVERYDAY)}; got {self.concepts}.")
        for name in ("questions", "episodes", "drawings", "clips"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, for an interval; got {getattr(self, name)}.")
        for name in ("shots", "drawing_shots"):
            shots = getattr(self, name)
            if not shots or list(shots) != sorted(set(shots)) or shots[0] < 0:
                raise ValueError(f"{name} are rising numbers of demonstrations from 0; got {shots}.")

    @classmethod
    def quick(cls, **settings: Any) -> MiniatureConfig:
        """A few of everything: minutes on two cores for a small model; wide intervals."""
        return cls(**{"questions": 12, "episodes": 12, "drawings": 6, "clips": 4, "rivals": 12, **settings})


@dataclass(frozen=True)
class Models:
    """The variants of one model, as the paper tells them apart; they may be one and the same."""

    base: Subject
    chat: Subject
    gen: Subject


class Exam:
    """Records and readers for one examination.

    Args:
        config: how much of what.
        image_size: side of the world's pictures where the configuration leaves it to the model.
    """

    def __init__(self, config: MiniatureConfig, image_size: int, atlas: Atlas | None = None):
        self.config = config
        self.image_size = config.image_size or image_size
        self.atlas = atlas or default_atlas()

    def world(self, split: str, kind: str, **settings: Any) -> World:
        """A world of one split and kind; `settings` are `WorldConfig`'s and go before the examination's own."""
        config = self.config
        own: dict[str, Any] = {
            "image_size": self.image_size,
            "seed": config.seed,
            "concepts": config.concepts,
            "style": config.style,
            "frames": (config.frames,),
        }
        wanted = WorldConfig(kinds={kind: 1.0}, split=split, **{**own, **settings})
        try:
            return World(wanted, self.atlas)
        except ValueError as error:
            raise UnableError(f"The world of this examination is too small: {error}") from error

    def records(
        self,
        kind: str,
        number: int,
        *,
        split: str = "seen",
        keep: Callable[[Record], bool] | None = None,
        **settings: Any,
    ) -> list[Record]:
        """The first records there are (of a few combinations of things a small world has none), or those to keep.

        Raises:
            UnableError: there are too few.
        """
        world = self.world(split, kind, **settings)
        found: list[Record] = []
        reason = ""
        for index in range(_PATIENCE * number):
            try:
                record = world[kind, index]
            except ValueError as error:
                reason = f" {error}"
                if index >= number and not found:
                    break
                continue
            if keep is None or keep(record):
                found.append(record)
                if len(found) == number:
                    return found
        raise UnableError(
            f"Only {len(found)} of {number} {kind} records of the split {split!r} could be made: the world of this "
            f"examination is too small.{reason}"
        )

    @cached_property
    def reader(self) -> PictureReader:
        """Reads drawings in the world's style; they are told from `rivals` things of training's concepts."""
        pool = self.world("seen", "pair").studio.pool
        rivals = Dice("emu2 evaluate rivals", self.config.seed).sample(pool, min(self.config.rivals, len(pool)))
        return PictureReader(self.config.style, [concept.index for concept in rivals], atlas=self.atlas)

    def fitting(self, picture: Any) -> Any:
        """A drawing at the size of the world's pictures."""
        size = (self.image_size, self.image_size)
        return picture if picture.size == size else picture.resize(size)

    def nouns(self, items: tuple[SceneObject, ...]) -> list[str]:
        return [self.atlas[item.emoji].noun for item in items]
