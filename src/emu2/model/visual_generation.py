"""Writing pictures: the roll-out of visual embeddings, and answers that mix text and pictures.

    B  rows    T  prompt length    Q  embeddings per picture    H  language model width    D  vision width

A picture is written one embedding at a time. The prompt ends in `[IMG]`; the state there, projected down, is embedding
1; projected up again it is the next input, until there are Q of them. The last one is never fed back.
Source: published file Emu2/emu/emu.py, generate_image, which runs the whole sequence anew for every embedding. Here
the keys and values of what was seen are kept; `use_cache=False` is the published algorithm.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from emu2 import tokens
from emu2.model.bridge import beside


@dataclass(frozen=True)
class TextSegment:
    """Text of an interleaved answer.

    Args:
        token_ids: ids without `[IMG]`, `[/IMG]` and the end-of-sequence token.
    """

    token_ids: list[int]


@dataclass(frozen=True)
class ImageSegment:
    """A picture of an interleaved answer.

    Args:
        embeddings: float[Q, D], what the image decoder takes.
    """

    embeddings: Tensor


class VisualGenerationMixin:
    """`generate_visual` and `generate_interleaved` for a model with slots, bridge and language model."""

    config: Any
    model: Any
    generation_config: Any
    embed_inputs: Any

    @torch.no_grad()
    def generate_visual(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        video_pixel_values: Tensor | None = None,
        *,
        num_query: int | None = None,
        use_cache: bool = True,
    ) -> Tensor:
        """Write one picture per prompt, as visual embeddings for an image or video decoder.

        Args:
            input_ids: int[B, T], left-padded. Rows end in `[IMG]`; where no row does, `[IMG]` is appended to all.
            attention_mask: int[B, T], 1 on real positions; None takes all as real.
            pixel_values, video_pixel_values: float[N, 3, S, S], pictures of the prompts in reading order.
            num_query: embeddings to write; None takes `config.num_query`. The decoder expects the number it was
                trained on (64 for the published one).
            use_cache: False recomputes the whole sequence for every embedding, as the published code does; slower,
                same numbers.

        Returns:
            float[B, num_query, D], before `project_up`.

        Raises:
            ValueError: slots and pictures do not match, some rows but not all end in `[IMG]`, padding on the right,
                or a sequence longer than the language model's context.
        """
        num_query = self.config.num_query if num_query is None else num_query
        pictures = (pixel_values, video_pixel_values)
        one = self.generate_clip(
            input_ids, attention_mask, *pictures, num_frames=1, num_query=num_query, use_cache=use_cache
        )
        return one[:, 0]

    @torch.no_grad()
    def generate_clip(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        video_pixel_values: Tensor | None = None,
        *,
        num_frames: int,
        num_query: int | None = None,
        use_cache: bool = True,
    ) -> Tensor:
        """Write the frames of one clip per prompt, one picture after the other, for a video decoder.

        After each frame `[/IMG]` and `[IMG]` are placed, as between the frames of a clip that is read. The prompt ends
        in `[VIDEO]` and `[IMG]`: `processor([[*parts, "[VIDEO]"]], draw=True)`.

        Args:
            num_frames: F, pictures to write.
            num_query: embeddings of each; None takes `config.num_video_query`. The others as in `generate_visual`.

        Returns:
            float[B, F, num_query, D], before `project_up`.

        Raises:
            ValueError: as `generate_visual` does, or `num_frames` below 1.
        """
        num_query = self.config.num_video_query if num_query is None else num_query
        for name, value in (("num_query", num_query), ("num_frames", num_frames)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        _check_left_padding(attention_mask)
        input_ids, attention_mask = self._end_in_img(input_ids, attention_mask)
        written = num_frames * (num_query + 2) - 2
        _check_context(self.config, input_ids.shape[1], written)
        embeds = self.embed_inputs(input_ids, pixel_values, video_pixel_values)
        cache = _roomy_cache(self.config.text_config, embeds.shape[1] + written) if use_cache else None
        ends = torch.tensor([[self.config.image_end_token_id, self.config.image_start_token_id]], device=embeds.device)
        between = self.model.get_input_embeddings()(ends).expand(embeds.shape[0], -1, -1)
        frames: list[Tensor] = []
        # A step is many small operations, and without autograd's bookkeeping each is a little cheaper. The copy, made
        # outside, is a tensor like any other: a decoder may be trained on it.
        with torch.inference_mode():
            while True:
                if use_cache:
                    frames.append(self._roll_out(embeds, attention_mask, num_query, cache))
                else:
                    frames.append(self._roll_out_by_recomputing(embeds, attention_mask, num_query))
                if len(frames) == num_frames:
                    break
                picture = self.model.project_up(frames[-1]).to(embeds.device)
                embeds = torch.cat([embeds, picture, between], dim=1)
                seen = attention_mask.new_ones(embeds.shape[0], picture.shape[1] + between.shape[1])
                attention_mask = torch.cat([attention_mask, seen], dim=1)
            written_frames = torch.stack(frames, dim=1)
        return written_frames.clone()

    def _end_in_img(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        ends = input_ids[:, -1] == self.config.image_start_token_id
        if ends.all():
            return input_ids, attention_mask
        if ends.any():
            raise ValueError(
                f"Some prompts end in {tokens.IMG} and some do not (rows {ends.nonzero().flatten().tolist()} do): "
                "end all of them in it, or none."
            )
        img = torch.full_like(input_ids[:, :1], self.config.image_start_token_id)
        return torch.cat([input_ids, img], dim=1), torch.cat([attention_mask, torch.ones_like(img)], dim=1)

    def _roll_out(self, inputs_embeds: Tensor, attention_mask: Tensor, num_query: int, cache: Any = None) -> Tensor:
        """The cached roll-out: float[B, num_query, D].

        Args:
            inputs_embeds: float[B, T, H], the whole sequence so far; what `cache` already holds is skipped.
            attention_mask: int[B, T], left-padded.
            cache: a transformers cache to go on from and to extend; the last embedding is not in it afterwards.
        """
        decoder, up, down = self.model.language_model, self.model.project_up, self.model.project_down
        if cache is None:
            cache = _roomy_cache(self.config.text_config, inputs_embeds.shape[1] + num_query - 1)
        known = cache.get_seq_length()
        position_ids = position_ids_from_mask(attention_mask)
        # Without padding the causal mask is implied, and building none is what makes a step cheap.
        padded = not bool(attention_mask.all())
        step_input = inputs_embeds[:, known:]
        step_positions = position_ids[:, known:]
        embeddings: list[Tensor] = []
        while True:
            outputs = decoder(
                inputs_embeds=step_input,
                attention_mask=attention_mask if padded else None,
                position_ids=step_positions,
                past_key_values=cache,
                use_cache=True,
            )
            state = beside(outputs.last_hidden_state[:, -1:], down)
            embeddings.append(down(state))
            if len(embeddings) == num_query:
                return torch.cat(embeddings, dim=1)
            step_input = up(embeddings[-1]).to(inputs_embeds.device)
            step_positions = step_positions[:, -1:] + 1
            if padded:
                attention_mask = torch.cat([attention_mask, torch.ones_like(attention_mask[:, :1])], dim=1)

    def _roll_out_by_recomputing(self, inputs_embeds: Tensor, attention_mask: Tensor, num_query: int) -> Tensor:
        """The published algorithm: the whole sequence runs again for every embedding. float[B, num_query, D]."""
        decoder, up, down = self.model.language_model, self.model.project_up, self.model.project_down
        embeddings: list[Tensor] = []
        while True:
            outputs = decoder(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids_from_mask(attention_mask),
                use_cache=False,
            )
            embeddings.append(down(beside(outputs.last_hidden_state[:, -1:], down)))
            if len(embeddings) == num_query:
                return torch.cat(embeddings, dim=1)
            inputs_embeds = torch.cat([inputs_embeds, up(embeddings[-1]).to(inputs_embeds.device)], dim=1)
            attention_mask = torch.cat([attention_mask, torch.ones_like(attention_mask[:, :1])], dim=1)

    @torch.no_grad()
    def generate_interleaved(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        video_pixel_values: Tensor | None = None,
        *,
        max_new_tokens: int = 256,
        max_images: int = 4,
        num_query: int | None = None,
        **generate_kwargs: Any,
    ) -> list[list[TextSegment | ImageSegment]]:
        """Answer in text and pictures, the model itself choosing when to draw.

        The model writes text; where it writes `[IMG]` the roll-out runs, `[/IMG]` is placed after it, and text goes
        on, until the model ends the sequence or a limit is reached. Rows are answered one after the other, since
        they draw at different times.

        Args:
            input_ids, attention_mask, pixel_values, video_pixel_values: as in `generate`, left-padded. A prompt that
                ends in `[IMG]` starts with a picture.
            max_new_tokens: text tokens to write at most, per row; pictures are not counted.
            max_images: pictures to draw at most, per row; after them `[IMG]` is suppressed.
            num_query: embeddings per picture; None takes `config.num_query`.
            **generate_kwargs: sampling options of `generate`. Beams do not go with it.

        Returns:
            for every row its segments in order; a row may be empty.

        Raises:
            ValueError: slots and pictures do not match, a limit is negative, or beams are asked for.
        """
        if max_new_tokens < 0 or max_images < 0:
            raise ValueError(
                f"max_new_tokens and max_images must not be negative; got {max_new_tokens} and {max_images}."
            )
        num_beams = generate_kwargs.get("num_beams") or self.generation_config.num_beams or 1
        if num_beams != 1:
            raise ValueError(f"An interleaved answer is written without beams; got num_beams={num_beams}.")
        num_query = self.config.num_query if num_query is None else num_query
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        _check_left_padding(attention_mask)
        embeds = self.embed_inputs(input_ids, pixel_values, video_pixel_values)
        answers = []
        for row, mask in enumerate(attention_mask.bool()):
            draws_first = bool(input_ids[row, -1] == self.config.image_start_token_id)
            writer = _InterleavedWriter(self, embeds[row : row + 1, mask], num_query, generate_kwargs)
            answers.append(writer.write(max_new_tokens, max_images, draws_first))
        return answers


class _InterleavedWriter:
    """One row's answer in the making: the sequence so far, as embeddings, and the cache over it."""

    def __init__(self, model: Any, embeds: Tensor, num_query: int, generate_kwargs: dict[str, Any]):
        self.model = model
        self.embeds = embeds  # float[1, T, H]
        self.num_query = num_query
        self.generate_kwargs = dict(generate_kwargs)
        self.cache = DynamicCache(config=model.config.text_config)
        self.start_id = model.config.image_start_token_id
        eos = self.generate_kwargs.pop("eos_token_id", model.generation_config.eos_token_id)
        eos = model.config.eos_token_id if eos is None else eos
        self.end_ids = list(eos) if isinstance(eos, list | tuple) else [eos]
        config = model.config
        # A person reads this text: slots stand for pictures that are not there.
        self.never = [config.image_token_id, config.video_token_id, config.image_end_token_id]

    def write(self, max_new_tokens: int, max_images: int, draws_first: bool) -> list[TextSegment | ImageSegment]:
        segments: list[TextSegment | ImageSegment] = []
        images = 0
        if draws_first and max_images:
            segments.append(self._draw())
            images = 1
        while max_new_tokens > 0:
            may_draw = images < max_images and self._has_room_for_image()
            new_ids = self._write_text(max_new_tokens, may_draw=may_draw)
            max_new_tokens -= len(new_ids)
            text = [token for token in new_ids if token != self.start_id and token not in self.end_ids]
            if text:
                segments.append(TextSegment(text))
            if not new_ids or new_ids[-1] != self.start_id or not may_draw:
                break
            segments.append(self._draw())
            images += 1
        return segments

    def _write_text(self, max_new_tokens: int, *, may_draw: bool) -> list[int]:
        room = _context(self.model.config) - self.embeds.shape[1]
        if room <= 0:
            return []
        suppressed = self.never if may_draw else [*self.never, self.start_id]
        options = {**self.generate_kwargs, "return_dict_in_generate": False}
        options["suppress_tokens"] = [*(options.get("suppress_tokens") or []), *suppressed]
        new_ids = self.model.generate(
            inputs_embeds=self.embeds,
            attention_mask=self._mask(),
            past_key_values=self.cache,
            max_new_tokens=min(max_new_tokens, room),
            eos_token_id=[*self.end_ids, self.start_id],
            **options,
        )
        self.embeds = torch.cat([self.embeds, self.model.get_input_embeddings()(new_ids)], dim=1)
        return new_ids[0].tolist()

    def _draw(self) -> ImageSegment:
        """Roll a picture out after the `[IMG]` that ends the sequence, and close it with `[/IMG]`."""
        visual = self.model._roll_out(self.embeds, self._mask(), self.num_query, self.cache)
        end = torch.full((1, 1), self.model.config.image_end_token_id, device=self.embeds.device)
        picture = self.model.model.project_up(visual).to(self.embeds.device)
        self.embeds = torch.cat([self.embeds, picture, self.model.get_input_embeddings()(end)], dim=1)
        return ImageSegment(visual[0])

    def _has_room_for_image(self) -> bool:
        # [IMG], the picture, [/IMG], and at least one token after it
        return self.embeds.shape[1] + self.num_query + 3 <= _context(self.model.config)

    def _mask(self) -> Tensor:
        return torch.ones(self.embeds.shape[:2], dtype=torch.long, device=self.embeds.device)


class _RoomyLayer(DynamicLayer):
    """Keys and values of one layer in memory taken once, for a number of positions known beforehand.

    The stock layer copies all it holds at every step to append one position: a sixth of a step's time after a prompt of
    1000 tokens (benchmarks/rollout.py). What attention reads is a view of the filled part, so no mask is needed.
    """

    def __init__(self, num_positions: int):
        super().__init__()
        self.num_positions = num_positions

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            rows, heads, _, width = key_states.shape
            self._all_keys = key_states.new_empty(rows, heads, self.num_positions, width)
            self._all_values = value_states.new_empty(rows, heads, self.num_positions, value_states.shape[-1])
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        self._all_keys[:, :, start:end] = key_states
        self._all_values[:, :, start:end] = value_states
        keys, values = self._all_keys[:, :, :end], self._all_values[:, :, :end]
        self.keys, self.values = keys, values
        return keys, values


def _roomy_cache(text_config: Any, num_positions: int) -> DynamicCache:
    """A cache for `num_positions`; layers of other kinds (sliding windows, say) stay as transformers has them."""
    cache = DynamicCache(config=text_config)
    cache.layers = [_RoomyLayer(num_positions) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def position_ids_from_mask(attention_mask: Tensor) -> Tensor:
    """Positions that count real tokens only: int[B, T] from int[B, T]; padding gets position 0."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _check_left_padding(attention_mask: Tensor) -> None:
    holes = (attention_mask[:, 1:] < attention_mask[:, :-1]).any(dim=1)
    if holes.any():
        raise ValueError(
            f"Prompts must be padded on the left; rows {holes.nonzero().flatten().tolist()} have padding after text. "
            "Emu2Processor pads on the left."
        )


def _context(config: Any) -> int:
    """Longest sequence the language model takes; effectively endless where its config states none."""
    return getattr(config.text_config, "max_position_embeddings", None) or 2**31


def _check_context(config: Any, prompt_length: int, num_query: int) -> None:
    needed, context = prompt_length + num_query - 1, _context(config)
    if needed > context:
        raise ValueError(
            f"The prompt has {prompt_length} tokens and a picture takes {num_query - 1} more positions, {needed} in "
            f"all; the language model's context is {context}. Shorten the prompt or leave pictures out."
        )
