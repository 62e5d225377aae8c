"""Conversations and texts as sequences: what is learned, what a model will be asked, where they are cut."""

import random

import pytest
from helpers_train import SIDE, tiny_whole
from PIL import Image

from emu2 import Video, tokens
from emu2.data.records import Record
from emu2.data.sequences import IGNORE, SequenceBuilder
from emu2.processing.grounding import Box
from emu2.processing.prompts import chat_parts

PICTURE = Image.new("RGB", (SIDE, SIDE), "red")


@pytest.fixture(scope="module")
def processor():
    return tiny_whole().processor


def _learned(processor, sequence) -> str:
    return processor.tokenizer.decode([label for label in sequence.labels if label != IGNORE]).strip()


def _chat(*turns, key="c") -> Record:
    return Record.conversation("chat", tuple(turns), key)


def test_only_answers_are_learned_each_with_its_end(processor):
    record = _chat(
        ("user", (PICTURE, "left?")), ("assistant", ("red",)), ("user", ("right?",)), ("assistant", ("blue it",))
    )
    sequence = SequenceBuilder(processor, 2048).conversation(record)
    assert _learned(processor, sequence) == "red</s> blue it</s>"
    assert sequence.labels[-1] == processor.tokenizer.eos_token_id
    assert len(sequence.images) == 1
    assert not sequence.frames
    assert sequence.num_visual_targets == 0
    assert sequence.num_text_targets == len([label for label in sequence.labels if label != IGNORE])


@pytest.mark.parametrize(
    "answer",
    [
        "red",
        "<phrase>red</phrase>" + Box((0, 0, 8, 16), None, (SIDE, SIDE)).to_tokens(),
        "<grounding>" + Box((0, 0, 8, 16), "red", (SIDE, SIDE)).to_tokens(),
    ],
)
def test_what_stands_before_an_answer_is_what_a_model_is_asked(processor, answer):
    question = (PICTURE, "where is red?")
    sequence = SequenceBuilder(processor, 2048).conversation(_chat(("user", question), ("assistant", (answer,))))
    first = next(t for t, label in enumerate(sequence.labels) if label != IGNORE)
    asked = processor.apply_chat_template(
        [{"role": "user", "content": list(question)}], grounding=tokens.OBJECT in answer
    )
    assert sequence.input_ids[:first] == asked["input_ids"][0].tolist()
    written = processor.tokenizer.decode(sequence.input_ids[first:])
    assert written.replace(" ", "") == answer.removeprefix(tokens.GROUNDING) + tokens.EOS


def test_a_system_turn_takes_the_place_of_the_wordings_own(processor):
    turns = (("user", ("left?",)), ("assistant", ("red",)))
    builder = SequenceBuilder(processor, 2048)
    own = processor.tokenizer.decode(builder.conversation(_chat(("system", ("it",)), *turns)).input_ids)
    assert own.startswith("<s>it [USER]")
    assert "meticulous responses" in processor.tokenizer.decode(builder.conversation(_chat(*turns)).input_ids)


def test_long_conversations_are_cut_between_pictures(processor):
    clip = Video([PICTURE, PICTURE, PICTURE])
    record = _chat(
        ("system", ("it",)),
        ("user", (PICTURE, "left?")),
        ("assistant", ("red",)),
        ("user", (clip, "right?")),
        ("assistant", ("blue",)),
    )
    whole = SequenceBuilder(processor, 2048).conversation(record)
    video = whole.input_ids.index(processor.tokenizer.convert_tokens_to_ids(tokens.VIDEO))
    # [VIDEO], then frames of [IMG], 4 slots, [/IMG]: a cut inside the second frame leaves one.
    for extra, frames in ((1, 0), (6, 0), (7, 1), (9, 1), (13, 2)):
        cut = SequenceBuilder(processor, video + extra).conversation(record)
        assert (len(cut.images), len(cut.frames)) == (1, frames), extra
        assert cut.input_ids == whole.input_ids[: video + (1 + 6 * frames if frames else 0)]
        assert _learned(processor, cut) == "red</s>"
    answer = next(t for t, label in enumerate(whole.labels) if label != IGNORE)
    with pytest.raises(ValueError, match=f"'c' has nothing to learn.*or none that fits {answer} tokens"):
        SequenceBuilder(processor, answer).conversation(record)


def test_a_record_without_turns_is_no_conversation(processor):
    with pytest.raises(ValueError, match=r"'p' .pair. is no conversation: its source must give its turns"):
        SequenceBuilder(processor, 64).conversation(Record("pair", (PICTURE, "red"), "p"))


def test_long_texts_give_chunks(processor):
    words = " ".join(f"{one} left, {other} right" for one in ("red", "green", "blue") for other in ("white", "black"))
    record = Record("text", (words, "of it"), "t")
    whole = SequenceBuilder(processor, 2048).chunk(record, random.Random(0))
    assert whole.labels == [IGNORE, *whole.input_ids[1:]]
    assert processor.tokenizer.decode(whole.input_ids) == f"<s> {words} of it</s>"
    length = len(whole.input_ids)
    size = length // 3 + 1
    chunks = {tuple(SequenceBuilder(processor, size).chunk(record, random.Random(i)).input_ids) for i in range(20)}
    ids = whole.input_ids
    assert chunks == {tuple(ids[:size]), tuple(ids[size : 2 * size]), tuple(ids[-size:])}


def test_a_drawing_learns_its_last_picture_alone_and_is_asked_as_a_model_will_be(processor):
    prompt = (Box((0, 0, 8, 16), "red", (SIDE, SIDE), PICTURE), "left of", PICTURE)
    sequence = SequenceBuilder(processor, 64).build(Record("edit", (*prompt, PICTURE), "e", 3), "last picture")
    assert sequence.num_visual_targets == 4
    assert sequence.num_text_targets == 0
    first = next(t for t, label in enumerate(sequence.labels) if label != IGNORE)
    asked = processor([list(prompt)], draw=True)
    assert sequence.input_ids[:first] == asked["input_ids"][0].tolist()
    assert len(sequence.images) == 4  # the box, what is in it, the picture, the target
    with pytest.raises(ValueError, match=r"'w' .text. must end in the picture or clip to be learned; it ends in a str"):
        SequenceBuilder(processor, 64).build(Record("text", ("words",), "w"), "last picture")


@pytest.mark.parametrize("answer", ["5:00", "10", "#", "red", "The clock shows 5:00.", "two red"])
def test_all_that_follows_the_prompt_of_an_answer_is_learned(processor, answer):
    """A space that is a token of its own too (before digits, which no word begins with): the model has to write it."""
    record = _chat(("system", ("say",)), ("user", (PICTURE, "left?")), ("assistant", (answer,)))
    learned = SequenceBuilder(processor, 128).conversation(record)
    messages = [{"role": "system", "content": "say"}, {"role": "user", "content": [PICTURE, "left?"]}]
    prompt = processor.encode([part.content for part in chat_parts(messages)], add_bos=True).input_ids
    assert learned.input_ids[: len(prompt)] == list(prompt)
    assert learned.labels[: len(prompt)] == [IGNORE] * len(prompt)
    assert learned.labels[len(prompt) :] == learned.input_ids[len(prompt) :]
