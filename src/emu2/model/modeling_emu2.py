"""Emu2, the autoregressive model: pictures and text in one sequence, the next element out.

    B  rows        N  pictures in the batch        V  vocabulary
    T  positions   Q  embeddings per picture       H  width of the language model    D  width of the vision tower

    pixel_values ──► EvaVisionTower ──► pool to Q ──► project_up ──┐
    input_ids ─────► token embeddings ─────────────────────────────┴► language model ─┬► lm_head ──────► next token
                                                                                      └► project_down ─► next embedding

Source: sections 2.1 and 2.2 of the paper; published file Emu2/emu/emu.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, ModelOutput

from emu2 import tokens
from emu2.configuration import Emu2Config, Emu2VisionConfig
from emu2.model.bridge import beside, pool_grid
from emu2.model.eva import EvaVisionTower
from emu2.model.interleave import check_counts, fill_slots, text_targets, visual_targets
from emu2.model.losses import next_embedding_loss, next_token_loss
from emu2.model.pretrained import PublishedCheckpointMixin
from emu2.model.visual_generation import VisualGenerationMixin

#: Config fields by which some language models transform logits after their head. The head here is a plain projection,
#: so a language model that relies on one of these would silently compute something else.
_LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass
class Emu2ModelOutput(BaseModelOutputWithPast):
    """Language model states, and the pooled vision features the slots were filled from.

    Args:
        image_features: float[N, num_query, D] of the stills, before `project_up`, or None.
        video_features: float[N, num_video_query, D] of the frames, or None.
    """

    image_features: Tensor | None = None
    video_features: Tensor | None = None


@dataclass
class Emu2CausalLMOutput(ModelOutput):
    """What `Emu2ForConditionalGeneration` returns.

    Args:
        loss: text_loss_weight * text_loss + visual_loss_weight * visual_loss, float32 scalar (with labels).
        text_loss: mean cross entropy over the text targets, float32 scalar (with labels).
        visual_loss: mean squared error over the visual targets, float32 scalar (with labels).
        num_text_targets, num_visual_targets: how many tokens and embeddings the means run over, int64 scalars.
        logits: float[B, T or logits_to_keep, V].
        last_hidden_state: float[B, T, H], after the final norm.
    """

    loss: Tensor | None = None
    text_loss: Tensor | None = None
    visual_loss: Tensor | None = None
    num_text_targets: Tensor | None = None
    num_visual_targets: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    last_hidden_state: Tensor | None = None


class Emu2PreTrainedModel(PreTrainedModel):
    config_class = Emu2Config
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _skip_keys_device_placement = ["past_key_values"]
    _no_split_modules = ["EvaBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True


class Emu2Model(Emu2PreTrainedModel):
    """Vision tower, bridge and language model without its head."""

    def __init__(self, config: Emu2Config):
        super().__init__(config)
        _check_text_config(config.text_config)
        self.visual = EvaVisionTower(config.vision_config)
        vision_dim, text_dim = config.vision_config.hidden_size, config.text_config.hidden_size
        self.project_up = nn.Linear(vision_dim, text_dim, bias=False)
        self.project_down = nn.Linear(text_dim, vision_dim, bias=False)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def encode_image(self, pixel_values: Tensor, num_query: int | None = None) -> Tensor:
        """Visual embeddings of pictures, before `project_up`.

        Args:
            pixel_values: float[N, 3, S, S], resized and normalised.
            num_query: embeddings per picture; None takes `config.num_query`.

        Returns:
            float[N, num_query, D].

        Raises:
            ValueError: wrong picture size, or a `num_query` that does not fit the patch grid.
        """
        num_query = self.config.num_query if num_query is None else num_query
        self.config.check_num_query(num_query)
        return pool_grid(self.visual(pixel_values).last_hidden_state, num_query)

    def visual_features(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None,
        video_pixel_values: Tensor | None,
        image_features: Tensor | None,
        video_features: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Check slots against pictures, then encode: pooled features of stills and of frames, each [N, Q, D] or None.

        All counts are checked before the tower runs.
        """
        config = self.config
        stills = _one_of("pixel_values", pixel_values, "image_features", image_features)
        frames = _one_of("video_pixel_values", video_pixel_values, "video_features", video_features)
        # The checks read numbers off the device; a compiled graph trusts the eager call before it, and a plan's fake
        # tensors have none.
        if not torch.compiler.is_compiling() and not isinstance(input_ids, FakeTensor):
            for given, slot_id, num_query, slot, what in (
                (stills, config.image_token_id, config.num_query, tokens.IMAGE_SLOT, "images"),
                (frames, config.video_token_id, config.num_video_query, tokens.FRAME_SLOT, "video frames"),
            ):
                num_given = 0 if given is None else given.shape[0]
                check_counts(input_ids, slot_id, num_query, num_given, slot=slot, what=what)
        if image_features is None and pixel_values is not None and pixel_values.shape[0]:
            image_features = self.encode_image(pixel_values, config.num_query)
        if video_features is None and video_pixel_values is not None and video_pixel_values.shape[0]:
            video_features = self.encode_image(video_pixel_values, config.num_video_query)
        return image_features, video_features

    def fill(self, input_ids: Tensor, image_features: Tensor | None, video_features: Tensor | None) -> Tensor:
        """Token embeddings with the projected visual features in their slots: float[B, T, H]."""
        inputs_embeds = self.get_input_embeddings()(input_ids)
        for features, slot_id in (
            (image_features, self.config.image_token_id),
            (video_features, self.config.video_token_id),
        ):
            if features is not None:
                features = beside(features.to(self.project_up.weight.dtype), self.project_up)
                inputs_embeds = fill_slots(inputs_embeds, input_ids == slot_id, self.project_up(features))
        return inputs_embeds

    def embed_inputs(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        video_pixel_values: Tensor | None = None,
        *,
        image_features: Tensor | None = None,
        video_features: Tensor | None = None,
    ) -> Tensor:
        """The sequence as the language model sees it: pictures in their slots, token embeddings elsewhere.

        Args:
            input_ids: int[B, T].
            pixel_values: float[N, 3, S, S], the stills in reading order over the batch.
            video_pixel_values: float[N, 3, S, S], the video frames in reading order over the batch.
            image_features, video_features: float[N, Q, D] from `encode_image`, in place of the pixels.

        Returns:
            inputs_embeds float[B, T, H].

        Raises:
            ValueError: slots and pictures do not match; the message holds both numbers and the sample.
        """
        features = self.visual_features(input_ids, pixel_values, video_pixel_values, image_features, video_features)
        return self.fill(input_ids, *features)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        video_pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        video_features: Tensor | None = None,
        **kwargs: Any,
    ) -> Emu2ModelOutput:
        """States of the language model. Arguments as in `embed_inputs`; the rest as in every transformers decoder."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        kwargs["return_dict"] = True
        if inputs_embeds is None:
            pictures = (pixel_values, video_pixel_values, image_features, video_features)
            continues = past_key_values is not None and past_key_values.get_seq_length() > 0
            if continues and all(p is None for p in pictures):
                # A step of generation: a slot token the model itself wrote is text like any other.
                inputs_embeds = self.get_input_embeddings()(input_ids)
            else:
                image_features, video_features = self.visual_features(input_ids, *pictures)
                inputs_embeds = self.fill(input_ids, image_features, video_features)
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        return Emu2ModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            image_features=image_features,
            video_features=video_features,
        )


class Emu2ForConditionalGeneration(
    PublishedCheckpointMixin, Emu2PreTrainedModel, VisualGenerationMixin, GenerationMixin
):
    """Emu2 with its two outputs: the next token and the next visual embedding."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    #: float[D, D], what errors of embeddings are multiplied by in the visual loss; None, as published, is nothing.
    visual_metric: Tensor | None = None

    def __init__(self, config: Emu2Config):
        super().__init__(config)
        self.model = Emu2Model(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def encode_image(self, pixel_values: Tensor, num_query: int | None = None) -> Tensor:
        """See `Emu2Model.encode_image`."""
        return self.model.encode_image(pixel_values, num_query)

    def embed_inputs(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        video_pixel_values: Tensor | None = None,
        **features: Tensor | None,
    ) -> Tensor:
        """See `Emu2Model.embed_inputs`."""
        return self.model.embed_inputs(input_ids, pixel_values, video_pixel_values, **features)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        video_pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        video_features: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Emu2CausalLMOutput:
        """Predict the next element at every position, and score the predictions where labels are given.

        Args:
            input_ids: int[B, T]; or `inputs_embeds` float[B, T, H] (no labels then).
            attention_mask: [B, T], 1 on real positions (or a 4-D mask, as in every transformers model).
            pixel_values, video_pixel_values: float[N, 3, S, S], stills and frames in reading order over the batch.
            image_features, video_features: float[N, Q, D] from `encode_image`, in place of the pixels.
            labels: int[B, T] over the same positions as `input_ids` (the shift happens here). -100: no target. A text
                token: classify it. At a slot, the slot's own id: regress this embedding. So `labels=input_ids`
                learns everything. `[/IMG]` after a slot is never a target.
            logits_to_keep: compute logits for the last so many positions only (0: all); not with labels.

        Raises:
            ValueError: slots and pictures do not match, or labels come without input_ids or in another shape.
        """
        return_dict = kwargs.pop("return_dict", None)
        if labels is not None:
            _check_labels(labels, input_ids, logits_to_keep)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            video_pixel_values=video_pixel_values,
            image_features=image_features,
            video_features=video_features,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else logits_to_keep
        logits = self.lm_head(hidden if isinstance(kept, int) else hidden[:, kept])

        result = Emu2CausalLMOutput(
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            last_hidden_state=hidden,
        )
        if labels is not None:
            self._add_losses(result, input_ids, labels, outputs)
        return result if return_dict is not False else result.to_tuple()

    def _add_losses(
        self, result: Emu2CausalLMOutput, input_ids: Tensor, labels: Tensor, outputs: Emu2ModelOutput
    ) -> None:
        """Text loss, visual loss and their weighted sum, as Figure 2 of the paper draws them."""
        image_slots = input_ids == self.config.image_token_id
        frame_slots = input_ids == self.config.video_token_id
        text_loss, num_text = next_token_loss(result.logits, text_targets(labels, image_slots | frame_slots))

        states, targets = [], []
        for slots, features in ((image_slots, outputs.image_features), (frame_slots, outputs.video_features)):
            if features is None:
                continue
            wanted = visual_targets(labels, slots)
            states.append(result.last_hidden_state[:, :-1][wanted[:, 1:]])
            # The k-th slot in reading order holds the k-th feature vector.
            targets.append(features.flatten(0, 1)[wanted[slots].to(features.device)])
        hidden = torch.cat(states) if states else result.last_hidden_state[:0, 0]
        target = torch.cat(targets) if targets else hidden.new_zeros(0, self.config.vision_config.hidden_size)
        visual_loss, num_visual = next_embedding_loss(self.model.project_down(hidden), target, self.visual_metric)

        result.text_loss, result.num_text_targets = text_loss, num_text
        result.visual_loss, result.num_visual_targets = visual_loss, num_visual
        result.loss = self.config.text_loss_weight * text_loss + self.config.visual_loss_weight * visual_loss

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """Generate text; everything `transformers.GenerationMixin.generate` takes, plus pictures.

        `generate(input_ids=..., pixel_values=..., video_pixel_values=..., attention_mask=...)` returns the prompt ids
        followed by the new ones; `generate(inputs_embeds=model.embed_inputs(...), attention_mask=...)` the new ids
        only. Pictures are encoded once, whatever the number of beams.
        """
        input_ids = kwargs.get("input_ids", inputs)
        pictures = ("pixel_values", "video_pixel_values", "image_features", "video_features")
        # An assistant model encodes the pictures itself, so they travel on to both models as they are.
        if input_ids is not None and kwargs.get("inputs_embeds") is None and kwargs.get("assistant_model") is None:
            given = {name: kwargs.pop(name) for name in pictures if name in kwargs}
            kwargs["prompt_embeds"] = self.embed_inputs(input_ids, **given)
        return super().generate(inputs, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        video_pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        video_features: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """One step's inputs: the prompt goes in with its pictures, what follows goes in as tokens."""
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, past_key_values=past_key_values, inputs_embeds=inputs_embeds, **kwargs
        )
        start = int(past_key_values.get_seq_length()) if past_key_values is not None else 0
        ids = model_inputs.get("input_ids")
        if prompt_embeds is not None and ids is not None and start < prompt_embeds.shape[1]:
            length = ids.shape[1]
            written = self.get_input_embeddings()(input_ids[:, prompt_embeds.shape[1] :])
            model_inputs["inputs_embeds"] = torch.cat([prompt_embeds, written], dim=1)[:, start : start + length]
            model_inputs["input_ids"] = None
        elif start == 0:
            pictures = {
                "pixel_values": pixel_values,
                "video_pixel_values": video_pixel_values,
                "image_features": image_features,
                "video_features": video_features,
            }
            model_inputs.update({name: value for name, value in pictures.items() if value is not None})
        return model_inputs


def _one_of(first: str, first_value: Tensor | None, second: str, second_value: Tensor | None) -> Tensor | None:
    if first_value is not None and second_value is not None:
        raise ValueError(f"Give {first} or {second}, not both.")
    return first_value if first_value is not None else second_value


def _check_text_config(text_config: Any) -> None:
    for field in _LOGIT_TRANSFORMS:
        if getattr(text_config, field, None) not in (None, 1, 1.0):
            raise ValueError(
                f"The language model {text_config.model_type!r} sets {field}={getattr(text_config, field)}, by which "
                "it transforms its logits after the head. Emu2 puts a plain head on the language model; choose one "
                "without it (llama, mistral, qwen2, qwen3 and many others)."
            )


def _check_labels(labels: Tensor, input_ids: Tensor | None, logits_to_keep: int | Tensor) -> None:
    if input_ids is None:
        raise ValueError("Labels need input_ids: the slots in them say which embeddings are targets.")
    if labels.shape != input_ids.shape:
        raise ValueError(f"Labels must have the shape of input_ids, {list(input_ids.shape)}; got {list(labels.shape)}.")
    if not isinstance(logits_to_keep, int) or logits_to_keep:
        raise ValueError("Labels need the logits of all positions: leave out logits_to_keep.")


AutoConfig.register("emu2_vision", Emu2VisionConfig)
AutoConfig.register("emu2", Emu2Config)
AutoModel.register(Emu2VisionConfig, EvaVisionTower)
AutoModel.register(Emu2Config, Emu2Model)
AutoModelForImageTextToText.register(Emu2Config, Emu2ForConditionalGeneration)
