"""Loading published checkpoints straight onto a GPU."""

import pytest
import torch
from helpers_convert import assert_same, native_state, write_hf_folder
from safetensors.torch import save_file

from emu2 import Emu2ForConditionalGeneration
from emu2.convert import load_native, load_published

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def _on_gpu(model):
    return all(parameter.device.type == "cuda" for parameter in model.parameters())


def test_published_forms_load_onto_the_gpu(tiny_model, tmp_path):
    expected = tiny_model.to(torch.bfloat16)
    save_file(native_state(expected), tmp_path / "native.safetensors")
    folder = write_hf_folder(expected, tmp_path / "hf")
    for model in (
        load_native(tmp_path / "native.safetensors", config=tiny_model.config, device="cuda"),
        load_published(folder, dtype="bf16", device="cuda:0"),
        Emu2ForConditionalGeneration.from_pretrained(folder, dtype="bf16", device_map="auto"),
    ):
        assert _on_gpu(model)
        assert_same(model.cpu(), expected)


def test_a_model_spread_over_gpu_and_host_computes_the_same(tiny_model, tmp_path):
    folder = write_hf_folder(tiny_model, tmp_path / "hf")
    placement = dict.fromkeys(("model.visual", "model.project_up", "model.project_down", "lm_head"), 0)
    model = Emu2ForConditionalGeneration.from_pretrained(
        folder, device_map={**placement, "model.language_model": "cpu"}
    )
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        expected, found = tiny_model(input_ids=ids).logits, model(input_ids=ids.cuda()).logits.cpu()
    assert torch.allclose(expected, found, atol=1e-4)
