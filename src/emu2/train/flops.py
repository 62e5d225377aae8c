"""Floating point operations of a training step, and what the GPUs of a plan can do.

Model FLOPs as the field counts them: two per multiply-add of the layers' matrix products, convolutions and attention
scores; a trained part costs three times its forward pass (forward, gradient of the inputs, gradient of the weights), a
frozen part that gradients pass through twice, a frozen part before every trained one once. Attention counts every pair
of positions, also those a causal mask hides; what is computed twice to save memory counts once. MFU is these FLOPs per
second over the peak of the hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from emu2.train.config import RunConfig

if TYPE_CHECKING:
    from emu2.train.objectives import Batch
    from emu2.train.whole import Whole

GIB = 1024**3
#: Objectives that put pictures and text into one sequence of the language model.
SEQUENCE_OBJECTIVES = ("language", "caption", "unified", "chat", "gen")


@dataclass(frozen=True)
class Gpu:
    """One accelerator. memory: bytes that CUDA reports. peak: dense FLOP/s by dtype, from the maker's data sheet."""

    name: str
    memory: int
    peak: dict[str, float]


#: Data sheets: H100 SXM5 80 GB, H200 SXM 141 GB, A100 SXM4 80 GB; dense rates, float32 without TF32.
GPUS = {
    "h100": Gpu("NVIDIA H100 80 GB", int(79.1 * GIB), {"bfloat16": 989.4e12, "float32": 66.9e12}),
    "h200": Gpu("NVIDIA H200 141 GB", int(139.8 * GIB), {"bfloat16": 989.4e12, "float32": 66.9e12}),
    "a100": Gpu("NVIDIA A100 80 GB", int(79.1 * GIB), {"bfloat16": 311.9e12, "float32": 19.5e12}),
}


def known_gpu(name: str) -> Gpu:
    """The GPU of this short name.

    Raises:
        ValueError: it is not in the table; the message lists those that are.
    """
    if name not in GPUS:
        raise ValueError(f"There is no GPU {name!r} in the planner's table; there are {', '.join(GPUS)}.")
    return GPUS[name]


def device_peak(device: torch.device, dtype: str) -> float | None:
    """Peak FLOP/s of a device for `dtype` ("bfloat16" or "float32"), or None where it is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower()
    return next((gpu.peak[dtype] for short, gpu in GPUS.items() if short in name), None)


def compute_dtype(config: RunConfig) -> str:
    """The type the matrix products of a run are computed in."""
    return config.autocast or config.dtype


def flop_counter() -> FlopCounterMode:
    """torch's counter, which also knows the attention kernels of the CPU (those that fake tensors go through)."""
    cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return FlopCounterMode(display=False, custom_mapping={cpu: _attention, cpu_backward: _attention_backward})


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def measured(make: Callable[[], nn.Module], *inputs: tuple[int, ...], **kwargs: Any) -> int:
    """FLOPs of one forward pass of a module that is built and run on fake tensors, without memory or time.

    Args:
        make: builds the module.
        inputs: shapes of its positional arguments, all float32.
        kwargs: further arguments; a tuple of integers stands for a float32 tensor of that shape.
    """
    with FakeTensorMode(), torch.no_grad():
        module = make().eval()
        tensors = [torch.empty(shape) for shape in inputs]
        named = {key: _empty(value) for key, value in kwargs.items()}
        counter = flop_counter()
        with counter:
            module(*tensors, **named)
    return counter.get_total_flops()


def _empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _empty(inner) for key, inner in value.items()}
    return torch.empty(value) if isinstance(value, tuple) else value


def linear_numbers(*modules: nn.Module) -> int:
    """Weights of all linear layers: each is multiplied with every position once. Tables that are looked up are none."""
    return sum(layer.weight.numel() for module in modules for layer in module.modules() if isinstance(layer, nn.Linear))


class FlopModel:
    """Model FLOPs of one run's steps, by the numbers of its model.

    Args:
        whole: parts of the model; only their sizes are read.
        config: of the run.
    """

    def __init__(self, whole: Whole, config: RunConfig):
        self.config, self.whole = config, whole
        parts = set(config.parts)
        crops = config.diffusion.crop_scale != (1.0, 1.0)
        kept = config.data.pool is not None and (config.objective in SEQUENCE_OBJECTIVES or not crops)
        #: Times the forward pass of each part counts.
        self.vision_times = 3 if "vision" in parts else 0 if kept else 1
        below = {"vision", "bridge"} & parts
        self.language_times = 2 if config.lora else 3 if "language" in parts else 2 if below else 1
        self.frozen_times = 0 if kept else 1
        self._diffusion: dict[str, int] = {}

    # Forward passes

    def picture(self) -> int:
        """One picture through the vision tower."""
        tower = self.whole.model.model.visual
        vision = tower.config
        side = self.config.resolution or vision.image_size
        patches = (side // vision.patch_size) ** 2
        embedding = 2 * patches * vision.num_channels * vision.patch_size**2 * vision.hidden_size
        blocks = linear_numbers(tower)
        attention = 4 * vision.num_hidden_layers * vision.hidden_size
        return embedding + (patches + 1) * (2 * blocks + attention * (patches + 1))

    def text(self, length: int) -> int:
        """One sequence of `length` positions through the language model and its head."""
        model, text = self.whole.model, self.whole.model.config.text_config
        heads, width = text.num_attention_heads, text.hidden_size
        attended = heads * (getattr(text, "head_dim", None) or width // heads)
        weights = linear_numbers(model.model.language_model, model.lm_head)
        return length * (2 * weights + 4 * text.num_hidden_layers * attended * length)

    def contrasted(self, length: int) -> int:
        """One text through the contrastive text tower."""
        tower = self.whole.text_tower
        assert tower is not None
        encoder = tower.encoder.config
        attention = 4 * encoder.num_hidden_layers * encoder.hidden_size * length
        return length * (2 * linear_numbers(tower.encoder) + attention)

    def diffusion(self, part: str) -> int:
        """One picture or frame through "vae_encoder", "vae_decoder", "unet" or "video_unet"."""
        if part not in self._diffusion:
            self._diffusion[part] = _diffusion_flops(self.whole, part)
        return self._diffusion[part]

    # Training

    def row(self, length: int, pictures: int) -> float:
        """Training on one record of `length` positions and `pictures` stills and frames."""
        objective = self.config.objective
        seen = self.vision_times * pictures * self.picture() if pictures else 0
        if objective in SEQUENCE_OBJECTIVES:
            return seen + self.language_times * self.text(length)
        if objective == "contrastive":
            return seen + (3 if "text_tower" in self.config.parts else 1) * self.contrasted(length)
        if objective == "autoencoder":
            return 3 * pictures * (self.diffusion("vae_encoder") + self.diffusion("vae_decoder"))
        unet = "video_unet" if objective == "video_decoder" else "unet"
        frozen = self.frozen_times * (self.picture() + self.diffusion("vae_encoder"))
        return pictures * (frozen + 3 * self.diffusion(unet))

    def step(self, batches: Iterable[Batch]) -> float:
        """Training on the micro-batches of one step, without their padding."""
        total = 0.0
        for batch in batches:
            rows = max(len(batch.keys), 1)
            tokens, pictures = batch.amounts.get("tokens", 0), batch.amounts.get("images", 0)
            # Attention is quadratic in the length; that of the mean row is near enough for a progress bar.
            total += rows * self.row(round(tokens / rows), 0) if tokens else 0.0
            total += self.row(0, 1) * pictures
        return total


def _diffusion_flops(whole: Whole, part: str) -> int:
    vae = whole.frame_vae if whole.unet is None or part == "video_unet" else whole.vae
    side = int(vae.config.sample_size)
    channels = vae.config.latent_channels
    latent = side // 2 ** (len(vae.config.block_out_channels) - 1)
    if part == "vae_encoder":
        return measured(lambda: type(vae).from_config(vae.config).encoder, (1, vae.config.in_channels, side, side))
    if part == "vae_decoder":
        return measured(lambda: type(vae).from_config(vae.config).decoder, (1, channels, latent, latent))
    embeddings = whole.model.config.num_query
    if part == "video_unet":
        from emu2.decoder.video_unet import FilmUNet

        unet = whole.video_unet
        # One of eight frames: attention over time is a small part of the whole.
        shape = (1, unet.config.in_channels, 8, latent, latent)
        width = unet.config.cross_attention_dim
        if isinstance(unet, FilmUNet):
            added = {"text_embeds": (8, width), "time_ids": (8, 6)}
            states = (8, embeddings, width)
            return (
                measured(lambda: FilmUNet.from_config(unet.config), shape, (1,), states, added_cond_kwargs=added) // 8
            )
        return measured(lambda: type(unet).from_config(unet.config), shape, (1,), (1, embeddings, width)) // 8
    unet = whole.unet
    latent = int(unet.config.sample_size)
    states = (1, embeddings, unet.config.cross_attention_dim)
    added = {"text_embeds": (1, unet.config.cross_attention_dim), "time_ids": (1, 6)}
    shape = (1, unet.config.in_channels, latent, latent)
    return measured(lambda: type(unet).from_config(unet.config), shape, (1,), states, added_cond_kwargs=added)


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each by its local shard where it has one."""
    total = 0
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        total += local.numel() * local.element_size()
    return total
