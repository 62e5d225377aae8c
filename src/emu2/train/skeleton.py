"""A run without its numbers: the model as fake tensors, and one micro-batch of a stated shape.

Under torch's FakeTensorMode every tensor has a shape, a dtype and a device but no memory, so a model of 37 billion
parameters is built in seconds and its training step runs, allocation by allocation, on any machine. Tests hold these
steps to the bytes that the real objectives allocate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from emu2 import presets
from emu2.configuration import Emu2Config
from emu2.train.config import RunConfig
from emu2.train.flops import SEQUENCE_OBJECTIVES
from emu2.train.whole import Whole

#: Vocabulary of sizes whose tokeniser is trained with them; tells nothing of the model, weighs little in memory.
_SMALL_VOCABULARY, _SMALL_FIRST_SPECIAL = 1024, 700
#: `<s>` and `</s>`; `[IMG]` and `[/IMG]` around every picture.
_ENDS, _AROUND = 2, 2
#: Pictures the frozen parts take at a time (emu2.train.features).
_CHUNK = 64


@dataclass(frozen=True)
class RecordShape:
    """How large one record of a kind is: text tokens, stills, video frames. `text=None` fills the longest sequence."""

    text: int | None
    images: int = 0
    frames: int = 0

    def length(self, config: RunConfig, model: Emu2Config) -> int:
        """Positions of its sequence, at most `data.max_length`."""
        num_query = config.num_query or model.num_query
        num_frame = config.num_video_query or model.num_video_query
        pictures = self.images * (num_query + _AROUND) + self.frames * (num_frame + _AROUND)
        longest = config.data.max_length
        return longest if self.text is None else min(longest, _ENDS + pictures + self.text)

    @property
    def pictures(self) -> int:
        return self.images + self.frames


#: What a plan takes a record of each kind for, unless it is told otherwise. Captions of CapsFusion are about 23 words
#: long; MMC4 documents are 8 pictures in 1024 tokens, plain text comes in chunks of the longest sequence, clips are 8
#: frames (all from the paper, supplement B); the others are estimates.
RECORDS: dict[str, RecordShape] = {
    "pair": RecordShape(text=40, images=1),
    "text_to_image": RecordShape(text=40, images=1),
    "video_pair": RecordShape(text=40, frames=8),
    "grounded_pair": RecordShape(text=90, images=1),
    "document": RecordShape(text=494, images=8),
    "storyboard": RecordShape(text=494, images=8),
    "text": RecordShape(text=None),
    "chat": RecordShape(text=300, images=1),
    "grounded_generation": RecordShape(text=60, images=5),
    "composition": RecordShape(text=60, images=5),
    "edit": RecordShape(text=30, images=2),
}
#: A kind that is not in the table, such as an episode of a few pictures with answers.
OTHER_RECORD = RecordShape(text=100, images=4)


def record_shape(kind: str, config: RunConfig, records: Mapping[str, RecordShape] | None = None) -> RecordShape:
    """The stated shape of a kind, else the table's with as many frames as the run reads of a clip."""
    if records and kind in records:
        return records[kind]
    shape = RECORDS.get(kind, OTHER_RECORD)
    return replace(shape, frames=max(config.data.frames)) if shape.frames else shape


def model_config(config: RunConfig) -> Emu2Config:
    """The autoregressive model of the run's size, at the run's resolution and numbers of embeddings.

    Raises:
        ValueError: the size is unknown.
    """
    if config.size in presets.FROM_NOTHING:
        model = presets.from_nothing(config.size, vocab_size=_SMALL_VOCABULARY, first_special_id=_SMALL_FIRST_SPECIAL)
    else:
        chat = config.objective == "chat" and f"{config.size}-chat" in presets.names()
        model = presets.config(f"{config.size}-chat" if chat else config.size)
    return at_resolution(model, config)


def at_resolution(model: Emu2Config, config: RunConfig) -> Emu2Config:
    """`model` with what the run changes of it."""
    values = model.to_dict()
    if config.resolution:
        values["vision_config"]["image_size"] = config.resolution
    values["num_query"] = config.num_query or model.num_query
    values["num_video_query"] = config.num_video_query or model.num_video_query
    values.pop("transformers_version", None)
    return Emu2Config.from_dict(values)


def skeleton(config: RunConfig, parts: Parts) -> Whole:
    """The whole a run holds, in its dtype, on the CPU; meant for FakeTensorMode, under which it takes no memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, config.dtype))
    try:
        return _build(parts)
    finally:
        torch.set_default_dtype(before)


class _Placed(Whole):
    """A whole of fake tensors: born in its place and dtype, since modules cannot exchange fake parameters."""

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Whole:
        return self


def _build(parts: Parts) -> Whole:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers.initialization import no_init_weights

    from emu2.decoder.video_unet import video_unet_class
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration

    with no_init_weights():
        model = Emu2ForConditionalGeneration(parts.model)
    whole = _Placed(model=model, processor=None)  # type: ignore[arg-type]
    if parts.vae is not None:
        whole.vae = AutoencoderKL.from_config(parts.vae)
    if parts.unet is not None:
        whole.unet = UNet2DConditionModel.from_config(parts.unet)
    if parts.video_unet is not None:
        whole.video_unet = video_unet_class(parts.video_unet).from_config(parts.video_unet)
    if parts.text_tower:
        from emu2.train.text_tower import TextTower

        whole.text_tower = TextTower(parts.model.text_config.vocab_size, parts.model.vision_config.hidden_size)
    return whole


@dataclass(frozen=True)
class Parts:
    """Configurations of the parts that a run holds in memory; None: it does not have the part."""

    model: Emu2Config
    vae: dict[str, Any] | None = None
    unet: dict[str, Any] | None = None
    video_unet: dict[str, Any] | None = None
    text_tower: bool = False

    def depths(self) -> dict[str, int]:
        """Blocks of the two deep stacks."""
        return {"vision": self.model.vision_config.num_hidden_layers, "text": self.model.text_config.num_hidden_layers}

    def at_depths(self, depths: dict[str, int]) -> Parts:
        """The same with other numbers of blocks."""
        values = self.model.to_dict()
        for stack, depth in depths.items():
            values[f"{stack}_config"]["num_hidden_layers"] = depth
        return replace(self, model=Emu2Config.from_dict(values))

    @classmethod
    def of_size(cls, config: RunConfig) -> Parts:
        """What a run of this size and objective needs. Decoder's parts by the published sizes' names."""
        from emu2.decoder.presets import unet_config, vae_config, video_unet_config

        model, objective = model_config(config), config.objective
        small = config.size in presets.FROM_NOTHING
        picture, video = (config.size, config.size) if small else ("sdxl", "sd21")
        return cls(
            model=model,
            vae={
                "decoder": vae_config(picture),
                "autoencoder": vae_config(picture),
                "video_decoder": vae_config(video),
            }.get(objective),
            unet=unet_config(picture) if objective == "decoder" else None,
            video_unet=video_unet_config(video) if objective == "video_decoder" else None,
            text_tower=objective == "contrastive",
        )

    @classmethod
    def of_whole(cls, whole: Whole, config: RunConfig) -> Parts:
        """The parts of a model in memory."""
        vae = whole.frame_vae if config.objective == "video_decoder" else whole.vae
        return cls(
            model=at_resolution(whole.model.config, config),
            vae=dict(vae.config) if vae is not None else None,
            unet=dict(whole.unet.config) if whole.unet is not None else None,
            video_unet=dict(whole.video_unet.config) if whole.video_unet is not None else None,
            text_tower=whole.text_tower is not None,
        )


def micro_batch_loss(whole: Whole, config: RunConfig, shape: RecordShape, rows: int) -> Tensor:
    """Forward pass of one micro-batch of `rows` records, as the objective of the run makes it; the weighted loss."""
    steps = {"contrastive": _contrastive, "autoencoder": _autoencoder, "decoder": _decoder, "video_decoder": _video}
    run = _sequences if config.objective in SEQUENCE_OBJECTIVES else steps[config.objective]
    return run(whole, config, shape, rows)


def _pixels(model: Any, number: int) -> Tensor:
    side = model.config.vision_config.image_size
    return torch.empty(number, 3, side, side)


def _features(whole: Whole, config: RunConfig, number: int, num_query: int) -> Tensor:
    """Embeddings of a frozen tower: computed without gradients, some pictures at a time, or already kept."""
    model = whole.model
    if config.data.pool is not None:
        return torch.empty(number, num_query, model.config.vision_config.hidden_size, dtype=model.dtype)
    with torch.no_grad():
        # One chunk stands for all: they come one after the other, and only their results stay.
        first = model.encode_image(_pixels(model, min(_CHUNK, number)), num_query)
        return torch.cat([first, first.new_empty(number - first.shape[0], *first.shape[1:])])


def _sequences(whole: Whole, config: RunConfig, shape: RecordShape, rows: int) -> Tensor:
    model, settings = whole.model, whole.model.config
    length = shape.length(config, settings)
    ids = torch.zeros(rows, length, dtype=torch.int64)
    pictures: dict[str, Tensor] = {}
    for name, argument, number, num_query in (
        ("image_features", "pixel_values", shape.images * rows, settings.num_query),
        ("video_features", "video_pixel_values", shape.frames * rows, settings.num_video_query),
    ):
        if number and "vision" in config.parts:
            pictures[argument] = _pixels(model, number)
        elif number:
            pictures[name] = _features(whole, config, number, num_query)
    regressed = {"unified": shape.pictures * settings.num_query, "gen": settings.num_query}.get(config.objective, 0)
    model._add_losses = MethodType(_static_losses(rows * regressed), model)  # type: ignore[method-assign]
    out = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False, **pictures)
    return config.text_loss_weight * out.text_loss + config.visual_loss_weight * out.visual_loss


def _static_losses(regressed: int) -> Any:
    """The model's losses for a known number of visual targets: fake tensors have no values to find targets by."""
    from emu2.model.losses import next_embedding_loss, next_token_loss

    def add_losses(self: Any, result: Any, input_ids: Tensor, labels: Tensor, outputs: Any) -> None:
        result.text_loss, result.num_text_targets = next_token_loss(result.logits, labels)
        hidden = result.last_hidden_state[:, :-1].flatten(0, 1)[:regressed].clone()
        width = self.config.vision_config.hidden_size
        target = torch.empty(hidden.shape[0], width, dtype=hidden.dtype, device=hidden.device)
        result.visual_loss, result.num_visual_targets = next_embedding_loss(self.model.project_down(hidden), target)

    return add_losses


def _contrastive(whole: Whole, config: RunConfig, shape: RecordShape, rows: int) -> Tensor:
    tower = whole.text_tower
    assert tower is not None
    length = min(tower.max_length, shape.text or tower.max_length)
    ids = torch.zeros(rows, length, dtype=torch.int64)
    text = tower.embed_text(ids, torch.ones_like(ids))
    vision = tower.embed_vision(whole.model.encode_image(_pixels(whole.model, rows)))
    return tower.loss(text, vision)


def _autoencoder(whole: Whole, config: RunConfig, shape: RecordShape, rows: int) -> Tensor:
    vae = whole.vae
    side = vae.config.sample_size
    pixels = torch.empty(rows, 3, side, side)
    posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * torch.empty_like(posterior.mean)).sample.float()
    return F.mse_loss(decoded, pixels) + config.kl_weight * posterior.kl().mean()


def _latents(whole: Whole, config: RunConfig, vae: Any, pictures: int) -> Tensor:
    """float32[pictures, C, h, w], drawn from the frozen VAE's posterior."""
    side, channels = int(vae.config.sample_size), vae.config.latent_channels
    with torch.no_grad():
        latent = side // 2 ** (len(vae.config.block_out_channels) - 1)
        moments = torch.empty(pictures, 2 * channels, latent, latent, dtype=vae.dtype)
        if config.data.pool is None:
            vae.encode(torch.empty(min(_CHUNK, pictures), 3, side, side, dtype=vae.dtype))
        mean, log_variance = moments.float().chunk(2, dim=1)
        return mean + torch.exp(0.5 * log_variance) * torch.empty_like(mean)


def _decoder(whole: Whole, config: RunConfig, shape: RecordShape, rows: int) -> Tensor:
    from emu2.decoder.conditioning import added_conditions, with_places

    unet = whole.unet
    embeddings = _features(whole, config, rows, whole.model.config.num_query).to(unet.dtype)
    latents = _latents(whole, config, whole.vae, rows)
    noise = torch.empty_like(latents)
    side = (int(whole.vae.config.sample_size),) * 2
    predicted = unet(
        with_places(latents + noise, embeddings, unet.config.in_channels).to(unet.dtype),
        torch.zeros(rows, dtype=torch.int64),
        encoder_hidden_states=embeddings,
        added_cond_kwargs=added_conditions(embeddings, original_size=side, crop=(0, 0), target_size=side),
    ).sample.float()
    return F.mse_loss(predicted, noise)


def _video(whole: Whole, config: RunConfig, shape: RecordShape, rows: int) -> Tensor:
    from emu2.decoder.video_unet import predict_clip

    unet, frames = whole.video_unet, max(shape.frames, 1)
    embeddings = _features(whole, config, rows, whole.model.config.num_query).to(unet.dtype)
    latents = _latents(whole, config, whole.frame_vae, rows * frames)
    clip = latents.unflatten(0, (rows, frames)).transpose(1, 2).contiguous()
    noise = torch.empty_like(clip)
    side = (int(whole.frame_vae.config.sample_size),) * 2
    predicted = predict_clip(unet, clip + noise, torch.zeros(rows, dtype=torch.int64), embeddings, side)
    return F.mse_loss(predicted.float(), noise)
