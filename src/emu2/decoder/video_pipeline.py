"""The video decoder as a diffusers pipeline: prompts in, clips out.

    B  prompts    P  clips per prompt    F  frames    K  keyframes    h, w  latent height and width

The authors never released theirs. What is known (section 2.2.3 of the paper): Stable Diffusion 2.1, inflated over
time, conditioned on Emu2's visual embeddings. Here the embeddings are those of one picture or of several keyframes,
and the U-Net's cross-attention input for every frame; the published demo clips have 16 frames of 512 x 512 at 5 frames
a second, the defaults here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet3DConditionModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor

from emu2.decoder.base import Emu2DecoderPipeline, Generators, is_whole
from emu2.decoder.inflate import let_stills_pass
from emu2.decoder.placement import execution_device
from emu2.decoder.prompts import Prompts
from emu2.decoder.video_unet import FilmUNet, predict_clip
from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
from emu2.processing.processor import Emu2Processor


@dataclass
class Emu2VideoPipelineOutput(BaseOutput):
    """Result of `Emu2VideoPipeline`.

    Args:
        frames: P clips for each prompt, prompt after prompt: a list of lists of PIL images, or
            float32[B*P, F, H, W, 3] (numpy) or float32[B*P, F, 3, H, W] (torch) in [0, 1], or latents
            [B*P, C, F, h, w], by `output_type`.
    """

    frames: list[list[Image.Image]] | np.ndarray | Tensor


class Emu2VideoPipeline(Emu2DecoderPipeline):
    """Film a prompt: of words and pictures, of a picture (which then moves), or of a clip (which is made again).

    Args:
        multimodal_encoder: the model that reads prompts and writes visual embeddings.
        processor: its processor.
        unet: video U-Net (`inflate_unet`, `presets.video_unet_config`, or `FilmUNet.of_image_unet`).
        vae: from latents to frames, one by one.
        scheduler: any diffusers scheduler whose `prediction_type` is what the U-Net was trained to predict: noise
            ("epsilon") from SD 2.1 base at 512 pixels, velocity ("v_prediction") from SD 2.1 at 768. The paper does
            not say which it took; `presets.scheduler_config("sd21")` is the 512-pixel one.
    """

    _takes_keyframes = True

    def __init__(
        self,
        multimodal_encoder: Emu2ForConditionalGeneration | None,
        processor: Emu2Processor | None,
        unet: UNet3DConditionModel | FilmUNet,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
    ):
        super().__init__()
        let_stills_pass(unet)
        self._register(
            multimodal_encoder=multimodal_encoder, processor=processor, unet=unet, vae=vae, scheduler=scheduler
        )
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor)

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompts | None = None,
        negative_prompt: Prompts | None = None,
        num_frames: int = 16,
        num_keyframes: int = 1,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        height: int | None = None,
        width: int | None = None,
        num_videos_per_prompt: int = 1,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        decode_chunk_size: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Any | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> Emu2VideoPipelineOutput | tuple:
        """Make clips. Arguments not named here are those of `Emu2ImagePipeline`.

        Args:
            num_frames: F, frames of a clip.
            num_keyframes: K, pictures that the model writes for a clip, as many as the U-Net was trained with
                (`diffusion.keyframes` of its stage); ready embeddings bring their own number.
            prompt_embeds, negative_prompt_embeds: float[B, N, D], or float[B, K, N, D] of keyframes.
            height, width: None: the decoder's own size (512).
            num_videos_per_prompt: P.
            generator: of the starting noise; a list has one per clip (B * P).
            latents: float[B*P, C, F, h, w], standard-normal noise to start from instead of drawing it.
            decode_chunk_size: frames the VAE decodes at a time; None: those of one clip. Fewer need less memory.

        Raises:
            ValueError: an argument is out of range or of the wrong shape; the message says which and what is expected.
        """
        native_size = self.unet.config.sample_size * self.vae_scale_factor
        height = native_size if height is None else height
        width = native_size if width is None else width
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        self._check_call(
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            per_prompt=("num_videos_per_prompt", num_videos_per_prompt),
            output_type=output_type,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        numbers = {"num_frames": num_frames, "num_keyframes": num_keyframes, "decode_chunk_size": decode_chunk_size}
        for name, value in numbers.items():
            if value is not None and not (is_whole(value) and value >= 1):
                raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}.")
        if prompt_embeds is not None and prompt_embeds.ndim == 4:
            num_keyframes = prompt_embeds.shape[1]
        if num_keyframes > num_frames:
            raise ValueError(
                f"A clip of {num_frames} frames has at most {num_frames} keyframes; got num_keyframes={num_keyframes}."
            )
        self._guidance_scale = guidance_scale

        # 1. shape of the noise
        rows, factor = self._count_prompts(prompt, prompt_embeds) * num_videos_per_prompt, self.vae_scale_factor
        shape = (rows, self.unet.config.out_channels, num_frames, height // factor, width // factor)
        self._check_noise(shape, generator, latents)

        # 2. embeddings
        conditional, unconditional = self._embeds(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, num_videos_per_prompt, num_keyframes
        )

        # 3. timesteps and noise
        self.scheduler.set_timesteps(num_inference_steps, device=execution_device(self.unet))
        latents = self.prepare_latents(shape, conditional.dtype, generator, latents)

        # 4. denoise
        def predict(model_input: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
            return predict_clip(self.unet, model_input, timestep, embeds, (height, width))

        latents = self.denoise(
            latents,
            conditional,
            unconditional,
            predict,
            generator=generator,
            callback=callback_on_step_end,
            callback_tensor_inputs=callback_on_step_end_tensor_inputs,
        )

        # 5. decode
        frames = latents
        if output_type != "latent":
            clips = self.decode_clips(latents, decode_chunk_size or num_frames)
            frames = self.video_processor.postprocess_video(clips, output_type)
        self.maybe_free_model_hooks()
        return Emu2VideoPipelineOutput(frames=frames) if return_dict else (frames,)

    @torch.no_grad()
    def decode_clips(self, latents: Tensor, chunk_size: int) -> Tensor:
        """Frames of latents, `chunk_size` at a time: [B*P, C, F, h, w] -> float32[B*P, 3, F, H, W], about -1 to 1."""
        clips, _, frames = latents.shape[:3]
        rows = latents.transpose(1, 2).flatten(0, 1)
        decoded = torch.cat([self.decode_latents(chunk) for chunk in rows.split(chunk_size)])
        return decoded.unflatten(0, (clips, frames)).transpose(1, 2)
