"""Tiny stand-ins for every published file, in its exact naming."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "transformer_layers_per_block": [1, 1],
    "attention_head_dim": [1, 2],
    "cross_attention_dim": 32,
    "use_linear_projection": True,
    "norm_num_groups": 4,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 16,
    "scaling_factor": 0.13025,
}
SAFETY_CHECKER = {
    "projection_dim": 12,
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "projection_dim": 12,
    },
    "text_config": {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 10,
        "projection_dim": 12,
    },
}

_NATIVE = (
    ("model.visual.", "visual."),
    ("model.language_model.", "decoder.lm.model."),
    ("lm_head.", "decoder.lm.lm_head."),
    ("model.project_", "project_"),
)


def native_state(model: Any, prefix: str = "") -> dict[str, Tensor]:
    """A native state dict of a model, rotary tables included, written without the package's own tables."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        ours, theirs = next(pair for pair in _NATIVE if name.startswith(pair[0]))
        state[prefix + theirs + name.removeprefix(ours)] = tensor.clone()
    text = model.config.text_config
    head_dim = text.hidden_size // text.num_attention_heads
    for layer in range(text.num_hidden_layers):
        name = f"{prefix}decoder.lm.model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        state[name] = 1.0 / (10000.0 ** (torch.arange(0, head_dim, 2).float() / head_dim))
    return state


def hf_state(model: Any) -> dict[str, Tensor]:
    """The same in the naming of the published Hugging Face folders, vision biases fused."""
    state: dict[str, Tensor] = {}
    for name, tensor in native_state(model).items():
        if name.endswith(".attn.v_bias"):
            continue
        if name.endswith(".attn.q_bias"):
            value = model.state_dict()["model." + name.replace("q_bias", "v_bias")]
            state["model." + name.replace("q_bias", "qkv.bias")] = torch.cat([tensor, torch.zeros_like(tensor), value])
        else:
            state[name if name.startswith("project_") else "model." + name] = tensor
    return state


def hf_config(config: Any, *, version: str = "base", dtype: str = "float32") -> dict[str, Any]:
    """The published config.json of a size, with the published field names."""
    vision, text = config.vision_config, config.text_config
    return {
        "architectures": ["EmuForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_emu.EmuConfig"},
        "model_version": version,
        "d_model": vision.hidden_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_attention_heads,
        "max_position_embeddings": text.max_position_embeddings,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "vocab_size": text.vocab_size,
        "n_query": config.num_query,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "xattn": False,
        "vision_config": {
            "eva_model_name": "eva-clip-E-14-plus",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
            "layers": vision.num_hidden_layers,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
            "layer_norm_eps": 1e-6,
            "postnorm": True,
            "qkv_bias": True,
            "v_query": config.num_video_query,
        },
    }


def write_shards(state: dict[str, Tensor], folder: Path, pattern: str, index_names: list[str], count: int = 3) -> None:
    """Cut a state dict into `count` shards with indexes; `pattern` has the fields `number` and `count`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(state)
    size = -(-len(names) // count)
    weight_map = {}
    for number in range(count):
        members = names[number * size : (number + 1) * size]
        file = pattern.format(number=number + 1, count=count)
        shard = {name: state[name].contiguous().clone() for name in members}
        save_file(shard, folder / file) if file.endswith(".safetensors") else torch.save(shard, folder / file)
        weight_map.update(dict.fromkeys(members, file))
    for name in index_names:
        (folder / name).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))


def write_hf_folder(model: Any, folder: Path, **config: Any) -> Path:
    """A published folder of Emu2 or Emu2-Chat: sharded pickles with their index."""
    write_shards(
        hf_state(model), folder, "pytorch_model-{number:05d}-of-{count:05d}.bin", ["pytorch_model.bin.index.json"]
    )
    (folder / "config.json").write_text(json.dumps(hf_config(model.config, **config)))
    return folder


def decoder_parts(seed: int = 0) -> tuple[Any, Any, Any]:
    """Tiny U-Net, autoencoder and safety checker."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    torch.manual_seed(seed)
    checker = StableDiffusionSafetyChecker(CLIPConfig(**SAFETY_CHECKER))
    for name, parameter in checker.named_parameters():
        if "embeds" in name:
            torch.nn.init.normal_(parameter.data)
    return UNet2DConditionModel.from_config(UNET), AutoencoderKL.from_config(VAE), checker.eval()


def published_safety_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as transformers 4.31 saved them."""
    return {
        "vision_model." * 2 + name.replace("vision_model.", "") if name.startswith("vision_model.") else name: tensor
        for name, tensor in state.items()
    }


def gen_state(model: Any, unet: Any, vae: Any, checker: Any = None) -> dict[str, Tensor]:
    """A native Emu2-Gen state dict."""
    state = native_state(model, "multimodal_encoder.")
    state.update({f"unet.{name}": tensor for name, tensor in unet.state_dict().items()})
    state.update({f"vae.{name}": tensor for name, tensor in vae.state_dict().items()})
    if checker is not None:
        named = published_safety_names(checker.state_dict())
        state.update({f"safety_checker.{name}": tensor for name, tensor in named.items()})
    return state


def assert_same(left: Any, right: Any) -> None:
    """Two modules or state dicts hold the same bits under the same names."""
    left = left if isinstance(left, dict) else left.state_dict()
    right = right if isinstance(right, dict) else right.state_dict()
    assert set(left) == set(right)
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name
