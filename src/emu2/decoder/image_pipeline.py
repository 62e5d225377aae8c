"""The image decoder as a diffusers pipeline: prompts in, pictures out.

    B  prompts        P  pictures per prompt        h, w  latent height and width

    text, pictures, boxes ──► multimodal encoder ──► N visual embeddings ──► U-Net (denoising) ──► VAE ──► picture

Source: section 2.2.3 of the paper; published file Emu2/emu/diffusion.py.
"""

from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from emu2.decoder.base import Emu2DecoderPipeline, Generators, take_dtype
from emu2.decoder.conditioning import Pairs, added_conditions, pair_rows, with_places
from emu2.decoder.placement import execution_device
from emu2.decoder.prompts import Prompts
from emu2.decoder.published import CLIPImageProcessor, load_published_parts, published_folder
from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
from emu2.processing.processor import Emu2Processor

#: Side of the square the published pipeline names as the original size, whatever size it makes.
PUBLISHED_ORIGINAL_SIZE = 1024


@dataclass
class Emu2ImagePipelineOutput(BaseOutput):
    """Result of `Emu2ImagePipeline`.

    Args:
        images: P pictures for each prompt, prompt after prompt: a list of PIL images, or float32[B*P, H, W, 3] (numpy)
            or float32[B*P, 3, H, W] (torch) in [0, 1], or latents [B*P, C, h, w], by `output_type`.
        nsfw_content_detected: per picture, whether the safety checker blackened it; None without one, or for latents.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    nsfw_content_detected: list[bool] | None


class Emu2ImagePipeline(Emu2DecoderPipeline):
    """Draw, edit, compose and autoencode.

    What happens follows from the prompt: text draws; a picture and an instruction edits; pictures of things and text
    compose them; `emu2.Box` parts say where they go; exactly one picture and nothing else is decoded from its own
    embeddings (autoencoding).

    Args:
        multimodal_encoder: the model that reads prompts and writes visual embeddings.
        processor: its processor.
        unet: SDXL-form U-Net whose `cross_attention_dim` is the embeddings' width.
        vae: from latents to pictures.
        scheduler: any diffusers scheduler; published: `EulerDiscreteScheduler` (`presets.scheduler_config`).
        safety_checker: optional; pictures it flags come out black. Needs `feature_extractor`.
        feature_extractor: the safety checker's image processor.
        default_original_size: side in pixels of the square named as original size in a call without one. None: 1024
            as published, for decoders of SDXL's form, whose VAE shrinks by 8, and the decoder's own size otherwise.
    """

    model_cpu_offload_seq = "multimodal_encoder->unet->vae"
    _optional_components = ["multimodal_encoder", "processor", "safety_checker", "feature_extractor"]

    def __init__(
        self,
        multimodal_encoder: Emu2ForConditionalGeneration | None,
        processor: Emu2Processor | None,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        safety_checker: StableDiffusionSafetyChecker | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        default_original_size: int | None = None,
    ):
        super().__init__()
        if safety_checker is not None and feature_extractor is None:
            raise ValueError(
                "A safety_checker needs its feature_extractor (a CLIPImageProcessor); give both, or neither."
            )
        self._register(
            multimodal_encoder=multimodal_encoder,
            processor=processor,
            unet=unet,
            vae=vae,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
        )
        self.register_to_config(default_original_size=default_original_size)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> Any:
        """Load a folder written by `save_pretrained`, or the published Emu2-Gen folder.

        Arguments as in `Emu2DecoderPipeline.from_pretrained`. Of a published folder `variant` is found by itself, and
        `device_map` spreads the multimodal encoder; the other parts follow with `.to`.
        """
        folder = published_folder(pretrained_model_name_or_path, **kwargs)
        if folder is None:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls(**load_published_parts(folder, dtype=take_dtype(kwargs), **kwargs))

    @property
    def native_size(self) -> int:
        """Side in pixels of the square pictures the U-Net was made for."""
        return self.unet.config.sample_size * self.vae_scale_factor

    @property
    def _default_original_size(self) -> tuple[int, int]:
        side = self.config["default_original_size"]
        if side is None:
            side = PUBLISHED_ORIGINAL_SIZE if self.vae_scale_factor == 8 else self.native_size
        return side, side

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompts | None = None,
        negative_prompt: Prompts | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        original_size: Pairs | None = None,
        crops_coords_top_left: Pairs = (0, 0),
        target_size: Pairs | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Any | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> Emu2ImagePipelineOutput | tuple:
        """Make pictures.

        Args:
            prompt: one mixed list of text (str), pictures (PIL image or `pathlib.Path`), `emu2.Video` and `emu2.Box`
                parts, or a list of such lists. A flat list of strings is one prompt. `""` is a prompt.
            negative_prompt: what guidance leads away from, in the same form, one for all prompts or one each. None:
                the published null (the empty prompt; for a picture alone, an all-zero normalised picture).
            num_inference_steps: denoising steps, 50 as published.
            guidance_scale: strength of classifier-free guidance, 3 as published; 1 and below: none.
            height, width: in pixels, multiples of 8 (of the VAE's factor); None: the decoder's own size (1024).
            num_images_per_prompt: P; they share one pass of the language model.
            generator: of the starting noise; a list has one per picture (B * P).
            latents: float[B*P, C, h, w], standard-normal noise to start from instead of drawing it.
            prompt_embeds, negative_prompt_embeds: float[B, N, D] from `encode_prompt`, instead of prompts. Without
                the second, guidance uses the null of the empty prompt.
            original_size, crops_coords_top_left, target_size: SDXL's size conditions, (height, width), (top, left),
                (height, width); one pair for all, or one per prompt. Defaults: 1024 x 1024 whatever the size
                (published; a decoder of another form: its own size), (0, 0), and (height, width).
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False returns a plain tuple (images, nsfw_content_detected).
            callback_on_step_end: called as `callback(pipeline, step, timestep, tensors)` after every step.
            callback_on_step_end_tensor_inputs: which tensors it gets, of "latents", "prompt_embeds" and
                "negative_prompt_embeds"; those it returns in a dict replace the loop's.

        Raises:
            ValueError: an argument is out of range or of the wrong shape; the message says which and what is expected.
        """
        height = self.native_size if height is None else height
        width = self.native_size if width is None else width
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        self._check_call(
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            per_prompt=("num_images_per_prompt", num_images_per_prompt),
            output_type=output_type,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        self._guidance_scale = guidance_scale

        # 1. shape of the noise, and the size conditions: for all pictures of a prompt the same
        num_prompts = self._count_prompts(prompt, prompt_embeds)
        rows, factor = num_prompts * num_images_per_prompt, self.vae_scale_factor
        shape = (rows, self.unet.config.out_channels, height // factor, width // factor)
        self._check_noise(shape, generator, latents)
        pairs = {
            "original_size": self._default_original_size if original_size is None else original_size,
            "crops_coords_top_left": crops_coords_top_left,
            "target_size": (height, width) if target_size is None else target_size,
        }
        sizes = [
            pair_rows(pair, num_prompts, name=name).repeat_interleave(num_images_per_prompt, dim=0)
            for name, pair in pairs.items()
        ]

        # 2. embeddings
        conditional, unconditional = self._embeds(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, num_images_per_prompt
        )

        # 3. timesteps and noise
        self.scheduler.set_timesteps(num_inference_steps, device=execution_device(self.unet))
        latents = self.prepare_latents(shape, conditional.dtype, generator, latents)

        # 4. denoise
        def predict(model_input: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
            copies = embeds.shape[0] // rows  # both rows of guidance have the same sizes
            conditions = added_conditions(embeds, *(pair.repeat(copies, 1) for pair in sizes))
            return self.unet(
                with_places(model_input, embeds, self.unet.config.in_channels),
                timestep,
                encoder_hidden_states=embeds,
                added_cond_kwargs=conditions,
                return_dict=False,
            )[0]

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
        images, flagged = (latents, None) if output_type == "latent" else self._pictures(latents, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return images, flagged
        return Emu2ImagePipelineOutput(images=images, nsfw_content_detected=flagged)

    def _pictures(self, latents: Tensor, output_type: str) -> tuple[Any, list[bool] | None]:
        """Decoded and checked pictures in the form asked for, and which of them the safety checker blackened."""
        images = (self.decode_latents(latents) / 2 + 0.5).clamp(0, 1)
        images, flagged = self.run_safety_checker(images)
        plain = [False] * images.shape[0]  # already in [0, 1]
        return self.image_processor.postprocess(images, output_type, do_denormalize=plain), flagged

    def run_safety_checker(self, images: Tensor) -> tuple[Tensor, list[bool] | None]:
        """Blacken what the safety checker flags.

        Args:
            images: float32[rows, 3, H, W] in [0, 1].

        Returns:
            the pictures, and a flag for each; without a safety checker the pictures as they are, and None.
        """
        if self.safety_checker is None:
            return images, None
        pictures = self.image_processor.postprocess(images, "pil", do_denormalize=[False] * images.shape[0])
        clip_input = self.feature_extractor(pictures, return_tensors="pt")["pixel_values"]
        clip_input = clip_input.to(execution_device(self.safety_checker), self.safety_checker.dtype)
        # The stock checker writes black over flagged pictures in place, so it gets a copy.
        return self.safety_checker(clip_input=clip_input, images=images.clone())
