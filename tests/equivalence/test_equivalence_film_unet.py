"""The image decoder over time against the image decoder, and against itself."""

from copy import deepcopy

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers_decoder import tiny_film_unet, tiny_unet, tiny_video_unet

from emu2.decoder.conditioning import added_conditions, between_keyframes, with_places
from emu2.decoder.inflate import is_temporal
from emu2.decoder.video_unet import FilmUNet, load_video_unet, predict_clip
from emu2.model.variants import TEMPORAL

SIZE = (16, 16)


def clips(keyframes: int = 2, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, times and embeddings of two clips."""
    torch.manual_seed(5)
    return torch.randn(2, 4, frames, 4, 4), torch.tensor([10, 700]), torch.randn(2, keyframes, 4, 32)


def flat(unet: FilmUNet) -> UNet2DConditionModel:
    """The image U-Net inside."""
    image = UNet2DConditionModel.from_config(unet.config).eval()
    spatial = {
        name.replace(".spatial", ""): value for name, value in unet.state_dict().items() if not is_temporal(name)
    }
    image.load_state_dict(spatial)
    return image


@torch.no_grad()
def test_until_trained_every_frame_is_what_the_image_decoder_makes_of_its_embeddings():
    unet = tiny_film_unet(spoken=False)
    image, (noisy, times, embeddings) = flat(unet), clips()
    got = predict_clip(unet, noisy, times, embeddings, SIZE)
    of_frames = between_keyframes(embeddings, 3)
    for frame in range(3):
        own = of_frames[:, frame]
        expected = image(
            with_places(noisy[:, :, frame], own, unet.config.in_channels),
            times,
            encoder_hidden_states=own,
            added_cond_kwargs=added_conditions(own, SIZE, (0, 0), SIZE),
        ).sample
        torch.testing.assert_close(got[:, :, frame], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_trained_parts_mix_frames_of_a_clip_and_of_no_other():
    unet, (noisy, times, embeddings) = tiny_film_unet(), clips()
    together = predict_clip(unet, noisy, times, embeddings, SIZE)
    alone = predict_clip(unet, noisy[1:], times[1:], embeddings[1:], SIZE)
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)
    turned = predict_clip(unet, noisy.flip(2), times, embeddings.flip(1), SIZE).flip(2)
    assert not torch.allclose(together, turned, atol=1e-3)  # the order of the frames counts
    one = predict_clip(unet, noisy[:, :, :1], times, embeddings[:, :1], SIZE)
    image = predict_clip(FilmUNet.of_image_unet(flat(unet)).eval(), noisy[:, :, :1], times, embeddings[:, :1], SIZE)
    torch.testing.assert_close(one, image, rtol=1e-5, atol=1e-5)  # a picture passes


@torch.no_grad()
def test_stored_is_loaded_whole_and_beside_an_image_decoder(tmp_path):
    unet, (noisy, times, embeddings) = tiny_film_unet(), clips()
    expected = predict_clip(unet, noisy, times, embeddings, SIZE)
    unet.save_pretrained(tmp_path / "whole")
    unet.save_temporal(tmp_path / "parts")
    image = flat(unet)
    again, over = load_video_unet(tmp_path / "whole"), load_video_unet(tmp_path / "parts", image_unet=image)
    for loaded in (again, over, deepcopy(over)):
        assert isinstance(loaded, FilmUNet)
        assert torch.equal(predict_clip(loaded.eval(), noisy, times, embeddings, SIZE), expected)
    assert over.conv_in.weight is image.conv_in.weight  # shared, not copied
    assert unet.draws_as(image)
    assert (tmp_path / "parts" / TEMPORAL).stat().st_size < (
        tmp_path / "whole" / "diffusion_pytorch_model.safetensors"
    ).stat().st_size
    image.conv_out.bias.add_(1.0)
    assert not unet.draws_as(image)
    assert not unet.draws_as(tiny_unet())
    tiny_video_unet().save_pretrained(tmp_path / "of_sd21")
    assert type(load_video_unet(tmp_path / "of_sd21")).__name__ == "UNet3DConditionModel"


def test_temporal_parts_without_their_image_decoder_are_refused(tmp_path):
    tiny_film_unet().save_temporal(tmp_path)
    with pytest.raises(ValueError, match=r"holds the temporal parts of a video U-Net alone, and there is no image"):
        load_video_unet(tmp_path)
    other = UNet2DConditionModel.from_config({**tiny_unet().config, "block_out_channels": [16, 48]})
    with pytest.raises(ValueError, match=r"These temporal parts belong to another U-Net: \S+ and \d+ more differ"):
        load_video_unet(tmp_path, image_unet=other)


def test_a_new_one_is_seeded_and_leaves_the_global_random_state_alone():
    image = flat(tiny_film_unet())
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (FilmUNet.of_image_unet(image, seed=1).temporal_weights() for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = FilmUNet.of_image_unet(image, seed=2).temporal_weights()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_gradients_reach_silent_temporal_parts():
    unet, (noisy, times, embeddings) = tiny_film_unet(spoken=False), clips()
    predict_clip(unet, noisy, times, embeddings, SIZE).square().mean().backward()
    last = unet.down_blocks[0].resnets[0].temporal.conv4[-1].weight.grad
    assert last.abs().sum() > 0
