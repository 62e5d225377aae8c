"""Video: a list of frames, or a file of which a few frames are taken."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from emu2.processing.image import MAX_PIXELS, ImageSource, load_image

#: File name endings that a path in a prompt is read as a video by.
VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".3gp", ".ts"))


class Video:
    """Frames of one video, in order.

    Args:
        frames: pictures in any form `load_image` takes; at least one.
        fps: frames per second at which *these* frames follow each other, where known. The model does not see it; it is
            kept for those who write frames to a file.

    Raises:
        ValueError: no frames, a frame that cannot be read (says which), or fps not positive.
    """

    def __init__(self, frames: Sequence[ImageSource], fps: float | None = None):
        if isinstance(frames, (str, bytes, Path, Image.Image)):
            raise ValueError("Video takes a list of frames; for a file use Video.from_file(path, num_frames=8).")
        if not len(frames):
            raise ValueError("A video needs at least one frame; got none.")
        if fps is not None and not fps > 0:
            raise ValueError(f"fps is a positive number; got {fps}.")
        self.frames: tuple[Image.Image, ...] = tuple(_frame(frame, i) for i, frame in enumerate(frames))
        self.fps = fps

    @classmethod
    def from_file(
        cls, path: str | Path | bytes, num_frames: int = 8, *, max_pixels: int = MAX_PIXELS, repeat: bool = True
    ) -> "Video":
        """`num_frames` frames of a video file, the midpoints of as many equal segments (8, 12 or 16 in the paper).

        Args:
            path: of the file, or its bytes.
            num_frames: how many frames to take.
            max_pixels: limit on the pixels of a frame.
            repeat: whether a shorter video shows frames repeatedly; otherwise it gives the frames it has.

        Raises:
            ValueError: file missing, not a video, without frames, or broken; the message names it.
        """
        path = path if isinstance(path, bytes) else Path(path)
        if isinstance(path, Path) and not path.is_file():
            raise ValueError(f"No video file {path}.")
        total = _count_frames(path)
        num_frames = num_frames if repeat else min(num_frames, total)
        frames, decoded = _read_frames(path, sample_midpoints(total, num_frames), max_pixels)
        if len(frames) < num_frames:  # fewer frames than packets: sample again from what can be decoded
            total = decoded
            num_frames = num_frames if repeat else min(num_frames, total)
            frames, _ = _read_frames(path, sample_midpoints(total, num_frames), max_pixels)
        rate = _frame_rate(path)
        return cls(frames, fps=None if rate is None else rate * num_frames / total)

    def sample(self, num_frames: int) -> "Video":
        """A video of `num_frames` of these frames, at segment midpoints."""
        return self.select(sample_midpoints(len(self.frames), num_frames))

    def select(self, indices: Sequence[int]) -> "Video":
        """A video of the frames of these indices, which are taken to lie evenly over this one."""
        fps = None if self.fps is None else self.fps * len(indices) / len(self.frames)
        return Video([self.frames[index] for index in indices], fps)

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Image.Image]:
        return iter(self.frames)

    def __getitem__(self, index: int) -> Image.Image:
        return self.frames[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Video) and self.frames == other.frames and self.fps == other.fps

    def __hash__(self) -> int:
        return hash((len(self.frames), self.frames[0].size, self.fps))

    def __repr__(self) -> str:
        width, height = self.frames[0].size
        return f"Video({len(self.frames)} frames of {width}x{height}, fps={self.fps})"


def sample_midpoints(total: int, n: int) -> list[int]:
    """Indices of the middle frames of `n` equal segments of `total` frames; frames repeat where `total` < `n`.

    Equal to the published demo wherever `n` divides `total`; elsewhere that one rounds the segment length down, which
    leaves out the end of the video or returns more than `n` frames.
    """
    if total < 1:
        raise ValueError(f"A video needs at least one frame to sample from; got {total}.")
    if n < 1:
        raise ValueError(f"The number of frames to sample is at least 1; got {n}.")
    return [(2 * i + 1) * total // (2 * n) for i in range(n)]


def _frame(frame: ImageSource, index: int) -> Image.Image:
    try:
        return load_image(frame)
    except ValueError as error:
        raise ValueError(f"frames[{index}]: {error}") from error


def _name(path: Path | bytes) -> str:
    return f"of {len(path)} bytes" if isinstance(path, bytes) else str(path)


def _open(path: Path | bytes) -> Any:
    """An opened PyAV container with a video stream."""
    import av  # a large library, and only for files

    try:
        container = av.open(io.BytesIO(path) if isinstance(path, bytes) else str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"Video {_name(path)} cannot be opened: {error}.") from error
    if not container.streams.video:
        container.close()
        raise ValueError(f"Video {_name(path)} has no video stream.")
    return container


def _count_frames(path: Path | bytes) -> int:
    """Packets of the first video stream: its frames, without decoding them (headers may lie about the number)."""
    import av

    with _open(path) as container:
        try:
            total = sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)
        except av.error.FFmpegError as error:
            raise ValueError(f"Video {_name(path)} is broken: {error}.") from error
    if total == 0:
        raise ValueError(f"Video {_name(path)} holds no frames.")
    return total


def _frame_rate(path: Path | bytes) -> float | None:
    with _open(path) as container:
        rate = container.streams.video[0].average_rate
    return float(rate) if rate else None


def _read_frames(path: Path | bytes, indices: list[int], max_pixels: int) -> tuple[list[Image.Image], int]:
    """The frames at `indices` (ascending, may repeat), upright, and how many frames were decoded: all of them where
    `indices` reach beyond the end."""
    import av

    frames: list[Image.Image] = []
    decoded = 0
    with _open(path) as container:
        stream = container.streams.video[0]
        if stream.width * stream.height > max_pixels:
            size = f"{stream.width}x{stream.height}"
            raise ValueError(f"Video {_name(path)} is too large: {size}, limit {max_pixels} pixels.")
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                repeats = indices.count(decoded)
                if repeats:
                    picture = frame.to_image()
                    # Phones write pictures lying on their side and the counter-clockwise turn that rights them.
                    turn = getattr(frame, "rotation", 0)
                    frames.extend([picture.rotate(turn, expand=True) if turn else picture] * repeats)
                decoded += 1
                if decoded > indices[-1]:
                    break
        except av.error.FFmpegError as error:
            if not decoded:
                raise ValueError(f"Video {_name(path)} cannot be decoded: {error}.") from error
    if not decoded:
        raise ValueError(f"Video {_name(path)} holds no frames that can be decoded.")
    return frames, decoded
