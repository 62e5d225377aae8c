"""The model card's picture: what emu2-nano gets wrong, the first wrong rows of every section of a larger demo.

python docs/nano_failures.py          # -> docs/figures/nano_failures.png
"""

from dataclasses import replace
from pathlib import Path

import emu2
from emu2.demo.sections import Size, sections, stage
from emu2.demo.sheet import write_sheet
from emu2.evaluate.miniature import examined, variant_folders

FILE = Path(__file__).parent / "figures" / "nano_failures.png"

if __name__ == "__main__":
    size = Size(rows=10, episodes=10, films=4)
    models = examined(variant_folders("nano"), lambda name: emu2.load(name, device="cpu"), batch_size=20, seed=1)
    wrong = []
    for make in sections(stage(models, emu2.load("nano", device="cpu"), size, seed=1)):
        section = make()
        failed = tuple(sample for sample in section.samples if sample.right is False)
        if failed:
            wrong.append(replace(section, samples=failed, curves=()))
    write_sheet(FILE, wrong)
