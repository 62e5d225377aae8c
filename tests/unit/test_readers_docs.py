"""The examples of docs/data.md run, in order, as written; the page names every format with its kinds."""

import re
from pathlib import Path

from emu2.data.readers import FORMATS

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_data_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 12
    names: dict = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    assert list((tmp_path / "cache" / "emu2" / "index").glob("*.npy"))


def test_every_format_is_described():
    page = PAGE.read_text(encoding="utf-8")
    rows = [line.split("|")[1:4:2] for line in page.splitlines() if line.startswith("| [`")]
    described = {name: kinds for names, kinds in rows for name in re.findall(r"`(\w+)`", names)}
    assert set(described) == set(FORMATS)
    for name, kinds in described.items():
        assert set(re.findall(r"`(\w+)`", kinds)) == set(FORMATS[name].kinds), name
    blocks = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert all(f'"format": "{name}"' in blocks for name in FORMATS)
