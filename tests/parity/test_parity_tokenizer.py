"""Ids, masks, decoded strings and prompts of the published tokeniser, exactly; and a fuzz against sentencepiece."""

import json
import random
import re

import pytest
from PIL import Image

from emu2 import Emu2ImageProcessor, Emu2Processor, tokens
from emu2.processing.tokenizer import build_tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizers(shared_dir):
    """The published tokenisers, "base" and "chat", built from the published files."""
    file = shared_dir / "tokenizer" / "tokenizer.json"
    return {"base": build_tokenizer(file, chat=False), "chat": build_tokenizer(file, chat=True)}


@pytest.fixture(scope="module")
def recorded(load_parity):
    return load_parity("tokenizer_cases")[1]


def cases(recorded, kind):
    found = [case for case in recorded["cases"] if case["kind"] == kind]
    assert found
    return found


def expand(text, num_query, num_video_query):
    text = text.replace("[<IMG_PLH>]", tokens.image_slots(num_query))
    return text.replace("[<VID_PLH>]", tokens.frame_slots(num_video_query))


def check_decoded(tokenizer, recorded):
    assert tokenizer.decode(recorded["ids"]) == recorded["decoded"]
    assert tokenizer.decode(recorded["ids"], skip_special_tokens=True) == recorded["decoded_skip_special"]


def test_special_token_ids_and_sizes(tokenizers, recorded):
    for name, ids in recorded["special_token_ids"].items():
        for token, index in ids.items():
            assert tokenizers[name].convert_tokens_to_ids(token) == index
    assert {name: len(tokenizer) for name, tokenizer in tokenizers.items()} == recorded["vocab_size"]


@pytest.mark.parametrize("name", ["base", "chat"])
def test_plain(tokenizers, recorded, name):
    tokenizer = tokenizers[name]
    for case in cases(recorded, "plain"):
        text = expand(case["text"], case[f"n_query_{name}"], case[f"v_query_{name}"])
        assert tokenizer(text)["input_ids"] == case[name]["ids"], case["name"]
        assert [tokenizer.bos_token_id, *tokenizer.encode_parts([text], escape=())[0]] == case[name]["ids"], case[
            "name"
        ]
        check_decoded(tokenizer, case[name])


def test_padded_batch(tokenizers, recorded):
    for case in cases(recorded, "padded_batch"):
        texts = [expand(text, case["n_query"], 64) for text in case["texts"]]
        batch = tokenizers[case["tokenizer"]](texts, padding=True)
        assert batch["input_ids"] == case["ids"], case["name"]
        assert batch["attention_mask"] == case["attention_mask"], case["name"]


def test_decode(tokenizers, recorded):
    for case in cases(recorded, "decode"):
        check_decoded(tokenizers[case["tokenizer"]], case)


def test_chat(tokenizers, recorded, parity_dir):
    """Messages -> prompt string, ids, pictures and frames, through the processor a user calls."""
    for case in cases(recorded, "chat"):
        processor = Emu2Processor(Emu2ImageProcessor(14), tokenizers["chat"], case["n_query"], case["v_query"])
        messages = [
            {
                "role": ("user", "assistant")[turn % 2],
                "content": [
                    {"type": "image", "image": str(parity_dir / part["png"])}
                    if "png" in part
                    else {"type": "text", "text": part["text"]}
                    for part in message
                ],
            }
            for turn, message in enumerate(case["messages"])
        ]
        grounding = case["is_grounding"]
        prompt = processor.apply_chat_template(messages, tokenize=False, grounding=grounding)
        assert prompt == case["prompt"], case["name"]
        inputs = processor.apply_chat_template(messages, grounding=grounding)
        assert inputs["input_ids"].tolist() == [case["chat"]["ids"]], case["name"]
        assert len(inputs.get("pixel_values", ())) == case["n_images"]
        assert len(inputs.get("video_pixel_values", ())) == case["n_frames"]
        check_decoded(tokenizers["chat"], case["chat"])


def test_processor_writes_the_recorded_ids(tokenizers, recorded):
    """Pictures in a mixed list become the ids recorded for placeholders, with and without `[IMG]` at the end."""
    processor = Emu2Processor(Emu2ImageProcessor(14), tokenizers["base"])
    picture = Image.new("RGB", (5, 5))
    by_name = {case["name"]: case for case in cases(recorded, "plain")}
    for name in ("image_1", "image_fewshot", "image_spaced", "image_adjacent", "grounding", "grounding_spaced"):
        case = by_name[name]
        pieces = re.split(r"(\[<IMG_PLH>\])", case["text"])
        parts = [picture if piece == "[<IMG_PLH>]" else piece for piece in pieces if piece]
        assert processor([parts])["input_ids"].tolist() == [case["base"]["ids"]], name
    ids = by_name["boi_after_text"]["base"]["ids"]
    for text in ("a watercolour lighthouse", "a watercolour lighthouse \n"):
        assert processor(text, draw=True)["input_ids"].tolist() == [ids]
    assert processor("", draw=True)["input_ids"].tolist() == [[1, 32001]]


# Against sentencepiece itself, split and stripped here independently of the package -----------------------------------

PIECES = [
    "the cat",
    " sat",
    "image",
    "  ",
    "\n\n",
    "[IMG",
    "<image",
    "<s",
    "unk>",
    "▁",
    "  x",
    "12 3.5",
    "東京",
    "🦊👨‍👩‍👧",
    "é\u0301",
]
CHARACTERS = "abc XYZ  \n\t\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2003.,<>[]/IMG0123456789"
SPECIAL = [*tokens.special_tokens(chat=True)[:20], "<s>", "</s>", "<unk>", tokens.USER, tokens.ASSISTANT]


@pytest.fixture(scope="module")
def sentencepiece_model(shared_dir):
    sentencepiece = pytest.importorskip("sentencepiece")
    return sentencepiece.SentencePieceProcessor(str(shared_dir / "tokenizer" / "tokenizer.model"))


def random_text(rng):
    def piece():
        return rng.choice(
            (rng.choice(SPECIAL), rng.choice(PIECES), "".join(rng.choices(CHARACTERS, k=rng.randint(0, 6))))
        )

    return "".join(piece() for _ in range(rng.randint(0, 9)))


def reference_ids(model, text):
    names = sorted([*tokens.special_tokens(chat=True), "<s>", "</s>", "<unk>"], key=len, reverse=True)
    ids = {token: 32000 + i for i, token in enumerate(tokens.special_tokens(chat=True))}
    ids |= {"<unk>": 0, "<s>": 1, "</s>": 2}
    pieces = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
    result = [1]
    for i, piece in enumerate(pieces):
        if i % 2:
            result.append(ids[piece])
            continue
        if i > 0 and pieces[i - 1] != "<unk>":
            piece = piece.lstrip()
        if i + 1 < len(pieces) and pieces[i + 1] != "<unk>":
            piece = piece.rstrip()
        if piece:
            result += model.encode(piece)
    return result


def test_fuzz_encode(tokenizers, sentencepiece_model, shared_dir):
    """600 seeded strings, from tokenizer.json and from tokenizer.model."""
    from_model = build_tokenizer(shared_dir / "tokenizer" / "tokenizer.model", chat=True)
    assert from_model.backend_tokenizer.to_str() == tokenizers["chat"].backend_tokenizer.to_str()
    rng = random.Random(0)
    texts = [random_text(rng) for _ in range(600)]
    assert sum(any(c in text for c in "\x1c\x1d\x1e\x1f") for text in texts) > 50
    for text in texts:
        expected = reference_ids(sentencepiece_model, text)
        assert tokenizers["chat"](text)["input_ids"] == expected, text
        assert [1, *tokenizers["chat"].encode_parts([text], escape=())[0]] == expected, text


def test_fuzz_decode(tokenizers, sentencepiece_model):
    """600 seeded id lists with many lone bytes and runs of spaces; special tokens dropped."""
    rng = random.Random(1)
    for _ in range(600):
        ids = [
            rng.choice((rng.randrange(3, 259), rng.randrange(259, 32000), rng.choice((259, 268, 29871))))
            for _ in range(rng.randint(0, 8))
        ]
        assert tokenizers["chat"].decode([1, *ids, 2], skip_special_tokens=True) == sentencepiece_model.decode(ids), ids


def test_published_folder(shared_dir, tmp_path):
    """LLaMA's files as published (tokenizer_class LlamaTokenizer) give the published ids, not LlamaTokenizer's."""
    loaded = load_tokenizer(shared_dir / "tokenizer", chat=False)
    text = "[IMG]<image>[/IMG]Describe the image in details:"
    assert loaded(text)["input_ids"] == [1, 32001, 32003, 32002, 20355, 915, 278, 1967, 297, 4902, 29901]
    # Emu2-Chat's folder: no tokenizer.json, added_tokens.json names [USER]
    (tmp_path / "tokenizer.model").write_bytes((shared_dir / "tokenizer" / "tokenizer.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[USER]": 32272}))
    chat = load_tokenizer(tmp_path)
    assert chat("</s>[USER]: hi [ASSISTANT]:")["input_ids"] == [1, 2, 32272, 584, 7251, 32273, 584]
    assert len(chat) == 32274


def test_published_folder_makes_a_processor(shared_dir, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((shared_dir / "tokenizer" / name).read_bytes())
    config = {"n_query": 256, "vocab_size": 32274, "vision_config": {"image_size": 448, "v_query": 64}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = Emu2Processor.from_pretrained(tmp_path)
    assert (processor.num_query, processor.num_video_query, len(processor.tokenizer)) == (256, 64, 32274)
    assert processor.image_processor.image_size == 448


def test_published_pipeline_folder_makes_a_processor(shared_dir, tmp_path):
    """Emu2-Gen: tokenizer/ (tokenizer.json with the added tokens in it) and multimodal_encoder/config.json."""
    content = json.loads((shared_dir / "tokenizer" / "tokenizer.json").read_text())
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    for index, token in enumerate(tokens.special_tokens()):
        content["added_tokens"].append({"id": 32000 + index, "content": token, **plain})
    for folder, name, data in (
        ("tokenizer", "tokenizer.json", content),
        ("tokenizer", "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}),
        ("multimodal_encoder", "config.json", {"n_query": 64, "vision_config": {"image_size": 448, "v_query": 64}}),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(json.dumps(data))
    processor = Emu2Processor.from_pretrained(tmp_path)
    assert len(processor.tokenizer) == 32272
    assert processor.tokenizer("a [IMG] cat")["input_ids"] == [1, 263, 32001, 6635]
    content["added_tokens"][-1]["id"] += 1
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="gives <patch_index_0256> the id 32272; Emu2's has 32271 for it"):
        load_tokenizer(tmp_path / "tokenizer")
