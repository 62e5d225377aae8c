"""Whoever is examined: what rows ask of a model, in batches, and a loaded model that does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from emu2.evaluate.rows import UnableError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from emu2.inference.face import Emu2

#: Tokens that an answer may have at most; captions of crowded scenes are the longest.
MOST_TOKENS = 96


@dataclass(frozen=True)
class Ask:
    """What a model is given, and what is right.

    prompt: parts in order (texts, pictures, clips, boxes), or the messages of a conversation.
    answer: the right text, picture or list of frames. No model is shown it.
    """

    prompt: tuple[Any, ...]
    answer: Any

    @property
    def asked(self) -> tuple[Any, ...]:
        """What a conversation's user gave, or all of a prompt."""
        if self.prompt and isinstance(self.prompt[0], dict):
            return tuple(part for message in self.prompt if message["role"] == "user" for part in message["content"])
        return self.prompt


class Subject(Protocol):
    """What is asked of a model. Whatever it lacks for that raises `UnableError`."""

    @property
    def image_size(self) -> int:
        """Side of the pictures it reads, in pixels."""

    def complete(self, asks: Sequence[Ask], max_new_tokens: int = MOST_TOKENS) -> list[str]:
        """What it writes after each prompt."""

    def chat(self, asks: Sequence[Ask], *, grounding: bool = False) -> list[str]:
        """What it answers to each conversation; with `grounding` boxes, as tokens."""

    def choose(self, asks: Sequence[Ask], choices: Sequence[Sequence[str]]) -> list[int]:
        """Which of its choices it finds likeliest after each prompt."""

    def draw(self, asks: Sequence[Ask]) -> list[Image.Image]:
        """What it draws after each prompt."""

    def film(self, asks: Sequence[Ask], num_frames: int) -> list[list[Image.Image]]:
        """The frames it makes after each prompt."""

    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """float[pictures, embeddings, width]: what its vision tower sees in them."""


class LoadedSubject:
    """A loaded model under examination; it answers greedily, in batches.

    Args:
        emu2: the model.
        batch_size: prompts at a time.
        steps, guidance: of its drawings and films.
        seed: of their noise.
    """

    def __init__(self, emu2: Emu2, *, batch_size: int = 32, steps: int = 20, guidance: float = 1.0, seed: int = 0):
        self.emu2 = emu2
        self._batch_size, self._steps, self._guidance, self._seed = batch_size, steps, guidance, seed

    @property
    def image_size(self) -> int:
        return self.emu2.processor.image_processor.image_size

    def complete(self, asks: Sequence[Ask], max_new_tokens: int = MOST_TOKENS) -> list[str]:
        processor = self.emu2.processor
        rows = [processor.encode(list(ask.prompt)) for ask in asks]
        return self._written(rows, max_new_tokens)

    def chat(self, asks: Sequence[Ask], *, grounding: bool = False) -> list[str]:
        from emu2 import tokens
        from emu2.processing.prompts import chat_parts

        processor = self.emu2.processor
        if tokens.USER not in processor.tokenizer.get_vocab():
            raise UnableError(
                f"{self.emu2.name} cannot chat: its tokeniser has no {tokens.USER}. Train the stage 'chat'."
            )
        rows = []
        for ask in asks:
            parts = chat_parts(ask.prompt, template=processor.chat_template, grounding=grounding)  # type: ignore[arg-type]
            rows.append(processor.encode([part.content for part in parts]))
        return self._written(rows, MOST_TOKENS, plain=not grounding)

    def choose(self, asks: Sequence[Ask], choices: Sequence[Sequence[str]]) -> list[int]:
        import torch

        processor, model = self.emu2.processor, self.emu2.model
        rows, starts = [], []
        for ask, offered in zip(asks, choices, strict=True):
            for choice in offered:
                row = processor.encode([*ask.prompt, choice], add_eos=True)
                rows.append(row)
                starts.append(row.spans[-1][0])
        self._check_length(rows, 0)
        scores: list[float] = []
        for first in range(0, len(rows), self._batch_size):
            batch = rows[first : first + self._batch_size]
            inputs = self._placed(processor.collate(batch))
            with torch.no_grad():
                logits = model(**inputs).logits.float().log_softmax(dim=-1)
            for number, row in enumerate(batch):
                pad = logits.shape[1] - len(row.input_ids)
                start = starts[first + number]
                ids = torch.tensor(row.input_ids[start:], device=logits.device)
                told = logits[number, pad + start - 1 : -1]
                scores.append(float(told.gather(1, ids[:, None]).mean()))
        chosen, position = [], 0
        for offered in choices:
            own = scores[position : position + len(offered)]
            chosen.append(own.index(max(own)))
            position += len(offered)
        return chosen

    def draw(self, asks: Sequence[Ask]) -> list[Image.Image]:
        pipeline = self.emu2.image_pipeline
        if pipeline is None:
            raise UnableError(f"{self.emu2.name} has no image decoder. Train the stages 'autoencoder' and 'decoder'.")
        pipeline.set_progress_bar_config(disable=True)
        drawn: list[Image.Image] = []
        for first in range(0, len(asks), self._batch_size):
            prompts = [list(ask.prompt) for ask in asks[first : first + self._batch_size]]
            self._check_length([self.emu2.processor.encode(parts, draw=True) for parts in prompts], self._queries)
            drawn += pipeline(prompts, **self._drawing(first, len(prompts))).images
        return drawn

    def film(self, asks: Sequence[Ask], num_frames: int) -> list[list[Image.Image]]:
        pipeline = self.emu2.video_pipeline
        if pipeline is None:
            raise UnableError(f"{self.emu2.name} has no video decoder. Train the stage 'video_decoder'.")
        pipeline.set_progress_bar_config(disable=True)
        at_once = max(1, self._batch_size // num_frames)
        films: list[list[Image.Image]] = []
        for first in range(0, len(asks), at_once):
            prompts = [list(ask.prompt) for ask in asks[first : first + at_once]]
            options = {"num_frames": num_frames, "num_keyframes": self.emu2.keyframes(num_frames)}
            films += pipeline(prompts, **options, **self._drawing(first, len(prompts))).frames
        return films

    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        import torch

        model, process = self.emu2.model, self.emu2.processor.image_processor
        found = []
        with torch.no_grad():
            for first in range(0, len(pictures), self._batch_size):
                pixels = process(list(pictures[first : first + self._batch_size]), return_tensors="pt")["pixel_values"]
                found.append(model.encode_image(pixels.to(model.device, model.dtype)).float().cpu())
        return torch.cat(found)

    # What the methods above are made of

    @property
    def _queries(self) -> int:
        return self.emu2.model.config.num_query

    def _drawing(self, first: int, number: int) -> dict[str, Any]:
        """Options of a pipeline; every drawing has noise of its own, whatever the batch."""
        import torch

        seeds = [self._seed + first + row for row in range(number)]
        return {
            "num_inference_steps": self._steps,
            "guidance_scale": self._guidance,
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        }

    def _written(self, rows: Sequence[Any], max_new_tokens: int, *, plain: bool = True) -> list[str]:
        from emu2.inference.answering import end_ids

        processor, model = self.emu2.processor, self.emu2.model
        self._check_length(rows, max_new_tokens)
        # A text ends where the model ends it or would draw.
        ends = [*end_ids(model.config), model.config.image_start_token_id]
        # Prompts of like length go together; the answers come back in the order of the questions.
        order = sorted(range(len(rows)), key=lambda number: len(rows[number].input_ids))
        said = [""] * len(rows)
        for first in range(0, len(order), self._batch_size):
            numbers = order[first : first + self._batch_size]
            inputs = self._placed(processor.collate([rows[number] for number in numbers]))
            written = model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=model.config.pad_token_id,
            )[:, inputs["input_ids"].shape[1] :]
            for number, ids in zip(numbers, written.tolist(), strict=True):
                end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
                said[number] = processor.decode(ids[:end], skip_special_tokens=plain).strip()
        return said

    def _placed(self, features: Any) -> dict[str, Any]:
        model = self.emu2.model
        return {
            name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
            for name, value in features.items()
        }

    def _check_length(self, rows: Sequence[Any], new_tokens: int) -> None:
        context = self.emu2.context
        longest = max((len(row.input_ids) for row in rows), default=0) + new_tokens
        if context is not None and longest > context:
            raise UnableError(f"{longest} tokens are needed, and the context of {self.emu2.name} holds {context}.")
