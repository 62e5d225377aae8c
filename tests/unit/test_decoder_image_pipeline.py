"""Emu2ImagePipeline: what a call gives, what it refuses, and that batching changes nothing."""

import numpy as np
import pytest
import torch
from helpers_decoder import STEPS, copy_of, count_calls, latents_of, picture, quiet, seeded, tiny_pipe, tiny_unet
from PIL import Image

from emu2 import Box, Emu2ImagePipeline, Video


@pytest.fixture(scope="module")
def shared_pipe():
    """For tests that leave it as it is."""
    return tiny_pipe()


@pytest.fixture
def pipe(shared_pipe):
    return copy_of(shared_pipe)


# What comes out


def test_output_types(pipe):
    out = {kind: pipe("a cat", generator=seeded(0), output_type=kind, **STEPS) for kind in ("pil", "np", "pt")}
    image = out["pil"].images[0]
    assert isinstance(image, Image.Image)
    assert image.size == (16, 16)
    assert out["np"].images.shape == (1, 16, 16, 3)
    assert out["pt"].images.shape == (1, 3, 16, 16)
    np.testing.assert_array_equal(np.asarray(image), (out["np"].images[0] * 255).round().astype("uint8"))
    np.testing.assert_array_equal(out["pt"].images[0].permute(1, 2, 0).numpy(), out["np"].images[0])
    assert latents_of(pipe, "a cat").shape == (1, 4, 4, 4)
    assert out["pil"].nsfw_content_detected is None
    images, flagged = pipe("a cat", return_dict=False, **STEPS)
    assert len(images) == 1
    assert flagged is None


def test_sizes_default_to_the_decoders_own_and_may_be_rectangles(pipe):
    assert pipe("a cat", **STEPS).images[0].size == (16, 16)
    assert pipe("a cat", height=24, width=32, **STEPS).images[0].size == (32, 24)


def test_same_seed_same_picture_and_seeds_differ(pipe):
    assert torch.equal(latents_of(pipe, "a cat"), latents_of(pipe, "a cat"))
    assert not torch.equal(latents_of(pipe, "a cat"), latents_of(pipe, "a cat", generator=seeded(1)))


def test_given_noise_is_what_a_generator_would_draw(pipe):
    noise = torch.randn(1, 4, 4, 4, generator=seeded(0))
    assert torch.equal(latents_of(pipe, "a cat", latents=noise, generator=None), latents_of(pipe, "a cat"))


def test_flat_list_is_one_prompt_and_nested_lists_are_a_batch(pipe):
    assert latents_of(pipe, ["a cat", "a dog"]).shape[0] == 1
    assert latents_of(pipe, [["a cat"], ["a dog"]]).shape[0] == 2
    assert torch.equal(latents_of(pipe, "a cat"), latents_of(pipe, [["a cat"]]))


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        ["a cat"],
        [picture(), "make it snow"],
        [picture(), picture(1)],
        [Video([picture(), picture(1)]), "the next frame"],
        ["a cat", Box((10, 10, 200, 200), "the cat", image=picture())],
        picture(),
    ],
)
def test_every_kind_of_prompt_draws(pipe, prompt):
    assert torch.isfinite(latents_of(pipe, prompt)).all()


def test_a_picture_on_disk_is_a_path(pipe, tmp_path):
    file = tmp_path / "a.png"
    picture().save(file)
    assert torch.equal(latents_of(pipe, file), latents_of(pipe, picture()))


def test_default_original_size(pipe, tiny_unet_inputs):
    assert tiny_unet_inputs(pipe, "a cat") == [16, 16, 0, 0, 16, 16]  # not of SDXL's form: its own size
    assert tiny_unet_inputs(pipe, "a cat", original_size=(7, 9), crops_coords_top_left=(1, 2), width=32) == [
        *(7, 9, 1, 2, 16, 32)
    ]
    assert tiny_unet_inputs(pipe, "a cat", target_size=(5, 6))[-2:] == [5, 6]
    other = quiet(Emu2ImagePipeline(**pipe.components, default_original_size=512))
    assert tiny_unet_inputs(other, "a cat")[:2] == [512, 512]


@pytest.fixture
def tiny_unet_inputs(monkeypatch):
    def time_ids(pipe, prompt, **options) -> list[int]:
        with monkeypatch.context() as patch:
            calls = count_calls(patch, pipe.unet, "forward")
            latents_of(pipe, prompt, **options)
        return calls[0][1]["added_cond_kwargs"]["time_ids"][0].tolist()

    return time_ids


# Batches


def test_batched_equals_single(pipe):
    prompts = [["a red cat"], [picture(), "two dogs by the river"], [picture(1)], [""]]
    together = latents_of(pipe, prompts, generator=seeded(1, 2, 3, 4))
    for row, prompt in enumerate(prompts):
        alone = latents_of(pipe, prompt, generator=seeded(row + 1))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


def test_pictures_of_a_prompt_follow_each_other(pipe):
    prompts = [["a red cat"], [picture()]]
    together = latents_of(pipe, prompts, num_images_per_prompt=2, generator=seeded(1, 2, 3, 4))
    for row, (prompt, seed) in enumerate(((0, 1), (0, 2), (1, 3), (1, 4))):
        alone = latents_of(pipe, prompts[prompt], generator=seeded(seed))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


def test_size_conditions_may_differ_from_prompt_to_prompt(pipe):
    prompts = [["a red cat"], ["a red cat"]]
    together = latents_of(pipe, prompts, generator=seeded(1, 1), original_size=[(8, 8), (64, 64)])
    for row, size in enumerate(((8, 8), (64, 64))):
        alone = latents_of(pipe, prompts[0], generator=seeded(1), original_size=size)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1])


def test_prompts_negatives_and_samples_share_one_roll_out(pipe, monkeypatch):
    calls = count_calls(monkeypatch, pipe.multimodal_encoder, "generate_visual")
    latents_of(pipe, [["a cat"], ["two dogs"]], negative_prompt="a table", num_images_per_prompt=3, generator=None)
    assert len(calls) == 1
    assert calls[0][1]["input_ids"].shape[0] == 3


def test_a_single_picture_never_meets_the_language_model(pipe, monkeypatch):
    calls = count_calls(monkeypatch, pipe.multimodal_encoder, "generate_visual")
    latents_of(pipe, picture())
    assert not calls


# Guidance


def test_the_null_of_generation_is_the_empty_prompt_and_is_kept(pipe, monkeypatch):
    null = pipe.encode_prompt("a cat")[1]
    assert torch.equal(null, pipe.encode_prompt("", do_classifier_free_guidance=False)[0])
    torch.testing.assert_close(pipe.encode_prompt("a cat", negative_prompt="")[1], null)
    calls = count_calls(monkeypatch, pipe.multimodal_encoder, "generate_visual")
    again = pipe.encode_prompt([["a cat"], ["a dog"]])[1]
    assert torch.equal(again, null.expand(2, -1, -1))
    # the prompts, then a two-step look whether the kept null still holds
    assert [kwargs.get("num_query") for _, kwargs in calls] == [None, 2]


@pytest.mark.parametrize("part", ["lm", "project_up", "project_down", "embed"])
def test_the_kept_null_follows_the_weights(pipe, part):
    old = pipe.encode_prompt("a cat")[1]
    inner = pipe.multimodal_encoder.model
    weights = {
        "lm": inner.language_model.layers[0].mlp.up_proj.weight,
        "project_up": inner.project_up.weight,
        "project_down": inner.project_down.weight,
        "embed": inner.language_model.embed_tokens.weight,
    }[part]
    weights.data.mul_(1.5)  # not even autograd's version counter sees this
    new = pipe.encode_prompt("a cat")[1]
    assert not torch.equal(new, old)
    pipe._null_embeds = None
    assert torch.equal(pipe.encode_prompt("a cat")[1], new)


def test_the_kept_null_follows_the_dtype(pipe):
    pipe.encode_prompt("a cat")
    pipe.multimodal_encoder.to(torch.float64)
    pipe.encode_prompt("a cat")
    assert pipe._null_embeds.dtype == torch.float64


def test_the_null_of_autoencoding_is_an_all_zero_normalised_picture(pipe):
    null = pipe.encode_prompt(picture())[1]
    zeros = torch.zeros(1, 3, 28, 28)
    assert torch.equal(null, pipe.multimodal_encoder.encode_image(zeros))
    black = pipe.encode_prompt(Image.new("RGB", (28, 28)), do_classifier_free_guidance=False)[0]
    assert not torch.allclose(null, black)


def test_guidance_rows_are_conditional_then_unconditional(pipe, monkeypatch):
    calls = count_calls(monkeypatch, pipe.unet, "forward")
    conditional, null = pipe.encode_prompt("a cat")
    latents_of(pipe, "a cat", guidance_scale=2.0)
    assert torch.equal(calls[0][1]["encoder_hidden_states"], torch.cat([conditional, null]))
    calls.clear()
    latents_of(pipe, "a cat", guidance_scale=1.0)
    assert torch.equal(calls[0][1]["encoder_hidden_states"], conditional)


def test_ready_embeddings_equal_their_prompt(pipe):
    conditional, null = pipe.encode_prompt("a cat")
    expected = latents_of(pipe, "a cat")
    assert torch.equal(latents_of(pipe, None, prompt_embeds=conditional, negative_prompt_embeds=null), expected)
    assert torch.equal(latents_of(pipe, None, prompt_embeds=conditional), expected)
    assert torch.equal(latents_of(pipe, "a cat", negative_prompt_embeds=null), expected)
    assert torch.equal(latents_of(pipe, None, prompt_embeds=conditional, negative_prompt=""), expected)


def test_without_an_encoder_it_decodes_ready_embeddings(pipe):
    conditional, null = pipe.encode_prompt("a cat")
    alone = quiet(Emu2ImagePipeline(None, None, pipe.unet, pipe.vae, pipe.scheduler))
    expected = latents_of(pipe, "a cat")
    assert torch.equal(latents_of(alone, None, prompt_embeds=conditional, negative_prompt_embeds=null), expected)
    with pytest.raises(ValueError, match="without a multimodal encoder"):
        alone("a cat")
    with pytest.raises(ValueError, match="needs negative_prompt_embeds"):
        alone(prompt_embeds=conditional)


# Refusals


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"height": 18}, r"height must be a positive multiple of 4 .* got 18"),
        ({"width": 0}, r"width must be a positive multiple of 4 .* got 0"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number from 1 to 1000; got 0"),
        ({"num_inference_steps": 2.5}, "got 2.5"),
        ({"num_inference_steps": 1001}, "from 1 to 1000; got 1001"),
        ({"guidance_scale": -1}, "guidance_scale must be a finite number of at least 0 .* got -1"),
        ({"guidance_scale": float("nan")}, "got nan"),
        ({"guidance_scale": float("inf")}, "got inf"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be a whole number of at least 1; got 0"),
        ({"output_type": "png"}, "output_type is .* got 'png'"),
        ({"prompt": []}, "prompt is an empty list"),
        ({"prompt": [["a"], []]}, "prompt 1 is an empty list"),
        ({"prompt": [["a"], "b"]}, "prompt mixes lists and single parts.*element 1 is str"),
        ({"prompt": ["a", 3]}, "Part 1 of prompt is int"),
        ({"prompt": [["a"], ["b", {"x": 1}]]}, "Part 1 of prompt 1 is dict"),
        ({"prompt": 5}, "prompt is a list of text, pictures, videos and boxes; got int"),
        ({"prompt": None}, "Give exactly one of prompt and prompt_embeds"),
        ({"prompt_embeds": torch.zeros(1, 4, 32)}, "Give exactly one of prompt and prompt_embeds"),
        ({"negative_prompt": [["a"], ["b"]]}, "There are 1 prompts but 2 negative prompts"),
        ({"negative_prompt": []}, "negative_prompt is an empty list"),
        ({"negative_prompt": "a", "negative_prompt_embeds": torch.zeros(1, 4, 32)}, "not both"),
        ({"negative_prompt_embeds": torch.zeros(1, 3, 32)}, r"must have the shape of prompt_embeds, \[1, 4, 32\]"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 4, 31)}, r"embeddings, 32\].* got \[1, 4, 31\]"),
        ({"prompt": None, "prompt_embeds": torch.zeros(4, 32)}, r"got \[4, 32\]"),
        ({"latents": torch.zeros(1, 4, 4, 8)}, r"latents must have shape \[1, 4, 4, 4\]; got \[1, 4, 4, 8\]"),
        ({"generator": [torch.Generator()] * 2}, "1 samples are made, but 2 generators"),
        ({"original_size": (16,)}, "original_size is a pair"),
        ({"original_size": (-1, 16)}, "original_size must not be negative"),
        ({"crops_coords_top_left": (0.5, 1.0)}, "crops_coords_top_left is a pair of whole numbers"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "A callback can read .*'noise'"),
    ],
)
def test_one_clear_error(shared_pipe, arguments, said):
    with pytest.raises(ValueError, match=said):
        shared_pipe(**{"prompt": "a cat", **STEPS, **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"latents": torch.zeros(1, 4, 4, 8)},
        {"generator": [torch.Generator()] * 2},
        {"original_size": (-1, 16)},
        {"negative_prompt": [["a"], ["b"]]},
    ],
)
def test_refusals_come_before_the_roll_out(shared_pipe, monkeypatch, arguments):
    calls = count_calls(monkeypatch, shared_pipe.multimodal_encoder, "generate_visual")
    with pytest.raises(ValueError):  # noqa: PT011 (the messages are tested above)
        shared_pipe("a cat", **STEPS, **arguments)
    assert not calls


def test_parts_that_do_not_belong_together_are_refused(pipe):
    parts = {**pipe.components, "unet": tiny_unet(embedding_dim=24)}
    with pytest.raises(ValueError, match=r"embeddings are 32 wide.*reads 24"):
        Emu2ImagePipeline(**parts)
