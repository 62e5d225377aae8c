"""No stage of any recipe that trains on the world ever shows or names a held concept."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from emu2.recipes import names, recipe
from emu2.recipes.start import world_sources
from emu2.world import Scene, default_atlas
from emu2.world.splits import is_seen_scene

RECORDS = 12


def _emoji(truth: Any) -> Iterator[int]:
    """Every emoji that a record's truth speaks of, wherever it stands."""
    if isinstance(truth, dict):
        if isinstance(truth.get("emoji"), int):
            yield truth["emoji"]
        truth = list(truth.values())
    if isinstance(truth, list):
        for value in truth:
            yield from _emoji(value)


def _scenes(truth: Any) -> Iterator[dict]:
    if isinstance(truth, dict):
        if "image_size" in truth and "frames" not in truth:
            yield truth
        truth = list(truth.values())
    if isinstance(truth, list):
        for value in truth:
            yield from _scenes(value)


@pytest.mark.parametrize("size", ["debug", "nano"])
def test_every_stage_trains_on_training_concepts_only(size):
    atlas, walked = default_atlas(), set()
    for name in names(size):
        data = recipe(name, size).data
        assert data.split == "train"
        sources = world_sources(replace(data, image_size=16, pool=None))
        for kind, source in sources.items():
            setting = (kind, data.concepts, repr(data.world))
            if setting in walked:  # stages share kinds
                continue
            walked.add(setting)
            for number in range(RECORDS):
                record = source[number]
                found = list(_emoji(record.truth))
                assert found or all(isinstance(segment, str) for segment in record.segments)
                assert {atlas[emoji].split for emoji in found} <= {"train"}, (name, record.key)
                for facts in _scenes(record.truth):
                    scene = Scene.from_dict(facts)
                    assert not is_seen_scene(scene.arrangement, scene.background.number), (name, record.key)
    assert {"pair", "document"} <= {kind.partition("/")[0] for kind, *_ in walked}
