"""The processor: mixed lists and batches, spans, limits, saving, the Auto classes, and its errors."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from emu2 import Box, Emu2ImageProcessor, Emu2Processor, Video, presets, tokens
from emu2.processing.prompts import SYSTEM_DETAILED
from emu2.processing.tokenizer import train_tokenizer

PICTURE = Image.new("RGB", (6, 4), "green")
TEXTS = ["a red fox and two dogs", "three cats on a red mat", "how many dogs are there?"] * 5


@pytest.fixture(scope="module")
def processor():
    return Emu2Processor(Emu2ImageProcessor(14), train_tokenizer(TEXTS, 330), num_query=4, num_video_query=2)


def shown(processor, ids):
    return processor.decode(ids)


SLOTS = "[IMG] <image> <image> <image> <image> [/IMG]"
FRAME = "[IMG] [gIMG] [gIMG] [/IMG]"


def test_one_mixed_list(processor):
    inputs = processor(["a fox ", PICTURE, " two dogs", Video([PICTURE] * 3)])
    assert shown(processor, inputs["input_ids"][0]) == f"<s>a fox {SLOTS} two dogs [VIDEO] {FRAME} {FRAME} {FRAME}"
    assert inputs["pixel_values"].shape == (1, 3, 14, 14)
    assert inputs["video_pixel_values"].shape == (3, 3, 14, 14)
    assert inputs["input_ids"].dtype == inputs["attention_mask"].dtype == torch.int64
    assert inputs["pixel_values"].dtype == torch.float32


def test_batch_is_padded_on_the_left(processor):
    inputs = processor([["a fox"], [PICTURE, "two dogs"], [PICTURE]])
    pad = processor.tokenizer.convert_tokens_to_ids(tokens.PAD)
    for ids, mask in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True):
        assert mask == sorted(mask)
        assert [i == pad for i in ids] == [m == 0 for m in mask]
    assert inputs["pixel_values"].shape[0] == 2
    for row, prompt in zip(range(3), [["a fox"], [PICTURE, "two dogs"], [PICTURE]], strict=True):
        alone = processor(prompt)["input_ids"][0]
        assert inputs["input_ids"][row][-len(alone) :].tolist() == alone.tolist()


def test_single_part_prompts(processor):
    assert processor("a fox")["input_ids"].tolist() == processor(["a fox"])["input_ids"].tolist()
    assert processor(PICTURE)["input_ids"].tolist() == processor([[PICTURE]])["input_ids"].tolist()


def test_paths_bytes_and_arrays(processor, tmp_path):
    PICTURE.save(tmp_path / "a.png")
    sources = [tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), np.asarray(PICTURE)]
    inputs = processor(sources)
    assert torch.equal(inputs["pixel_values"], processor([PICTURE] * 3)["pixel_values"])


def test_lists_and_numpy(processor):
    lists = processor([["a fox"], [PICTURE]], padding=False, return_tensors=None)
    assert {len(row) for row in lists["input_ids"]} != {len(lists["input_ids"][0])}
    assert isinstance(processor(["a fox"], return_tensors="np")["input_ids"], np.ndarray)


def test_typed_slots_are_escaped(processor):
    """They are neither filled nor counted, and read back as typed."""
    text = "what does <image> mean, and [IMG]?"
    inputs = processor([text, PICTURE])
    image = processor.tokenizer.convert_tokens_to_ids(tokens.IMAGE_SLOT)
    assert (inputs["input_ids"] == image).sum() == 4
    assert shown(processor, inputs["input_ids"][0]) == f"<s>{text} {SLOTS}"
    inputs = processor.apply_chat_template([{"role": "user", "content": text}])
    assert not (inputs["input_ids"] == image).any()


def test_markers_make_frames(processor):
    marked = processor.encode(["[VIDEO]", PICTURE, PICTURE, "[/VIDEO]", PICTURE, "two dogs"])
    assert marked.input_ids == processor.encode([Video([PICTURE] * 2), PICTURE, "two dogs"]).input_ids
    assert (len(marked.images), len(marked.frames)) == (1, 2)
    # in the middle of a text the words are no markers
    assert not processor.encode(["see [VIDEO] here", PICTURE]).frames


def test_boxes(processor):
    box = Box((10, 10, 100, 100), "a red fox", image=PICTURE)
    encoded = processor.encode(["two dogs", box, Box((0, 0, 50, 50))])
    assert shown(processor, encoded.input_ids) == (
        f"<s> <grounding> two dogs <phrase> a red fox </phrase> <object> {SLOTS} </object> {SLOTS} "
        f"<object> {SLOTS} </object>"
    )
    assert [image.size for image in encoded.images] == [(448, 448), (6, 4), (448, 448)]
    again = processor.encode(["<grounding>two dogs", box, Box((0, 0, 50, 50))])
    assert again.input_ids == encoded.input_ids


def test_spans(processor):
    parts = ["how many dogs?", PICTURE, Video([PICTURE] * 2), Box((0, 0, 9, 9), "dogs"), "two", ""]
    encoded = processor.encode(parts, add_eos=True)
    ids, spans = encoded.input_ids, encoded.spans
    assert ids[0] == 1
    assert ids[-1] == 2
    texts = [shown(processor, ids[start:end]) for start, end in spans]
    assert texts[:3] == ["how many dogs?", SLOTS, f"[VIDEO] {FRAME} {FRAME}"]
    assert texts[3] == f"<phrase> dogs </phrase> <object> {SLOTS} </object>"
    assert texts[4] == "two"
    assert spans[5][0] == spans[5][1]
    assert spans[4][1] == len(ids) - 1
    plain = processor.encode(["a", "b"], add_bos=False)
    assert plain.spans[0][0] == 0


def test_draw(processor):
    assert shown(processor, processor("a fox ", draw=True)["input_ids"][0]) == "<s>a fox [IMG]"
    empty = processor([[""], ["a fox"], []], draw=True)
    start = processor.tokenizer.convert_tokens_to_ids(tokens.IMG)
    assert empty["input_ids"][:, -1].tolist() == [start] * 3
    assert empty["attention_mask"].sum(1).tolist()[0::2] == [2, 2]


def test_chat(processor):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "how many?"}, {"type": "image", "image": PICTURE}]}
    ]
    prompt = processor.apply_chat_template(messages, tokenize=False)
    assert prompt == f"{SYSTEM_DETAILED} [USER]: how many?[<IMG_PLH>] [ASSISTANT]:"
    inputs = processor.apply_chat_template(messages)
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values"}
    expected = processor.tokenizer(prompt.replace("[<IMG_PLH>]", tokens.image_slots(4)))["input_ids"]
    assert inputs["input_ids"].tolist() == [expected]
    batch = processor.apply_chat_template([messages, [{"role": "user", "content": "hi"}]])
    assert batch["input_ids"].shape[0] == 2
    assert len(processor.apply_chat_template([messages, messages], tokenize=False)) == 2
    assert torch.equal(processor.apply_chat_template(messages, return_dict=False), inputs["input_ids"])


def test_own_chat_template(processor):
    template = (
        "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}{{ sign }}"
    )
    prompt = processor.apply_chat_template([{"role": "user", "content": "hi"}], template, tokenize=False, sign="!")
    assert prompt == "<user>hi!"


def test_few_shot(processor):
    shots = [(PICTURE, "how many?", "two")]
    parts = processor.few_shot(shots, (PICTURE, "what?"), tokenize=False)
    assert (
        processor.few_shot(shots, (PICTURE, "what?"))["input_ids"].tolist() == processor([parts])["input_ids"].tolist()
    )
    assert processor.few_shot([(PICTURE, "red, two")], PICTURE, wording="list")["pixel_values"].shape[0] == 2


def test_parse_grounding(processor):
    box = Box((160, 0, 640, 240), "the red cup", size=(640, 480))
    ids = processor.encode(box.to_tokens()).input_ids
    for size in ((640, 480), Image.new("RGB", (640, 480))):
        assert processor.parse_grounding(processor.decode(ids), size)[0].boxes == (box,)
    assert processor.parse_grounding(processor.decode(ids))[0].boxes[0].xyxy == (112, 0, 448, 224)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "The prompt is empty"),
        ("", {}, r"The prompt is empty: give it text or a picture \(only with draw=True may it be empty\)"),
        ([["a"], [""]], {}, r"prompts\[1\] is empty"),
        (
            [["a"], ["b", PICTURE, b"xyz"]],
            {},
            r"prompts\[1\]: part \[2\]: The picture of 3 bytes is not a picture in a known format",
        ),
        ([["a"], "b"], {}, r"A batch is a list of lists of parts, but prompts\[1\] is a str beside lists"),
        ([["a", ["b"]]], {}, r"part \[1\] is a list: a part is text, a picture"),
        (["a", None], {}, r"part \[1\] is a NoneType"),
        (["a", 3], {}, r"part \[1\]: A picture is a PIL image, a path, the bytes of a file or a numpy array; got int"),
        (
            ["a", PICTURE, Video([PICTURE])],
            {"max_length": 6},
            "The prompt is 13 tokens long, the limit is 6: 1 pictures and 1 video frames take 10 of them",
        ),
        ([["a"], ["a b c"]], {"padding": False}, r"Rows of lengths \[2, \d+\] make no tensor: pass padding=True"),
    ],
)
def test_bad_prompts(processor, prompt, options, message):
    with pytest.raises(ValueError, match=message):
        processor(prompt, **options)


def test_pictures_apart_from_the_text_are_refused(processor):
    with pytest.raises(TypeError, match="takes no text, images: texts and pictures are one list in reading order"):
        processor(text="what?", images=PICTURE)


def test_pictures_over_the_processors_limit(processor):
    small = Emu2Processor(Emu2ImageProcessor(14, max_pixels=20), processor.tokenizer)
    with pytest.raises(
        ValueError, match=r"part \[1\]: The given picture is too large: 6x4 is 24 pixels, the limit is 20"
    ):
        small(["a", PICTURE])


def test_unreadable_file_is_named(processor, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a photograph")
    with pytest.raises(ValueError, match=r"prompts\[2\]: part \[1\]: Picture .*broken.jpg is not a picture"):
        processor([["a"], ["b"], ["c", tmp_path / "broken.jpg"]])
    with pytest.raises(ValueError, match=r"Picture missing.png cannot be read: No such file"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image", "image": "missing.png"}]}])


def test_save_and_load(processor, tmp_path):
    from transformers import AutoProcessor, AutoTokenizer
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == processor.chat_template
    messages = [{"role": "user", "content": [PICTURE, "how many?"]}]
    for load in (Emu2Processor, AutoProcessor):
        loaded = load.from_pretrained(tmp_path)
        assert type(loaded) is Emu2Processor
        assert (loaded.num_query, loaded.num_video_query, loaded.image_processor.image_size) == (4, 2, 14)
        expected, got = (p.apply_chat_template(messages) for p in (processor, loaded))
        assert {key: value.tolist() for key, value in got.items()} == {k: v.tolist() for k, v in expected.items()}
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is Emu2ImageProcessor
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is type(processor.tokenizer)


def test_load_beside_a_model_config(processor, tmp_path):
    """A model's folder holds config.json too; the processor must not trip over it."""
    presets.debug(vocab_size=700, first_special_id=330).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert Emu2Processor.from_pretrained(tmp_path).num_query == 4
    outer = tmp_path.parent
    assert Emu2Processor.from_pretrained(outer, subfolder=tmp_path.name).num_query == 4


def test_changed_chat_template_is_kept(processor, tmp_path):
    changed = Emu2Processor(processor.image_processor, processor.tokenizer, 4, 2, chat_template="{{ 'hello' }}")
    changed.save_pretrained(tmp_path)
    loaded = Emu2Processor.from_pretrained(tmp_path)
    assert loaded.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "hello"


def test_bad_folders(processor, tmp_path):
    with pytest.raises(ValueError, match=r"holds no processor: expected processor_config.json"):
        Emu2Processor.from_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[gIMG]"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"cannot be loaded. Wrong tokeniser .* it lacks the special tokens \[gIMG\]"):
        Emu2Processor.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"a processor without its tokeniser: tokenizer.json is missing"):
        Emu2Processor.from_pretrained(tmp_path)


def test_transformers_pipeline(processor):
    """`pipeline("image-text-to-text")` takes the model and the processor as they are."""
    from transformers import pipeline

    from emu2 import Emu2ForConditionalGeneration

    tokenizer = processor.tokenizer
    config = presets.debug(vocab_size=len(tokenizer), first_special_id=tokenizer.convert_tokens_to_ids(tokens.PAD))
    torch.manual_seed(0)
    model = Emu2ForConditionalGeneration(config).eval()
    own = Emu2Processor(Emu2ImageProcessor(config.vision_config.image_size), tokenizer, 16, 16)
    messages = [{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "what?"}]}]
    result = pipeline("image-text-to-text", model=model, processor=own)(
        text=messages, max_new_tokens=3, do_sample=False
    )
    inputs = own.apply_chat_template(messages)
    ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert result[0]["generated_text"][-1] == {
        "role": "assistant",
        "content": own.decode(ids, skip_special_tokens=True),
    }


def test_bad_slot_counts(processor):
    with pytest.raises(ValueError, match="num_query is the number of slots a picture takes, at least 1; got 0"):
        Emu2Processor(processor.image_processor, processor.tokenizer, num_query=0)
