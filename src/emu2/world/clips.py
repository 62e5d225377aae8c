"""Clips: a scene whose objects move. Data first, frames second, as scenes are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emu2.world.atlas import Atlas, default_atlas
from emu2.world.scene import SIZES, Background, Scene, SceneObject, place_at

if TYPE_CHECKING:
    from emu2.processing.video import Video

#: What an object may do in a clip.
#: goes: from one place to another. returns: there and back. comes, leaves: in or out over an edge. circles: once around
#: a point. bounces: away and back, twice. stays: not at all.
MOTIONS = ("goes", "returns", "comes", "leaves", "circles", "bounces", "stays")

#: Directions of straight ways: words -> signs of the change in x and y; y grows downwards.
WAYS: dict[str, tuple[int, int]] = {
    "to the right": (1, 0),
    "to the left": (-1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up and to the right": (1, -1),
    "up and to the left": (-1, -1),
    "down and to the right": (1, 1),
    "down and to the left": (-1, 1),
}
#: Edges over which objects come and leave: words -> where the edge lies.
EDGES: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
TURNS = ("clockwise", "counter-clockwise")
SWINGS = ("up and down", "from side to side")

#: How often a bouncing object leaves its place and comes back.
_BOUNCES = 2

Point = tuple[float, float]


@dataclass(frozen=True)
class Motion:
    """How one object moves over a clip.

    kind: one of MOTIONS. start: its centre in the first frame, as shares of the picture's sides. end: its centre in the
    last frame; for "returns" and "bounces" the farthest point; for "circles" the circle's middle.
    way: a key of WAYS for "goes" and "returns" (empty where the way has no plain direction), of EDGES for "comes" and
    "leaves", one of TURNS for "circles" and of SWINGS for "bounces".
    """

    kind: str
    start: Point
    end: Point
    way: str = ""

    def __post_init__(self) -> None:
        if self.kind not in MOTIONS:
            raise ValueError(f"There is no motion {self.kind!r}; choose one of {', '.join(MOTIONS)}.")

    def at(self, time: float) -> Point:
        """The centre at a time from 0 (first frame) to 1 (last frame)."""
        (x, y), (end_x, end_y) = self.start, self.end
        if self.kind == "circles":
            angle = 2 * math.pi * time * (1 if self.way == "clockwise" else -1)  # y grows downwards
            sine, cosine = math.sin(angle), math.cos(angle)
            across, down = x - end_x, y - end_y
            return round(end_x + across * cosine - down * sine, 4), round(end_y + across * sine + down * cosine, 4)
        if self.kind == "returns":
            time = 1 - abs(2 * time - 1)
        elif self.kind == "bounces":
            time = abs(math.sin(math.pi * _BOUNCES * time))
        elif self.kind == "stays":
            time = 0.0
        return round(x + (end_x - x) * time, 4), round(y + (end_y - y) * time, 4)

    @property
    def places(self) -> tuple[str, str]:
        """The grid cells of `start` and `end`."""
        return place_at(*self.start), place_at(*self.end)

    @property
    def moves(self) -> bool:
        """Whether the object is ever anywhere else."""
        return self.kind != "stays"


@dataclass(frozen=True)
class Clip:
    """Objects, each with a motion, on a background that stays the same. `objects` holds them as the clip starts."""

    objects: tuple[SceneObject, ...]
    motions: tuple[Motion, ...]
    background: Background
    frames: int

    def __post_init__(self) -> None:
        if len(self.objects) != len(self.motions) or not self.objects:
            raise ValueError(
                f"A clip has a motion for each of its objects, and at least one; got {len(self.objects)} objects and "
                f"{len(self.motions)} motions."
            )
        if self.frames < 2:
            raise ValueError(f"A clip has at least 2 frames; got {self.frames}.")

    def objects_at(self, time: float) -> tuple[SceneObject, ...]:
        """All objects at a time from 0 to 1, those outside the picture too."""
        centres = (motion.at(time) for motion in self.motions)
        return tuple(
            SceneObject(item.emoji, x, y, item.size, item.rotation)
            for item, (x, y) in zip(self.objects, centres, strict=True)
        )

    def scene_at(self, frame: int) -> Scene:
        """The scene as it stands in a frame, counted from 0, with the objects outside the picture too."""
        return Scene(self.objects_at(frame / (self.frames - 1)), self.background)

    def visible_scenes(self, atlas: Atlas | None = None) -> Iterator[Scene]:
        """The scene of every frame in which there is any object, without those outside the picture."""
        atlas = atlas or default_atlas()
        for frame in range(self.frames):
            scene = self.scene_at(frame)
            inside = tuple(item for item in scene.objects if _is_inside(item, atlas))
            if inside:
                yield Scene(inside, self.background)

    def render(self, size: int, atlas: Atlas | None = None) -> Video:
        """The clip as frames of `size` x `size` pixels."""
        from emu2.processing.video import Video  # brings transformers along, which still pictures do without

        atlas = atlas or default_atlas()
        return Video([self.scene_at(frame).render(size, atlas) for frame in range(self.frames)])

    def to_dict(self, size: int, atlas: Atlas | None = None) -> dict[str, Any]:
        """All that is true of the clip, JSON-able; boxes in pixels of frames of `size` pixels.

        A box is `None` in the frames in which the object is outside the picture.
        """
        atlas = atlas or default_atlas()
        scenes = [self.scene_at(frame) for frame in range(self.frames)]
        return {
            "image_size": size,
            "frames": self.frames,
            "background": {
                "kind": self.background.kind,
                "colours": list(self.background.colours),
                "text": self.background.text,
            },
            "objects": [
                {
                    "name": atlas[item.emoji].noun,
                    "emoji": item.emoji,
                    "concept": atlas[item.emoji].concept,
                    "size": item.size,
                    "rotation": item.rotation,
                    "motion": {
                        "kind": motion.kind,
                        "way": motion.way,
                        "start": list(motion.start),
                        "end": list(motion.end),
                        "places": list(motion.places),
                    },
                    "centres": [[scene.objects[number].x, scene.objects[number].y] for scene in scenes],
                    "boxes": [_box(scene.objects[number], size, atlas) for scene in scenes],
                }
                for number, (item, motion) in enumerate(zip(self.objects, self.motions, strict=True))
            ],
        }

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Clip:
        """The clip that `to_dict` described."""
        objects, motions = [], []
        for item in facts["objects"]:
            moved = item["motion"]
            x, y = moved["start"]
            objects.append(SceneObject(item["emoji"], x, y, item["size"], item["rotation"]))
            motions.append(Motion(moved["kind"], (x, y), tuple(moved["end"]), moved["way"]))
        return cls(
            objects=tuple(objects),
            motions=tuple(motions),
            background=Background(facts["background"]["kind"], tuple(facts["background"]["colours"])),
            frames=facts["frames"],
        )


def _is_inside(item: SceneObject, atlas: Atlas) -> bool:
    """Whether any of the object lies in the picture."""
    scale = SIZES[item.size]
    left, top, right, bottom = atlas.extent(item.emoji, item.rotation)
    return (
        item.x + right * scale > 0
        and item.x + left * scale < 1
        and (item.y + bottom * scale > 0 and item.y + top * scale < 1)
    )


def _box(item: SceneObject, size: int, atlas: Atlas) -> list[int] | None:
    left, top, right, bottom = item.box(size, atlas)
    return [left, top, right, bottom] if left < right and top < bottom else None
