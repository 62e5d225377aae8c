"""Draws clips at random: who moves how, so that nothing overlaps and the split's rule holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from emu2.world.atlas import Atlas
from emu2.world.clips import EDGES, SWINGS, TURNS, WAYS, Clip, Motion, Point
from emu2.world.compose import FREE_STRAY, GAP, apart, draw_background, stand
from emu2.world.dice import Dice
from emu2.world.scene import PLACES, SIZES, SceneObject
from emu2.world.studio import Studio

#: Clips drawn of one cast before another is taken, and casts before it is said that there is no clip. A cast of few
#: things with few places to go may have none that the split allows.
_ATTEMPTS, _CASTS = 150, 100
#: Instants of a clip at which its objects must not touch; frames fall between them where there are few.
_INSTANTS = 17
#: The same, from coarse to fine: whoever meets does so at the first few.
_COARSE_FIRST = (0, 16, 8, 4, 12, *range(2, 15, 4), *range(1, 16, 2))
#: How far an object bounces, and the radius of a circle, as shares of the picture's side; the least that is visible.
_SWING, _RADIUS, _LEAST = 0.2, 0.16, 0.15
#: Objects that come or leave are this far outside the picture when they cannot be seen.
_OUTSIDE = 0.01


@dataclass(frozen=True)
class Role:
    """What an object is to do in a clip: its motion, and what of it is not left to the dice.

    emoji: index in the atlas. motion: one of MOTIONS. way: as in `Motion`. start, end: grid cells, for "goes" and
    "returns"; "stays" has a start only.
    """

    emoji: int
    motion: str
    way: str | None = None
    start: str | None = None
    end: str | None = None


def shoot(studio: Studio, dice: Dice, cast: Callable[[], Sequence[Role]]) -> Clip:
    """A clip in which every object plays its role, nothing overlaps, and the split's rule holds.

    cast: draws the roles; the clip's objects follow them in order. Called again where a cast has no clip.

    Raises:
        ValueError: there seems to be no such clip.
    """
    frames = dice.pick(studio.config.frames)
    for _ in range(_CASTS):
        clip = _shot(studio, dice, cast(), frames)
        if clip is not None:
            return clip
    raise ValueError(
        f"No clip for the split {studio.config.split!r} was found with {_CASTS} casts; the configuration leaves too "
        "few different clips. Allow more concepts or the style 'full'."
    )


def _shot(studio: Studio, dice: Dice, roles: Sequence[Role], frames: int) -> Clip | None:
    sizes = studio.style.sizes or (("small", "medium") if len(roles) <= 2 else ("small",))
    for _ in range(_ATTEMPTS):
        stray = FREE_STRAY if dice.chance(studio.style.free) else studio.style.jitter
        objects, motions = [], []
        for role in roles:
            stage = _Stage(role.emoji, dice.pick(sizes), studio.atlas, studio.style.places, stray)
            motion = _DRAW[role.motion](dice, stage, role)
            if motion is None:
                break
            motions.append(motion)
            objects.append(SceneObject(role.emoji, *motion.start, stage.size))
        else:
            clip = Clip(tuple(objects), tuple(motions), draw_background(dice, studio.style), frames)
            if is_clear(clip, studio.atlas) and is_allowed(clip, studio):
                return clip
    return None


def is_clear(clip: Clip, atlas: Atlas) -> bool:
    """Whether no two objects ever touch."""
    if len(clip.objects) == 1:
        return True
    for instant in _COARSE_FIRST:
        objects = clip.objects_at(instant / (_INSTANTS - 1))
        if not all(apart(item, objects[:number], atlas) for number, item in enumerate(objects)):
            return False
    return True


def is_allowed(clip: Clip, studio: Studio) -> bool:
    """Whether the split may show this clip.

    Training shows no frame that is a scene set aside for the split "seen". A clip of that split starts with such a
    scene, so training never shows it; later frames may be any.
    """
    scenes = clip.visible_scenes(studio.atlas)
    if studio.config.split == "seen":
        return studio.allows(next(scenes))
    different = {scene.arrangement: scene for scene in scenes}
    return all(studio.allows(scene) for scene in different.values())


# One motion each -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stage:
    """Room for one object: what and how large it is, the grid cells of the style, and how far it may stray."""

    emoji: int
    size: str
    atlas: Atlas
    places: tuple[str, ...]
    stray: float

    def spot(self, dice: Dice, place: str) -> Point | None:
        """A centre in the grid cell; `None` where the object is too large to stand in it."""
        item = stand(dice, self.emoji, place, self.size, self.atlas, stray=self.stray)
        return None if item is None else (item.x, item.y)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """What is visible of the object around its centre, as shares of the picture's side."""
        left, top, right, bottom = (side * SIZES[self.size] for side in self.atlas.extent(self.emoji, 0))
        return left, top, right, bottom

    def clamped(self, x: float, y: float, margin: float = 0.0) -> Point | None:
        """The nearest centre at which the object is `margin` or more inside the picture; `None` = there is none."""
        left, top, right, bottom = self.extent
        low_x, high_x = GAP + margin - left, 1 - GAP - margin - right
        low_y, high_y = GAP + margin - top, 1 - GAP - margin - bottom
        if low_x > high_x or low_y > high_y:
            return None
        return round(min(max(x, low_x), high_x), 4), round(min(max(y, low_y), high_y), 4)


def _cell(place: str) -> tuple[int, int]:
    row, column = divmod(PLACES.index(place), 3)
    return column, row


@cache
def way_between(start: str, end: str) -> str:
    """The direction from one grid cell to another, a key of WAYS; empty where it is neither straight nor diagonal."""
    (x, y), (end_x, end_y) = _cell(start), _cell(end)
    across, down = end_x - x, end_y - y
    if (across and down and abs(across) != abs(down)) or (not across and not down):
        return ""
    signs = ((across > 0) - (across < 0), (down > 0) - (down < 0))
    return next(words for words, way in WAYS.items() if way == signs)


def _straight(dice: Dice, stage: _Stage, role: Role) -> Motion | None:
    """ "goes" and "returns": the direction is drawn first unless a place is given, so that all come up equally."""
    way = None if role.start or role.end else role.way or dice.pick(tuple(WAYS))
    start, end = dice.pick(_pairs(stage.places, role.start, role.end, way))
    first, last = stage.spot(dice, start), stage.spot(dice, end)
    if first is None or last is None:
        return None
    return Motion(role.motion, first, last, way_between(start, end))


@lru_cache(maxsize=256)
def _pairs(places: tuple[str, ...], start: str | None, end: str | None, way: str | None) -> tuple[tuple[str, str], ...]:
    """(start, end) of all ways between different grid cells; from or to a given one, or in one direction."""
    return tuple(
        (one, other)
        for one in ((start,) if start else places)
        for other in ((end,) if end else places)
        if one != other and way in (None, way_between(one, other))
    )


def _over_an_edge(dice: Dice, stage: _Stage, role: Role) -> Motion | None:
    """ "comes" and "leaves": straight in or out, along the row or column of the place inside."""
    edge = role.way or dice.pick(tuple(EDGES))
    inside = stage.spot(dice, dice.pick(stage.places))
    if inside is None:
        return None
    left, top, right, bottom = stage.extent
    x, y = {
        "left": (-right - _OUTSIDE, inside[1]),
        "right": (1 - left + _OUTSIDE, inside[1]),
        "top": (inside[0], -bottom - _OUTSIDE),
        "bottom": (inside[0], 1 - top + _OUTSIDE),
    }[edge]
    outside = (round(x, 4), round(y, 4))
    start, end = (outside, inside) if role.motion == "comes" else (inside, outside)
    return Motion(role.motion, start, end, edge)


def _circle(dice: Dice, stage: _Stage, role: Role) -> Motion | None:
    column, row = _cell(dice.pick(stage.places))
    middle = stage.clamped((column * 2 + 1) / 6, (row * 2 + 1) / 6, margin=_RADIUS)
    if middle is None:
        return None
    across, down = dice.pick(((1, 0), (-1, 0), (0, 1), (0, -1)))
    start = (round(middle[0] + across * _RADIUS, 4), round(middle[1] + down * _RADIUS, 4))
    return Motion("circles", start, middle, role.way or dice.pick(TURNS))


def _bounce(dice: Dice, stage: _Stage, role: Role) -> Motion | None:
    start = stage.spot(dice, dice.pick(stage.places))
    if start is None:
        return None
    way = role.way or dice.pick(SWINGS)
    swing = dice.pick((_SWING, -_SWING))
    across, down = (0.0, swing) if way == "up and down" else (swing, 0.0)
    end = stage.clamped(start[0] + across, start[1] + down)
    if end is None or max(abs(end[0] - start[0]), abs(end[1] - start[1])) < _LEAST:
        return None
    return Motion("bounces", start, end, way)


def _stay(dice: Dice, stage: _Stage, role: Role) -> Motion | None:
    start = stage.spot(dice, role.start or dice.pick(stage.places))
    return None if start is None else Motion("stays", start, start)


_DRAW: dict[str, Callable[[Dice, _Stage, Role], Motion | None]] = {
    "goes": _straight,
    "returns": _straight,
    "comes": _over_an_edge,
    "leaves": _over_an_edge,
    "circles": _circle,
    "bounces": _bounce,
    "stays": _stay,
}


def leg(studio: Studio, dice: Dice, objects: tuple[SceneObject, ...], mover: int) -> Motion | None:
    """A straight way for one of several objects to another grid cell, past the others; `None` where the dice fail."""
    item = objects[mover]
    taken = {other.place for other in objects}
    place = dice.pick([place for place in studio.style.places if place not in taken])
    end = stand(dice, item.emoji, place, item.size, studio.atlas, stray=studio.style.jitter)
    if end is None:
        return None
    motion = Motion("goes", (item.x, item.y), (end.x, end.y), way_between(item.place, place))
    others = [other for number, other in enumerate(objects) if number != mover]
    for instant in range(_INSTANTS):
        x, y = motion.at(instant / (_INSTANTS - 1))
        if not apart(replace(item, x=x, y=y), others, studio.atlas):
            return None
    return motion
