"""Training that must come to the same: resumed = uninterrupted, accumulated = one large batch, reordered = itself."""

import random
from dataclasses import replace

import pytest
import torch
from helpers_train import PARTS, pairs, run_config, tiny_whole, trainer, weights

from emu2.data.records import Record
from emu2.data.sources import PooledSource
from emu2.train.metrics import read_log

#: What a log line holds that depends on the clock.
_CLOCK = ("speed/", "data/wait")


def _steps(path):
    return [
        {name: value for name, value in line.items() if not name.startswith(_CLOCK)}
        for line in read_log(path / "log.jsonl")
    ]


@pytest.mark.parametrize("objective", ["caption", "unified", "decoder"])
def test_resumed_run_equals_uninterrupted_one_to_the_bit(objective, tmp_path):
    config = run_config(objective)
    if objective != "caption":
        config = replace(config, data=replace(config.data, pool=12))

    def sources():
        return {"pair": PooledSource(pairs(), 12)}

    whole = tiny_whole()
    trainer(config, tmp_path / "whole", whole=whole, sources=sources()).run()
    trainer(config, tmp_path / "parts", sources=sources()).run(until=3)
    # As another process would: a fresh whole, and everything that trains from the checkpoint.
    resumed = tiny_whole()
    trainer(config, tmp_path / "parts", whole=resumed, sources=sources()).run(resume=True)

    expected = weights(whole)
    for name, value in weights(resumed).items():
        assert torch.equal(value, expected[name]), name
    assert _steps(tmp_path / "parts") == _steps(tmp_path / "whole")


@pytest.mark.parametrize("objective", ["caption", "unified"])
def test_accumulated_batches_equal_one_large_batch(objective, tmp_path):
    """Micro-batches differ in their number of targets, so a mean of means would differ."""
    results = {}
    for accumulation, batch_size in ((1, 8), (2, 4), (4, 2)):
        config = run_config(objective, steps=3, accumulation=accumulation)
        config = replace(config, data=replace(config.data, batch_size=batch_size, image_first=1.0))
        whole = tiny_whole()
        trainer(config, tmp_path / str(accumulation), whole=whole).run()
        results[accumulation] = (weights(whole), _steps(tmp_path / str(accumulation)))
    expected, lines = results[1]
    for accumulation in (2, 4):
        got, log = results[accumulation]
        for name, value in got.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=2e-5, msg=name)
        for line, reference in zip(log, lines, strict=True):
            assert line["loss"] == pytest.approx(reference["loss"], rel=1e-5)
            assert line["optim/grad_norm"] == pytest.approx(reference["optim/grad_norm"], rel=1e-3)


def test_counts_known_ahead_are_those_of_the_model(tmp_path):
    """The loop normalises by counts taken from labels; the model counts again while it computes."""
    runner = trainer(run_config("unified"), tmp_path)
    for batch in next(runner.feed.steps(1)).batches:
        out = runner.whole.model(**batch.tensors, **runner.objective.pictures(batch.extra["samples"]))
        assert batch.counts == {"text": int(out.num_text_targets), "visual": int(out.num_visual_targets)}
        # A picture is a target where its caption comes first.
        starts = [sample.labels[1] == runner.objective.builder.start_id for sample in batch.extra["samples"]]
        opens = [sample.input_ids[1] == runner.objective.builder.start_id for sample in batch.extra["samples"]]
        assert not any(starts)
        assert batch.counts["visual"] == 4 * (batch.amounts["images"] - sum(opens))


def test_an_episode_is_learned_from_its_second_picture_on(tmp_path):
    runner = trainer(run_config("unified"), tmp_path)
    image = next(segment for segment in pairs()[0].segments if not isinstance(segment, str))
    episode = Record("counting", (image, "one", image, "two", image, "three"), "episode", answer_from=5)
    sample = runner.objective.sample(episode, random.Random(0))
    second = [i for i, token in enumerate(sample.input_ids) if token == runner.objective.builder.start_id][1]
    assert set(sample.labels[:second]) == {-100}
    assert sample.num_visual_targets == 0  # it asks for words: its pictures might be of anything
    assert runner.objective.builder.start_id not in sample.labels
    words = runner.whole.processor.tokenizer.decode([label for label in sample.labels if label >= 0])
    assert words.split() == ["two", "three</s>"]


def test_frozen_features_kept_equal_features_computed(tmp_path):
    config = run_config("decoder", steps=3)
    kept = replace(config, data=replace(config.data, pool=12))
    losses = [
        [line["loss"] for line in _steps(out)]
        for run, out in ((config, tmp_path / "computed"), (kept, tmp_path / "kept"))
        if trainer(run, out).run()
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("objective", list(PARTS))
def test_same_seed_same_weights(objective, tmp_path):
    results = []
    for name in ("one", "two"):
        whole = tiny_whole()
        trainer(run_config(objective, steps=2), tmp_path / name, whole=whole).run()
        results.append(weights(whole))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
