"""The stages of the paper for emu2-nano, the smallest whole Emu2, from nothing, on the emoji world.

The order is the paper's, with what it took from others put before: a vision tower, a VAE and a language model. One set
of numbers serves a GPU (`--device cuda --set autocast=bfloat16`) and two CPU cores, which take fewer steps
(`--set steps=...`; the schedules follow). The model is a thousand times smaller than the paper's, so rates are a
hundred times higher and batches a hundred times smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu2.data.settings import DataConfig
from emu2.train.config import DiffusionConfig, OptimConfig, RunConfig
from emu2.train.settings import LookingBack
from emu2.world.atlas import default_atlas
from emu2.world.chat import QUESTIONS
from emu2.world.reading import names_read

#: All concepts of the training split, on all backgrounds, in free places, tilted.
_WORLD: dict[str, object] = {"style": "full", "max_pages": 4, "shots": [0, 1, 2, 4, 8]}
#: Text that only what was said before makes likely.
_LOOKED_BACK: dict[str, object] = {"told": 0.3, "echoed": 0.5}
#: Kinds of questions about clips and their shares: many about one clip teach more than one about each of many.
_OF_CLIPS = {"video": 0.35, "video_quiz": 0.65}
#: Of a clip that is filmed: every other frame of eight, so that each of the others has a keyframe on both sides.
KEYFRAMES = 5
#: Side of the pictures: what the vision tower reads and the decoders draw.
_SIDE = 96


def _data(kinds: dict[str, float], **settings: Any) -> DataConfig:
    return DataConfig(
        **{"kinds": kinds, "image_size": _SIDE, "world": _WORLD, "max_length": 512, "workers": 2, **settings}
    )


def _run(name: str, **settings: Any) -> RunConfig:
    return RunConfig(**{"name": name, "size": "nano", "save_every": 1000, "validate_every": 1000, **settings})


def vision() -> RunConfig:
    """Vision tower: contrast pictures with captions, in place of EVA-CLIP's two billion pairs."""
    return _run(
        "vision",
        objective="contrastive",
        parts=("vision", "text_tower"),
        steps=6000,
        data=_data({"pair": 1.0}, batch_size=256),
        optim=OptimConfig(lr=1e-3, betas=(0.9, 0.98), warmup_steps=300, clip_norm=1.0),
    )


def autoencoder() -> RunConfig:
    """The VAE that both decoders share, in place of SDXL's."""
    return _run(
        "autoencoder",
        objective="autoencoder",
        parts=("vae",),
        steps=12_000,
        data=_data({"pair": 1.0}, batch_size=16),
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0, warmup_steps=200, clip_norm=1.0),
        kl_weight=1e-6,
        ema_decay=0.995,
    )


def language() -> RunConfig:
    """Language model: next token on sentences about the world, in place of LLaMA's trillion, on episodes told in words
    and on echoes: a model that has never had to say again what was said before does not copy a word from its prompt."""
    return _run(
        "language",
        objective="language",
        parts=("language",),
        steps=3000,
        data=_data({"text": 1.0}, batch_size=64, max_length=256, pack=True, worlds={"text": _LOOKED_BACK}),
        optim=OptimConfig(lr=2e-3, warmup_steps=150, clip_norm=1.0, min_lr_ratio=0.1),
    )


def caption() -> RunConfig:
    """Stage 1: captions of pictures and clips; everything trains, each part at its own rate."""
    return _run(
        "caption",
        objective="caption",
        parts=("vision", "bridge", "language"),
        steps=8000,
        data=_data(
            {"pair": 0.8, "video_pair": 0.2},
            mode="one_kind",
            batch_size=64,
            batch_sizes={"video_pair": 16},
            frames=(4,),
            bucket=True,
        ),
        optim=OptimConfig(
            lr=1e-3,
            part_lr={"vision": 5e-4, "language": 1e-3, "bridge": 2e-3},
            warmup_steps=300,
            clip_norm=1.0,
            min_lr_ratio=0.05,
        ),
    )


def unified() -> RunConfig:
    """Stage 2: everything there is, interleaved. Episodes with labels made up anew are a large part of it: they are
    what makes learning in context appear; MMC4's millions of pages do that for the paper's size. Two heads in the
    middle are told where to look for what an episode names: without that the right one of two words was not found
    after some ten thousand episodes, with it after three thousand of nothing else. So naming comes first, alone; then
    red circles, which a head is told to find; then rules: first those that say what decides, which teach to see it,
    then in pictures that differ in nothing else."""
    return _run(
        "unified",
        objective="unified",
        parts=("bridge", "language"),
        steps=20_000,
        data=_data(
            {
                "pair": 0.14,
                "grounded_pair": 0.06,
                "text_to_image": 0.12,
                "video_pair": 0.05,
                "document": 0.04,
                "storyboard": 0.03,
                "text": 0.03,
                "naming": 0.18,
                "rule": 0.05,
                "rule/group": 0.03,
                "rule/plain": 0.03,
                "rule/spoken": 0.03,
                "tuple": 0.05,
                "counting": 0.05,
                "visual_prompt": 0.05,
                "drawing": 0.06,
            },
            mode="one_kind",
            batch_size=32,
            batch_sizes={"pair": 64, "grounded_pair": 64, "text_to_image": 64, "text": 64},
            # Who learns from rounds counts them: after one demonstration the next word was the other one, whatever was
            # shown (57 % right; 68 % after 1,900 batches without rounds).
            world={**_WORLD, "rounds": False},
            worlds={
                "text": _LOOKED_BACK,
                "naming": {"echoed": 0.3},
                "rule/group": {"cast": 2, "mingled": 0.8, "deciding": ["group"]},
                "rule/plain": {"distracted": 0.0},
                "rule/spoken": {"spoken": 1.0},
            },
            opening={"naming": 500, "visual_prompt": 300, "rule/spoken": 150, "rule/plain": 300},
            frames=(8,),
            bucket=True,
        ),
        optim=OptimConfig(lr=1e-3, warmup_steps=500, clip_norm=1.0, min_lr_ratio=0.02),
        looking_back=LookingBack(
            heads={
                "naming": ((3, 3), (4, 1)),
                "visual_prompt": ((3, 3), (4, 1)),
                "visual_prompt:picture": ((2, 1),),
                "rule": ((3, 0), (4, 2)),
                "rule:picture": ((2, 0), (2, 2)),
            }
        ),
        # As in `debug`: which thing it is hides in the last few per cent of the embeddings' variance.
        visual_loss_weight=4.0,
    )


def reading() -> RunConfig:
    """Chat's vision tower learns to read clock faces and signs, where they stand; how it sees all else is kept.

    What tells the hour reaches one patch, that in the middle of the face, and the mean of the embeddings that chat
    reads has lost it (a linear probe: 88 and 15 %). Contrast of regions alone hardly changed that within 400 batches;
    with attention softened, and two heads told to bring the middle to the rest of the face, it did within 500."""
    return _run(
        "reading",
        objective="contrastive",
        contrast="regions",
        kept_weight=1.0,
        soften=300.0,
        looking_back=LookingBack(heads={"grounded_pair": ((2, 0), (3, 0))}, weight=0.3),
        parts=("vision", "text_tower"),
        steps=3000,
        data=_data(
            {
                "grounded_pair/read": 0.75,
                "pair": 0.1,
                "naming": 0.05,
                "video_pair": 0.05,
                "visual_prompt": 0.03,
                "edit": 0.02,
            },
            batch_size=96,
            world={**_WORLD, "shots": [2]},
            worlds={
                "grounded_pair/read": {
                    "concepts": names_read(default_atlas()),
                    "wording": "name",
                    "style": "crowded",
                }
            },
        ),
        optim=OptimConfig(lr=2e-3, part_lr={"vision": 7e-4}, warmup_steps=100, clip_norm=1.0),
    )


def decoder() -> RunConfig:
    """The image decoder: denoise a picture's latents given its own embeddings. Of clips it sees a frame each: in
    pictures alone it knew things in the places where they are put, and drew one on its way in the next such place. Of
    drawings it learns borders, which nothing else has."""
    return _run(
        "decoder",
        objective="decoder",
        parts=("unet",),
        steps=20_000,
        data=_data({"pair": 0.6, "video_pair": 0.3, "drawing": 0.1}, batch_size=32, worlds={"drawing": {"shots": [0]}}),
        optim=OptimConfig(
            lr=1e-3,
            betas=(0.9, 0.99),
            eps=1e-8,
            weight_decay=0.01,
            clip_norm=1.0,
            warmup_steps=500,
            warmup_shape="log",
            schedule="linear",
        ),
        diffusion=DiffusionConfig(timestep_power=2.0),
        ema_decay=0.999,
    )


def video_decoder() -> RunConfig:
    """The video decoder: clips of 8 frames from the embeddings of five. It is the image decoder, frame by frame, and
    learns what is between them: its spatial weights stay.

    From the middle frame alone it did not learn which way things go, nor can it."""
    return _run(
        "video_decoder",
        objective="video_decoder",
        parts=("video_temporal",),
        steps=6000,
        data=_data({"video_pair": 1.0}, batch_size=8, frames=(8,), frame_choice="uniform"),
        optim=OptimConfig(
            lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01, clip_norm=1.0, warmup_steps=300, schedule="cosine"
        ),
        diffusion=DiffusionConfig(timestep_power=2.0, keyframes=KEYFRAMES),
        ema_decay=0.999,
    )


def chat() -> RunConfig:
    """Instruction tuning to answer, with more embeddings of a picture (36 instead of 16; the paper's 256 for 64).

    Heads are told where the thing stands that a question names, and where the question names it: without that "Is there
    a dog?" was answered with "yes" throughout after fifty thousand conversations. Of a clip other heads are told where
    it stands in the first frame, in the last, and in two between; clips come first, alone."""
    return _run(
        "chat",
        objective="chat",
        parts=("bridge", "language"),
        steps=8000,
        num_query=36,
        data=_data(
            {"chat": 0.5, "chat/clips": 0.5},
            mode="one_kind",
            batch_size=32,
            batch_sizes={"chat/clips": 16},
            world={**_WORLD, "questions": [name for name in QUESTIONS if name not in _OF_CLIPS]},
            worlds={"chat/clips": {"questions": _OF_CLIPS}},
            opening={"chat/clips": 300},
            frames=(8,),
            frame_choice="uniform",
            bucket=True,
        ),
        optim=OptimConfig(
            lr=5e-4, betas=(0.9, 0.98), warmup_steps=100, clip_norm=1.0, schedule="cosine", min_lr_ratio=0.0
        ),
        looking_back=LookingBack(
            heads={
                "chat": ((1, 0), (2, 1)),
                "chat:answer": ((3, 1), (4, 3)),
                "chat:frame0": ((1, 1), (2, 0)),
                "chat:frame3": ((1, 2),),
                "chat:frame5": ((2, 2),),
                "chat:frame7": ((1, 3), (2, 3)),
            }
        ),
    )


def gen() -> RunConfig:
    """Instruction tuning to draw: regress the last picture from words, boxes, things, pictures to change, and drawings
    whose style it shall have; and to film: the keyframes of a clip from its caption."""
    return _run(
        "gen",
        objective="gen",
        parts=("bridge", "language"),
        steps=8000,
        data=_data(
            {
                "text_to_image": 0.3,
                "grounded_generation": 0.1,
                "composition": 0.15,
                "edit": 0.15,
                "drawing": 0.1,
                "video_pair": 0.2,
            },
            mode="one_kind",
            batch_size=32,
            batch_sizes={"video_pair": 16},
            frames=(KEYFRAMES,),
            frame_choice="uniform",
            bucket=True,
        ),
        optim=OptimConfig(lr=5e-4, warmup_steps=100, clip_norm=1.0, schedule="cosine"),
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {
    "vision": vision,
    "autoencoder": autoencoder,
    "language": language,
    "caption": caption,
    "unified": unified,
    "reading": reading,
    "decoder": decoder,
    "video_decoder": video_decoder,
    "chat": chat,
    "gen": gen,
}
