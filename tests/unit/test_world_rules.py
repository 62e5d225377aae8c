"""Rules: two words follow one attribute of the pictures, made up or spoken, among others that vary or alone."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from emu2.world import World, WorldConfig, default_atlas
from emu2.world.rules import ATTRIBUTES

SIMPLE = WorldConfig(concepts=64, style="simple", seed=7, image_size=16)
FULL = WorldConfig(seed=7, image_size=16)


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


def test_a_cast_is_of_few_things_of_each_kind_anew_in_every_episode():
    world, seen = World(replace(SIMPLE, concepts=None, cast=2, shots=(16,))), set()
    kinds = {entry.noun: entry.kind for entry in default_atlas().emoji}
    for number in range(20):
        truth = world["rule", number].truth
        scenes = [*(item["scene"] for item in truth["demonstrations"]), truth["scene"]]
        shown = {item["name"] for scene in scenes for item in scene["objects"]}
        assert len(shown) > 2  # seventeen pictures of two kinds of two things: one thing alone would be a miracle
        assert max(Counter(kinds[name] for name in shown).values()) <= 2
        assert {kinds[name] for name in shown} == set(truth["varied"]["group"])
        seen |= shown
    assert len(seen) > 50
    assert world["rule", 3].truth == World(world.config)["rule", 3].truth
    for cast in (0, "two"):
        with pytest.raises(ValueError, match=rf"cast must be None or at least 1; got {cast!r}"):
            WorldConfig(cast=cast)


def test_mingled_kinds_are_told_by_things_alone():
    """Any things are thrown together, anew in every episode: what kind of thing one is says nothing about its word."""
    world = World(replace(SIMPLE, concepts=None, cast=2, mingled=1.0, deciding=("group",), shots=(16,)))
    kinds, together = {entry.noun: entry.kind for entry in default_atlas().emoji}, set()
    for number in range(20):
        truth = world["rule", number].truth
        scenes = [*(item["scene"] for item in truth["demonstrations"]), truth["scene"]]
        words = [*(item["answer"] for item in truth["demonstrations"]), truth["answer"]]
        called: dict[str, set[str]] = {}
        for scene, word in zip(scenes, words, strict=True):
            called.setdefault(word, set()).update(item["name"] for item in scene["objects"])
        first, second = called.values()
        assert not first & second
        assert max(len(first), len(second)) == 2
        assert {f"{word}." for word in truth["binding"]} == set(called)
        for word, name in truth["binding"].items():
            assert called[f"{word}."] <= set(name.split(" or "))
        together |= {tuple(sorted({kinds[name] for name in things})) for things in (first, second)}
    assert len([parts for parts in together if len(parts) == 2]) > 10
    # half of them: then some are of kinds
    half = World(replace(world.config, mingled=0.5))
    named = [" or " in half["rule", number].truth["varied"]["group"][0] for number in range(40)]
    assert 10 < sum(named) < 30
    # a pool of three things has two and one, one of two has one and one
    for names, sizes in ((["dog", "cat", "rose"], [2, 1]), (["dog", "rose"], [1, 1])):
        few = World(replace(world.config, concepts=names, kinds=["rule"]))["rule", 0].truth["varied"]["group"]
        assert sorted((len(name.split(" or ")) for name in few), reverse=True) == sizes
    with pytest.raises(ValueError, match=r"mingled must be a share from 0 to 1; got 2"):
        WorldConfig(cast=2, mingled=2)
    with pytest.raises(ValueError, match=r"mingled must be 0 without a cast \(set cast, too\); got 0\.5"):
        WorldConfig(mingled=0.5)


def test_rules_follow_what_may_decide():
    for deciding in (None, ("group",), ["count", "size"]):
        world = World(replace(SIMPLE, deciding=deciding, shots=(1,)))
        assert {world["rule", number].truth["rule"] for number in range(60)} == set(deciding or ATTRIBUTES)
    with pytest.raises(ValueError, match=r"to follow size \(deciding\), but the style 'corners' .* in colour, count"):
        World(replace(SIMPLE, style="corners", deciding=("size",)))
    # where no rules were asked for the first one says it
    world = World(replace(SIMPLE, kinds=["pair"], style="corners", deciding=("size",)))
    with pytest.raises(ValueError, match=r"to follow size \(deciding\)"):
        world["rule", 0]
    # where some episodes are of kinds there have to be two; made-up ones are of any things
    alike = {"kinds": ["rule"], "concepts": ["dog", "cat"], "deciding": ("group",), "cast": 1}
    for mingled in (0.0, 0.5, 0.99):
        with pytest.raises(ValueError, match=r"to follow group \(deciding\)"):
            World(replace(SIMPLE, mingled=mingled, **alike))
    assert World(replace(SIMPLE, mingled=1.0, **alike))["rule", 0].truth["rule"] == "group"
    for deciding in ((), ("weight",), "group", 5):
        with pytest.raises(ValueError, match=r"deciding must be None or names out of colour, count, .*; got "):
            WorldConfig(deciding=deciding)


def test_undistracted_rules_have_scenes_in_every_split():
    """Where a split holds a thing back in some scenes, those of a rule may be all that vary; others are then drawn."""
    world = World(replace(SIMPLE, style="corners", split="seen", concepts=20, distracted=0.0, shots=(1,)))
    assert len({world["rule", number].truth["rule"] for number in range(150)}) == len(ATTRIBUTES) - 1


def test_spoken_rules_say_what_decides():
    numbers = {"one": 1, "two": 2, "three": 3}
    shares, opened, made_up = {}, [], World(SIMPLE)
    for share in (0.0, 0.5, 1.0):
        world = World(replace(SIMPLE, spoken=share))
        spoken = []
        for number in range(60):
            record = world["rule", number]
            truth, first = record.truth, record.segments[0]
            binding = truth["binding"]
            spoken.append(all(numbers.get(word, word) == value for word, value in binding.items()))
            if not spoken[-1] or isinstance(first, str):
                assert first == f"{' or '.join(binding)}?"
            opened += [isinstance(first, str)] if spoken[-1] else []
            assert truth["scene"] == made_up["rule", number].truth["scene"]  # whatever the words are
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
