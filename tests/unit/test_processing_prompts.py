"""Conversations, few shots and boxes: the exact wordings, and what is refused."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from emu2 import Box, Video, tokens
from emu2.processing.grounding import GroundedPhrase, grounded_text, parse_grounding
from emu2.processing.prompts import (
    SYSTEM_CONCISE,
    SYSTEM_DETAILED,
    chat_parts,
    default_chat_template,
    few_shot_parts,
    prompt_string,
)

PICTURE = Image.new("RGB", (4, 4), "green")


def worded(messages, **options):
    return prompt_string([part.content for part in chat_parts(messages, **options)])


def user(*content):
    return {"role": "user", "content": list(content)}


def assistant(text):
    return {"role": "assistant", "content": text}


CONVERSATION = [user("Hi", PICTURE, "?"), assistant("Yes."), user("More.")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {},
            f"{SYSTEM_DETAILED} [USER]: Hi[<IMG_PLH>]? [ASSISTANT]: Yes.</s>[USER]: More. [ASSISTANT]:",
        ),
        (
            {"style": "concise"},
            f"{SYSTEM_CONCISE} [USER]: Hi[<IMG_PLH>]? [ASSISTANT]: Yes.</s>[USER]: More. [ASSISTANT]:",
        ),
        (
            {"grounding": True},
            f"{SYSTEM_CONCISE} [USER]: Hi[<IMG_PLH>]? [ASSISTANT]: Yes.</s>[USER]: More. [ASSISTANT]:<grounding>",
        ),
        (
            {"wording": "huggingface"},
            "[USER]: Hi[<IMG_PLH>]?[ASSISTANT]: Yes.</s>[USER]: More.[ASSISTANT]:",
        ),
        (
            {"add_generation_prompt": False},
            f"{SYSTEM_DETAILED} [USER]: Hi[<IMG_PLH>]? [ASSISTANT]: Yes.</s>[USER]: More.",
        ),
    ],
)
def test_wordings(options, expected):
    assert worded(CONVERSATION, **options) == expected


def test_own_system_message_and_answers():
    messages = [{"role": "system", "content": "Be brief."}, *CONVERSATION[:2]]
    finished = worded(messages, add_generation_prompt=False)
    assert finished == "Be brief. [USER]: Hi[<IMG_PLH>]? [ASSISTANT]: Yes.</s>"
    assert worded(messages, continue_final_message=True) == finished.removesuffix("</s>")
    parts = chat_parts(messages, add_generation_prompt=False)
    assert [part.content for part in parts if part.is_answer] == ["Yes.", "</s>"]


def test_content_parts(tmp_path):
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    kinds = [
        {"type": "image", "image": PICTURE},
        {"type": "image", "image": str(tmp_path / "a.png")},
        {"type": "image", "path": tmp_path / "a.png"},
        {"type": "image", "url": url},
        {"type": "image", "image": np.asarray(PICTURE)},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        PICTURE,
        tmp_path / "a.png",
    ]
    expected = f"{SYSTEM_DETAILED} [USER]: {'[<IMG_PLH>]' * len(kinds)}what? [ASSISTANT]:"
    assert worded([user(*kinds, {"type": "text", "text": "what?"})]) == expected
    assert worded([{"role": "user", "content": "what?"}]) == f"{SYSTEM_DETAILED} [USER]: what? [ASSISTANT]:"


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "video", "video": [PICTURE, PICTURE]}],
        [{"type": "video", "video": Video([PICTURE] * 2)}],
        [Video([PICTURE] * 2)],
        ["[VIDEO]", PICTURE, PICTURE, "[/VIDEO]"],
    ],
)
def test_video(content):
    prompt = worded([user(*content, PICTURE, "Same?")])
    assert prompt == f"{SYSTEM_DETAILED} [USER]: [VIDEO][<VID_PLH>][<VID_PLH>][<IMG_PLH>]Same? [ASSISTANT]:"


def test_what_a_person_writes_cannot_pass_for_a_picture():
    """Placeholders, template syntax and private-use characters in a text stay text."""
    for text in ("[<IMG_PLH>]", "{{ 1 + 1 }}{% if %}", "\ue0000\ue001", "[VIDEO][<VID_PLH>]"):
        parts = [part.content for part in chat_parts([user(text, PICTURE)])]
        assert parts[1:3] == [text, PICTURE]


def test_template_renders_without_this_package():
    """The saved chat template alone gives the same prompt, as other software uses it."""
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [user({"type": "text", "text": "What?"}, {"type": "image"}), assistant("A cat."), user()]
    rendered, _ = render_jinja_template([messages], chat_template=default_chat_template(), add_generation_prompt=True)
    assert rendered == [f"{SYSTEM_DETAILED} [USER]: What?[<IMG_PLH>] [ASSISTANT]: A cat.</s>[USER]:  [ASSISTANT]:"]


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([], {}, "The conversation is empty"),
        ([{"role": "system", "content": "x"}], {}, "The conversation is empty"),
        ([assistant("x")], {}, r"messages\[0\] has role 'assistant' where 'user' is due"),
        ([user("x"), user("y")], {}, r"messages\[1\] has role 'user' where 'assistant' is due"),
        ([user("x"), {"role": "tool", "content": "y"}], {}, r"messages\[1\] has role 'tool'"),
        ([user("x"), assistant("y")], {}, "The last message is the assistant's, so there is nothing to answer"),
        ([user("x")], {"continue_final_message": True}, "the last one is the user's"),
        ([user("x")], {"wording": "german"}, "wording is one of 'native', 'huggingface'; got 'german'"),
        ([user("x")], {"style": "rude"}, "style is one of 'detailed', 'concise'; got 'rude'"),
        ("hello", {}, "messages is a list of"),
        ([user({"type": "audio", "audio": 1})], {}, "got type 'audio' with fields"),
        ([user({"type": "text"})], {}, "got type 'text' with fields"),
        ([user(3.5)], {}, r"messages\[0\] holds a float"),
        ([{"role": "user"}], {}, r"messages\[0\] holds a NoneType"),
        ([user({"type": "image_url", "image_url": {"url": "https://a.b/c.png"}})], {}, "nothing is fetched"),
        ([user({"type": "image", "image": "http://a.b/c.png"})], {}, "nothing is fetched"),
        ([user({"type": "video", "video": "https://a.b/c.mp4"})], {}, "nothing is fetched"),
        ([user({"type": "video", "video": []})], {}, "A video needs at least one frame"),
        ([user("x")], {"template": "{{ raise_exception('no') }}"}, "cannot be rendered: no"),
        ([user("x")], {"template": "{% if %}"}, "The chat template cannot be rendered"),
        ([user(PICTURE)], {"template": "x"}, "The chat template writes 0 of the 1 pictures and videos"),
        ([user("x")], {"template": "[<IMG_PLH>]"}, "writes more pictures than the messages hold"),
    ],
)
def test_bad_conversations(messages, options, message):
    with pytest.raises(ValueError, match=message):
        chat_parts(messages, **options)


def test_few_shot_of_the_paper():
    shots = [(PICTURE, "what animal?", "cat"), (PICTURE, "how many?", "two")]
    assert prompt_string(few_shot_parts(shots, (PICTURE, "which colour?"))) == (
        "[<IMG_PLH>]based on the picture, what animal? short answer: cat. "
        "[<IMG_PLH>]based on the picture, how many? short answer: two. "
        "[<IMG_PLH>]based on the picture, which colour? short answer:"
    )
    assert prompt_string(few_shot_parts([], (PICTURE, "which colour?"))) == (
        "[<IMG_PLH>]based on the picture, answer in one word or phrase. which colour? short answer:"
    )


def test_few_shot_as_a_list():
    shots = [(PICTURE, "cobalt, four"), (PICTURE, ("red", 3))]
    expected = "[<IMG_PLH>][cobalt, four].[<IMG_PLH>][red, 3].[<IMG_PLH>]"
    assert prompt_string(few_shot_parts(shots, PICTURE, wording="list")) == expected
    assert prompt_string(few_shot_parts(shots, (PICTURE,), wording="list")) == expected


@pytest.mark.parametrize(
    ("shots", "query", "wording", "message"),
    [
        ([(PICTURE, "a")], (PICTURE, "q"), "paper", r"demonstrations\[0\] must be \(picture, question, answer\)"),
        ([(PICTURE, "q", "a")], PICTURE, "list", r"demonstrations\[0\] must be \(picture, answer\) for wording='list'"),
        ([], PICTURE, "paper", r"The query must be \(picture, question\) for wording='paper'; got Image"),
        ([], PICTURE, "poem", "wording is one of 'paper', 'list'; got 'poem'"),
    ],
)
def test_bad_few_shots(shots, query, wording, message):
    with pytest.raises(ValueError, match=message):
        few_shot_parts(shots, query, wording=wording)


# Boxes ----------------------------------------------------------------------------------------------------------------


def test_box_picture():
    picture = np.asarray(Box((30, 40, 210, 260)).draw())
    assert picture.shape == (448, 448, 3)
    assert set(np.unique(picture)) == {0, 255}
    rows, columns = np.nonzero(picture[..., 0])
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (30, 40, 210, 260)
    assert picture[45, 30:40, 0].tolist() == [255] * 3 + [0] * 7  # three pixels of outline, nothing inside
    whole = np.asarray(Box((0, 0, 640, 480), size=(640, 480)).draw())
    assert whole[0].all()
    assert whole[:, 447].all()
    assert not whole[3:445, 3:445].any()


def test_box_tokens_and_back():
    box = Box((160, 0, 640, 240), "the red cup", size=(640, 480))
    expected = [56, 0, 224, 112]
    text = "".join(map(tokens.patch_index, expected))
    assert box.to_tokens() == f"<phrase>the red cup</phrase><object>{text}</object>"
    found = parse_grounding(f"Here: {box.to_tokens()}.", (640, 480))
    assert found == [GroundedPhrase("the red cup", (box,))]
    assert Box(box.xyxy, size=box.size).to_tokens() == f"<object>{text}</object>"


def test_every_grid_position_survives():
    for index in range(225):
        box = parse_grounding(tokens.patch_index(index) * 4, (1000, 333))[0].boxes[0]
        assert box.to_indices() == (index,) * 4


def test_parse_answers():
    def run(*indices):
        return " ".join(map(tokens.patch_index, indices))

    two = f"{run(0, 0, 112, 112)} </delimiter_of_multi_objects/> {run(112, 112, 224, 224)}"
    several = f"<phrase> dogs </phrase> <object> {two} </object>"
    first, second = parse_grounding(
        f"{several} and <phrase>a cat</phrase> <object> {run(1, 2, 3, 4)} </object>", (224, 224)
    )
    assert (first.phrase, [box.xyxy for box in first.boxes]) == ("dogs", [(0, 0, 112, 112), (112, 112, 224, 224)])
    assert (second.phrase, second.boxes[0].xyxy) == ("a cat", (1, 2, 3, 4))
    # bare, in brackets, as eight in a row, out of order, above the grid, cut short, none
    assert parse_grounding(run(1, 2, 3, 4), (224, 224))[0].boxes[0].xyxy == (1, 2, 3, 4)
    bracketed = "[" + ", ".join(map(tokens.patch_index, (1, 2, 3, 4))) + "]"
    assert parse_grounding(bracketed, (448, 224)) == [GroundedPhrase(None, (Box((2, 2, 6, 4), size=(448, 224)),))]
    assert len(parse_grounding(run(1, 2, 3, 4, 5, 6, 7, 8), (224, 224))[0].boxes) == 2
    assert parse_grounding(run(30, 40, 10, 20), (224, 224))[0].boxes[0].xyxy == (10, 20, 30, 40)
    assert parse_grounding(run(0, 0, 256, 256), (224, 224))[0].boxes[0].xyxy == (0, 0, 224, 224)
    assert parse_grounding(run(1, 2, 3), (224, 224)) == []
    assert parse_grounding("no boxes here", (224, 224)) == []
    # a phrase belongs to the object right after it, not to a later one
    assert parse_grounding(f"<phrase>x</phrase> is near {run(1, 2, 3, 4)}", (224, 224))[0].phrase is None


def test_grounded_text_of_several_boxes():
    boxes = [Box((0, 0, 112, 112), size=(224, 224)), Box((5, 6, 7, 8), size=(224, 224))]
    assert parse_grounding(grounded_text("dogs", boxes), (224, 224))[0].phrase == "dogs"
    assert [box.xyxy for box in parse_grounding(grounded_text(None, boxes), (224, 224))[0].boxes] == [
        box.xyxy for box in boxes
    ]
    with pytest.raises(ValueError, match="at least one box"):
        grounded_text("dogs", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"xyxy": (10, 10, 500, 20)}, r"Box \(10, 10, 500, 20\) lies outside its picture of 448x448 pixels"),
        ({"xyxy": (-1, 0, 5, 5)}, "lies outside its picture"),
        ({"xyxy": (0, 0, 5, 50), "size": (100, 40)}, "lies outside its picture of 100x40 pixels"),
        ({"xyxy": (20, 0, 10, 5)}, "left <= right and top <= bottom"),
        ({"xyxy": (0, 0, 5)}, "four finite numbers"),
        ({"xyxy": (0, 0, float("nan"), 5)}, "four finite numbers"),
        ({"xyxy": (0, 0, 1, 1), "size": (0, 5)}, r"needs a picture with pixels; size=\(0, 5\)"),
        ({"xyxy": (0, 0, 1, 1), "phrase": "a </phrase> b"}, "holds the special token </phrase>"),
    ],
)
def test_bad_boxes(arguments, message):
    with pytest.raises(ValueError, match=message):
        Box(**arguments)
