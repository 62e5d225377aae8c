"""From a picture U-Net to a video U-Net: spatial weights copied, temporal parts that change nothing at first.

Section 2.2.3 of the paper: the video decoder starts from Stable Diffusion 2.1, gets a one-dimensional temporal
convolution after every spatial one, and attention that also runs over time. `UNet3DConditionModel` is this form (that
of ModelScope's video model, which the paper cites).
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import (
    TransformerTemporalModel,
    TransformerTemporalModelOutput,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import Tensor, nn

from emu2.decoder.presets import SHARED_WITH_3D

#: Parts of `UNet3DConditionModel` that mix frames, and of `FilmUNet`; everything else acts on each frame by itself.
_TEMPORAL_PARTS = ("transformer_in", "temp_convs", "temp_attentions", "temporal")


#: Settings a `UNet3DConditionModel` has built in. A two-dimensional U-Net with others would compute something else.
_BUILT_IN = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "attention_type": "default",
    "cross_attention_norm": None,
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
}


@dataclass(frozen=True)
class InflationReport:
    """Where each tensor of an inflated U-Net comes from, by name.

    Args:
        copied: taken from the two-dimensional U-Net.
        fresh: of another shape there, hence newly drawn: `to_k` and `to_v` of the cross-attentions, where the
            embeddings are of another width (1792 against SD 2.1's 1024).
        temporal: new, and without effect until trained.
    """

    copied: tuple[str, ...]
    fresh: tuple[str, ...]
    temporal: tuple[str, ...]


def inflate_unet(
    unet2d: UNet2DConditionModel, *, cross_attention_dim: int | None = None, seed: int = 0
) -> UNet3DConditionModel:
    """A video U-Net that at first treats every frame as `unet2d` treats a picture. See `inflate_unet_with_report`."""
    return inflate_unet_with_report(unet2d, cross_attention_dim=cross_attention_dim, seed=seed)[0]


def inflate_unet_with_report(
    unet2d: UNet2DConditionModel, *, cross_attention_dim: int | None = None, seed: int = 0
) -> tuple[UNet3DConditionModel, InflationReport]:
    """Inflate, and say what came from where.

    Args:
        unet2d: of the form of SD 2.1.
        cross_attention_dim: width of the embeddings the video U-Net reads; None keeps that of `unet2d`. With another
            width the cross-attentions' `to_k` and `to_v` are drawn anew, so frames equal pictures of a `unet2d` that
            has the same new layers.
        seed: of the new weights; the global random state is left alone.

    Returns:
        the video U-Net in the dtype and on the device of `unet2d`, and the report.

    Raises:
        ValueError: `unet2d` has parts a `UNet3DConditionModel` has no place for.
    """
    config = _config_3d(unet2d, cross_attention_dim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet3d = UNet3DConditionModel.from_config(config)
    silence_temporal_parts(unet3d)

    source, target = unet2d.state_dict(), unet3d.state_dict()
    temporal = tuple(name for name in target if is_temporal(name))
    spatial = [name for name in target if not is_temporal(name)]
    if set(spatial) != set(source):
        odd = sorted(set(spatial) ^ set(source))
        raise ValueError(
            f"This U-Net cannot be inflated: {len(odd)} tensors exist in only one of the two forms, "
            f"for example {odd[0]}."
        )
    copied = tuple(name for name in spatial if source[name].shape == target[name].shape)
    fresh = tuple(name for name in spatial if source[name].shape != target[name].shape)
    unexpected = [name for name in fresh if not name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    if unexpected:
        name = unexpected[0]
        raise ValueError(
            f"This U-Net cannot be inflated: {name} has shape {list(source[name].shape)}, its place in the video U-Net "
            f"{list(target[name].shape)}."
        )
    unet3d.load_state_dict({name: source[name] for name in copied}, strict=False)
    unet3d.to(unet2d.device, unet2d.dtype)
    return unet3d, InflationReport(copied=copied, fresh=fresh, temporal=temporal)


def is_temporal(name: str) -> bool:
    """Whether a parameter of a video U-Net belongs to a part that mixes frames."""
    return any(part in name.split(".") for part in _TEMPORAL_PARTS)


@torch.no_grad()
def silence_temporal_parts(unet3d: nn.Module) -> None:
    """Zero the last layer of every temporal part. Each adds its output to its input, so it then changes nothing."""
    for module in unet3d.modules():
        last: Any
        if isinstance(module, TransformerTemporalModel):
            last = module.proj_out
        elif isinstance(module, TemporalConvLayer):
            last = module.conv4[-1]
        else:
            continue
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


def let_stills_pass(unet3d: UNet3DConditionModel) -> None:
    """Let clips of one frame pass by the temporal parts, so that they are what the spatial parts make of a picture.

    What has one frame has nothing to mix. So pictures teach the spatial parts at two fifths of the cost of as many
    frames of clips (pictures and clips together: Ho et al. 2022, Video Diffusion Models, section 3.1).
    """
    for module in unet3d.modules():
        for plain, passing in ((TransformerTemporalModel, _PassingAttention), (TemporalConvLayer, PassingConvolution)):
            if type(module) is plain:
                module.__class__ = passing  # not a wrapper: names of weights stay, and copies are of their own


class PassingConvolution(TemporalConvLayer):
    """Over the frames of clips; a clip of one frame passes as it is."""

    def forward(self, hidden_states: Tensor, num_frames: int = 1) -> Tensor:
        return hidden_states if num_frames == 1 else super().forward(hidden_states, num_frames)


class _PassingAttention(TransformerTemporalModel):
    def forward(self, hidden_states: Any, *args: Any, num_frames: int = 1, return_dict: bool = True, **kwargs: Any):
        if num_frames > 1:
            return super().forward(hidden_states, *args, num_frames=num_frames, return_dict=return_dict, **kwargs)
        return TransformerTemporalModelOutput(sample=hidden_states) if return_dict else (hidden_states,)


def _config_3d(unet2d: UNet2DConditionModel, cross_attention_dim: int | None) -> dict[str, Any]:
    config: Any = unet2d.config
    refusals = {
        "added conditions (addition_embed_type)": config.addition_embed_type is not None,
        "class embeddings (class_embed_type, num_class_embeds)": config.class_embed_type is not None
        or config.num_class_embeds is not None,
        "an encoder projection (encoder_hid_dim)": config.encoder_hid_dim is not None,
        "more than one transformer layer per block": {1}
        != set(_per_block(config, config.transformer_layers_per_block)),
        "convolutions around its attention (use_linear_projection=False)": not config.use_linear_projection,
        "attention heads of different sizes": len(_head_sizes(config)) != 1,
    }
    for what, present in refusals.items():
        if present:
            raise ValueError(
                f"This U-Net cannot be inflated: it has {what}, which a UNet3DConditionModel has no place for. The "
                "video decoder starts from a U-Net of the form of Stable Diffusion 2.1."
            )
    for name, built_in in _BUILT_IN.items():
        if getattr(config, name) != built_in:
            raise ValueError(
                f"This U-Net cannot be inflated: its {name} is {getattr(config, name)!r}, and a UNet3DConditionModel "
                f"works with {built_in!r} only."
            )
    width = config.cross_attention_dim if cross_attention_dim is None else cross_attention_dim
    return {
        **{name: getattr(config, name) for name in SHARED_WITH_3D},
        "down_block_types": [name.replace("2D", "3D") for name in config.down_block_types],
        "up_block_types": [name.replace("2D", "3D") for name in config.up_block_types],
        "downsample_padding": config.downsample_padding,
        "mid_block_scale_factor": config.mid_block_scale_factor,
        "attention_head_dim": _head_sizes(config).pop(),
        "cross_attention_dim": width,
    }


def _per_block(config: Any, value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value] * len(config.block_out_channels)


def _head_sizes(config: Any) -> set[int]:
    # What a 2-D configuration calls attention_head_dim is the number of heads; in 3-D it is their size.
    heads = _per_block(config, config.num_attention_heads or config.attention_head_dim)
    return {channels // number for channels, number in zip(config.block_out_channels, heads, strict=True)}
