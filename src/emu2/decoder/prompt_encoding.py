"""Prompts to visual embeddings, and the embeddings that guidance leads away from.

B  prompts        P  samples per prompt        N  embeddings per picture        D  their width        K  keyframes
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from emu2 import tokens
from emu2.decoder.placement import execution_device
from emu2.decoder.prompts import Prompts, as_batch, is_autoencoding, is_clip
from emu2.processing.prompts import Part
from emu2.processing.video import Video, sample_midpoints


class PromptEncodingMixin:
    """`encode_prompt` and the checks of ready embeddings, for a pipeline with an encoder, a processor and a U-Net."""

    multimodal_encoder: Any
    processor: Any
    unet: Any
    do_classifier_free_guidance: Any

    #: The last null of generation, float[1, N, D], kept as long as the encoder still writes it.
    _null_embeds: Tensor | None = None
    #: Whether embeddings may be of several keyframes.
    _takes_keyframes = False

    @property
    def _embedding_dim(self) -> int:
        dim = self.unet.config.cross_attention_dim
        return dim if isinstance(dim, int) else dim[0]

    # Prompts to embeddings

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: Prompts,
        negative_prompt: Prompts | None = None,
        *,
        do_classifier_free_guidance: bool = True,
        num_keyframes: int = 1,
    ) -> tuple[Tensor, Tensor | None]:
        """Visual embeddings of prompts, and of what guidance leads away from.

        All prompts that need the language model (and the negative prompts) share one roll-out. A prompt that is
        exactly one picture is encoded by the vision tower alone. Where no negative prompt is given, the null is, as
        published: the embeddings the model writes after the empty prompt; for a picture alone, those of an all-zero
        normalised picture (which is not a black one).

        Args:
            prompt, negative_prompt: one mixed list of parts, or a list of those. One negative prompt serves all.
            do_classifier_free_guidance: False skips the null.
            num_keyframes: K. Of more than one the model writes as many frames of a clip; a prompt that is exactly one
                clip is encoded by the vision tower, and one picture alone stands for all keyframes.

        Returns:
            float[B, N, D] and float[B, N, D] or None, both where and in the dtype the U-Net wants them; of several
            keyframes float[B, K, N, D].

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
            return self._for_unet(self._embed(prompts, num_keyframes)), None
        embeds = self._embed(prompts + negatives, num_keyframes)
        conditional, negative = embeds[: len(prompts)], embeds[len(prompts) :]
        if not negatives:
            kinds = [_is_alone(parts, num_keyframes) for parts in prompts]
            nulls = {kind: self._null(kind) for kind in set(kinds)}
            negative = torch.cat([nulls[kind] for kind in kinds])
        return self._for_unet(conditional), self._for_unet(_like(negative, conditional))

    def _for_unet(self, embeds: Tensor) -> Tensor:
        return embeds.to(execution_device(self.unet), self.unet.dtype)

    def _embed(self, prompts: Sequence[Sequence[Part]], num_keyframes: int = 1) -> Tensor:
        """float[rows, N, D], of several keyframes float[rows, K, N, D]: pictures (and clips, for keyframes) alone
        through the tower, everything else through one roll-out."""
        encoder = self._awake_encoder()
        device = execution_device(encoder)
        alone = [_is_alone(parts, num_keyframes) for parts in prompts]
        shown = {row: _keyframes(prompts[row], num_keyframes) for row, single in enumerate(alone) if single}
        embeds: dict[int, Tensor] = {}
        if shown:
            pictures = [picture for keyframes in shown.values() for picture in keyframes]
            pixels = self.processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
            queries = encoder.config.num_query if num_keyframes == 1 else encoder.config.num_video_query
            seen = encoder.encode_image(pixels.to(device), queries).unflatten(0, (len(shown), num_keyframes))
            embeds.update(zip(shown, seen, strict=True))
        rows = [row for row, single in enumerate(alone) if not single]
        if rows and num_keyframes == 1:
            inputs = self.processor([prompts[row] for row in rows], draw=True, padding=True, return_tensors="pt")
            embeds.update(zip(rows, encoder.generate_visual(**inputs.to(device)).unsqueeze(1), strict=True))
        elif rows:
            asked = [[*prompts[row], tokens.VIDEO] for row in rows]
            inputs = self.processor(asked, draw=True, padding=True, return_tensors="pt")
            embeds.update(zip(rows, encoder.generate_clip(**inputs.to(device), num_frames=num_keyframes), strict=True))
        stacked = torch.stack([embeds[row] for row in range(len(prompts))])
        return stacked.squeeze(1) if num_keyframes == 1 else stacked

    def _null(self, autoencoding: bool) -> Tensor:
        """Embeddings that guidance leads away from where no negative prompt is given: float[1, N, D]."""
        encoder = self._awake_encoder()
        config, device = encoder.config, execution_device(encoder)
        if autoencoding:  # not kept: one picture through the tower is what the prompt itself costs
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

    def _count_prompts(self, prompt: Prompts | None, prompt_embeds: Tensor | None) -> int:
        """B, of well-formed prompts or embeddings; nothing has run yet."""
        if prompt is not None and prompt_embeds is None:
            return len(as_batch(prompt))
        if prompt_embeds is None or prompt is not None:
            raise ValueError("Give exactly one of prompt and prompt_embeds.")
        self._check_embeds("prompt_embeds", prompt_embeds, None)
        return prompt_embeds.shape[0]

    def _embeds(
        self,
        prompt: Prompts | None,
        negative_prompt: Prompts | None,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        per_prompt: int,
        num_keyframes: int = 1,
    ) -> tuple[Tensor, Tensor | None]:
        """Conditional and unconditional rows from prompts or from ready embeddings, checked: float[B*P, N, D] each, of
        several keyframes float[B*P, K, N, D].

        The P rows of one prompt follow each other; they share what the encoder did.
        """
        guided = self.do_classifier_free_guidance
        if negative_prompt is not None and negative_prompt_embeds is not None:
            raise ValueError("Give negative_prompt or negative_prompt_embeds, not both.")
        negative: Tensor | None = None
        if prompt_embeds is None:
            make_null = guided and negative_prompt_embeds is None
            prompt_embeds, negative = self.encode_prompt(
                prompt,  # type: ignore[arg-type]
                negative_prompt,
                do_classifier_free_guidance=make_null,
                num_keyframes=num_keyframes,
            )
        prompt_embeds = self._for_unet(prompt_embeds)
        rows = prompt_embeds.repeat_interleave(per_prompt, dim=0)
        if not guided:
            return rows, None
        if negative_prompt_embeds is not None:
            self._check_embeds("negative_prompt_embeds", negative_prompt_embeds, prompt_embeds)
            negative = _like(self._for_unet(negative_prompt_embeds), prompt_embeds)
        elif negative is None:
            negative = self._negative_for_ready_embeds(negative_prompt, prompt_embeds)
        return rows, negative.repeat_interleave(per_prompt, dim=0)

    def _negative_for_ready_embeds(self, negative_prompt: Prompts | None, prompt_embeds: Tensor) -> Tensor:
        if self.multimodal_encoder is None:
            raise ValueError(
                "guidance_scale above 1 needs negative_prompt_embeds here, since this pipeline has no multimodal "
                "encoder to make them; or pass guidance_scale=1."
            )
        if negative_prompt is None:
            negative = self._for_unet(self._null(autoencoding=False))
        else:
            keyframes = prompt_embeds.shape[1] if prompt_embeds.ndim == 4 else 1
            negative, _ = self.encode_prompt(
                negative_prompt, do_classifier_free_guidance=False, num_keyframes=keyframes
            )
        if negative.shape[0] not in (1, prompt_embeds.shape[0]):
            raise ValueError(
                f"There are {prompt_embeds.shape[0]} prompts but {negative.shape[0]} negative prompts: give one for "
                "all of them, or one for each."
            )
        if negative.shape[-2:] != prompt_embeds.shape[-2:]:
            raise ValueError(
                f"The null of this encoder has shape {list(negative.shape[-2:])} per picture, prompt_embeds "
                f"{list(prompt_embeds.shape[-2:])}; give negative_prompt_embeds that fit."
            )
        return _like(negative, prompt_embeds)

    def _check_embeds(self, name: str, embeds: Tensor, conditional: Tensor | None) -> None:
        shape = list(embeds.shape)
        dims = (3, 4) if self._takes_keyframes else (3,)
        if embeds.ndim not in dims or shape[-1] != self._embedding_dim or 0 in shape:
            keyframes = f", or [prompts, keyframes, embeddings, {self._embedding_dim}]" if self._takes_keyframes else ""
            raise ValueError(
                f"{name} must have shape [prompts, embeddings, {self._embedding_dim}] (the width this U-Net reads)"
                f"{keyframes}; got {shape}."
            )
        if conditional is not None and (
            embeds.shape[1:] not in (conditional.shape[1:], conditional.shape[2:])
            or shape[0] not in (1, conditional.shape[0])
        ):
            raise ValueError(
                f"{name} must have the shape of prompt_embeds, {list(conditional.shape)}, or one row of it; "
                f"got {shape}."
            )


def _is_alone(parts: Sequence[Part], num_keyframes: int) -> bool:
    """Whether the vision tower alone encodes a prompt: a picture, and for keyframes a clip."""
    return is_autoencoding(parts) or (num_keyframes > 1 and is_clip(parts))


def _keyframes(parts: Sequence[Part], number: int) -> list[Any]:
    """Of a prompt that is one picture or clip: the picture stands for all keyframes, a clip has its own."""
    part: Any = parts[0]
    if not is_clip(parts):
        return [part] * number
    clip = part if isinstance(part, Video) else Video.from_file(part)
    return [clip[index] for index in sample_midpoints(len(clip), number)]


def _like(negative: Tensor, conditional: Tensor) -> Tensor:
    """One null for all prompts, and for all of their keyframes."""
    if negative.ndim < conditional.ndim:
        negative = negative.unsqueeze(1)
    return negative.expand_as(conditional)
