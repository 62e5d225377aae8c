"""A scene is data first, a picture second."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw

from emu2.world.atlas import Atlas, Sprite, default_atlas

#: Background colours. Soft enough that no emoji disappears on its own colour, far enough apart to be told by name.
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (32, 32, 36),
    "red": (222, 82, 78),
    "yellow": (250, 226, 112),
    "green": (112, 196, 118),
    "blue": (92, 150, 232),
    "purple": (166, 118, 214),
    "orange": (244, 160, 76),
    "pink": (250, 182, 208),
    "gray": (160, 164, 168),
}
BACKGROUNDS = ("plain", "halves", "gradient", "stripes", "checks", "dots")

#: Side of an object's square as a share of the picture's side. Two small ones fit side by side in the 3 x 3 grid, four
#: tiny ones in a quarter of the picture.
SIZES = {"tiny": 0.22, "small": 0.29, "medium": 0.42, "large": 0.6}
#: Cells of the 3 x 3 grid, row by row.
PLACES = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip

#: Patterns are drawn this many times larger and shrunk, for smooth edges.
_SUPERSAMPLING = 4
#: Width of a border, as a share of the picture's side.
BORDER = 0.06
#: The red of the circle that marks an object, told from every background but the red ones; its radius as a share of the
#: longer side of the object's box, and the width of its line as a share of the picture's side.
_MARK_COLOUR, _MARK_RADIUS, _MARK_LINE = (235, 0, 24), 0.62, 0.03


def place_at(x: float, y: float) -> str:
    """The grid cell in which a point lies; x and y are shares of the picture's sides, from the top left."""
    column, row = (min(2, max(0, int(value * 3))) for value in (x, y))
    return PLACES[row * 3 + column]


@dataclass(frozen=True)
class Background:
    """kind: one of BACKGROUNDS. colours: one name for "plain", else two (left to right, top to bottom)."""

    kind: str
    colours: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind not in BACKGROUNDS:
            raise ValueError(f"There is no background {self.kind!r}; choose one of {', '.join(BACKGROUNDS)}.")
        unknown = [name for name in self.colours if name not in COLOURS]
        if unknown:
            raise ValueError(f"There is no colour {unknown[0]!r}; choose from {', '.join(COLOURS)}.")
        wanted = 1 if self.kind == "plain" else 2
        if len(self.colours) != wanted:
            raise ValueError(f"A {self.kind} background has {wanted} colour(s); got {self.colours!r}.")

    @property
    def text(self) -> str:
        """The background in words, e.g. "a blue background"."""
        first, second = self.colours[0], self.colours[-1]
        return {
            "plain": f"{_article(first)} {first} background",
            "halves": f"a half {first} and half {second} background",
            "gradient": f"a background fading from {first} to {second}",
            "stripes": f"a {first} and {second} striped background",
            "checks": f"a {first} and {second} checkered background",
            "dots": f"{_article(first)} {first} background with {second} dots",
        }[self.kind]

    @property
    def number(self) -> int:
        """A number that varies between backgrounds; the plain ones count 0, 1, 2, ... in the order of COLOURS."""
        names = list(COLOURS)
        return BACKGROUNDS.index(self.kind) + sum(names.index(name) for name in self.colours)

    def render(self, size: int) -> Image.Image:
        """The background as an RGB picture of `size` x `size` pixels. Do not draw on it: it is kept and reused."""
        return _render_background(self, size)


def _article(word: str) -> str:
    return "an" if word[:1].lower() in tuple("aeiou") else "a"


@lru_cache(maxsize=1024)
def _render_background(background: Background, size: int) -> Image.Image:
    colours = [COLOURS[name] for name in background.colours]
    if background.kind == "plain":
        return Image.new("RGB", (size, size), colours[0])
    first, second = (Image.new("RGB", (size, size), colour) for colour in colours)
    if background.kind == "gradient":
        mask = Image.linear_gradient("L").resize((size, size), Image.Resampling.BILINEAR)
        return Image.composite(second, first, mask)
    if background.kind == "halves":
        first.paste(second, (size // 2, 0))
        return first
    side = size * _SUPERSAMPLING
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    cells = 8
    step = side / cells
    for row in range(cells):
        if background.kind == "stripes" and row % 2:
            draw.rectangle((0, row * step, side, (row + 1) * step - 1), fill=255)
        for column in range(cells):
            left, top = column * step, row * step
            if background.kind == "checks" and (row + column) % 2:
                draw.rectangle((left, top, left + step - 1, top + step - 1), fill=255)
            elif background.kind == "dots" and (row + column) % 2:
                draw.ellipse((left + step * 0.2, top + step * 0.2, left + step * 0.8, top + step * 0.8), fill=255)
    return Image.composite(second, first, mask.resize((size, size), Image.Resampling.BOX))


@dataclass(frozen=True)
class SceneObject:
    """One emoji in a scene.

    emoji: its index in the atlas. x, y: its centre, as shares of the picture's sides from the top left.
    size: a name of SIZES. rotation: degrees counter-clockwise.
    """

    emoji: int
    x: float
    y: float
    size: str = "medium"
    rotation: int = 0

    @property
    def place(self) -> str:
        """The cell of the 3 x 3 grid in which the centre lies."""
        return place_at(self.x, self.y)

    def sprite(self, size: int, atlas: Atlas) -> tuple[Sprite, int, int]:
        """The drawing for a picture of `size` pixels, and the left and top of the square it was made for."""
        side = max(1, round(SIZES[self.size] * size))
        return (
            atlas.sprite(self.emoji, side, self.rotation),
            round(self.x * size - side / 2),
            round(self.y * size - side / 2),
        )

    def box(self, size: int, atlas: Atlas) -> tuple[int, int, int, int]:
        """What is visible of the object in a picture of `size` pixels: left, top, right, bottom."""
        sprite, left, top = self.sprite(size, atlas)
        box = sprite.box
        return (
            max(0, left + box[0]),
            max(0, top + box[1]),
            min(size, left + box[2]),
            min(size, top + box[3]),
        )


def _draw_mark(picture: Image.Image, box: tuple[int, int, int, int]) -> None:
    """A red circle around a box, drawn into the picture; what would lie outside is cut off."""
    left, top, right, bottom = box
    scale = _SUPERSAMPLING
    x, y = (left + right) * scale / 2, (top + bottom) * scale / 2
    radius = max(right - left, bottom - top) * scale * _MARK_RADIUS
    width = max(2, round(picture.width * scale * _MARK_LINE))
    mask = Image.new("L", (picture.width * scale, picture.height * scale))
    circle = (x - radius - width, y - radius - width, x + radius + width, y + radius + width)
    ImageDraw.Draw(mask).ellipse(circle, outline=255, width=width)
    picture.paste(_MARK_COLOUR, (0, 0), mask.reduce(scale))


@dataclass(frozen=True)
class Scene:
    """Objects on a background.

    border: colour of a frame around the picture, over everything else; `None` = there is none. marked: position in
    `objects` of the one that a red circle marks; `None` = none.
    """

    objects: tuple[SceneObject, ...]
    background: Background
    border: str | None = None
    marked: int | None = None

    def __post_init__(self) -> None:
        if self.border is not None and self.border not in COLOURS:
            raise ValueError(f"There is no colour {self.border!r} for a border; choose from {', '.join(COLOURS)}.")
        if self.marked is not None and not 0 <= self.marked < len(self.objects):
            raise ValueError(f"marked={self.marked}: the scene has the objects 0 to {len(self.objects) - 1}.")

    def render(self, size: int, atlas: Atlas | None = None) -> Image.Image:
        """The scene as an RGB picture of `size` x `size` pixels; the same scene gives the same pixels."""
        atlas = atlas or default_atlas()
        picture = self.background.render(size).copy()
        for item in self.objects:
            sprite, left, top = item.sprite(size, atlas)
            picture.paste(sprite.image, (left + sprite.box[0], top + sprite.box[1]), sprite.mask)
        if self.marked is not None:
            _draw_mark(picture, self.objects[self.marked].box(size, atlas))
        if self.border is not None:
            draw, width = ImageDraw.Draw(picture), max(1, round(BORDER * size))
            draw.rectangle((0, 0, size - 1, size - 1), outline=COLOURS[self.border], width=width)
        return picture

    def boxes(self, size: int, atlas: Atlas | None = None) -> list[tuple[int, int, int, int]]:
        """The exact box of every object in `render(size)`: left, top, right, bottom in pixels."""
        atlas = atlas or default_atlas()
        return [item.box(size, atlas) for item in self.objects]

    def in_reading_order(self) -> list[SceneObject]:
        """The objects from top to bottom by grid row, from left to right within a row."""
        return sorted(self.objects, key=lambda item: (min(2, int(item.y * 3)), item.x))

    def groups(self) -> list[tuple[int, list[SceneObject]]]:
        """(emoji, its objects), the most numerous first, then in reading order: the order captions name them in."""
        found: dict[int, list[SceneObject]] = {}
        for item in self.in_reading_order():
            found.setdefault(item.emoji, []).append(item)
        return sorted(found.items(), key=lambda group: -len(group[1]))

    def counts(self, atlas: Atlas | None = None) -> dict[str, int]:
        """Short name -> how many there are."""
        atlas = atlas or default_atlas()
        counts: dict[str, int] = {}
        for emoji, items in self.groups():
            noun = atlas[emoji].noun
            counts[noun] = counts.get(noun, 0) + len(items)
        return counts

    @property
    def arrangement(self) -> str:
        """What stands where: which emoji, in which grid cells, how large. Straying in a cell makes no difference."""
        return "; ".join(sorted(f"{item.emoji} {item.place} {item.size}" for item in self.objects))

    def to_dict(self, size: int, atlas: Atlas | None = None) -> dict[str, Any]:
        """All that is true of the scene, JSON-able; boxes in pixels of a picture of `size` pixels."""
        atlas = atlas or default_atlas()
        return {
            "image_size": size,
            "background": {
                "kind": self.background.kind,
                "colours": list(self.background.colours),
                "text": self.background.text,
            },
            "counts": self.counts(atlas),
            "objects": [
                {
                    "name": atlas[item.emoji].noun,
                    "emoji": item.emoji,
                    "concept": atlas[item.emoji].concept,
                    "x": item.x,
                    "y": item.y,
                    "size": item.size,
                    "rotation": item.rotation,
                    "place": item.place,
                    "box": list(item.box(size, atlas)),
                }
                for item in self.objects
            ],
            **({} if self.border is None else {"border": self.border}),
            **({} if self.marked is None else {"marked": self.marked}),
        }

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Scene:
        """The scene that `to_dict` described."""
        return cls(
            objects=tuple(
                SceneObject(item["emoji"], item["x"], item["y"], item["size"], item["rotation"])
                for item in facts["objects"]
            ),
            background=Background(facts["background"]["kind"], tuple(facts["background"]["colours"])),
            border=facts.get("border"),
            marked=facts.get("marked"),
        )
