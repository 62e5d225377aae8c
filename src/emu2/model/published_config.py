"""The `config.json` of published Hugging Face folders <-> `Emu2Config`.

Source: config.json of the published folders Emu2, Emu2-Chat and Emu2-Gen/multimodal_encoder.
"""

from collections.abc import Mapping
from typing import Any

import torch

from emu2 import tokens
from emu2.configuration import Emu2Config
from emu2.model.runtime import resolve_dtype

_TEXT_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_OPTIONAL_TEXT_FIELDS = (
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "hidden_act",
    "initializer_range",
    "tie_word_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)


def is_published_config(fields: Mapping[str, Any]) -> bool:
    """Whether the content of a `config.json` is that of a published Emu2 folder."""
    return "EmuForCausalLM" in (fields.get("architectures") or ()) and "vision_config" in fields


def published_to_config(fields: Mapping[str, Any]) -> Emu2Config:
    """Our configuration from the `config.json` of a published folder.

    Raises:
        ValueError: a field is missing, or describes a tower that this package does not build.
    """
    vision = fields["vision_config"]
    try:
        if not vision.get("postnorm", True) or not vision.get("qkv_bias", True):
            raise ValueError(
                "The published config describes a vision tower without post-norm or without query and value biases; "
                "Emu2's has both (vision_config.postnorm, vision_config.qkv_bias)."
            )
        width = vision["width"]
        vision_config = {
            "hidden_size": width,
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": width // vision["head_width"],
            "intermediate_size": vision.get("intermediate_size") or int(width * vision["mlp_ratio"]),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "layer_norm_eps": vision.get("layer_norm_eps", 1e-6),
        }
        text_config = {
            "model_type": "llama",
            **{name: fields[name] for name in _TEXT_FIELDS},
            **{name: fields[name] for name in _OPTIONAL_TEXT_FIELDS if fields.get(name) is not None},
        }
        num_query = fields["n_query"]
    except KeyError as error:
        raise ValueError(f"The published config.json lacks the field {error}.") from error
    first = fields.get("pad_token_id") or tokens.LLAMA_VOCAB_SIZE
    if first >= fields["vocab_size"]:
        raise ValueError(
            f"The published config.json has pad_token_id {first} outside its vocabulary of {fields['vocab_size']}."
        )
    config = Emu2Config(
        vision_config=vision_config,
        text_config=text_config,
        num_query=num_query,
        num_video_query=vision.get("v_query", 64),
        **special_token_ids(first),
        bos_token_id=fields.get("bos_token_id", 1),
        eos_token_id=fields.get("eos_token_id", 2),
    )
    if fields.get("torch_dtype"):
        config.dtype = resolve_dtype(fields["torch_dtype"])
    return config


def config_to_published(config: Emu2Config, *, version: str, dtype: torch.dtype) -> dict[str, Any]:
    """The `config.json` of a published folder that `published_to_config` reads back.

    Args:
        config: ours.
        version: "base" or "chat", the published `model_version`.
        dtype: of the weights beside it.
    """
    vision, text = config.vision_config, config.text_config
    rope = getattr(text, "rope_parameters", None) or {}
    return {
        "architectures": ["EmuForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_emu.EmuConfig",
            "AutoModelForCausalLM": "modeling_emu.EmuForCausalLM",
        },
        "model_version": version,
        "d_model": vision.hidden_size,
        "n_query": config.num_query,
        **{name: getattr(text, name) for name in _TEXT_FIELDS},
        "num_key_value_heads": text.num_key_value_heads,
        "max_position_embeddings": text.max_position_embeddings,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": rope.get("rope_theta", 10000.0),
        "rope_scaling": None,
        "hidden_act": text.hidden_act,
        "initializer_range": text.initializer_range,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pretraining_tp": 1,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "use_cache": True,
        "vision_config": {
            "eva_model_name": "eva-clip-E-14-plus",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
            "layers": vision.num_hidden_layers,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "intermediate_size": vision.intermediate_size,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
            "layer_norm_eps": vision.layer_norm_eps,
            "postnorm": True,
            "qkv_bias": True,
            "v_query": config.num_video_query,
        },
    }


def special_token_ids(first: int) -> dict[str, int]:
    """Ids of the tokens the model itself must know, `first` being that of `[PAD]`."""
    place = tokens.BASE_SPECIAL_TOKENS.index
    return {
        "pad_token_id": first,
        "image_token_id": first + place(tokens.IMAGE_SLOT),
        "video_token_id": first + place(tokens.FRAME_SLOT),
        "image_start_token_id": first + place(tokens.IMG),
        "image_end_token_id": first + place(tokens.IMG_END),
    }
