"""One tiny data set of every format of documents, conversations, boxes, edits and folders; and what is bad there."""

import io
import sys

import pytest
from helpers_readers import COLOURS, GRIT, cause, encoded, pair_members, parquet, shapes, tar_bytes, video, write
from PIL import Image

from emu2 import tokens
from emu2.data.readers.wording import SHORT_ANSWER
from emu2.processing.grounding import Box
from emu2.processing.prompts import SYSTEM_CONCISE, SYSTEM_DETAILED
from emu2.processing.video import Video

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


# Boxes, edits ---------------------------------------------------------------------------------------------------------


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
