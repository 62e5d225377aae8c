"""Figures, their intervals, measures of likeness, and what captions say."""

import numpy as np
import pytest
import torch
from PIL import Image

from emu2.evaluate.figures import iou, mean, psnr, share, similarities, ssim
from emu2.evaluate.said import counts_said
from emu2.world import default_atlas


def test_shares_have_wilsons_interval():
    found = share([True] * 81 + [False] * 182)  # Newcombe 1998, table I
    assert (round(found.value, 4), round(found.low, 4), round(found.high, 4), found.n) == (0.3080, 0.2553, 0.3662, 263)
    assert share([True] * 10).low == pytest.approx(0.7225, abs=1e-4)
    assert share([False] * 10).interval == (0.0, pytest.approx(0.2775, abs=1e-4))


def test_means_have_an_interval_that_holds_them():
    values = np.random.default_rng(1).normal(3, 1, 400).tolist()
    found = mean(values)
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(values) / 20, rel=0.1)
    assert mean(values) == found  # the same numbers every time
    assert mean([2.0]).interval == (2.0, 2.0)


def test_means_of_groups_weigh_every_group_alike():
    found = mean([1.0] * 30 + [0.0] * 10, groups=[0] * 30 + [1] * 10)
    assert found.value == 0.5
    assert found.interval == (0.5, 0.5)


def test_nothing_has_no_figure():
    for figure in (share, mean):
        with pytest.raises(ValueError, match="nothing to take a figure of"):
            figure([])
    with pytest.raises(ValueError, match="2 values have 1 groups"):
        mean([1.0, 2.0], groups=[0])


def test_pictures_are_compared():
    one, other = Image.new("RGB", (16, 16), (10, 10, 10)), Image.new("RGB", (16, 16), (20, 20, 20))
    assert psnr(one, one) == 99
    assert psnr(one, other) == pytest.approx(20 * np.log10(25.5))
    half = np.zeros((16, 16), bool)
    half[:8] = True
    mixed = one.copy()
    mixed.paste(other.crop((0, 0, 16, 8)), (0, 8))
    assert psnr(one, mixed, half) == 99
    with pytest.raises(ValueError, match="leaves 0 pixels"):
        psnr(one, other, np.zeros((16, 16), bool))
    with pytest.raises(ValueError, match="cannot be compared"):
        psnr(one, one.resize((8, 8)))


def test_structure_is_compared():
    pytest.importorskip("skimage")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    assert ssim(noise, noise) == pytest.approx(1)
    assert ssim(noise, Image.new("RGB", (32, 32))) < 0.2


def test_boxes_overlap():
    assert iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_features_are_compared():
    features = torch.randn(3, 4, 8)
    assert similarities(features, features) == pytest.approx([1, 1, 1])
    assert similarities(features, -features) == pytest.approx([-1, -1, -1])


def test_numbers_tell_a_plural_from_a_thing_of_that_name():
    atlas = default_atlas()
    assert counts_said("two houses and a dog on a red background", atlas) == {"house": 2, "dog": 1}
    assert counts_said("houses on a red background", atlas) == {"houses": 1}
    assert counts_said("two fish and a person in lotus position on a red background", atlas) == {
        "fish": 2,
        "person in lotus position": 1,
    }
    assert counts_said("stars", atlas) == {"star": 1}
    assert counts_said("two of them", atlas) == {}
