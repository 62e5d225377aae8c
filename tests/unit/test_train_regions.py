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


def grounded(number: int) -> Record:
    """A pair's picture, and each of its colours with the half it fills."""
    picture, words = pair(number).segments
    left, right = words.split()[0], words.split()[2]
    half = SIDE // 2
    boxes = {left: (0, 0, half, SIDE), right: (half, 0, SIDE, SIDE)}
    told = " and ".join(grounded_text(name, [Box(box, name, (SIDE, SIDE))]) for name, box in boxes.items())
    return Record("grounded_pair", (picture, f"{tokens.GROUNDING}{told}"), f"grounded-{number}", 1)


def _config(kept: float = 0.0, **changes):
    config = replace(run_config("contrastive"), contrast="regions", kept_weight=kept)
    return replace(config, **changes)


def _objective(kept: float = 0.0):
    return objective_class("contrastive")(tiny_whole(), _config(kept), torch.device("cpu"))


def _batch(objective, *records):
    samples = [objective.sample(record, random.Random(0)) for record in records]
    batch = objective.collate(samples, [record.key for record in records])
    batch.seeds = list(range(len(records)))
    return batch


def test_a_phrase_is_found_by_the_embeddings_that_its_box_covers():
    objective = _objective()
    batch = _batch(objective, grounded(0), grounded(3))
    # red left, green right; white left, purple right
    assert batch.counts == {"regions": 4}
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
    trainer(config, tmp_path, sources={"pair": ListSource([grounded(i) for i in range(8)])}).run()
    losses = [line["loss"] for line in read_log(tmp_path / "log.jsonl")]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_kept_pictures_look_as_before_and_count_by_their_spread():
    objective = _objective(kept=2.0)
    assert objective.weights == {"regions": 1.0, "kept": 2.0}
    batch = _batch(objective, grounded(0), pair(1), clip(2), pair(4), pair(5))
    assert batch.counts == {"regions": 2, "kept": 4}
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
    assert none.counts == {"regions": 0, "kept": 1}
    terms = objective.terms(none)
    assert float(terms["regions"]) == 0.0
    (terms["regions"] + terms["kept"]).backward()


def test_what_is_kept_stays_nearer(tmp_path):
    mixed = {"pair": ListSource([grounded(i) if i % 2 else pair(i) for i in range(16)])}
    changes = []
    for name, kept in (("free", 1e-6), ("kept", 20.0)):
        config = with_overrides(_config(kept, steps=20), ["optim.lr=3e-3", "optim.schedule=constant"])
        trainer(config, tmp_path / name, sources=mixed).run()
        changes.append(read_log(tmp_path / name / "log.jsonl")[-1]["loss/kept"])
    assert changes[1] < 0.5 * changes[0]


def test_a_resumed_run_keeps_what_the_first_one_began_with(tmp_path):
    mixed = {"pair": ListSource([grounded(i) if i % 2 else pair(i) for i in range(16)])}
    config = _config(1.0, ema_decay=None)
    whole, halves = tiny_whole(), tiny_whole()
    trainer(config, tmp_path / "whole", whole=whole, sources=mixed).run()
    trainer(config, tmp_path / "halves", whole=halves, sources=mixed).run(until=3)
    resumed = tiny_whole()
    trainer(config, tmp_path / "halves", whole=resumed, sources=mixed).run(resume=True)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_what_regions_cannot_use_is_refused():
    with pytest.raises(ValueError, match=r"'pair-1' .pair. has no phrase with a box to contrast. Give grounded pairs"):
        _objective().sample(pair(1), random.Random(0))
    with pytest.raises(ValueError, match=r"kept_weight=1.0 is for contrast=regions; this run's is 'pictures'"):
        with_overrides(run_config("contrastive"), ["kept_weight=1.0"])
    with pytest.raises(ValueError, match=r"kept_weight must be 0 or more; got -1.0"):
        with_overrides(run_config("contrastive"), ["contrast=regions", "kept_weight=-1.0"])
