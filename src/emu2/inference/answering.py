"""How a text answer is made: the options checked and settled before anything slow runs, then one of two decodings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from emu2.inference.published_decoding import PUBLISHED_MAX_NEW_TOKENS, PUBLISHED_NUM_BEAMS, generate_published
from emu2.inference.text_stream import TextStream

DECODINGS = ("transformers", "published")
#: What `decoding="published"` understands; the published code had no other settings.
_PUBLISHED_OPTIONS = ("max_new_tokens", "num_beams", "length_penalty", "repetition_penalty")


@dataclass(frozen=True)
class AnswerPlan:
    """A text generation that is ready to run.

    Attributes:
        max_new_tokens: most tokens it will write.
        num_beams: width of the beam search; 1 is none.
        generate: runs it, a streamer or None given, and returns the ids; special ids may be among them.
        streams_prompt: the streamer is given the prompt first.
    """

    max_new_tokens: int
    num_beams: int
    generate: Callable[[BaseStreamer | None], list[int]]
    streams_prompt: bool

    def run(self, seed: int | None, streamer: BaseStreamer | None = None) -> list[int]:
        """The ids of the answer."""
        with seeded(seed):
            return self.generate(streamer)

    def stream(self, decode: Callable[[list[int]], str], seed: int | None) -> Iterator[str]:
        """The text of the answer in pieces, as it is written.

        Raises:
            ValueError: a beam search, which knows its answer only at the end.
        """
        if self.num_beams > 1:
            raise ValueError(
                f"Streaming needs num_beams=1, got {self.num_beams}: a beam search knows its answer only at the end."
            )
        streamer = TextStream(decode, skip_prompt=self.streams_prompt)
        return streamer.run(lambda: self.run(seed, streamer))


def plan_answer(
    model: Any, features: dict[str, Any], *, decoding: str, default_tokens: int, options: dict[str, Any]
) -> AnswerPlan:
    """Settle how one prompt is answered.

    Args:
        model: an `Emu2ForConditionalGeneration`.
        features: the processor's output for one prompt, on the model's device.
        decoding: "transformers" or "published".
        default_tokens: `max_new_tokens` of transformers' decoding where the options leave it out.
        options: what the user asked for; None means left out.

    Raises:
        ValueError: an unknown decoding, an option it does not have, or a number out of range.
    """
    if decoding not in DECODINGS:
        raise ValueError(f"decoding is one of {', '.join(DECODINGS)}; got {decoding!r}.")
    options = {name: value for name, value in options.items() if value is not None}
    if decoding == "published":
        plan = _plan_published(model, features, options)
    else:
        plan = _plan_transformers(model, features, default_tokens, options)
    for name, number in (("max_new_tokens", plan.max_new_tokens), ("num_beams", plan.num_beams)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1; got {number}.")
    return plan


def _plan_transformers(
    model: Any, features: dict[str, Any], default_tokens: int, options: dict[str, Any]
) -> AnswerPlan:
    options |= sampling_options(options.pop("temperature", 0.0))
    options = {"max_new_tokens": default_tokens, "num_beams": 1, "pad_token_id": model.config.pad_token_id} | options
    # Text ends where the model would start a picture.
    options.setdefault("eos_token_id", [*end_ids(model.config), model.config.image_start_token_id])
    prompt_length = features["input_ids"].shape[1]

    def generate(streamer: BaseStreamer | None) -> list[int]:
        return model.generate(**features, streamer=streamer, **options)[0, prompt_length:].tolist()

    return AnswerPlan(options["max_new_tokens"], options["num_beams"], generate, streams_prompt=True)


def sampling_options(temperature: float | None) -> dict[str, Any]:
    """What `generate` takes for a temperature: none or 0 is no sampling."""
    if temperature is not None and temperature < 0:
        raise ValueError(f"temperature must not be negative; got {temperature}.")
    return {"do_sample": True, "temperature": temperature} if temperature else {}


def _plan_published(model: Any, features: dict[str, Any], options: dict[str, Any]) -> AnswerPlan:
    unknown = sorted(set(options) - set(_PUBLISHED_OPTIONS))
    if unknown:
        raise ValueError(
            f"Published decoding has no {', '.join(unknown)}; it takes {', '.join(_PUBLISHED_OPTIONS)}. "
            "transformers' own decoding, the default, has everything that model.generate takes."
        )
    options = {"max_new_tokens": PUBLISHED_MAX_NEW_TOKENS, "num_beams": PUBLISHED_NUM_BEAMS} | options

    def generate(streamer: BaseStreamer | None) -> list[int]:
        return generate_published(model, **features, streamer=streamer, **options).sequences[0].tolist()

    return AnswerPlan(options["max_new_tokens"], options["num_beams"], generate, streams_prompt=False)


def end_ids(config: Any) -> list[int]:
    """The ids that end a sequence."""
    eos = config.eos_token_id
    return list(eos) if isinstance(eos, list | tuple) else [eos]


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """A seeded global generator (transformers samples from it) that is afterwards as it was."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
