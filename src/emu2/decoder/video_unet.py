"""The video U-Nets: which form a folder holds, what each reads, and one of the image decoder's own form.

`UNet3DConditionModel`, the form of Stable Diffusion 2.1 over time, has no place for what SDXL's form adds (the mean
embedding, picture sizes, scale and shift by time), so an image decoder of that form cannot become one. `FilmUNet` has a
temporal convolution after each residual block of the image decoder's U-Net: it draws every frame as that does until its
temporal parts are trained, and beside it they are all that is stored.
Section 2.2.3 of the paper: "a 1D temporal convolution following each 2D spatial convolutional layer"; of its attention
over time there is none here. To leave the spatial weights as they are and train what is between them is Blattmann et
al. 2023, Align your Latents.

    B  clips    F  frames    C  latent channels    h, w  latent rows and columns    N  embeddings    D  their width
"""

import json
from collections.abc import Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DConditionModel, UNet3DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emu2.decoder.conditioning import added_conditions, all_keyframes, between_keyframes, with_places
from emu2.decoder.inflate import PassingConvolution, is_temporal, silence_temporal_parts
from emu2.model.variants import TEMPORAL


class _Clip:
    """What the temporal parts must know and the blocks around them do not pass on: frames of the clips at hand."""

    frames = 1


class _ThenOverTime(nn.Module):
    """A residual block of pictures [B * F, ...], and a temporal convolution over the frames of each clip."""

    def __init__(self, block: ResnetBlock2D, clip: _Clip):
        super().__init__()
        channels = block.out_channels
        self.spatial = block
        self.temporal = PassingConvolution(channels, channels, dropout=0.0, norm_num_groups=block.norm1.num_groups)
        self._clip = clip

    def forward(self, hidden_states: Tensor, temb: Tensor) -> Tensor:
        return self.temporal(self.spatial(hidden_states, temb), num_frames=self._clip.frames)


class FilmUNet(UNet2DConditionModel):
    """`UNet2DConditionModel`, with its arguments, for clips.

    A saved pipeline names this module and class; diffusers then looks for `ModelMixin` in this module, to know how the
    class is loaded.
    """

    # diffusers' own would run a block again after the number of frames is forgotten; `emu2.train.blocks` has another.
    _supports_gradient_checkpointing = False

    @wraps(UNet2DConditionModel.__init__)  # type: ignore[misc]  # the same arguments are its configuration
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._clip = _Clip()
        for module in list(self.modules()):
            for name, block in list(module.named_children()):
                if isinstance(block, ResnetBlock2D):
                    setattr(module, name, _ThenOverTime(block, self._clip))
        silence_temporal_parts(self)

    @classmethod
    def of_image_unet(
        cls, unet: UNet2DConditionModel, temporal: Mapping[str, Tensor] | None = None, *, seed: int = 0
    ) -> "FilmUNet":
        """A video U-Net whose spatial weights are those of `unet`: the same tensors, not copies.

        Args:
            temporal: weights of the temporal parts (`temporal_weights`); None: new ones, without effect until trained.
            seed: of new ones; the global random state is left alone.

        Returns:
            in the dtype and on the device of `unet`.

        Raises:
            ValueError: `temporal` is of a U-Net of other sizes.
        """
        # Where every weight is given none is drawn first.
        with torch.random.fork_rng(devices=[]), torch.device("cpu" if temporal is None else "meta"):
            torch.manual_seed(seed)
            made = cls.from_config(unet.config)
        spatial = {_spatial_name(made, name): tensor for name, tensor in unet.named_parameters()}
        own = {name: tensor for name, tensor in made.named_parameters() if is_temporal(name)}
        if temporal is not None:
            wrong = sorted(set(own) ^ set(temporal)) or [n for n in own if own[n].shape != temporal[n].shape]
            if wrong:
                raise ValueError(
                    f"These temporal parts belong to another U-Net: {wrong[0]} and {len(wrong) - 1} more differ in "
                    "name or shape. Give those that were trained over this image decoder."
                )
            own = {name: temporal[name] for name in own}
        own = {name: nn.Parameter(tensor.detach().to(unet.device, unet.dtype)) for name, tensor in own.items()}
        made.load_state_dict({**spatial, **own}, assign=True)
        return made

    def temporal_weights(self) -> dict[str, Tensor]:
        """What an image U-Net lacks to be this one, by name."""
        return {name: tensor.detach() for name, tensor in self.named_parameters() if is_temporal(name)}

    def save_temporal(self, folder: str | Path) -> None:
        """Write config.json and the temporal parts alone, for `load_video_unet` to put over an image decoder."""
        self.save_config(folder)
        weights = {name: tensor.contiguous() for name, tensor in self.temporal_weights().items()}
        save_file(weights, Path(folder) / TEMPORAL, metadata={"format": "pt"})

    def draws_as(self, unet: Any) -> bool:
        """Whether its spatial weights are those of `unet`."""
        own, theirs = self.state_dict(), unet.state_dict()
        names = {name: _spatial_name(self, name) for name in theirs}
        spatial = {name for name in own if not is_temporal(name)}
        return spatial == set(names.values()) and all(
            own[names[name]].shape == tensor.shape and torch.equal(own[names[name]], tensor)
            for name, tensor in theirs.items()
        )

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor],
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Predict for clips.

        Args:
            sample: float[B, C + more, F, h, w], see `emu2.decoder.conditioning.with_places`.
            timestep: a number, or one for each clip: [B].
            encoder_hidden_states: float[B * F, N, D], embeddings of every frame, clip after clip.
            added_cond_kwargs: conditions of every frame, [B * F, ...], as `added_conditions` makes them.

        Returns:
            `.sample`, float[B, C, F, h, w].
        """
        clips, frames = sample.shape[0], sample.shape[2]
        times = torch.as_tensor(timestep, device=sample.device).expand(clips).repeat_interleave(frames)
        self._clip.frames = frames
        try:
            predicted = super().forward(
                sample.transpose(1, 2).flatten(0, 1),
                times,
                encoder_hidden_states,
                added_cond_kwargs=added_cond_kwargs,
                return_dict=False,
            )[0]
        finally:
            self._clip.frames = 1
        predicted = predicted.unflatten(0, (clips, frames)).transpose(1, 2)
        return UNet2DConditionOutput(sample=predicted) if return_dict else (predicted,)


def _spatial_name(unet: FilmUNet, name: str) -> str:
    """The name here of a weight of an image U-Net: `resnets.0.conv1.weight` is `resnets.0.spatial.conv1.weight`."""
    parts, module, found = name.split("."), unet, []
    for part in parts:
        if isinstance(module, _ThenOverTime):
            module = module.spatial
            found.append("spatial")
        found.append(part)
        module = getattr(module, part)
    return ".".join(found)


def predict_clip(unet: Any, noisy: Tensor, timestep: Any, embeddings: Tensor, size: tuple[int, int]) -> Tensor:
    """What a video U-Net of either form predicts for clips.

    Args:
        unet: a `UNet3DConditionModel`, which reads all keyframes in every frame, or a `FilmUNet`, which reads those of
            each frame as the image decoder reads a picture's.
        noisy: float[B, C, F, h, w].
        timestep: a number, or int64[B].
        embeddings: float[B, K, N, D] of keyframes, or float[B, N, D] of one.
        size: (height, width) of the frames in pixels.

    Returns:
        float[B, C, F, h, w] in the dtype of `unet`.
    """
    placed = with_places(noisy, embeddings, unet.config.in_channels).to(unet.dtype)
    if not isinstance(unet, FilmUNet):
        states = all_keyframes(embeddings).to(unet.dtype)
        return unet(placed, timestep, encoder_hidden_states=states, return_dict=False)[0]
    of_frames = between_keyframes(embeddings, noisy.shape[2]).flatten(0, 1).to(unet.dtype)
    conditions = added_conditions(of_frames, original_size=size, crop=(0, 0), target_size=size)
    return unet(placed, timestep, of_frames, conditions, return_dict=False)[0]


def load_video_unet(folder: str | Path, *, image_unet: Any = None, dtype: torch.dtype | None = None) -> ModelMixin:
    """The video U-Net of a folder: a `UNet3DConditionModel`, or a `FilmUNet`.

    Args:
        image_unet: the image decoder's U-Net, for a folder that holds temporal parts alone.
        dtype: of the weights; None keeps that of the files (of `image_unet`, over one).

    Raises:
        ValueError: the folder holds temporal parts alone, and there is no image decoder to put them over, or one that
            they were not trained over.
    """
    folder = Path(folder)
    if (folder / TEMPORAL).is_file():
        if image_unet is None:
            raise ValueError(
                f"{folder} holds the temporal parts of a video U-Net alone, and there is no image decoder (unet/) "
                "beside it to put them over."
            )
        return FilmUNet.of_image_unet(image_unet, load_file(folder / TEMPORAL))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return video_unet_class(config).from_pretrained(folder, torch_dtype=dtype)


def video_unet_class(config: Mapping[str, Any]) -> Any:
    """`FilmUNet` or `UNet3DConditionModel`, by a configuration: only the first has a place for added conditions."""
    return FilmUNet if "addition_embed_type" in config else UNet3DConditionModel
