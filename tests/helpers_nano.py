"""What the shipped model gets right of a fixed slice of a hundred records that its training never showed.

python tests/helpers_nano.py          # prints the figures, to set the bounds in tests/e2e/test_nano.py by
"""

from emu2.data.sequences import first_image
from emu2.demo.sections import KNOWN
from emu2.evaluate.drawings import read_back, target_scene
from emu2.evaluate.exam import Exam, MiniatureConfig
from emu2.evaluate.figures import psnr
from emu2.evaluate.films import identity_kept, one_way, way_seen
from emu2.evaluate.said import counts_said, tells_all
from emu2.evaluate.subject import Ask, LoadedSubject
from emu2.evaluate.understanding import answers_right, conversation, questions_of
from emu2.world.clips import Clip

CONFIG = MiniatureConfig(**KNOWN, seed=11)
KINDS = ("what", "count", "where", "colour", "yes_no", "group", "clock", "letters")


def subject(name: str) -> LoadedSubject:
    import emu2

    return LoadedSubject(emu2.load(name, device="cpu"), batch_size=15, steps=10)


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def captions(exam: Exam, base: LoadedSubject) -> dict[str, float]:
    """23 captions."""
    records = exam.records("pair", 23, wording="full")
    said = base.complete([Ask((first_image(record),), record.truth["caption"]) for record in records])
    scenes = [target_scene(record) for record in records]
    pairs = list(zip(said, scenes, strict=True))
    return {
        "names in captions": mean(set(counts_said(s, exam.atlas)) == set(x.counts(exam.atlas)) for s, x in pairs),
        "whole captions": mean(tells_all(s, x, exam.atlas) for s, x in pairs),
    }


def answers(exam: Exam, chat: LoadedSubject) -> dict[str, float]:
    """32 answers."""
    records = [record for kind in KINDS for record in questions_of(exam, kind, 4)]
    said = chat.chat([conversation(record) for record in records])
    return {"answers": mean(answers_right(records, said, exam))}


def episodes(exam: Exam, base: LoadedSubject) -> dict[str, float]:
    """8 counting episodes of four demonstrations, and 12 of eight that name things no training showed."""
    named = {"split": "held", "concepts": None, "ways": (2,), "shots": (8,)}
    asked = {"counting": exam.records("counting", 8, shots=(4,)), "naming": exam.records("naming", 12, **named)}
    found = {}
    for name, records in asked.items():
        said = base.complete([Ask(record.prompt, record.truth["answer"]) for record in records], 24)
        found[name] = mean(s.startswith(r.truth["answer"]) for s, r in zip(said, records, strict=True))
    return found


def drawings(exam: Exam, gen: LoadedSubject) -> dict[str, float]:
    """10 drawings."""
    records = exam.records("text_to_image", 10, wording="full")
    got = gen.draw([Ask(record.prompt, record.segments[-1]) for record in records])
    found = [read_back(picture, target_scene(record), exam) for picture, record in zip(got, records, strict=True)]
    return {
        "things drawn": mean(one.objects for one in found),
        "backgrounds drawn": mean(one.background for one in found),
    }


def filmed(exam: Exam, gen: LoadedSubject) -> dict[str, float]:
    """5 films."""
    records = exam.records("video_pair", 5, wording="full", keep=one_way)
    films = gen.film([Ask((record.truth["caption"],), record.segments[0]) for record in records], exam.config.frames)
    pairs = [(frames, Clip.from_dict(record.truth["clip"])) for frames, record in zip(films, records, strict=True)]
    return {
        "ways in films": mean(way_seen(frames, exam) == clip.motions[0].way for frames, clip in pairs),
        "things in films": mean(identity_kept(frames, clip.objects[0].emoji, exam) for frames, clip in pairs),
    }


def again(exam: Exam, base: LoadedSubject) -> dict[str, float]:
    """10 pictures through the embeddings and back."""
    pictures = [first_image(record) for record in exam.records("pair", 10, wording="full")]
    got = base.draw([Ask((picture,), picture) for picture in pictures])
    return {"autoencoding in dB": mean(psnr(one, other) for one, other in zip(got, pictures, strict=True))}


def figures() -> dict[str, float]:
    """Name -> share of right ones, or dB."""
    base, chat, gen = subject("nano"), subject("nano-chat"), subject("nano-gen")
    exam = Exam(CONFIG, base.image_size)
    return {
        **captions(exam, base),
        **answers(exam, chat),
        **episodes(exam, base),
        **drawings(exam, gen),
        **filmed(exam, gen),
        **again(exam, base),
    }


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    for name, value in figures().items():
        print(f"{name:24} {value:.3f}")
