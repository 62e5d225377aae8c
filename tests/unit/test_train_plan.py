"""The planner: its bytes are those of a real run, its shards are shares, its errors name what is wrong."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from helpers_train import pairs, run_config, tiny_whole
from rich.console import Console
from typer.testing import CliRunner

from emu2 import recipes
from emu2.cli import app
from emu2.data.loader import Loader
from emu2.data.settings import DataConfig
from emu2.processing.tokenizer import train_tokenizer
from emu2.recipes.start import fresh_whole, world_sources
from emu2.train.distributed import World
from emu2.train.flops import FlopModel, flop_counter, tensor_bytes
from emu2.train.memory import StepMemory, StorageTracker, fake_processes, simulate
from emu2.train.objectives import objective_class
from emu2.train.optim import build_optimizer
from emu2.train.plan import largest_that_fits, plan
from emu2.train.settings import ParallelConfig
from emu2.train.skeleton import Parts, RecordShape
from emu2.train.trainable import parameter_groups, set_trainable, trained_parameters

CPU = torch.device("cpu")


def batch_of(objective, sources, rows):
    loader = Loader(sources, objective.sample, seed=0)
    return objective.batches([loader.read([("pair", index) for index in range(rows)], ("test",))])[0]


def shape_of(batch, whole) -> RecordShape:
    """What a plan must be told to mean this very batch: its positions are those of the longest row."""
    length = batch.tensors["input_ids"].shape[1] if "input_ids" in batch.tensors else 0
    return RecordShape(text=length - 2 - (whole.model.config.num_query + 2), images=1)


@cache
def debug_whole():
    tokenizer = train_tokenizer(["a red apple on blue", "what is this? two dogs"] * 4, vocab_size=280, chat=True)
    return fresh_whole("debug", tokenizer)


def allocated(work) -> int:
    """Most bytes that the CPU's allocator held beyond those at the start, while `work` ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    live = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize("name", ["caption", "unified", "autoencoder", "decoder"])
def test_memory_of_the_debug_size_is_what_a_real_step_allocates(name):
    config = recipes.recipe(name)
    data = replace(config.data, kinds={"pair": 1.0}, pool=None, mode="mixed", batch_sizes={})
    config = replace(config, data=data, ema_decay=None)
    whole, rows = debug_whole(), 4
    objective = objective_class(config.objective)(whole, config, CPU)
    batch = batch_of(objective, world_sources(data), rows)
    set_trainable(whole, config.parts)
    trained = [parameter for _, _, parameter in trained_parameters(whole, config.parts)]
    optimizer = build_optimizer(parameter_groups(whole, config.parts, config.optim), config.optim)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

    def step():
        terms = objective.terms(batch)
        sum(weight * terms[term] for term, weight in objective.weights.items() if batch.counts[term]).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    planned = simulate(config, Parts.of_whole(whole, config), shape_of(batch, whole), rows, World())
    before = tensor_bytes(t for m in whole.modules() for t in (*m.parameters(), *m.buffers()))
    before += tensor_bytes(v for state in optimizer.state.values() for v in state.values())
    real = before + allocated(step)
    optimizer.zero_grad(set_to_none=True)
    assert planned.parameters + planned.optimizer == before
    assert planned.peak == pytest.approx(real, rel=0.1)


def test_tracker_counts_live_storages():
    tracker = StorageTracker()
    with tracker:
        first = torch.zeros(1000)
        view = first[:10]
        second = first + 1
        assert tracker.live == 8000
        del first
        assert tracker.live == 8000  # the view keeps it
        del view, second
    assert (tracker.live, tracker.peak) == (0, 8000)


def config_of(objective="caption", **changes):
    return run_config(objective, size="debug", **changes)


@pytest.mark.parametrize("gpus", [2, 4])
def test_shards_are_shares(gpus):
    config = config_of(parallel=ParallelConfig(shard="full"))
    parts, shape = Parts.of_whole(tiny_whole(), config), RecordShape(text=12, images=1)
    alone = simulate(config, parts, shape, 2, World())
    with fake_processes(gpus, config.parallel) as world:
        shared = simulate(config, parts, shape, 2, world)
    for name in ("gradients", "optimizer"):
        # Rows that do not divide are padded, and every rank has AdamW's counters.
        assert getattr(shared, name) == pytest.approx(getattr(alone, name) / gpus, rel=0.1)
    assert shared.peak < alone.peak
    with fake_processes(gpus, ParallelConfig()) as world:
        copied = simulate(replace(config, parallel=ParallelConfig()), parts, shape, 2, world)
    assert copied.parameters == alone.parameters


def test_deep_stacks_lie_on_the_line_of_two_shallow_ones(monkeypatch):
    config = config_of(parallel=ParallelConfig(shard="full"), checkpoint_activations=True, autocast="bfloat16")
    parts = Parts.of_whole(tiny_whole(), config).at_depths({"vision": 7, "text": 9})
    shape = RecordShape(text=12, images=1)
    with fake_processes(2, config.parallel) as world:
        estimated = simulate(config, parts, shape, 4, world)
        monkeypatch.setattr("emu2.train.memory._SHALLOW", 100)
        exact = simulate(config, parts, shape, 4, world)
    assert estimated.lasting == exact.lasting
    assert estimated.peak == pytest.approx(exact.peak, rel=0.02)


@pytest.mark.parametrize("objective", ["contrastive", "caption", "unified", "autoencoder", "decoder"])
def test_model_flops_are_those_that_torch_counts(objective):
    whole, config = tiny_whole(), config_of(objective)
    goal = objective_class(objective)(whole, config, CPU)
    batch = batch_of(goal, {"pair": pairs()}, 4)
    set_trainable(whole, config.parts)
    with flop_counter() as counter:
        terms = goal.terms(batch)
        sum(weight * terms[term] for term, weight in goal.weights.items() if batch.counts[term]).backward()
    # Not counted: the projections of the bridge; the first layer's input has no gradient; what is padded.
    assert FlopModel(whole, config).step([batch]) == pytest.approx(counter.get_total_flops(), rel=0.15)


@pytest.mark.parametrize("limit", [100, 517, 1000, 30_000])
@pytest.mark.parametrize("start", [8, 60, 500])
def test_search_finds_what_fits(limit, start):
    def peak(number):
        return max(500 + 7 * number, 10 * number, 100)

    found = largest_that_fits(peak, limit, start)
    best = max((number for number in range(1, 4097) if peak(number) <= limit), default=0)
    assert 0.9 * best <= found <= best


def test_plan_of_a_small_run(tmp_path):
    parts = Parts.of_whole(tiny_whole(), config_of())
    data = DataConfig(kinds={"pair": 3.0, "text": 1.0}, mode="one_kind", batch_size=8, max_length=64)
    config = config_of("unified", data=data, steps=100, accumulation=2, parallel=ParallelConfig(shard="full"))
    found = plan(config, 2, "a100", mfu=0.5, parts=parts)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["fits"]
    assert values["accumulate"] == 1
    assert [kind["share"] for kind in values["kinds"]] == [0.75, 0.25]
    assert [kind["micro_batch"] for kind in values["kinds"]] == [4, 4]
    assert all(kind["largest_micro_batch"] > 4 for kind in values["kinds"])
    assert values["kinds"][1]["length"] == 64
    assert found.trained == found.parameters["bridge"] + found.parameters["language"]
    assert found.checkpoint_bytes == found.trained * 12
    assert found.step_seconds == pytest.approx(found.flops_per_step / (2 * 19.5e12 * 0.5))
    assert found.days == pytest.approx(100 * found.step_seconds / 86400)
    console = Console(record=True, width=100, file=(tmp_path / "shown").open("w"))
    console.print(found)
    text = console.export_text()
    assert "Fits: 72.8 GiB of a GPU are usable" in text
    for words in ("optimizer", "largest micro-batch", "FLOPs a record", "days", "checkpoint", "pictures a second"):
        assert words in text


def test_a_batch_that_does_not_fit_is_cut(monkeypatch):
    config = config_of(data=DataConfig(batch_size=64, max_length=64))
    parts = Parts.of_whole(tiny_whole(), config)
    needed = simulate(replace(config, accumulation=2), parts, RecordShape(40, 1), 16, World()).peak
    monkeypatch.setattr("emu2.train.plan.RESERVE", 1 - 1.02 * needed / 79.1 / 1024**3)
    found = plan(config, 1, parts=parts)
    assert found.accumulate == 4
    assert found.kinds[0].micro_batch == 16
    assert found.kinds[0].memory.peak <= found.limit
    monkeypatch.setattr("emu2.train.plan.RESERVE", 1 - 1e-6)
    assert not plan(config, 1, parts=parts).fits


def test_command_prints_a_plan(monkeypatch):
    memory = lambda *given: StepMemory(1 << 30, 1 << 30, 2 << 30, 0, given[3] << 28, (4 << 30) + (given[3] << 28))  # noqa: E731
    monkeypatch.setattr("emu2.train.plan.simulate", memory)
    runner = CliRunner()
    result = runner.invoke(app, ["train", "caption", "--plan", "--gpus", "4", "--gpu", "h200", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["gpus"], found["gpu"], found["fits"], found["kinds"][0]["micro_batch"]) == (4, "h200", True, 8)
    shown = runner.invoke(app, ["train", "caption", "--plan"])
    assert "on 8 x h100" in shown.stdout
    refused = runner.invoke(app, ["train", "caption", "--plan", "--gpu", "abacus"])
    assert refused.exit_code != 0
    assert "no GPU 'abacus'" in refused.output


def test_impossible_plans_are_refused():
    config = config_of()
    with pytest.raises(ValueError, match=r"no GPU 'b200' in the planner's table; there are h100, h200, a100"):
        plan(config, 1, "b200")
    with pytest.raises(ValueError, match=r"at least one GPU; got 0"):
        plan(config, 0)
    with pytest.raises(ValueError, match=r"batch_size=4 records cannot be shared by 3 data-parallel processes"):
        plan(config, 3)
    with pytest.raises(ValueError, match=r"MFU is a share of the peak, above 0 and at most 1; got 40"):
        plan(config, 1, mfu=40)
    with pytest.raises(ValueError, match=r"3 GPUs cannot be laid out as replicate=1 x shard x tensor=2"):
        plan(replace(config, parallel=ParallelConfig(shard="full", tensor=2)), 3)
