"""The loop: what moves and what does not, what stops it, what it leaves behind."""

import json
from dataclasses import replace

import pytest
import torch
from helpers_train import PARTS, SIDE, pair, pairs, run_config, tiny_whole, trainer, weights
from PIL import Image

from emu2.data.records import Record
from emu2.data.sources import ListSource
from emu2.train.loop import NonFiniteError
from emu2.train.metrics import read_log
from emu2.train.whole import Whole

_PREFIXES = {
    "vision": ("model.model.visual.",),
    "bridge": ("model.model.project_",),
    "language": ("model.model.language_model.", "model.lm_head."),
    "text_tower": ("text_tower.",),
    "vae": ("vae.",),
    "unet": ("unet.",),
    "video_temporal": ("video_unet.transformer_in.",),
    "video_unet": ("video_unet.",),
}


@pytest.mark.parametrize("objective", list(PARTS))
def test_only_the_named_parts_move(objective, tmp_path):
    whole = tiny_whole()
    before = weights(whole)
    summary = trainer(run_config(objective), tmp_path, whole=whole).run()
    assert summary.steps == 6
    assert summary.bad == {}
    moved = {name for name, value in weights(whole).items() if not torch.equal(value, before[name])}
    trained = tuple(prefix for part in PARTS[objective] for prefix in _PREFIXES[part])
    assert moved
    assert all(name.startswith(trained) for name in moved)
    for part in PARTS[objective]:
        assert any(name.startswith(_PREFIXES[part]) for name in moved), part


@pytest.mark.parametrize("objective", ["contrastive", "caption", "unified", "autoencoder", "chat", "gen"])
def test_losses_fall_on_a_few_records(objective, tmp_path):
    config = run_config(objective, steps=40)
    config = replace(config, optim=replace(config.optim, lr=5e-3))
    trainer(config, tmp_path).run()
    losses = [line["loss"] for line in read_log(tmp_path / "log.jsonl")]
    # Forty steps teach so small an autoencoder little more than the colours' mean.
    share = 0.9 if objective == "autoencoder" else 0.8
    assert sum(losses[-5:]) < share * sum(losses[:5])


def test_parts_move_at_their_own_rates(tmp_path):
    config = run_config("caption")
    config = replace(config, optim=replace(config.optim, part_lr={"vision": 5e-5, "language": 3e-5}))
    trainer(config, tmp_path).run()
    line = read_log(tmp_path / "log.jsonl")[1]  # the last step of the warmup is at the peak
    assert line["optim/lr_vision"] == pytest.approx(5e-5)
    assert line["optim/lr_language"] == pytest.approx(3e-5)
    assert line["optim/lr_bridge"] == pytest.approx(1e-3)


def test_nothing_decays_but_matrices():
    from emu2.train.trainable import parameter_groups, set_trainable, trained_parameters

    whole = tiny_whole()
    set_trainable(whole, ("vision", "language"))
    groups = parameter_groups(whole, ("vision", "language"), run_config("caption").optim)
    names = {id(p): name for _, name, p in trained_parameters(whole, ("vision", "language"))}
    plain = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    decayed = {names[id(p)] for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    assert {"model.visual.cls_token", "model.visual.pos_embed", "model.language_model.embed_tokens.weight"} <= plain
    assert not any(name.endswith("bias") or "norm" in name for name in decayed)
    assert "model.visual.blocks.0.attn.qkv.weight" in decayed


@pytest.mark.parametrize("objective", ["caption", "unified", "decoder"])
def test_a_loss_that_is_not_finite_moves_nothing(objective, tmp_path):
    whole = tiny_whole()
    runner = trainer(run_config(objective), tmp_path, whole=whole)
    runner.run(until=1)
    with torch.no_grad():
        poisoned = runner.whole.unet.conv_in if objective == "decoder" else runner.whole.model.lm_head
        poisoned.weight[0, 0] = float("nan")
    before, step = weights(whole), runner.step
    with pytest.raises(
        NonFiniteError, match=r"loss of step 1 is nan; no weight was moved.*Records of this step: pair-"
    ):
        runner.run()
    for name, value in weights(whole).items():
        assert torch.equal(value, before[name]) or value.isnan().any(), name
    assert runner.step == step


def test_a_gradient_that_is_not_finite_moves_nothing(tmp_path):
    whole = tiny_whole()
    runner = trainer(run_config("caption"), tmp_path, whole=whole)
    whole.model.model.project_up.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(whole)
    with pytest.raises(NonFiniteError, match="gradient norm of step 0"):
        runner.run()
    assert all(torch.equal(value, before[name]) for name, value in weights(whole).items())


def _with_bad(number: int) -> ListSource:
    wordless = Record("pair", (Image.new("RGB", (SIDE, SIDE)),), "wordless")
    return ListSource([pair(i) for i in range(12 - number)] + [wordless] * number)


def test_bad_samples_are_skipped_and_counted_by_cause(tmp_path):
    config = run_config("contrastive", max_bad_share=0.5)
    summary = trainer(config, tmp_path, sources={"pair": _with_bad(2)}).run()
    assert summary.steps == 6
    assert sum(summary.bad.values()) == 4  # 24 samples are two rounds of 12
    assert all("has no text" in cause for cause in summary.bad)
    assert json.loads((tmp_path / "summary.json").read_text())["bad"] == summary.bad


def test_too_many_bad_samples_stop_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"more than the allowed share of 10% \(max_bad_share\).*has no text"):
        trainer(run_config("contrastive"), tmp_path, sources={"pair": _with_bad(8)}).run()


def test_a_document_that_is_too_long_is_a_bad_sample(tmp_path):
    config = run_config("caption", max_bad_share=0.0)
    config = replace(config, data=replace(config.data, max_length=8))
    with pytest.raises(ValueError, match=r"takes \d+ tokens, and the longest sequence of this run is 8"):
        trainer(config, tmp_path).run()


def test_a_part_the_objective_cannot_train_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'unified' cannot train 'vision'"):
        trainer(run_config("unified", parts=("vision", "bridge")), tmp_path)


def test_a_part_that_is_not_there_is_refused(tmp_path):
    whole = tiny_whole()
    whole.vae = None
    with pytest.raises(ValueError, match="'decoder' needs a vae, which this model does not have"):
        trainer(run_config("decoder"), tmp_path, whole=whole)


def test_the_trained_whole_loads_and_draws(tmp_path):
    whole = tiny_whole()
    trainer(run_config("decoder"), tmp_path, whole=whole).run()
    loaded = Whole.load(tmp_path / "model")
    assert torch.equal(loaded.unet.conv_in.weight, whole.unet.conv_in.weight)
    pipe = loaded.pipeline()
    pipe.set_progress_bar_config(disable=True)
    image = pipe("red left", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (SIDE, SIDE)


def test_the_average_is_what_is_saved(tmp_path):
    whole = tiny_whole()
    runner = trainer(run_config("decoder"), tmp_path, whole=whole)
    runner.run()
    live = runner.average.shadow["unet.conv_in.weight"]  # the two were exchanged
    assert not torch.equal(whole.unet.conv_in.weight, live)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder of an Emu2"):
        Whole.load(tmp_path)


def test_the_autoencoder_measures_its_latents(tmp_path):
    whole = tiny_whole()
    trainer(run_config("autoencoder"), tmp_path, whole=whole).run()
    pixels = torch.stack(
        [trainer(run_config("autoencoder"), tmp_path).objective.sample(pair(i), None) for i in range(12)]
    )
    with torch.no_grad():
        spread = whole.vae.encode(pixels).latent_dist.mean.std() * whole.vae.config.scaling_factor
    assert float(spread) == pytest.approx(1.0, rel=0.1)


def test_samples_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from emu2.train.loop import Trainer

    for objective, image_tag in (
        ("caption", "caption/0/picture"),
        ("decoder", "decoder"),
        ("autoencoder", "autoencoder"),
    ):
        out = tmp_path / objective
        config = run_config(objective, steps=2, sample_every=2)
        Trainer(config, tiny_whole(), {"pair": pairs()}, out, quiet=True).run()
        events = EventAccumulator(str(out / "tensorboard"))
        events.Reload()
        assert "loss" in events.Tags()["scalars"]
        assert image_tag in events.Tags()["images"]
