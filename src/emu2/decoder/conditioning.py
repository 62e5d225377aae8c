"""What the image decoder's U-Net reads beside the visual embeddings: their mean, and the picture's sizes.

    B  rows        N  embeddings per picture        D  their width        F  frames        K  keyframes

Used alike by the pipeline and by training. Source: published file Emu2/emu/diffusion.py; the size conditions are
those of SDXL (section 2.2 of its paper).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from emu2.processing.video import sample_midpoints

#: (height, width), (top, left), or one such pair per row.
Pairs = Sequence[int] | Sequence[Sequence[int]] | Tensor


def pair_rows(pairs: Pairs, rows: int, *, name: str) -> Tensor:
    """One pair per row: int64[rows, 2] from a single pair or from `rows` of them.

    Raises:
        ValueError: neither a pair nor `rows` pairs, or a number below zero.
    """
    values = torch.as_tensor(pairs)
    if values.ndim == 1 and values.shape[0] == 2:
        values = values.unsqueeze(0).expand(rows, 2)
    if values.shape != (rows, 2) or values.is_floating_point():
        raise ValueError(
            f"{name} is a pair of whole numbers, or {rows} of them (one per row); got {_shown(pairs)} of shape "
            f"{list(values.shape)}."
        )
    # What is a plain number is looked at as one: a planned model's tensors hold none.
    if (values < 0).any() if isinstance(pairs, Tensor) else np.min(pairs) < 0:
        raise ValueError(f"{name} must not be negative; got {_shown(pairs)}.")
    return values.to(torch.int64)


def size_conditions(rows: int, original_size: Pairs, crop: Pairs, target_size: Pairs) -> Tensor:
    """The six numbers of SDXL's size conditions: int64[rows, 6].

    Args:
        rows: B.
        original_size: (height, width) of the training picture before it was cropped.
        crop: (top, left) corner of the crop in it.
        target_size: (height, width) of the picture the decoder makes.
    """
    return torch.cat(
        [
            pair_rows(original_size, rows, name="original_size"),
            pair_rows(crop, rows, name="the crop corner"),
            pair_rows(target_size, rows, name="the target size"),
        ],
        dim=1,
    )


def added_conditions(prompt_embeds: Tensor, original_size: Pairs, crop: Pairs, target_size: Pairs) -> dict[str, Tensor]:
    """`added_cond_kwargs` of the image decoder's U-Net.

    Args:
        prompt_embeds: float[B, N, D], visual embeddings as `encode_image` or `generate_visual` give them.
        original_size, crop, target_size: see `size_conditions`; one pair for all rows or one per row.

    Returns:
        text_embeds float[B, D], the mean over the N embeddings (published), and time_ids int64[B, 6].

    Raises:
        ValueError: embeddings or sizes of a wrong shape.
    """
    if prompt_embeds.ndim != 3:
        raise ValueError(f"Embeddings come as [rows, N, D]; got shape {list(prompt_embeds.shape)}.")
    sizes = size_conditions(prompt_embeds.shape[0], original_size, crop, target_size)
    return {"text_embeds": prompt_embeds.mean(dim=1), "time_ids": sizes.to(prompt_embeds.device)}


def coordinate_channels(count: int, height: int, width: int) -> Tensor:
    """Where every place of the latents lies: float32[count, height, width].

    Sines and cosines of row and column, of one half wave over the picture and its octaves, times sqrt(2) for unit
    variance.

    Raises:
        ValueError: `count` is no positive multiple of 4 (sine and cosine of row and column for each octave).
    """
    if count < 4 or count % 4:
        raise ValueError(f"Coordinates come in fours (sine and cosine of row and column); got {count} channels.")
    octaves = math.pi * 2.0 ** torch.arange(count // 4)
    rows = octaves[:, None] * (torch.arange(height) + 0.5) / height  # [count / 4, height]
    columns = octaves[:, None] * (torch.arange(width) + 0.5) / width
    down = torch.cat([rows.sin(), rows.cos()])[:, :, None].expand(-1, -1, width)
    across = torch.cat([columns.sin(), columns.cos()])[:, None, :].expand(-1, height, -1)
    return math.sqrt(2) * torch.cat([down, across])


def with_places(latents: Tensor, embeddings: Tensor, in_channels: int) -> Tensor:
    """The U-Net's input: the latents, and in what channels it has beyond theirs, coordinates and embeddings.

    The published U-Net has none beyond: it learns places from the zero padding of its convolutions, and where to look
    among the embeddings, over millions of pictures. A decoder that is trained for minutes is told where it is, and one
    with room for it is given, at each place, the embedding of that part of the picture, normalised over its width.
    With cross-attention alone `nano` had colours and no shapes after 1700 steps of 16 pictures.

    Args:
        latents: float[B, C, H, W], or [B, C, F, H, W] of a clip.
        embeddings: float[B, N, D], in rows of the picture from the top left; of a clip's keyframes float[B, K, N, D].
        in_channels: of the U-Net; C, or C plus a multiple of 4 (coordinates), or that plus D.

    Raises:
        ValueError: channels that are none of these, embeddings to be placed that form no square, or several keyframes
            for a U-Net that is not given embeddings at their places.
    """
    extra, width = in_channels - latents.shape[1], embeddings.shape[-1]
    if embeddings.ndim == 4 and embeddings.shape[1] > 1 and extra < width:
        raise ValueError(
            "This U-Net reads embeddings by cross-attention alone, the same ones in every frame: it cannot tell the "
            f"order of {embeddings.shape[1]} keyframes. Give it one, or a U-Net with {width} channels more for "
            "embeddings at their places."
        )
    if extra == 0:
        return latents
    planes = []
    if extra >= width:
        extra -= width
        placed = between_keyframes(embeddings, latents.shape[2]) if latents.ndim == 5 else embeddings.unsqueeze(1)
        planes.append(_at_their_places(placed.flatten(0, 1), *latents.shape[-2:]).to(latents))
    if extra:
        coordinates = coordinate_channels(extra, *latents.shape[-2:]).to(latents)
        frames = latents.shape[0] * (latents.shape[2] if latents.ndim == 5 else 1)
        planes.insert(0, coordinates.expand(frames, -1, -1, -1))
    if latents.ndim == 5:
        planes = [plane.unflatten(0, (latents.shape[0], -1)).transpose(1, 2) for plane in planes]
    return torch.cat([latents, *planes], dim=1)


def between_keyframes(embeddings: Tensor, frames: int) -> Tensor:
    """What each frame of a clip is conditioned on: float[B, F, N, D].

    A keyframe has its own embeddings, a frame between two of them a mixture by distance, one before the first or after
    the last that keyframe's. Which frames are keys is `emu2.processing.video.sample_midpoints(F, K)`: the middle one,
    of one; all, of F.

    Args:
        embeddings: float[B, K, N, D] of keyframes, or float[B, N, D] of one.
        frames: F.

    Raises:
        ValueError: more keyframes than frames.
    """
    if embeddings.ndim == 3:
        embeddings = embeddings.unsqueeze(1)
    count = embeddings.shape[1]
    if count > frames:
        raise ValueError(f"A clip of {frames} frames has at most {frames} keyframes; got embeddings of {count}.")
    keys = sample_midpoints(frames, count)
    weights = np.stack([np.interp(range(frames), keys, of_key) for of_key in np.eye(count)])  # [K, F]
    return torch.einsum("kf,bknd->bfnd", torch.from_numpy(weights).to(embeddings), embeddings)


def all_keyframes(embeddings: Tensor) -> Tensor:
    """What cross-attention reads in every frame of a clip: float[B, K * N, D] from float[B, K, N, D] or [B, N, D]."""
    return embeddings.flatten(1, -2)


def _at_their_places(embeddings: Tensor, height: int, width: int) -> Tensor:
    """float[B, D, height, width]: of each place the embedding of the part of the picture that it lies in."""
    rows, count, size = embeddings.shape
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(
            f"This U-Net is given embeddings at their places, so that they must be a square of rows and columns (16, "
            f"36, 64); got {count} of them."
        )
    grid = F.layer_norm(embeddings.float(), (size,)).transpose(1, 2).reshape(rows, size, side, side)
    return F.interpolate(grid, size=(height, width), mode="nearest")


def guidance_rows(conditional: Tensor, unconditional: Tensor | None) -> Tensor:
    """Rows as the U-Net gets them: [conditional, unconditional], the published order, the reverse of diffusers' own.

    Both are float[B, N, D]; the result is float[2B, N, D], or `conditional` where there is no guidance.
    """
    return conditional if unconditional is None else torch.cat([conditional, unconditional])


def guide(prediction: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance over rows [conditional, unconditional]: uncond + scale * (cond - uncond)."""
    conditional, unconditional = prediction.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def _shown(pairs: Any) -> Any:
    return pairs.tolist() if isinstance(pairs, Tensor) else pairs
