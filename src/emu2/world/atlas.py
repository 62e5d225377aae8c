"""The atlas as it ships: which emoji there are, and their drawings at any size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from emu2.world.everyday import EVERYDAY, OTHER_NOUNS, SUBGROUP_KINDS
from emu2.world.splits import CONCEPT_SPLITS

ASSETS = Path(__file__).parent / "assets"

#: Resized drawings kept in memory. 20,000 drawings of 24 x 24 pixels are about 50 MB.
_SPRITES_KEPT = 20_000


@dataclass(frozen=True)
class Emoji:
    """One emoji of the table.

    index: its position in the table. codes: code points in hexadecimal, parted by spaces. name: Unicode's name.
    noun, plural: how captions call it. kind: what kind of thing it is ("animal"), empty where there is no good word.
    concept: the index of the emoji that stands for its concept. split: "train", "val" or "held".
    """

    index: int
    codes: str
    name: str
    group: str
    subgroup: str
    concept: int
    modifiers: dict[str, list[str]]
    split: str
    noun: str
    plural: str
    kind: str

    @property
    def character(self) -> str:
        """The emoji itself."""
        return "".join(chr(int(code, 16)) for code in self.codes.split())


@dataclass(frozen=True)
class Sprite:
    """A drawing ready to be pasted: `image` is RGB, `mask` L, both cut to `box`.

    box: (left, top, right, bottom) in pixels, of what is visible, within the square that the drawing was made for.
    """

    image: Image.Image
    mask: Image.Image
    box: tuple[int, int, int, int]


def _turned(drawing: Image.Image, rotation: int) -> Image.Image:
    # bilinear is enough, and five times faster than bicubic: the drawing is resized with a better filter afterwards
    return drawing.rotate(rotation, Image.Resampling.BILINEAR, expand=True) if rotation % 360 else drawing


def noun_of(name: str) -> str:
    """How a caption calls an emoji: "flag: Peru" -> "flag of Peru", "man: red hair" -> "man with red hair"."""
    head, colon, rest = name.partition(": ")
    if not colon:
        return OTHER_NOUNS.get(name, name)
    if head == "flag":
        return f"flag of {rest}"
    if head == "keycap":
        return f"keycap {rest}"
    looks = any(word in rest for word in ("skin tone", "hair", "beard", "bald"))
    return f"{head} with {rest}" if looks else f"{head} of {rest}"


def plural_of(noun: str) -> str:
    """The plural of a noun phrase: the word before the first " with ", " of " or the like changes."""
    for link in (" with ", " of ", " in ", " on ", " without ", " at ", " for "):
        head, found, rest = noun.partition(link)
        if found:
            return plural_of(head) + link + rest
    first, _, rest = noun.partition(" ")
    if rest.split(" ")[0].endswith("ing"):  # "man running": who it is changes, what they do does not
        people = {"person": "people", "man": "men", "woman": "women"}.get(first)
        if people:
            return f"{people} {rest}"
    if noun.endswith("person"):
        return noun[:-6] + "people"
    if noun.endswith("man"):
        return noun[:-2] + "en"
    if noun.endswith("child"):
        return noun + "ren"
    if noun.endswith("s") and not noun.endswith(("ss", "us")):
        return noun  # a plural already, as most names in -s are
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return noun[:-1] + "ies"
    return noun + "s"


class Atlas:
    """The table of emoji and their drawings. Sheets are decoded when first needed and kept."""

    def __init__(self, folder: Path = ASSETS) -> None:
        path = folder / "table.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no emoji table at {path}. Build it with `emu2 world atlas --out {folder}`, "
                "or reinstall emu2, which ships it."
            )
        table = json.loads(path.read_text(encoding="utf-8"))
        self.folder = folder
        self.cell: int = table["cell"]
        self._sheet_side: int = table["sheet_side"]
        everyday = {name: (noun, plural, kind) for name, noun, plural, kind in EVERYDAY}
        emoji = []
        for index, row in enumerate(table["emoji"]):
            noun = noun_of(row["name"])
            words = everyday.get(row["name"]) or (noun, plural_of(noun), SUBGROUP_KINDS.get(row["subgroup"], ""))
            emoji.append(Emoji(index=index, **row, noun=words[0], plural=words[1], kind=words[2]))
        self.emoji: tuple[Emoji, ...] = tuple(emoji)
        self._by_name = {entry.name: entry for entry in emoji}
        self._by_noun = {entry.noun: entry for entry in reversed(emoji)}
        self._sheet = lru_cache(maxsize=None)(self._read_sheet)
        self._variants: dict[int, list[Emoji]] = {}
        for entry in emoji:
            self._variants.setdefault(entry.concept, []).append(entry)
        self.sprite = lru_cache(maxsize=_SPRITES_KEPT)(self._make_sprite)
        self.extent = lru_cache(maxsize=_SPRITES_KEPT)(self._measure)

    def __len__(self) -> int:
        return len(self.emoji)

    def __getitem__(self, index: int) -> Emoji:
        return self.emoji[index]

    def find(self, name: str) -> Emoji:
        """The emoji with this name, short name or character.

        Raises:
            ValueError: there is none; the message offers names that are near.
        """
        found = self._by_noun.get(name) or self._by_name.get(name)
        found = found or next((entry for entry in self.emoji if entry.character == name), None)
        if found is None:
            near = [entry.name for entry in self.emoji if name.lower() in entry.name.lower()][:5]
            hint = f" Near it are: {', '.join(near)}." if near else " `emu2 world names` lists them."
            raise ValueError(f"There is no emoji {name!r} in the atlas.{hint}")
        return found

    def concepts(self, split: str | None = None) -> list[Emoji]:
        """The emoji that stand for their concepts, in table order; of one concept split, or of all."""
        if split is not None and split not in CONCEPT_SPLITS:
            raise ValueError(f"Concepts have the splits {', '.join(CONCEPT_SPLITS)}; there is no {split!r}.")
        return [entry for entry in self.emoji if entry.concept == entry.index and split in (None, entry.split)]

    def everyday(self, split: str | None = None) -> list[Emoji]:
        """The everyday emoji (plainest first); of one concept split, or of all."""
        chosen = [self._by_name[name] for name, *_ in EVERYDAY]
        return [entry for entry in chosen if split in (None, entry.split)]

    def variants(self, concept: int) -> list[Emoji]:
        """All emoji of a concept, given by the index of the emoji that stands for it."""
        return self._variants[concept]

    def drawing(self, index: int) -> Image.Image:
        """The RGBA drawing of an emoji as the atlas holds it, `cell` x `cell` pixels."""
        per_sheet = self._sheet_side**2
        number, offset = divmod(index, per_sheet)
        left, top = offset % self._sheet_side * self.cell, offset // self._sheet_side * self.cell
        return self._sheet(number).crop((left, top, left + self.cell, top + self.cell))

    def _read_sheet(self, number: int) -> Image.Image:
        with Image.open(self.folder / f"sheet_{number:02d}.webp") as sheet:
            return sheet.convert("RGBA")

    def _measure(self, index: int, rotation: int = 0) -> tuple[float, float, float, float]:
        """What is visible of a drawing around the centre of its square, in units of the square's side."""
        alpha = _turned(self.drawing(index).getchannel("A"), rotation)
        left, top, right, bottom = alpha.point(_VISIBLE).getbbox() or (0, 0, *alpha.size)
        x, y = alpha.width / 2, alpha.height / 2
        return (left - x) / self.cell, (top - y) / self.cell, (right - x) / self.cell, (bottom - y) / self.cell

    def _make_sprite(self, index: int, side: int, rotation: int = 0) -> Sprite:
        """A drawing resized to a square of `side` pixels, turned by `rotation` degrees counter-clockwise.

        Turned drawings keep their scale and may reach over the square; `box` then does too.
        """
        drawing = _turned(self.drawing(index).convert("RGBa"), rotation)  # premultiplied: edges keep their colour
        scale = side / self.cell
        width, height = (max(1, round(length * scale)) for length in drawing.size)
        drawing = drawing.resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
        alpha = drawing.getchannel("A")
        box = alpha.point(_VISIBLE).getbbox() or (0, 0, width, height)
        left, top = (side - width) // 2, (side - height) // 2
        return Sprite(
            image=drawing.convert("RGB").crop(box),
            mask=alpha.crop(box),
            box=(box[0] + left, box[1] + top, box[2] + left, box[3] + top),
        )


#: Alpha below this counts as invisible: the faint rim that resampling leaves does not belong to an object's box.
_VISIBLE = [255 if value >= 24 else 0 for value in range(256)]


@lru_cache(maxsize=1)
def default_atlas() -> Atlas:
    """The atlas that ships with the package."""
    return Atlas()


def resolve_concepts(atlas: Atlas, concepts: int | Sequence[str] | None, split: str) -> list[Emoji]:
    """The emoji a world draws from: `None` = all of the concept split, n = everyday ones, or those named.

    Raises:
        ValueError: n is out of range, or a name is unknown, is no concept, or belongs to another split.
    """
    if concepts is None:
        return atlas.concepts(split)
    if isinstance(concepts, int):
        if not 1 <= concepts <= len(EVERYDAY):
            raise ValueError(
                f"concepts={concepts}: a number takes that many everyday concepts, 1 to {len(EVERYDAY)}. "
                "Use concepts=None for all."
            )
        return atlas.everyday(split)[:concepts]
    if isinstance(concepts, str) or not isinstance(concepts, Sequence):
        raise ValueError(f"concepts={concepts!r}: give a list of names, a number or None.")
    chosen = [atlas.find(name) for name in concepts]
    strangers = [entry.noun for entry in chosen if entry.split != split]
    if strangers:
        raise ValueError(
            f"These concepts do not belong to the concept split {split!r}: "
            + ", ".join(f"{name} ({atlas.find(name).split})" for name in strangers)
            + ". Splits are fixed, so that what is held back is never trained on; choose other concepts."
        )
    return chosen
