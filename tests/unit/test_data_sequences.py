"""Sequences and batches: what is learned of a document, and what is not."""

import pytest
import torch
from helpers_train import SIDE, pair, tiny_whole
from PIL import Image

from emu2 import Video, tokens
from emu2.data.arrange import image_first, text_first
from emu2.data.collate import collate
from emu2.data.records import Record
from emu2.data.sequences import IGNORE, SequenceBuilder, first_image, joined_text


@pytest.fixture(scope="module")
def processor():
    return tiny_whole().processor


@pytest.fixture(scope="module")
def builder(processor):
    return SequenceBuilder(processor, max_length=64)


def _tokens(processor, ids) -> list[str]:
    return [processor.tokenizer.convert_ids_to_tokens(i) if i != IGNORE else "-" for i in ids]


def test_captioning_learns_the_text_and_the_end_only(processor, builder):
    sequence = builder.build(image_first(pair(1)), "text")
    read = _tokens(processor, sequence.input_ids)
    assert read[:7] == ["<s>", tokens.IMG, *[tokens.IMAGE_SLOT] * 4, tokens.IMG_END]
    learned = _tokens(processor, sequence.labels)
    assert learned[:7] == ["-"] * 7
    assert sequence.labels[7:] == sequence.input_ids[7:]
    assert learned[-1] == "</s>"


def test_everything_is_learned_but_the_start_and_the_end_of_pictures(processor, builder):
    sequence = builder.build(text_first(pair(1)), "all")
    learned = _tokens(processor, sequence.labels)
    assert learned[0] == "-"
    at = sequence.input_ids.index(processor.tokenizer.convert_tokens_to_ids(tokens.IMG))
    assert at > 1  # the text is first now
    assert learned[at : at + 6] == [tokens.IMG, *[tokens.IMAGE_SLOT] * 4, "-"]
    assert learned[-1] == "</s>"


def test_only_the_answer_is_learned_where_a_record_says_so(processor, builder):
    picture = Image.new("RGB", (SIDE, SIDE))
    record = Record("episode", (picture, "red.", picture, "blue."), "e", answer_from=3)
    sequence = builder.build(record, "text")
    learned = [i for i in sequence.labels if i != IGNORE]
    assert processor.tokenizer.decode(learned, skip_special_tokens=True).strip() == "blue."


def test_clips_are_learned_frame_by_frame(processor, builder):
    clip = Video([Image.new("RGB", (SIDE, SIDE), c) for c in ("red", "blue")])
    sequence = builder.build(text_first(Record("pair", (clip, "red then blue"), "v")), "all")
    frame_id = processor.tokenizer.convert_tokens_to_ids(tokens.FRAME_SLOT)
    assert sequence.labels.count(frame_id) == 8
    assert not sequence.images


def test_a_sequence_too_long_or_without_targets_is_refused(processor):
    short = SequenceBuilder(processor, max_length=10)
    with pytest.raises(ValueError, match=r"'pair-1' takes \d+ tokens, and the longest sequence of this run is 10"):
        short.build(pair(1), "text")


def test_order_of_a_pair():
    assert isinstance(image_first(pair(1)).segments[0], Image.Image)
    assert isinstance(text_first(pair(1)).segments[0], str)
    with pytest.raises(ValueError, match="is no pair of text and picture, nor a document of them: it has 1 segments"):
        image_first(Record("text", ("words",), "t"))


def test_missing_picture_or_text_is_said():
    with pytest.raises(ValueError, match=r"'t' .text. has no picture"):
        first_image(Record("text", ("words",), "t"))
    with pytest.raises(ValueError, match=r"'p' .pair. has no text"):
        joined_text(Record("pair", (Image.new("RGB", (4, 4)), " "), "p"))


def test_batches_are_padded_on_the_right(builder):
    sequences = [builder.build(image_first(pair(i)), "text") for i in (0, 1)]
    lengths = [len(s.input_ids) for s in sequences]
    assert lengths[0] != lengths[1]
    batch = collate(sequences, pad_id=9)
    assert batch["attention_mask"].sum(1).tolist() == lengths
    short = min(lengths)
    row = lengths.index(short)
    assert (batch["input_ids"][row, short:] == 9).all()
    assert (batch["labels"][row, short:] == IGNORE).all()
    assert batch["input_ids"].dtype == torch.int64
    with pytest.raises(ValueError, match="at least one sequence"):
        collate([], 0)
