"""The decoders against themselves: inflated and flat."""

from copy import deepcopy

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel

from emu2.decoder.inflate import inflate_unet, inflate_unet_with_report, is_temporal, let_stills_pass
from emu2.decoder.presets import unet_config, video_unet_config


def sd21_unet(**changes) -> UNet2DConditionModel:
    """A tiny U-Net of the form of Stable Diffusion 2.1, eval, seeded."""
    torch.manual_seed(0)
    config = {**unet_config("debug_sd21"), "block_out_channels": [16, 32], "attention_head_dim": [2, 4]}
    config.update({"in_channels": 4, "out_channels": 4})
    config.update({"norm_num_groups": 8, "cross_attention_dim": 24, "sample_size": 8, **changes})
    return UNet2DConditionModel.from_config(config).eval()


def test_every_frame_of_an_untrained_video_unet_equals_the_image_unet():
    unet2d = sd21_unet()
    unet3d = inflate_unet(unet2d).eval()
    noise = torch.randn(2, 4, 3, 8, 8)  # every frame its own noise
    embeds, timestep = torch.randn(2, 5, 24), torch.tensor(700)
    with torch.no_grad():
        clip = unet3d(noise, timestep, embeds).sample
        frames = [unet2d(noise[:, :, f], timestep, embeds).sample for f in range(3)]
    torch.testing.assert_close(clip, torch.stack(frames, dim=2), rtol=1e-5, atol=1e-5)


def test_with_wider_embeddings_only_the_cross_attention_inputs_are_new_and_frames_equal_the_widened_image_unet():
    unet2d = sd21_unet()
    unet3d, report = inflate_unet_with_report(unet2d, cross_attention_dim=40)
    assert report.fresh
    assert all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in report.fresh)
    assert all(is_temporal(name) for name in report.temporal)
    assert len(report.copied) + len(report.fresh) + len(report.temporal) == len(unet3d.state_dict())
    assert len(report.copied) + len(report.fresh) == len(unet2d.state_dict())

    widened = sd21_unet(cross_attention_dim=40)
    before, after = unet2d.state_dict(), unet3d.state_dict()
    widened.load_state_dict({name: after[name] for name in before})
    assert all(torch.equal(before[name], after[name]) for name in report.copied)
    noise, embeds = torch.randn(1, 4, 2, 8, 8), torch.randn(1, 5, 40)
    with torch.no_grad():
        clip = unet3d.eval()(noise, 10, embeds).sample
        frames = [widened(noise[:, :, f], 10, embeds).sample for f in range(2)]
    torch.testing.assert_close(clip, torch.stack(frames, dim=2), rtol=1e-5, atol=1e-5)


def test_temporal_parts_receive_gradients_though_they_are_silent():
    unet3d = inflate_unet(sd21_unet()).train()
    unet3d(torch.randn(1, 4, 2, 8, 8), 10, torch.randn(1, 5, 24)).sample.square().mean().backward()
    last = unet3d.down_blocks[0].temp_convs[0].conv4[-1].weight.grad
    attention = unet3d.transformer_in.proj_out.weight.grad
    assert last.abs().sum() > 0
    assert attention.abs().sum() > 0


def test_inflation_is_seeded_and_leaves_the_global_random_state_alone():
    unet2d = sd21_unet()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = inflate_unet(unet2d, cross_attention_dim=40, seed=1)
    assert torch.equal(torch.rand(1), expected)
    second = inflate_unet(unet2d, cross_attention_dim=40, seed=1)
    other = inflate_unet(unet2d, cross_attention_dim=40, seed=2)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    assert torch.equal(first.state_dict()[name], second.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


@pytest.mark.parametrize("size", ["sd21", "debug"])
def test_the_video_preset_is_the_inflated_image_preset(size):
    from accelerate import init_empty_weights

    start = {"sd21": "sd21", "debug": "debug_sd21"}[size]
    with init_empty_weights():
        preset = UNet3DConditionModel.from_config(video_unet_config(size))
        flat = UNet2DConditionModel.from_config(unet_config(start))
    spatial = {name: p.shape for name, p in preset.named_parameters() if not is_temporal(name)}
    assert set(spatial) == {name for name, _ in flat.named_parameters()}
    differing = [name for name, p in flat.named_parameters() if p.shape != spatial[name]]
    assert all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in differing)
    assert bool(differing) == (size == "sd21")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (unet_config("debug"), "added conditions"),
        ({**unet_config("debug_sd21"), "use_linear_projection": False}, "use_linear_projection"),
        ({**unet_config("debug_sd21"), "transformer_layers_per_block": [1, 2]}, "more than one transformer layer"),
        ({**unet_config("debug_sd21"), "attention_head_dim": [4, 4]}, "heads of different sizes"),
        ({**unet_config("debug_sd21"), "flip_sin_to_cos": False}, "its flip_sin_to_cos is False"),
    ],
)
def test_a_unet_of_another_form_is_refused(config, said):
    with pytest.raises(ValueError, match=said):
        inflate_unet(UNet2DConditionModel.from_config(config))


def test_a_clip_of_one_frame_passes_trained_temporal_parts():
    unet2d = sd21_unet()
    unet3d = inflate_unet(unet2d).eval()
    with torch.no_grad():
        for name, parameter in unet3d.named_parameters():
            if is_temporal(name):
                parameter.normal_(std=0.2)
    names, clip = list(unet3d.state_dict()), torch.randn(2, 4, 3, 8, 8)
    embeds, timestep = torch.randn(2, 5, 24), torch.tensor(700)
    with torch.no_grad():
        mixed = unet3d(clip, timestep, embeds).sample
        let_stills_pass(unet3d)
        copy = deepcopy(unet3d)
        still = unet3d(clip[:, :, :1], timestep, embeds).sample
        torch.testing.assert_close(still[:, :, 0], unet2d(clip[:, :, 0], timestep, embeds).sample)
        assert torch.equal(unet3d(clip, timestep, embeds).sample, mixed)
        assert list(unet3d.state_dict()) == names
        unet3d.transformer_in.proj_out.weight.zero_()
        assert torch.equal(copy(clip, timestep, embeds).sample, mixed)  # a copy works by itself
