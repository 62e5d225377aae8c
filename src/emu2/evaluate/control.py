"""Rows about drawing under control: given objects, boxes, pictures to change, and a style that is only shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from emu2.data.records import Record
from emu2.evaluate.drawings import drawn, mean_of_next, samples_of, target_scene
from emu2.evaluate.exam import Exam, Models
from emu2.evaluate.figures import iou, mean, psnr, share, similarities
from emu2.evaluate.in_context import shots_words
from emu2.evaluate.rows import Found, Group, Measured, Spec, UnableError
from emu2.evaluate.subject import Ask
from emu2.world.dice import Dice
from emu2.world.scene import Background, Scene, SceneObject

#: A box is followed when what stands there overlaps it this much.
_OVERLAP = 0.5
#: How far outside its box a thing is looked for, in half-widths of the box.
_AROUND = 2.0
#: Of the pixels of a thing, this share at each side is not counted: decoders leave specks.
_SPECKS = 0.01


# Subject-driven ------------------------------------------------------------------------------------------------------


def _subject_specs(exam: Exam) -> list[Spec]:
    claim = "objects given as pictures are drawn anew, in boxes if there are any (table 5)"
    specs = []
    for boxes in ("with boxes", "without boxes"):
        specs += [
            Spec(f"similarity, {boxes}", claim, unit="likeness", beside="empty background"),
            Spec(f"ahead of an empty background, {boxes}", claim, 0.0, "lead", "above", beside="empty background"),
            Spec(f"ahead of random objects, {boxes}", claim, 0.0, "lead", "above", beside="random objects"),
        ]
    return [*specs, Spec("box followed, IoU at least 0.5", claim, 0.7, beside="box of another picture")]


def _subjects(models: Models, exam: Exam) -> Found:
    boxes_told: Measured | str = "No drawing could be made."
    for name, told in (("with boxes", True), ("without boxes", False)):
        records = exam.records("composition", exam.config.drawings, split="held", keep=boxed if told else _unboxed)
        asks = [Ask(record.prompt, record.segments[-1]) for record in records]
        got = drawn(models, asks, exam)
        scenes = [target_scene(record) for record in records]
        pictures = {
            "got": got,
            "empty": [Scene((), scene.background).render(exam.image_size, exam.atlas) for scene in scenes],
            "random": [_recast(scene, record, exam) for scene, record in zip(scenes, records, strict=True)],
        }
        wanted = models.gen.features([ask.answer for ask in asks])
        alike = {one: similarities(models.gen.features(those), wanted) for one, those in pictures.items()}
        means = {one: sum(values) / len(values) for one, values in alike.items()}
        ahead = {
            other: [one - two for one, two in zip(alike["got"], alike[other], strict=True)]
            for other in ("empty", "random")
        }
        samples = samples_of(asks, got, exam, notes=[{"similarity": f"{value:.3f}"} for value in alike["got"]])
        yield f"similarity, {name}", Measured(mean(alike["got"]), means["empty"], samples)
        yield f"ahead of an empty background, {name}", Measured(mean(ahead["empty"]), means["empty"])
        yield f"ahead of random objects, {name}", Measured(mean(ahead["random"]), means["random"])
        if told:
            boxes_told = _boxes_followed(got, scenes, exam)
    yield "box followed, IoU at least 0.5", boxes_told


def boxed(record: Record) -> bool:
    """Whether a composition's prompt says in boxes where things shall stand."""
    return bool(record.truth["boxed"])


def _unboxed(record: Record) -> bool:
    """Whether it leaves places to words."""
    return not boxed(record)


def _recast(scene: Scene, record: Record, exam: Exam) -> Image.Image:
    """The scene with other things of the same split in the places of its own."""
    pool = exam.world("held", "composition").studio.pool
    shown = {exam.atlas[item.emoji].concept for item in scene.objects}
    others = [concept.index for concept in pool if concept.index not in shown]
    if len(others) < len(scene.objects):
        raise UnableError(f"There are too few held concepts to draw others instead: {len(pool)}.")
    cast = Dice("emu2 evaluate random objects", record.key).sample(others, len(scene.objects))
    objects = tuple(
        SceneObject(emoji, item.x, item.y, item.size, item.rotation)
        for emoji, item in zip(cast, scene.objects, strict=True)
    )
    return Scene(objects, scene.background).render(exam.image_size, exam.atlas)


def _boxes_followed(got: Sequence[Image.Image], scenes: Sequence[Scene], exam: Exam) -> Measured:
    overlaps = []
    for picture, scene in zip(got, scenes, strict=True):
        wanted = scene.boxes(exam.image_size, exam.atlas)
        found = boxes_of_things(exam.reader.foreground(picture), wanted)
        overlaps += [iou(one, other) for one, other in zip(found, wanted, strict=True)]
    firsts = [scene.boxes(exam.image_size, exam.atlas)[0] for scene in scenes]
    beside = mean_of_next(firsts, lambda one, other: iou(one, other) >= _OVERLAP)
    note = f"mean IoU {sum(overlaps) / len(overlaps):.2f}"
    return Measured(share([overlap >= _OVERLAP for overlap in overlaps]), beside, note=note)


def boxes_of_things(foreground: np.ndarray, wanted: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """For each wanted box that of what stands there, whatever it is; an empty one where nothing does.

    Args:
        foreground: bool[H, W]; each of its pixels belongs to the box that it is nearest to, for the box's size.
        wanted: boxes in pixels.
    """
    rows, columns = np.nonzero(foreground)
    distances = np.stack(
        [
            np.maximum(
                np.abs(columns + 0.5 - (left + right) / 2) / max(1, (right - left) / 2),
                np.abs(rows + 0.5 - (top + bottom) / 2) / max(1, (bottom - top) / 2),
            )
            for left, top, right, bottom in wanted
        ]
    )
    found: list[tuple[float, ...]] = []
    for number in range(len(wanted)):
        own = (distances.argmin(axis=0) == number) & (distances[number] <= _AROUND)
        if not own.any():
            found.append((0.0, 0.0, 0.0, 0.0))
            continue
        (left, right), (top, bottom) = (np.quantile(axis[own], (_SPECKS, 1 - _SPECKS)) for axis in (columns, rows))
        found.append((float(left), float(top), float(right) + 1, float(bottom) + 1))
    return found


# Edits ---------------------------------------------------------------------------------------------------------------


def _edit_specs(exam: Exam) -> list[Spec]:
    claim = "a picture is changed as told, and nothing else of it (qualitative figures)"
    return [
        Spec("asked change made", claim, 0.7, beside="picture as it was"),
        Spec("rest unchanged, masked PSNR", claim, 18.0, "dB", beside="another picture"),
    ]


def _edits(models: Models, exam: Exam) -> Found:
    records = exam.records("edit", exam.config.drawings)
    asks = [Ask(record.prompt, record.segments[-1]) for record in records]
    got = drawn(models, asks, exam)
    made = [edit_made(picture, record, exam) for picture, record in zip(got, records, strict=True)]
    kinds: dict[str, list[bool]] = {}
    for record, right in zip(records, made, strict=True):
        kinds.setdefault(record.truth["edit"]["kind"], []).append(right)
    note = ", ".join(f"{kind} {sum(rights)}/{len(rights)}" for kind, rights in sorted(kinds.items()))
    samples = samples_of(asks, got, exam, right=made)
    # The picture as it was shows no edit that is asked for: the world never asks for what is already there.
    yield "asked change made", Measured(share(made), 0.0, samples, note)
    rests, others = [], []
    targets = [ask.answer for ask in asks]
    for picture, target, other, ask in zip(got, targets, [*targets[1:], targets[0]], asks, strict=True):
        mask = _unchanged(ask.prompt[0], target)
        if mask.mean() > 0.01:
            rests.append(psnr(picture, target, mask))
            others.append(psnr(other, target, mask))
    if not rests:
        yield "rest unchanged, masked PSNR", "Every edit changes the whole picture."
        return
    yield "rest unchanged, masked PSNR", Measured(mean(rests), sum(others) / len(others))


def _unchanged(before: Image.Image, after: Image.Image) -> np.ndarray:
    """bool[H, W]: the pixels that the edit leaves as they are."""
    one, other = (np.asarray(picture.convert("RGB"), int) for picture in (before, after))
    return (np.abs(one - other).max(axis=2) == 0) if one.shape == other.shape else np.zeros(one.shape[:2], bool)


def edit_made(picture: Image.Image, record: Record, exam: Exam) -> bool:
    """Whether all that the edit changes is as it shall be: what is new is there, what is gone is not.

    Where something is to be removed and nothing else changes, something that stays must still be there: a picture wiped
    clean is no answer.
    """
    before, after = (Scene.from_dict(facts) for facts in record.truth["scenes"])
    sized = record.truth["edit"]["kind"] == "resize"
    reading = exam.reader.read(picture, [item.emoji for item in (*after.objects, *before.objects)])
    new = [item for item in after.objects if item not in before.objects]
    gone = [item for item in before.objects if item not in after.objects]
    stays = [item for item in after.objects if item in before.objects]
    return (
        all(reading.shows(item, sized=sized) for item in new)
        and not any(reading.shows(item, sized=sized) for item in gone)
        and (bool(new) or not gone or any(map(reading.shows, stays)))
        and (before.background == after.background or reading.background == after.background)
    )


# Drawing in context --------------------------------------------------------------------------------------------------


def _style_specs(exam: Exam) -> list[Spec]:
    claim = "what demonstrations have in common is carried over to the next drawing (qualitative figures)"
    specs = [Spec(f"style, {shots_words(shots)}", claim) for shots in exam.config.drawing_shots]
    return [*specs, Spec("style, gain of the demonstrations", claim, 0.0, "gain", "above", beside="first")]


def _styles(models: Models, exam: Exam) -> Found:
    """The generation model draws, as in the paper's figures of stylisation."""
    rights: dict[int, list[bool]] = {}
    for shots in exam.config.drawing_shots:
        records = exam.records("drawing", exam.config.drawings, shots=(shots,))
        asks = [Ask(record.prompt, record.segments[-1]) for record in records]
        got = [exam.fitting(picture) for picture in models.gen.draw(asks)]
        right = [style_kept(picture, record, exam) for picture, record in zip(got, records, strict=True)]
        rights[shots] = right
        chance = sum(record.truth["chance"] for record in records) / len(records)
        samples = samples_of(asks, got, exam, right=right)
        yield f"style, {shots_words(shots)}", Measured(share(right), chance, samples)
    first, last = exam.config.drawing_shots[0], exam.config.drawing_shots[-1]
    gains = [float(one) - float(other) for one, other in zip(rights[last], rights[first], strict=True)]
    note = f"{shots_words(last)} over {first}"
    yield "style, gain of the demonstrations", Measured(mean(gains), share(rights[first]).value, note=note)


def style_kept(picture: Image.Image, record: Record, exam: Exam) -> bool:
    """Whether background, border and size of the thing are those of the demonstrations."""
    style, scene = record.truth["style"], target_scene(record)
    reading = exam.reader.read(picture, [item.emoji for item in scene.objects], bordered=True)
    return (
        reading.background == Background("plain", (style["background"],))
        and reading.border == style["border"]
        and bool(reading.things)
        # the thing itself may be misdrawn: its size is read off whatever explains most of the picture
        and reading.things[0].item.size == scene.objects[0].size
    )


GROUPS = (
    Group(
        "Subject-driven",
        "Objects of held concepts are given as pictures, turned and on another background, with the boxes they shall "
        "stand in or with words for their places. Compared with the exact target picture.",
        _subject_specs,
        _subjects,
    ),
    Group(
        "Edit",
        "A picture and an instruction. The change is read back from the drawing; the rest is compared where the true "
        "edit changes no pixel.",
        _edit_specs,
        _edits,
    ),
    Group(
        "Drawing in context",
        "Demonstrations share a background, a size or a border that no word tells; the next drawing has to show it.",
        _style_specs,
        _styles,
    ),
)
