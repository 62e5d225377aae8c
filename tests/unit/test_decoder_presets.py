"""Presets against the published parameter listings, and the conditions the U-Net reads beside the embeddings."""

import csv

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel, UNet3DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPConfig

from emu2.decoder import presets
from emu2.decoder.conditioning import added_conditions, guidance_rows, guide, pair_rows, with_places


def listed(shared_dir, prefix: str) -> dict[str, tuple[int, ...]]:
    with (shared_dir / "layout" / "emu2-gen.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["kind"] == "param"]
    return {
        row["name"].removeprefix(prefix): tuple(int(side) for side in row["shape"].split("x"))
        for row in rows
        if row["name"].startswith(prefix)
    }


@pytest.mark.parametrize(
    ("prefix", "build", "parameters"),
    [
        ("unet.", lambda: UNet2DConditionModel.from_config(presets.unet_config("sdxl")), 2_525_520_644),
        ("vae.", lambda: AutoencoderKL.from_config(presets.vae_config("sdxl")), 83_653_863),
    ],
)
def test_published_sizes_equal_the_published_listing(shared_dir, prefix, build, parameters):
    with init_empty_weights():
        module = build()
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    assert shapes == listed(shared_dir, prefix)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters


def test_published_safety_checker_size():
    with init_empty_weights():
        checker = StableDiffusionSafetyChecker(CLIPConfig(**presets.safety_checker_config()))
    assert sum(parameter.numel() for parameter in checker.parameters()) == 303_981_588


def test_debug_decoder_fits_the_debug_model():
    unet = UNet2DConditionModel.from_config(presets.unet_config("debug"))
    vae = AutoencoderKL.from_config(presets.vae_config("debug"))
    pixels = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
        assert latents.shape == (1, unet.config.out_channels, unet.config.sample_size, unet.config.sample_size)
        assert vae.decode(latents).sample.shape == pixels.shape
        embeds = torch.zeros(1, 16, 128)
        conditions = added_conditions(embeds, (64, 64), (0, 0), (64, 64))
        placed = with_places(latents, embeds, unet.config.in_channels)
        out = unet(placed, 1, encoder_hidden_states=embeds, added_cond_kwargs=conditions).sample
        assert out.shape == latents.shape
        video = UNet3DConditionModel.from_config(presets.video_unet_config("debug"))
        clip = latents.unsqueeze(2).expand(-1, -1, 2, -1, -1)
        assert video(clip, 1, embeds).sample.shape == clip.shape
    assert sum(p.numel() for p in unet.parameters()) < 3e6


def test_scheduler_is_the_published_one():
    config = presets.scheduler_config("sdxl")
    scheduler = EulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == 981
    assert scheduler.timesteps[-1] == 1
    assert float(scheduler.init_noise_sigma) == pytest.approx(13.158, abs=1e-3)
    swapped = DDIMScheduler.from_config(scheduler.config)
    assert swapped.config.clip_sample is False  # latents are no pixels
    assert presets.scheduler_config("sd21", prediction_type="v_prediction")["prediction_type"] == "v_prediction"


def test_presets_are_copies():
    presets.unet_config("debug")["block_out_channels"][0] = 7
    assert presets.unet_config("debug")["block_out_channels"][0] != 7


@pytest.mark.parametrize(
    "make", [presets.unet_config, presets.vae_config, presets.scheduler_config, presets.video_unet_config]
)
def test_unknown_preset_lists_those_there_are(make):
    with pytest.raises(ValueError, match=r"preset is called 'huge'; there are .*debug"):
        make("huge")


def test_unknown_prediction_type():
    with pytest.raises(ValueError, match="prediction_type is"):
        presets.scheduler_config("sd21", prediction_type="score")


# Conditions


def test_added_conditions():
    embeds = torch.randn(2, 5, 3)
    conditions = added_conditions(embeds, (1024, 768), (1, 2), (512, 640))
    assert torch.equal(conditions["text_embeds"], embeds.mean(dim=1))
    assert conditions["time_ids"].dtype == torch.int64
    assert conditions["time_ids"].tolist() == [[1024, 768, 1, 2, 512, 640]] * 2
    mixed = added_conditions(embeds, torch.tensor([[1, 2], [3, 4]]), [(5, 6), (7, 8)], (9, 9))
    assert mixed["time_ids"].tolist() == [[1, 2, 5, 6, 9, 9], [3, 4, 7, 8, 9, 9]]


def test_guidance_rows_and_guide():
    conditional, unconditional = torch.full((2, 1, 1), 3.0), torch.full((2, 1, 1), 1.0)
    rows = guidance_rows(conditional, unconditional)
    assert rows.flatten().tolist() == [3, 3, 1, 1]
    assert guide(rows, 2.0).flatten().tolist() == [5, 5]
    assert guidance_rows(conditional, None) is conditional


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ((1, 2, 3), r"shape \[3\]"),
        ([(1, 2)] * 3, r"or 2 of them .* shape \[3, 2\]"),
        ((1.5, 2.0), "whole numbers"),
        ((-1, 2), "must not be negative"),
    ],
)
def test_pairs_are_checked(pairs, said):
    with pytest.raises(ValueError, match=said):
        pair_rows(pairs, 2, name="original_size")


def test_embeddings_need_three_dimensions():
    with pytest.raises(ValueError, match=r"\[rows, N, D\]; got shape \[5, 3\]"):
        added_conditions(torch.zeros(5, 3), (1, 1), (0, 0), (1, 1))
