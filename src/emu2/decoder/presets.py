"""Configurations of the decoders' stock parts, as the dictionaries their `from_config` takes.

Sizes:
    sdxl         the published image decoder (SDXL base whose cross-attention reads Emu2's 1792-wide embeddings)
    sd21         the two-dimensional Stable Diffusion 2.1, and the video decoder made from it
    debug        64-pixel pictures, 16x16x8 latents, 128-wide embeddings: two CPU cores train each part in minutes
    debug_sd21   the same, in the form of Stable Diffusion 2.1, as a start for the `debug` video decoder
    nano         96-pixel pictures, 24x24x8 latents, 256-wide embeddings; its video decoder is its image decoder over
                 time (`FilmUNet`)

    UNet2DConditionModel.from_config(unet_config("debug"))
"""

from copy import deepcopy
from typing import Any

_SDXL_UNET: dict[str, Any] = {
    # published file unet/config.json; block sizes as in SDXL base (facts of the published checkpoint: 1680 tensors,
    # 2,525,520,644 parameters)
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    # In SDXL's configuration this is the number of heads of each block, not their size.
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 1792,
    "use_linear_projection": True,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    # 1792 of the mean embedding + six size numbers of 256 each
    "projection_class_embeddings_input_dim": 3328,
}

_SD21_UNET: dict[str, Any] = {
    # stabilityai/stable-diffusion-2-1-base, unet/config.json
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
}

_DEBUG_UNET: dict[str, Any] = {
    **_SDXL_UNET,
    "sample_size": 16,
    # 8 of the latents + 16 of coordinates: see `emu2.decoder.conditioning.with_places`
    "in_channels": 24,
    "out_channels": 8,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
    "block_out_channels": [32, 64, 64, 64],
    "layers_per_block": 1,
    "transformer_layers_per_block": [1, 1, 1, 1],
    "attention_head_dim": [2, 4, 4, 4],
    "cross_attention_dim": 128,
    "norm_num_groups": 8,
    "resnet_time_scale_shift": "scale_shift",
    "addition_time_embed_dim": 32,
    # 128 of the mean embedding + six size numbers of 32 each
    "projection_class_embeddings_input_dim": 320,
}

_DEBUG_SD21_UNET: dict[str, Any] = {
    **_SD21_UNET,
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "attention_head_dim": [2, 4],
    "cross_attention_dim": 128,
    "norm_num_groups": 16,
}

_NANO_UNET: dict[str, Any] = {
    **_DEBUG_UNET,
    "sample_size": 24,
    # 8 of the latents + 16 of coordinates + 256 of the embedding at each place
    "in_channels": 280,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
    "block_out_channels": [64, 96, 128],
    "transformer_layers_per_block": [1, 1, 1],
    "attention_head_dim": [2, 3, 4],
    "cross_attention_dim": 256,
    # 256 of the mean embedding + six size numbers of 32 each
    "projection_class_embeddings_input_dim": 448,
}

_SDXL_VAE: dict[str, Any] = {
    # published file vae/config.json (248 tensors, 83,653,863 parameters)
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}

_SD21_VAE: dict[str, Any] = {**_SDXL_VAE, "sample_size": 512, "scaling_factor": 0.18215, "force_upcast": False}

_DEBUG_VAE: dict[str, Any] = {
    **_SDXL_VAE,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    # Wide and shallow: with one residual block a level it learns several times faster than with two, and one group in
    # the norms keeps the picture's overall colour, which many groups would remove.
    "block_out_channels": [32, 32, 32],
    "layers_per_block": 0,
    "mid_block_add_attention": False,
    "norm_num_groups": 1,
    # A 4x4 patch of pixels in 8 numbers: four, as in SDXL, need far longer training for the same sharpness.
    "latent_channels": 8,
    "sample_size": 64,
    # One over the standard deviation of the latents: known only after the autoencoder is trained, and then written
    # with `vae.register_to_config(scaling_factor=...)`.
    "scaling_factor": 1.0,
    "force_upcast": False,
}

# All levels alike: without residual blocks an encoder's level cannot change its width.
_NANO_VAE: dict[str, Any] = {**_DEBUG_VAE, "block_out_channels": [48, 48, 48], "sample_size": 96}

_SCHEDULER: dict[str, Any] = {
    # published file scheduler/scheduler_config.json, an EulerDiscreteScheduler; the same noise schedule as SD 2.1
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "interpolation_type": "linear",
    "use_karras_sigmas": False,
    "timestep_spacing": "leading",
    "timestep_type": "discrete",
    "steps_offset": 1,
    # Not read by the Euler scheduler, but by those that may take its place through `from_config` (DDIM, PNDM).
    "clip_sample": False,
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}

_UNETS = {
    "sdxl": _SDXL_UNET,
    "sd21": _SD21_UNET,
    "debug": _DEBUG_UNET,
    "debug_sd21": _DEBUG_SD21_UNET,
    "nano": _NANO_UNET,
}
_VAES = {"sdxl": _SDXL_VAE, "sd21": _SD21_VAE, "debug": _DEBUG_VAE, "nano": _NANO_VAE}
#: A U-Net that predicts the latents themselves shows clean pictures long before one that predicts their noise.
_DEBUG_SCHEDULER: dict[str, Any] = {**_SCHEDULER, "prediction_type": "sample"}

_SCHEDULERS = {"sdxl": _SCHEDULER, "sd21": _SCHEDULER, "debug": _DEBUG_SCHEDULER, "nano": _DEBUG_SCHEDULER}

_VIDEO_UNETS: dict[str, dict[str, Any]] = {
    # In UNet3DConditionModel this number is the size of a head (64 in SD 2.1), for every block.
    "sd21": {"attention_head_dim": 64, "cross_attention_dim": 1792},
    "debug": {"attention_head_dim": 16, "cross_attention_dim": 128},
}
_VIDEO_STARTS = {"sd21": _SD21_UNET, "debug": _DEBUG_SD21_UNET}

#: What a two-dimensional U-Net's configuration shares with its inflated form.
SHARED_WITH_3D = (
    "sample_size",
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "norm_num_groups",
    "norm_eps",
    "act_fn",
)


def _named(table: dict[str, dict[str, Any]], what: str, size: str) -> dict[str, Any]:
    if size not in table:
        raise ValueError(f"No {what} preset is called {size!r}; there are {', '.join(table)}.")
    return deepcopy(table[size])


def unet_config(size: str) -> dict[str, Any]:
    """Of a `UNet2DConditionModel`: one of "sdxl", "sd21", "debug", "debug_sd21", "nano"."""
    return _named(_UNETS, "U-Net", size)


def vae_config(size: str) -> dict[str, Any]:
    """Of an `AutoencoderKL`: "sdxl", "sd21", "debug" or "nano"."""
    return _named(_VAES, "VAE", size)


def scheduler_config(size: str, *, prediction_type: str | None = None) -> dict[str, Any]:
    """Of an `EulerDiscreteScheduler`: "sdxl", "sd21", "debug" or "nano".

    Args:
        size: which decoder.
        prediction_type: what the U-Net predicts. None: noise ("epsilon"), in "debug" and "nano" the latents
            ("sample"); a U-Net that starts from the 768-pixel SD 2.1 checkpoint predicts velocity instead: pass
            "v_prediction".
    """
    preset = _named(_SCHEDULERS, "scheduler", size)
    if prediction_type is None:
        return preset
    if prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(f'prediction_type is "epsilon", "v_prediction" or "sample"; got {prediction_type!r}.')
    return {**preset, "prediction_type": prediction_type}


def video_unet_config(size: str) -> dict[str, Any]:
    """Of a `UNet3DConditionModel`: "sd21" (the paper's video decoder at 512 pixels), "debug"; of a `FilmUNet`: "nano".

    The paper says that the video decoder starts from SD 2.1, with temporal convolutions and spatio-temporal attention
    (section 2.2.3); the form of the temporal parts is that of the ModelScope model it cites. In that form, of half its
    image decoder's width, `nano` had colours and places and no shapes after 2800 steps of 16 pictures.
    """
    if size == "nano":
        return unet_config(size)
    own = _named(_VIDEO_UNETS, "video U-Net", size)
    start = deepcopy(_VIDEO_STARTS[size])
    return {
        **{name: start[name] for name in SHARED_WITH_3D},
        "down_block_types": [name.replace("2D", "3D") for name in start["down_block_types"]],
        "up_block_types": [name.replace("2D", "3D") for name in start["up_block_types"]],
        **own,
    }


def safety_checker_config() -> dict[str, Any]:
    """Of a `StableDiffusionSafetyChecker`, as published: a CLIP ViT-L/14 with 17 + 3 concept embeddings."""
    return {
        "projection_dim": 768,
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
            "projection_dim": 768,
        },
    }
