"""The recorded weights of the published code load strictly through the shipped converters."""

import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from emu2 import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from emu2.convert import inspect, load_native, save_native, save_published, to_ours

_VOCABULARIES = ("decoder.lm.model.embed_tokens.weight", "decoder.lm.lm_head.weight")
_VARIANTS = {"base224": "base", "base224q16": "base", "chat448": "chat"}


@pytest.fixture(scope="module")
def recorded(load_parity):
    """The recorded tensors, in the float16 they are stored in, and the sizes."""
    weights, _ = load_parity("weights")
    positions, _ = load_parity("weights_pos")
    decoder, _ = load_parity("weights_diffusion")
    _, sizes = load_parity("fixture_config")
    return weights, positions, decoder, sizes


def _config(sizes, name):
    vision, lm, model = sizes["vision"], sizes["lm"], sizes["models"][name]
    return Emu2Config(
        vision_config={
            "hidden_size": vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["heads"],
            "intermediate_size": vision["mlp_hidden"],
            "image_size": model["image_size"],
            "patch_size": vision["patch"],
        },
        text_config={
            "model_type": "llama",
            "vocab_size": model["vocab"],
            "pad_token_id": 32000,
            **{name: value for name, value in lm.items() if name != "head_dim"},
        },
        num_query=model["n_query"],
        num_video_query=model["v_query"],
    )


def _state(recorded, name):
    weights, positions, _, sizes = recorded
    model = sizes["models"][name]
    state = dict(weights)
    state["visual.pos_embed"] = positions[model["pos_embed"]]
    for key in _VOCABULARIES:
        state[key] = state[key][: model["vocab"]].contiguous()
    return state


@pytest.mark.parametrize("name", _VARIANTS)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_recorded_weights_load_strictly_and_return_unchanged(recorded, tmp_path, name, suffix):
    state = _state(recorded, name)
    shapes = {key: tuple(shape) for key, shape in recorded[3]["state_dict_shapes"].get(name, {}).items()}
    assert not shapes or shapes == {key: tuple(tensor.shape) for key, tensor in state.items()}
    file = tmp_path / f"native{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)

    model = load_native(file, variant=_VARIANTS[name], config=_config(recorded[3], name))
    assert model.dtype == torch.float32
    assert torch.equal(model.lm_head.weight, state["decoder.lm.lm_head.weight"].float())
    assert torch.equal(model.model.visual.pos_embed, state["visual.pos_embed"].float())

    save_native(model.half(), tmp_path / "again.safetensors", _VARIANTS[name])
    again = load_file(tmp_path / "again.safetensors")
    assert set(again) == set(state)
    assert all(torch.equal(again[key], tensor) and again[key].dtype == tensor.dtype for key, tensor in state.items())


def test_recorded_image_generation_weights_load_strictly(recorded, tmp_path):
    _, _, decoder, sizes = recorded
    state = {f"multimodal_encoder.{key}": tensor for key, tensor in _state(recorded, "base224").items()}
    state.update(decoder)
    save_file(state, tmp_path / "gen.safetensors")
    pipe = load_native(
        tmp_path / "gen.safetensors",
        variant="gen",
        config=_config(sizes, "base224"),
        unet_config=sizes["unet"],
        vae_config=sizes["vae"],
        scheduler_config=sizes["scheduler"],
        dtype=torch.float32,
    )
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.multimodal_encoder.dtype == torch.float32
    save_native(pipe, tmp_path / "again.safetensors", "gen")
    again = load_file(tmp_path / "again.safetensors")
    assert set(again) == set(state)
    assert all(torch.equal(again[key], tensor.float()) for key, tensor in state.items())


@pytest.mark.parametrize("name", ["base224", "chat448"])
def test_a_published_folder_with_its_tokeniser_becomes_a_complete_folder_of_ours(recorded, shared_dir, tmp_path, name):
    """Published weights and tokeniser files in, everything `from_pretrained` needs out."""
    if not (shared_dir / "tokenizer" / "tokenizer.json").is_file():
        pytest.skip(f"no published tokeniser at {shared_dir / 'tokenizer'}")
    variant = _VARIANTS[name]
    save_file(_state(recorded, name), tmp_path / "native.safetensors")
    model = load_native(tmp_path / "native.safetensors", variant, config=_config(recorded[3], name))
    published = tmp_path / "published"
    save_published(model, published, f"hf-{variant}")
    for file in (shared_dir / "tokenizer").iterdir():
        shutil.copyfile(file, published / file.name)

    assert to_ours(published, tmp_path / "ours") == f"hf-{variant}"
    assert inspect(tmp_path / "ours").missing == []
    processor = Emu2Processor.from_pretrained(tmp_path / "ours")
    again = Emu2ForConditionalGeneration.from_pretrained(tmp_path / "ours")
    picture = Image.new("RGB", (50, 40), "red")
    inputs = processor([["[USER]: ", picture, "Describe"]], return_tensors="pt")
    assert (inputs["input_ids"] == 32003).sum() == model.config.num_query
    assert (32272 in inputs["input_ids"]) == (variant == "chat")  # [USER], plain text in the base vocabulary
    with torch.no_grad():
        expected, found = (m(**inputs).logits for m in (model, again))
    assert torch.equal(expected, found)
