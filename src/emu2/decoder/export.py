"""Clips to files: mp4 (H.264, through PyAV) and gif (through Pillow)."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

#: Frames a second of the published demo clips.
PUBLISHED_FPS = 5

#: One clip: PIL images, or [F, H, W, 3] (numpy) or [F, 3, H, W] (torch) with values in [0, 1], or uint8.
Clip = Sequence[Image.Image] | np.ndarray | Tensor


def export_to_mp4(frames: Clip, path: str | Path, *, fps: float = PUBLISHED_FPS, quality: int = 18) -> Path:
    """Write one clip as H.264 in an mp4 container that browsers play.

    Args:
        frames: one clip (`pipeline(...).frames[0]`).
        path: of the file; its folder must exist.
        fps: frames a second.
        quality: H.264's constant rate factor, 0 (lossless) to 51; 18 looks like the original.

    Raises:
        ValueError: no frames, frames of different or odd sizes, or a rate that is not above 0.
    """
    import av

    pictures = _pictures(frames, fps)
    width, height = pictures[0].size
    if width % 2 or height % 2:
        raise ValueError(f"mp4 takes frames of even width and height; these are {width}x{height}.")
    path = Path(path)
    with av.open(str(path), mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(quality)}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path


def export_to_gif(frames: Clip, path: str | Path, *, fps: float = PUBLISHED_FPS) -> Path:
    """Write one clip as a gif that repeats forever. Arguments and errors as in `export_to_mp4`; any size will do."""
    pictures = _pictures(frames, fps)
    path = Path(path)
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
    return path


def _pictures(frames: Clip, fps: float) -> list[Image.Image]:
    if not fps > 0:
        raise ValueError(f"fps must be above 0; got {fps!r}.")
    if isinstance(frames, Tensor):
        frames = frames.detach().cpu().movedim(1, -1).numpy() if frames.ndim == 4 else frames.detach().cpu().numpy()
    if isinstance(frames, np.ndarray):
        if frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                f"One clip is [F, H, W, 3] (numpy) or [F, 3, H, W] (torch); got shape {list(frames.shape)}. "
                "Of a batch of clips, pass one."
            )
        levels = frames if frames.dtype == np.uint8 else (frames.clip(0, 1) * 255).round().astype(np.uint8)
        frames = [Image.fromarray(frame) for frame in levels]
    pictures = list(frames)
    odd = [type(picture).__name__ for picture in pictures if not isinstance(picture, Image.Image)]
    if not pictures or odd:
        raise ValueError(f"A clip is a list of PIL images; got {f'elements of type {odd[0]}' if odd else 'no frames'}.")
    sizes = {picture.size for picture in pictures}
    if len(sizes) != 1:
        raise ValueError(f"All frames of a clip have one size; got {sorted(sizes)}.")
    return [picture.convert("RGB") for picture in pictures]
