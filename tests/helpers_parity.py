"""The recorded models of the published code, loaded as ours, and how a recorded number is compared."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from emu2 import Emu2Config, tokens

#: model name -> (picture side, num_query, num_video_query, vocabulary, variant for load_native)
MODELS = {
    "base224": (224, 64, 64, tokens.BASE_VOCAB_SIZE, "base"),
    "base224q16": (224, 16, 16, tokens.BASE_VOCAB_SIZE, "base"),
    "chat448": (448, 256, 64, tokens.CHAT_VOCAB_SIZE, "chat"),
}


def parity_config(parity_dir: Path, name: str) -> Emu2Config:
    """The tiny configuration a recorded model had (fixture_config.json)."""
    recorded = json.loads((parity_dir / "fixture_config.json").read_text())
    vision, lm = recorded["vision"], recorded["lm"]
    image_size, num_query, num_video_query, vocab_size, _ = MODELS[name]
    lm_fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps")
    return Emu2Config(
        vision_config={
            "hidden_size": vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["heads"],
            "intermediate_size": vision["mlp_hidden"],
            "patch_size": vision["patch"],
            "layer_norm_eps": vision["layer_norm_eps"],
            "image_size": image_size,
        },
        text_config={
            "model_type": "llama",
            **{field: lm[field] for field in lm_fields},
            "num_key_value_heads": lm["num_attention_heads"],
            "max_position_embeddings": lm["max_position_embeddings"],
            "hidden_act": lm["hidden_act"],
            "rope_theta": float(lm["rope_theta"]),
            "tie_word_embeddings": lm["tie_word_embeddings"],
            "vocab_size": vocab_size,
            "pad_token_id": tokens.LLAMA_VOCAB_SIZE,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        num_query=num_query,
        num_video_query=num_video_query,
    )


def parity_state(parity_dir: Path, name: str) -> dict[str, torch.Tensor]:
    """The recorded model's state dict under the published native names (parity/MANIFEST.md section 1)."""
    image_size, _, _, vocab_size, _ = MODELS[name]
    state = dict(load_file(parity_dir / "weights.safetensors"))
    positions = load_file(parity_dir / "weights_pos.safetensors")
    state["visual.pos_embed"] = positions[f"{image_size}/visual.pos_embed"]
    for key in ("decoder.lm.model.embed_tokens.weight", "decoder.lm.lm_head.weight"):
        state[key] = state[key][:vocab_size].clone()
    return state


@cache
def _load(parity_dir: Path, name: str, folder: Path):
    from emu2 import convert

    file = folder / f"{name}.safetensors"
    save_file(parity_state(parity_dir, name), file)
    config = parity_config(parity_dir, name)
    return convert.load_native(file, variant=MODELS[name][-1], config=config, dtype=torch.float32).eval()


def load_parity_model(parity_dir: Path, name: str, folder: Path):
    """A recorded model through the shipped converter, float32, in eval mode; loaded once per folder."""
    return _load(parity_dir, name, folder)


def assert_within(got: torch.Tensor, want: torch.Tensor, max_abs: float, rel_l2: float, what: str) -> None:
    """Fail unless got is within both limits of want (parity/MANIFEST.md section 4)."""
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, recorded {tuple(want.shape)}"
    got, want = got.double(), want.double()
    difference = (got - want).abs().max().item()
    relative = ((got - want).norm() / want.norm()).item()
    assert difference <= max_abs, f"{what}: max |difference| {difference:.3g} is over {max_abs:.3g}"
    assert relative <= rel_l2, f"{what}: relative L2 {relative:.3g} is over {rel_l2:.3g}"


def normalise_u8(pixels_HWC: torch.Tensor) -> torch.Tensor:
    """A recorded, already resized uint8 picture as the tower takes it: float32[3, S, S]."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    return (pixels_HWC.permute(2, 0, 1).float() / 255 - mean) / std
