"""Published annotation files of academic tasks: COCO's captions, VQAv2, GQA, TextVQA."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any

from emu2.data.readers.base import Reader
from emu2.data.readers.config import SourceConfig
from emu2.data.readers.detect import first_of, wrong_format
from emu2.data.readers.files import find, fingerprint, short_names
from emu2.data.readers.pairs import captioned
from emu2.data.readers.pictures import Pictures
from emu2.data.readers.rows import whole_json
from emu2.data.readers.samples import some_text
from emu2.data.readers.wording import question_turns
from emu2.data.records import Record
from emu2.data.sources import BadSampleError


class Annotations(Reader):
    """Records of whole annotation files, which stay in memory; pictures are found by name in `config.images`."""

    needs = ""
    suffixes: tuple[str, ...] = (".json",)

    def __init__(self, config: SourceConfig, kind: str):
        super().__init__(config, kind)
        self._paths = find(config.path, self.suffixes, "annotation files")
        self._others = [] if config.annotations is None else find([config.annotations], (".json",), "annotation file")
        self._items: list[Any] = []
        for path, name in zip(self._paths, short_names(self._paths), strict=True):
            value = self._value(path)
            try:
                self._items += self._load(value, path, name)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise wrong_format(path, config.format, self.needs, value) from error
        if not self._items:
            raise ValueError(f"No data found: {', '.join(config.path)} holds no records.")
        self._pictures = Pictures(config, self._paths[0].rpartition("/")[0])
        self._set_size(len(self._items))

    def listing(self) -> str:
        files = fingerprint(f"{self.config.format} {self.kind}", [*self._paths, *self._others])
        return f"{files} {self._pictures.listing()}".strip()

    def _value(self, path: str) -> Any:
        return whole_json(path)

    @abstractmethod
    def _load(self, value: Any, path: str, name: str) -> list[Any]:
        """The records of one file, whose keys begin with `name`. A KeyError, TypeError or the like means that
        the file is of another format."""


class CocoCaptions(Annotations):
    """`captions_train2014.json`: `images` (`id`, `file_name`) and `annotations` (`image_id`, `caption`); or TextCaps'
    `TextCaps_0.1_train.json`: `data` (`image_id`, `caption_str`)."""

    needs = "'images' with a file_name and 'annotations' with a caption"

    def _load(self, value: Any, path: str, name: str) -> list[tuple[str, str, str]]:
        if "data" in value:
            return [
                (f"{note['image_id']}.jpg", note["caption_str"], f"{name}/{number}")
                for number, note in enumerate(value["data"])
            ]
        names = {image["id"]: image["file_name"] for image in value["images"]}
        return [
            (names.get(note["image_id"], ""), note["caption"], f"{name}/{note['id']}") for note in value["annotations"]
        ]

    def read(self, index: int) -> Record:
        name, caption, key = self._items[index]
        words = some_text(caption, "caption", key)
        image = self._pictures.image([some_text(name, "picture", key)], key)
        return captioned(self.kind, image, words, key, self.config, {})


class Vqav2(Annotations):
    """`v2_OpenEnded_mscoco_train2014_questions.json`, and its answers in `config.annotations`: by default the file
    `v2_mscoco_train2014_annotations.json` beside it. OK-VQA's files have the same form.

    The answer is `multiple_choice_answer`, the one most people gave.
    """

    needs = "'questions' with question_id, image_id and question"

    def _load(self, value: Any, path: str, name: str) -> list[tuple[Any, ...]]:
        given = self.config.annotations
        answers_path = given or path.replace("OpenEnded_", "").replace("questions", "annotations")
        questions = value["questions"]
        if not {"question_id", "image_id", "question"} <= set(questions[0]):
            raise KeyError("question")
        if answers_path == path:
            raise ValueError(f"Give the answers to the questions in {path} as annotations=.")
        notes = whole_json(answers_path)
        if not isinstance(notes, Mapping) or "question_id" not in first_of(notes.get("annotations")):
            raise wrong_format(answers_path, "vqav2", "'annotations' with answers", notes)
        if given is None:
            self._others.append(answers_path)
        answers = {note["question_id"]: note for note in notes["annotations"]}
        subset = value.get("data_subtype") or notes.get("data_subtype") or ""
        return [
            (
                _coco_names(question["image_id"], subset),
                question["question"],
                *_vqa_answers(answers.get(question["question_id"])),
                f"{name}/{question['question_id']}",
            )
            for question in questions
        ]

    def read(self, index: int) -> Record:
        names, question, answer, answers, key = self._items[index]
        answer = some_text(answer, "answer", key)
        image = self._pictures.image(names, key)
        return question_turns(self.kind, image, question, answer, key, self.config, {"answers": list(answers)})


def _vqa_answers(note: Mapping[str, Any] | None) -> tuple[str | None, tuple[str, ...]]:
    if note is None:
        return None, ()
    answers = tuple(str(answer["answer"]) for answer in note.get("answers", ()))
    return note.get("multiple_choice_answer") or _most_common(answers), answers


def _most_common(answers: tuple[str, ...]) -> str | None:
    """The answer most people gave, the first of them where several are as common."""
    return Counter(answers).most_common(1)[0][0] if answers else None


def _coco_names(image_id: Any, subset: str) -> list[str]:
    if not isinstance(image_id, int):
        return [f"{image_id}.jpg", str(image_id)]
    named = [f"COCO_{subset}_{image_id:012d}.jpg"] if subset else []
    return [*named, f"{image_id:012d}.jpg", f"{image_id}.jpg"]


class Gqa(Annotations):
    """`train_balanced_questions.json`: question id -> `imageId`, `question`, `answer`."""

    needs = "a table of questions by id, each with imageId, question and answer"

    def _load(self, value: Any, path: str, name: str) -> list[tuple[Any, ...]]:
        return [
            (item["imageId"], item["question"], item.get("answer"), item.get("fullAnswer"), f"{name}/{key}")
            for key, item in value.items()
        ]

    def read(self, index: int) -> Record:
        image_id, question, answer, full, key = self._items[index]
        answer = some_text(answer, "answer", key)
        image = self._pictures.image([f"{image_id}.jpg", str(image_id)], key)
        truth = {"full_answer": full} if full else {}
        return question_turns(self.kind, image, question, answer, key, self.config, truth)


class TextVqa(Annotations):
    """`TextVQA_0.5.1_train.json`: `data` of `image_id`, `question` and ten `answers`; the commonest is learned.

    `config.annotations` may be `TextVQA_Rosetta_OCR_v0.2_train.json`: its `ocr_tokens` then stand in the question as
    LLaVA-1.5 writes them.
    """

    needs = "'data' with image_id, question and answers"

    def _load(self, value: Any, path: str, name: str) -> list[tuple[Any, ...]]:
        read = {}
        if self.config.annotations is not None:
            notes = whole_json(self.config.annotations)
            data = notes.get("data") if isinstance(notes, Mapping) else None
            if not isinstance(data, list) or not data or "ocr_tokens" not in data[0]:
                raise wrong_format(self.config.annotations, "textvqa", "'data' with ocr_tokens as annotations=", notes)
            read = {note["image_id"]: tuple(note["ocr_tokens"]) for note in data}
        return [
            (
                item["image_id"],
                item["question"],
                tuple(item.get("answers", ())),
                read.get(item["image_id"], ()),
                f"{name}/{item['question_id']}",
            )
            for item in value["data"]
        ]

    def read(self, index: int) -> Record:
        image_id, question, answers, ocr, key = self._items[index]
        answer = some_text(_most_common(answers), "answer", key)
        if not isinstance(image_id, str):
            raise BadSampleError("missing picture", f"{key}: image_id is {image_id!r}")
        image = self._pictures.image([f"{image_id}.jpg", f"{image_id}.png", image_id], key)
        asked = f"{question}\nReference OCR token: {', '.join(ocr)}" if ocr else question
        return question_turns(self.kind, image, asked, answer, key, self.config, {"answers": list(answers)})
