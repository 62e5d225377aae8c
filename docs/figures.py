"""Draws the figures of the documentation: `python docs/figures.py` (or `make figures`).

The figure of the package is read off the source: a part is drawn on its floor with the parts it imports.
"""

import ast
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "figures"

INK, SOFT, PAPER = "#1f2937", "#6b7280", "#ffffff"
BLUE, BLUE_FILL = "#3b6fc4", "#e6effc"
ORANGE, ORANGE_FILL = "#c9741a", "#fdeedb"
GREEN, GREEN_FILL = "#2f8f5b", "#e2f4ea"
GREY, GREY_FILL = "#8a94a6", "#f3f5f8"


class Drawing:
    """A few shapes of SVG, in pixels."""

    def __init__(self, width: int, height: int, title: str):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="Inter, Helvetica, Arial, DejaVu Sans, sans-serif" role="img">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="8.5" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0.8 L9 5 L0 9.2 z" fill="{SOFT}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="14" fill="{PAPER}"/>',
        ]

    def box(self, x, y, width, height, *, fill=PAPER, line=INK, radius=8, dashed=False, weight=1.4) -> None:
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" fill="{fill}" stroke="{line}" '
            f'stroke-width="{weight}"{dash}/>'
        )

    def text(self, x, y, words, *, size=14, color=INK, bold=False, anchor="middle", mono=False) -> None:
        family = ' font-family="ui-monospace, Menlo, DejaVu Sans Mono, monospace"' if mono else ""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" fill="{color}" text-anchor="{anchor}"{weight}{family}>'
            f"{escape(words)}</text>"
        )

    def arrow(self, *points: tuple[float, float], color=SOFT, tip=True) -> None:
        path = " ".join(f"{'ML'[bool(i)]}{x} {y}" for i, (x, y) in enumerate(points))
        end = ' marker-end="url(#tip)"' if tip else ""
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.5" stroke-linejoin="round"{end}/>'
        )

    def module(self, x, y, width, height, name, *notes, fill=PAPER, line=INK, size=15) -> None:
        """A box with a name and lines of explanation, centred."""
        self.box(x, y, width, height, fill=fill, line=line)
        top = y + height / 2 - 8.5 * len(notes) + 5
        self.text(x + width / 2, top, name, bold=True, size=size)
        for number, note in enumerate(notes, start=1):
            self.text(x + width / 2, top + 17 * number, note, size=12, color=SOFT)

    def picture(self, x, y, size, *, shift=0.0) -> None:
        """A small landscape; `shift` moves its sun, so that several make a clip."""
        self.parts.append(
            f'<svg x="{x}" y="{y}" width="{size}" height="{size}" viewBox="0 0 100 100">'
            '<rect width="100" height="100" rx="8" fill="#cfe6fb"/>'
            f'<circle cx="{28 + 44 * shift}" cy="{30 - 30 * shift * (1 - shift)}" r="12" fill="#f6b73c"/>'
            '<path d="M0 78 L32 42 L58 72 L74 56 L100 80 V92 a8 8 0 0 1 -8 8 H8 a8 8 0 0 1 -8 -8 z" fill="#5a9a6f"/>'
            '<path d="M0 88 Q50 74 100 88 V92 a8 8 0 0 1 -8 8 H8 a8 8 0 0 1 -8 -8 z" fill="#3f7f57"/>'
            f'<rect x="1" y="1" width="98" height="98" rx="8" fill="none" stroke="{GREY}" stroke-width="2"/></svg>'
        )

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([*self.parts, "</svg>"]) + "\n", encoding="utf-8")


def draw_model(file: Path) -> None:
    """What goes in, what comes out, and what each position learns: Figure 2 of the paper in this code's names."""
    left, step, chip_width = 36, 71, 60
    inputs = ["<s>", "[IMG]", "e1", "e2", "…", "e64", "[/IMG]", "a", "red", "fox", "</s>"]
    targets = ["[IMG]", "e1", "e2", "…", "e64", None, "a", "red", "fox", "</s>", None]
    right = left + step * (len(inputs) - 1) + chip_width
    d = Drawing(1180, 742, "Emu2: text and pictures in one sequence, the next element out")

    def column(index: int) -> float:
        return left + step * index

    def middle(index: int) -> float:
        return column(index) + chip_width / 2

    def chip(index: int, y: float, word: str) -> None:
        visual = word.startswith("e") or word == "…"
        d.box(column(index), y, chip_width, 34, radius=17, weight=1.6,
              fill=ORANGE_FILL if visual else BLUE_FILL, line=ORANGE if visual else BLUE)  # fmt: skip
        d.text(middle(index), y + 22, word, size=14 if len(word) < 6 else 12.5, mono=True)

    # what every position predicts
    d.text(left, 84, "predicts", size=13, color=SOFT, anchor="start")
    for index, word in enumerate(targets):
        if word is None:
            d.text(middle(index), 121, "–", size=16, color=GREY)
        else:
            chip(index, 98, word)
            d.arrow((middle(index), 168), (middle(index), 135))
    for first, last, name in ((0, 0, "lm_head"), (1, 4, "project_down"), (6, 9, "lm_head")):
        fill, line = (ORANGE_FILL, ORANGE) if name == "project_down" else (BLUE_FILL, BLUE)
        d.box(column(first) - 2, 168, column(last) + chip_width - column(first) + 4, 40, fill=fill, line=line)
        d.text((middle(first) + middle(last)) / 2, 193, name, bold=True, size=14 if first else 12.5)
    for index, word in enumerate(targets):
        if word is not None:
            d.arrow((middle(index), 244), (middle(index), 208))

    d.module(left - 12, 244, right - left + 24, 84, "language model",
             "any causal language model of transformers; published: LLaMA-33B, 60 layers of width 6656",
             fill=GREY_FILL)  # fmt: skip

    # what goes in
    for index, word in enumerate(inputs):
        chip(index, 366, word)
        d.arrow((middle(index), 366), (middle(index), 329))
    d.text(left - 16, 354, "reads", size=13, color=SOFT, anchor="start")
    for first, last, name in ((0, 1, "token embeddings"), (2, 5, "project_up"), (6, 10, "token embeddings")):
        fill, line = (ORANGE_FILL, ORANGE) if name == "project_up" else (BLUE_FILL, BLUE)
        d.module(
            column(first) - 4,
            436,
            column(last) + chip_width - column(first) + 8,
            42,
            name,
            fill=fill,
            line=line,
            size=14,
        )
    for index in range(len(inputs)):
        d.arrow((middle(index), 436), (middle(index), 401))

    centre = (middle(2) + middle(5)) / 2
    d.module(centre - 145, 510, 290, 54, "average pooling", "32 × 32 patches → 64 embeddings (256 in Chat)",
             fill=ORANGE_FILL, line=ORANGE)  # fmt: skip
    d.arrow((centre, 510), (centre, 479))
    d.module(centre - 145, 594, 290, 58, "EVA-02-CLIP vision tower", "64 blocks of width 1792; 448-pixel pictures",
             fill=ORANGE_FILL, line=ORANGE)  # fmt: skip
    d.arrow((centre, 594), (centre, 565))
    d.picture(centre - 29, 674, 58)
    d.arrow((centre, 674), (centre, 653))
    d.text(centre - 42, 708, "a picture or a video frame", size=13, color=SOFT, anchor="end")

    # training targets: the same embeddings the tower made
    x = column(6) + 8
    d.text(x, 532, "What is learned", bold=True, size=14, anchor="start")
    for row, (fill, line, words) in enumerate(
        (
            (BLUE_FILL, BLUE, "text: cross entropy against the next token, [IMG] included"),
            (ORANGE_FILL, ORANGE, "picture: mean squared error against the next pooled embedding"),
        )
    ):
        y = 548 + 30 * row
        d.box(x, y, 30, 18, radius=9, fill=fill, line=line)
        d.text(x + 42, y + 14, words, size=13, anchor="start")
    d.text(x, 628, "What is written", bold=True, size=14, anchor="start")
    for row, words in enumerate(
        (
            "After [IMG], each predicted embedding is fed back through project_up",
            "until there are 64; then [/IMG] is placed and the text goes on.",
        )
    ):
        d.text(x, 652 + 20 * row, words, size=13, anchor="start")

    # from embeddings to pixels
    panel = 884
    d.arrow((column(1), 92), (column(1), 86), (column(4) + chip_width, 86), (column(4) + chip_width, 92), tip=False)
    d.arrow(((middle(1) + middle(4)) / 2, 86), ((middle(1) + middle(4)) / 2, 36), (panel + 128, 36), (panel + 128, 62))
    d.text((middle(1) + middle(4)) / 2 + 12, 54, "64 embeddings of width 1792", size=13, color=SOFT, anchor="start")
    d.module(panel, 62, 256, 76, "image decoder", "diffusion: SDXL's U-Net and VAE,",
             "with the embeddings in place of text", fill=GREEN_FILL, line=GREEN)  # fmt: skip
    d.arrow((panel + 128, 138), (panel + 128, 160))
    d.picture(panel + 86, 160, 84)
    d.arrow((panel + 262, 36), (panel + 276, 36), (panel + 276, 318), (panel + 257, 318))
    d.arrow((panel + 128, 36), (panel + 264, 36), tip=False)
    d.module(panel, 280, 256, 76, "video decoder", "the same over time: SD 2.1's U-Net in 3D",
             "(weights were never published)", fill=GREEN_FILL, line=GREEN)  # fmt: skip
    d.arrow((panel + 128, 356), (panel + 128, 378))
    for frame in range(4):
        d.picture(panel + 4 + 64 * frame, 378, 56, shift=frame / 3)
    d.write(file)


#: Part -> (floor, what it is). Floors are held by tests/unit/test_project_structure.py.
PARTS = {
    "cli": (6, "the command emu2"),
    "recipes": (5, "named runs, the demo"),
    "evaluate": (4, "few-shot harness, metrics"),
    "serve": (4, "server and page"),
    "inference": (3, "load; complete, chat, draw, film"),
    "train": (3, "one loop, an objective per stage"),
    "convert": (3, "published checkpoints ↔ ours"),
    "world": (3, "the emoji world, a data set"),
    "decoder": (2, "embeddings → pictures, clips"),
    "data": (2, "records → sequences → batches"),
    "model": (1, "tower, bridge, language model"),
    "processing": (1, "tokeniser, pictures, prompts"),
    "tokens": (0, "special tokens, slot grammar"),
    "configuration": (0, "Emu2Config, Emu2VisionConfig"),
    "presets": (0, "named sizes"),
}
FLOOR_NAMES = {
    6: "command line",
    5: "whole runs",
    4: "judge and serve",
    3: "use and make",
    2: "pixels and batches",
    1: "network | prompts",
    0: "ground",
}


def imported_parts(part: str) -> list[str]:
    """The parts that a part imports, read off its source; [] where the part does not exist."""
    folder = ROOT / "src" / "emu2" / part
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    found = set()
    for file in (file for file in files if file.exists()):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "emu2":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found |= {name.split(".")[1] for name in names if name.startswith("emu2.")}
    return [name for name in PARTS if name in found and name != part]


def draw_package(file: Path) -> None:
    """The parts on their floors; each names the parts it stands on."""
    exists = {p for p in PARTS if (ROOT / "src" / "emu2" / p).is_dir() or (ROOT / "src" / "emu2" / f"{p}.py").exists()}
    floors = {floor: [p for p, (f, _) in PARTS.items() if f == floor and p in exists] for floor in FLOOR_NAMES}
    floors = {floor: parts for floor, parts in floors.items() if parts}
    width, row, label, gap = 1180, 96, 150, 14
    d = Drawing(width, 58 + row * len(floors), "The package: parts on their floors, importing downwards only")
    d.text(24, 32, "A part imports from the floors below it.", size=14, color=SOFT, anchor="start")
    d.text(width - 24, 32, "small print: what it imports, read off the source", size=13, color=SOFT, anchor="end")
    colors = {6: BLUE, 5: BLUE, 4: BLUE, 3: GREEN, 2: GREEN, 1: ORANGE, 0: GREY}
    fills = {BLUE: BLUE_FILL, GREEN: GREEN_FILL, ORANGE: ORANGE_FILL, GREY: GREY_FILL}
    for number, (floor, parts) in enumerate(sorted(floors.items(), reverse=True)):
        y = 48 + row * number
        d.text(40, y + 47, str(floor), size=22, color=GREY, bold=True)
        d.text(60, y + 46, FLOOR_NAMES[floor], size=12, color=SOFT, anchor="start")
        each = (width - label - 44 - gap * (len(parts) - 1)) / len(parts)
        for place, part in enumerate(parts):
            x = label + 30 + (each + gap) * place
            middle = x + each / 2
            d.box(x, y, each, row - 16, fill=fills[colors[floor]], line=colors[floor])
            below = " · ".join(name for name in imported_parts(part) if PARTS[name][0] > 0)
            top = y + (24 if below else 34)
            d.text(middle, top, part, bold=True, size=16, mono=True)
            d.text(middle, top + 20, PARTS[part][1], size=12.5)
            d.text(middle, top + 41, below, size=min(11.5, 1.6 * each / max(1, len(below))), color=SOFT)
    d.write(file)


FIGURES = {"model.svg": draw_model, "package.svg": draw_package}


def main(folder: Path = FOLDER) -> None:
    for name, draw in FIGURES.items():
        draw(folder / name)
        print(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
