"""The video decoder's stage: the inflated U-Net learns to denoise clips given the embeddings of some of their frames.

The authors released neither this decoder nor how it was trained (section 2.2.3 of the paper names its form). Decided
here: a clip is conditioned on the embeddings of keyframes, the middles of as many equal parts. One, the middle frame,
tells most of what the others show, but not which way things go; of more the language model writes as many pictures for
a prompt. Its frames are evenly spaced, so that motion keeps its pace, and cropped at the middle alike: the U-Net is
told no crop. Noise is as in the image decoder, its offset shared by a clip's frames. A record that has a picture and no
clip is a clip of one frame, which the parts that mix frames let pass.

    B  clips    F  frames    K  keyframes    N  embeddings of a frame    D  their width
    C  latent channels    h, w  latent rows and columns
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
from emu2.data.sequences import first_image
from emu2.decoder.inflate import let_stills_pass
from emu2.decoder.video_unet import predict_clip
from emu2.processing.video import Video, sample_midpoints
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
    """Frames of one clip, square and of the decoder's size, and those of them whose embeddings it is made from."""

    key: str
    frames: tuple[Image.Image, ...]
    keyframes: tuple[Image.Image, ...]


class VideoDecoderObjective(DiffusionObjective):
    """Denoise a clip's latents given the embeddings of its keyframes.

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
        if config.diffusion.keyframes > config.data.frames[0]:
            raise ValueError(
                f"diffusion.keyframes is {config.diffusion.keyframes}, and clips have {config.data.frames[0]} frames "
                "(data.frames): ask for fewer keyframes."
            )
        self.size = int(whole.video_unet.config.sample_size) * factor
        let_stills_pass(whole.video_unet)
        self.embeddings = FeatureCache(self._seen, chunk=_CHUNK)
        self.moments = FeatureCache(self._encode, chunk=_CHUNK)

    @property
    def scheduler(self) -> Any:
        return self.whole.video_scheduler

    def sample(self, record: Record, chance: random.Random) -> ClipSample:
        clips = [segment for segment in record.segments if isinstance(segment, Video)]
        if not clips:
            still = first_image(record)
            require_side(record, still.size, self.size)
            frame = self._square(still)
            return ClipSample(f"{record.key}#still", (frame,), (frame,))
        first = with_frames(Record(record.kind, (clips[0],), record.key), self.config.data.frames, "uniform", chance)
        clip = first.segments[0]
        assert isinstance(clip, Video)
        require_side(record, clip[0].size, self.size)
        frames = tuple(self._square(frame) for frame in clip)
        keyframes = (frames[index] for index in sample_midpoints(len(frames), self.config.diffusion.keyframes))
        return ClipSample(f"{record.key}#clip", frames, tuple(keyframes))

    def collate(self, samples: Sequence[ClipSample], keys: list[str]) -> Batch:
        lengths = {len(sample.frames) for sample in samples}
        if len(lengths) > 1:
            raise ValueError(
                f"A batch of the objective 'video_decoder' is one tensor, and this one has clips of "
                f"{' and '.join(map(str, sorted(lengths)))} frames (1: pictures): set data.mode=one_kind."
            )
        amounts = {"images": sum(len(sample.frames) for sample in samples)}
        extra = {"samples": list(samples), "pixels": self.read_pixels(samples)}
        return Batch({}, {"diffusion": len(samples)}, amounts, keys, extra=extra)

    def _makers(self, samples: Sequence[ClipSample]) -> PixelMakers:
        return [partial(self._key_pixels, s) for s in samples], [partial(_clip_pixels, s) for s in samples]

    def warm(self, samples: Sequence[ClipSample]) -> None:
        self.frozen(samples, remember=True)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        unet = self.whole.video_unet
        embeddings, moments = self.frozen(batch.extra["samples"], batch.extra["pixels"])

        def predict(noisy: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
            return predict_clip(unet, noisy, t, embeddings, (self.size, self.size))

        scale, chance = self.whole.frame_vae.config.scaling_factor, RowChance(batch.seeds, self.device)
        return {"diffusion": self.denoising_loss(moments, scale, embeddings, chance, predict)}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Any]:
        """A sheet of clips, each above what the decoder makes of its keyframes."""
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

    def _seen(self, keyframes: Tensor) -> Tensor:
        """Embeddings of clips' keyframes: float[B, K, 3, S, S] -> float[B, K, N, D]."""
        return self.whole.model.encode_image(keyframes.flatten(0, 1)).unflatten(0, keyframes.shape[:2])

    def _key_pixels(self, sample: ClipSample) -> Tensor:
        """float32[K, 3, S, S] as the vision tower reads them."""
        return torch.stack([self._pixels(frame) for frame in sample.keyframes])

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
