"""RefCOCO, RefCOCO+ and RefCOCOg, as their authors' `refer` repository publishes them."""

from __future__ import annotations

import io
import pickle
from typing import Any

from emu2 import tokens
from emu2.data.readers.annotations import Annotations
from emu2.data.readers.detect import wrong_format
from emu2.data.readers.files import find, read_bytes
from emu2.data.readers.rows import whole_json
from emu2.data.readers.samples import some_text
from emu2.data.readers.wording import box_turns
from emu2.data.records import Record
from emu2.data.sources import BadSampleError
from emu2.processing.grounding import Box

#: What a run learns from unless `split` says otherwise. Others are "val", "test", "testA" and "testB".
_TRAINING_SPLIT = "train"


class RefCoco(Annotations):
    """`refs(unc).p` (or the same list as JSON): `image_id`, `ann_id`, `split` and `sentences`; the boxes are in
    `config.annotations`, by default `instances.json` beside it. Every sentence is a record.

    Kinds: "chat" (a request for a box and the box) and "grounded_pair" (picture, phrase with its box).
    """

    suffixes = (".p", ".json")
    needs = "a list of references with ref_id, ann_id, split and sentences"

    def _value(self, path: str) -> Any:
        return _plain_pickle(path) if path.endswith((".p", ".pkl", ".pickle")) else whole_json(path)

    def _load(self, value: Any, path: str, name: str) -> list[tuple[Any, ...]]:
        references = [(ref["ann_id"], ref["split"], ref["ref_id"], ref["sentences"]) for ref in value]
        boxes = self._boxes(path)
        split = self.config.split or _TRAINING_SPLIT
        chosen = [reference for reference in references if reference[1] == split]
        if not chosen:
            there = ", ".join(sorted({str(reference[1]) for reference in references}))
            raise ValueError(f"No data found: {path} has no references of the split {split!r}; it has {there}.")
        return [
            (*boxes.get(ann_id, (None, None, None)), sentence["sent"], f"{name}/{ref_id}/{number}")
            for ann_id, _, ref_id, sentences in chosen
            for number, sentence in enumerate(sentences)
        ]

    def _boxes(self, path: str) -> dict[Any, tuple[str, tuple[float, ...], tuple[int, int]]]:
        """Annotation -> picture's name, box (left, top, width, height), the picture's size."""
        if not self._others:
            folder = path.rpartition("/")[0]
            try:
                self._others = find([f"{folder}/instances.json" if folder else "instances.json"], (".json",), "boxes")
            except ValueError as error:
                raise ValueError(f"{path} names objects whose boxes are in COCO's instances: {error}") from error
        instances = whole_json(self._others[0])
        try:
            images = {image["id"]: image for image in instances["images"]}
            return {
                note["id"]: (
                    images[note["image_id"]]["file_name"],
                    tuple(note["bbox"]),
                    (images[note["image_id"]]["width"], images[note["image_id"]]["height"]),
                )
                for note in instances["annotations"]
            }
        except (KeyError, TypeError, IndexError) as error:
            needs = "'images' with width and height and 'annotations' with bbox as annotations="
            raise wrong_format(self._others[0], self.config.format, needs, instances) from error

    def read(self, index: int) -> Record:
        name, sides, size, sentence, key = self._items[index]
        if name is None:
            raise BadSampleError("missing box", key)
        phrase = some_text(sentence, "phrase", key)
        left, top, width, height = sides
        corners = (left, top, left + width, top + height)
        # Outlines reach over the edge by a hair.
        inside = [min(max(value, 0), side) for value, side in zip(corners, size * 2, strict=True)]
        try:
            box = Box((inside[0], inside[1], inside[2], inside[3]), phrase, size)
        except ValueError as error:
            raise BadSampleError("malformed box", f"{key}: {error}") from error
        image = self._pictures.image([name], key)
        truth = {"box": list(box.xyxy), "size": list(size), "phrase": phrase}
        if self.kind == "grounded_pair":
            text = f"{tokens.GROUNDING}{box.to_tokens()}"
            return Record(self.kind, (image, text), key, 1, {**truth, "answer": text})
        return box_turns(self.kind, image, box, key, self.config, truth)


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, tables, texts and numbers; anything that would run code is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, and only plain values are read")


def _plain_pickle(path: str) -> Any:
    try:
        # Written by Python 2, whose texts are bytes here.
        return _PlainUnpickler(io.BytesIO(read_bytes(path)), encoding="utf-8").load()
    except (pickle.UnpicklingError, EOFError, UnicodeDecodeError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{path} is not a pickle of references: {error}.") from error
