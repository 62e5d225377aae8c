"""Episodes whose answer only the demonstrations tell, pictures drawn on demand, and edits: true and exact."""

import itertools
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
from emu2.world.rules import ATTRIBUTES
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


def test_undistracted_rules_vary_in_what_decides_alone():
    varied: dict[float, list[int]] = {0.0: [], 1.0: []}
    for share, numbers in varied.items():
        world = World(replace(SIMPLE, distracted=share, shots=(8,)))
        for number in range(20):
            truth = world["rule", number].truth
            scenes = [*(item["scene"] for item in truth["demonstrations"]), truth["scene"]]
            shown = {
                name: {values.index(_value(name, scene, values)) for scene in scenes}
                for name, values in truth["varied"].items()
            }
            assert shown.pop(truth["rule"]) == {0, 1}
            numbers += [len(sides) for sides in shown.values()]
    assert set(varied[0.0]) == {1}
    assert sum(varied[1.0]) / len(varied[1.0]) > 1.9
    with pytest.raises(ValueError, match=r"distracted must be a share from 0 to 1; got 1\.5"):
        WorldConfig(distracted=1.5)


def test_undistracted_rules_have_scenes_in_every_split():
    """Where a split holds a thing back in some scenes, those of a rule may be all that vary; others are then drawn."""
    world = World(replace(SIMPLE, style="corners", split="seen", concepts=20, distracted=0.0, shots=(1,)))
    assert len({world["rule", number].truth["rule"] for number in range(150)}) == len(ATTRIBUTES) - 1


# Rule ----------------------------------------------------------------------------------------------------------------


def test_spoken_rules_say_what_decides():
    numbers = {"one": 1, "two": 2, "three": 3}
    shares, opened = {}, []
    for share in (0.0, 0.5, 1.0):
        world = World(replace(SIMPLE, spoken=share))
        spoken = []
        for number in range(60):
            truth = world["rule", number].truth
            binding = truth["binding"]
            spoken.append(all(numbers.get(word, word) == value for word, value in binding.items()))
            first = world["rule", number].segments[0]
            if not spoken[-1] or isinstance(first, str):
                assert first == f"{' or '.join(binding)}?"
            opened += [isinstance(first, str)] if spoken[-1] else []
            assert truth["scene"] == World(SIMPLE)["rule", number].truth["scene"]  # whatever the words are
        shares[share] = sum(spoken) / len(spoken)
    assert (shares[0.0], shares[1.0]) == (0, 1)
    assert 0.3 < shares[0.5] < 0.7
    assert 0.3 < sum(opened) / len(opened) < 0.7
    for wrong in (2, "often"):
        with pytest.raises(ValueError, match=f"spoken must be a share from 0 to 1; got {wrong!r}"):
            WorldConfig(spoken=wrong)


def _value(attribute: str, facts: dict, values: list) -> object:
    """Read an attribute off a scene, by other means than the generator's."""
    atlas, items = default_atlas(), facts["objects"]
    if attribute == "colour":
        return facts["background"]["colours"][0]
    if attribute == "count":
        return len(items)
    if attribute == "size":
        return items[0]["size"]
    if attribute == "group":
        return atlas[items[0]["concept"]].kind
    axis = "x" if "left" in values else "y"
    assert len({item[axis] < 0.5 for item in items}) == 1
    return sorted(values, key=("left", "top", "right", "bottom").index)[items[0][axis] > 0.5]


@pytest.mark.parametrize(
    "config", [SIMPLE, FULL, replace(SIMPLE, split="held", concepts=98), replace(SIMPLE, style="corners")]
)
def test_rules_hold_in_every_picture(config):
    world = World(config)
    rules = Counter()
    for number in range(80):
        truth = world["rule", number].truth
        rules[truth["rule"]] += 1
        values = truth["varied"][truth["rule"]]
        for item in [*truth["demonstrations"], truth]:
            word = item["answer"].removesuffix(".")
            assert _value(truth["rule"], item["scene"], values) == truth["binding"][word]
            for name, both in truth["varied"].items():
                assert _value(name, item["scene"], both) in both
        shown = Counter(item["answer"] for item in truth["demonstrations"])
        assert abs(shown[truth["choices"][0]] - shown[truth["choices"][1]]) <= len(truth["demonstrations"]) % 2
    possible = set(ATTRIBUTES) - ({"size"} if config.style == "corners" else set())
    assert set(rules) == possible


def test_without_demonstrations_a_rule_is_a_coin():
    world = World(replace(SIMPLE, shots=(0,)))
    first, by_value = [], {}
    for number in range(600):
        record = world["rule", number]
        truth = record.truth
        assert truth["chance"] == truth["ideal"] == 0.5
        assert record.segments[0] == f"{truth['choices'][0][:-1]} or {truth['choices'][1][:-1]}?"
        first.append(truth["answer"] == truth["choices"][0])
        # whatever a picture shows tells nothing of the word's place in the opening
        for name, both in truth["varied"].items():
            by_value.setdefault((name, str(_value(name, truth["scene"], both))), []).append(first[-1])
    assert 0.44 < np.mean(first) < 0.56
    assert all(0.3 < np.mean(answers) < 0.7 for answers in by_value.values() if len(answers) >= 60)


def test_demonstrations_settle_a_rule():
    means = []
    for shots in (0, 1, 2, 4, 8, 16):
        world = World(replace(SIMPLE, shots=(shots,)))
        means.append(np.mean([world["rule", number].truth["ideal"] for number in range(150)]))
    assert means[0] == 0.5
    assert all(few <= many + 0.03 for few, many in itertools.pairwise(means))
    assert means[2] > 0.65
    assert means[3] > 0.85
    assert means[4] > 0.97


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
