"""Annotation files of public data sets: what their records are, and what is said of a file of another format."""

import pickle

import pytest
from helpers_readers import (
    ANSWERS,
    COCO,
    GQA,
    GRIT,
    INSTANCES,
    OCR,
    QUESTIONS,
    REFS,
    TEXTVQA,
    cause,
    encoded,
    shapes,
    write,
)

from emu2 import tokens
from emu2.data.readers.wording import SHORT_ANSWER
from emu2.processing.grounding import parse_grounding
from emu2.processing.prompts import SYSTEM_CONCISE, SYSTEM_DETAILED


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
