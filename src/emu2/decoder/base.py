"""What the image and the video pipeline share: checks, the denoising loop, decoding latents, loading.

B  prompts        P  pictures (or clips) per prompt        N  embeddings per picture        D  their width
"""

import inspect
import math
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

# The class itself, not its lazy name in `diffusers`, which type checkers take for a placeholder.
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from emu2.decoder.conditioning import guidance_rows, guide
from emu2.decoder.placement import execution_device, working_dtype
from emu2.decoder.prompt_encoding import PromptEncodingMixin
from emu2.model.runtime import resolve_dtype

Generators = torch.Generator | list[torch.Generator]


class Emu2DecoderPipeline(PromptEncodingMixin, DiffusionPipeline):
    """Base of both pipelines. It expects the components `multimodal_encoder`, `processor`, `unet`, `vae`, `scheduler`.

    `multimodal_encoder` and `processor` may be None: the pipeline then decodes ready `prompt_embeds` only.
    """

    vae: Any
    scheduler: Any

    model_cpu_offload_seq = "multimodal_encoder->unet->vae"  # type: ignore[assignment]
    _optional_components = ["multimodal_encoder", "processor"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(self) -> None:
        super().__init__()
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._interrupt = False

    def _register(self, **components: Any) -> None:
        """Register the components and check that the decoder reads embeddings as wide as the encoder's."""
        self.register_modules(**components)
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        if self.multimodal_encoder is not None:
            dim = self.multimodal_encoder.config.vision_config.hidden_size
            if dim != self._embedding_dim:
                raise ValueError(
                    f"The multimodal encoder's embeddings are {dim} wide, but the U-Net's cross-attention reads "
                    f"{self._embedding_dim} (cross_attention_dim): these two were not made for each other."
                )

    def __setattr__(self, name: str, value: Any) -> None:
        """A part that was left out may be given later; diffusers alone would use it, but not save it."""
        super().__setattr__(name, value)
        if value is not None and getattr(self, "_internal_dict", {}).get(name) == (None, None):
            self.register_modules(**{name: value})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> Any:
        """Load a folder written by `save_pretrained`.

        Args:
            pretrained_model_name_or_path: the folder, or its name on the Hugging Face hub.
            **kwargs: as in `diffusers.DiffusionPipeline.from_pretrained`: `dtype` (or `torch_dtype`) of all weights,
                also by its short name ("bf16"), float32 unless given; `device_map`; `variant`; and components by name
                to use instead of the saved ones (`safety_checker=None` leaves it out).
        """
        return super().from_pretrained(str(pretrained_model_name_or_path), dtype=take_dtype(kwargs), **kwargs)

    # What a callback may read, under the names of diffusers' own pipelines.

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    # Checks

    def _check_call(
        self,
        *,
        height: int,
        width: int,
        num_inference_steps: int,
        guidance_scale: float,
        per_prompt: tuple[str, int],
        output_type: str,
        callback_on_step_end_tensor_inputs: Sequence[str],
    ) -> None:
        """Raise one clear ValueError for a setting out of range, before anything runs."""
        for name, value in (("height", height), ("width", width)):
            if not is_whole(value) or value < 1 or value % self.vae_scale_factor:
                raise ValueError(
                    f"{name} must be a positive multiple of {self.vae_scale_factor} (the VAE makes one latent of that "
                    f"many pixels); got {value!r}."
                )
        steps_limit = self.scheduler.config.num_train_timesteps
        if not is_whole(num_inference_steps) or not 1 <= num_inference_steps <= steps_limit:
            raise ValueError(
                f"num_inference_steps must be a whole number from 1 to {steps_limit}; got {num_inference_steps!r}."
            )
        if (
            isinstance(guidance_scale, bool)
            or not isinstance(guidance_scale, int | float)
            or not (math.isfinite(guidance_scale) and guidance_scale >= 0)
        ):
            raise ValueError(
                "guidance_scale must be a finite number of at least 0 (1 and below: no guidance); "
                f"got {guidance_scale!r}."
            )
        if not is_whole(per_prompt[1]) or per_prompt[1] < 1:
            raise ValueError(f"{per_prompt[0]} must be a whole number of at least 1; got {per_prompt[1]!r}.")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f'output_type is "pil", "np", "pt" or "latent"; got {output_type!r}.')
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(f"A callback can read {self._callback_tensor_inputs}; {unknown} are not among them.")

    def _check_noise(self, shape: tuple[int, ...], generator: Generators | None, latents: Tensor | None) -> None:
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise ValueError(f"{shape[0]} samples are made, but {len(generator)} generators were given.")
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(f"latents must have shape {list(shape)}; got {list(latents.shape)}.")

    # Denoising and decoding

    def prepare_latents(
        self, shape: tuple[int, ...], dtype: torch.dtype, generator: Generators | None, latents: Tensor | None
    ) -> Tensor:
        """Start of the denoising loop: noise times the scheduler's `init_noise_sigma`.

        Args:
            shape: of the latents, samples first.
            dtype: of the result.
            generator: one for all samples, or a list with one per sample, which makes a sample independent of what
                it shares the batch with.
            latents: standard-normal noise to use instead of drawing it.

        Raises:
            ValueError: a list of generators of another length, or latents of another shape.
        """
        self._check_noise(shape, generator, latents)
        device = execution_device(self.unet)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        return latents.to(device, dtype) * self.scheduler.init_noise_sigma

    def denoise(
        self,
        latents: Tensor,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None,
        predict: Callable[[Tensor, Tensor, Tensor], Tensor],
        *,
        generator: Generators | None = None,
        callback: Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Tensor:
        """The denoising loop over `scheduler.timesteps`.

        Args:
            latents: float[rows, ...] from `prepare_latents`.
            prompt_embeds, negative_prompt_embeds: float[rows, N, D]; without the second there is no guidance.
            predict: (model input, timestep, embeddings) -> prediction, one call of the U-Net.
            generator: for schedulers that draw noise in their steps.
            callback: called after every step as `callback(pipeline, index, timestep, tensors)`; tensors it returns
                replace the loop's.
            callback_tensor_inputs: names of the tensors it gets.
        """
        scheduler, timesteps = self.scheduler, self.scheduler.timesteps
        self._num_timesteps, self._interrupt = len(timesteps), False
        tensors: dict[str, Any] = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
        step_options: dict[str, Any] = {"return_dict": False}
        if "generator" in inspect.signature(scheduler.step).parameters:
            step_options["generator"] = generator
        # Schedulers of higher order take several evaluations per step, and some a few more to start with.
        steps = scheduler.num_inference_steps
        warmup_steps = max(len(timesteps) - steps * scheduler.order, 0)
        with self.progress_bar(total=steps) as progress:
            for index, timestep in enumerate(timesteps):
                if self._interrupt:
                    break
                # A callback may switch guidance off on the way, as diffusers' CFG cut-off does.
                guided = self.do_classifier_free_guidance and tensors["negative_prompt_embeds"] is not None
                embeds = guidance_rows(tensors["prompt_embeds"], tensors["negative_prompt_embeds"] if guided else None)
                rows = torch.cat([latents, latents]) if guided else latents
                prediction = predict(scheduler.scale_model_input(rows, timestep), timestep, embeds)
                if guided:
                    prediction = guide(prediction, self._guidance_scale)
                latents = scheduler.step(prediction, timestep, latents, **step_options)[0]
                if callback is not None:
                    offered = {"latents": latents, **tensors}
                    offered.update(
                        callback(self, index, timestep, {name: offered[name] for name in callback_tensor_inputs}) or {}
                    )
                    latents = offered.pop("latents")
                    tensors = offered
                if index == len(timesteps) - 1 or (index + 1 > warmup_steps and (index + 1) % scheduler.order == 0):
                    progress.update()
        return latents

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pictures of latents: float32[rows, 3, H, W], about -1 to 1, not clamped.

        A half-precision VAE whose config says `force_upcast` (SDXL's overflows in float16) works in float32 here and
        is put back afterwards, also when it fails.
        """
        upcast = self.vae.dtype == torch.float16 and self.vae.config.force_upcast
        with working_dtype(self.vae, torch.float32 if upcast else self.vae.dtype):
            scaled = latents.to(execution_device(self.vae), self.vae.dtype) / self.vae.config.scaling_factor
            return self.vae.decode(scaled, return_dict=False)[0].float()


def is_whole(value: Any) -> bool:
    """A Python integer; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def take_dtype(kwargs: dict[str, Any]) -> torch.dtype:
    """`dtype` or `torch_dtype` out of the arguments of a `from_pretrained`; float32 where neither is given.

    Raises:
        ValueError: an unknown name; diffusers would go on in float32.
    """
    dtype, torch_dtype = kwargs.pop("dtype", None), kwargs.pop("torch_dtype", None)
    return resolve_dtype(dtype or torch_dtype or torch.float32)
