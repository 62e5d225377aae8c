"""Draws scenes at random: which objects, where, how large, on what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from emu2.world.atlas import Atlas
from emu2.world.dice import Dice
from emu2.world.scene import PLACES, SIZES, Background, SceneObject

#: Objects that a scene holds at most.
MAX_OBJECTS = 6

#: Free space between the boxes of two objects, and to the edge, as a share of the picture's side.
GAP = 0.015
#: How far objects that stand freely stray from the middle of their grid cell, as a share of the picture's side. It
#: leaves 0.05 to the cell's border, so that the place of an object is never in doubt.
FREE_STRAY = 0.115
#: Arrangements tried before all objects are made small and put into the middle of their cells, where they always fit.
_ATTEMPTS = 30

#: Left, top, right, bottom.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Style:
    """How varied scenes are.

    colours: names of background colours. plain: share of plain backgrounds. free: share of scenes whose objects stand
    anywhere in their grid cells. jitter: how far the others stray from the middle of theirs, as a share of the
    picture's side. tilted: share of objects that are turned. alone: sizes that a single object may have.
    max_objects, max_kinds: in scenes drawn without further demands.
    places: grid cells that objects stand in. sizes: the only ones there are; empty means by the number of objects.
    crowded: another thing in every place, in scenes drawn without further demands.
    """

    colours: tuple[str, ...]
    plain: float
    free: float
    tilted: float
    jitter: float
    alone: tuple[str, ...]
    max_objects: int
    max_kinds: int
    places: tuple[str, ...] = PLACES
    sizes: tuple[str, ...] = ()
    crowded: bool = False

    @property
    def capacity(self) -> int:
        """Objects that a scene of this style holds at most."""
        return min(MAX_OBJECTS, len(self.places))


_CORNERS = Style(
    colours=("white", "black", "red", "yellow", "green", "blue", "purple", "orange"),
    plain=1.0,
    free=0.0,
    tilted=0.0,
    jitter=0.0,
    alone=("medium",),
    max_objects=3,
    max_kinds=2,
    places=("top left", "top right", "bottom left", "bottom right"),
    sizes=("medium",),
)
STYLES = {
    # One size, four places, nothing left to chance: a full caption tells all of the picture.
    "corners": _CORNERS,
    # As many things in a picture as there can be, for who learns from each where it stands.
    "crowded": replace(_CORNERS, crowded=True),
    "simple": Style(
        colours=("white", "black", "red", "yellow", "green", "blue", "purple", "orange"),
        plain=1.0,
        free=0.0,
        tilted=0.0,
        jitter=0.012,
        alone=("medium", "large"),
        max_objects=4,
        max_kinds=2,
    ),
    "full": Style(
        colours=("white", "black", "red", "yellow", "green", "blue", "purple", "orange", "pink", "gray"),
        plain=0.5,
        free=0.3,
        tilted=0.2,
        jitter=0.012,
        alone=("small", "medium", "large"),
        max_objects=MAX_OBJECTS,
        max_kinds=3,
    ),
}

#: Degrees that a tilted object is turned by.
TILTS = (-30, -15, 15, 30)


def draw_background(dice: Dice, style: Style) -> Background:
    """A background of the style."""
    if dice.chance(style.plain):
        return Background("plain", (dice.pick(style.colours),))
    kind = dice.pick(("halves", "gradient", "stripes", "checks", "dots"))
    return Background(kind, tuple(dice.sample(style.colours, 2)))


def draw_counts(dice: Dice, style: Style) -> list[int]:
    """How many objects of each kind: half of the scenes show one object, the others up to the style's limits."""
    if style.crowded:
        return [1] * style.capacity
    if dice.chance(0.5):
        return [1]
    kinds = 1 + dice.below(style.max_kinds)
    total = max(2, kinds + dice.below(style.max_objects - kinds + 1))
    counts = [1] * kinds
    for _ in range(total - kinds):
        counts[dice.below(kinds)] += 1
    return counts


def _extent(emoji: int, size: str, rotation: int, atlas: Atlas) -> Box:
    """What is visible of an object around its centre, as shares of the picture's side: left, top, right, bottom."""
    scale = SIZES[size]
    left, top, right, bottom = atlas.extent(emoji, rotation)
    return left * scale, top * scale, right * scale, bottom * scale


def _spot(dice: Dice, extent: Box, place: str, stray: float) -> tuple[float, float]:
    """A centre in the grid cell `place`, up to `stray` from its middle, or as near as the picture's edge allows."""
    row, column = divmod(PLACES.index(place), 3)
    x = (column * 2 + 1) / 6 + dice.between(-stray, stray)
    y = (row * 2 + 1) / 6 + dice.between(-stray, stray)
    return (
        round(min(max(x, GAP - extent[0]), 1 - GAP - extent[2]), 4),
        round(min(max(y, GAP - extent[1]), 1 - GAP - extent[3]), 4),
    )


def arrange(
    dice: Dice,
    emoji: Sequence[int],
    style: Style,
    atlas: Atlas,
    sizes: Sequence[str] | None = None,
) -> tuple[SceneObject, ...]:
    """Places the emoji so that none overlaps another or reaches over the edge.

    sizes: the sizes to draw from, largest that fit; by default all three for one object, the smaller ones for more.
        The style's own sizes go before both.

    Raises:
        ValueError: no emoji, or more than the style's capacity.
    """
    if not 1 <= len(emoji) <= style.capacity:
        raise ValueError(f"A scene holds 1 to {style.capacity} objects; {len(emoji)} were asked for.")
    if style.sizes:
        sizes = style.sizes
    elif sizes is None:
        sizes = style.alone if len(emoji) == 1 else ("small", "medium") if len(emoji) <= 3 else ("small",)
    stray = FREE_STRAY if dice.chance(style.free) else style.jitter
    for attempt in range(_ATTEMPTS):
        last = attempt == _ATTEMPTS - 1  # small, upright, on the grid: always fits
        places = dice.sample(style.places, len(emoji))
        placed: list[SceneObject] = []
        boxes: list[Box] = []
        for index, place in zip(emoji, places, strict=True):
            size = "small" if last and not style.sizes else dice.pick(sizes)
            rotation = dice.pick(TILTS) if not last and dice.chance(style.tilted) else 0
            extent = _extent(index, size, rotation, atlas)
            x, y = _spot(dice, extent, place, 0.0 if last else stray)
            box = (x + extent[0], y + extent[1], x + extent[2], y + extent[3])
            item = SceneObject(index, x, y, size, rotation)
            if item.place != place or any(_touch(box, other) for other in boxes):
                break
            placed.append(item)
            boxes.append(box)
        else:
            return tuple(placed)
    raise AssertionError("small objects in different grid cells never overlap")


def _touch(one: Box, other: Box) -> bool:
    return not (
        one[2] + GAP <= other[0] or other[2] + GAP <= one[0] or one[3] + GAP <= other[1] or other[3] + GAP <= one[1]
    )


def apart(item: SceneObject, others: Sequence[SceneObject], atlas: Atlas) -> bool:
    """Whether an object overlaps none of the others."""

    def box(one: SceneObject) -> Box:
        left, top, right, bottom = _extent(one.emoji, one.size, one.rotation, atlas)
        return one.x + left, one.y + top, one.x + right, one.y + bottom

    return not any(_touch(box(item), box(other)) for other in others)


def stand(
    dice: Dice, emoji: int, place: str, size: str, atlas: Atlas, *, stray: float = 0.0, margin: float = GAP
) -> SceneObject | None:
    """An upright emoji in a grid cell, or `None` where its size would push its centre out of the cell.

    stray: how far it may stand from the middle of the cell, as a share of the picture's side. margin: what stays free
        at the picture's edge.
    """
    left, top, right, bottom = _extent(emoji, size, 0, atlas)
    wider = margin - GAP
    x, y = _spot(dice, (left - wider, top - wider, right + wider, bottom + wider), place, stray)
    item = SceneObject(emoji, x, y, size)
    return item if item.place == place else None


def inside(item: SceneObject, atlas: Atlas) -> bool:
    """Whether all that is visible of an object lies in the picture."""
    left, top, right, bottom = _extent(item.emoji, item.size, item.rotation, atlas)
    return item.x + left >= 0 and item.y + top >= 0 and item.x + right <= 1 and item.y + bottom <= 1
