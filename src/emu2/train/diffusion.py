"""The decoder's two stages: the small VAE of from-scratch sizes, and the U-Net that decodes visual embeddings.

The U-Net is trained as an autoencoder, without the language model (paper, section 2.2.3): a picture goes through the
frozen vision tower into embeddings and through the frozen VAE into latents, and the U-Net learns to denoise the latents
given the embeddings.

    B  rows        N  embeddings per picture        D  their width        h, w  latent rows and columns
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from emu2.data.records import Record
from emu2.data.sequences import any_picture, first_image
from emu2.decoder.conditioning import added_conditions, with_places
from emu2.train.chance import RowChance
from emu2.train.config import RunConfig
from emu2.train.features import FeatureCache
from emu2.train.objectives import Batch, Objective
from emu2.train.whole import Whole

#: What the vision tower reads and what the VAE reads, a row per sample.
Pixels = tuple[Tensor, Tensor]
#: Likewise, not yet made.
PixelMakers = tuple[Sequence[Callable[[], Tensor]], Sequence[Callable[[], Tensor]]]


def to_pixels(image: Image.Image) -> Tensor:
    """float32[3, H, W] in [-1, 1], as the VAE reads it."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1.0


def to_image(pixels: Tensor) -> Image.Image:
    """The inverse of `to_pixels`, clipped and rounded."""
    values = ((pixels.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())


def require_side(record: Record, size: tuple[int, int], drawn: int) -> None:
    """Refuse a picture or clip whose shorter side is below half of what a decoder draws.

    The paper leaves out pictures below 512 pixels and draws 1024; the U-Net is told their own size.
    """
    least = drawn // 2
    if min(size) < least:
        raise ValueError(
            f"Record {record.key!r} shows {size[0]}x{size[1]} pixels, and a decoder of {drawn} pixels learns from "
            f"sides of {least} or more."
        )


def rows_of(*columns: Sequence[Tensor]) -> Image.Image:
    """A sheet with one line per sequence of pictures (each float[3, H, W])."""
    return to_image(torch.cat([torch.cat(list(line), dim=2) for line in columns], dim=1))


class AutoencoderObjective(Objective):
    """Reconstruction and a small KL term for a VAE that starts from nothing. The published sizes use SDXL's instead.

    The paper has no such stage. The squared error sees the things in a picture sooner than the absolute one, of
    which the background takes the most.
    """

    needs = ("vae",)
    trains = ("vae",)

    @property
    def weights(self) -> dict[str, float]:
        return {"reconstruction": 1.0, "kl": self.config.kl_weight}

    def sample(self, record: Record, chance: random.Random) -> Tensor:
        return to_pixels(first_image(record))

    def collate(self, samples: Sequence[Tensor], keys: list[str]) -> Batch:
        pixels = torch.stack(list(samples))
        return Batch(
            {"pixels": pixels},
            {"reconstruction": len(samples), "kl": len(samples)},
            {"images": len(samples)},
            keys,
        )

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        pixels = batch.tensors["pixels"]
        posterior = self.whole.vae.encode(pixels.to(self.whole.vae.dtype)).latent_dist
        noise = RowChance(batch.seeds, self.device).normal(*posterior.mean.shape[1:])
        decoded = self.whole.vae.decode(posterior.mean + posterior.std * noise.to(posterior.mean)).sample.float()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"reconstruction": F.mse_loss(decoded, pixels), "kl": kl}

    @torch.no_grad()
    def finish(self, batches: Sequence[Batch]) -> None:
        """Measure the latents' standard deviation, so that the U-Net sees unit variance (`scaling_factor`)."""
        vae = self.whole.vae
        latents = torch.cat([vae.encode(b.tensors["pixels"].to(vae.dtype)).latent_dist.mean for b in batches])
        vae.register_to_config(scaling_factor=float(1.0 / latents.float().std()))

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Any]:
        pixels = batch.tensors["pixels"][:8]
        latents = self.whole.vae.encode(pixels.to(self.whole.vae.dtype)).latent_dist.mean
        return {"autoencoder": rows_of(list(pixels), list(self.whole.vae.decode(latents).sample))}


class DiffusionObjective(Objective):
    """What the decoders of pictures and of clips share: noise, what is to be predicted, and the null condition."""

    weights = {"diffusion": 1.0}
    #: What the vision tower and the VAE make of a sample, remembered where the run draws from a pool.
    embeddings: FeatureCache
    moments: FeatureCache

    def __init__(self, whole: Whole, config: RunConfig, device: torch.device):
        super().__init__(whole, config, device)
        from diffusers import DDPMScheduler

        self.noise = DDPMScheduler.from_config(self.scheduler.config)
        self.null = FeatureCache(whole.model.encode_image)

    @property
    @abstractmethod
    def scheduler(self) -> Any:
        """Of the decoder that trains; says what its U-Net predicts."""

    def null_embeddings(self, like: Tensor) -> Tensor:
        """float[..., N, D], like the embeddings of a sample: what a dropped one is conditioned on."""
        if self.config.diffusion.null == "zeros":
            return torch.zeros_like(like)
        side = self.whole.processor.image_processor.size["height"]
        makers = [lambda: torch.zeros(3, side, side)]
        return self.null(["null"], makers, self.device, remember=True)[0].to(like).expand_as(like)

    def denoising_loss(
        self,
        moments: Tensor,
        scaling_factor: float,
        embeddings: Tensor,
        chance: RowChance,
        predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Mean over the rows of the weighed squared error.

        Args:
            moments: float[B, 2C, ..., h, w], mean and log variance of the latents; between them the frames of clips.
            scaling_factor: of the VAE.
            embeddings: float[B, ..., N, D], the condition; some rows' are replaced by the null one.
            predict: the U-Net, from noisy latents, timesteps and embeddings.
        """
        settings = self.config.diffusion
        mean, log_variance = moments.float().chunk(2, dim=1)
        spread = torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))
        latents = (mean + spread * chance.normal(*mean.shape[1:])) * scaling_factor
        # The offset is one number for a channel of a picture, and of a clip: a clip's frames are equally bright.
        ones = [1] * (latents.ndim - 2)
        noise = chance.normal(*latents.shape[1:]) + settings.noise_offset * chance.normal(latents.shape[1], *ones)
        steps = self.noise.config.num_train_timesteps
        u = chance.uniform()
        t = ((1 - u**settings.timestep_power) * steps).long().clamp(0, steps - 1)
        dropped = (chance.uniform() < settings.drop_embeddings).view(-1, *[1] * (embeddings.ndim - 1))
        embeddings = torch.where(dropped, self.null_embeddings(embeddings[0]), embeddings)

        predicted = predict(self.noise.add_noise(latents, noise, t), t, embeddings).float()
        error = F.mse_loss(predicted, self._target(latents, noise, t), reduction="none").flatten(1).mean(dim=1)
        return (error * self._noise_weights(t)).mean()

    def _target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        kind = self.noise.config.prediction_type
        if kind == "epsilon":
            return noise
        return self.noise.get_velocity(latents, noise, t) if kind == "v_prediction" else latents

    def _noise_weights(self, t: Tensor) -> Tensor:
        """Weight of each row's loss: 1, or min-SNR's (Hang et al. 2023) for the configured prediction."""
        gamma = self.config.diffusion.snr_gamma
        if gamma is None:
            return torch.ones_like(t, dtype=torch.float32)
        alphas = self.noise.alphas_cumprod.to(t.device)[t].clamp(max=1 - 1e-6)
        snr = alphas / (1 - alphas)
        capped = snr.clamp(max=gamma)
        kind = self.noise.config.prediction_type
        return capped / snr.clamp(min=1e-8) if kind == "epsilon" else capped / (snr + 1) if kind != "sample" else capped

    def read_pixels(self, samples: Sequence[Any]) -> Pixels | None:
        """Pixels of a batch, made where the data are read; None where a run's pool has their features already."""
        if self.pooled:
            return None
        seen, drawn = self._makers(samples)
        return torch.stack([make() for make in seen]), torch.stack([make() for make in drawn])

    def frozen(
        self, samples: Sequence[Any], pixels: Pixels | None = None, *, remember: bool = False
    ) -> tuple[Tensor, Tensor]:
        """What the frozen parts make of the samples: embeddings float[B, ..., N, D] of what the vision tower sees, and
        the moments float[B, 2C, ..., h, w] of the latents, between them the frames of clips."""
        keys = [sample.key for sample in samples]
        seen, drawn = self._makers(samples) if pixels is None else rows_as_makers(pixels)
        return (
            self.embeddings(keys, seen, self.device, remember=remember),
            self.moments(keys, drawn, self.device, remember=remember),
        )

    @abstractmethod
    def _makers(self, samples: Sequence[Any]) -> PixelMakers:
        """Of each sample: what the vision tower reads and what the VAE reads, not yet made."""


def rows_as_makers(pixels: Pixels) -> PixelMakers:
    """Pixels that are made already, in the form that a cache of features asks for."""
    seen, drawn = ([partial(rows.__getitem__, i) for i in range(len(rows))] for rows in pixels)
    return seen, drawn


@dataclass(frozen=True)
class DecoderSample:
    """A cropped picture with SDXL's conditions: sizes as (height, width), the crop's corner as (top, left)."""

    key: str
    image: Image.Image
    original_size: tuple[int, int]
    crop: tuple[int, int]


class DecoderObjective(DiffusionObjective):
    """Denoise a picture's latents given its own visual embeddings; only the U-Net trains."""

    needs = ("vae", "unet", "scheduler")
    trains = ("unet",)

    def __init__(self, whole: Whole, config: RunConfig, device: torch.device):
        super().__init__(whole, config, device)
        self.size = int(whole.vae.config.sample_size)
        self.embeddings = FeatureCache(whole.model.encode_image)
        self.moments = FeatureCache(lambda pixels: whole.vae.encode(pixels.to(whole.vae.dtype)).latent_dist.parameters)

    @property
    def scheduler(self) -> Any:
        return self.whole.scheduler

    def sample(self, record: Record, chance: random.Random) -> DecoderSample:
        image, which = any_picture(record, chance)
        image = image.convert("RGB")
        width, height = image.size
        require_side(record, image.size, self.size)
        scale = self.size / min(width, height) * chance.uniform(*self.config.diffusion.crop_scale)
        scaled = (max(self.size, round(width * scale)), max(self.size, round(height * scale)))
        if scaled != image.size:
            image = image.resize(scaled, Image.Resampling.BICUBIC)
        left, top = (chance.randint(0, side - self.size) for side in scaled)
        image = image.crop((left, top, left + self.size, top + self.size))
        # another frame or crop is another picture
        key = f"{record.key}{which}#{scaled[0]}x{scaled[1]}+{left}+{top}"
        return DecoderSample(key, image, (height, width), (top, left))

    def collate(self, samples: Sequence[DecoderSample], keys: list[str]) -> Batch:
        extra = {"samples": list(samples), "pixels": self.read_pixels(samples)}
        return Batch({}, {"diffusion": len(samples)}, {"images": len(samples)}, keys, extra=extra)

    def _makers(self, samples: Sequence[DecoderSample]) -> PixelMakers:
        return [partial(self._pixels, s.image) for s in samples], [partial(to_pixels, s.image) for s in samples]

    def warm(self, samples: Sequence[DecoderSample]) -> None:
        # Random enlargements make another picture of a record each time: nothing to remember then.
        if self.config.diffusion.crop_scale == (1.0, 1.0):
            self.frozen(samples, remember=True)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        unet, samples = self.whole.unet, batch.extra["samples"]
        embeddings, moments = self.frozen(samples, batch.extra["pixels"])

        def predict(noisy: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
            conditions = added_conditions(
                embeddings.to(unet.dtype),
                original_size=[sample.original_size for sample in samples],
                crop=[sample.crop for sample in samples],
                target_size=(self.size, self.size),
            )
            return unet(
                with_places(noisy, embeddings, unet.config.in_channels).to(unet.dtype),
                t,
                encoder_hidden_states=embeddings.to(unet.dtype),
                added_cond_kwargs=conditions,
            ).sample

        scale, chance = self.whole.vae.config.scaling_factor, RowChance(batch.seeds, self.device)
        return {"diffusion": self.denoising_loss(moments, scale, embeddings, chance, predict)}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Any]:
        samples = batch.extra["samples"][:4]
        embeddings, _ = self.frozen(samples)
        pipe = self.whole.pipeline()
        pipe.set_progress_bar_config(disable=True)
        drawn = pipe(
            prompt_embeds=embeddings.to(self.whole.unet.dtype),
            negative_prompt_embeds=self.null_embeddings(embeddings[0]).expand_as(embeddings).to(self.whole.unet.dtype),
            num_inference_steps=20,
            height=self.size,
            width=self.size,
            generator=torch.Generator("cpu").manual_seed(0),
            output_type="pil",
        ).images
        return {"decoder": rows_of([to_pixels(s.image) for s in samples], [to_pixels(image) for image in drawn])}
