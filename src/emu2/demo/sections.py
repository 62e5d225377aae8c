"""What the demo shows: one section for each thing the model can do, on the first records there are, none left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageDraw

from emu2.data.records import Record
from emu2.data.sequences import first_image
from emu2.evaluate.control import boxed, edit_made
from emu2.evaluate.drawings import drawn, read_back, samples_of, target_scene
from emu2.evaluate.exam import Exam, MiniatureConfig, Models
from emu2.evaluate.figures import iou, psnr
from emu2.evaluate.films import one_way, way_seen
from emu2.evaluate.in_context import answered
from emu2.evaluate.rows import Sample
from emu2.evaluate.said import tells_all
from emu2.evaluate.subject import Ask
from emu2.evaluate.understanding import answers_right, conversation, questions_of
from emu2.inference.face import Emu2
from emu2.processing.grounding import parse_grounding
from emu2.processing.video import Video
from emu2.world.clips import Clip

#: What training in the budget for CPUs showed, and what is shown here: settings of the world.
KNOWN: dict[str, Any] = {"style": "corners", "concepts": 20}
#: Numbers of demonstrations that the few-shot section goes through.
SHOTS = (0, 1, 2, 4, 8)
#: Its curves: family of episodes, split of the things in them, what is asked for. No stage of training showed those of
#: the split "held".
_FAMILIES = (
    ("counting", "seen", "counting things it knows: [cat: 2, dog: 1]."),
    ("counting", "held", "counting things it never saw"),
    ("naming", "held", "naming things it never saw: which of two made-up words"),
)
#: Kinds of questions that are asked, one of each.
_QUESTIONS = ("what", "count", "where", "colour", "yes_no", "group", "clock", "letters", "referring", "video")
#: Demonstrations of the prompts that are shown, and prompts of each family.
_SHOWN_SHOTS, _SHOWN_PROMPTS = 2, 2
#: Of the demo's records; 0 is training's, 1 the evaluation's.
_SEED = 2
#: What the model's box and the true one are drawn in.
_SAID, _TRUE = "#e07b2e", "#2f9e6b"


@dataclass(frozen=True)
class Size:
    """How much is shown.

    rows: lines of a section. episodes: few-shot episodes of each family and number of demonstrations. films: clips.
    steps: of a drawing or a film.
    """

    rows: int = 5
    episodes: int = 24
    films: int = 2
    steps: int = 20

    @classmethod
    def quick(cls) -> Size:
        """A row or two of everything."""
        return cls(rows=3, episodes=4, films=1, steps=4)


@dataclass(frozen=True)
class Curve:
    """Share of right answers by number of demonstrations, and what guessing reaches."""

    name: str
    shares: dict[int, float]
    chance: float


@dataclass(frozen=True)
class Section:
    """One thing the model does.

    code: how to do it oneself. samples: what went in, what came out, what is true. curves: of right answers by number
    of demonstrations. seconds: it took.
    """

    name: str
    title: str
    about: str
    code: str
    samples: tuple[Sample, ...]
    curves: tuple[Curve, ...] = ()
    seconds: float = 0.0

    @property
    def right(self) -> tuple[int, int] | None:
        """How many samples are right, of how many that can be told so."""
        told = [sample.right for sample in self.samples if sample.right is not None]
        return (sum(told), len(told)) if told else None


@dataclass(frozen=True)
class Stage:
    """The model's variants and the records they are shown."""

    base: Emu2
    models: Models
    exam: Exam
    size: Size


def stage(models: Models, base: Emu2, size: Size, *, seed: int = 0) -> Stage:
    """The variants before the records of `seed`, which are no training's; `base` is the base variant itself."""
    # The made-up words of episodes are of any held thing, whatever the model can name.
    config = MiniatureConfig(**KNOWN, shown=size.rows, seed=_SEED + seed)
    return Stage(base, models, Exam(config, models.base.image_size), size)


def sections(on: Stage) -> list[Callable[[], Section]]:
    """The sections in order, each made when it is called."""

    def timed(make: Callable[[Stage], Section]) -> Callable[[], Section]:
        def run() -> Section:
            began = time.perf_counter()
            made = make(on)
            return replace(made, seconds=time.perf_counter() - began)

        return run

    return [timed(make) for make in (captions, chat, few_shot, draw, compose, edit, again, story, film)]


def _asks(records: Sequence[Record]) -> list[Ask]:
    return [Ask(record.prompt, record.segments[-1]) for record in records]


def captions(on: Stage) -> Section:
    """Pictures in words."""
    records = on.exam.records("pair", on.size.rows, wording="full")
    asks = [Ask((first_image(record),), record.truth["caption"]) for record in records]
    said = on.models.base.complete(asks)
    right = [tells_all(text, target_scene(record), on.exam.atlas) for text, record in zip(said, records, strict=True)]
    return Section(
        "captions",
        "It says what it sees",
        "A picture goes in, the base model goes on in words. Right only if the whole scene is.",
        "m.complete([picture])",
        samples_of(asks, said, on.exam, right=right),
    )


def chat(on: Stage) -> Section:
    """Questions about pictures and a clip."""
    samples = []
    for kind in _QUESTIONS:
        record = questions_of(on.exam, kind, 1)[0]
        ask = conversation(record)
        said = on.models.chat.chat([ask], grounding=kind == "referring")[0]
        (right,) = answers_right([record], [said], on.exam)
        got: Any = said
        answer: Any = ask.answer
        notes = {}
        if kind == "referring":
            picture = first_image(record)
            boxes = [box.xyxy for phrase in parse_grounding(said, picture.size) for box in phrase.boxes]
            notes["IoU"] = f"{iou(boxes[0], record.truth['box']) if boxes else 0:.2f}"
            got, answer = _boxed(picture, boxes[:1], _SAID), _boxed(picture, [record.truth["box"]], _TRUE)
        samples.append(Sample(ask.asked, got, answer, right, notes))
    return Section(
        "chat",
        "It answers questions",
        "One question of each kind to the chat model: things, numbers, places, colours, a clock face, a sign, a box "
        "around what is meant, a clip.",
        'chat.chat([picture, "What is on the left?"])',
        tuple(samples),
    )


def _boxed(picture: Image.Image, boxes: Sequence[Sequence[float]], colour: str) -> Image.Image:
    """The picture with outlines of boxes in it."""
    shown = picture.copy()
    for left, top, right, bottom in boxes:
        ImageDraw.Draw(shown).rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=2
        )
    return shown


def few_shot(on: Stage) -> Section:
    """What is asked for is told by demonstrations alone, about things that it knows and that no stage showed it."""
    curves, samples = [], []
    for family, split, asked in _FAMILIES:
        concepts = KNOWN["concepts"] if split == "seen" else None
        shares: dict[int, float] = {}
        chance = 0.0
        for shots in SHOTS:
            records = on.exam.records(
                family, on.size.episodes, split=split, shots=(shots,), ways=(2,), concepts=concepts
            )
            _, measured = answered(on.models, records, on.exam)
            shares[shots] = measured.figure.value
            chance = measured.beside or 0.0
            if shots == _SHOWN_SHOTS:
                shown = measured.samples[:_SHOWN_PROMPTS]
                samples += [replace(sample, got=first_sentence(sample.got)) for sample in shown]
        curves.append(Curve(asked, shares, chance))
    return Section(
        "few_shot",
        "It learns from the prompt",
        "Demonstrations alone say what is asked for and in what form, about things that it knows and about things that "
        f"no stage of training ever showed. Share of right answers to the same {on.size.episodes} queries after 0 to "
        f"{SHOTS[-1]} demonstrations:",
        'm.complete([one, "[cat: 2].", other, "[cat: 1].", query])',
        tuple(samples),
        tuple(curves),
    )


def first_sentence(text: str) -> str:
    """An answer ends with its full stop; what comes after is the model going on."""
    return text.split(".")[0] + "."


def draw(on: Stage) -> Section:
    """Pictures from words."""
    records = on.exam.records("text_to_image", on.size.rows, wording="full")
    asks = _asks(records)
    got = drawn(on.models, asks, on.exam)
    right = [
        read_back(picture, target_scene(record), on.exam).everything
        for picture, record in zip(got, records, strict=True)
    ]
    return Section(
        "draw",
        "It draws from words",
        "The generation model writes sixteen visual embeddings after the words, and the diffusion decoder makes a "
        "picture of them. Right if things, numbers, places and background can be read back from the pixels.",
        'gen.draw("two dogs on a red background; the dogs are at the top and at the bottom left")',
        samples_of(asks, got, on.exam, right=right),
    )


def compose(on: Stage) -> Section:
    """Things given as pictures, and where each shall stand."""
    records = on.exam.records("composition", on.size.rows, keep=boxed)
    asks = _asks(records)
    got = drawn(on.models, asks, on.exam)
    right = [
        read_back(picture, target_scene(record), on.exam).places for picture, record in zip(got, records, strict=True)
    ]
    return Section(
        "compose",
        "It composes",
        "Things are given as pictures, turned and on other backgrounds, with the boxes they shall stand in. Right if "
        "every thing, and no other, is read back in its place.",
        'gen.draw([emu2.Box((1, 1, 40, 40), phrase="a dog", image=dog, size=(96, 96)), " on a blue background"])',
        samples_of(asks, got, on.exam, right=right),
    )


def edit(on: Stage) -> Section:
    """Pictures changed as told."""
    records = on.exam.records("edit", on.size.rows)
    asks = _asks(records)
    got = drawn(on.models, asks, on.exam)
    right = [edit_made(picture, record, on.exam) for picture, record in zip(got, records, strict=True)]
    return Section(
        "edit",
        "It edits",
        "A picture and an instruction. Right if the asked change can be read from the pixels.",
        'gen.edit(picture, "replace the dog with a cat")',
        samples_of(asks, got, on.exam, right=right),
    )


def again(on: Stage) -> Section:
    """Pictures through the embeddings and back, known things and new ones."""
    seen = on.exam.records("pair", on.size.rows - 2, wording="full")
    held = on.exam.records("pair", 2, split="held", wording="full", concepts=None)
    asks = [Ask((first_image(record),), first_image(record)) for record in (*seen, *held)]
    got = on.models.base.draw(asks)
    notes = [{"PSNR": f"{psnr(picture, ask.answer):.1f} dB"} for picture, ask in zip(got, asks, strict=True)]
    for note in notes[len(seen) :]:
        note["things"] = "never seen in training"
    return Section(
        "again",
        "It draws what it sees",
        "A picture becomes sixteen embeddings and a picture again, with no language model in between.",
        "m.draw(picture)",
        samples_of(asks, got, on.exam, notes=notes),
    )


def story(on: Stage) -> Section:
    """Text and pictures in turn; the model itself chooses when to draw."""
    records = on.exam.records("document", 2, max_pages=3)
    samples = []
    for record in records:
        opening = record.segments[0]
        told = on.base.interleave(
            [opening], draw_first=True, max_images=3, max_new_tokens=64, steps=on.size.steps, guidance=1.0, seed=0
        )
        samples.append(Sample((opening,), told, list(record.segments[1:])))
    return Section(
        "story",
        "It tells a story",
        "Given the first sentence, the base model goes on in pictures and sentences, and chooses itself which comes "
        "next. Beside it one way the story could have gone on.",
        'm.interleave(["Here is a dog at the top left on a red background."], draw_first=True)',
        tuple(samples),
    )


def film(on: Stage) -> Section:
    """Clips from words."""
    records = on.exam.records("video_pair", on.size.films, wording="full", keep=one_way)
    asks = [Ask((record.truth["caption"],), record.segments[0]) for record in records]
    got = on.models.gen.film(asks, on.exam.config.frames)
    told = [Clip.from_dict(record.truth["clip"]).motions[0].way for record in records]
    seen = [way_seen(frames, on.exam) for frames in got]
    return Section(
        "film",
        "It films",
        "Words become five pictures' embeddings, one after the other, and the video decoder makes eight frames of "
        "them. Right if the thing goes the way the words say.",
        'gen.film("a dog goes from the top left to the top right on a blue background")',
        samples_of(
            asks,
            [Video(frames) for frames in got],
            on.exam,
            right=[one == other for one, other in zip(seen, told, strict=True)],
            notes=[{"seen to go": way or "nowhere"} for way in seen],
        ),
    )
