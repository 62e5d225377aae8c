"""The video decoder's stage: the inflated U-Net learns to denoise clips given the embeddings of one of their frames.

The authors released neither this decoder nor how it was trained (section 2.2.3 of the paper names its form). Decided
here: a clip is conditioned on the embeddings of its middle frame, which tells most of what the others show and is what
the language model writes for a prompt: one picture. Its frames are evenly spaced, so that motion keeps its pace, and
cropped at the middle alike: the U-Net is told no crop. Noise is as in the image decoder, its offset shared by a clip's
frames.

    B  clips    F  frames    N  embeddings    D  their width    C  latent channels    h, w  latent rows and columns
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from emu2.data.arrange import with_frames
from emu2.data.records import Record
from emu2.decoder.conditioning import with_places
from emu2.processing.video import Video
from emu2.train.chance import RowChance
from emu2.train.config import RunConfig
from emu2.train.diffusion import (
    DiffusionObjective,
    PixelMakers,
    require_side,
    rows_of,
    to_pixels,
)
from emu2.train.features import FeatureCache
from emu2.train.objectives import Batch
from emu2.train.whole import Whole

#: Clips whose frames are encoded at a time.
_CHUNK = 4


@dataclass(frozen=True)
class ClipSample:
    """Frames of one clip, square and of the decoder's size."""

    key: str
    frames: tuple[Image.Image, ...]

    @property
    def shown(self) -> Image.Image:
        """The frame whose embeddings the clip is made from."""
        return self.frames[len(self.frames) // 2]


class VideoDecoderObjective(DiffusionObjective):
    """Denoise a clip's latents given the embeddings of its middle frame.

    `parts` is "video_temporal" (the parts that mix frames), "video_unet" (everything), or both, where
    `optim.part_start` lets the rest follow the temporal parts later.
    """

    needs = ("video_unet", "video_scheduler", "frame_vae")
    trains = ("video_temporal", "video_unet")

    def __init__(self, whole: Whole, config: RunConfig, device: torch.device):
        super().__init__(whole, config, device)
        if len(config.data.frames) != 1:
            raise ValueError(
                f"The objective 'video_decoder' reads one number of frames, as the clips of a batch are one tensor; "
                f"data.frames is {config.data.frames}."
            )
        vae = whole.frame_vae
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.size = int(whole.video_unet.config.sample_size) * factor
        self.embeddings = FeatureCache(whole.model.encode_image)
        self.moments = FeatureCache(self._encode, chunk=_CHUNK)

    @property
    def scheduler(self) -> Any:
        return self.whole.video_scheduler

    def sample(self, record: Record, chance: random.Random) -> ClipSample:
        clips = [segment for segment in record.segments if isinstance(segment, Video)]
        if not clips:
            raise ValueError(f"Record {record.key!r} ({record.kind}) has no clip, and this objective needs one.")
        first = with_frames(Record(record.kind, (clips[0],), record.key), self.config.data.frames, "uniform", chance)
        clip = first.segments[0]
        assert isinstance(clip, Video)
        require_side(record, clip[0].size, self.size)
        return ClipSample(f"{record.key}#clip", tuple(self._square(frame) for frame in clip))

    def collate(self, samples: Sequence[ClipSample], keys: list[str]) -> Batch:
        amounts = {"images": sum(len(sample.frames) for sample in samples)}
        extra = {"samples": list(samples), "pixels": self.read_pixels(samples)}
        return Batch({}, {"diffusion": len(samples)}, amounts, keys, extra=extra)

    def _makers(self, samples: Sequence[ClipSample]) -> PixelMakers:
        return [partial(self._pixels, s.shown) for s in samples], [partial(_clip_pixels, s) for s in samples]

    def warm(self, samples: Sequence[ClipSample]) -> None:
        self.frozen(samples, remember=True)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        unet = self.whole.video_unet
        embeddings, moments = self.frozen(batch.extra["samples"], batch.extra["pixels"])

        def predict(noisy: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
            noisy = with_places(noisy, embeddings, unet.config.in_channels).to(unet.dtype)
            return unet(noisy, t, encoder_hidden_states=embeddings.to(unet.dtype)).sample

        scale, chance = self.whole.frame_vae.config.scaling_factor, RowChance(batch.seeds, self.device)
        return {"diffusion": self.denoising_loss(moments, scale, embeddings, chance, predict)}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Any]:
        """A sheet of clips, each above what the decoder makes of its middle frame."""
        samples = batch.extra["samples"][:2]
        embeddings, _ = self.frozen(samples)
        dtype = self.whole.video_unet.dtype
        pipe = self.whole.video_pipeline()
        pipe.set_progress_bar_config(disable=True)
        made = pipe(
            prompt_embeds=embeddings.to(dtype),
            negative_prompt_embeds=self.null_embeddings(embeddings[0]).expand_as(embeddings).to(dtype),
            num_frames=len(samples[0].frames),
            num_inference_steps=20,
            height=self.size,
            width=self.size,
            generator=torch.Generator("cpu").manual_seed(0),
            output_type="pil",
        ).frames
        lines = [line for sample, clip in zip(samples, made, strict=True) for line in (sample.frames, clip)]
        return {"video_decoder": rows_of(*([to_pixels(frame) for frame in line] for line in lines))}

    def _encode(self, frames: Tensor) -> Tensor:
        """Moments of clips' frames: float[B, F, 3, H, W] -> float[B, 2C, F, h, w]."""
        vae = self.whole.frame_vae
        moments = vae.encode(frames.flatten(0, 1).to(vae.dtype)).latent_dist.parameters
        return moments.unflatten(0, frames.shape[:2]).transpose(1, 2)

    def _square(self, frame: Image.Image) -> Image.Image:
        """The middle of a frame at the decoder's size."""
        width, height = frame.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        frame = frame.convert("RGB").crop((left, top, left + side, top + side))
        return frame if side == self.size else frame.resize((self.size, self.size), Image.Resampling.BICUBIC)


def _clip_pixels(sample: ClipSample) -> Tensor:
    """float32[F, 3, H, W] in [-1, 1]."""
    return torch.stack([to_pixels(frame) for frame in sample.frames])
