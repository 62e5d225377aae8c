"""What every recipe starts from: records of the emoji world, and a model from nothing or from a folder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from emu2.data.settings import DataConfig
from emu2.data.sources import EndlessSource, PooledSource, Source
from emu2.decoder.conditioning import coordinate_channels
from emu2.train.config import RunConfig

if TYPE_CHECKING:
    from emu2.train.loop import RunSummary
    from emu2.train.whole import Whole

#: Records whose texts the small tokeniser learns its merges from, and the merges' limit. The world has few words.
_TOKENISER_RECORDS, _TOKENISER_SIZE = 400, 640
#: Different waves among a fresh tower's positions: sine and cosine of row and column in four octaves.
_POSITION_WAVES = 16


def quiet_libraries() -> None:
    """Keep advice to programmers and progress bars of the libraries out of a program's own output."""
    import diffusers
    import transformers

    for library in (transformers, diffusers):
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()


def world_sources(data: DataConfig) -> dict[str, Source]:
    """Every kind that `data` weighs, as a source of the emoji world; pooled where the run asks for it."""
    from emu2.world import World, WorldConfig

    settings: dict[str, Any] = dict(data.world)
    world = World(
        WorldConfig(
            image_size=data.image_size, kinds=dict(data.kinds), split=data.split, concepts=data.concepts, **settings
        )
    )
    sources: dict[str, Source] = {}
    for kind in data.kinds:
        source: Source = EndlessSource(partial(world.record, kind))
        sources[kind] = PooledSource(source, data.pool) if data.pool else source
    return sources


def world_tokenizer(data: DataConfig) -> Any:
    """A tokeniser of our own for the words of a world."""
    from emu2.processing.tokenizer import train_tokenizer

    kinds = {"pair": 1.0, "text": 1.0, "counting": 1.0, "naming": 1.0, "document": 1.0}
    # The pictures are thrown away, so they may be tiny.
    sources = world_sources(replace(data, kinds=kinds, pool=None, image_size=16))
    texts = [
        segment
        for source in sources.values()
        for index in range(_TOKENISER_RECORDS)
        for segment in source[index].segments
        if isinstance(segment, str)
    ]
    return train_tokenizer(texts, _TOKENISER_SIZE, chat=True)


def fresh_whole(size: str, tokenizer: Any, *, seed: int = 0) -> Whole:
    """A model of a preset size with random weights: autoregressive part, VAE, U-Net, and the contrastive text tower.

    Raises:
        ValueError: the size cannot start from nothing.
    """
    if size != "debug":
        raise ValueError(f"Only the size 'debug' starts from nothing; got {size!r}. Give a model folder (--model).")
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    from emu2 import presets, tokens
    from emu2.decoder.presets import scheduler_config, unet_config, vae_config
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
    from emu2.processing.image import Emu2ImageProcessor
    from emu2.processing.processor import Emu2Processor
    from emu2.train.text_tower import TextTower
    from emu2.train.whole import Whole

    config = presets.debug(vocab_size=len(tokenizer), first_special_id=tokenizer.convert_tokens_to_ids(tokens.PAD))
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


def start_whole(config: RunConfig, model: str | Path | None) -> Whole:
    """The model a run starts from: a folder's, or a fresh one of `config.size`.

    Raises:
        ValueError: the folder holds no Emu2, or the size cannot start from nothing.
    """
    from emu2.train.whole import Whole

    if model is None:
        return fresh_whole(config.size, world_tokenizer(config.data), seed=config.seed)
    whole = Whole.load(model)
    if config.objective == "contrastive":
        from emu2.train.text_tower import TextTower

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            vision_dim = whole.model.config.vision_config.hidden_size
            whole.text_tower = TextTower(len(whole.processor.tokenizer), vision_dim)
    return whole


def train(
    config: RunConfig,
    out: str | Path,
    *,
    model: str | Path | None = None,
    whole: Whole | None = None,
    resume: bool = False,
    **trainer: Any,
) -> RunSummary:
    """Carry out one recipe on the emoji world.

    Args:
        config: of the run.
        out: the run's folder.
        model: folder to start from; None starts from nothing.
        whole: a model in memory to train in place, instead of `model`.
        resume: continue the run in `out`.
        trainer: further arguments of `Trainer`.
    """
    from emu2.train.loop import Trainer

    whole = start_whole(config, model) if whole is None else whole
    return Trainer(config, whole, world_sources(config.data), out, **trainer).run(resume=resume)
