"""The examples of docs/prompts.md run, in order, as written."""

import re
from pathlib import Path


def test_prompts_page():
    page = Path(__file__).parents[2] / "docs" / "prompts.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 8
    namespace: dict = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)
