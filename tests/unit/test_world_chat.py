"""Conversations: answers are true, and nobody can guess them without looking."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image

from emu2.data.readers.wording import LETTER_ANSWER, SHORT_ANSWER
from emu2.processing.grounding import Box, parse_grounding
from emu2.processing.prompts import SYSTEM_CONCISE, SYSTEM_DETAILED, chat_parts
from emu2.processing.video import Video
from emu2.world import World, WorldConfig, default_atlas
from emu2.world.captions import NUMBERS
from emu2.world.chat import QUESTIONS, USUAL_QUESTIONS
from emu2.world.clip_asking import DEEDS
from emu2.world.clips import WAYS, Clip
from emu2.world.everyday import EVERYDAY
from emu2.world.reading import clocks, flags, signs
from emu2.world.scene import PLACES, place_at

SIMPLE = WorldConfig(concepts=64, style="simple", seed=7, image_size=16, kinds=("chat",))


def _records(question: str, count: int, **fields: object):
    world = World(replace(SIMPLE, questions=question, **fields))
    return [world["chat", number] for number in range(count)]


def _exchanges(question: str, count: int, **fields: object):
    """(truth of a question, facts of its picture), of one-question records and of conversations alike."""
    for record in _records(question, count, **fields):
        for exchange in record.truth.get("turns", [record.truth]):
            yield exchange, record.truth.get("scene")


def _number(label: str) -> int:
    return 0 if label == "zero" else NUMBERS.index(label)


# Form ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", QUESTIONS)
def test_conversations_are_well_formed(question):
    forms = Counter()
    for record in _records(question, 30, style="full"):
        json.dumps(record.truth)
        assert record.segments == tuple(segment for _, content in record.turns for segment in content)
        assert record.truth["question"] == question
        roles = [role for role, _ in record.turns]
        assert roles == ["system", *["user", "assistant"] * (len(roles) // 2)]
        (system,), (shown, asked) = record.turns[0][1], record.turns[1][1]
        several = question in ("multi_turn", "quiz", "video_quiz")
        form = record.truth["turns"][0]["form"] if several else record.truth["form"]
        forms[form] += 1
        assert system == (SYSTEM_CONCISE if form == "short" else SYSTEM_DETAILED)
        assert isinstance(shown, Video if question in ("video", "video_quiz") else Image.Image)
        truths = record.truth["turns"] if several else [record.truth]
        questions = [content[-1] for role, content in record.turns if role == "user"]
        answers = [content[0] for role, content in record.turns if role == "assistant"]
        assert len(truths) == len(questions) == len(answers)
        for truth, words, answer in zip(truths, questions, answers, strict=True):
            assert words.split("\n")[0] == truth["asked"].split("\n")[0]
            assert answer == truth["answer"] == truth["accepted"][0]
            assert truth["answer"] in truth.get("choices", [truth["answer"]])
            assert truth["question"] == "referring" or (truth["form"] == "short") == (truth["answer"] == truth["label"])
        assert (asked.endswith(LETTER_ANSWER)) == (question == "choice" and form == "short")
        assert not asked.endswith(SHORT_ANSWER) or system == SYSTEM_CONCISE
    assert question in ("referring", "quiz", "video_quiz") or min(forms["short"], forms["detailed"]) > 4


def test_turns_are_worded_as_the_chat_template_does():
    [record] = _records("multi_turn", 1)
    messages = [{"role": role, "content": list(content)} for role, content in record.turns]
    parts = chat_parts(messages, add_generation_prompt=False)
    learned = [part.content for part in parts if part.is_answer]
    assert learned[::2] == [content[0] for role, content in record.turns if role == "assistant"]
    assert set(learned[1::2]) == {"</s>"}


def test_questions_mix_by_weight():
    world = World(replace(SIMPLE, questions={"what": 3.0, "clock": 1.0, "flag": 0.0}))
    asked = Counter(world["chat", number].truth["question"] for number in range(200))
    assert set(asked) == {"what", "clock"}
    assert 0.65 < asked["what"] / 200 < 0.85
    assert {World(SIMPLE)["chat", number].truth["question"] for number in range(200)} == set(USUAL_QUESTIONS)


# Truth ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["corners", "simple", "full"])
def test_answers_about_pictures_are_true(style):
    kinds_of_things = {noun: kind for _, noun, _, kind in EVERYDAY}
    for question in ("what", "where", "count", "things", "colour", "group", "multi_turn", "quiz"):
        for truth, scene in _exchanges(question, 40, style=style):
            label, asked = truth["label"], truth["asked"]
            if truth["question"] == "what":
                [item] = [item for item in scene["objects"] if item["place"] == truth["place"]]
                assert label == item["name"]
                assert truth["place"] in asked or len(scene["objects"]) == 1
                assert asked.startswith(("What ", "And "))
            elif truth["question"] == "where":
                [item] = [item for item in scene["objects"] if item["name"] == truth["subject"]]
                assert label == item["place"]
                assert truth["subject"] in asked
            elif truth["question"] == "count":
                assert _number(label) == scene["counts"].get(truth["subject"], 0)
            elif truth["question"] == "things":
                assert _number(label) == len(scene["objects"]) > 0
                assert "things" in asked
            elif truth["question"] == "colour":
                colours = scene["background"]["colours"]
                orders = {" and ".join(colours), " and ".join(reversed(colours))}
                assert label in orders
                assert len(truth["accepted"]) == len(colours)
            elif truth["question"] == "group":
                [item] = [item for item in scene["objects"] if item["place"] == truth["place"]]
                assert label == kinds_of_things[item["name"]]
                assert item["name"] not in re.findall(r"\w+", asked)


def test_yes_and_no_are_true():
    seen, plurals = Counter(), {noun: plural for _, noun, plural, _ in EVERYDAY}
    for truth, scene in _exchanges("yes_no", 300):
        asked, so = truth["asked"], truth["label"] == "yes"
        seen[truth["about"]] += 1
        names = {item["name"]: item for item in scene["objects"]}
        if truth["about"] == "presence":
            noun = asked.removeprefix("Is there ").removesuffix("?").removesuffix(" in the picture").split(" ", 1)[1]
            assert so == (noun in names)
        elif truth["about"] == "number":
            stated = asked.split(" exactly ")[1].split(" ")[0]
            words = re.findall(r"\w+", asked)
            [count] = [count for name, count in scene["counts"].items() if name in words or plurals[name] in words]
            assert so == (count == _number(stated))
        elif truth["about"] == "place":
            [item] = [item for name, item in names.items() if f"the {name} " in asked]
            assert so == asked.removesuffix("?").endswith(f"the {item['place']}")
        elif truth["about"] == "colour":
            assert so == (scene["background"]["colours"][0] in asked)
        else:
            first, second = sorted((name for name in names if f"the {name}" in asked), key=asked.index)[-2:]
            one, two = names[first], names[second]
            side = {
                "left of": one["x"] < two["x"],
                "right of": one["x"] > two["x"],
                "above": one["y"] < two["y"],
                "below": one["y"] > two["y"],
            }
            assert so == next(holds for words, holds in side.items() if words in asked)
    assert min(seen[about] for about in ("presence", "number", "place", "colour", "relation")) > 30


def test_choices_hold_one_right_answer():
    for truth, scene in _exchanges("choice", 200):
        options, right = truth["options"], truth["options"]["ABCD".index(truth["label"])]
        assert len(set(options)) == len(options) == 4
        question, *lines = truth["asked"].split("\n")
        assert lines == [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True)]
        by_place = {item["place"]: item["name"] for item in scene["objects"]}
        true = {
            "what": lambda words, by_place=by_place, asked=question: any(
                asked in (f"What is at the {place}?", "What is in the center?") and name == words
                for place, name in by_place.items()
                if f"the {place}?" in asked
            ),
            "where": lambda words, by_place=by_place, asked=question: f" the {by_place.get(words)}?" in asked,
            "colour": lambda words, scene=scene: words == scene["background"]["colours"][0],
            "count": lambda words, scene=scene: _number(words) == len(scene["objects"]),
        }[truth["about"]]
        assert [option for option in options if true(option)] == [right]


def test_boxes_answer_referring_expressions():
    ways = Counter()
    for record in _records("referring", 150, style="full", image_size=96):
        truth = record.truth
        ways[truth["way"]] += 1
        assert record.turns[0][1] == (SYSTEM_CONCISE,)
        assert truth["answer"].startswith("<grounding><phrase>")
        [phrase] = parse_grounding(truth["answer"], (96, 96))
        assert phrase.phrase == truth["expression"]
        assert truth["expression"] in truth["asked"]
        [item] = [item for item in truth["scene"]["objects"] if item["box"] == truth["box"]]
        assert phrase.boxes[0].xyxy == pytest.approx(item["box"], abs=96 / 224)
        assert list(Box(tuple(item["box"]), size=(96, 96)).to_indices()) == truth["indices"]
        same = [other for other in truth["scene"]["objects"] if other["name"] == item["name"]]
        words = truth["expression"]
        if truth["way"] == "name":
            assert len(same) == 1
        elif truth["way"] == "end":
            axis, sign = {"left": ("x", 1), "right": ("x", -1), "topm": ("y", 1), "bott": ("y", -1)}[
                "left" if "leftmost" in words else "right" if "rightmost" in words else words[4:8]
            ]
            assert item is min(same, key=lambda other: sign * other[axis])
        elif "place" in truth["way"]:
            assert words.endswith(item["place"])
        assert truth["chance"] == 1 / len(truth["scene"]["objects"])
    assert set(ways) == {"name", "place", "name and place", "size", "end"}


def test_clocks_signs_and_flags_are_those_of_the_split():
    atlas = default_atlas()
    assert atlas.find("three-thirty") is clocks(atlas, "val")["3:30"]
    assert atlas.find("twelve o’clock") is clocks(atlas, "train")["12:00"]
    assert atlas.find("OK button") is signs(atlas, "train")["OK"]
    assert flags(atlas, "train")["Ecuador"].name == "flag: Ecuador"
    for known in (clocks, signs, flags):
        split = [set(known(atlas, split)) for split in ("train", "val", "held")]
        assert all(split)
        assert not split[0] & split[1] | split[0] & split[2] | split[1] & split[2]
    assert len({time for split in ("train", "val", "held") for time in clocks(atlas, split)}) == 24
    for split in ("train", "seen", "val", "held"):
        concepts = "train" if split == "seen" else split
        for question, known in (("clock", clocks), ("letters", signs), ("flag", flags)):
            for record in _records(question, 20, split=split):
                shown = record.truth["scene"]["objects"][0]
                assert shown["emoji"] == known(atlas, concepts)[record.truth["label"]].index
                assert shown["rotation"] == 0
                assert all(atlas[item["emoji"]].split == concepts for item in record.truth["scene"]["objects"])


@pytest.mark.parametrize("question", ["video", "video_quiz"])
def test_answers_about_clips_are_true(question):
    seen = Counter()
    for record in _records(question, 250, frames=(4,)):
        objects = record.truth["clip"]["objects"]
        assert Clip.from_dict(record.truth["clip"]).frames == 4
        moving = [item["name"] for item in objects if item["motion"]["kind"] != "stays"]
        asked = [truth["asked"] for truth in record.truth.get("turns", [record.truth])]
        assert len(set(asked)) == len(asked) <= 8
        for truth in record.truth.get("turns", [record.truth]):
            about, label = truth["about"], truth["label"]
            seen[about] += 1
            named = [item for item in objects if f"the {item['name']} " in truth["asked"].replace("?", " ")]
            assert about in ("how many", "who", "describe") or len(named) == 1
            first = (named or objects)[0]
            assert question == "video_quiz" or about == "who" or first is objects[0]
            start, end = (place_at(*first["centres"][frame]) for frame in (0, -1))
            if about == "direction":
                across, down = (first["centres"][-1][axis] - first["centres"][0][axis] for axis in (0, 1))
                signs = [0 if abs(change) < 0.1 else (change > 0) - (change < 0) for change in (across, down)]
                assert signs == list(WAYS[label])
            elif about in ("start", "end"):
                assert label == (start if about == "start" else end)
            elif about == "who":
                assert [label] == moving
            elif about == "how many":
                assert _number(label) == len(moving)
            elif about == "whether moves":
                assert (label == "yes") == (first["name"] in moving)
            elif about == "whether way":
                assert (label == "yes") == truth["asked"].endswith(f" go {first['motion']['way']}?")
            elif about == "edge":
                x, y = first["centres"][0 if first["motion"]["kind"] == "comes" else -1]
                assert {"left": x < 0, "right": x > 1, "top": y < 0, "bottom": y > 1}[label]
            elif about == "deed":
                assert label == DEEDS[first["motion"]["kind"]]
    assert len(seen) == (10 if question == "video" else 9)


# Nothing to guess ----------------------------------------------------------------------------------------------------


def _evenly(counts: Counter, labels: list[str], slack: float = 0.45) -> bool:
    expected = sum(counts.values()) / len(labels)
    return all(abs(counts[label] - expected) <= slack * expected + 3 for label in labels)


@pytest.mark.parametrize(
    ("question", "labels"),
    [
        ("count", ["zero", "one", "two", "three", "four", "five", "six"]),
        ("things", ["one", "two", "three", "four", "five", "six"]),
        ("where", list(PLACES)),
        ("colour", ["white", "black", "red", "yellow", "green", "blue", "purple", "orange"]),
        ("group", None),
        ("yes_no", ["yes", "no"]),
        ("choice", ["A", "B", "C", "D"]),
        ("clock", None),
    ],
)
def test_answers_come_up_equally(question, labels):
    """For every way of asking, so that the question gives nothing away."""
    ways: dict[str, Counter] = {}
    for truth, _ in _exchanges(question, 500):
        ways.setdefault(truth.get("about", ""), Counter())[truth["label"]] += 1
        ways.setdefault(truth["asked"].split(" ")[0], Counter())[truth["label"]] += 1
        assert truth["chance"] == pytest.approx(1 / len(truth["choices"]))
        labels = labels or truth["choices"] if truth["form"] == "short" else labels
    for way, counts in ways.items():
        assert sum(counts.values()) < 40 or _evenly(counts, labels), (way, counts)


def test_the_named_thing_says_nothing_about_the_answer():
    """Things that are asked about are there as often as not, and in as many copies as any other."""
    there, total = Counter(), Counter()
    for truth, _ in _exchanges("yes_no", 1200, concepts=8):
        if truth["about"] == "presence":
            asked = truth["asked"].replace(" in the picture?", "?")
            total[asked] += 1
            there[asked] += truth["label"] == "yes"
    assert len(total) == 8
    assert all(0.25 < there[asked] / total[asked] < 0.75 for asked in total if total[asked] > 15)


def test_answers_about_clips_come_up_equally():
    ways: dict[str, Counter] = {}
    choices: dict[str, list[str]] = {}
    for truth, _ in _exchanges("video", 700, frames=(2,), image_size=16):
        if truth["about"] not in ("describe", "who"):
            ways.setdefault(truth["about"], Counter())[truth["label"]] += 1
            if truth["form"] == "short":
                choices[truth["about"]] = truth["choices"]
    for about, counts in ways.items():
        assert _evenly(counts, choices[about], slack=0.6), (about, counts)


def test_later_questions_are_not_answered_by_earlier_ones():
    lengths, continued = Counter(), 0
    for record in _records("multi_turn", 150):
        turns = record.truth["turns"]
        lengths[len(turns)] += 1
        assert len({truth["asked"] for truth in turns}) == len(turns)
        for number, truth in enumerate(turns):
            before = " ".join(f"{turn['asked']} {turn['answer']}" for turn in turns[:number])
            if truth["question"] in ("what", "where", "group"):
                name = truth.get("subject", truth["label"])
                assert f" {name} " not in f" {before} ".replace("?", " ").replace(".", " ")
                follows = number > 0 and turns[number - 1]["question"] == truth["question"] != "group"
                assert truth["asked"].startswith("And ") == follows
                continued += follows
    assert set(lengths) == {2, 3, 4}
    assert continued > 10


def test_a_quiz_asks_ten_different_questions():
    for record in _records("quiz", 40, style="corners"):
        asked = [truth["asked"].replace(" in the picture?", "?") for truth in record.truth["turns"]]
        assert len(set(asked)) == len(asked) == 10
        counted = [truth["subject"] for truth in record.truth["turns"] if truth["question"] == "count"]
        assert len(set(counted)) == len(counted) >= 1  # never the same in other words


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"questions": ("who",)}, "no kind of question 'who'; choose from what, count"),
        ({"questions": {"what": -1.0}}, "questions must be weights"),
        ({"questions": ()}, "questions must be weights, not all of them 0"),
        ({"concepts": 3}, "'chat' need 4 different concepts"),
    ],
)
def test_a_wrong_configuration_is_told(fields, message):
    with pytest.raises(ValueError, match=message):
        World(replace(SIMPLE, **fields))


def test_a_question_that_cannot_be_asked_is_told():
    world = World(WorldConfig(kinds=("chat",), questions="group", concepts=["dog", "car", "pizza", "star"]))
    with pytest.raises(ValueError, match="Questions of the kind 'group' cannot be asked"):
        world["chat", 0]
