"""Configurations: typed, checked, overridden by dotted paths, saved and read back."""

from itertools import pairwise

import pytest

from emu2 import recipes
from emu2.train.config import OptimConfig, RunConfig, from_dict, to_dict, with_overrides


def config(**changes) -> RunConfig:
    return RunConfig(**{"name": "x", "objective": "caption", "parts": ("vision", "language"), **changes})


@pytest.mark.parametrize(("size", "name"), [(size, name) for size in recipes.SIZES for name in recipes.names(size)])
def test_every_recipe_is_valid_and_survives_json(size, name):
    made = recipes.recipe(name, size)
    assert (made.name, made.size) == (name, size)
    assert from_dict(to_dict(made)) == made


def test_overrides_reach_every_depth_and_keep_types():
    changed = with_overrides(
        config(),
        [
            *("steps=7", "optim.lr=3", "optim.part_lr.vision=5e-5", "optim.betas=[0.9,0.98]", "data.kinds.text=0.5"),
            *("data.mode=one_kind", "ema_decay=0.9", "data.pool=null", 'parts=["vision"]', "data.world.style=full"),
        ],
    )
    assert changed.steps == 7
    assert changed.optim.lr == 3.0
    assert isinstance(changed.optim.lr, float)
    assert changed.optim.part_lr == {"vision": 5e-5}
    assert changed.optim.betas == (0.9, 0.98)
    assert changed.data.kinds == {"pair": 1.0, "text": 0.5}
    assert changed.data.mode == "one_kind"
    assert changed.data.pool is None
    assert changed.data.world == {"style": "full"}
    assert changed.parts == ("vision",)
    assert changed.ema_decay == 0.9


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.lrr=1", r"There is no setting 'optim.lrr'; there are: name, objective, .*optim.lr"),
        ("nothing.at.all=1", "There is no setting 'nothing.at.all'"),
        ("optim.lr", "A setting is written key=value, as in optim.lr=3e-4; got 'optim.lr'"),
        ("steps=many", "steps is of type int; got 'many'"),
        ("steps=1.5", "steps is of type int; got 1.5"),
        ("steps=0", "steps must be 1 or more; got 0"),
        ("data.mode=both", "data.mode is one of 'mixed', 'one_kind'; got 'both'"),
        ("optim.betas=[0.9]", r"optim.betas is a list of 2 values; got \[0.9\]"),
        ("optim.betas=[0.9,1.5]", r"optim.betas lie in \[0, 1\)"),
        ("optim.lr=-1", "optim.lr must be 0 or more; got -1"),
        ("objective=guess", "objective is one of 'contrastive', 'language', 'caption'"),
        ('parts=["tail"]', "parts names 'tail', which is no part"),
        ("optim.part_lr.unet=1e-3", "optim.part_lr names 'unet', which this run does not train"),
        ("optim.warmup_steps=2000", r"optim.warmup_steps \(2000\) is more than steps \(1000\)"),
        ("data.kinds.pair=0", "data.kinds needs at least one kind with a weight above 0"),
        ("data.batch_size=0", "data.batch_size must be 1 or more"),
        ("diffusion.drop_embeddings=1", r"diffusion.drop_embeddings lies in \[0, 1\); got 1"),
        ("diffusion.crop_scale=[2,1]", "diffusion.crop_scale must be"),
        ("ema_decay=1.0", r"ema_decay lies in \(0, 1\)"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(setting, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(config(), [setting])


def test_unknown_recipe_and_size_list_what_there_is():
    with pytest.raises(ValueError, match="no recipe 'captions' at the size 'debug'; there are vision, language"):
        recipes.recipe("captions")
    with pytest.raises(ValueError, match="no recipes at the size 'huge'; sizes are debug, nano, 37b"):
        recipes.recipe("caption", "huge")


def test_the_schedule_rises_falls_and_ends():
    from emu2.train.optim import schedule_factor

    optim = OptimConfig(warmup_steps=4, schedule="cosine", min_lr_ratio=0.1)
    factors = [schedule_factor(step, 20, optim) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert all(a > b for a, b in pairwise(factors[4:]))
    assert schedule_factor(20, 20, optim) == pytest.approx(0.1)
    assert schedule_factor(12, 20, OptimConfig(warmup_steps=4, schedule="linear")) == pytest.approx(0.5)
    assert schedule_factor(19, 20, OptimConfig(schedule="constant")) == 1.0
