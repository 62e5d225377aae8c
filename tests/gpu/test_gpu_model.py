"""The model on a CUDA device: placement, bf16, the cached roll-out. Skipped with a reason where there is none."""

import pytest
import torch

from emu2 import Emu2ForConditionalGeneration

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

IDS = [[1, 101, 103, 103, 103, 103, 102, 7, 9]]


def inputs(device):
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.tensor(IDS, device=device), "pixel_values": pixels.to(device)}


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_float32_equals_the_cpu(tiny_model):
    torch.backends.cuda.matmul.allow_tf32 = False
    on_cpu = tiny_model(**inputs("cpu")).logits
    on_gpu = tiny_model.to("cuda")(**inputs("cuda")).logits.cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("device_map", ["auto", "cuda", {"": 0}], ids=str)
def test_bf16_by_device_map(folder, device_map):
    model = Emu2ForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16, device_map=device_map)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    out = model.generate(**inputs("cuda"), max_new_tokens=5, do_sample=False)
    assert out.shape == (1, len(IDS[0]) + 5)


@torch.no_grad()
def test_roll_out_cached_equals_recomputed(tiny_model):
    model = tiny_model.to("cuda")
    cached = model.generate_visual(**inputs("cuda"))
    torch.testing.assert_close(cached, model.generate_visual(**inputs("cuda"), use_cache=False), atol=1e-4, rtol=1e-3)


def test_tower_and_language_model_on_different_devices(folder):
    """Pictures encoded on the CPU, text on the GPU: features follow the language model."""
    device_map = {
        "model.visual": "cpu",
        "model.project_up": 0,
        "model.project_down": 0,
        "model.language_model": 0,
        "lm_head": 0,
    }
    model = Emu2ForConditionalGeneration.from_pretrained(folder, device_map=device_map)
    out = model.generate(**inputs("cuda"), max_new_tokens=4, do_sample=False)
    assert out.shape == (1, len(IDS[0]) + 4)
