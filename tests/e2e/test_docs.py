"""The documentation runs: Python and bash blocks of each page, in order, in a folder with a small untrained model.

A block that starts with `# not run: reason` needs what a test lacks; `console` blocks show set-up and long runs.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from emu2.processing.tokenizer import train_tokenizer
from emu2.recipes.start import fresh_whole

ROOT = Path(__file__).parents[2]
#: Pages whose blocks need parts of their own run in these tests.
TESTED_ELSEWHERE = {
    "docs/data.md": "tests/unit/test_readers_docs.py",
    "docs/decoder.md": "tests/unit/test_decoder_docs.py",
    "docs/decoding.md": "tests/unit/test_inference_docs.py",
    "docs/evaluate.md": "tests/unit/test_evaluate_docs.py",
    "docs/prompts.md": "tests/unit/test_processing_docs.py",
    "docs/tune.md": "tests/e2e/test_tune_docs.py",
    "docs/use.md": "tests/unit/test_inference_docs.py",
}
PAGES = [str(file.relative_to(ROOT)) for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[int, str, str]]:
    """(line, language, code) of every block to run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [(text.count("\n", 0, m.start()) + 2, m[1], m[2]) for m in BLOCK.finditer(text)]
    return [(line, language, code) for line, language, code in found if not code.startswith("# not run: ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder as a reader has it after the training demo: train-demo/model and a picture."""
    folder = tmp_path_factory.mktemp("docs")
    tokenizer = train_tokenizer(["a red apple on blue", "what is this? two dogs"] * 4, vocab_size=280, chat=True)
    fresh_whole("debug", tokenizer).save(folder / "train-demo" / "model")
    picture = Image.new("RGB", (64, 48), "skyblue")
    ImageDraw.Draw(picture).ellipse((20, 10, 44, 34), fill="red")
    picture.save(folder / "picture.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in TESTED_ELSEWHERE and blocks(page)])
def test_blocks_run(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    beside_python = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{beside_python}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    names: dict = {"__name__": "__main__"}
    for line, language, code in blocks(page):
        if language == "python":
            # Line numbers in a traceback are those of the page.
            exec(compile("\n" * (line - 1) + code, str(ROOT / page), "exec"), names)
        else:
            command = ["bash", "-euo", "pipefail", "-c", code]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{page}, line {line}:\n{done.stdout}{done.stderr}"


@pytest.mark.slow
def test_few_shot_example_runs(workplace):
    command = [sys.executable, str(ROOT / "examples" / "few_shot.py"), str(workplace / "train-demo" / "model")]
    done = subprocess.run([*command, "--questions", "2", "--shots", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(" of 2 right")


@pytest.mark.parametrize("page", TESTED_ELSEWHERE)
def test_pages_tested_elsewhere_are(page):
    assert Path(page).name in (ROOT / TESTED_ELSEWHERE[page]).read_text(encoding="utf-8")


def test_links_lead_somewhere():
    broken = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not ((ROOT / page).parent / target).exists():
                broken.append(f"{page}: {target}")
    assert not broken, "\n".join(broken)


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [page for page in PAGES if page != "docs/index.md" and f"({Path(page).name})" not in index
               and f"(../{page})" not in index]  # fmt: skip
    assert not missing


def test_figures_are_those_the_command_draws(tmp_path):
    subprocess.run([sys.executable, str(ROOT / "docs" / "figures.py"), str(tmp_path)], check=True, capture_output=True)
    stale = [
        drawn.name
        for drawn in tmp_path.iterdir()
        if drawn.read_text() != (ROOT / "docs/figures" / drawn.name).read_text()
    ]
    assert not stale, f"run `make figures`: {stale} are out of date"
