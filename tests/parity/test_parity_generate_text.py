"""Text decoding against the published code: ids and text exactly, scores and prompt embeddings within tolerance.

Everything goes the way a user's prompt goes: mixed lists and messages through `Emu2Processor` with LLaMA's tokeniser,
weights through `emu2.convert.load_native`, decoding through `generate_published`. Only the pictures are the recorded
pixels, so that the version of Pillow does not matter.
"""

import json
import os
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers_parity import MODELS, assert_within, load_parity_model, normalise_u8
from PIL import Image

from emu2 import Emu2ImageProcessor, Emu2Processor, Video
from emu2.inference.face import Emu2
from emu2.inference.published_decoding import generate_published
from emu2.processing.tokenizer import build_tokenizer

EMBEDS = (2e-4, 3e-6)
SCORES = (2e-3, 1e-5)
NUM_CASES = 61

# Cases are listed at collection, so that each is a test of its own; without the folder the list is empty and one test
# says why.
_FILE = Path(os.environ.get("EMU2_SHARED", Path(__file__).parents[3] / "shared")) / "parity/open/generate_text.json"
CASES = json.loads(_FILE.read_text())["cases"] if _FILE.exists() else []


def test_recorded_cases_are_there(parity_dir):
    assert len(CASES) == NUM_CASES


@pytest.fixture(scope="module")
def model_of(parity_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    return lambda name: load_parity_model(parity_dir, name, folder)


@pytest.fixture(scope="module")
def processor_of(shared_dir):
    @cache
    def make(name: str) -> Emu2Processor:
        image_size, num_query, num_video_query, _, variant = MODELS[name]
        tokenizer = build_tokenizer(shared_dir / "tokenizer", chat=variant == "chat")
        return Emu2Processor(
            Emu2ImageProcessor(size=image_size), tokenizer, num_query=num_query, num_video_query=num_video_query
        )

    return make


@pytest.fixture(scope="module")
def pixels_of(load_parity):
    """pixels_of(model, files): the recorded pixels of pictures, float32[N, 3, S, S], or None for none."""
    small, _ = load_parity("preprocess")
    large, _ = load_parity("preprocess_448")

    def one(model: str, file: str) -> torch.Tensor:
        name = Path(file).stem
        return small[f"{name}.s224"] if model == "base224" else normalise_u8(large[f"{name}.s448.resized_u8"])

    return lambda model, files: torch.stack([one(model, file) for file in files]) if files else None


@pytest.fixture(scope="module")
def inputs_of(parity_dir, processor_of, pixels_of):
    """inputs_of(case): what the model takes, from the case's prompts or messages."""

    def make(case: dict) -> dict[str, torch.Tensor]:
        processor = processor_of(case["model"])
        if "messages" in case:
            messages, stills, frames = _messages(case["messages"], parity_dir)
            features = processor.apply_chat_template(
                messages, tokenize=True, grounding=case["is_grounding"], add_generation_prompt=True
            )
        elif "inputs" in case:
            parts = [_picture(parity_dir, part["png"]) if "png" in part else part["text"] for part in case["inputs"]]
            stills, frames = [part["png"] for part in case["inputs"] if "png" in part], []
            features = processor([parts])
        else:
            stills, frames = case["images"] or [], case["frames"] or []
            features = processor(_prompts(case, parity_dir), padding=True)
        inputs = {"input_ids": features["input_ids"], "attention_mask": features["attention_mask"]}
        for name, files in (("pixel_values", stills), ("video_pixel_values", frames)):
            assert (name in features) == bool(files)
            if files:
                inputs[name] = pixels_of(case["model"], files)
                assert features[name].shape == inputs[name].shape
        return inputs

    return make


def _picture(folder: Path, file: str) -> Image.Image:
    return Image.open(folder / file)


def _prompts(case: dict, folder: Path) -> list[list]:
    """The recorded prompts, placeholders and all, as mixed lists."""
    stills = iter(case["images"] or [])
    frames = [_picture(folder, file) for file in case["frames"] or []]
    prompts = []
    for prompt in case["prompts"]:
        parts = []
        for piece in re.split(r"(\[<IMG_PLH>\]|\[VIDEO\](?:\[<VID_PLH>\])+)", prompt):
            if piece == "[<IMG_PLH>]":
                parts.append(_picture(folder, next(stills)))
            elif piece.startswith("[VIDEO]"):
                parts.append(Video(frames))
            elif piece:
                parts.append(piece)
        prompts.append(parts)
    return prompts


def _messages(turns: list[list[dict]], folder: Path) -> tuple[list[dict], list[str], list[str]]:
    """The recorded messages as typed content parts, and the files of stills and of frames in reading order."""
    messages, stills, frames = [], [], []
    for index, turn in enumerate(turns):
        content, clip = [], None
        for part in turn:
            if part.get("text") == "[VIDEO]":
                clip = []
            elif part.get("text") == "[/VIDEO]":
                content.append({"type": "video", "video": Video(clip)})
                clip = None
            elif "text" in part:
                content.append({"type": "text", "text": part["text"]})
            elif clip is not None:
                clip.append(_picture(folder, part["png"]))
                frames.append(part["png"])
            else:
                content.append({"type": "image", "image": _picture(folder, part["png"])})
                stills.append(part["png"])
        messages.append({"role": ("user", "assistant")[index % 2], "content": content})
    return messages, stills, frames


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=[f"{case['name']}.{case['mode']}" for case in CASES])
def test_generate_text(case, model_of, processor_of, inputs_of, load_parity):
    recorded, _ = load_parity("generate_text")
    model, processor = model_of(case["model"]), processor_of(case["model"])
    inputs = inputs_of(case)
    embeds = model.embed_inputs(inputs["input_ids"], inputs.get("pixel_values"), inputs.get("video_pixel_values"))
    if f"{case['name']}.inputs_embeds" in recorded:
        mask = recorded[f"{case['name']}.attention_mask"]
        assert torch.equal(inputs["attention_mask"], mask)
        want = recorded[f"{case['name']}.inputs_embeds"]
        assert_within(embeds[mask.bool()], want[mask.bool()], *EMBEDS, what="inputs_embeds")

    out = generate_published(
        model, inputs_embeds=embeds, attention_mask=inputs["attention_mask"], **_published_arguments(case["args"])
    )
    assert out.sequences.tolist() == case["ids"]
    skip = case.get("skip_special_tokens", True)
    assert processor.batch_decode(out.sequences, skip_special_tokens=skip) == case["text"]
    if f"{case['key']}.sequence_scores" in recorded:
        want = recorded[f"{case['key']}.sequence_scores"]
        assert_within(out.sequences_scores, want, *SCORES, what="sequence_scores")
    else:
        assert out.sequences_scores is None


def _published_arguments(args: dict) -> dict:
    """The defaults of the published code are ours, so what a case leaves out is left out here."""
    assert set(args) <= {"num_beams", "max_new_tokens", "length_penalty", "repetition_penalty"}
    return args


def test_published_is_a_choice_of_the_friendly_face(model_of, processor_of, parity_dir):
    """`complete(decoding="published")` answers the recorded text prompts with the recorded texts."""
    emu2 = Emu2(model_of("base224"), processor_of("base224"))
    cases = [case for case in CASES if case["name"] in ("text", "eos_first")]
    assert len(cases) == 12
    for case in cases:
        assert emu2.complete(case["prompts"][0], decoding="published", **case["args"]) == case["text"][0], case["key"]


def test_published_chat_is_a_choice_of_the_friendly_face(model_of, processor_of):
    """`chat(decoding="published")` answers the recorded question with the recorded texts."""
    emu2 = Emu2(model_of("chat448"), processor_of("chat448"))
    cases = [case for case in CASES if case["name"] == "chat_text"]
    assert cases
    for case in cases:
        question = case["messages"][0][0]["text"]
        assert emu2.chat(question, decoding="published", **case["args"]) == case["text"][0], case["key"]
