"""The stages of the paper at its own size and numbers, for the data it names.

Numbers are those of arXiv 2312.13286v2: section 2 and tables 6 to 9, with supplements B to D. Where the paper says
nothing, the choice is ours and a comment says so. Batches are global: `--accumulate N` cuts each into N micro-batches
without changing what is learned, and what fits a given number of GPUs is what `emu2 train RECIPE --size 37b --plan`
answers.

The data are the user's: every kind has a source with the format its data set is published in and a path below `data/`
to be replaced (`--data pair=/mnt/laion/*.tar`). A path that holds nothing stops the run before it starts.

There is no vision, language or autoencoder stage: this size starts from EVA-02-CLIP-E-plus, LLaMA-33B, SDXL and
Stable Diffusion 2.1 (`emu2 convert parts`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from emu2.data.settings import DataConfig
from emu2.train.config import DiffusionConfig, GenerationConfig, OptimConfig, ParallelConfig, RunConfig

#: The file forms that the paper's data sets are passed around in: kind -> (format, what stands below data/).
_TARS = "webdataset"
_PRETRAINING: dict[str, dict[str, object]] = {
    "pair": {"format": _TARS, "path": "data/laion-coco-capsfusion/*.tar"},
    "video_pair": {"format": "video2dataset", "path": "data/webvid/*.tar"},
    "document": {"format": "mmc4", "path": "data/mmc4/*.jsonl", "images": "data/mmc4/images/*.tar", "max_images": 8},
    "storyboard": {"format": "mmc4", "path": "data/yt-storyboard/*.jsonl", "images": "data/yt-storyboard/*.tar"},
    "grounded_pair": {"format": "grit", "path": "data/grit/*.tar"},
    "text": {"format": "text", "path": "data/pile/*.txt"},
}


def _sources(kinds: dict[str, float]) -> dict[str, dict[str, object]]:
    return {kind: dict(_PRETRAINING[kind]) for kind in kinds}


def _run(name: str, **settings: Any) -> RunConfig:
    """What every run of this size shares.

    Weights and moments are float32 and the network computes in bfloat16, as mixed-precision training does; the paper
    says "bf16" and no more. The blocks' activations are computed twice: at this size memory is what is short.
    """
    return RunConfig(
        **{
            "name": name,
            "size": "37b",
            "device": "cuda",
            "autocast": "bfloat16",
            "checkpoint_activations": True,
            "parallel": ParallelConfig(shard="full"),
            "save_every": 500,
            "save_async": True,
            "validate_every": 500,
            "max_bad_share": 0.05,
            **settings,
        }
    )


def caption() -> RunConfig:
    """Stage 1 at 224 pixels: image-text and video-text pairs, cross entropy on the caption, all parts (table 6)."""
    # 162M image-text and 7M video-text samples in batches of 6144 and 768 are 26.4k and 9.1k steps, together the 35.2k
    # that the paper names: so a step holds one kind, and these are the kinds' shares.
    kinds = {"pair": 0.743, "video_pair": 0.257}
    return _run(
        "caption",
        objective="caption",
        parts=("vision", "bridge", "language"),
        steps=35_200,
        resolution=224,
        data=DataConfig(
            kinds=kinds,
            mode="one_kind",
            batch_size=6144,
            batch_sizes={"video_pair": 768},
            # Ours: 8 frames take 529 tokens, which leaves room for long captions.
            max_length=1024,
            frames=(8,),
            frame_choice="random",
            workers=8,
            bucket=True,
            sources=_sources(kinds),
        ),
        # Weight decay is not given: 0.05 as in the first Emu. The end of the cosine neither: 0.
        optim=OptimConfig(
            lr=3e-5,
            part_lr={"vision": 5e-5, "language": 3e-5, "bridge": 1e-4},
            betas=(0.9, 0.95),
            eps=1e-6,
            weight_decay=0.05,
            clip_norm=5.0,
            warmup_steps=704,  # ratio 0.02
            schedule="cosine",
        ),
    )


def caption_448() -> RunConfig:
    """Stage 1 goes on at 448 pixels for 4,000 steps, with a schedule of its own ("restart", table 6)."""
    first = caption()
    # The length of the restart's warmup is not given: the same ratio of 0.02.
    return replace(first, name="caption_448", steps=4000, resolution=448, optim=replace(first.optim, warmup_steps=80))


def unified() -> RunConfig:
    """Stage 2: text and visual embeddings of every kind of data; the vision tower is frozen (table 6)."""
    # 160M image-text samples in batches of 12800 are 12.5k of the 20.35k steps, 3.8B tokens of text in batches of 800
    # sequences of 2048 are 2.3k; the other 27 per cent are video-text and interleaved data. How each of these parts
    # divides is not given: a quarter of the image-text steps are grounded, the rest goes in equal parts to video-text
    # and to interleaved data, three quarters of which are MMC4.
    kinds = {
        "pair": 0.46,
        "grounded_pair": 0.154,
        "text": 0.114,
        "video_pair": 0.136,
        "document": 0.102,
        "storyboard": 0.034,
    }
    return _run(
        "unified",
        objective="unified",
        parts=("bridge", "language"),
        steps=20_350,
        resolution=448,
        data=DataConfig(
            kinds=kinds,
            mode="one_kind",
            # 3200 and 800 divide among 8, 16, 32 or 160 data-parallel ranks; docs/plan.md says what to set for 256.
            batch_size=12_800,
            batch_sizes={"video_pair": 6400, "document": 3200, "storyboard": 3200, "text": 800},
            # MMC4 is cut at 1024 tokens and the Pile at 2048, which is also the context of the language model.
            max_length=2048,
            image_first=0.5,
            frames=(8,),
            frame_choice="random",
            workers=8,
            bucket=True,
            sources=_sources(kinds),
        ),
        optim=OptimConfig(
            lr=1e-5,
            betas=(0.9, 0.95),
            eps=1e-6,
            weight_decay=0.05,  # not given; as in stage 1
            clip_norm=5.0,
            warmup_steps=2035,  # ratio 0.1
            schedule="cosine",
        ),
        # The weights of the two losses are not given, nor any normalisation of the targets.
        text_loss_weight=1.0,
        visual_loss_weight=1.0,
    )


def decoder() -> RunConfig:
    """The visual decoder: SDXL's U-Net learns to decode a picture's own embeddings (section 2.2.3, table 7)."""
    return _run(
        "decoder",
        objective="decoder",
        parts=("unet",),
        steps=8000,
        data=DataConfig(
            kinds={"pair": 1.0},
            batch_size=2048,
            image_size=1024,
            workers=16,
            # LAION-COCO and LAION-Aesthetics without pictures below 512 pixels
            sources={"pair": {"format": _TARS, "path": "data/laion-aesthetics/*.tar", "min_side": 512}},
        ),
        optim=OptimConfig(
            lr=1e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.01,
            clip_norm=1.0,
            # The text counts 2,000 + 6,000 steps, the table a warmup of 2,500: the text's numbers add up.
            warmup_steps=2000,
            warmup_shape="log",
            schedule="linear",
        ),
        # "Random scale, random square crop" without a range: ours goes up to half as large again. How embeddings are
        # dropped is not given: what the released code takes as the null of autoencoding.
        diffusion=DiffusionConfig(
            drop_embeddings=0.1, null="zero_image", noise_offset=0.1, crop_scale=(1.0, 1.5), timestep_power=1.0
        ),
        # No average is mentioned. SDXL itself was trained with one; it costs memory and no time.
        ema_decay=0.9999,
    )


def video_decoder() -> RunConfig:
    """The video decoder: Stable Diffusion 2.1 with temporal parts, on clips (section 2.2.3).

    The paper gives its form and nothing of its training; its demonstrations are clips of 16 frames at 512 pixels. All
    numbers are ours: those of the image decoder, at the rate and batch usual for tuning such a model.
    """
    return _run(
        "video_decoder",
        objective="video_decoder",
        parts=("video_temporal", "video_unet"),
        steps=20_000,
        data=DataConfig(
            kinds={"video_pair": 1.0},
            batch_size=256,
            image_size=512,
            frames=(16,),
            frame_choice="uniform",
            workers=16,
            sources=_sources({"video_pair": 1.0}),
        ),
        # First the new parts alone: until they mix frames well, gradients would only spoil what SD 2.1 knows.
        optim=OptimConfig(
            lr=5e-5,
            part_lr={"video_temporal": 1e-4},
            part_start={"video_unet": 5000},
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.01,
            clip_norm=1.0,
            warmup_steps=1000,
            schedule="cosine",
        ),
        diffusion=DiffusionConfig(drop_embeddings=0.1, null="zero_image", noise_offset=0.1),
        ema_decay=0.9999,
    )


def chat() -> RunConfig:
    """Emu2-Chat: answers only, 256 embeddings a picture, 8, 12 or 16 frames a clip (section 2.3.1, table 8)."""
    # The mixture is not given: the large question sets weigh most, conversations get a third. M3IT's classification
    # tasks are left out; in LLaVA's form they can be added as one more "chat/..." source.
    tables: dict[str, tuple[float, dict[str, object]]] = {
        "chat/coco": (
            0.08,
            {"format": "coco_captions", "path": "data/coco/captions_train2014.json", "images": "data/coco"},
        ),
        "chat/textcaps": (
            0.04,
            {"format": "coco_captions", "path": "data/textcaps/train.json", "images": "data/textvqa"},
        ),
        "chat/vqav2": (
            0.14,
            {
                "format": "vqav2",
                "path": "data/vqav2/questions_train2014.json",
                "annotations": "data/vqav2/annotations_train2014.json",
                "images": "data/coco",
            },
        ),
        "chat/okvqa": (
            0.03,
            {
                "format": "vqav2",
                "path": "data/okvqa/questions_train2014.json",
                "annotations": "data/okvqa/annotations_train2014.json",
                "images": "data/coco",
            },
        ),
        "chat/gqa": (
            0.12,
            {"format": "gqa", "path": "data/gqa/train_balanced_questions.json", "images": "data/gqa/images"},
        ),
        "chat/textvqa": (0.05, {"format": "textvqa", "path": "data/textvqa/train.json", "images": "data/textvqa"}),
        "chat/refcoco": (
            0.14,
            {
                "format": "refcoco",
                "path": "data/refcoco/refs.p.json",
                "annotations": "data/refcoco/instances.json",
                "images": "data/coco",
                "split": "train",
            },
        ),
        "chat/llava": (0.16, {"format": "llava", "path": "data/llava/llava_instruct_150k.json", "images": "data/coco"}),
        "chat/llavar": (0.06, {"format": "llava", "path": "data/llavar/train.json", "images": "data/llavar"}),
        "chat/text_chat": (0.06, {"format": "llava", "path": "data/sharegpt-alpaca.jsonl"}),
        "chat/videochat": (0.08, {"format": "llava", "path": "data/videochat/train.json", "images": "data/videochat"}),
        "chat/clocks": (0.04, {"format": "llava", "path": "data/clocks/train.jsonl", "images": "data/clocks"}),
    }
    return _run(
        "chat",
        objective="chat",
        # Which parts train is not given: those of stage 2.
        parts=("bridge", "language"),
        steps=8000,
        resolution=448,
        num_query=256,
        num_video_query=64,
        data=DataConfig(
            kinds={name: weight for name, (weight, _) in tables.items()},
            mode="mixed",
            batch_size=768,
            max_length=2048,
            frames=(8, 12, 16),
            frame_choice="uniform",
            workers=8,
            bucket=True,
            sources={name: source for name, (_, source) in tables.items()},
        ),
        optim=OptimConfig(
            lr=1e-5,
            betas=(0.9, 0.98),
            eps=1e-6,
            weight_decay=0.05,  # not given; as in pretraining
            clip_norm=5.0,
            warmup_steps=100,
            schedule="cosine",
        ),
    )


#: Kinds of data of Emu2-Gen and their shares of the steps, which the paper does not give. Object pictures come with the
#: grounded data there (cut out of it), so "composition" has its batch.
_GEN_KINDS = {"text_to_image": 0.4, "grounded_generation": 0.2, "composition": 0.2, "edit": 0.2}


def gen() -> RunConfig:
    """Emu2-Gen, first 3,000 steps: regress the last picture's embeddings (section 2.3.2, table 9)."""
    return _run(
        "gen",
        objective="gen",
        parts=("bridge", "language"),
        steps=3000,
        resolution=448,
        data=DataConfig(
            kinds=_GEN_KINDS,
            mode="one_kind",
            batch_size=4096,
            batch_sizes={"grounded_generation": 3584, "composition": 3584, "edit": 2048},
            max_length=2048,
            workers=8,
            bucket=True,
            # All pictures above 448 pixels.
            sources={
                "text_to_image": {"format": _TARS, "path": "data/capsfusion-filtered/*.tar", "min_side": 449},
                "grounded_generation": {"format": "grit", "path": "data/grit/*.tar", "min_side": 449},
                "composition": {"format": "grit", "path": "data/grit-segmented/*.tar", "min_side": 449},
                "edit": {"format": "instructpix2pix", "path": "data/instructpix2pix", "min_side": 449},
            },
        ),
        optim=OptimConfig(
            lr=5e-5,
            betas=(0.9, 0.95),
            eps=1e-6,
            weight_decay=0.05,  # not given; as in pretraining
            clip_norm=1.0,
            warmup_steps=100,  # of the text; the table's warmup ratio is 0
            schedule="cosine",
        ),
        # "Randomly dropped", "random backgrounds", "random crops", without rates: the settings' own defaults.
        gen=GenerationConfig(),
    )


def gen_quality() -> RunConfig:
    """Emu2-Gen, last 900 steps: quality tuning on 500,000 chosen pictures (section 2.3.2, table 9)."""
    first = gen()
    data = replace(
        first.data,
        batch_size=2048,
        batch_sizes={"grounded_generation": 1024, "composition": 1024},
        sources={
            **first.data.sources,
            "text_to_image": {"format": _TARS, "path": "data/quality/*.tar", "min_side": 449},
        },
    )
    return replace(first, name="gen_quality", steps=900, data=data, optim=replace(first.optim, lr=1e-5, warmup_steps=0))


RECIPES: dict[str, Callable[[], RunConfig]] = {
    "caption": caption,
    "caption_448": caption_448,
    "unified": unified,
    "decoder": decoder,
    "video_decoder": video_decoder,
    "chat": chat,
    "gen": gen,
    "gen_quality": gen_quality,
}
