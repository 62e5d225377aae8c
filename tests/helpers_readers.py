"""Tiny data sets in the formats that readers read."""

import io
import json
import tarfile
from pathlib import Path

import av
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from emu2.data.sources import BadSampleError

COLOURS = ("red", "green", "blue", "white")


def image(colour="red", size=(16, 12)) -> Image.Image:
    return Image.new("RGB", size, colour)


def encoded(colour="red", size=(16, 12), form="PNG") -> bytes:
    buffer = io.BytesIO()
    image(colour, size).save(buffer, form)
    return buffer.getvalue()


def video(frames=12, size=(32, 32)) -> bytes:
    """An mp4 that grows brighter."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            array = np.full((size[1], size[0], 3), number * 255 // max(frames - 1, 1), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def tar_bytes(members) -> bytes:
    """A tar of (name, bytes | text | JSON-able table) members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            data = content if isinstance(content, bytes) else as_text(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def as_text(content) -> str:
    return content if isinstance(content, str) else json.dumps(content)


def write(path: Path, content) -> Path:
    """A file of bytes, text, JSON, or (`.jsonl`) lines of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".jsonl":
        path.write_text("".join(as_text(row) + "\n" for row in content), encoding="utf-8")
    else:
        path.write_text(as_text(content), encoding="utf-8")
    return path


def pair_members(colours, start=0):
    """Samples as img2dataset writes them: picture, caption, metadata."""
    for number, colour in enumerate(colours, start):
        key = f"{number:09d}"
        url = f"https://example.org/{colour}.jpg"
        yield f"{key}.png", encoded(colour)
        yield f"{key}.txt", f"a {colour} picture"
        yield f"{key}.json", {"caption": f"a {colour} picture", "url": url, "key": key, "status": "success"}


def shapes(segments):
    """Texts as they are, pictures by the name of their colour, boxes and clips by their type."""
    names = {Image.new("RGB", (1, 1), name).getpixel((0, 0)): name for name in COLOURS}
    return [
        segment.getpixel((0, 0)) in names and f"<{names[segment.getpixel((0, 0))]}>"
        if isinstance(segment, Image.Image)
        else segment
        for segment in segments
    ]


def cause(source, index):
    with pytest.raises(BadSampleError) as caught:
        source[index]
    return caught.value.cause


def parquet(path, rows, group=2):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)
    return path


# Contents of annotation files

COCO = {
    "images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 16, "height": 12}],
    "annotations": [{"image_id": 9, "id": 1, "caption": "A red thing. "}, {"image_id": 9, "id": 2, "caption": ""}],
}
QUESTIONS = {
    "data_subtype": "train2014",
    "questions": [
        {"image_id": 9, "question": "What colour?", "question_id": 90},
        {"image_id": 9, "question": "Who?", "question_id": 91},
    ],
}
ANSWERS = {
    "annotations": [
        {
            "question_id": 90,
            "image_id": 9,
            "multiple_choice_answer": "red",
            "answers": [{"answer": "red", "answer_confidence": "yes", "answer_id": i} for i in range(10)],
        }
    ]
}
GQA = {"05": {"imageId": "12", "question": "Is it red?", "answer": "yes", "fullAnswer": "Yes, it is.", "types": {}}}
TEXTVQA = {
    "data": [{"image_id": "ab", "question": "What is written?", "question_id": 3, "answers": ["stop", "go", "go"]}]
}
OCR = {"data": [{"image_id": "ab", "ocr_tokens": ["GO", "5"], "ocr_info": []}]}
INSTANCES = {
    "images": COCO["images"],
    "annotations": [{"id": 7, "image_id": 9, "bbox": [4.0, 3.0, 8.0, 9.5], "category_id": 1}],
}
REFS = [
    {
        "ref_id": 5,
        "ann_id": 7,
        "image_id": 9,
        "split": split,
        "file_name": "COCO_train2014_000000000009_7.jpg",
        "sentences": [{"sent": "the red thing", "sent_id": 1}, {"sent": "thing", "sent_id": 2}],
    }
    for split in ("train", "testA")
]
GRIT = {
    "caption": "a dog in a field of flowers",
    "noun_chunks": [[0, 5, 0.25, 0.5, 0.75, 1.0, 0.9], [9, 16, 0, 0, 1, 1, 0.8], [20, 27, 0, 0.5, 1, 1, 0.7]],
    "ref_exps": [[0, 27, 0.25, 0.5, 0.75, 1.0, 0.9], [9, 27, 0.0, 0.0, 1.0, 1.01, 0.8]],
}
