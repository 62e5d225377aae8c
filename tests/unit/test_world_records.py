"""Records: pure functions of their number, true to their scenes, and faithful to the splits."""

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from emu2.data.records import Record
from emu2.processing.grounding import Box
from emu2.world import KINDS, World, WorldConfig, default_atlas
from emu2.world.episodes import MADE_UP_WORDS, tally
from emu2.world.splits import is_seen_scene

SIMPLE = WorldConfig(concepts=64, style="simple", seed=7)


def _same(one: Record, other: Record) -> bool:
    if (one.kind, one.key, one.answer_from, one.truth) != (other.kind, other.key, other.answer_from, other.truth):
        return False
    return all(
        a == b if isinstance(a, str) else np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip(one.segments, other.segments, strict=True)
    )


def _scenes(record: Record) -> list[dict]:
    truth = record.truth
    return [
        *truth.get("scenes", ()),
        *(item["scene"] for item in truth.get("demonstrations", ())),
        *([truth["scene"]] if "scene" in truth else ()),
    ]


def _pictures(record: Record) -> list[Image.Image]:
    """The pictures that truth["scenes"] and the like tell of: stills, and objects' pictures in boxes."""
    shown = [segment.image if isinstance(segment, Box) else segment for segment in record.segments]
    return [picture for picture in shown if isinstance(picture, Image.Image)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_is_a_pure_function_of_its_number(kind):
    one, other = World(SIMPLE), World(SIMPLE)
    for number in (5, 0, 3):
        assert _same(one[kind, number], other.record(kind, number))
    assert not _same(one[kind, 0], one[kind, 1])
    assert not _same(one[kind, 0], World(replace(SIMPLE, seed=8))[kind, 0])
    assert not _same(one[kind, 0], World(replace(SIMPLE, split="seen"))[kind, 0])


def test_records_do_not_depend_on_the_mixture():
    only = World(replace(SIMPLE, kinds=("pair",)))
    assert _same(only["pair", 4], World(SIMPLE)["pair", 4])


def test_the_stream_mixes_by_weight_and_resumes():
    world = World(replace(SIMPLE, kinds={"pair": 3.0, "text": 1.0, "naming": 0.0}))
    records = list(islice(world.stream(), 300))
    counts = Counter(record.kind for record in records)
    assert set(counts) == {"pair", "text"}
    assert 0.67 < counts["pair"] / 300 < 0.83
    assert all(_same(a, b) for a, b in zip(islice(world.stream(290), 10), records[290:], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_records_are_well_formed(kind):
    world = World(WorldConfig(image_size=48, seed=3))
    for number in range(25):
        record = world[kind, number]
        json.dumps(record.truth)
        assert record.kind == kind
        pictures = _pictures(record)
        assert all(picture.size == (48, 48) and picture.mode == "RGB" for picture in pictures)
        assert len(pictures) == len(_scenes(record))
        for segment in record.segments:
            if isinstance(segment, str):
                # a prompt around boxes and objects keeps the spaces between them
                assert segment == segment.strip() or kind in ("grounded_generation", "composition")
                assert segment.strip()


def test_forms_of_the_plain_kinds():
    world = World(SIMPLE)
    pair, draw = world["pair", 0], world["text_to_image", 0]
    assert [type(part) is str for part in pair.segments] == [False, True]
    assert pair.answer == (pair.truth["answer"],)
    assert [type(part) is str for part in draw.segments] == [True, False]
    assert draw.prompt == (draw.truth["caption"],)
    assert world["text", 0].answer_from is None
    assert {world["pair", n].truth["wording"] for n in range(60)} == {"name", "background", "place", "full"}
    assert {World(replace(SIMPLE, wording="full"))["pair", n].truth["wording"] for n in range(20)} == {"full"}


def test_documents_tell_what_changes():
    world = World(SIMPLE)
    lengths = set()
    for number in range(60):
        record = world["document", number]
        scenes = record.truth["scenes"]
        lengths.add(len(scenes))
        assert [type(part) is str for part in record.segments] == [True, False] * len(scenes)
        for before, after, told in zip(scenes, scenes[1:], record.truth["sentences"][1:], strict=False):
            kept = [item for item in before["objects"] if item in after["objects"]]
            if told.startswith("Now there is"):
                assert len(kept) == len(before["objects"]) == len(after["objects"])
                assert after["background"]["text"] in told
            elif told.endswith(" goes away."):
                assert len(kept) == len(after["objects"]) == len(before["objects"]) - 1
            elif " goes " in told:
                assert len(kept) == len(after["objects"]) - 1 == len(before["objects"]) - 1
                assert after["objects"][-1]["place"] in told
            elif " comes " in told:
                assert len(kept) == len(before["objects"]) == len(after["objects"]) - 1
                assert after["objects"][-1]["name"] in told
    assert lengths == set(range(2, 9))


def test_counting_answers_are_true():
    world = World(replace(SIMPLE, style="full"))
    for number in range(40):
        record = world["counting", number]
        truth = record.truth
        assert record.segments[-1] == truth["answer"] == tally(truth["scene"]["counts"])
        assert truth["answer"] in truth["choices"]
        assert truth["chance"] == pytest.approx(1 / len(truth["choices"]))
        for item in truth["demonstrations"]:
            assert item["answer"] == tally(item["scene"]["counts"])
    assert tally({"dog": 1, "cat": 2, "owl": 0}) == "[cat: 2, dog: 1]."


def test_naming_words_are_bound_in_the_episode():
    world = World(SIMPLE)
    first = Counter()
    for number in range(120):
        record = world["naming", number]
        truth = record.truth
        assert record.segments[0] == " or ".join(record.segments[0].removesuffix("?").split(" or ")) + "?"
        assert set(re.findall(r"\w+", record.segments[0])) - {"or"} == set(truth["binding"])
        for item in [*truth["demonstrations"], truth]:
            word = item["answer"].removesuffix(".")
            assert item["scene"]["counts"] == {truth["binding"][word]: 1}
        shown = [item["answer"] for item in truth["demonstrations"]]
        if len(shown) >= truth["ways"]:
            counts = Counter(shown)
            assert len(counts) == truth["ways"]
            assert max(counts.values()) - min(counts.values()) <= 1
        assert truth["chance"] == 1 / truth["ways"]
        first[(truth["ways"], truth["choices"].index(truth["answer"]))] += 1
    # without demonstrations nothing says which word it is: every position is right about equally often
    assert all(0.3 < first[2, choice] / sum(first[2, c] for c in range(2)) < 0.7 for choice in range(2))
    everyday = {entry.noun for entry in default_atlas().everyday()}
    assert len(MADE_UP_WORDS) > 4000
    assert not everyday & set(MADE_UP_WORDS)


@pytest.mark.parametrize("kind", ["naming", "counting"])
def test_more_shots_only_add_demonstrations(kind):
    few, many = (World(replace(SIMPLE, shots=(shots,)))[kind, 3] for shots in (2, 8))
    assert few.truth["scene"] == many.truth["scene"]
    assert few.truth["demonstrations"] == many.truth["demonstrations"][:2]
    assert many.truth["shots"] == 8
    assert {World(SIMPLE)[kind, n].truth["shots"] for n in range(60)} == {0, 1, 2, 4, 8, 16}


@pytest.mark.parametrize("config", [WorldConfig(), replace(SIMPLE, concepts=98), WorldConfig(variants=True)])
def test_no_held_concept_in_any_training_record(config):
    atlas = default_atlas()
    world = World(replace(config, image_size=16))
    assert all(entry.split == "train" for entry in world.studio.pool)
    for record in islice(world.stream(), 400):
        for scene in _scenes(record):
            assert all(atlas[item["emoji"]].split == "train" for item in scene["objects"])


def test_no_held_name_in_any_training_text():
    held = {
        name for entry in default_atlas().everyday() if entry.split != "train" for name in (entry.noun, entry.plural)
    }
    world = World(replace(SIMPLE, concepts=98, image_size=16))
    for kind in KINDS:
        for number in range(150):
            for segment in world[kind, number].segments:
                if isinstance(segment, Box):
                    assert not held & set(re.findall(r"\w+", (segment.phrase or "").lower()))
                if isinstance(segment, str):
                    assert not held & set(re.findall(r"\w+", segment.lower()))


@pytest.mark.parametrize("style", ["corners", "simple", "full"])
@pytest.mark.parametrize("split", ["train", "seen"])
def test_training_never_shows_a_scene_of_the_seen_split(split, style):
    from emu2.world import Scene

    world = World(replace(SIMPLE, split=split, image_size=16, style=style))
    for record in islice(world.stream(), 150):
        for facts in _scenes(record):
            scene = Scene.from_dict(facts)
            assert is_seen_scene(scene.arrangement, scene.background.number) == (split == "seen")


@pytest.mark.parametrize("split", ["val", "held"])
def test_held_back_splits_show_only_their_concepts(split):
    atlas = default_atlas()
    for config in (replace(SIMPLE, split=split), WorldConfig(split=split, image_size=16)):
        for record in islice(World(config).stream(), 60):
            for scene in _scenes(record):
                assert all(atlas[item["emoji"]].split == split for item in scene["objects"])


def test_variants_come_up_when_asked_for():
    world = World(WorldConfig(variants=True, concepts=["astronaut"], kinds=("pair",), image_size=32))
    assert len({item["emoji"] for n in range(30) for item in world["pair", n].truth["scene"]["objects"]}) > 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 8}, "image_size must be from 16 to 1024 pixels; got 8"),
        ({"kinds": ("pairs",)}, "there is no kind 'pairs'; choose from pair, document"),
        ({"kinds": {"pair": -1.0}}, "kinds must be weights"),
        ({"kinds": {}}, "kinds must be weights"),
        ({"split": "test"}, "split must be one of train, seen, val, held; got 'test'"),
        ({"style": "fancy"}, "style must be one of"),
        ({"wording": "long"}, "wording must be None or one of"),
        ({"shots": (100,)}, "shots must be numbers from 0 to 64"),
        ({"shots": 8}, "shots must be numbers from 0 to 64; got 8"),
        ({"shots": ("eight",)}, "shots must be numbers from 0 to 64"),
        ({"frames": "8"}, "frames must be numbers from 2 to 64; got '8'"),
        ({"frames": (8.5,)}, "frames must be numbers from 2 to 64"),
        ({"max_pages": "three"}, "max_pages must be from 2 to 8; got 'three'"),
        ({"gallery": "few"}, "gallery must be None or at least 1; got 'few'"),
        ({"kinds": {"pair": "often"}}, "kinds must be weights"),
        ({"kinds": 3}, "kinds must be names, or names with weights; got 3"),
        ({"concepts": 2.5}, "concepts=2.5: give a list of names, a number or None"),
        ({"ways": (1,)}, "ways must be numbers from 2 to 8"),
        ({"max_pages": 1}, "max_pages must be from 2 to 8"),
        ({"rounds": "no"}, "rounds must be true or false; got 'no'"),
        ({"concepts": 3}, "need 4 different concepts"),
    ],
)
def test_a_wrong_configuration_is_told(fields, message):
    with pytest.raises(ValueError, match=message):
        World(WorldConfig(**fields))


def test_wrong_requests_are_told():
    world = World(SIMPLE)
    with pytest.raises(ValueError, match="no kind 'pairs'"):
        world.record("pairs", 0)
    with pytest.raises(ValueError, match="numbered from 0; got -1"):
        world["pair", -1]
    with pytest.raises(ValueError, match="numbered from 0; got -1"):
        world[-1]


def test_a_wrong_record_is_told():
    with pytest.raises(ValueError, match="at least one segment"):
        Record("pair", (), "key")
    with pytest.raises(ValueError, match="answer_from must lie between 0 and 1"):
        Record("pair", ("a", "b"), "key", answer_from=2)
    record = Record("pair", ("a", "b"), "key", answer_from=1)
    assert (record.prompt, record.answer) == (("a",), ("b",))
    assert Record("text", ("a",), "key").answer == ("a",)


def test_text_may_be_episodes_told_in_words():
    asked = replace(SIMPLE, told=1.0, shots=(4,), ways=(2,), concepts=None)
    world, families = World(asked), Counter()
    for number in range(60):
        record = world["text", number]
        (words,) = record.segments
        families[record.truth["episode"]] += 1
        assert words.endswith(f": {record.truth['answer']}")
        assert all(f": {each['answer']}" in words for each in record.truth["demonstrations"])
        if record.truth["episode"] == "naming":
            assert words.startswith(tuple(MADE_UP_WORDS))
            assert all(noun in words for noun in record.truth["binding"].values())
    assert set(families) == {"naming", "rule", "tuple", "counting"}
    plain = World(replace(SIMPLE, told=0.0))["text", 3]
    assert _same(plain, World(SIMPLE)["text", 3])
    for name in ("told", "echoed"):
        with pytest.raises(ValueError, match=f"{name} must be a share from 0 to 1; got 2"):
            WorldConfig(**{name: 2})


def test_an_echo_shows_a_word_by_one_picture():
    asked = replace(SIMPLE, shots=(4,), ways=(2,))
    world, plain, repeated = World(replace(asked, echoed=1.0)), World(asked), 0
    for number in range(20):
        record, usual = world["naming", number], plain["naming", number]
        for each, alike in ((record, True), (usual, False)):
            pictures = {}
            for shown in (
                *each.truth["demonstrations"],
                {"scene": each.truth["scene"], "answer": each.truth["answer"]},
            ):
                pictures.setdefault(shown["answer"], set()).add(json.dumps(shown["scene"]))
            kinds = [len(scenes) for scenes in pictures.values()]
            if alike:
                assert kinds == [1, 1]
            else:
                repeated += kinds == [1, 1]
    assert repeated == 0


def test_text_may_say_made_up_words_again():
    world, forms = World(replace(SIMPLE, echoed=1.0)), Counter()
    for number in range(40):
        record = world["text", number]
        (said,) = record.segments
        words = record.truth["echo"]
        assert set(words) <= set(MADE_UP_WORDS)
        assert len(set(words)) == len(words)
        if ":" not in said:
            forms["list"] += 1
            assert said == f"{' '.join((*words, *words))}."
            continue
        forms["pairs"] += 1
        told = [tuple(pair.split(": ")) for pair in said.rstrip(".").split(". ")]
        known = dict(zip(words[::2], words[1::2], strict=True))
        assert told[: len(known)] == list(known.items())
        assert len(told) == len(known) + 8
        assert all(known[word] == answer for word, answer in told)
    assert min(forms.values()) > 8
    assert _same(World(replace(SIMPLE, echoed=0.0))["text", 3], World(SIMPLE)["text", 3])


def test_a_crowded_scene_has_another_thing_in_every_corner():
    world = World(WorldConfig(kinds=("grounded_pair", "counting"), style="crowded", image_size=32, wording="name"))
    for index in range(12):
        facts = world["grounded_pair", index].truth
        assert sorted(item["place"] for item in facts["scene"]["objects"]) == sorted(
            ("top left", "top right", "bottom left", "bottom right")
        )
        assert len({item["concept"] for item in facts["scene"]["objects"]}) == 4
        assert len(facts["phrases"]) == 4
    world["counting", 0]  # kinds that ask for a number get it
