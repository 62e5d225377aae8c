"""Coordinates, and embeddings at their places, as further input channels of small decoders."""

import pytest
import torch

from emu2.decoder.conditioning import between_keyframes, coordinate_channels, with_places


def test_every_place_is_told_apart_and_channels_are_of_unit_size():
    channels = coordinate_channels(16, 16, 16)
    assert channels.shape == (16, 16, 16)
    assert channels.square().mean(dim=(1, 2)).sqrt().tolist() == pytest.approx([1.0] * 16, abs=0.15)
    places = channels.flatten(1).T
    apart = torch.cdist(places, places) + torch.eye(len(places)) * 99
    assert apart.min() > 0.1


def test_rows_and_columns_are_not_mixed_up():
    down, across = coordinate_channels(8, 4, 6).chunk(2)
    assert torch.equal(down, down[:, :, :1].expand_as(down))
    assert torch.equal(across, across[:, :1].expand_as(across))
    assert (down[2, 0, 0] > 0) & (down[2, -1, 0] < 0)  # cosine of half a wave from top to bottom


def test_a_unet_without_room_for_them_gets_none():
    latents = torch.randn(2, 4, 8, 8)
    assert with_places(latents, torch.randn(2, 64, 1792), 4) is latents


@pytest.mark.parametrize("shape", [(2, 4, 8, 6), (2, 4, 3, 8, 6)], ids=["picture", "clip"])
def test_channels_beyond_the_latents_are_coordinates(shape):
    latents = torch.randn(shape, dtype=torch.bfloat16)
    widened = with_places(latents, torch.randn(2, 16, 32), 12)
    assert widened.shape == (2, 12, *shape[2:])
    assert widened.dtype == torch.bfloat16
    assert torch.equal(widened[:, :4], latents)
    assert torch.equal(widened[1, 4:].flatten(1)[:, -48:], coordinate_channels(8, 8, 6).bfloat16().flatten(1))


@pytest.mark.parametrize("shape", [(2, 4, 8, 12), (2, 4, 3, 8, 12)], ids=["picture", "clip"])
def test_further_ones_are_the_embeddings_of_each_part(shape):
    latents, embeddings = torch.randn(shape), torch.randn(2, 16, 32)
    widened = with_places(latents, embeddings, 4 + 8 + 32)
    assert torch.equal(widened[:, :12], with_places(latents, embeddings, 12))
    placed = widened[:, 12:]
    rows, columns = 8 // 4, 12 // 4
    for number in range(16):
        row, column = divmod(number, 4)
        part = placed[..., row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
        wanted = torch.nn.functional.layer_norm(embeddings[:, number], (32,))
        assert torch.equal(part.flatten(2), wanted[:, :, None].expand_as(part.flatten(2)))


def test_embeddings_alone_may_be_placed():
    latents, embeddings = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 6)
    assert with_places(latents, embeddings, 10).shape == (2, 10, 8, 8)


def test_embeddings_that_form_no_square_are_refused():
    with pytest.raises(ValueError, match=r"must be a square of rows and columns .* got 12 of them"):
        with_places(torch.randn(1, 4, 8, 8), torch.randn(1, 12, 32), 4 + 8 + 32)


@pytest.mark.parametrize("count", [0, 3, 6, -4])
def test_other_counts_are_refused(count):
    with pytest.raises(ValueError, match=f"Coordinates come in fours .* got {count} channels"):
        coordinate_channels(count, 4, 4)


@pytest.mark.parametrize(
    ("frames", "keyframes", "expected"),
    [
        (8, 5, [0, 0.5, 1, 1.5, 2, 3, 3.5, 4]),
        (6, 2, [0, 0, 1 / 3, 2 / 3, 1, 1]),
        (4, 4, [0, 1, 2, 3]),
        (3, 1, [0, 0, 0]),
    ],
)
def test_a_frame_between_two_keyframes_is_a_mixture_of_both(frames, keyframes, expected):
    embeddings = torch.arange(float(keyframes)).view(1, keyframes, 1, 1).expand(2, keyframes, 4, 3)
    between = between_keyframes(embeddings, frames)
    assert between.shape == (2, frames, 4, 3)
    torch.testing.assert_close(between[1, :, 2, 1], torch.tensor(expected, dtype=torch.float32))


def test_keyframes_are_placed_frame_by_frame():
    latents, embeddings = torch.randn(2, 4, 3, 8, 8), torch.randn(2, 3, 16, 32)
    widened = with_places(latents, embeddings, 4 + 8 + 32)
    for frame in range(3):
        assert torch.equal(widened[:, :, frame], with_places(latents[:, :, frame], embeddings[:, frame], 4 + 8 + 32))


def test_more_keyframes_than_frames_or_than_a_unet_tells_apart_are_refused():
    with pytest.raises(ValueError, match="A clip of 3 frames has at most 3 keyframes; got embeddings of 4"):
        between_keyframes(torch.zeros(1, 4, 16, 32), 3)
    with pytest.raises(ValueError, match=r"cannot tell the order of 2 keyframes\. Give it one, or .* 32 channels more"):
        with_places(torch.zeros(1, 4, 3, 8, 8), torch.zeros(1, 2, 16, 32), 4)
