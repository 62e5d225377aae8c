"""What the demo shows: rows of input, output and truth on scenes that training never drew, and figures over more."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from emu2.data.records import Record
from emu2.data.sequences import first_image
from emu2.data.sources import Source
from emu2.evaluate.figures import psnr
from emu2.evaluate.readback import PictureReader
from emu2.evaluate.readings import agreement
from emu2.evaluate.said import background_said, counts_said
from emu2.recipes.start import world_sources
from emu2.world import Scene, World, WorldConfig, default_atlas

if TYPE_CHECKING:
    from emu2.recipes.demo import Plan
    from emu2.train.whole import Whole

#: Demonstrations before the query of the episodes shown.
SHOTS = 3
#: Guidance of the drawings: none. The published 3 is for a decoder at full size; here 1.5 and 2 draw worse.
GUIDANCE = 1.0
_BATCH = 32


@dataclass(frozen=True)
class Row:
    """One line of a section.

    given: what went in, in order. got: what came out. truth: what is right. notes: name -> value.
    """

    given: list[Any]
    got: Any
    truth: Any
    right: bool
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """rows: section -> its rows, the first records in order, none left out. scores: section -> figure -> value."""

    rows: dict[str, list[Row]]
    scores: dict[str, dict[str, float]]


def show(whole: Whole, plan: Plan, *, seed: int = 0) -> Results:
    """Everything on the page, measured now."""
    data = plan.stages["unified"].data
    unseen = replace(
        data,
        split="seen",
        pool=None,
        kinds={"pair": 1.0, "counting": 1.0},
        world={**data.world, "shots": [SHOTS], "seed": seed + 1},
    )
    sources = world_sources(unseen)
    reader = _reader(unseen)
    for module in whole.modules():
        module.eval()
    pairs = _first(sources["pair"], plan.scored)
    sections = {
        "captions": caption_rows(whole, pairs),
        "counting": episode_rows(whole, _first(sources["counting"], plan.scored)),
        "drawings": drawing_rows(whole, pairs, reader, plan.denoising, seed, from_text=True),
        "autoencoding": drawing_rows(whole, pairs, reader, plan.denoising, seed, from_text=False),
    }
    return Results(
        rows={name: rows[: plan.shown] for name, (rows, _) in sections.items()},
        scores={name: scores for name, (_, scores) in sections.items()},
    )


def _first(source: Source, number: int) -> list[Record]:
    """The first records there are. Of a few combinations of things the unseen split has no scene at all."""
    records: list[Record] = []
    index = 0
    while len(records) < number:
        with suppress(ValueError):
            records.append(source[index])
        index += 1
        if index > 10 * number:
            raise ValueError(f"Only {len(records)} of {number} unseen records could be made: allow more concepts.")
    return records


def _reader(data: Any) -> PictureReader:
    """Reads drawings; each has to be nearer to its own things than to all others that there are."""
    settings = dict(data.world)
    pool = World(WorldConfig(split=data.split, concepts=data.concepts, **settings)).studio.pool
    return PictureReader(settings["style"], [concept.index for concept in pool])


def complete(whole: Whole, prompts: list[list[Any]], max_new_tokens: int) -> list[str]:
    """What the model writes after each prompt, greedily."""
    processor, said = whole.processor, []
    for start in range(0, len(prompts), _BATCH):
        inputs = processor(prompts[start : start + _BATCH], padding=True, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        ids = whole.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        said += processor.batch_decode(ids[:, length:], skip_special_tokens=True)
    return [text.strip() for text in said]


def caption_rows(whole: Whole, records: list[Record]) -> tuple[list[Row], dict[str, float]]:
    """Captions of pictures."""
    pictures = [first_image(record) for record in records]
    said = complete(whole, [[picture] for picture in pictures], 64)
    rows, exact, things, colours = [], 0, 0, 0
    for record, picture, text in zip(records, pictures, said, strict=True):
        facts = record.truth["scene"]
        right_things = counts_said(text, default_atlas()) == facts["counts"]
        right_colour = background_said(text) == facts["background"]["colours"][0]
        exact += text == record.truth["answer"]
        things += right_things
        colours += right_colour
        rows.append(Row([picture], text, record.truth["answer"], text == record.truth["answer"]))
    n = len(records)
    return rows, {
        "things and their numbers right": things / n,
        "background right": colours / n,
        "whole caption word for word": exact / n,
        "pictures": n,
    }


def episode_rows(whole: Whole, records: list[Record]) -> tuple[list[Row], dict[str, float]]:
    """Answers to the last picture of few-shot episodes. The first answer's end ends it."""
    said = complete(whole, [list(record.prompt) for record in records], 24)
    rows, right, chance = [], 0, 0.0
    for record, text in zip(records, said, strict=True):
        answer = record.truth["answer"]
        text = text[: text.index(".") + 1] if "." in text else text
        right += text == answer
        chance += record.truth["chance"]
        rows.append(Row(list(record.prompt), text, answer, text == answer))
    n = len(records)
    return rows, {"answer right": right / n, "chance": chance / n, "demonstrations": SHOTS, "episodes": n}


@torch.no_grad()
def drawing_rows(
    whole: Whole, records: list[Record], reader: PictureReader, steps: int, seed: int, *, from_text: bool
) -> tuple[list[Row], dict[str, float]]:
    """Pictures drawn from captions, or from pictures (autoencoding), read back from their pixels."""
    pipe = whole.pipeline()
    pipe.set_progress_bar_config(disable=True)
    truths = [first_image(record) for record in records]
    given = [
        [record.truth["caption"]] if from_text else [picture] for record, picture in zip(records, truths, strict=True)
    ]
    drawn: list[Image.Image] = []
    for start in range(0, len(given), _BATCH):
        drawn += pipe(
            given[start : start + _BATCH],
            num_inference_steps=steps,
            guidance_scale=GUIDANCE if from_text else 1.0,
            generator=torch.Generator().manual_seed(seed),
        ).images
    rows, all_right, things, colours, ratios = [], 0, 0.0, 0, []
    for parts, picture, truth_picture, record in zip(given, drawn, truths, records, strict=True):
        scene = Scene.from_dict(record.truth["scene"])
        reading = reader.read(picture, [item.emoji for item in scene.objects])
        found = agreement(reading, scene.objects, scene.background)
        all_right += found.everything
        things += sum(map(reading.shows, scene.objects)) / len(scene.objects)
        colours += found.background
        ratios.append(psnr(picture, truth_picture))
        rows.append(Row(parts, picture, truth_picture, found.everything, {"PSNR": f"{ratios[-1]:.1f} dB"}))
    n = len(records)
    return rows, {
        "everything read back right": all_right / n,
        "things in their places": things / n,
        "background right": colours / n,
        "PSNR in dB": sum(ratios) / n,
        "pictures": n,
    }
