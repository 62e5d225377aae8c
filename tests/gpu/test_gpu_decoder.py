"""The decoders on a CUDA device: precision, offloading, seeds. Skipped with a reason where there is none."""

from copy import deepcopy

import pytest
import torch
from helpers_decoder import euler, picture, quiet, tiny_encoder, tiny_unet, tiny_vae, tiny_video_unet

from emu2 import Emu2ImagePipeline, Emu2VideoPipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PROMPTS = ("a red cat", picture(), [picture(), "make it snow"])


@pytest.fixture(scope="module")
def shared_pipe():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return quiet(Emu2ImagePipeline(*tiny_encoder(), tiny_unet(), tiny_vae(), euler()))


@pytest.fixture
def pipe(shared_pipe):
    parts = {name: part if name == "processor" else deepcopy(part) for name, part in shared_pipe.components.items()}
    return quiet(Emu2ImagePipeline(**parts))


def draw(pipe, prompt):
    # A generator on the CPU draws the same noise whatever the device.
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, generator=generator, num_inference_steps=3, output_type="pt").images.float().cpu()


def test_float32_equals_the_cpu(pipe):
    expected = [draw(pipe, prompt) for prompt in PROMPTS]
    pipe.to("cuda")
    for prompt, images in zip(PROMPTS, expected, strict=True):
        torch.testing.assert_close(draw(pipe, prompt), images, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_finite_pictures(pipe, dtype):
    pipe.to("cuda", dtype)
    for prompt in PROMPTS:
        assert torch.isfinite(draw(pipe, prompt)).all()
    assert pipe.vae.dtype == dtype


@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloading_changes_nothing_and_frees_the_device(pipe, way):
    whole = deepcopy(pipe.components)
    on_gpu = quiet(Emu2ImagePipeline(**whole)).to("cuda")
    expected = [draw(on_gpu, prompt) for prompt in PROMPTS]
    getattr(pipe, way)()
    for prompt, images in zip(PROMPTS, expected, strict=True):
        torch.testing.assert_close(draw(pipe, prompt), images, atol=2e-3, rtol=1e-2)
        for name in ("multimodal_encoder", "unet", "vae"):
            assert {p.device.type for p in getattr(pipe, name).parameters()} <= {"cpu", "meta"}, name


def test_group_offload_changes_nothing(pipe):
    expected = [draw(pipe, prompt) for prompt in PROMPTS]
    pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level")
    for prompt, images in zip(PROMPTS, expected, strict=True):
        torch.testing.assert_close(draw(pipe, prompt), images, atol=2e-3, rtol=1e-2)


def test_the_encoder_may_stay_on_the_cpu(pipe):
    expected = draw(pipe, "a red cat")
    pipe.unet.to("cuda")
    pipe.vae.to("cuda")
    torch.testing.assert_close(draw(pipe, "a red cat"), expected, atol=2e-3, rtol=1e-2)


def test_video_in_bf16():
    pipe = quiet(Emu2VideoPipeline(*tiny_encoder(), tiny_video_unet(), tiny_vae(), euler())).to("cuda", torch.bfloat16)
    frames = pipe("a red cat", num_frames=4, num_inference_steps=2, output_type="pt").frames
    assert frames.shape == (1, 4, 3, 16, 16)
    assert torch.isfinite(frames).all()
