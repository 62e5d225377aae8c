"""What the image and the video pipeline share: prompts to embeddings, guidance, the denoising loop, decoding latents.

B  prompts        P  pictures (or clips) per prompt        N  embeddings per picture        D  their width
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from emu2.decoder.conditioning import guidance_rows, guide
from emu2.decoder.prompts import Prompts, as_batch, is_autoencoding
from emu2.processing.prompts import Part

Generators = torch.Generator | list[torch.Generator]


class Emu2DecoderPipeline(DiffusionPipeline):
    """Base of both pipelines. It expects the components `multimodal_encoder`, `processor`, `unet`, `vae`, `scheduler`.

    `multimodal_encoder` and `processor` may be None: the pipeline then decodes ready `prompt_embeds` only.
    """

    model_cpu_offload_seq = "multimodal_encoder->unet->vae"
    _optional_components = ["multimodal_encoder", "processor"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(self) -> None:
        super().__init__()
        self._null_embeds: Tensor | None = None
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

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "Emu2DecoderPipeline":
        """Load a folder written by `save_pretrained`.

        Args:
            pretrained_model_name_or_path: the folder, or its name on the Hugging Face hub.
            **kwargs: as in `diffusers.DiffusionPipeline.from_pretrained`: `dtype` (or `torch_dtype`) of all weights,
                float32 unless given; `device_map`; `variant`; and components by name to use instead of the saved ones
                (`safety_checker=None` leaves it out).
        """
        dtype, torch_dtype = kwargs.pop("dtype", None), kwargs.pop("torch_dtype", None)
        kwargs["torch_dtype"] = dtype or torch_dtype or torch.float32
        return super().from_pretrained(str(pretrained_model_name_or_path), **kwargs)

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

    @property
    def _embedding_dim(self) -> int:
        dim = self.unet.config.cross_attention_dim
        return dim if isinstance(dim, int) else dim[0]

    # Prompts to embeddings

    @torch.no_grad()
    def encode_prompt(
        self, prompt: Prompts, negative_prompt: Prompts | None = None, *, do_classifier_free_guidance: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Visual embeddings of prompts, and of what guidance leads away from.

        All prompts that need the language model (and the negative prompts) share one roll-out. A prompt that is
        exactly one picture is encoded by the vision tower alone. Where no negative prompt is given, the null is, as
        published: the embeddings the model writes after the empty prompt; for a picture alone, those of an all-zero
        normalised picture (which is not a black one).

        Args:
            prompt, negative_prompt: one mixed list of parts, or a list of those. One negative prompt serves all.
            do_classifier_free_guidance: False skips the null.

        Returns:
            float[B, N, D] and float[B, N, D] or None, both where and in the dtype the U-Net wants them.

        Raises:
            ValueError: a prompt is malformed, or there are neither one nor B negative prompts.
        """
        prompts = as_batch(prompt)
        if self.multimodal_encoder is None or self.processor is None:
            raise ValueError(
                "This pipeline was built without a multimodal encoder or processor: give prompt_embeds (and "
                "negative_prompt_embeds for guidance) instead of prompts."
            )
        negatives = [] if negative_prompt is None else as_batch(negative_prompt, name="negative_prompt")
        if len(negatives) not in ({1, len(prompts)} if negative_prompt is not None else {0}):
            raise ValueError(
                f"There are {len(prompts)} prompts but {len(negatives)} negative prompts: give one for all of them, "
                "or one for each."
            )
        if not do_classifier_free_guidance:
            return self._for_unet(self._embed(prompts)), None
        embeds = self._embed(prompts + negatives)
        conditional, negative = embeds[: len(prompts)], embeds[len(prompts) :]
        if not negatives:
            kinds = [is_autoencoding(parts) for parts in prompts]
            nulls = {kind: self._null(kind) for kind in set(kinds)}
            negative = torch.cat([nulls[kind] for kind in kinds])
        elif len(negatives) == 1:
            negative = negative.expand_as(conditional)
        return self._for_unet(conditional), self._for_unet(negative)

    def _for_unet(self, embeds: Tensor) -> Tensor:
        return embeds.to(execution_device(self.unet), self.unet.dtype)

    def _embed(self, prompts: Sequence[Sequence[Part]]) -> Tensor:
        """float[rows, N, D]: pictures alone through the tower, everything else through one roll-out."""
        encoder = self._awake_encoder()
        device = execution_device(encoder)
        alone = [is_autoencoding(parts) for parts in prompts]
        embeds: dict[int, Tensor] = {}
        if any(alone):
            rows = [row for row, single in enumerate(alone) if single]
            pictures = [prompts[row][0] for row in rows]
            pixels = self.processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
            embeds.update(zip(rows, encoder.encode_image(pixels.to(device)), strict=True))
        if not all(alone):
            rows = [row for row, single in enumerate(alone) if not single]
            inputs = self.processor([prompts[row] for row in rows], draw=True, padding=True, return_tensors="pt")
            embeds.update(zip(rows, encoder.generate_visual(**inputs.to(device)), strict=True))
        return torch.stack([embeds[row] for row in range(len(prompts))])

    def _null(self, autoencoding: bool) -> Tensor:
        """Embeddings that guidance leads away from where no negative prompt is given: float[1, N, D]."""
        encoder = self._awake_encoder()
        config, device = encoder.config, execution_device(encoder)
        if autoencoding:
            side = config.vision_config.image_size
            return encoder.encode_image(torch.zeros(1, config.vision_config.num_channels, side, side, device=device))
        # The empty prompt: BOS, then [IMG]. The roll-out is kept, and kept only as long as the encoder still writes
        # the same first embeddings: two steps, against N, see any change of weights, adapters, dtype or device.
        ids = torch.tensor([[config.bos_token_id, config.image_start_token_id]], device=device)
        kept, probed = self._null_embeds, min(2, config.num_query)
        if kept is not None and kept.shape[1] == config.num_query:
            probe = encoder.generate_visual(ids, num_query=probed)
            if (kept.dtype, kept.device) == (probe.dtype, probe.device) and torch.equal(kept[:, :probed], probe):
                return kept
        self._null_embeds = encoder.generate_visual(ids)
        return self._null_embeds

    def _awake_encoder(self) -> Any:
        """The encoder, on its device: model offload wakes a component in `forward`, which is not what is called."""
        hook = getattr(self.multimodal_encoder, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(self.multimodal_encoder)
        return self.multimodal_encoder

    def _embeds(
        self,
        prompt: Prompts | None,
        negative_prompt: Prompts | None,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Conditional and unconditional embeddings from prompts or from ready embeddings, checked."""
        guided = self.do_classifier_free_guidance
        if (prompt is None) == (prompt_embeds is None):
            raise ValueError("Give exactly one of prompt and prompt_embeds.")
        if negative_prompt is not None and negative_prompt_embeds is not None:
            raise ValueError("Give negative_prompt or negative_prompt_embeds, not both.")
        negative = None
        if prompt is not None:
            make_null = guided and negative_prompt_embeds is None
            prompt_embeds, negative = self.encode_prompt(prompt, negative_prompt, do_classifier_free_guidance=make_null)
        self._check_embeds("prompt_embeds", prompt_embeds, None)
        prompt_embeds = self._for_unet(prompt_embeds)
        if not guided:
            return prompt_embeds, None
        if negative_prompt_embeds is not None:
            self._check_embeds("negative_prompt_embeds", negative_prompt_embeds, prompt_embeds)
            negative = self._for_unet(negative_prompt_embeds).expand_as(prompt_embeds)
        elif negative is None:
            negative = self._negative_for_ready_embeds(negative_prompt, prompt_embeds)
        return prompt_embeds, negative

    def _negative_for_ready_embeds(self, negative_prompt: Prompts | None, prompt_embeds: Tensor) -> Tensor:
        if self.multimodal_encoder is None:
            raise ValueError(
                "guidance_scale above 1 needs negative_prompt_embeds here, since this pipeline has no multimodal "
                "encoder to make them; or pass guidance_scale=1."
            )
        if negative_prompt is None:
            negative = self._for_unet(self._null(autoencoding=False))
        else:
            negative = self.encode_prompt(negative_prompt, do_classifier_free_guidance=False)[0]
        if negative.shape[0] not in (1, prompt_embeds.shape[0]):
            raise ValueError(
                f"There are {prompt_embeds.shape[0]} prompts but {negative.shape[0]} negative prompts: give one for "
                "all of them, or one for each."
            )
        if negative.shape[1:] != prompt_embeds.shape[1:]:
            raise ValueError(
                f"The null of this encoder has shape {list(negative.shape[1:])} per row, prompt_embeds "
                f"{list(prompt_embeds.shape[1:])}; give negative_prompt_embeds that fit."
            )
        return negative.expand_as(prompt_embeds)

    def _check_embeds(self, name: str, embeds: Tensor, conditional: Tensor | None) -> None:
        shape = list(embeds.shape)
        if embeds.ndim != 3 or shape[2] != self._embedding_dim or 0 in shape:
            raise ValueError(
                f"{name} must have shape [prompts, embeddings, {self._embedding_dim}] (the width this U-Net reads); "
                f"got {shape}."
            )
        if conditional is not None and (shape[1] != conditional.shape[1] or shape[0] not in (1, conditional.shape[0])):
            raise ValueError(
                f"{name} must have the shape of prompt_embeds, {list(conditional.shape)}, or one row of it; "
                f"got {shape}."
            )

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
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise ValueError(f"{shape[0]} samples are made, but {len(generator)} generators were given.")
        device = execution_device(self.unet)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents must have shape {list(shape)}; got {list(latents.shape)}.")
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
        tensors = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
        step_options: dict[str, Any] = {"return_dict": False}
        if "generator" in inspect.signature(scheduler.step).parameters:
            step_options["generator"] = generator
        # Schedulers of higher order take several evaluations per step, and some a few more to start with.
        warmup_steps = len(timesteps) - (len(timesteps) // scheduler.order) * scheduler.order
        with self.progress_bar(total=len(timesteps) // scheduler.order) as progress:
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
        with _working_dtype(self.vae, torch.float32 if upcast else self.vae.dtype):
            scaled = latents.to(execution_device(self.vae), self.vae.dtype) / self.vae.config.scaling_factor
            return self.vae.decode(scaled, return_dict=False)[0].float()


def repeat_rows(embeds: Tensor | None, times: int) -> Tensor | None:
    """Each row `times` times, side by side: the samples of one prompt follow each other."""
    return None if embeds is None else embeds.repeat_interleave(times, dim=0)


def execution_device(module: nn.Module) -> torch.device:
    """Where a module's inputs belong: with offloading that is not where its weights lie at the moment."""
    for submodule in module.modules():
        device = getattr(getattr(submodule, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(module.parameters()).device


@contextmanager
def _working_dtype(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    before = module.dtype
    if before == dtype:
        yield
        return
    module.to(dtype)
    try:
        yield
    finally:
        module.to(before)


def is_whole(value: Any) -> bool:
    """A Python integer; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)
