"""The README's picture: the first rows of the training demo's page as one sheet.

    make train-demo
    python docs/demo_sheet.py                  # train-demo/index.html -> docs/figures/demo.png

Nothing is chosen: the rows are the page's own, in its order.
"""

import base64
import io
import sys
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROWS = 5
SIDE, GAP, TEXT = 96, 14, 250
#: Section of the page -> heading above its column.
COLUMNS = {
    "captions": "it says what it sees",
    "drawings": "it draws from words",
    "autoencoding": "it draws what it sees",
}
INK, SOFT, GOOD, BAD = "#1d2530", "#5d6b7c", "#1a8f5a", "#c2483d"


class Page(HTMLParser):
    """Cells of every row of every section: text and pictures in order."""

    def __init__(self):
        super().__init__()
        self.rows: dict[str, list[list[list]]] = {}
        self.section = None
        self.in_cell = False

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "section":
            self.section = self.rows.setdefault(values["id"], [])
        elif tag == "tr" and self.section is not None:
            self.section.append([])
        elif tag == "td" and self.section:
            self.section[-1].append([])
            self.in_cell = True
        elif tag == "img" and self.in_cell:
            data = base64.b64decode(values["src"].split("base64,")[1])
            self.section[-1][-1].append(Image.open(io.BytesIO(data)).convert("RGB"))

    def handle_endtag(self, tag):
        if tag == "td":
            self.in_cell = False
        elif tag == "section":
            self.section = None

    def handle_data(self, text):
        if self.in_cell and text.strip():
            self.section[-1][-1].append(text.strip())


def sheet(page: Path) -> Image.Image:
    """Three columns, a row each: what went in, what came out, right or not."""
    parser = Page()
    parser.feed(page.read_text(encoding="utf-8"))
    width = 3 * (SIDE + TEXT) + 4 * GAP
    canvas = Image.new("RGB", (width, 40 + ROWS * (SIDE + GAP)), "white")
    draw, font, small = ImageDraw.Draw(canvas), ImageFont.load_default(15), ImageFont.load_default(13)
    for column, (section, heading) in enumerate(COLUMNS.items()):
        left = GAP + column * (SIDE + TEXT + GAP)
        draw.text((left, 12), heading, fill=INK, font=font)
        rows = [row for row in parser.rows[section] if row][:ROWS]
        for index, (given, got, *_, mark) in enumerate(rows):
            top = 40 + index * (SIDE + GAP)
            right = "✓" in "".join(mark) or "✔" in "".join(mark)
            if section == "captions":
                canvas.paste(given[0].resize((SIDE, SIDE), Image.NEAREST), (left, top))
                _text(draw, small, (left + SIDE + 10, top + 4), got[0], GOOD if right else BAD)
            elif section == "drawings":
                canvas.paste(_picture(got).resize((SIDE, SIDE), Image.NEAREST), (left + TEXT - 10, top))
                _text(draw, small, (left, top + 4), given[0], INK)
            else:
                canvas.paste(_picture(given).resize((SIDE, SIDE), Image.NEAREST), (left, top))
                canvas.paste(_picture(got).resize((SIDE, SIDE), Image.NEAREST), (left + SIDE + 40, top))
                _arrow(draw, left + SIDE + 8, left + SIDE + 32, top + SIDE // 2)
    return canvas


def _picture(cell: list) -> Image.Image:
    return next(item for item in cell if isinstance(item, Image.Image))


def _arrow(draw: ImageDraw.ImageDraw, start: int, end: int, height: int) -> None:
    draw.line((start, height, end, height), fill=SOFT, width=2)
    draw.polygon(((end + 4, height), (end - 4, height - 4), (end - 4, height + 4)), fill=SOFT)


def _text(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, place: tuple[int, int], text: str, fill: str
) -> None:
    """Text over several lines, none wider than its column."""
    lines, line = [], ""
    for word in text.split():
        if line and draw.textlength(f"{line} {word}", font=font) > TEXT - 30:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    draw.multiline_text(place, "\n".join([*lines, line]), fill=fill, font=font, spacing=3)


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("train-demo/index.html")
    target = Path(__file__).parent / "figures" / "demo.png"
    sheet(source).save(target, optimize=True)
