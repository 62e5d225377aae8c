"""Builds the atlas: every fully-qualified emoji of a font, drawn small, and a table of what each of them is.

Needs the bitmap font Noto Color Emoji and Unicode's `emoji-test.txt`; both are Debian packages, named below. The result
ships with this package, so only someone who changes the font or the names has to build it again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError, features

from emu2.world.splits import concept_split

FONT_PACKAGE = "fonts-noto-color-emoji"
NAMES_PACKAGE = "unicode-data"
DEFAULT_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
DEFAULT_NAMES = Path("/usr/share/unicode/emoji/emoji-test.txt")

#: Side of a drawing in the atlas, in pixels.
CELL = 96
#: A sheet holds SHEET_SIDE x SHEET_SIDE drawings, so that a few emoji are had without decoding all of them.
SHEET_SIDE = 8
#: The only size at which the font has drawings, and the size of those drawings: 136 x 128 pixels.
_STRIKE = 109
_STRIKE_SIZE = (136, 128)
#: Colours and transparency are rounded to multiples of these before lossless compression: three times smaller than the
#: unrounded sheets (8 MB instead of 23), 43 dB from them, and every decoder gives the same pixels.
_COLOUR_STEP = 8
_ALPHA_STEP = 16
_WEBP: dict[str, Any] = {"lossless": True, "quality": 70, "method": 4}


def _levels(step: int) -> list[int]:
    return [min(255, (value + step // 2) // step * step) for value in range(256)]


_COLOUR_LEVELS = _levels(_COLOUR_STEP)
_ALPHA_LEVELS = _levels(_ALPHA_STEP)
_VISIBLE = [255 if level else 0 for level in _ALPHA_LEVELS]

_LINE = re.compile(r"^([0-9A-F ]+?)\s*; fully-qualified\s+# \S+ E\S+ (.+)$")

_VARIATION = 0xFE0F
_JOINER = 0x200D
_SKIN = {0x1F3FB: "light", 0x1F3FC: "medium-light", 0x1F3FD: "medium", 0x1F3FE: "medium-dark", 0x1F3FF: "dark"}
_HAIR = {0x1F9B0: "red", 0x1F9B1: "curly", 0x1F9B3: "white", 0x1F9B2: "bald"}
_SIGN = {0x2640: "woman", 0x2642: "man"}
#: Emoji that differ in gender only -> (their neutral form, gender). Where there is no neutral form of one code point
#: (Santa Claus, dancer), one of the two stands for both.
_GENDERED = {
    0x1F468: (0x1F9D1, "man"),
    0x1F469: (0x1F9D1, "woman"),
    0x1F466: (0x1F9D2, "man"),
    0x1F467: (0x1F9D2, "woman"),
    0x1F474: (0x1F9D3, "man"),
    0x1F475: (0x1F9D3, "woman"),
    0x1F934: (0x1FAC5, "man"),
    0x1F478: (0x1FAC5, "woman"),
    0x1F385: (0x1F385, "man"),
    0x1F936: (0x1F385, "woman"),
    0x1F57A: (0x1F483, "man"),
    0x1F483: (0x1F483, "woman"),
    0x1FAC3: (0x1FAC4, "man"),
    0x1F930: (0x1FAC4, "woman"),
    0x1F46C: (0x1F46B, "man"),
    0x1F46D: (0x1F46B, "woman"),
}
_BLOND = 0x1F471
#: Sequences (joiners dropped) that say with several code points what one says as well.
_SEQUENCES = {
    (0x1F9D1, 0x1F91D, 0x1F9D1): (0x1F46B,),  # people holding hands
    (0x1F9D1, 0x2764, 0x1F9D1): (0x1F491,),  # couple with heart
    (0x1F9D1, 0x2764, 0x1F48B, 0x1F9D1): (0x1F48F,),  # kiss
    (0x1F9D1, 0x1F384): (0x1F385,),  # Mx Claus
    (0x1FAF1, 0x1FAF2): (0x1F91D,),  # handshake of two skin tones
}
_FAMILY = 0x1F46A
#: Flags that territories of the same country show too; the country's name stands for all of them.
_OWN_FLAGS = {"flag: Australia", "flag: Spain", "flag: France", "flag: Norway", "flag: United States"}


def decompose(code_points: tuple[int, ...]) -> tuple[tuple[int, ...], dict[str, list[str]]]:
    """Splits an emoji into its concept and its modifiers.

    Returns the concept's code points (no variation selectors, no joiners, gender-neutral) and a dict with any of
    "skin", "hair" and "gender", each a list in reading order.
    """
    modifiers: dict[str, list[str]] = {}
    rest: list[int] = []
    for code in code_points:
        if code in (_VARIATION, _JOINER):
            continue
        if code in _SKIN:
            modifiers.setdefault("skin", []).append(_SKIN[code])
        elif code in _HAIR:
            modifiers.setdefault("hair", []).append(_HAIR[code])
        elif code in _SIGN and rest:  # on their own the two signs are emoji like any other
            modifiers.setdefault("gender", []).append(_SIGN[code])
        elif code == _BLOND:
            modifiers.setdefault("hair", []).append("blond")
            rest.append(0x1F9D1)
        elif code in _GENDERED:
            neutral, gender = _GENDERED[code]
            modifiers.setdefault("gender", []).append(gender)
            rest.append(neutral)
        else:
            rest.append(code)
    concept = _SEQUENCES.get(tuple(rest), tuple(rest))
    if len(concept) > 1 and set(concept) <= {0x1F9D1, 0x1F9D2}:
        concept = (_FAMILY,)
    return concept, modifiers


def read_names(path: Path) -> list[dict[str, Any]]:
    """Rows of `emoji-test.txt` that are fully-qualified: code points, name, group, subgroup, in the file's order.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the file is not `emoji-test.txt`.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file of emoji names at {path}. Install the Debian package {NAMES_PACKAGE} "
            f"(it brings {DEFAULT_NAMES}) or name another copy of Unicode's emoji-test.txt with --names."
        )
    rows: list[dict[str, Any]] = []
    group = subgroup = ""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ").strip()
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ").strip()
        elif match := _LINE.match(line):
            codes = tuple(int(code, 16) for code in match[1].split())
            rows.append({"codes": codes, "name": match[2].strip(), "group": group, "subgroup": subgroup})
    if not rows:
        raise ValueError(
            f"{path} names no fully-qualified emoji, so it is not Unicode's emoji-test.txt. Install the Debian package "
            f"{NAMES_PACKAGE} and give {DEFAULT_NAMES} as --names."
        )
    return rows


def load_font(path: Path) -> ImageFont.FreeTypeFont:
    """Opens Noto Color Emoji at its one bitmap size.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is another font. RuntimeError: Pillow lacks raqm.
    """
    hint = f"Install the Debian package {FONT_PACKAGE} and give {DEFAULT_FONT} as --font."
    if not features.check("raqm"):
        raise RuntimeError(
            "This Pillow was built without raqm, which joins emoji sequences. Install Pillow from its PyPI wheel, "
            "which has it."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no font at {path}. {hint}")
    try:
        font = ImageFont.truetype(str(path), _STRIKE, layout_engine=ImageFont.Layout.RAQM)
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path} is not the bitmap form of Noto Color Emoji ({error}). {hint}") from error
    if font.getname()[0] != "Noto Color Emoji" or font.getbbox("\U0001f600") != (0, 0, *_STRIKE_SIZE):
        raise ValueError(
            f"{path} is the font {' '.join(str(part) for part in font.getname())!r}; the atlas is drawn from the "
            f"bitmap form of Noto Color Emoji. {hint}"
        )
    return font


def draw_emoji(font: ImageFont.FreeTypeFont, codes: tuple[int, ...]) -> Image.Image:
    """One emoji as an RGBA picture of CELL x CELL pixels, transparent around the drawing."""
    square = Image.new("RGBA", (_STRIKE_SIZE[0], _STRIKE_SIZE[0]))
    top = (_STRIKE_SIZE[0] - _STRIKE_SIZE[1]) // 2
    text = "".join(map(chr, codes))
    ImageDraw.Draw(square).text((0, top), text, font=font, embedded_color=True)
    # premultiplied, so that transparent pixels do not darken the edge
    small = square.convert("RGBa").resize((CELL, CELL), Image.Resampling.LANCZOS).convert("RGBA")
    *colours, alpha = small.split()
    rounded = Image.merge("RGBA", [*(band.point(_COLOUR_LEVELS) for band in colours), alpha.point(_ALPHA_LEVELS)])
    return Image.composite(rounded, Image.new("RGBA", rounded.size), alpha.point(_VISIBLE))


def build_table(rows: list[dict[str, Any]], drawings: list[Image.Image]) -> list[dict[str, Any]]:
    """The table's entries, in the order of `rows`: code points, name, group, subgroup, concept, modifiers, split.

    "concept" is the position of the row that shows the concept with the fewest modifiers. Emoji whose drawings are the
    same (some flags) are one concept, so that no split shows a picture that another holds back.
    """
    keys: list[str] = []
    modifiers: list[dict[str, list[str]]] = []
    by_drawing: dict[bytes, str] = {}
    for row, drawing in zip(rows, drawings, strict=True):
        concept, found = decompose(row["codes"])
        key = " ".join(f"{code:X}" for code in concept)
        keys.append(by_drawing.setdefault(hashlib.sha256(drawing.tobytes()).digest(), key))
        modifiers.append(found)
    base: dict[str, int] = {}
    rank: dict[str, tuple[int, bool]] = {}
    for position, (row, key, found) in enumerate(zip(rows, keys, modifiers, strict=True)):
        plainness = (sum(map(len, found.values())), row["name"] not in _OWN_FLAGS)
        if key not in rank or plainness < rank[key]:
            rank[key], base[key] = plainness, position
    return [
        {
            "codes": " ".join(f"{code:X}" for code in row["codes"]),
            "name": row["name"],
            "group": row["group"],
            "subgroup": row["subgroup"],
            "concept": base[key],
            "modifiers": found,
            "split": concept_split(key),
        }
        for row, key, found in zip(rows, keys, modifiers, strict=True)
    ]


def _sheets(drawings: list[Image.Image]) -> Iterator[Image.Image]:
    per_sheet = SHEET_SIDE * SHEET_SIDE
    for start in range(0, len(drawings), per_sheet):
        sheet = Image.new("RGBA", (SHEET_SIDE * CELL, SHEET_SIDE * CELL))
        for offset, drawing in enumerate(drawings[start : start + per_sheet]):
            sheet.paste(drawing, (offset % SHEET_SIDE * CELL, offset // SHEET_SIDE * CELL))
        yield sheet


def build_atlas(font: Path, names: Path, out: Path) -> dict[str, int]:
    """Draws the atlas into the folder `out`: sheet_00.webp, sheet_01.webp, ... and table.json.

    The same font, names and Pillow give the same bytes. Returns counts: "emoji", "concepts", "sheets" and "bytes".

    Raises:
        FileNotFoundError, ValueError: font or names are missing or are other files; the message says what to install.
    """
    rows = read_names(names)
    typeface = load_font(font)
    drawings = [draw_emoji(typeface, row["codes"]) for row in rows]
    empty = [row["name"] for row, drawing in zip(rows, drawings, strict=True) if drawing.getbbox() is None]
    if empty:
        raise ValueError(
            f"{font} has no drawing for {len(empty)} of the {len(rows)} emoji in {names}, the first "
            f"being {empty[0]!r}. Use a font and names of the same release: "
            f"Debian packages {FONT_PACKAGE} and {NAMES_PACKAGE}."
        )
    table = build_table(rows, drawings)
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob("sheet_*.webp"):
        stale.unlink()
    size = 0
    for number, sheet in enumerate(_sheets(drawings)):
        path = out / f"sheet_{number:02d}.webp"
        sheet.save(path, **_WEBP)
        size += path.stat().st_size
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) for entry in table)
    path = out / "table.json"
    path.write_text(f'{{"cell":{CELL},"sheet_side":{SHEET_SIDE},"emoji":[\n{lines}\n]}}\n', encoding="utf-8")
    size += path.stat().st_size
    return {
        "emoji": len(table),
        "concepts": len({entry["concept"] for entry in table}),
        "sheets": -(-len(table) // (SHEET_SIDE * SHEET_SIDE)),
        "bytes": size,
    }
