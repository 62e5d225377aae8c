"""One tiny data set of every other format: what its records are, what its bad samples say, and wrong names for it."""

import io
import pickle
import sys

import pyarrow
import pyarrow.parquet
import pytest
from helpers_readers import COLOURS, encoded, pair_members, tar_bytes, video, write
from PIL import Image

from emu2 import tokens
from emu2.data.readers import open_source
from emu2.data.readers.wording import SHORT_ANSWER
from emu2.data.sources import BadSampleError
from emu2.processing.grounding import Box, parse_grounding
from emu2.processing.prompts import SYSTEM_CONCISE, SYSTEM_DETAILED
from emu2.processing.video import Video


@pytest.fixture
def opened(tmp_path):
    def _opened(form, path, kind, **settings):
        paths = {name: str(settings.pop(name)) for name in ("images", "annotations") if name in settings}
        spec = {"format": form, "path": str(path), "cache": str(tmp_path / "cache"), **paths, **settings}
        source = open_source(spec, kind)
        again = pickle.loads(pickle.dumps(source))
        assert again.fingerprint() == source.fingerprint()
        assert again.size == source.size
        return source

    return _opened


def shapes(segments):
    """Texts as they are, pictures by the name of their colour, boxes and clips by their type."""
    names = {Image.new("RGB", (1, 1), name).getpixel((0, 0)): name for name in COLOURS}
    return [
        segment.getpixel((0, 0)) in names and f"<{names[segment.getpixel((0, 0))]}>"
        if isinstance(segment, Image.Image)
        else segment
        for segment in segments
    ]


def cause(source, index):
    with pytest.raises(BadSampleError) as caught:
        source[index]
    return caught.value.cause


def parquet(path, rows, group=2):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)
    return path


# Documents ------------------------------------------------------------------------------------------------------------


def mmc4_rows():
    names = [f"{colour}.png" for colour in COLOURS]
    yield {
        "text_list": ["Intro.", "Red it is.", "Then green.", "The end."],
        "image_info": [
            {"image_name": names[1], "matched_text_index": 2, "matched_sim": 0.3, "raw_url": "https://x.org/g"},
            {"image_name": names[0], "matched_text_index": 1, "matched_sim": 0.3, "raw_url": "https://x.org/r"},
        ],
        "url": "https://x.org",
    }
    yield {"text_list": ["One."], "image_info": [{"image_name": "gone.png", "matched_text_index": 0}]}
    yield {"text_list": ["One."], "image_info": [{"image_name": names[0], "matched_text_index": 4}]}
    matched = [{"image_name": name, "matched_text_index": i} for i, name in enumerate([*names, "gone.png"])]
    yield {"text_list": [*"ABCDE"], "image_info": matched}


def test_mmc4(tmp_path, opened):
    write(tmp_path / "docs.jsonl", mmc4_rows())
    write(tmp_path / "tars/0.tar", tar_bytes((f"img/{colour}.png", encoded(colour)) for colour in COLOURS))
    source = opened("mmc4", tmp_path / "docs.jsonl", "document", images=tmp_path / "tars")
    assert shapes(source[0].segments) == ["Intro. Red it is.", "<red>", "Then green.", "<green>", "The end."]
    assert source[0].answer_from is None
    assert cause(source, 1) == "missing picture"
    assert cause(source, 2) == "picture matched to no sentence"
    # Pictures that were not downloaded are left out; their sentences stay.
    assert shapes(source[3].segments) == ["A", "<red>", "B", "<green>", "C", "<blue>", "D", "<white>", "E"]
    fewer = opened("mmc4", tmp_path / "docs.jsonl", "document", images=tmp_path / "tars/0.tar", max_images=2)
    cut = shapes(fewer[3].segments)
    assert len(cut) == 4
    assert cut == shapes(fewer[3].segments)
    assert all(picture == f"<{COLOURS['ABCD'.index(text)]}>" for text, picture in zip(cut[::2], cut[1::2], strict=True))


def test_mmc4_finds_pictures_by_the_url_that_img2dataset_kept(tmp_path, opened):
    info = [{"image_name": "unknown.png", "raw_url": "https://example.org/green.jpg", "matched_text_index": 0}]
    write(tmp_path / "docs.jsonl", [{"text_list": ["Green."], "image_info": info}])
    # img2dataset writes the members of a sample in the order of their endings: jpg before json, png and webp after it.
    for name, members in (("after", pair_members(COLOURS)), ("before", sorted(pair_members(COLOURS)))):
        write(tmp_path / f"{name}.tar", tar_bytes(members))
        source = opened("mmc4", tmp_path / "docs.jsonl", "document", images=tmp_path / f"{name}.tar")
        assert shapes(source[0].segments) == ["Green.", "<green>"]


def test_a_name_that_several_pictures_share_is_none_of_them(tmp_path, opened):
    for folder, colour in (("gqa", "red"), ("vg", "green")):
        write(tmp_path / f"pics/{folder}/1.png", encoded(colour))
    members = [(f"{folder}/1.png", encoded(colour)) for folder, colour in (("gqa", "red"), ("vg", "green"))]
    write(tmp_path / "tars/0.tar", tar_bytes(members))
    turns = said(("human", "?"), ("gpt", "x"))
    names = ("vg/1.png", "other/1.png", "1.png")
    path = write(tmp_path / "chat.jsonl", [{"image": name, "conversations": turns} for name in names])
    in_tars = opened("llava", path, "chat", images=tmp_path / "tars")
    assert shapes(in_tars[0].turns[1][1]) == ["<green>", "?"]
    assert cause(in_tars, 1) == cause(in_tars, 2) == "missing picture"
    in_folders = opened("llava", path, "chat", images=tmp_path / "pics")
    assert shapes(in_folders[0].turns[1][1]) == ["<green>", "?"]
    assert cause(in_folders, 1) == cause(in_folders, 2) == "missing picture"
    own = opened("llava", path, "chat", images=tmp_path / "pics/gqa")
    assert shapes(own[0].turns[1][1]) == ["<red>", "?"]


def test_obelics(tmp_path, opened):
    write(tmp_path / "blue.png", encoded("blue"))
    rows = [
        {"texts": [None, "words", None], "images": ["blue.png", None, "missing.png"], "metadata": "[]"},
        {"texts": ["only", "text"], "images": [None, None], "metadata": "[]"},
        {"texts": ["a"], "images": [None, "blue.png"], "metadata": "[]"},
        {"texts": [None], "images": ["https://x.org/a.jpg"], "metadata": "[]"},
        {"texts": [None, " "], "images": [None, None], "metadata": "[]"},
    ]
    source = opened("obelics", parquet(tmp_path / "d.parquet", rows), "document")
    assert shapes(source[0].segments) == ["<blue>", "words"]
    assert source[1].segments == ("only text",)
    assert cause(source, 2) == "texts and images differ in length"
    assert cause(source, 3) == "missing picture"
    assert cause(source, 4) == "empty document"


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, opened, monkeypatch):
    path = parquet(tmp_path / "d.parquet", [{"texts": ["x"], "images": [None]}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"is a parquet file, which takes pyarrow: pip install 'emu2\[data\]'"):
        opened("obelics", path, "document")


def test_obelics_with_pictures_inside(tmp_path, opened):
    rows = [
        {"texts": ["first", None, "last"], "images": [None, {"bytes": encoded("green"), "path": None}, None]},
        {"texts": [None], "images": [{"bytes": b"broken", "path": None}]},
    ]
    source = opened("obelics", parquet(tmp_path / "d.parquet", rows), "document")
    assert shapes(source[0].segments) == ["first", "<green>", "last"]
    assert cause(source, 1) == "not a picture"


# Conversations --------------------------------------------------------------------------------------------------------


def said(*turns):
    return [{"from": speaker, "value": text} for speaker, text in turns]


def test_llava(tmp_path, opened):
    for colour in COLOURS:
        write(tmp_path / f"pics/{colour}.png", encoded(colour))
    write(tmp_path / "pics/clip.mp4", video(6))
    rows = [
        {
            "id": "1",
            "image": "red.png",
            "conversations": said(("human", "<image>\nWhat?"), ("gpt", "Red."), ("human", "Sure?"), ("gpt", "Yes.")),
        },
        {"id": 2, "conversations": said(("human", "Hello"), ("gpt", "Hi."), ("human", "unanswered"))},
        {"image": "red.png", "conversations": said(("human", f"Colour?\n<image>\n{SHORT_ANSWER}"), ("gpt", "red"))},
        {
            "image": ["red.png", "blue.png"],
            "conversations": said(("system", "Be brief."), ("human", "<image> or <image>?"), ("gpt", "Red.")),
        },
        {"video": "clip.mp4", "conversations": said(("human", "What happens?"), ("gpt", "It brightens."))},
        {"messages": [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": "Blue."}],
         "images": ["blue.png"]},
        {"image": "gone.png", "conversations": said(("human", "<image>?"), ("gpt", "x"))},
        {"image": "red.png", "conversations": said(("human", "<image><image>?"), ("gpt", "x"))},
        {"conversations": said(("gpt", "I first"), ("human", "x"))},
        {"conversations": said(("human", "?"))},
        {"conversations": []},
        {"conversations": said(("human", "?"), ("gpt", "  "))},
    ]  # fmt: skip
    source = opened("llava", write(tmp_path / "chat.jsonl", rows), "chat", images=tmp_path / "pics")
    turns = [(role, shapes(content)) for role, content in source[0].turns]
    assert turns == [
        ("system", [SYSTEM_DETAILED]),
        ("user", ["<red>", "What?"]),
        ("assistant", ["Red."]),
        ("user", ["Sure?"]),
        ("assistant", ["Yes."]),
    ]
    assert source[0].truth == {"id": "1"}
    assert len(source[0].segments) == 6
    assert [role for role, _ in source[1].turns] == ["system", "user", "assistant"]
    assert source[2].turns[0][1] == (SYSTEM_CONCISE,)
    assert shapes(source[2].turns[1][1]) == ["Colour?", "<red>", SHORT_ANSWER]
    assert source[3].turns[0] == ("system", ("Be brief.",))
    assert shapes(source[3].turns[1][1]) == ["<red>", "or", "<blue>", "?"]
    assert isinstance(source[4].turns[1][1][0], Video)
    assert shapes(source[5].turns[1][1]) == ["<blue>", "Which?"]
    assert [cause(source, index) for index in range(6, 12)] == [
        "missing picture",
        "<image> marks and images differ",
        "roles do not take turns",
        "missing answer",
        "missing conversations",
        "empty turn",
    ]
    as_array = opened("llava", write(tmp_path / "chat.json", rows), "chat", images=tmp_path / "pics", style="concise")
    assert as_array.size == source.size
    assert as_array[0].turns[0][1] == (SYSTEM_CONCISE,)


def test_messages_of_parts(tmp_path, opened):
    write(tmp_path / "blue.png", encoded("blue"))
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Blue."}]}
    named = {"type": "image_url", "image_url": {"url": "blue.png"}}
    rows = [
        {"messages": [{"role": "user", "content": [named, {"type": "text", "text": "Which?"}]}, answer]},
        {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}, answer],
         "images": ["blue.png"]},
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}, answer]},
    ]  # fmt: skip
    source = opened("llava", write(tmp_path / "m.jsonl", rows), "chat")
    assert shapes(source[0].segments[1:]) == ["<blue>", "Which?", "Blue."]
    assert shapes(source[1].segments[1:]) == ["<blue>", "?", "Blue."]
    assert cause(source, 2) == "turn without role or text"


def test_files_of_one_name_in_several_folders_have_keys_of_their_own(tmp_path, opened):
    turns = said(("human", "?"), ("gpt", "yes"))
    for part in ("a", "b"):
        write(tmp_path / part / "chat.jsonl", [{"conversations": turns}])
        write(tmp_path / part / "0.tar", tar_bytes(pair_members(["red"])))
        write(tmp_path / part / "c.png", encoded())
        write(tmp_path / part / "c.txt", "x")
    for form, path, kind in (
        ("llava", "*/chat.jsonl", "chat"),
        ("webdataset", "{a,b}/0.tar", "pair"),
        ("text", "*/*.txt", "text"),
        ("folder", ".", "pair"),
    ):
        source = opened(form, tmp_path / path, kind)
        assert [source[index].key.partition("/")[0] for index in range(source.size)] == ["a", "b"]


def test_lines_that_are_no_json_are_bad_samples(tmp_path, opened):
    good = '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "é"}]}'
    write(tmp_path / "chat.jsonl", "\n".join(("{torn", "", "   ", good, good)).encode() + b"\n" + b'{"a": "\xff"}')
    source = opened("llava", tmp_path / "chat.jsonl", "chat")
    assert source.size == 4
    assert source[2].turns[-1] == ("assistant", ("é",))
    assert cause(source, 0) == "metadata is not JSON"
    assert cause(source, 3) == "text is not UTF-8"


# Annotation files -----------------------------------------------------------------------------------------------------

COCO = {
    "images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 16, "height": 12}],
    "annotations": [{"image_id": 9, "id": 1, "caption": "A red thing. "}, {"image_id": 9, "id": 2, "caption": ""}],
}
QUESTIONS = {
    "data_subtype": "train2014",
    "questions": [
        {"image_id": 9, "question": "What colour?", "question_id": 90},
        {"image_id": 9, "question": "Who?", "question_id": 91},
    ],
}
ANSWERS = {
    "annotations": [
        {
            "question_id": 90,
            "image_id": 9,
            "multiple_choice_answer": "red",
            "answers": [{"answer": "red", "answer_confidence": "yes", "answer_id": i} for i in range(10)],
        }
    ]
}
GQA = {"05": {"imageId": "12", "question": "Is it red?", "answer": "yes", "fullAnswer": "Yes, it is.", "types": {}}}
TEXTVQA = {
    "data": [{"image_id": "ab", "question": "What is written?", "question_id": 3, "answers": ["stop", "go", "go"]}]
}
OCR = {"data": [{"image_id": "ab", "ocr_tokens": ["GO", "5"], "ocr_info": []}]}
INSTANCES = {
    "images": COCO["images"],
    "annotations": [{"id": 7, "image_id": 9, "bbox": [4.0, 3.0, 8.0, 9.5], "category_id": 1}],
}
REFS = [
    {
        "ref_id": 5,
        "ann_id": 7,
        "image_id": 9,
        "split": split,
        "file_name": "COCO_train2014_000000000009_7.jpg",
        "sentences": [{"sent": "the red thing", "sent_id": 1}, {"sent": "thing", "sent_id": 2}],
    }
    for split in ("train", "testA")
]


@pytest.fixture
def coco(tmp_path):
    write(tmp_path / "train2014/COCO_train2014_000000000009.jpg", encoded("red"))
    return tmp_path / "train2014"


def test_coco_captions(tmp_path, opened, coco):
    path = write(tmp_path / "captions_train2014.json", COCO)
    source = opened("coco_captions", path, "pair", images=coco)
    assert source.size == 2
    assert shapes(source[0].segments) == ["<red>", "A red thing."]
    assert cause(source, 1) == "missing caption"
    chat = opened("coco_captions", path, "chat", images=coco)[0]
    assert [part for _, content in chat.turns for part in shapes(content)] == [
        SYSTEM_CONCISE,
        "<red>",
        "Provide a one-sentence caption for the provided image.",
        "A red thing.",
    ]


def test_textcaps(tmp_path, opened):
    write(tmp_path / "images/ab.jpg", encoded("red"))
    path = write(
        tmp_path / "TextCaps.json", {"data": [{"image_id": "ab", "caption_str": "A stop sign.", "caption_id": 1}]}
    )
    source = opened("coco_captions", path, "pair", images=tmp_path / "images")
    assert shapes(source[0].segments) == ["<red>", "A stop sign."]


def test_vqav2(tmp_path, opened, coco):
    path = write(tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json", QUESTIONS)
    write(tmp_path / "v2_mscoco_train2014_annotations.json", ANSWERS)
    # Pictures are found in a folder above theirs, too.
    source = opened("vqav2", path, "chat", images=tmp_path)
    record = source[0]
    assert record.turns[0] == ("system", (SYSTEM_CONCISE,))
    assert shapes(record.turns[1][1]) == ["<red>", f"What colour?\n{SHORT_ANSWER}"]
    assert record.turns[2] == ("assistant", ("red",))
    assert record.truth["answers"] == ["red"] * 10
    assert cause(source, 1) == "missing answer"
    bare = opened("vqav2", path, "chat", images=coco, hint=False, style="detailed")[0]
    assert bare.turns[0] == ("system", (SYSTEM_DETAILED,))
    assert bare.turns[1][1][1] == "What colour?"


def test_gqa(tmp_path, opened):
    write(tmp_path / "images/12.jpg", encoded("red"))
    path = write(tmp_path / "train_balanced_questions.json", GQA)
    record = opened("gqa", path, "chat", images=tmp_path / "images")[0]
    assert shapes(record.turns[1][1]) == ["<red>", f"Is it red?\n{SHORT_ANSWER}"]
    assert record.turns[2][1] == ("yes",)
    assert record.truth["full_answer"] == "Yes, it is."


def test_textvqa(tmp_path, opened):
    write(tmp_path / "images/ab.jpg", encoded("red"))
    path, ocr = write(tmp_path / "TextVQA.json", TEXTVQA), write(tmp_path / "ocr.json", OCR)
    record = opened("textvqa", path, "chat", images=tmp_path / "images")[0]
    assert record.turns[1][1][1] == f"What is written?\n{SHORT_ANSWER}"
    assert record.turns[2][1] == ("go",)
    record = opened("textvqa", path, "chat", images=tmp_path / "images", annotations=ocr)[0]
    assert record.turns[1][1][1] == f"What is written?\nReference OCR token: GO, 5\n{SHORT_ANSWER}"


def test_refcoco(tmp_path, opened, coco):
    write(tmp_path / "refcoco/instances.json", INSTANCES)
    path = write(tmp_path / "refcoco/refs(unc).p", pickle.dumps(REFS, protocol=2))
    source = opened("refcoco", path, "chat", images=coco)
    assert source.size == 2
    record = source[0]
    assert record.turns[0] == ("system", (SYSTEM_CONCISE,))
    assert shapes(record.turns[1][1])[0] == "<red>"
    assert record.turns[1][1][1].endswith("this sentence describes: the red thing")
    (answer,) = record.turns[2][1]
    assert answer.startswith(tokens.GROUNDING)
    [found] = parse_grounding(answer, (16, 12))
    assert found.phrase == "the red thing"
    # The box reaches over the edge by a hair, as some of COCO's do.
    assert found.boxes[0].xyxy == pytest.approx((4, 3, 12, 12), abs=0.05)
    pair = opened("refcoco", path, "grounded_pair", images=coco, split="testA")[1]
    assert pair.segments[1].startswith("<grounding><phrase>thing</phrase><object><patch_index_0056>")
    assert opened("refcoco", write(tmp_path / "refcoco/refs.json", REFS), "chat", images=coco).size == 2
    with pytest.raises(ValueError, match="no references of the split 'val'; it has testA, train"):
        opened("refcoco", path, "chat", split="val")


def test_pickles_cannot_run_code(tmp_path, opened):
    path = write(tmp_path / "refs(unc).p", pickle.dumps([print]))
    with pytest.raises(ValueError, match=r"not a pickle of references: it asks for .*print, and only plain values"):
        opened("refcoco", path, "chat")


# Boxes, edits ---------------------------------------------------------------------------------------------------------

GRIT = {
    "caption": "a dog in a field of flowers",
    "noun_chunks": [[0, 5, 0.25, 0.5, 0.75, 1.0, 0.9], [9, 16, 0, 0, 1, 1, 0.8], [20, 27, 0, 0.5, 1, 1, 0.7]],
    "ref_exps": [[0, 27, 0.25, 0.5, 0.75, 1.0, 0.9], [9, 27, 0.0, 0.0, 1.0, 1.01, 0.8]],
}


def test_grit(tmp_path, opened):
    chunks = {**GRIT, "ref_exps": []}
    members = [
        ("0.png", encoded("green")),
        ("0.json", chunks),
        ("1.png", encoded()),
        ("1.json", GRIT),
        ("2.png", encoded()),
        ("2.json", {**GRIT, "ref_exps": [], "noun_chunks": []}),
        ("3.png", encoded()),
        ("3.json", {**GRIT, "ref_exps": [[5, 99, 0, 0, 1, 1, 1]]}),
        ("4.png", encoded()),
        ("4.json", {**GRIT, "ref_exps": [[0, 5, 0.5, 0, 0.1, 1, 1]]}),
        ("5.json", GRIT),
    ]
    path = write(tmp_path / "0.tar", tar_bytes(members))
    source = opened("grit", path, "grounded_pair")
    picture, text = source[0].segments
    index = "<patch_index_{:04d}>".format
    assert text == (
        "<grounding><phrase>a dog</phrase><object>" + "".join(map(index, (56, 112, 168, 224))) + "</object> in "
        "<phrase>a field</phrase><object>" + "".join(map(index, (0, 0, 224, 224))) + "</object> of "
        "<phrase>flowers</phrase><object>" + "".join(map(index, (0, 112, 224, 224))) + "</object>"
    )
    assert source[0].answer_from == 1
    # Referring expressions first; of overlapping ones the longest.
    assert "<phrase>a dog in a field of flowers</phrase>" in source[1].segments[1]
    assert source[1].segments[1].count("<phrase>") == 1
    assert [cause(source, index) for index in range(2, 6)] == [
        "missing boxes",
        "phrase outside the caption",
        "malformed box",
        "missing picture",
    ]
    assert shapes(opened("grit", path, "pair")[0].segments) == ["<green>", "a dog in a field of flowers"]
    drawn = opened("grit", path, "grounded_generation")[0]
    assert [type(segment) for segment in drawn.segments] == [Box, str, Box, str, Box, type(picture)]
    assert drawn.segments[0] == Box((4, 6, 12, 12), "a dog", (16, 12))
    assert drawn.answer_from == 5
    composed = opened("grit", path, "composition")[0]
    assert composed.segments[0].image.size == (8, 6)


def test_grit_in_parquet(tmp_path, opened):
    row = {**GRIT, "ref_exps": [[0.0, 5.0, 0.25, 0.5, 0.75, 1.0, 0.9]], "image": {"bytes": encoded(), "path": None}}
    source = opened("grit", parquet(tmp_path / "g.parquet", [row]), "grounded_pair")
    assert source[0].segments[1].endswith("</object> in a field of flowers")


def test_two_boxes_of_one_phrase(tmp_path, opened):
    note = {"caption": "two dogs", "ref_exps": [[0, 8, 0, 0, 0.5, 1, 1], [0, 8, 0.5, 0, 1, 1, 1]]}
    path = write(tmp_path / "0.tar", tar_bytes([("0.png", encoded()), ("0.json", note)]))
    record = opened("grit", path, "grounded_pair")[0]
    assert record.segments[1].count(tokens.OBJECT_DELIMITER) == 1


@pytest.mark.parametrize("form", ["folder", "tar", "jsonl", "parquet"])
def test_instructpix2pix(tmp_path, opened, form):
    if form == "folder":
        for name, seed in (("0001", "7"), ("0002", "8")):
            write(tmp_path / f"{name}/prompt.json", {"edit": "make it green", "input": "red", "output": "green"})
            write(tmp_path / f"{name}/{seed}_0.jpg", encoded("red"))
            write(tmp_path / f"{name}/{seed}_1.jpg", encoded("green"))
        write(tmp_path / "seeds.json", [["0001", ["7"]], ["0002", ["8", "9"]]])
        path = tmp_path
    elif form == "tar":
        members = [(f"0.{name}.png", encoded(c)) for name, c in (("original_image", "red"), ("edited_image", "green"))]
        more = [("1.txt", "make it green"), ("1.input.png", encoded()), ("1.output.png", encoded("green"))]
        last = [("2.txt", "x"), ("2.input.png", encoded())]
        path = write(
            tmp_path / "0.tar", tar_bytes([*members, ("0.json", {"edit_prompt": "make it green"}), *more, *last])
        )
    else:
        write(tmp_path / "a.png", encoded("red"))
        write(tmp_path / "b.png", encoded("green"))
        rows = [{"original_image": "a.png", "edit_prompt": "make it green", "edited_image": "b.png"}] * 2
        rows += [{"original_image": "a.png", "edit_prompt": "make it green", "edited_image": "c.png"}]
        if form == "jsonl":
            path = write(tmp_path / "edits.jsonl", rows)
        else:
            data = {
                name: {"bytes": encoded(c), "path": None}
                for name, c in (("original_image", "red"), ("edited_image", "green"))
            }
            bad = {**rows[0], **data, "edited_image": {"bytes": None, "path": None}}
            path = parquet(tmp_path / "e.parquet", [{**rows[0], **data}, {**rows[1], **data}, bad])
    source = opened("instructpix2pix", path, "edit")
    assert source.size == 3
    for index in range(2):
        assert shapes(source[index].segments) == ["<red>", "make it green", "<green>"]
        assert source[index].answer_from == 2
    assert cause(source, 2) == "missing picture"


def test_generation(tmp_path, opened):
    see_through = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(see_through, "PNG")
    write(tmp_path / "cut.png", see_through.getvalue())
    for colour in COLOURS:
        write(tmp_path / f"{colour}.png", encoded(colour))
    box = {"box": [1, 2, 8, 12], "phrase": "a thing"}
    rows = [
        {"prompt": ["a red sky"], "image": "red.png"},
        {
            "prompt": ["a ", {**box, "image": "cut.png"}, " by ", {"box": [0, 0, 448, 448], "size": [448, 448]}],
            "image": "red.png",
        },
        {"prompt": [{"image": "green.png"}, "make it blue"], "image": "blue.png"},
        {"prompt": [], "image": "red.png"},
        {"prompt": ["x"], "image": "gone.png"},
        {"prompt": ["x"], "image": None},
        {"prompt": ["x", {"phrase": "no box"}], "image": "red.png"},
        {"prompt": ["x", {"box": [0, 0, 17, 3]}], "image": "red.png"},
        {"prompt": ["x", {"box": [0, 0, 3]}], "image": "red.png"},
    ]
    source = opened("generation", write(tmp_path / "g.jsonl", rows), "composition")
    assert shapes(source[0].segments) == ["a red sky", "<red>"]
    first, thing, _, other, target = source[1].segments
    assert (thing.xyxy, thing.phrase, thing.size, thing.image.mode) == ((1, 2, 8, 12), "a thing", (16, 12), "RGBA")
    assert (first, other.size, other.phrase, target.mode) == ("a ", (448, 448), None, "RGB")
    assert source[1].answer_from == 4
    assert shapes(source[2].segments) == ["<green>", "make it blue", "<blue>"]
    assert [cause(source, index) for index in range(3, 9)] == [
        "missing prompt",
        "missing picture",
        "missing picture",
        "malformed prompt",
        "malformed box",
        "malformed box",
    ]


# Text, folders --------------------------------------------------------------------------------------------------------


def test_text(tmp_path, opened):
    write(tmp_path / "t/a.txt", "one\ntwo\n\n three \n")
    write(tmp_path / "t/b.txt", b"\xff\xfe")
    write(tmp_path / "t/c.jsonl", [{"text": "from lines", "meta": {}}, {"text": ""}])
    source = opened("text", tmp_path / "t", "text")
    assert source.size == 4
    assert source[0].segments == ("one\ntwo\n\n three",)
    assert source[2].segments == ("from lines",)
    assert [cause(source, index) for index in (1, 3)] == ["text is not UTF-8", "missing text"]
    lines = opened("text", tmp_path / "t/a.txt", "text", unit="line")
    assert [lines[index].segments[0] for index in range(lines.size)] == ["one", "two", "three"]
    table = parquet(tmp_path / "p.parquet", [{"content": f"row {i}"} for i in range(5)])
    rows = opened("text", table, "text", caption="content")
    assert [rows[index].segments[0] for index in (4, 0, 3)] == ["row 4", "row 0", "row 3"]


def test_folder(tmp_path, opened):
    root = tmp_path / "mine"
    write(root / "a.png", encoded("red"))
    write(root / "a.txt", "a red one")
    write(root / "deep/b.png", encoded("green"))
    write(root / "deep/b.json", {"prompt": "a green one"})
    write(root / "c.png", encoded("blue"))
    source = opened("folder", root, "pair")
    assert [shapes(source[index].segments) for index in (0, 2)] == [["<red>", "a red one"], ["<green>", "a green one"]]
    assert cause(source, 1) == "missing caption"
    drawn = opened("folder", root, "text_to_image")
    assert shapes(drawn[0].segments) == ["a red one", "<red>"]
    before = source.fingerprint()
    write(root / "metadata.jsonl", [{"file_name": "c.png", "text": "from the table"}])
    source = opened("folder", root, "pair")
    assert source[1].segments[1] == "from the table"
    assert source.fingerprint() != before
    write(root / "metadata.csv", "file_name,text\nc.png,from the csv\n")
    assert opened("folder", root, "pair")[1].segments[1] == "from the csv"
    write(root / "v.mp4", video(4))
    write(root / "v.txt", "a clip")
    clip = opened("folder", root, "video_pair")
    assert clip.size == 1
    assert len(clip[0].segments[0]) == 4


# Wrong names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "kind", "content", "looks"),
    [
        ("llava", "chat", COCO, "looks like 'coco_captions'"),
        ("llava", "chat", [{"text_list": [], "image_info": []}], "looks like 'mmc4'"),
        ("llava", "chat", [{"a": 1}], "holds a table of 'a'"),
        ("mmc4", "document", [{"conversations": []}], "looks like 'llava'"),
        ("obelics", "document", [{"text": "x"}], "looks like 'text'"),
        ("coco_captions", "pair", INSTANCES, "looks like COCO's instances"),
        ("coco_captions", "pair", QUESTIONS, "looks like 'vqav2'"),
        ("vqav2", "chat", GQA, "looks like 'gqa'"),
        ("vqav2", "chat", ANSWERS, r"looks like the answers of 'vqav2' \(give them as its annotations=\)"),
        ("gqa", "chat", TEXTVQA, "looks like 'textvqa'"),
        ("gqa", "chat", REFS, "looks like 'refcoco'"),
        ("textvqa", "chat", OCR, "looks like the OCR tokens of 'textvqa'"),
        ("textvqa", "chat", COCO, "looks like 'coco_captions'"),
        ("refcoco", "chat", INSTANCES, "looks like COCO's instances"),
        ("refcoco", "chat", [{"edit_prompt": "x"}], "looks like 'instructpix2pix'"),
        ("instructpix2pix", "edit", [GRIT], "looks like 'grit'"),
        ("grit", "grounded_pair", [{"file_name": "x", "caption": "y"}], r"looks like 'folder' \(its metadata\)"),
        ("text", "text", [{"conversations": []}], "looks like 'llava'"),
        ("generation", "edit", [{"edit_prompt": "x"}], "looks like 'instructpix2pix'"),
        ("llava", "chat", [{"prompt": ["x"], "image": "y"}], "looks like 'generation'"),
    ],
)
def test_annotation_file_of_another_format(tmp_path, opened, form, kind, content, looks):
    path = write(tmp_path / "file.json", content)
    with pytest.raises(ValueError, match=rf"file\.json is not in the format '{form}', which needs .*; it {looks}"):
        opened(form, path, kind)


def test_second_files_of_another_format(tmp_path, opened):
    questions = write(tmp_path / "questions.json", QUESTIONS)
    other = write(tmp_path / "other.json", GQA)
    with pytest.raises(ValueError, match="needs 'annotations' with answers; it looks like 'gqa'"):
        opened("vqav2", questions, "chat", annotations=other)
    with pytest.raises(ValueError, match="needs 'annotations' with answers; it looks like 'coco_captions'"):
        opened("vqav2", questions, "chat", annotations=write(tmp_path / "coco.json", COCO))
    with pytest.raises(ValueError, match=r"annotations\.json cannot be read: No such file"):
        opened("vqav2", questions, "chat")
    with pytest.raises(ValueError, match="needs 'data' with ocr_tokens as annotations=; it looks like 'gqa'"):
        opened("textvqa", write(tmp_path / "t.json", TEXTVQA), "chat", annotations=other)
    with pytest.raises(ValueError, match="with bbox as annotations=; it looks like 'gqa'"):
        opened("refcoco", write(tmp_path / "refs.json", REFS), "chat", annotations=other)


@pytest.mark.parametrize(
    ("form", "kind", "name", "content", "message"),
    [
        ("llava", "chat", "a.jsonl", "", "No data found: .* holds no records"),
        ("llava", "chat", "a.json", "{", r"a\.json is not JSON"),
        ("llava", "chat", "a.json", "[]", "holds no records"),
        ("llava", "chat", "a.json", b"\xff\xfe\x00", "its text is not UTF-8"),
        ("llava", "chat", "a.jsonl.gz", b"\x1f\x8b", r"a\.jsonl\.gz is packed: .*unpack it first"),
        ("obelics", "document", "a.parquet", b"PAR?", r"a\.parquet is not a parquet file"),
        ("coco_captions", "pair", "a.json", {"images": [], "annotations": []}, "holds no records"),
    ],
)
def test_unreadable_annotation_files(tmp_path, opened, form, kind, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        opened(form, path, kind)


def test_folders_without_data(tmp_path, opened):
    write(tmp_path / "one/a.png", encoded())
    with pytest.raises(ValueError, match=r"none of the 1 files in .* has a caption: put it into a\.txt beside a\.png"):
        opened("folder", tmp_path / "one", "pair")
    with pytest.raises(ValueError, match="holds no clips"):
        opened("folder", tmp_path / "one", "video_pair")
    with pytest.raises(ValueError, match=r"a\.png is not a folder"):
        opened("folder", tmp_path / "one/a.png", "pair")
    write(tmp_path / "two/metadata.csv", "name,text\na.png,x\n")
    with pytest.raises(ValueError, match=r"metadata\.csv is not in the format 'folder', which needs 'file_name'"):
        opened("folder", tmp_path / "two", "pair")
    with pytest.raises(ValueError, match="No data found: there is no file or folder"):
        opened("llava", write(tmp_path / "c.json", [{"conversations": []}]), "chat", images=tmp_path / "nowhere")
