"""A whole so small that a training step takes milliseconds, and records to train it on."""

from dataclasses import replace
from functools import cache

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel, UNet3DConditionModel
from PIL import Image

from emu2 import Emu2Config, tokens
from emu2.data.records import Record
from emu2.data.settings import DataConfig
from emu2.data.sources import ListSource
from emu2.decoder.inflate import silence_temporal_parts
from emu2.decoder.presets import scheduler_config, unet_config, vae_config, video_unet_config
from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
from emu2.processing.grounding import Box
from emu2.processing.image import Emu2ImageProcessor
from emu2.processing.processor import Emu2Processor
from emu2.processing.tokenizer import train_tokenizer
from emu2.processing.video import Video
from emu2.train.config import OptimConfig, RunConfig
from emu2.train.loop import Trainer
from emu2.train.text_tower import TextTower
from emu2.train.whole import Whole

SIDE = 16
COLOURS = ("red", "green", "blue", "white", "black", "orange", "purple", "yellow")

#: Objective -> the parts its stage trains.
PARTS = {
    "contrastive": ("vision", "text_tower"),
    "language": ("language",),
    "caption": ("vision", "bridge", "language"),
    "unified": ("bridge", "language"),
    "autoencoder": ("vae",),
    "decoder": ("unet",),
    "video_decoder": ("video_temporal", "video_unet"),
    "chat": ("bridge", "language"),
    "gen": ("bridge", "language"),
}


def pair(number: int) -> Record:
    """A picture of two colours and its caption; pairs are made caption last, as the world makes them."""
    one, other = COLOURS[number % 8], COLOURS[(number // 8 + number + 1) % 8]
    picture = Image.new("RGB", (SIDE, SIDE), one)
    picture.paste(other, (SIDE // 2, 0, SIDE, SIDE))
    words = f"{one} left, {other} right" + (" of it" if number % 3 == 0 else "")
    return Record("pair", (picture, words), f"pair-{number}", 1)


def pairs(number: int = 12) -> ListSource:
    return ListSource([pair(i) for i in range(number)])


def text(number: int) -> Record:
    """The words of a pair alone."""
    return Record("text", (pair(number).segments[1],), f"text-{number}")


def clip(number: int, frames: int = 3) -> Record:
    """A clip whose left colour grows, and its caption."""
    one, other = COLOURS[number % 8], COLOURS[(number + 3) % 8]
    pictures = []
    for frame in range(frames):
        picture = Image.new("RGB", (SIDE, SIDE), other)
        picture.paste(one, (0, 0, SIDE * (frame + 1) // (frames + 1), SIDE))
        pictures.append(picture)
    return Record("video_pair", (Video(pictures), f"{one} grows left, {other} right"), f"clip-{number}", 1)


def conversation(number: int) -> Record:
    """Two questions about a pair's picture."""
    picture, words = pair(number).segments
    turns = (
        ("system", ("left or right",)),  # the wording's own is longer than a whole row here
        ("user", (picture, "left?")),
        ("assistant", (words.split()[0],)),
        ("user", ("right?",)),
        ("assistant", (words.split()[2],)),
    )
    return Record.conversation("chat", turns, f"chat-{number}")


def composition(number: int) -> Record:
    """A picture asked for by two boxes, one of them with a picture of what it holds."""
    picture, words = pair(number).segments
    one, other = words.split()[0], words.split()[2]
    half = SIDE // 2
    boxes = (
        Box((0, 0, half, SIDE), one, (SIDE, SIDE), Image.new("RGBA", (SIDE, SIDE), one)),
        Box((half, 0, SIDE, SIDE), other, (SIDE, SIDE)),
    )
    return Record("composition", (boxes[0], "left of", boxes[1], picture), f"composition-{number}", 3)


#: Objective -> what makes a record for it, by number; pairs where it is not named.
RECORDS = {"language": text, "video_decoder": clip, "chat": conversation, "gen": composition}


def records(objective: str, number: int = 12) -> ListSource:
    """Records that an objective learns from."""
    return ListSource([RECORDS.get(objective, pair)(i) for i in range(number)])


@cache
def tokenizer():
    return train_tokenizer([pair(i).segments[1] for i in range(64)], 320, chat=True)


def tiny_whole(seed: int = 0, *, placed: bool = False) -> Whole:
    """Vision 16 wide on 16-pixel pictures, 4 embeddings each; LLaMA 24 wide; VAE and U-Net of debug forms, shrunk.

    placed: the video U-Net is given embeddings at their places.
    """
    words = tokenizer()
    ids = {token: words.convert_tokens_to_ids(token) for token in tokens.BASE_SPECIAL_TOKENS[:5]}
    config = Emu2Config(
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "image_size": SIDE,
            "patch_size": 4,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(words),
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "pad_token_id": ids[tokens.PAD],
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        num_query=4,
        num_video_query=4,
        image_start_token_id=ids[tokens.IMG],
        image_end_token_id=ids[tokens.IMG_END],
        image_token_id=ids[tokens.IMAGE_SLOT],
        video_token_id=ids[tokens.FRAME_SLOT],
        pad_token_id=ids[tokens.PAD],
    )
    vae = {**vae_config("debug"), "block_out_channels": [8, 8, 8], "sample_size": SIDE, "latent_channels": 4}
    unet = {
        **unet_config("debug"),
        "sample_size": SIDE // 4,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [8, 16],
        "transformer_layers_per_block": [1, 1],
        "attention_head_dim": [1, 2],
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 16 + 6 * 8,
    }
    video_unet = {
        **video_unet_config("debug"),
        "sample_size": SIDE // 4,
        "in_channels": 4 + 16 if placed else 4,
        "out_channels": 4,
        "block_out_channels": [8, 16],
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Whole(
            model=Emu2ForConditionalGeneration(config),
            processor=Emu2Processor(Emu2ImageProcessor(size=SIDE), words, num_query=4, num_video_query=4),
            vae=AutoencoderKL.from_config(vae),
            unet=UNet2DConditionModel.from_config(unet),
            scheduler=EulerDiscreteScheduler.from_config(scheduler_config("debug")),
            text_tower=TextTower(len(words), 16, hidden_size=16, layers=1, heads=2, projection_dim=8),
            video_unet=_video_unet(video_unet),
            video_scheduler=EulerDiscreteScheduler.from_config(scheduler_config("debug")),
        )


def _video_unet(config: dict) -> UNet3DConditionModel:
    unet = UNet3DConditionModel.from_config(config)
    silence_temporal_parts(unet)  # as inflation leaves them
    return unet


def run_config(objective: str, **changes) -> RunConfig:
    """Six steps of four records."""
    data = DataConfig(kinds={"pair": 1.0}, batch_size=4, max_length=64, image_size=SIDE, frames=(3,))
    config = RunConfig(
        name=objective,
        objective=objective,
        parts=PARTS[objective],
        steps=6,
        data=data,
        optim=OptimConfig(lr=1e-3, warmup_steps=2),
        log_every=1,
        ema_decay=0.9 if objective.endswith("decoder") else None,
    )
    return replace(config, **changes)


def trainer(config: RunConfig, out, *, whole: Whole | None = None, sources=None) -> Trainer:
    return Trainer(
        config,
        tiny_whole() if whole is None else whole,
        {"pair": records(config.objective)} if sources is None else sources,
        out,
        quiet=True,
        tensorboard=False,
    )


def weights(whole: Whole) -> dict[str, torch.Tensor]:
    """A copy of every parameter of every part, by part and name."""
    names = ("model", "vae", "unet", "text_tower", "video_unet")
    parts = {name: getattr(whole, name) for name in names}
    return {
        f"{part}.{name}": parameter.detach().clone()
        for part, module in parts.items()
        for name, parameter in module.named_parameters()
    }
