"""Contrast of regions: things where they stand against their phrases, other pictures kept as they were seen."""

import random
from dataclasses import replace

import pytest
import torch
from helpers_train import SIDE, clip, pair, run_config, tiny_whole, trainer, weights

from emu2 import tokens
from emu2.data.records import Record
from emu2.data.sources import ListSource
from emu2.processing.grounding import Box, grounded_text
from emu2.train.config import with_overrides
from emu2.train.metrics import read_log
from emu2.train.objectives import objective_class
from emu2.train.settings import LookingBack


def grounded(number: int) -> Record:
    """A pair's picture, and each of its colours with the half it fills."""
    picture, words = pair(number).segments
    left, right = words.split()[0], words.split()[2]
    half = SIDE // 2
    boxes = {left: (0, 0, half, SIDE), right: (half, 0, SIDE, SIDE)}
    told = " and ".join(grounded_text(name, [Box(box, name, (SIDE, SIDE))]) for name, box in boxes.items())
    return Record("grounded_pair", (picture, f"{tokens.GROUNDING}{told}"), f"grounded-{number}", 1)


def _config(kept: float = 0.0, **changes):
    config = run_config("contrastive")
    config = replace(
        config, contrast="regions", kept_weight=kept, data=replace(config.data, kinds={"grounded_pair": 1.0})
    )
    return replace(config, **changes)


def _objective(kept: float = 0.0, **changes):
    return objective_class("contrastive")(tiny_whole(), _config(kept, **changes), torch.device("cpu"))


def _batch(objective, *records):
    samples = [objective.sample(record, random.Random(0)) for record in records]
    batch = objective.collate(samples, [record.key for record in records])
    batch.seeds = list(range(len(records)))
    return batch


def test_a_phrase_is_found_by_the_embeddings_that_its_box_covers():
    objective = _objective()
    batch = _batch(objective, grounded(0), grounded(3))
    # red left, green right; white left, purple right
    assert batch.counts == {"regions": 4, "patches": 32}
    assert batch.tensors["cells"].tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]] * 2  # halves of a 2 x 2 grid
    assert batch.tensors["rows"].tolist() == [0, 0, 1, 1]
    assert len(set(batch.tensors["named"].tolist())) == 4
    again = _batch(objective, grounded(0), grounded(0))
    named = again.tensors["named"].tolist()
    assert named[:2] == named[2:]  # equal phrases are one
    assert len(again.tensors["input_ids"]) == 2
    assert 0 < float(objective.terms(batch)["regions"].detach()) < 10


def test_regions_are_learned(tmp_path):
    config = _config(steps=40)
    config = with_overrides(config, ["optim.lr=3e-3", "optim.schedule=constant"])
    trainer(config, tmp_path, sources={"grounded_pair": ListSource([grounded(i) for i in range(8)])}).run()
    losses = [line["loss"] for line in read_log(tmp_path / "log.jsonl")]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_kept_pictures_look_as_before_and_count_by_their_spread():
    objective = _objective(kept=2.0)
    assert objective.weights == {"regions": 1.0, "patches": 1.0, "kept": 2.0}
    batch = _batch(objective, grounded(0), pair(1), clip(2), pair(4), pair(5))
    assert batch.counts == {"regions": 2, "patches": 16, "kept": 4}
    objective.begin(lambda: [batch])
    assert float(objective.terms(batch)["kept"]) == 0.0
    with torch.no_grad():
        for parameter in objective.whole.model.model.visual.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    moved = objective.terms(batch)["kept"]
    assert float(moved) > 0
    alone = _batch(objective, grounded(0))
    assert float(objective.terms(alone)["kept"]) == 0.0
    none = _batch(objective, pair(1))
    assert none.counts == {"regions": 0, "patches": 0, "kept": 1}
    terms = objective.terms(none)
    assert float(terms["regions"].detach()) == float(terms["patches"].detach()) == 0.0
    sum(terms.values()).backward()


def test_what_is_kept_stays_nearer(tmp_path):
    mixed = {"grounded_pair": ListSource([grounded(i) if i % 2 else pair(i) for i in range(16)])}
    changes = []
    for name, kept in (("free", 1e-6), ("kept", 20.0)):
        config = with_overrides(_config(kept, steps=20), ["optim.lr=3e-3", "optim.schedule=constant"])
        trainer(config, tmp_path / name, sources=mixed).run()
        changes.append(read_log(tmp_path / name / "log.jsonl")[-1]["loss/kept"])
    assert changes[1] < 0.5 * changes[0]


TOLD = LookingBack(heads={"grounded_pair": ((0, 1),)}, weight=0.5)


def test_told_heads_look_from_each_patch_of_a_box_at_its_middle(tmp_path):
    objective = _objective(looking_back=TOLD)
    batch = _batch(objective, grounded(0))
    assert batch.counts["looking"] == 16
    # Of a 4 x 4 grid of patches: the left half, from the top, looks at the patch right of its middle line's foot.
    rows, places, middles, _ = batch.tensors["patches"].unbind(dim=1)
    assert (rows.unique().tolist(), places[:8].tolist()) == ([0], [0, 1, 4, 5, 8, 9, 12, 13])
    assert (middles[:8].unique().tolist(), middles[8:].unique().tolist()) == ([9], [11])
    pixels = batch.tensors["pixel_values"]
    tower = objective.whole.model.model.visual
    with torch.no_grad():
        x = tower(pixels, output_hidden_states=True).hidden_states[0]
        attention = tower.blocks[0].attn
        query, key = attention.queries_and_keys(x, 1)
        share = (query @ key.transpose(1, 2) * 8**-0.5).softmax(-1)  # heads are 8 wide
        expected = -share[0, 1 + places, 1 + middles].log().mean()
        torch.testing.assert_close(objective.terms(batch)["looking"], expected)
    config = with_overrides(_config(looking_back=TOLD, steps=60), ["optim.lr=1e-2", "optim.schedule=constant"])
    trainer(config, tmp_path, sources={"grounded_pair": ListSource([grounded(i) for i in range(8)])}).run()
    looked = [line["loss/looking"] for line in read_log(tmp_path / "log.jsonl")]
    assert looked[-1] < 0.85 * looked[0]


def test_a_resumed_run_keeps_what_the_first_one_began_with(tmp_path):
    mixed = {"grounded_pair": ListSource([grounded(i) if i % 2 else pair(i) for i in range(16)])}
    config = _config(1.0, soften=2.0, looking_back=TOLD, ema_decay=None)
    whole, halves = tiny_whole(), tiny_whole()
    trainer(config, tmp_path / "whole", whole=whole, sources=mixed).run()
    trainer(config, tmp_path / "halves", whole=halves, sources=mixed).run(until=3)
    resumed = tiny_whole()
    trainer(config, tmp_path / "halves", whole=resumed, sources=mixed).run(resume=True)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_softened_attention_is_that_of_divided_scores():
    plain, soft = _objective().whole.model.model.visual, _objective(soften=4.0).whole.model.model.visual
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        for tower in (plain, soft):
            for block in tower.blocks:
                block.attn.qkv.weight.mul_(20.0)  # so that attention matters
        x = plain(pixels, output_hidden_states=True).hidden_states[0]
        (query, key), (softer, same) = (tower.blocks[0].attn.queries_and_keys(x, 0) for tower in (plain, soft))
    torch.testing.assert_close(softer * 4.0, query)
    assert torch.equal(key, same)


def test_what_regions_cannot_use_is_refused():
    with pytest.raises(ValueError, match=r"'pair-1' .pair. has no phrase with a box to contrast. Give grounded pairs"):
        _objective().sample(pair(1), random.Random(0))
    with pytest.raises(ValueError, match=r"kept_weight=1.0 is for contrast=regions; this run's is 'pictures'"):
        with_overrides(run_config("contrastive"), ["kept_weight=1.0"])
    with pytest.raises(ValueError, match=r"soften=3.0 is for contrast=regions; this run's is 'pictures'"):
        with_overrides(run_config("contrastive"), ["soften=3.0"])
    with pytest.raises(ValueError, match=r"soften must be above 0; got 0.0"):
        with_overrides(run_config("contrastive"), ["contrast=regions", "soften=0.0"])
    with pytest.raises(ValueError, match=r"head 2 of layer 0, and this vision tower has 1 layers of 2 heads"):
        _objective(looking_back=LookingBack(heads={"grounded_pair": ((0, 2),)}))
    with pytest.raises(ValueError, match=r"kept_weight must be 0 or more; got -1.0"):
        with_overrides(run_config("contrastive"), ["contrast=regions", "kept_weight=-1.0"])
