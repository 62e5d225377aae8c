"""What the image decoder's U-Net reads beside the visual embeddings: their mean, and the picture's sizes.

    B  rows        N  embeddings per picture        D  their width

Used alike by the pipeline and by training. Source: published file Emu2/emu/diffusion.py; the size conditions are
those of SDXL (section 2.2 of its paper).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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
    if (values < 0).any():
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
