"""What a question is about is told with its boxes, in stills and in every frame of clips."""

import pytest

from emu2.world import World, WorldConfig
from emu2.world.captions import NUMBERS

CORNERS = {"concepts": 64, "style": "corners", "seed": 7, "image_size": 16, "kinds": ("chat",)}


def _records(question: str, count: int):
    world = World(WorldConfig(questions=question, **CORNERS))
    return [world["chat", number] for number in range(count)]


@pytest.mark.parametrize("question", ["video", "video_quiz"])
def test_what_is_sought_in_a_clip_are_its_boxes_in_every_frame(question):
    unseen = 0
    for record in _records(question, 60):
        truths = record.truth.get("turns", [record.truth])
        for truth, sought in zip(truths, record.sought, strict=True):
            if sought is None:
                assert truth["about"] in ("how many", "describe")
                continue
            assert f"{sought.words}?" in truth["asked"] or truth["about"] != "who"
            assert sought.words in truth["asked"]
            [thing] = [item for item in record.truth["clip"]["objects"] if item["name"] == sought.words]
            boxes = [[list(box.xyxy) for box in moment] for moment in sought.moments]
            assert boxes == [[box] if box else [] for box in thing["boxes"]]
            unseen += [] in boxes
    assert unseen


@pytest.mark.parametrize(
    "question", ["what", "where", "count", "things", "group", "yes_no", "referring", "multi_turn", "quiz"]
)
def test_what_is_sought_are_the_boxes_of_what_is_asked_about(question):
    about_nothing = 0
    for record in _records(question, 60):
        truths = record.truth.get("turns", [record.truth])
        assert len(record.sought) == len(truths)
        objects = record.truth["scene"]["objects"]
        for truth, sought in zip(truths, record.sought, strict=True):
            if sought is None:
                alone = truth["question"] in ("what", "group") and len(objects) == 1  # "What is this?"
                asks_of_one = truth["question"] != "colour" and truth.get("about") not in ("colour", "relation")
                assert alone or not asks_of_one
                continue
            assert sought.words in truth["asked"]
            boxes = sought.boxes
            assert all(box.size == (record.segments[1].width, record.segments[1].height) for box in boxes)
            found = [item for item in objects if list(item["box"]) in [list(box.xyxy) for box in boxes]]
            assert len(found) == len(boxes)
            about_nothing += not boxes
            if truth["question"] == "count":
                assert ("zero", *NUMBERS[1:])[len(boxes)] == truth["label"]
            elif truth["question"] == "things":
                assert len(boxes) == len(objects) == NUMBERS.index(truth["label"])
            elif truth["question"] == "referring":
                assert [list(box.xyxy) for box in boxes] == [truth["box"]]
            elif "subject" in truth:
                assert {item["name"] for item in found} == {truth["subject"]}
            elif truth.get("about") == "presence":
                assert bool(boxes) == (truth["label"] == "yes")
            elif truth["question"] == "what":
                assert [item["name"] for item in found] == [truth["label"]]
    assert (about_nothing > 0) == (question in ("count", "yes_no", "multi_turn", "quiz"))


@pytest.mark.parametrize("question", ["clock", "letters", "flag"])
def test_what_is_sought_of_a_reading_is_where_it_stands(question):
    for record in _records(question, 20):
        [sought] = record.sought
        assert sought.words in record.truth["asked"]
        [box] = sought.boxes
        # Beside it there may be one other thing, which nothing is asked about.
        assert [item["box"] for item in record.truth["scene"]["objects"]].count(list(box.xyxy)) == 1
