"""Rows about drawing what is seen and what is told: autoencoding and text to image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from emu2.data.records import Record
from emu2.data.sequences import first_image
from emu2.evaluate.exam import Exam, Models
from emu2.evaluate.figures import mean, psnr, share, similarities, ssim
from emu2.evaluate.readings import Agreement, agreement
from emu2.evaluate.rows import Found, Group, Measured, Sample, Spec, UnableError, agreeing, next_ones
from emu2.evaluate.said import same
from emu2.evaluate.subject import Ask
from emu2.processing.prompts import SYSTEM_CONCISE
from emu2.world.captions import NUMBERS, at, be
from emu2.world.scene import Scene, SceneObject

_SPLITS = ("seen", "held")
#: Captions that a drawing is matched with, its own among them.
_CAPTIONS = 8
_ANOTHER, _MEAN_COLOUR = "another picture", "its mean colour"


def drawn(models: Models, asks: Sequence[Ask], exam: Exam) -> list[Image.Image]:
    """What the generation model draws, at the size of the world's pictures."""
    return [exam.fitting(picture) for picture in models.gen.draw(asks)]


def target_scene(record: Record) -> Scene:
    """The scene of a record's last picture."""
    scenes = record.truth.get("scenes")
    return Scene.from_dict(scenes[-1] if scenes else record.truth["scene"])


def samples_of(
    asks: Sequence[Ask],
    got: Sequence[Any],
    exam: Exam,
    *,
    right: Sequence[bool] | None = None,
    notes: Sequence[dict[str, str]] | None = None,
) -> tuple[Sample, ...]:
    """The first ones, none left out."""
    return tuple(
        Sample(
            ask.asked,
            got[number],
            ask.answer,
            None if right is None else right[number],
            {} if notes is None else notes[number],
        )
        for number, ask in enumerate(asks[: exam.config.shown])
    )


def likeness_to_next(models: Models, pictures: Sequence[Image.Image]) -> float:
    """How alike the model's own vision tower finds pictures of different records."""
    features = models.gen.features(pictures)
    return sum(similarities(features, features.roll(-1, dims=0))) / len(pictures)


# Autoencoding --------------------------------------------------------------------------------------------------------


def _autoencoding_specs(exam: Exam) -> list[Spec]:
    claim = "a picture survives encoder and decoder (section 3.3: CLIP-I 0.907 on COCO)"
    specs = []
    for split in _SPLITS:
        specs += [
            Spec(f"PSNR, {split} concepts", claim, 20.0 if split == "seen" else None, "dB", beside=_MEAN_COLOUR),
            Spec(f"SSIM, {split} concepts", claim, unit="likeness", beside=_MEAN_COLOUR),
            Spec(f"similarity, {split} concepts", claim, unit="likeness", beside=_ANOTHER),
        ]
    return specs


def _autoencoding(models: Models, exam: Exam) -> Found:
    for split in _SPLITS:
        try:
            records = exam.records("pair", exam.config.drawings, split=split, wording="full")
        except UnableError as error:
            yield from ((f"{name}, {split} concepts", str(error)) for name in ("PSNR", "SSIM", "similarity"))
            continue
        truths = [first_image(record) for record in records]
        asks = [Ask((picture,), picture) for picture in truths]
        got = drawn(models, asks, exam)
        flat = [_mean_colour(picture) for picture in truths]
        ratios = [psnr(one, other) for one, other in zip(got, truths, strict=True)]
        samples = samples_of(asks, got, exam, notes=[{"PSNR": f"{ratio:.1f} dB"} for ratio in ratios])
        beside = sum(psnr(one, other) for one, other in zip(flat, truths, strict=True)) / len(flat)
        yield f"PSNR, {split} concepts", Measured(mean(ratios), beside, samples)
        yield f"SSIM, {split} concepts", _structure(got, flat, truths)
        alike = similarities(models.gen.features(got), models.gen.features(truths))
        yield f"similarity, {split} concepts", Measured(mean(alike), likeness_to_next(models, truths))


def _structure(
    got: Sequence[Image.Image], flat: Sequence[Image.Image], truths: Sequence[Image.Image]
) -> Measured | str:
    try:
        found, beside = ([ssim(one, truth) for one, truth in zip(side, truths, strict=True)] for side in (got, flat))
    except ImportError as error:
        return str(error)
    return Measured(mean(found), sum(beside) / len(beside))


def _mean_colour(picture: Image.Image) -> Image.Image:
    return picture.resize((1, 1), Image.Resampling.BOX).resize(picture.size)


# Text to image -------------------------------------------------------------------------------------------------------

#: Row -> which agreement of reading and scene it is, and its target.
_READ = {"objects": 0.8, "count": 0.8, "places": None, "background": 0.95}


def _text_specs(exam: Exam) -> list[Spec]:
    claim = "Emu2-Gen draws what a text says (section 3.3, table 4)"
    return [
        *(Spec(f"{name}, by template", claim, target, beside="another scene") for name, target in _READ.items()),
        *(Spec(f"{name}, read by chat", claim, target, beside="another scene") for name, target in _READ.items()),
        Spec("similarity to the true picture (CLIP-I form)", claim, unit="likeness", beside=_ANOTHER),
        Spec(f"its own caption likeliest of {_CAPTIONS} (CLIP-T form)", claim),
    ]


def _text_to_image(models: Models, exam: Exam) -> Found:
    records = exam.records("text_to_image", exam.config.drawings, wording="full")
    scenes = [target_scene(record) for record in records]
    asks = [Ask((record.truth["caption"],), record.segments[-1]) for record in records]
    got = drawn(models, asks, exam)
    found = [read_back(picture, scene, exam) for picture, scene in zip(got, scenes, strict=True)]
    by_chance = _truths_of_another(scenes)
    samples = samples_of(asks, got, exam, right=[one.everything for one in found])
    for name in _READ:
        rights = [getattr(one, name) for one in found]
        yield f"{name}, by template", Measured(share(rights), by_chance[name], samples)
        samples = ()  # once is enough
    try:
        yield from _by_chat(models, got, scenes, exam)
    except UnableError as error:
        yield from ((f"{name}, read by chat", str(error)) for name in _READ)
    truths = [ask.answer for ask in asks]
    alike = similarities(models.gen.features(got), models.gen.features(truths))
    yield (
        "similarity to the true picture (CLIP-I form)",
        Measured(mean(alike), likeness_to_next(models, truths)),
    )
    yield f"its own caption likeliest of {_CAPTIONS} (CLIP-T form)", _matched(models, records, got)


def read_back(picture: Image.Image, scene: Scene, exam: Exam) -> Agreement:
    """What of a scene can be read from a drawing of it."""
    reading = exam.reader.read(picture, [item.emoji for item in scene.objects])
    return agreement(reading, scene.objects, scene.background)


def _truths_of_another(scenes: Sequence[Scene]) -> dict[str, float]:
    """How often what is true of one scene is true of the next."""
    return {
        "objects": agreeing([{item.emoji for item in scene.objects} for scene in scenes]),
        "count": agreeing([len(scene.objects) for scene in scenes]),
        "places": agreeing([sorted((item.emoji, item.place) for item in scene.objects) for scene in scenes]),
        "background": agreeing([scene.background for scene in scenes]),
    }


def _by_chat(models: Models, got: Sequence[Image.Image], scenes: Sequence[Scene], exam: Exam) -> Found:
    """The chat model is asked about the drawings; a question that a scene does not allow is not asked of it."""
    for name, question in (
        ("objects", _what),
        ("count", _how_many),
        ("places", _where),
        ("background", _which_colour),
    ):
        asked = [(picture, question(scene, exam)) for picture, scene in zip(got, scenes, strict=True)]
        put = [(picture, found) for picture, found in asked if found is not None]
        if not put:
            yield f"{name}, read by chat", "None of the scenes allows such a question."
            continue
        asks = [Ask(_conversation(picture, words), answers[0]) for picture, (words, answers) in put]
        said = models.chat.chat(asks)
        answers = [right for _, (_, right) in put]
        rights = [same(text, right) for text, right in zip(said, answers, strict=True)]
        yield (
            f"{name}, read by chat",
            Measured(share(rights), agreeing(answers), note=f"{len(put)} drawings asked about"),
        )


def _conversation(picture: Image.Image, words: str) -> tuple[dict[str, Any], ...]:
    return (
        {"role": "system", "content": [SYSTEM_CONCISE]},
        {"role": "user", "content": [picture, words]},
    )


#: A question in the world's words, and its right answers.
_Question = tuple[str, tuple[str, ...]]


def _what(scene: Scene, exam: Exam) -> _Question:
    item = scene.in_reading_order()[0]
    return f"What is {at(item.place)}?", (exam.atlas[item.emoji].noun,)


def _how_many(scene: Scene, exam: Exam) -> _Question:
    emoji, items = scene.groups()[0]
    return f"How many {exam.atlas[emoji].plural} are there?", (NUMBERS[len(items)],)


def _where(scene: Scene, exam: Exam) -> _Question | None:
    """Of a thing that is the only one of its kind; None where there is none."""
    alone: list[SceneObject] = [items[0] for _, items in scene.groups() if len(items) == 1]
    if not alone:
        return None
    noun = exam.atlas[alone[0].emoji].noun
    return f"Where {be(noun)} the {noun}?", (alone[0].place,)


def _which_colour(scene: Scene, exam: Exam) -> _Question:
    first, *rest = scene.background.colours
    if not rest:
        return "What color is the background?", (first,)
    return "Which two colors are in the background?", (f"{first} and {rest[0]}", f"{rest[0]} and {first}")


def _matched(models: Models, records: Sequence[Record], got: Sequence[Image.Image]) -> Measured | str:
    """CLIP-T compares a picture with its text by CLIP's two towers. Emu2 keeps no text tower, so the base model tells
    which of several captions it finds likeliest after the drawing."""
    captions = [record.truth["caption"] for record in records]
    number = min(_CAPTIONS, len(captions))
    choices = [
        list(dict.fromkeys(captions[(index + step) % len(captions)] for step in range(number)))
        for index in range(len(captions))
    ]
    asks = [Ask((picture,), caption) for picture, caption in zip(got, captions, strict=True)]
    try:
        chosen = models.base.choose(asks, choices)
    except UnableError as error:
        return str(error)
    chance = sum(1 / len(offered) for offered in choices) / len(choices)
    return Measured(share([number == 0 for number in chosen]), chance, note="by the base model's likelihood")


def mean_of_next(values: Sequence[Any], compare: Any) -> float:
    """The mean of a comparison of each value with the next record's."""
    return sum(compare(one, other) for one, other in next_ones(values)) / len(values)


GROUPS = (
    Group(
        "Autoencoding",
        "A picture alone is encoded and drawn again. Similarity is the cosine of what the model's own vision tower "
        "sees in both, as CLIP-I is of what CLIP's does.",
        _autoencoding_specs,
        _autoencoding,
    ),
    Group(
        "Text to image",
        "Drawings from full captions, read back in two ways: by comparison with renderings of the right things and of "
        "others, which no model has a part in, and by asking the chat model.",
        _text_specs,
        _text_to_image,
    ),
)
