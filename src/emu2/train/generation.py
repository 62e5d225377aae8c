"""Emu2-Gen: learn the last picture of a prompt of words, boxes and pictures of objects (paper, section 2.3.2).

Or its last clip, frame by frame, for a video decoder of several keyframes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from emu2 import tokens
from emu2.data.arrange import is_pair, text_first
from emu2.data.records import Record
from emu2.data.sequences import IGNORE
from emu2.data.sequences import Sequence as TokenSequence
from emu2.data.settings import kind_of
from emu2.processing.grounding import Box
from emu2.train.config import GenerationConfig
from emu2.train.documents import SequenceObjective
from emu2.train.objectives import Batch

#: No space is put before these where a phrase takes the place of its box.
_CLOSING = (" ", ".", ",", ";", ":", "!", "?", ")")


class GenObjective(SequenceObjective):
    """Regression of the last picture's embeddings, and of nothing else; the vision tower is frozen.

    Boxes and pictures of objects are left out at random, and these pictures get other backgrounds and crops
    (`GenerationConfig`), so that the model draws what is asked for instead of pasting what it is shown.
    """

    trains = ("bridge", "language")
    weights = {"visual": 1.0}

    def sample(self, record: Record, chance: random.Random) -> TokenSequence:
        record = self._read(record, chance)
        # A picture or clip with its caption: what is to be drawn comes last.
        record = varied(text_first(record) if is_pair(record) else record, self.config.gen, chance)
        return self.builder.build(record, "last picture")

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Any]:
        """What was to be drawn and what is, where there is a decoder."""
        if not self.whole.complete:
            return {}
        model = self.whole.model
        shown: dict[str, Any] = {}
        stills = [sample for sample in batch.extra["samples"] if self.builder.image_id in sample.labels]
        for number, sample in enumerate(stills[:2]):
            first = next(t for t, label in enumerate(sample.labels) if label != IGNORE)
            ids = torch.tensor([sample.input_ids[:first]], device=self.device)  # ends in [IMG]
            pictures = {"pixel_values": sample.images[:-1], "video_pixel_values": sample.frames}
            given: dict[str, Any] = {
                name: torch.stack([self._pixels(picture) for picture in those]).to(self.device)
                for name, those in pictures.items()
                if those
            }
            drawn = model.generate_visual(ids, **given)
            nothing = model.generate_visual(ids[:, [0, -1]])  # <s>[IMG]: the published null condition
            pipe = self.whole.pipeline()
            pipe.set_progress_bar_config(disable=True)
            image = pipe(
                prompt_embeds=drawn.to(self.whole.unet.dtype),
                negative_prompt_embeds=nothing.to(self.whole.unet.dtype),
                num_inference_steps=20,
                height=int(self.whole.vae.config.sample_size),
                width=int(self.whole.vae.config.sample_size),
                generator=torch.Generator("cpu").manual_seed(0),
            ).images[0]
            text = self.whole.processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
            shown |= {f"gen/{number}/asked": text, f"gen/{number}/target": sample.images[-1]}
            shown[f"gen/{number}/drawn"] = image
        return shown


def varied(record: Record, settings: GenerationConfig, chance: random.Random) -> Record:
    """A prompt with boxes and object pictures left out, cropped and put on other backgrounds at random.

    Pictures of objects are those in boxes, those with see-through parts, and all but the last of a "composition". The
    last segment, the picture to be drawn, stays as it is, and so does a picture to be edited.
    """
    without_boxes = chance.random() < settings.drop_boxes
    shows_objects = kind_of(record.kind) == "composition"
    segments: list[Any] = []
    for segment in record.segments[:-1]:
        if isinstance(segment, Box):
            segments += _varied_box(segment, without_boxes, settings, chance)
        elif isinstance(segment, Image.Image) and (shows_objects or _see_through(segment)):
            segments.append(object_picture(segment, settings, chance))
        else:
            segments.append(segment)
    if without_boxes and any(isinstance(segment, Box) for segment in record.segments):
        segments = _joined(segments)
    segments.append(record.segments[-1])
    return replace(record, segments=tuple(segments), answer_from=len(segments) - 1)


def _varied_box(box: Box, without_boxes: bool, settings: GenerationConfig, chance: random.Random) -> Iterable[Any]:
    image = box.image
    # Without a phrase the picture alone says what stands there.
    told = box.phrase is not None
    if image is not None and told and chance.random() < settings.drop_entities:
        image = None
    if isinstance(image, Image.Image):
        image = object_picture(image, settings, chance)
    if without_boxes:
        return [part for part in (box.phrase, image) if part is not None]
    return [replace(box, image=image)]


def _joined(segments: list[Any]) -> list[Any]:
    """Segments whose boxes have become words: one text where several meet, without the mark of a prompt with boxes."""
    result: list[Any] = []
    for segment in segments:
        if isinstance(segment, str) and not result:
            segment = segment.lstrip().removeprefix(tokens.GROUNDING).lstrip()
            if not segment:
                continue
        if isinstance(segment, str) and result and isinstance(result[-1], str):
            gap = "" if result[-1].endswith(" ") or segment.startswith(_CLOSING) else " "
            result[-1] = f"{result[-1]}{gap}{segment}"
        else:
            result.append(segment)
    return result


def object_picture(picture: Image.Image, settings: GenerationConfig, chance: random.Random) -> Image.Image:
    """A picture of an object, cropped at random and, where it is see-through, on a background: RGB."""
    if _see_through(picture):
        cut_out = picture.convert("RGBA")
        behind = Image.new("RGB", cut_out.size, (255, 255, 255))
        if chance.random() < settings.background:
            behind = _background(cut_out.size, chance)
        picture = Image.alpha_composite(behind.convert("RGBA"), cut_out).convert("RGB")
    share = chance.uniform(*settings.crop_scale)
    width, height = (max(1, round(side * share)) for side in picture.size)
    left, top = chance.randint(0, picture.width - width), chance.randint(0, picture.height - height)
    if (width, height) == picture.size:
        return picture
    return picture.crop((left, top, left + width, top + height))


def _see_through(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info


def _background(size: tuple[int, int], chance: random.Random) -> Image.Image:
    """One colour, or one that passes into another. (The paper does not say where its backgrounds come from.)"""
    one, other = (Image.new("RGB", size, tuple(chance.randrange(256) for _ in range(3))) for _ in range(2))
    if chance.random() < 0.5:
        return one
    slope = Image.linear_gradient("L")
    if chance.random() < 0.5:
        slope = slope.transpose(Image.Transpose.ROTATE_90)
    return Image.composite(one, other, slope.resize(size))
