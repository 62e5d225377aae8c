"""The friendly face: one object that completes, chats, draws, edits, films, tells stories in both and embeds.

    m = emu2.load("path/to/folder")
    m.complete([dog, "a dog.", cat, "a"])
    m.draw("a red bicycle in the rain", seed=1).save("bicycle.png")

A prompt is a text, or one mixed list of texts, pictures (PIL pictures or paths), `emu2.Video` and `emu2.Box`.
Everything beneath is public: `m.model`, `m.processor`, `m.image_pipeline`, `m.video_pipeline`.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from emu2.inference.answering import end_ids, plan_answer, sampling_options, seeded
from emu2.inference.names import explain_no_image_decoder, explain_no_video_decoder
from emu2.inference.prompt_parts import Prompt, as_parts, check_not_empty, is_conversation

if TYPE_CHECKING:
    from emu2.decoder.image_pipeline import Emu2ImagePipeline
    from emu2.decoder.video_pipeline import Emu2VideoPipeline
    from emu2.inference.conversation import Conversation
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
    from emu2.processing.processor import Emu2Processor

#: New tokens when nothing is said: a completion is short, a chat answer may be long (the published demo asks for 512).
COMPLETION_TOKENS, CHAT_TOKENS = 64, 512
#: How pictures are drawn when nothing is said: as published. A small model may name its own (`Variant.drawing`).
PUBLISHED_DRAWING: dict[str, Any] = {"steps": 50, "guidance": 3.0, "frames": None, "keyframes": 1}


class Emu2:
    """A loaded model with everything around it; `emu2.load` makes one.

    Args:
        model: the autoregressive model.
        processor: its processor.
        image_pipeline, video_pipeline: what turns visual embeddings into pictures and clips, where there is one.
        name: what error messages call it; the folder it came from.
        drawing: `steps`, `guidance`, `frames`, `keyframes` where a call names none; what is left out is as published.
    """

    def __init__(
        self,
        model: "Emu2ForConditionalGeneration",
        processor: "Emu2Processor",
        *,
        image_pipeline: "Emu2ImagePipeline | None" = None,
        video_pipeline: "Emu2VideoPipeline | None" = None,
        name: str = "this model",
        drawing: dict[str, Any] | None = None,
    ):
        self.model = model
        self.processor = processor
        # diffusers' pipelines are typed too loosely to be checked.
        self.image_pipeline: Any = image_pipeline
        self.video_pipeline: Any = video_pipeline
        self.name = name
        self.drawing = {**PUBLISHED_DRAWING, **(drawing or {})}

    def __repr__(self) -> str:
        can = [what for what, pipe in (("draw", self.image_pipeline), ("film", self.video_pipeline)) if pipe]
        return f"Emu2({self.name!r}: {', '.join(['complete', 'chat', 'embed', *can])}; on {self.device}, {self.dtype})"

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def context(self) -> int | None:
        """Longest sequence in tokens, answer included; None where the language model states none."""
        return getattr(self.model.config.text_config, "max_position_embeddings", None)

    def complete(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int | None = None,
        num_beams: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stream: bool = False,
        decoding: str = "transformers",
        **options: Any,
    ) -> str | Iterator[str]:
        """Go on with a prompt, as the base model was trained to.

        Args:
            prompt: text, or a mixed list. `[dog, "a dog.", cat, "a"]` shows by example what is wanted.
            max_new_tokens: most tokens to write; 64, or 10 with published decoding.
            num_beams: width of a beam search; 1, or 5 with published decoding.
            temperature: None or 0 takes the likeliest token each time, more samples.
            seed: makes sampling repeatable.
            stream: give an iterator over pieces of text instead of the text.
            decoding: "transformers", or "published" for what the published code did (docs/decoding.md).
            **options: anything `model.generate` takes; with published decoding `length_penalty` and
                `repetition_penalty`.

        Returns:
            the new text, without special tokens; it ends where the model ends it or would draw a picture.

        Raises:
            ValueError: the prompt is empty or longer than the context, or an option is out of range.
        """
        features = self._features(prompt)
        options |= {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "temperature": temperature}
        return self._answer(features, self._decode, COMPLETION_TOKENS, decoding, seed, stream, options)

    def chat(
        self,
        messages: Prompt | Sequence[dict[str, Any]],
        *,
        system: str | None = None,
        style: str = "detailed",
        grounding: bool = False,
        max_new_tokens: int | None = None,
        num_beams: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stream: bool = False,
        decoding: str = "transformers",
        **options: Any,
    ) -> str | Iterator[str]:
        """Answer as an assistant; for models tuned on conversations.

        Args:
            messages: what the user says, as for `complete`; or a conversation as a list of
                `{"role": ..., "content": ...}`, the last one the user's. `conversation()` keeps one for you.
            system: the system message; None takes the published one of the style.
            style: "detailed", or "concise" for short answers (the published message of the academic tasks).
            grounding: ask for boxes; the answer keeps its markup, which `processor.parse_grounding` reads.
            max_new_tokens: most tokens to write; 512, or 10 with published decoding.

        The other arguments, and what is raised, as in `complete`.
        """
        turns = as_parts(messages)
        if not is_conversation(messages):
            turns = [{"role": "user", "content": turns}]
        features = self._chat_features(turns, system, style=style, grounding=grounding)
        options |= {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "temperature": temperature}
        decode = self._decode_grounded if grounding else self._decode
        return self._answer(features, decode, CHAT_TOKENS, decoding, seed, stream, options)

    def conversation(self, *, system: str | None = None, grounding: bool = False, **options: Any) -> "Conversation":
        """A conversation that remembers its turns; `options` are `chat`'s and hold for every answer."""
        from emu2.inference.conversation import Conversation

        return Conversation(self, system=system, grounding=grounding, **options)

    def draw(
        self,
        prompt: Prompt,
        *,
        negative_prompt: Prompt | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        height: int | None = None,
        width: int | None = None,
        count: int = 1,
        seed: int | None = None,
        progress: bool = False,
        **options: Any,
    ) -> Image.Image | list[Image.Image]:
        """Draw a picture from text, pictures and boxes in any order.

        A single picture and no text is autoencoded: encoded and drawn again.

        Args:
            negative_prompt: what to keep away from; None is the published null.
            steps: denoising steps, at least 1; None is the model's own number, 50 as published.
            guidance: how strongly to follow the prompt; 1 or less is no guidance, None the model's own, 3 as published.
            height, width: size in pixels, multiples of 8; None takes the decoder's own.
            count: pictures to draw. With more than one, a list comes back.
            seed: makes the pictures repeatable.
            progress: show a progress bar on stderr.
            **options: anything `Emu2ImagePipeline` takes.

        Raises:
            ValueError: there is no image decoder here, the prompt is empty, or a number is out of range.
        """
        pipeline = self._image_decoder()
        check_not_empty(prompt)
        pipeline.set_progress_bar_config(disable=not progress)
        steps, guidance = self.denoising(steps, guidance)
        images = pipeline(
            as_parts(prompt),
            negative_prompt=negative_prompt,
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=height,
            width=width,
            num_images_per_prompt=count,
            generator=_generator(seed),
            **options,
        ).images
        return images[0] if count == 1 else images

    def edit(self, image: Any, instruction: str, **options: Any) -> Image.Image | list[Image.Image]:
        """Change a picture as told: `draw([image, instruction])`, the published form. Options as in `draw`."""
        if not isinstance(instruction, str) or not instruction.strip():
            raise ValueError("The instruction is empty; say what to change, such as 'make it snow'.")
        return self.draw([image, instruction], **options)

    def film(
        self,
        prompt: Prompt,
        *,
        negative_prompt: Prompt | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        num_frames: int | None = None,
        num_keyframes: int | None = None,
        height: int | None = None,
        width: int | None = None,
        seed: int | None = None,
        progress: bool = False,
        **options: Any,
    ) -> list[Image.Image]:
        """Make a clip from a prompt as `draw` takes it.

        Args:
            num_frames, num_keyframes: frames of the clip, and pictures that the language model writes for it; None is
                what the decoder was made for, 16 and 1 as published. The other arguments as in `draw`.

        Returns:
            the frames, in order.
        """
        pipeline = self._video_decoder()
        check_not_empty(prompt)
        pipeline.set_progress_bar_config(disable=not progress)
        steps, guidance = self.denoising(steps, guidance)
        frames = self.drawing["frames"] if num_frames is None else num_frames
        keyframes = self.keyframes(frames) if num_keyframes is None else num_keyframes
        given = {"num_frames": frames, "num_keyframes": keyframes, "height": height, "width": width}
        options |= {name: value for name, value in given.items() if value is not None}
        return pipeline(
            as_parts(prompt),
            negative_prompt=negative_prompt,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=_generator(seed),
            **options,
        ).frames[0]

    def keyframes(self, num_frames: int | None) -> int:
        """Pictures that the language model writes for a clip of so many frames, where a call names no number."""
        return min(self.drawing["keyframes"], num_frames or self.drawing["keyframes"])

    def interleave(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = COMPLETION_TOKENS,
        max_images: int = 4,
        draw_first: bool = False,
        temperature: float | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
    ) -> list[str | Image.Image]:
        """Go on with a prompt in text and pictures; the model itself chooses when to draw.

        Args:
            max_new_tokens: tokens of text to write at most, pictures not counted.
            max_images: pictures to draw at most.
            draw_first: begin with a picture.
            temperature, seed: as in `complete`. steps, guidance: of every drawing, as in `draw`.

        Returns:
            texts and pictures in order; empty where the model has nothing to add.

        Raises:
            ValueError: there is no image decoder here, the prompt is empty, or a number is out of range.
        """
        from emu2.model.visual_generation import TextSegment

        pipeline = self._image_decoder()
        pipeline.set_progress_bar_config(disable=True)
        steps, guidance = self.denoising(steps, guidance)
        options = {"pad_token_id": self.model.config.pad_token_id, **sampling_options(temperature)}
        with seeded(seed):
            segments = self.model.generate_interleaved(
                **self._features(prompt, draw=draw_first),
                max_new_tokens=max_new_tokens,
                max_images=max_images,
                **options,
            )[0]
        told: list[str | Image.Image] = []
        for segment in segments:
            if isinstance(segment, TextSegment):
                told.append(self._decode(segment.token_ids))
            else:
                told += pipeline(
                    prompt_embeds=segment.embeddings[None],
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    generator=_generator(seed),
                ).images
        return told

    @torch.no_grad()
    def embed(self, image_or_prompt: Any) -> torch.Tensor:
        """Visual embeddings, [num_query, vision width], as an image decoder takes them.

        A picture (PIL or path) is encoded: what is in it. A prompt is rolled out: what the model would draw.
        """
        if isinstance(image_or_prompt, Image.Image | Path):
            pixels = self.processor.image_processor(image_or_prompt, return_tensors="pt")["pixel_values"]
            return self.model.encode_image(pixels.to(self.device, self.dtype))[0]
        features = self._features(image_or_prompt, draw=True)
        return self.model.generate_visual(**features)[0]

    def denoising(self, steps: int | None = None, guidance: float | None = None) -> tuple[int, float]:
        """Steps and guidance of a drawing: those given, and the model's own for what is None."""
        own = self.drawing
        return own["steps"] if steps is None else steps, own["guidance"] if guidance is None else guidance

    # What the methods above are made of

    def _features(self, prompt: Prompt, **processor_options: Any) -> dict[str, Any]:
        check_not_empty(prompt)
        features = self.processor([as_parts(prompt)], padding=True, return_tensors="pt", **processor_options)
        return self._placed(features)

    def _chat_features(
        self, messages: list[dict[str, Any]], system: str | None, **template_options: Any
    ) -> dict[str, Any]:
        check_not_empty(messages[-1].get("content"), what="The last message")
        if system is not None:
            messages = [{"role": "system", "content": system}, *messages]
        features = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", **template_options
        )
        return self._placed(features)

    def _placed(self, features: Any) -> dict[str, Any]:
        placed = {}
        for name, value in features.items():
            placed[name] = value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
        return placed

    def _answer(
        self,
        features: dict[str, Any],
        decode: Callable[[list[int]], str],
        default_tokens: int,
        decoding: str,
        seed: int | None,
        stream: bool,
        options: dict[str, Any],
    ) -> str | Iterator[str]:
        plan = plan_answer(self.model, features, decoding=decoding, default_tokens=default_tokens, options=options)
        self._check_context(features["input_ids"].shape[1], plan.max_new_tokens)
        if stream:
            return plan.stream(decode, seed)
        return decode(plan.run(seed))

    def _check_context(self, prompt_tokens: int, new_tokens: int) -> None:
        if self.context is None or prompt_tokens + new_tokens <= self.context:
            return
        room = self.context - prompt_tokens
        config = self.model.config
        picture, frame = config.num_query + 2, config.num_video_query + 2
        shorten = f"shorten it (a picture takes {picture} tokens, a video frame {frame})"
        advice = f"ask for at most {room} new ones" if room > 0 else shorten
        raise ValueError(
            f"The prompt is {prompt_tokens} tokens long and {new_tokens} new ones were asked for, "
            f"{prompt_tokens + new_tokens} in all; the context of {self.name} is {self.context} tokens: {advice}."
        )

    def _decode(self, ids: list[int]) -> str:
        return self.processor.decode(ids, skip_special_tokens=True)

    def _decode_grounded(self, ids: list[int]) -> str:
        config = self.model.config
        ends = {config.bos_token_id, config.pad_token_id, config.image_start_token_id}
        ends |= set(end_ids(config))
        return self.processor.decode([i for i in ids if i not in ends], skip_special_tokens=False)

    def _image_decoder(self) -> Any:
        if self.image_pipeline is None:
            raise ValueError(explain_no_image_decoder(self.name))
        return self.image_pipeline

    def _video_decoder(self) -> Any:
        if self.video_pipeline is None:
            raise ValueError(explain_no_video_decoder(self.name))
        return self.video_pipeline


def _generator(seed: int | None) -> torch.Generator | None:
    # On the CPU, so that a seed gives the same picture on every device.
    return None if seed is None else torch.Generator("cpu").manual_seed(seed)
