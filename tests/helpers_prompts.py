"""The prompts of every kind of record, as the model reads them, for the snapshot in tests/golden/prompts.json.

python tests/helpers_prompts.py          # writes it anew: only when a prompt is meant to change
"""

import json
import re
from dataclasses import replace
from pathlib import Path

from PIL import Image

from emu2 import tokens
from emu2.data.records import Record
from emu2.processing.processor import Emu2Processor
from emu2.processing.prompts import chat_parts
from emu2.processing.tokenizer import train_tokenizer
from emu2.recipes.fresh import fresh_whole
from emu2.world import KINDS, World, WorldConfig
from emu2.world.chat import QUESTIONS

FILE = Path(__file__).parent / "golden" / "prompts.json"
CONFIG = WorldConfig(
    image_size=96, split="seen", seed=5, concepts=32, style="simple", shots=(2,), max_pages=3, frames=(4,)
)


def names() -> list[str]:
    """Kinds of records, and kinds of questions: `chat/clock`."""
    return [*(kind for kind in KINDS if kind != "chat"), *(f"chat/{question}" for question in QUESTIONS)]


def first_record(name: str) -> Record:
    """The first there is: of a few combinations of things the split "seen" has no scene."""
    kind, _, question = name.partition("/")
    world = World(replace(CONFIG, questions=(question,)) if question else CONFIG)
    for index in range(50):
        try:
            return world[kind, index]
        except ValueError:
            continue
    raise AssertionError(f"no record of the kind {name!r}")


def prompt_ids(processor: Emu2Processor, record: Record, *, grounding: bool) -> list[int]:
    """What the model reads when it is asked for a record's answer; of a record without one, all of it."""
    if record.turns is not None:
        messages = [{"role": role, "content": list(content)} for role, content in record.turns[:-1]]
        parts = chat_parts(messages, template=processor.chat_template, grounding=grounding)
        return processor.encode([part.content for part in parts]).input_ids
    if record.answer_from is None:
        return processor.encode(list(record.segments)).input_ids
    draws = isinstance(record.segments[record.answer_from], Image.Image)
    return processor.encode(list(record.prompt), draw=draws).input_ids


def prompts(processor: Emu2Processor) -> dict[str, str]:
    """Name -> its prompt in words, a run of one slot token as its length."""
    slots = "|".join(re.escape(token) for token in (tokens.IMAGE_SLOT, tokens.FRAME_SLOT))
    shown = {}
    for name in names():
        text = processor.tokenizer.decode(prompt_ids(processor, first_record(name), grounding=name == "chat/referring"))
        shown[name] = re.sub(rf"(?:({slots})\s*)+", lambda run: f"{run[1]}*{run[0].count(run[1])}", text)
    return shown


def processor() -> Emu2Processor:
    """Nano's, with a tokeniser of few merges: its words are cut otherwise, and read the same."""
    words = ["a dog at the top left on a red background", "what is this? two cats"]
    return fresh_whole("nano", train_tokenizer(words * 4, 300, chat=True)).processor


if __name__ == "__main__":
    FILE.write_text(json.dumps(prompts(processor()), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
