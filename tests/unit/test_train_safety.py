"""What a run does when something is wrong: signals, numbers that are none, bad samples, settings that do not fit."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from helpers_train import SIDE, pair, pairs, run_config, tiny_whole, trainer, weights
from PIL import Image
from safetensors.torch import load_file

from emu2.data.records import Record
from emu2.data.sources import ListSource
from emu2.train.checkpoint import list_checkpoints
from emu2.train.config import OptimConfig
from emu2.train.loop import NonFiniteError
from emu2.train.metrics import read_log


def _signal_at(runner, step: int, number: signal.Signals) -> None:
    """Let a signal arrive while the micro-batch of `step` is computed."""
    terms = runner.objective.terms

    def and_signal(batch):
        if runner.step == step:
            os.kill(os.getpid(), number)
        return terms(batch)

    runner.objective.terms = and_signal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_gives_up_the_step_and_writes_a_checkpoint(number, workers, tmp_path):
    config = run_config("caption", accumulation=2, steps=8)
    config = replace(config, data=replace(config.data, batch_size=2, workers=workers))
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    runner = trainer(config, tmp_path / "stopped")
    _signal_at(runner, 3, number)
    summary = runner.run()
    assert (summary.stopped, summary.steps) == (number.name, 3)
    assert [path.name for path in list_checkpoints(tmp_path / "stopped")] == ["step-00000003"]
    assert not (tmp_path / "stopped" / "model").exists()
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    whole, resumed = tiny_whole(), tiny_whole()
    trainer(config, tmp_path / "whole", whole=whole).run()
    summary = trainer(config, tmp_path / "stopped", whole=resumed).run(resume=True)
    assert summary.stopped is None
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())


def test_a_run_that_cannot_stop_in_time_ends_with_an_error(tmp_path):
    """A step that hangs, in a process of its own, which the deadline ends."""
    program = """
import sys, time
from emu2.train.stopping import StopRequest
with StopRequest(0.3):
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "ready"
    process.send_signal(signal.SIGTERM)
    started = time.perf_counter()
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert time.perf_counter() - started < 10
    assert "SIGTERM: no checkpoint within 0.3 s (stop_deadline_s)" in said


def _poison_at(runner, *steps: int) -> None:
    """Losses of these steps are not a number."""
    terms = runner.objective.terms

    def poisoned(batch):
        found = terms(batch)
        return {name: value * float("nan") for name, value in found.items()} if runner.step in steps else found

    runner.objective.terms = poisoned


def test_a_batch_that_is_not_finite_is_kept_for_inspection(tmp_path):
    runner = trainer(run_config("caption", accumulation=2), tmp_path)
    _poison_at(runner, 2)
    with pytest.raises(NonFiniteError, match=r"loss of step 2 is nan; no weight was moved.*kept in .*step-00000002"):
        runner.run()
    folder = tmp_path / "nonfinite" / "step-00000002"
    facts = json.loads((folder / "batches.json").read_text())
    assert facts["losses"] == {"text": "nan"}
    assert len(facts["batches"]) == 2
    for number, batch in enumerate(facts["batches"]):
        assert all(key.startswith("pair-") for key in batch["keys"])
        assert len(batch["seeds"]) == 4
        ids = load_file(folder / f"batch-{number}.safetensors")["input_ids"]
        assert ids.shape[0] == 4


def test_steps_that_are_not_finite_can_be_left_out(tmp_path):
    whole = tiny_whole()
    runner = trainer(run_config("caption", nonfinite="skip", ema_decay=0.9), tmp_path, whole=whole)
    _poison_at(runner, 1, 4)
    summary = runner.run()
    assert (summary.steps, summary.skipped) == (6, 2)
    assert json.loads((tmp_path / "summary.json").read_text())["skipped"] == 2
    assert sorted(path.name for path in (tmp_path / "nonfinite").iterdir()) == ["step-00000001", "step-00000004"]
    lines = read_log(tmp_path / "log.jsonl")
    assert [line.get("optim/skipped", 0) for line in lines] == [0, 1, 1, 1, 2, 2]
    assert ["loss" in line for line in lines] == [True, False, True, True, False, True]
    assert runner.average.updates == 4
    assert all(value.isfinite().all() for value in weights(whole).values())


def test_skipping_ends_where_nothing_else_follows(tmp_path):
    runner = trainer(run_config("caption", nonfinite="skip", steps=40), tmp_path)
    _poison_at(runner, *range(40))
    with pytest.raises(NonFiniteError, match="loss of step 19 is nan"):
        runner.run()


def test_a_cause_is_logged_once_and_counted(tmp_path, caplog):
    wordless = [Record("pair", (Image.new("RGB", (SIDE, SIDE)),), f"wordless-{i}") for i in range(3)]
    config = run_config("contrastive", max_bad_share=0.5)
    with caplog.at_level(logging.WARNING, logger="emu2"):
        summary = trainer(config, tmp_path, sources={"pair": ListSource([pair(i) for i in range(9)] + wordless)}).run()
    assert list(summary.bad.values()) == [6]  # 24 samples are two rounds of 12
    assert [record.getMessage().count("has no text") for record in caplog.records] == [1]
    assert read_log(tmp_path / "log.jsonl")[-1]["data/bad"] == 6


def test_a_rate_of_zero_is_allowed_with_a_warning(tmp_path):
    config = run_config("caption")
    config = replace(config, optim=replace(config.optim, part_lr={"vision": 0.0}))
    whole = tiny_whole()
    before = weights(whole)
    with pytest.warns(UserWarning, match="'vision' is trained at the learning rate 0, so it will not move"):
        trainer(config, tmp_path, whole=whole).run(until=2)
    after = weights(whole)
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("model.model.visual."))
    assert any(not torch.equal(after[name], before[name]) for name in after if "language_model" in name)


def test_a_run_is_resumed_with_its_own_settings_only(tmp_path):
    config = run_config("caption")
    trainer(config, tmp_path).run(until=2)
    changes = {
        "optim.lr=0.001, and is to be resumed with optim.lr=0.5": {"optim": replace(config.optim, lr=0.5)},
        "data.batch_size=4, and is to be resumed with data.batch_size=2": {"data": replace(config.data, batch_size=2)},
        "no data.kinds.text, and is to be resumed with data.kinds.text=1.0": {
            "data": replace(config.data, kinds={"pair": 1.0, "text": 1.0})
        },
    }
    for message, change in changes.items():
        sources = {"pair": pairs(), "text": pairs()}
        with pytest.raises(ValueError, match=f"was started with {message}"):
            trainer(replace(config, **change), tmp_path, sources=sources).run(resume=True)
    with pytest.raises(ValueError, match=r"another stage: .* objective 'caption', and is to be resumed for 'unified'"):
        trainer(run_config("unified"), tmp_path).run(resume=True)
    # What changes only who reads, what is shown and what is kept may be another.
    free = replace(config, log_every=3, nonfinite="skip", data=replace(config.data, workers=1))
    assert trainer(free, tmp_path).run(resume=True, until=3).steps == 3


def test_a_checkpoint_from_before_a_setting_goes_on_with_what_it_stands_for(tmp_path):
    config = run_config("caption")
    trainer(config, tmp_path).run(until=2)
    (file,) = tmp_path.glob("checkpoints/*/state.json")
    state = json.loads(file.read_text())
    del state["config"]["visual_loss"]
    file.write_text(json.dumps(state))
    assert trainer(config, tmp_path).run(resume=True, until=3).steps == 3


def test_data_that_changed_since_the_checkpoint_are_refused(tmp_path):
    config = run_config("caption")
    trainer(config, tmp_path).run(until=2)
    with pytest.raises(ValueError, match="data of kind 'pair' changed since the checkpoint"):
        trainer(config, tmp_path, sources={"pair": pairs(13)}).run(resume=True)


def test_held_out_records_are_measured_and_shown_without_a_trace(tmp_path):
    config = run_config("unified", validate_every=2, validate_batches=2, log_every=5)
    plain, measured = tiny_whole(), tiny_whole()
    trainer(replace(config, validate_every=0), tmp_path / "plain", whole=plain).run()
    shown = []
    for out in ("measured", "again"):
        from emu2.train.loop import Trainer

        whole = measured if out == "measured" else tiny_whole()
        runner = Trainer(
            config,
            whole,
            {"pair": pairs()},
            tmp_path / out,
            validation={"pair": pairs(5)},
            quiet=True,
            tensorboard=False,
        )
        preview = runner.objective.preview
        runner.objective.preview = lambda batch, preview=preview: shown.append(batch.keys) or preview(batch)
        runner.run()
    expected = weights(plain)
    assert all(torch.equal(value, expected[name]) for name, value in weights(measured).items())
    lines = {line["step"]: line for line in read_log(tmp_path / "measured" / "log.jsonl")}
    assert sorted(lines) == [2, 4, 5, 6]
    assert all(("validation/loss" in lines[step]) == (step != 5) for step in lines)
    line = lines[2]
    assert line["validation/loss"] == pytest.approx(line["validation/text"] + line["validation/visual"])
    assert line["validation/loss"] != lines[6]["validation/loss"]
    again = {
        line["step"]: line["validation/loss"]
        for line in read_log(tmp_path / "again" / "log.jsonl")
        if line["step"] != 5
    }
    assert again == {step: lines[step]["validation/loss"] for step in again}
    assert len(shown) == 6
    assert all(keys == shown[0] and keys[0].startswith("validation/pair-") for keys in shown)


@pytest.mark.parametrize("objective", ["caption", "decoder", "video_decoder"])
def test_recomputed_activations_give_the_same_gradients(objective, tmp_path):
    results = []
    for recompute in (False, True):
        whole = tiny_whole()
        config = run_config(objective, checkpoint_activations=recompute, steps=2)
        runner = trainer(config, tmp_path / str(recompute), whole=whole)
        if recompute:
            assert any(
                getattr(module, "gradient_checkpointing", False) for m in whole.modules() for module in m.modules()
            )
        runner.run()
        results.append(weights(whole))
    for name, value in results[1].items():
        torch.testing.assert_close(value, results[0][name], rtol=1e-5, atol=1e-6, msg=name)


def test_autocast_computes_in_bfloat16_and_keeps_the_weights(tmp_path):
    whole = tiny_whole()
    runner = trainer(run_config("caption", autocast="bfloat16"), tmp_path, whole=whole)
    seen = set()
    whole.model.model.language_model.layers[0].mlp.register_forward_hook(lambda *a: seen.add(a[2].dtype))
    summary = runner.run()
    assert seen == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in whole.model.parameters())
    plain = trainer(run_config("caption"), tmp_path / "plain").run()
    assert summary.losses["loss"] == pytest.approx(plain.losses["loss"], rel=0.02)


def test_compiled_blocks_keep_names_and_results(tmp_path):
    """Traced and run as they are ("eager"): the compiler itself takes minutes on a CPU."""
    from emu2.train.blocks import compile_blocks

    results = []
    for compiled in (False, True):
        whole = tiny_whole()
        runner = trainer(
            run_config("caption", steps=1, optim=OptimConfig(lr=1e-3)), tmp_path / str(compiled), whole=whole
        )
        if compiled:
            compile_blocks(whole, backend="eager")
        runner.run()
        results.append(weights(whole))
    assert list(results[0]) == list(results[1])
    for name, value in results[1].items():
        torch.testing.assert_close(value, results[0][name], rtol=1e-5, atol=1e-6, msg=name)
