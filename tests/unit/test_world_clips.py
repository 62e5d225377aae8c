"""Clips, storyboards and grounded pairs: their words are true of what is shown, and splits hold in every frame."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from emu2.processing.grounding import parse_grounding
from emu2.processing.video import Video
from emu2.world import Background, Scene, SceneObject, World, WorldConfig, default_atlas
from emu2.world.clips import MOTIONS, SWINGS, WAYS, Clip, Motion
from emu2.world.films import clip_caption
from emu2.world.motions import way_between
from emu2.world.scene import place_at
from emu2.world.splits import is_seen_scene

SIMPLE = WorldConfig(concepts=64, style="simple", seed=7, image_size=32)
WHITE = Background("plain", ("white",))


def _emoji(name: str) -> int:
    return default_atlas().find(name).index


def _clip(*motions: Motion, frames: int = 8) -> Clip:
    names = ("dog", "apple", "car")
    objects = tuple(
        SceneObject(_emoji(name), *motion.start, "small") for name, motion in zip(names, motions, strict=False)
    )
    return Clip(objects, motions, WHITE, frames)


def test_the_world_is_there_at_once():
    """Still pictures need no model library; importing one takes seconds."""
    code = (
        "import sys; from emu2.world import World, WorldConfig; import emu2.world.preview; "
        "World(WorldConfig(image_size=16))['pair', 0]; print('transformers' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# Motion --------------------------------------------------------------------------------------------------------------


def test_where_things_are_at_every_time():
    start, end = (0.2, 0.2), (0.8, 0.5)
    goes = Motion("goes", start, end)
    assert (goes.at(0), goes.at(0.5), goes.at(1)) == (start, (0.5, 0.35), end)
    returns = Motion("returns", start, end)
    assert (returns.at(0), returns.at(0.5), returns.at(1)) == (start, end, start)
    assert returns.at(0.25) == returns.at(0.75) == (0.5, 0.35)
    stays = Motion("stays", start, start)
    assert stays.at(0.7) == start
    assert [motion.moves for motion in (goes, stays)] == [True, False]
    bounces = Motion("bounces", (0.5, 0.8), (0.5, 0.6), "up and down")
    assert bounces.at(0.25) == bounces.at(0.75) == (0.5, 0.6)
    assert bounces.at(0.5) == (0.5, 0.8)


def test_circles_turn_as_they_are_told():
    """Seen on a picture, clockwise from the top goes to the right."""
    middle, top = (0.5, 0.5), (0.5, 0.3)
    assert Motion("circles", top, middle, "clockwise").at(0.25) == (0.7, 0.5)
    assert Motion("circles", top, middle, "counter-clockwise").at(0.25) == (0.3, 0.5)
    circle = Motion("circles", top, middle, "clockwise")
    assert all(math.dist(circle.at(time / 16), middle) == pytest.approx(0.2, abs=1e-3) for time in range(17))


def test_ways_between_cells():
    assert way_between("left", "right") == "to the right"
    assert way_between("bottom", "top") == "up"
    assert way_between("top left", "bottom right") == "down and to the right"
    assert way_between("top left", "right") == ""  # neither straight nor diagonal
    assert way_between("left", "left") == ""


@pytest.mark.parametrize("frames", [8, 16])
def test_facts_give_the_clip_again_and_boxes_hold_what_is_drawn(frames):
    clip = _clip(
        Motion("goes", (0.2, 0.2), (0.8, 0.2), "to the right"),
        Motion("leaves", (0.5, 0.75), (0.5, 1.2), "bottom"),
        frames=frames,
    )
    facts = json.loads(json.dumps(clip.to_dict(64)))
    assert Clip.from_dict(facts) == clip
    film = clip.render(64)
    assert isinstance(film, Video)
    assert len(film) == facts["frames"] == frames
    for number, frame in enumerate(film):
        drawn = np.asarray(frame, dtype=int).min(axis=2) < 235
        boxes = [item["boxes"][number] for item in facts["objects"] if item["boxes"][number]]
        for left, top, right, bottom in boxes:
            assert drawn[top:bottom, left:right].any()
            drawn[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = False
        assert not drawn.any()
    assert facts["objects"][1]["boxes"][-1] is None
    assert facts["objects"][1]["boxes"][0] is not None


def test_captions_of_clips():
    atlas = default_atlas()
    clip = _clip(
        Motion("stays", (0.5, 0.8), (0.5, 0.8)),
        Motion("goes", (0.2, 0.2), (0.8, 0.2), "to the right"),
    )
    assert clip_caption(clip, "name", atlas) == "an apple goes to the right"
    assert clip_caption(clip, "background", atlas) == "an apple goes to the right on a white background"
    assert clip_caption(clip, "place", atlas) == (
        "an apple goes from the top left to the top right; a dog stays at the bottom"
    )
    assert clip_caption(clip, "full", atlas).endswith("a dog stays at the bottom on a white background")
    told = {
        "returns": ((0.2, 0.5), (0.8, 0.5), "to the right", "goes from the left to the right and back"),
        "comes": ((-0.2, 0.5), (0.5, 0.5), "left", "comes in from the left and stops in the center"),
        "leaves": ((0.2, 0.5), (1.2, 0.5), "right", "goes from the left out to the right"),
        "circles": ((0.5, 0.3), (0.5, 0.5), "clockwise", "circles clockwise around the center"),
        "bounces": ((0.5, 0.8), (0.5, 0.6), "up and down", "bounces up and down at the bottom"),
        "stays": ((0.5, 0.8), (0.5, 0.8), "", "stays at the bottom"),
    }
    for kind, (start, end, way, words) in told.items():
        assert clip_caption(_clip(Motion(kind, start, end, way)), "place", atlas) == f"a dog {words}"
    with pytest.raises(ValueError, match="no caption wording 'long'"):
        clip_caption(clip, "long", atlas)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Motion("flies", (0, 0), (1, 1)), "no motion 'flies'; choose one of goes, returns"),
        (lambda: _clip(), "a motion for each of its objects, and at least one; got 0"),
        (lambda: _clip(Motion("stays", (0.5, 0.5), (0.5, 0.5)), frames=1), "at least 2 frames; got 1"),
        (lambda: WorldConfig(frames=()), "frames must be numbers from 2 to 64"),
        (lambda: WorldConfig(frames=(1,)), r"frames must be numbers from 2 to 64; got \(1,\)"),
    ],
)
def test_wrong_clips_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Records -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["corners", "simple", "full"])
def test_objects_of_clips_are_apart_and_go_as_told(style):
    world = World(replace(SIMPLE, style=style, image_size=96, seed=1))
    kinds = set()
    for number in range(40):
        facts = world["video_pair", number].truth["clip"]
        assert facts["frames"] in (8, 12, 16)
        for item in facts["objects"]:
            motion = item["motion"]
            kinds.add(motion["kind"])
            places = [place_at(*item["centres"][0]), place_at(*item["centres"][-1])]
            if motion["kind"] == "goes":
                assert places == motion["places"]
                assert motion["way"] == way_between(*places)
            elif motion["kind"] in ("returns", "circles", "bounces", "stays"):
                assert places[0] == places[1]
            if motion["kind"] not in ("comes", "leaves"):
                for left, top, right, bottom in item["boxes"]:
                    assert 0 < left < right < 96
                    assert 0 < top < bottom < 96
        for frame in range(facts["frames"]):
            boxes = [item["boxes"][frame] for item in facts["objects"] if item["boxes"][frame]]
            for index, one in enumerate(boxes):
                for other in boxes[:index]:
                    assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    assert kinds == set(MOTIONS)


def test_captions_of_video_pairs_are_true():
    world = World(replace(SIMPLE, wording="full"))
    for number in range(40):
        record = world["video_pair", number]
        assert isinstance(record.segments[0], Video)
        assert record.segments[1] == record.truth["answer"] == record.truth["caption"]
        assert record.answer_from == 1
        facts = record.truth["clip"]
        assert record.segments[1].endswith(f" on {facts['background']['text']}")
        clauses = record.segments[1].removesuffix(f" on {facts['background']['text']}").split("; ")
        assert len(clauses) == len(facts["objects"])
        for item in facts["objects"]:
            [clause] = [clause for clause in clauses if f" {item['name']} " in f"{clause} "]
            went = re.search(r"goes from the (.+) to the ([a-z ]+?)( and back)?$", clause)
            if went and " out " not in clause:
                assert list(went.groups()[:2]) == item["motion"]["places"]
                assert (item["motion"]["kind"] == "returns") == bool(went.group(3))
            if " circles " in clause:
                assert item["motion"]["way"] in clause
            if " stays " in clause:
                assert all(centre == item["centres"][0] for centre in item["centres"])
    assert {len(World(replace(SIMPLE, frames=(5,)))["video_pair", n].segments[0]) for n in range(4)} == {5}


def test_directions_come_up_equally():
    world = World(replace(SIMPLE, image_size=16, frames=(2,)))
    found = [
        item["motion"]["way"]
        for number in range(500)
        for item in world["video_pair", number].truth["clip"]["objects"]
        if item["motion"]["kind"] in ("goes", "bounces")
    ]
    ways = [found.count(way) for way in WAYS]
    assert min(ways) > 0.6 * sum(ways) / len(ways)
    assert all(found.count(swing) > 10 for swing in SWINGS)


def test_storyboards_tell_what_is_shown():
    world = World(replace(SIMPLE, style="full"))
    lengths, halves = set(), 0
    for number in range(40):
        record = world["storyboard", number]
        scenes, told = record.truth["scenes"], record.truth["sentences"]
        lengths.add(len(scenes))
        assert record.truth["seconds"] == list(range(0, 2 * len(scenes), 2))
        assert [type(part) is str for part in record.segments] == [True, False] * len(scenes)
        assert list(record.segments[::2]) == told
        for page, (before, after) in enumerate(pairwise(scenes), 1):
            if told[page].startswith("Cut: "):
                continue
            assert before["background"] == after["background"]
            moved = [(a, b) for a, b in zip(before["objects"], after["objects"], strict=True) if a != b]
            assert len(moved) == (0 if told[page] == "Nothing moves." else 1)
            if not moved:
                continue
            item = moved[0][1]
            if " start" in told[page]:
                halves += 1
                assert item["name"] in told[page]
            elif " stop" in told[page]:
                assert told[page].endswith(f" {item['place']}.")
            else:
                assert item["name"] in told[page]
                assert told[page].endswith(f" to the {item['place']}.")
    assert lengths == set(range(3, 9))
    assert halves > 20


def test_half_way_is_half_way():
    world = World(SIMPLE)
    for number in range(30):
        truth = world["storyboard", number].truth
        for page, told in enumerate(truth["sentences"]):
            if " start" in told and page + 1 < len(truth["scenes"]):
                before, half, after = (
                    next(item for item in truth["scenes"][page + step]["objects"] if item["name"] in told)
                    for step in (-1, 0, 1)
                )
                for axis in ("x", "y"):
                    assert half[axis] == pytest.approx((before[axis] + after[axis]) / 2, abs=1e-3)


def test_grounded_captions_hold_the_exact_boxes():
    world = World(replace(SIMPLE, style="full", image_size=96))
    several = 0
    for number in range(40):
        record = world["grounded_pair", number]
        picture, words = record.segments
        assert isinstance(picture, Image.Image)
        assert words.startswith("<grounding><phrase>")
        found = parse_grounding(words, picture)
        assert [phrase.phrase for phrase in found] == [item["phrase"] for item in record.truth["phrases"]]
        for phrase, item in zip(found, record.truth["phrases"], strict=True):
            several += len(item["boxes"]) > 1
            for box, true in zip(phrase.boxes, item["boxes"], strict=True):
                assert box.xyxy == pytest.approx(true, abs=96 / 224)
        boxes = sorted(box for item in record.truth["phrases"] for box in item["boxes"])
        assert boxes == sorted(item["box"] for item in record.truth["scene"]["objects"])
        for phrase in record.truth["phrases"]:
            assert phrase["phrase"] in record.truth["caption"]
    assert several > 3


@pytest.mark.parametrize("style", ["corners", "simple", "full"])
def test_no_frame_of_training_is_set_aside(style):
    train, seen = (World(replace(SIMPLE, style=style, split=split, image_size=16)) for split in ("train", "seen"))
    for number in range(30):
        for scene in Clip.from_dict(train["video_pair", number].truth["clip"]).visible_scenes():
            assert not is_seen_scene(scene.arrangement, scene.background.number)
        first: Scene = next(Clip.from_dict(seen["video_pair", number].truth["clip"]).visible_scenes())
        assert is_seen_scene(first.arrangement, first.background.number)


@pytest.mark.parametrize("split", ["train", "val", "held"])
def test_clips_show_the_concepts_of_their_split(split):
    world, atlas = World(WorldConfig(split=split, image_size=16, questions="video")), default_atlas()
    for kind in ("video_pair", "chat"):
        for number in range(40):
            objects = world[kind, number].truth["clip"]["objects"]
            assert all(atlas[item["emoji"]].split == split for item in objects)


@pytest.mark.parametrize("split", ["train", "seen"])
def test_few_concepts_are_enough(split):
    world = World(
        WorldConfig(
            kinds=("video_pair", "storyboard"), concepts=["dog", "cat"], style="corners", split=split, image_size=16
        )
    )
    for kind in ("video_pair", "storyboard"):
        for number in range(15):
            assert world[kind, number].key.endswith(str(number))
