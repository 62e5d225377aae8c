"""Videos from files and from frames."""

import struct
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from emu2 import Video
from emu2.processing.video import sample_midpoints


def write_video(path, levels, rate=10, size=32):
    """A grey video; frame i is as bright as levels[i]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for level in levels:
            picture = np.full((size, size, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """24 frames, frame i of brightness 10 * i."""
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", [10 * i for i in range(24)])


def brightness(frame):
    return float(np.asarray(frame).mean())


@pytest.mark.parametrize(
    ("total", "n", "expected"),
    [
        (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        (24, 8, [1, 4, 7, 10, 13, 16, 19, 22]),
        (15, 8, [0, 2, 4, 6, 8, 10, 12, 14]),
        (100, 1, [50]),
        (3, 8, [0, 0, 0, 1, 1, 2, 2, 2]),
        (1, 2, [0, 0]),
    ],
)
def test_midpoints(total, n, expected):
    assert sample_midpoints(total, n) == expected


@pytest.mark.parametrize("n", [8, 12, 16, 5])
def test_midpoints_equal_the_published_ones_where_n_divides(n):
    for segment in range(1, 9):
        assert sample_midpoints(n * segment, n) == list(range(segment // 2, n * segment, segment))


@pytest.mark.parametrize("num_frames", [1, 8, 12, 24])
def test_from_file(clip, num_frames):
    video = Video.from_file(clip, num_frames)
    assert len(video) == num_frames
    levels = [round(brightness(frame) / 10) for frame in video]
    assert levels == sample_midpoints(24, num_frames)
    assert video[0].size == (32, 32)
    assert video.fps == pytest.approx(10 * num_frames / 24)


def test_from_a_short_file(tmp_path):
    path = write_video(tmp_path / "short.mp4", [0, 100, 200])
    assert [round(brightness(frame), -2) for frame in Video.from_file(path, 6)] == [0, 0, 100, 100, 200, 200]


def test_a_video_that_lies_on_its_side_is_turned(tmp_path):
    """A phone held upright writes lying pictures and a matrix in the track header: a quarter turn clockwise."""
    path = tmp_path / "phone.mp4"
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :32] = 255  # bright on the left, so at the top once turned
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # ISO 14496-12: the matrix follows 40 bytes of other fields
    data[start : start + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frame = np.asarray(Video.from_file(path, 1)[0])
    assert frame.shape == (64, 32, 3)
    assert frame[:24].mean() > 240
    assert frame[40:].mean() < 15


def test_from_frames(tmp_path):
    Image.new("RGB", (4, 4), "white").save(tmp_path / "frame.png")
    video = Video([Image.new("L", (4, 4)), tmp_path / "frame.png", np.zeros((4, 4, 3), np.uint8)], fps=5)
    assert (len(video), video.fps) == (3, 5)
    assert {frame.mode for frame in video} == {"RGB"}
    assert len(Video(np.zeros((2, 4, 4, 3), np.uint8))) == 2
    assert "3 frames of 4x4, fps=5" in repr(video)
    half = video.sample(1)
    assert (len(half), half.fps) == (1, pytest.approx(5 / 3))
    assert half[0] == video[1]
    assert Video(list(video), fps=5) == video


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "A video needs at least one frame; got none"),
        ("clip.mp4", r"for a file use Video.from_file\(path, num_frames=8\)"),
        ([Image.new("RGB", (2, 2)), b"x"], r"frames\[1\]: The picture of 1 bytes is not a picture"),
    ],
)
def test_bad_frames(frames, message):
    with pytest.raises(ValueError, match=message):
        Video(frames)


def test_bad_numbers(clip):
    with pytest.raises(ValueError, match="fps is a positive number; got 0"):
        Video([Image.new("RGB", (2, 2))], fps=0)
    with pytest.raises(ValueError, match="number of frames to sample is at least 1; got 0"):
        Video.from_file(clip, 0)
    with pytest.raises(ValueError, match="at least one frame to sample from; got 0"):
        sample_midpoints(0, 8)


def test_bad_files(clip, tmp_path):
    with pytest.raises(ValueError, match="No video file"):
        Video.from_file(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("this is no video at all")
    with pytest.raises(ValueError, match=r"text.mp4 cannot be opened"):
        Video.from_file(tmp_path / "text.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty.mp4 cannot be opened"):
        Video.from_file(tmp_path / "empty.mp4")
    with wave.open(str(tmp_path / "sound.avi"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    with pytest.raises(ValueError, match=r"sound.avi has no video stream"):
        Video.from_file(tmp_path / "sound.avi")
    with pytest.raises(ValueError, match=r"too large: 32x32, limit 100 pixels"):
        Video.from_file(clip, max_pixels=100)


def test_file_without_frames(tmp_path):
    """A container that announces a video stream and holds no frame."""
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, 10)
        container.start_encoding()
    with pytest.raises(ValueError, match=r"none.mkv (holds no frames|has no video stream|cannot be opened)"):
        Video.from_file(path)


def test_truncated_file(clip, tmp_path):
    """Half a Matroska file still gives the frames it holds, spread over what is left."""
    whole = write_video(tmp_path / "whole.mkv", [10 * i for i in range(24)])
    (tmp_path / "half.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert len(Video.from_file(tmp_path / "half.mkv", 4)) == 4
    (tmp_path / "half.mp4").write_bytes(clip.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"half.mp4"):
        Video.from_file(tmp_path / "half.mp4", 4)
