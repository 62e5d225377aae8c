"""Pictures that come round, and the features that are kept of them."""

import pytest
import torch

from emu2.train.features import FeatureCache
from emu2.world import World, WorldConfig


def test_a_gallery_has_few_scenes_of_a_thing_and_keeps_the_splits_apart():
    def shown(split, **settings):
        world = World(WorldConfig(kinds=["naming"], split=split, style="corners", concepts=6, shots=(8,), **settings))
        records = [world["naming", index] for index in range(60)]
        return [d["scene"] for record in records for d in [*record.truth["demonstrations"], record.truth]]

    def kinds_of_scenes(scenes):
        found: dict[int, set] = {}
        for scene in scenes:
            thing = scene["objects"][0]
            found.setdefault(thing["emoji"], set()).add((thing["place"], scene["background"]["text"]))
        return found

    few, afresh = kinds_of_scenes(shown("train", gallery=3)), kinds_of_scenes(shown("train"))
    assert len(few) == len(afresh) == 6
    assert max(map(len, few.values())) <= 3
    assert min(map(len, afresh.values())) > 10
    seen = kinds_of_scenes(shown("seen", gallery=3))
    assert all(not few[thing] & seen[thing] for thing in few)
    assert shown("train", gallery=3) == shown("train", gallery=3)
    with pytest.raises(ValueError, match="gallery must be None or at least 1; got 0"):
        WorldConfig(gallery=0)


def test_kept_rows_do_not_depend_on_what_came_with_them_and_the_oldest_go():
    encoded = []

    def encode(rows):
        encoded.append(len(rows))
        return rows * 2

    cache = FeatureCache(encode, keep=2)

    def ask(*keys):
        makers = [lambda key=key: torch.tensor([float(key)]) for key in keys]
        return cache(keys, makers, torch.device("cpu")).flatten().tolist()

    assert ask("1", "2", "1") == [2, 4, 2]
    assert encoded == [1, 1]
    assert ask("1") == [2]
    assert ask("3") == [6]  # "2" was asked for longest ago
    assert encoded == [1, 1, 1]
    assert ask("1", "3") == [2, 6]
    assert ask("2") == [4]
    assert encoded == [1, 1, 1, 1]
    # more at once than are kept, and one of these again after it went
    assert ask("2", "4", "5", "6", "2", "4") == [4, 8, 10, 12, 4, 8]
    del encoded[:]
    assert ask("4", "2") == [8, 4]
    assert encoded == []
    # thousands of rows
    cache, gone = FeatureCache(encode, keep=3000), 500
    numbers = [str(number) for number in range(3000 + gone)]
    for start in range(0, len(numbers), 100):
        ask(*numbers[start : start + 100])
    del encoded[:]
    assert ask(*numbers[gone:]) == [2 * float(number) for number in numbers[gone:]]
    assert encoded == []
    assert ask(*numbers[:3]) == [0, 2, 4]
    assert encoded == [1, 1, 1]
