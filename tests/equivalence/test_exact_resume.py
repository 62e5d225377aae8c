"""Killed three times with SIGKILL and resumed, a run ends in the very weights and the very log of one never touched.

Real processes: each run is forked off a server that has everything imported, which is what makes them quick to start.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_train import pairs, run_config, tiny_whole, trainer
from safetensors.torch import load_file

from emu2.data.sources import PooledSource
from emu2.train.checkpoint import list_checkpoints
from emu2.train.metrics import read_log

STEPS = 40
#: What a log line holds that depends on the clock.
_CLOCK = ("speed/", "data/wait")


def _config(objective: str, workers: int):
    config = run_config(objective, steps=STEPS, save_every=4, accumulation=2)
    # One of the three reads from a pool and keeps frozen features, which a resumed run must find again.
    pool = 12 if objective == "decoder" else None
    return replace(config, data=replace(config.data, batch_size=2, workers=workers, pool=pool))


def _train(objective: str, out: str, workers: int) -> None:
    """One process' life: a fresh whole, continued from whatever checkpoint there is."""
    torch.set_num_threads(1)
    config = _config(objective, workers)
    sources = {"pair": PooledSource(pairs(), 12) if config.data.pool else pairs()}
    trainer(config, out, whole=tiny_whole(), sources=sources).run(resume=True)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers_train", "emu2.train.diffusion", "torch.utils.tensorboard"])
    return context


def _lines(out: Path) -> list[dict]:
    return [
        {name: value for name, value in line.items() if not name.startswith(_CLOCK)}
        for line in read_log(out / "log.jsonl")
    ]


def _reached(out: Path) -> int:
    lines = read_log(out / "log.jsonl")
    return int(lines[-1]["step"]) if lines else 0


def _kill_at(process, out: Path, step: int, delay: float) -> int:
    """SIGKILL once the log has reached `step` and `delay` seconds more have passed; the step it had got to."""
    process.start()
    while _reached(out) < step:
        assert process.is_alive(), f"the run ended with {process.exitcode} before step {step}"
        time.sleep(0.01)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return _reached(out)


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "workers"), [("caption", 0), ("unified", 2), ("decoder", 0)])
def test_killed_three_times_and_resumed_equals_uninterrupted(objective, workers, tmp_path, processes):
    chance = random.Random()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = processes.Process(target=_train, args=(objective, str(whole), 0))
    process.start()
    process.join()
    assert process.exitcode == 0

    story, at = [], 0
    for least in (2, 12, 22):
        # Where the run stands, and how long after its line, anything may be going on: a step, a checkpoint, a rename.
        at = max(at + 1, chance.randint(least, least + 9))
        process = processes.Process(target=_train, args=(objective, str(killed), workers))
        at = _kill_at(process, killed, at, chance.uniform(0.0, 0.03))
        story.append((at, [path.name for path in list_checkpoints(killed)]))
    process = processes.Process(target=_train, args=(objective, str(killed), workers))
    process.start()
    process.join()
    assert process.exitcode == 0, story

    assert _lines(killed) == _lines(whole), story
    assert [line["step"] for line in _lines(killed)] == list(range(1, STEPS + 1))
    files = sorted(path.relative_to(whole / "model") for path in (whole / "model").rglob("*.safetensors"))
    assert len(files) >= 3
    for name in files:
        expected, got = load_file(whole / "model" / name), load_file(killed / "model" / name)
        assert expected.keys() == got.keys()
        for key, value in expected.items():
            assert torch.equal(got[key], value), f"{name} {key}: {story}"


def _train_apart(*arguments) -> None:
    os.setsid()  # a group of its own, which a signal reaches as a whole
    _train(*arguments)


@pytest.mark.slow
def test_told_to_stop_it_exits_with_0_and_a_checkpoint(tmp_path, processes):
    """What a scheduler does before it takes the machine away: it signals the run and its workers."""
    out = tmp_path / "run"
    process = processes.Process(target=_train_apart, args=("caption", str(out), 2))
    process.start()
    while _reached(out) < 2:
        assert process.is_alive(), f"the run ended with {process.exitcode}"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    told = time.perf_counter()
    process.join()
    assert process.exitcode == 0
    assert time.perf_counter() - told < _config("caption", 2).stop_deadline_s
    summary = json.loads((out / "summary.json").read_text())
    assert summary["stopped"] == "SIGTERM"
    assert summary["steps"] == _reached(out)
    assert list_checkpoints(out)[-1].name == f"step-{summary['steps']:08d}"
