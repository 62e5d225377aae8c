"""Tiny data sets in the formats that readers read."""

import io
import json
import tarfile
from pathlib import Path

import av
import numpy as np
from PIL import Image

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
