"""Our own tokeniser, escaping, spans, saving, and the refusal of tokenisers that are not Emu2's."""

import json
import pickle

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from emu2 import presets, tokens
from emu2.processing.tokenizer import (
    Emu2Tokenizer,
    _is_chat,
    build_tokenizer,
    check_tokenizer,
    load_tokenizer,
    train_tokenizer,
)

TEXTS = ["a red fox and two dogs", "three cats on a red mat", "how many dogs are there?", "the number is 42."] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 330)


def test_ids_of_own_tokenizer(tokenizer):
    first = tokenizer.convert_tokens_to_ids(tokens.PAD)
    assert [tokenizer.convert_tokens_to_ids(token) for token in ("<unk>", "<s>", "</s>")] == [0, 1, 2]
    assert tokenizer.vocab_size == first <= 330
    expected = {token: first + i for i, token in enumerate(tokens.special_tokens(chat=True))}
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in expected} == expected
    assert len(tokenizer) == first + len(expected)
    assert tokens.USER not in train_tokenizer(TEXTS, 300, chat=False).get_vocab()


def test_training_is_deterministic(tokenizer):
    assert train_tokenizer(iter(TEXTS), 330).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  spaces ",
        "naïve ▁under_score",
        "🦊👨‍👩‍👧 東京\n\ttab\r\n",
        "\x00\x1c\x7f\u2028 end\xa0",
        "x" * 300,
    ],
)
def test_any_text_round_trips(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    parts, _ = tokenizer.encode_parts([text])
    assert parts == ids[1:]


def test_digits_stand_alone(tokenizer):
    many = train_tokenizer(["42 1984 2024 10 100 42 42"] * 50, 400)
    for one in (tokenizer, many):
        assert one.tokenize("1984 42")[-7:] == ["1", "9", "8", "4", "Ġ", "4", "2"]


def test_vocabulary_too_small():
    with pytest.raises(ValueError, match="vocab_size=100 is too small: 3 markers and 256 bytes need 259"):
        train_tokenizer(TEXTS, 100)


def test_white_space_beside_special_tokens(tokenizer):
    """Removed on both sides, control characters 1c to 1f included; kept beside `<unk>`."""
    plain = tokenizer("a[IMG]cat</s>[USER]: hi")["input_ids"]
    for text in ("a [IMG]\n\t cat </s> [USER] : hi", "a\x1c[IMG]\x1f\x1dcat\x1e</s>\x1c[USER]\x1c: hi"):
        assert tokenizer(text)["input_ids"] == plain
        assert tokenizer([text, "x"])["input_ids"][0] == plain
        assert tokenizer.encode_parts([text], escape=())[0] == plain[1:]
    assert tokenizer("a <unk> b")["input_ids"] != tokenizer("a<unk>b")["input_ids"]


def test_left_padding(tokenizer):
    batch = tokenizer(["a", "a red fox"], padding=True)
    pad = tokenizer.convert_tokens_to_ids(tokens.PAD)
    assert batch["input_ids"][0][0] == pad
    assert batch["attention_mask"][0][0] == 0
    assert batch["attention_mask"][0][-1] == 1


def test_escaped_slots_are_ordinary_text(tokenizer):
    text = "what does <image> mean, or [IMG] [/IMG][gIMG]?"
    ids, _ = tokenizer.encode_parts([text])
    assert not {tokenizer.convert_tokens_to_ids(token) for token in tokens.SLOT_TOKENS} & set(ids)
    assert tokenizer.decode(ids) == text
    special, _ = tokenizer.encode_parts([text], escape=())
    assert tokenizer.convert_tokens_to_ids("<image>") in special
    # markup that is no slot stays special beside escaped slots
    ids, _ = tokenizer.encode_parts(["<phrase>a <image></phrase>"])
    assert ids[0] == tokenizer.convert_tokens_to_ids("<phrase>")
    assert tokenizer.decode(ids) == "<phrase> a <image> </phrase>"


def test_spans_of_parts(tokenizer):
    image = [tokenizer.convert_tokens_to_ids(token) for token in ("[IMG]", "<image>", "[/IMG]")]
    parts = ["how many ", "dogs?", image, " ", image, "", " two"]
    ids, spans = tokenizer.encode_parts(parts)
    joined = tokenizer("how many dogs?[IMG]<image>[/IMG] [IMG]<image>[/IMG] two")["input_ids"][1:]
    assert ids == joined
    assert [ids[start:end] for start, end in (spans[2], spans[4])] == [image, image]
    assert spans[3][0] == spans[3][1]  # white space between pictures leaves nothing
    assert spans[5][0] == spans[5][1]
    assert [spans[0][0], spans[-1][1]] == [0, len(ids)]
    texts = [tokenizer.decode(ids[start:end]) for start, end in spans]
    assert (texts[0].strip(), texts[1].strip(), texts[-1].strip()) == ("how many", "dogs?", "two")


def test_a_token_over_two_texts_belongs_to_the_later(tokenizer):
    ids, spans = tokenizer.encode_parts(["answer:", " dogs"])
    assert tokenizer.convert_ids_to_tokens(ids)[spans[1][0]] == "Ġdogs"
    ids, spans = tokenizer.encode_parts(["answer: ", "dogs"])
    assert tokenizer.convert_ids_to_tokens(ids)[spans[1][0]] == "Ġdogs"
    assert spans[0][1] == spans[1][0]


def test_decode_with_special_tokens(tokenizer):
    """Added tokens stand alone, joined by single spaces; inside a run the space comes before the text."""
    ids = tokenizer("a red fox[IMG]<image>[/IMG]two dogs</s>")["input_ids"]
    assert tokenizer.decode(ids) == "<s>a red fox [IMG] <image> [/IMG]  two dogs</s>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a red fox two dogs"
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode(ids[1]) == tokenizer.decode([ids[1]])
    assert tokenizer.decode([10**6]) == ""  # ids of rows beyond the vocabulary are left out


def test_save_and_reload(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    text = "a red [IMG] fox </s>\n[USER]: 42 <unk> x"
    for load in (load_tokenizer, Emu2Tokenizer.from_pretrained, AutoTokenizer.from_pretrained):
        reloaded = load(tmp_path)
        assert type(reloaded) is Emu2Tokenizer
        assert reloaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert reloaded.decode(reloaded(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])
        assert reloaded.padding_side == "left"
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]
    # where this package is not imported the class is unknown: AutoTokenizer must not make it a LlamaTokenizer
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "NotImported"}))
    fallback = AutoTokenizer.from_pretrained(tmp_path)
    assert type(fallback).__name__ in ("PreTrainedTokenizerFast", "TokenizersBackend")
    assert fallback(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert fallback.decode(fallback(text)["input_ids"], skip_special_tokens=True).split() == [
        "a",
        "red",
        "fox",
        ":",
        "42",
        "x",
    ]


def test_pickle(tokenizer):
    """Data loader workers get a copy."""
    tokenizer.encode_parts(["fills the caches"])
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode_parts(["a [IMG] b"]) == tokenizer.encode_parts(["a [IMG] b"])


def test_fits_its_model(tokenizer):
    config = presets.debug(vocab_size=len(tokenizer), first_special_id=tokenizer.convert_tokens_to_ids(tokens.PAD))
    check_tokenizer(tokenizer, config)


def test_wrong_ids_are_refused(tokenizer, tiny_config):
    """`tiny_config` has its special tokens from id 100 on and 400 rows."""
    with pytest.raises(ValueError, match=r"<image> has id \d+ but the model's image_token_id is 103") as error:
        check_tokenizer(tokenizer, tiny_config)
    assert "tokens but the model 400 rows; without a row: " in str(error.value)


def saved_without(tokenizer, folder, change):
    tokenizer.save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = change(content["added_tokens"])
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_incomplete_tokenizer_is_refused(tokenizer, tmp_path):
    def without(added):
        return [token for token in added if token["content"] not in ("[EOC]", "<REC>")]

    with pytest.raises(ValueError, match=r"is not Emu2's. .*it lacks the special tokens \[EOC\], <REC>"):
        load_tokenizer(saved_without(tokenizer, tmp_path, without))


def test_tokenizer_that_keeps_white_space_is_refused(tokenizer, tmp_path):
    def unstripped(added):
        return [token | {"lstrip": False, "rstrip": False} for token in added]

    with pytest.raises(ValueError, match="text beside a special token must get the ids it has on its own"):
        load_tokenizer(saved_without(tokenizer, tmp_path, unstripped))


def test_padding_side_and_bos_are_checked(tokenizer):
    wrong = pickle.loads(pickle.dumps(tokenizer))
    wrong.padding_side = "right"
    wrong.add_bos_token = False
    with pytest.raises(ValueError, match="padding_side is 'right', must be 'left'") as error:
        check_tokenizer(wrong)
    assert "must start with BOS (<s>)" in str(error.value)


def test_folders_without_a_tokenizer(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"holds no tokeniser: expected tokenizer.json or tokenizer.model"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"holds no tokeniser"):
        build_tokenizer(tmp_path, chat=True)
    with pytest.raises(ValueError, match="No tokeniser file"):
        build_tokenizer(tmp_path / "tokenizer.json", chat=True)
    saved_without(tokenizer, tmp_path, lambda added: added[:3])
    with pytest.raises(ValueError, match=r"\(Emu2Tokenizer\) lacks Emu2's special tokens: none of \[PAD\], \[IMG\]"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"has a text vocabulary of .* LLaMA's has 32000"):
        build_tokenizer(tmp_path, chat=True)


def test_broken_files_are_refused(tmp_path):
    for name, message in (
        ("tokenizer.json", "is not the JSON of a tokeniser"),
        ("tokenizer.model", "not a sentencepiece"),
    ):
        (tmp_path / name).write_bytes(b"\x0a\xff\xff\xff\xff\x07broken")
        with pytest.raises(ValueError, match=message):
            build_tokenizer(tmp_path / name, chat=False)
    with pytest.raises(ValueError, match="is not readable JSON"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x03\x0a\x01a")
    with pytest.raises(ValueError, match="holds 1 pieces starting with"):
        build_tokenizer(tmp_path / "tokenizer.model", chat=False)


def test_which_vocabulary_a_published_folder_has(tmp_path):
    assert _is_chat(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": tokens.BASE_VOCAB_SIZE}))
    assert not _is_chat(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[USER]": 32272}))
    assert _is_chat(tmp_path)
