"""How a call of Emu2ImagePipeline runs: schedulers, callbacks, the progress bar, and what saves memory."""

import diffusers
import pytest
import torch
from accelerate import cpu_offload
from diffusers.callbacks import SDCFGCutoffCallback
from helpers_decoder import STEPS, copy_of, count_calls, latents_of, picture, seeded, tiny_pipe

from emu2.decoder.placement import execution_device


@pytest.fixture(scope="module")
def shared_pipe():
    return tiny_pipe()


@pytest.fixture
def pipe(shared_pipe):
    return copy_of(shared_pipe)


# Schedulers, callbacks, progress


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDIMScheduler", {}),
        ("DDPMScheduler", {}),
        ("DPMSolverMultistepScheduler", {}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("HeunDiscreteScheduler", {}),
        ("PNDMScheduler", {}),
        ("UniPCMultistepScheduler", {}),
        ("LCMScheduler", {}),
        ("EulerDiscreteScheduler", {"prediction_type": "v_prediction"}),
    ],
)
def test_schedulers_are_swappable_and_seeded(pipe, name, options):
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    prompts = [["a cat"], ["a dog"]]
    first = latents_of(pipe, prompts, num_inference_steps=4, generator=seeded(1, 2))
    assert first.shape == (2, 4, 4, 4)
    assert torch.isfinite(first).all()
    assert torch.equal(first, latents_of(pipe, prompts, num_inference_steps=4, generator=seeded(1, 2)))
    alone = latents_of(pipe, "a dog", num_inference_steps=4, generator=seeded(2))
    torch.testing.assert_close(first[1:], alone, rtol=1e-3, atol=1e-3)


def test_callback_sees_every_step_and_what_it_returns_is_used(pipe):
    seen = []

    def zero_at_the_end(owner, step, timestep, tensors):
        assert owner is pipe
        assert set(tensors) == {"latents", "prompt_embeds"}
        seen.append((step, float(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else None

    names = ["latents", "prompt_embeds"]
    result = latents_of(
        pipe,
        "a cat",
        num_inference_steps=3,
        callback_on_step_end=zero_at_the_end,
        callback_on_step_end_tensor_inputs=names,
    )
    assert [step for step, _ in seen] == [0, 1, 2]
    assert [time for _, time in seen] == pipe.scheduler.timesteps.tolist()
    assert not result.any()
    assert pipe.num_timesteps == 3


def test_a_callback_can_stop_the_loop(pipe):
    steps = []

    def stop(owner, step, timestep, tensors):
        steps.append(step)
        owner._interrupt = True
        return {}

    latents_of(pipe, "a cat", num_inference_steps=4, callback_on_step_end=stop)
    assert steps == [0]
    latents_of(pipe, "a cat")
    assert not pipe.interrupt


def test_diffusers_guidance_cut_off_switches_to_the_conditional_row(pipe, monkeypatch):
    calls = count_calls(monkeypatch, pipe.unet, "forward")
    conditional = pipe.encode_prompt("a cat")[0]
    cut_off = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    latents_of(pipe, "a cat", num_inference_steps=3, callback_on_step_end=cut_off)
    assert [call[1]["encoder_hidden_states"].shape[0] for call in calls] == [2, 1, 1]
    assert torch.equal(calls[1][1]["encoder_hidden_states"], conditional)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "PNDMScheduler"])
def test_progress_bar_counts_the_steps(pipe, capsys, name):
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=False)
    pipe("a cat", num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err


# Memory


def test_vae_slicing_and_tiling(pipe):
    prompts = [["a cat"], ["a dog"]]
    options = {"generator": seeded(1, 2), "output_type": "pt", **STEPS}
    plain = pipe(prompts, **options).images
    pipe.vae.enable_slicing()
    sliced = pipe(prompts, **{**options, "generator": seeded(1, 2)}).images
    torch.testing.assert_close(sliced, plain, rtol=1e-4, atol=1e-4)
    pipe.vae.enable_tiling()
    assert pipe("a cat", height=48, width=48, **STEPS).images[0].size == (48, 48)


def test_model_offload_wakes_every_part_and_changes_nothing(pipe):
    expected = {kind: latents_of(pipe, prompt) for kind, prompt in (("text", "a cat"), ("picture", picture()))}
    pipe.enable_model_cpu_offload(device="cpu")
    woken = []
    hook = pipe.multimodal_encoder._hf_hook
    before = hook.pre_forward
    hook.pre_forward = lambda module, *args, **kwargs: woken.append(module) or before(module, *args, **kwargs)
    assert torch.equal(latents_of(pipe, "a cat"), expected["text"])
    assert pipe.multimodal_encoder in woken
    assert torch.equal(latents_of(pipe, picture()), expected["picture"])


def test_sequential_offload_changes_nothing(pipe):
    """Weights lie on the meta device between the calls of their layers, as in `enable_sequential_cpu_offload`."""
    prompts = ("a cat", picture(), [picture(), "make it snow"])
    expected = [pipe(prompt, generator=seeded(0), output_type="pt", **STEPS).images for prompt in prompts]
    for part in (pipe.multimodal_encoder, pipe.unet, pipe.vae):
        cpu_offload(part, execution_device="cpu")
        assert next(part.parameters()).is_meta
    for prompt, images in zip(prompts, expected, strict=True):
        assert torch.equal(pipe(prompt, generator=seeded(0), output_type="pt", **STEPS).images, images)


def test_group_offload_changes_nothing(pipe):
    expected = [latents_of(pipe, prompt) for prompt in ("a cat", picture())]
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    assert execution_device(pipe.unet) == torch.device("cpu")
    for prompt, latents in zip(("a cat", picture()), expected, strict=True):
        assert torch.equal(latents_of(pipe, prompt), latents)


def test_half_precision_vae_is_upcast_where_it_says_so_and_put_back(pipe):
    assert pipe.vae.config.force_upcast
    latents = latents_of(pipe, "a cat")
    expected = pipe.decode_latents(latents)
    pipe.vae.half()
    rounded = pipe.decode_latents(latents)
    assert rounded.dtype == torch.float32
    assert pipe.vae.dtype == torch.float16
    torch.testing.assert_close(rounded, expected, rtol=0.02, atol=0.02)
    with pytest.raises(RuntimeError):
        pipe.decode_latents(latents[:, :2])
    assert pipe.vae.dtype == torch.float16
