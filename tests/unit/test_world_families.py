"""Episodes whose answer only the demonstrations tell, pictures drawn on demand, and edits: true and exact."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emu2.data.records import Record
from emu2.processing.grounding import Box
from emu2.world import Background, Scene, SceneObject, World, WorldConfig, default_atlas
from emu2.world.scene import place_at
from emu2.world.tuples import FORMS, in_brackets

SIMPLE = WorldConfig(concepts=64, style="simple", seed=7, image_size=16)
FULL = WorldConfig(seed=7, image_size=16)
EPISODES = ("rule", "tuple", "visual_prompt", "drawing")


def _facts(record: Record) -> list[dict]:
    """The facts of the record's pictures in their order."""
    truth = record.truth
    last = [truth["scene"]] if "scene" in truth else []
    return truth.get("scenes") or [item["scene"] for item in truth.get("demonstrations", ())] + last


def _pictures(record: Record) -> list[Image.Image]:
    shown = [segment.image if isinstance(segment, Box) else segment for segment in record.segments]
    return [picture for picture in shown if isinstance(picture, Image.Image)]


@pytest.mark.parametrize("kind", [*EPISODES, "grounded_generation", "composition", "edit"])
def test_the_facts_give_every_picture_again(kind):
    world = World(replace(FULL, image_size=48))
    for number in range(8):
        record = world[kind, number]
        facts = json.loads(json.dumps(_facts(record)))
        for picture, scene in zip(_pictures(record), facts, strict=True):
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(Scene.from_dict(scene).render(48)))


@pytest.mark.parametrize("kind", EPISODES)
@pytest.mark.parametrize("config", [SIMPLE, FULL, replace(SIMPLE, style="corners")])
def test_more_shots_only_add_demonstrations(kind, config):
    few, many = (World(replace(config, shots=(shots,)))[kind, 3] for shots in (2, 5))
    assert (few.truth["shots"], many.truth["shots"]) == (2, 5)
    assert few.truth.get("answer") == many.truth.get("answer")
    length = len(_facts(few)) // 3 * 2  # the pictures of two demonstrations
    assert _facts(few)[:length] == _facts(many)[:length]
    assert _facts(few)[length:] == _facts(many)[-len(_facts(few)[length:]) :]


@pytest.mark.parametrize("kind", ["naming", "rule", "visual_prompt"])
def test_without_rounds_the_order_tells_nothing(kind):
    after: dict[bool, list[bool]] = {True: [], False: []}
    for rounds in after:
        world = World(replace(SIMPLE, rounds=rounds, shots=(8,), ways=(2,)))
        for number in range(60):
            shown = [item["answer"] for item in world[kind, number].truth["demonstrations"]]
            choices = len(world[kind, number].truth["choices"])
            for start in range(0, len(shown) - choices + 1, choices):
                after[rounds].append(len(set(shown[start : start + choices])) == choices)
    assert all(after[True])  # each word once in every round
    assert 0.2 < sum(after[False]) / len(after[False]) < 0.6  # of two words in every other one, of four in a tenth


# Tuples and red circles ----------------------------------------------------------------------------------------------


def test_tuples_are_true_and_their_form_is_the_episodes():
    world, atlas = World(FULL), default_atlas()
    forms = set()
    for number in range(80):
        truth = world["tuple", number].truth
        forms.add(tuple(truth["form"]))
        for item in [*truth["demonstrations"], truth]:
            facts = item["scene"]
            xs, ys = ([one[axis] for one in facts["objects"]] for axis in "xy")
            assert len({x < 0.5 for x in xs}) == len({y < 0.5 for y in ys}) == 1
            values = {
                "name": atlas[facts["objects"][0]["concept"]].noun,
                "background": facts["background"]["colours"][0],
                "count": str(len(facts["objects"])),
                "place": f"{'top' if ys[0] < 0.5 else 'bottom'} {'left' if xs[0] < 0.5 else 'right'}",
            }
            assert item["answer"] == in_brackets([values[name] for name in truth["form"]])
            assert values["name"] in truth["names"]
            assert values["place"] == place_at(xs[0], ys[0])
        assert truth["chance"] == 1 / len(FORMS)
    assert len(forms) > 30
    assert ("name", "background", "count", "place") in FORMS
    assert in_brackets(["red", "white", "3", "bottom left"]) == "[red, white, 3, bottom left]."


def test_red_circles_mark_what_is_named():
    world, atlas = World(FULL), default_atlas()
    for number in range(60):
        truth = world["visual_prompt", number].truth
        for item in [*truth["demonstrations"], truth]:
            facts = item["scene"]
            marked = facts["objects"][facts["marked"]]
            assert item["answer"] == f"{atlas[marked['concept']].noun}."
            assert sorted(f"{atlas[one['concept']].noun}." for one in facts["objects"]) == truth["choices"]
            assert "red" not in facts["background"]["colours"]
        assert truth["chance"] == 1 / len(truth["choices"])


def test_a_mark_and_a_border_are_drawn():
    atlas = default_atlas()
    objects = (
        SceneObject(atlas.find("dog").index, 0.25, 0.25, "small"),
        SceneObject(atlas.find("cat").index, 0.75, 0.75),
    )
    plain = Scene(objects, Background("plain", ("white",)))
    before, marked, framed = (
        np.asarray(scene.render(96), dtype=int)
        for scene in (plain, replace(plain, marked=0), replace(plain, border="blue"))
    )
    changed = np.abs(marked - before).max(axis=2) > 60
    left, top, right, bottom = plain.boxes(96)[0]
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert columns[0] < left < right <= columns[-1] < 60
    assert rows[0] < top < bottom <= rows[-1] < 60
    assert (framed[:5] == framed[0, 0]).all()
    assert (framed[6:-6, 6:-6] == before[6:-6, 6:-6]).all()
    for broken, message in (
        ({"marked": 2}, "the scene has the objects 0 to 1"),
        ({"border": "mauve"}, "no colour 'mauve'"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(plain, **broken)


# Drawing in context --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [SIMPLE, FULL, replace(SIMPLE, style="corners"), replace(SIMPLE, split="seen", concepts=4)]
)
def test_drawings_share_an_untold_style(config):
    world = World(config)
    changes, forms = Counter(), Counter()
    for number in range(60):
        record = world["drawing", number]
        truth = record.truth
        changes[truth["change"]] += 1
        forms[truth["form"]] += 1
        step = 2 if truth["form"] == "picture" else 1
        drawn = truth["scenes"][step - 1 :: step]
        style = truth["style"]
        assert style in truth["choices"]
        assert len(drawn) == truth["shots"] + 1 == len(truth["words"])
        for facts, words in zip(drawn, truth["words"], strict=True):
            assert facts["background"]["colours"] == [style["background"]]
            assert facts.get("border") == style["border"]
            assert config.style == "corners" or facts["objects"][0]["size"] == style["size"]
            assert facts["objects"][0]["name"] in words
            assert words.endswith(("in the center", f"at the {facts['objects'][0]['place']}"))
            if style["border"]:  # which hides nothing
                assert all(6 <= value <= 90 for value in Scene.from_dict(facts).boxes(96)[0])
        shown = {facts["objects"][0]["concept"] for facts in drawn[:-1]}
        assert drawn[-1]["objects"][0]["concept"] not in shown
        for source, target in zip(truth["scenes"][::2], truth["scenes"][1::2], strict=False) if step == 2 else ():
            assert source["objects"][0]["emoji"] == target["objects"][0]["emoji"]
            assert source["background"] != target["background"]
            assert source["objects"][0]["place"] != target["objects"][0]["place"]
        assert record.answer == (record.segments[-1],)
    assert set(changes) == {"background", "border"} | ({"size"} if config.style != "corners" else set())
    assert set(forms) == {"text", "picture"}


# Generation ----------------------------------------------------------------------------------------------------------


def _said(record: Record) -> str:
    parts = record.segments[:-1]
    return "".join(
        part.phrase or "#" if isinstance(part, Box) else part if isinstance(part, str) else "#" for part in parts
    )


def test_grounded_generation_says_what_stands_where():
    world = World(replace(FULL, image_size=64))
    for number in range(30):
        record = world["grounded_generation", number]
        facts = record.truth["scene"]
        boxes = [part for part in record.segments if isinstance(part, Box)]
        assert [box.xyxy for box in boxes] == [tuple(item["box"]) for item in facts["objects"]]
        assert all(item["name"] in box.phrase for item, box in zip(facts["objects"], boxes, strict=True))
        assert all(box.size == (64, 64) and box.image is None for box in boxes)
        said = _said(record)
        assert said.startswith("A picture of ")
        assert said.endswith(f" on {facts['background']['text']}")
        assert "  " not in said
        assert record.answer_from == len(record.segments) - 1


def test_composition_shows_each_object_otherwise():
    world = World(replace(FULL, image_size=64))
    forms = Counter()
    for number in range(60):
        record = world["composition", number]
        truth = record.truth
        *given, target = truth["scenes"]
        forms[truth["boxed"], truth["named"]] += 1
        for shown, item in zip(given, target["objects"], strict=True):
            (alone,) = shown["objects"]
            assert alone["emoji"] == item["emoji"]
            assert alone["rotation"] != item["rotation"] == 0
            assert alone["size"] != item["size"]
            assert shown["background"] != target["background"]
        boxes = [part for part in record.segments if isinstance(part, Box)]
        assert bool(boxes) == truth["boxed"]
        if boxes:
            assert [box.xyxy for box in boxes] == [tuple(item["box"]) for item in target["objects"]]
        said = _said(record)
        assert said.endswith(f" on {target['background']['text']}")
        assert "  " not in said
        for item in target["objects"]:
            assert (item["name"] in said) == truth["named"] or item["name"] in target["background"]["text"]
            assert boxes or item["place"] in said
    assert len(forms) == 4


# Edits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [FULL, SIMPLE, replace(SIMPLE, style="corners"), replace(FULL, split="held")])
def test_edits_change_what_they_say_and_nothing_else(config):
    world, atlas = World(config), default_atlas()
    kinds = Counter()
    for number in range(150):
        record = world["edit", number]
        truth, told = record.truth, record.truth["instruction"]
        before, after = truth["scenes"]
        about, kind = truth["edit"], truth["edit"]["kind"]
        kinds[kind] += 1
        assert record.segments[1] == told
        old, new = list(before["objects"]), list(after["objects"])
        gone = old.pop(about["before"]) if "before" in about else None
        come = new.pop(about["after"]) if "after" in about else None
        assert old == new
        assert (before["background"] != after["background"]) == (kind == "background")
        if gone:
            assert gone["name"] in told
            twins = [item for item in before["objects"] if item["name"] == gone["name"]]
            assert len(twins) == 1 or gone["place"] in told
        kept = {
            key: gone[key] == come[key] for key in ("emoji", "x", "y", "size", "rotation", "place")
        } if gone and come else {}  # fmt: skip
        if kind == "add":
            assert come["name"] in told
            assert come["place"] in told
        elif kind == "remove":
            assert come is None
        elif kind == "move":
            assert (kept["emoji"], kept["size"], kept["place"]) == (True, True, False)
            assert told.endswith(come["place"])
        elif kind == "resize":
            assert [key for key, same in kept.items() if not same] == ["size"]
            assert come["size"] in told
        elif kind == "background":
            colours = after["background"]["colours"]
            assert all(colour in told for colour in colours)
        else:
            assert [key for key, same in kept.items() if not same] == ["emoji"]
            same_concept = gone["concept"] == come["concept"]
            assert same_concept == (kind != "replace")
            if kind == "skin tone":
                assert atlas[come["emoji"]].modifiers["skin"] == [about["value"]]
                assert f"{about['value']} skin tone" in told
            else:
                assert come["name"] in told
    everyday = {"add", "remove", "replace", "move", "background"}
    assert everyday <= set(kinds)
    assert ("resize" in kinds) == (config.style != "corners")
    assert {"skin tone", "gender"} <= set(kinds) or config.concepts
    assert min(kinds.values()) > 150 / len(kinds) / 3


def test_the_page_of_the_world_runs():
    page = (Path(__file__).parents[2] / "docs" / "world.md").read_text(encoding="utf-8")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert names["before"].size == names["after"].size
