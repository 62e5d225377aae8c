"""Models from nothing: every part at a preset size with random weights, and the few starts that save training time."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from emu2 import presets
from emu2.decoder.conditioning import coordinate_channels

if TYPE_CHECKING:
    from emu2.train.whole import Whole

#: Different waves among a fresh tower's positions: sine and cosine of row and column in four octaves.
_POSITION_WAVES = 16


def fresh_whole(size: str, tokenizer: Any, *, seed: int = 0) -> Whole:
    """A model of a preset size with random weights: autoregressive part, VAE, U-Net, and the contrastive text tower.

    Its video decoder is made by the stage that trains it (`add_video_decoder`).

    Raises:
        ValueError: the size cannot start from nothing.
    """
    if size not in presets.FROM_NOTHING:
        raise ValueError(
            f"Only the sizes {' and '.join(map(repr, presets.FROM_NOTHING))} start from nothing; got {size!r}. Give a "
            "model folder (--model); `emu2 convert parts` makes one of EVA-02-CLIP-E-plus, a LLaMA and SDXL."
        )
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    from emu2 import tokens
    from emu2.decoder.presets import scheduler_config, unet_config, vae_config
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
    from emu2.processing.image import Emu2ImageProcessor
    from emu2.processing.processor import Emu2Processor
    from emu2.train.text_tower import TextTower
    from emu2.train.whole import Whole

    special = tokenizer.convert_tokens_to_ids(tokens.PAD)
    config = presets.from_nothing(size, vocab_size=len(tokenizer), first_special_id=special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL.from_config(vae_config(size))
        _start_quiet(vae)
        unet = UNet2DConditionModel.from_config(unet_config(size))
        _start_deaf(unet)
        model = Emu2ForConditionalGeneration(config)
        _start_placed(model.model.visual)
        return Whole(
            model=model,
            processor=Emu2Processor(
                image_processor=Emu2ImageProcessor(size=config.vision_config.image_size),
                tokenizer=tokenizer,
                num_query=config.num_query,
                num_video_query=config.num_video_query,
            ),
            vae=vae,
            unet=unet,
            scheduler=EulerDiscreteScheduler.from_config(scheduler_config(size)),
            text_tower=TextTower(len(tokenizer), config.vision_config.hidden_size),
        )


def add_text_tower(whole: Whole, *, seed: int = 0) -> None:
    """Give a model the text tower that the contrastive stage needs and never saves."""
    from emu2.train.text_tower import TextTower

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = whole.model.config.vision_config.hidden_size
        whole.text_tower = TextTower(len(whole.processor.tokenizer), width)


def add_video_decoder(whole: Whole, *, seed: int = 0) -> None:
    """Give a small model a fresh video decoder over the VAE it has; of a copy of its image decoder where its size says.

    Raises:
        ValueError: no preset fits the model's embeddings, it has no VAE, or no image decoder where it takes one.
    """
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    from emu2.decoder.inflate import inflate_unet
    from emu2.decoder.presets import scheduler_config, unet_config, video_unet_config
    from emu2.decoder.video_unet import FilmUNet, video_unet_class

    width = whole.model.config.vision_config.hidden_size
    fitting = [
        size for size in presets.FROM_NOTHING if video_unet_config(size)["cross_attention_dim"] == width and whole.vae
    ]
    if not fitting:
        raise ValueError(
            "This model has no video decoder to train, and one is made from nothing only for models of the sizes "
            f"{' and '.join(presets.FROM_NOTHING)} that have a VAE. For others put one made from Stable Diffusion 2.1 "
            "(emu2.decoder.inflate_unet) into the model's folder: video/unet, video/scheduler and video/vae."
        )
    size = fitting[0]
    whole.video_scheduler = EulerDiscreteScheduler.from_config(scheduler_config(size))
    if video_unet_class(video_unet_config(size)) is FilmUNet:
        if whole.unet is None:
            raise ValueError(
                f"The video decoder of the size {size!r} is its image decoder over time, and this model has no image "
                "decoder: train the stage 'decoder' first."
            )
        whole.video_unet = FilmUNet.of_image_unet(deepcopy(whole.unet), seed=seed)
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pictures = UNet2DConditionModel.from_config(unet_config(f"{size}_sd21"))
    _start_deaf(pictures)
    whole.video_unet = inflate_unet(pictures, cross_attention_dim=width, seed=seed)


def _start_quiet(vae: Any) -> None:
    """Let a fresh VAE begin with latents that carry little noise (a deviation of 0.05 instead of 1).

    Otherwise it spends its first hundreds of steps on drowning out its own noise.
    """
    latent_channels = vae.config.latent_channels
    with torch.no_grad():
        vae.quant_conv.weight[latent_channels:] = 0.0
        vae.quant_conv.bias[latent_channels:] = -6.0


def _start_deaf(unet: Any) -> None:
    """Let a fresh U-Net begin by hearing its embeddings more than its noise.

    With torch's own start the noise fills every norm and skip, and the network spends thousands of steps before it
    looks into the embeddings.
    """
    with torch.no_grad():
        unet.conv_in.weight[:, : unet.config.out_channels].mul_(0.1)


def _start_placed(tower: Any) -> None:
    """Let a fresh vision tower begin with sine-cosine positions instead of none.

    The tower adds to its input and never overwrites it, so positions reach its output, where the decoder's
    cross-attention needs them; EVA's weights have learned as much over billions of pictures.
    """
    grid, width = tower.config.grid_size, tower.config.hidden_size
    waves = coordinate_channels(_POSITION_WAVES, grid, grid).flatten(1).T  # [grid * grid, waves]
    with torch.no_grad():
        tower.pos_embed[0, 1:] = waves.repeat(1, -(-width // _POSITION_WAVES))[:, :width]
