"""Parts the decoder's tests share: recorded ones, and tiny ones of real classes."""

import json
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel, UNet3DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from emu2 import Emu2Config, Emu2ImagePipeline, presets
from emu2.decoder.presets import scheduler_config, unet_config, vae_config, video_unet_config
from emu2.decoder.video_unet import FilmUNet
from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
from emu2.processing.image import Emu2ImageProcessor
from emu2.processing.processor import Emu2Processor
from emu2.processing.tokenizer import load_tokenizer, train_tokenizer

#: As few denoising steps as tell anything.
STEPS = {"num_inference_steps": 2}


def recorded_config(parity_dir: Path) -> dict:
    """Configurations of the recorded image-generation model (variant base224), as `load_native` takes them."""
    recorded = json.loads((parity_dir / "fixture_config.json").read_text())
    vision, text, variant = recorded["vision"], recorded["lm"], recorded["models"]["base224"]
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps")
    encoder = Emu2Config(
        vision_config={
            "hidden_size": vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["heads"],
            "intermediate_size": vision["mlp_hidden"],
            "image_size": variant["image_size"],
            "patch_size": vision["patch"],
        },
        text_config={
            "model_type": "llama",
            "vocab_size": variant["vocab"],
            "max_position_embeddings": text["max_position_embeddings"],
            "pad_token_id": 32000,
            **{name: text[name] for name in names},
        },
        num_query=variant["n_query"],
        num_video_query=variant["v_query"],
    )
    return {"multimodal_encoder": encoder, **{name: recorded[name] for name in ("unet", "vae", "scheduler")}}


def write_recorded_native_file(parity_dir: Path, file: Path) -> None:
    """The recorded weights as one native image-generation file, with the published names."""
    encoder = {name: w.float() for name, w in load_file(parity_dir / "weights.safetensors").items()}
    encoder["visual.pos_embed"] = load_file(parity_dir / "weights_pos.safetensors")["224/visual.pos_embed"].float()
    for name in ("decoder.lm.model.embed_tokens.weight", "decoder.lm.lm_head.weight"):
        encoder[name] = encoder[name][:32272].clone()
    state = {f"multimodal_encoder.{name}": w for name, w in encoder.items()}
    state.update({name: w.float() for name, w in load_file(parity_dir / "weights_diffusion.safetensors").items()})
    save_file(state, file)


class RecordedPictures(Emu2ImageProcessor):
    """Feeds the recorded pictures instead of resizing the files, which depends on Pillow's version (MANIFEST 3.1)."""

    def __init__(self, parity_dir: Path):
        super().__init__(size=224)
        recorded = load_file(parity_dir / "preprocess.safetensors")
        self._by_pixels = {}
        for index in range(4):
            picture = Image.open(parity_dir / "images" / f"img{index}.png").convert("RGB")
            self._by_pixels[picture.tobytes()] = recorded[f"img{index}.s224"].numpy()

    def pixels(self, image) -> np.ndarray:
        known = self._by_pixels.get(image.tobytes()) if isinstance(image, Image.Image) else None
        return super().pixels(image) if known is None else known


def recorded_processor(shared_dir: Path) -> Emu2Processor:
    tokenizer = load_tokenizer(shared_dir / "tokenizer", chat=False)
    return Emu2Processor(RecordedPictures(shared_dir / "parity" / "open"), tokenizer, num_query=64, num_video_query=64)


def recorded_prompt(case: dict, parity_dir: Path) -> list:
    """A recorded case's prompt as a mixed list."""
    return [
        part["text"] if "text" in part else Image.open(parity_dir / part["png"]).convert("RGB")
        for part in case["inputs"]
    ]


# Tiny parts: 28-pixel pictures in, embeddings 32 wide, 16-pixel pictures out


@cache
def _tiny_tokenizer():
    return train_tokenizer(["a red cat on a blue table", "two dogs by the river"] * 4, vocab_size=600, chat=True)


def tiny_encoder() -> tuple[Emu2ForConditionalGeneration, Emu2Processor]:
    """A seeded Emu2 of real parts with its processor: 28-pixel pictures, 4 embeddings of width 32."""
    tokenizer = _tiny_tokenizer()
    config = presets.debug(vocab_size=len(tokenizer), first_special_id=tokenizer.convert_tokens_to_ids("[PAD]"))
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "image_size": 28, "patch_size": 7}
    text = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4}
    fields = config.to_dict()
    fields.update(
        vision_config={**config.vision_config.to_dict(), **vision},
        text_config={**config.text_config.to_dict(), **text, "num_key_value_heads": 4, "head_dim": 12},
        num_query=4,
        num_video_query=4,
    )
    torch.manual_seed(0)
    model = Emu2ForConditionalGeneration(Emu2Config(**fields)).eval()
    return model, Emu2Processor(Emu2ImageProcessor(size=28), tokenizer, 4, 4)


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    small = {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [8, 8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 16,
    }
    return AutoencoderKL.from_config({**vae_config("sdxl"), **small}).eval()


def tiny_unet(embedding_dim: int = 32) -> UNet2DConditionModel:
    torch.manual_seed(2)
    small = {
        "sample_size": 4,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2,
        "block_out_channels": [16, 32],
        "transformer_layers_per_block": [1, 1],
        "attention_head_dim": [2, 4],
        "norm_num_groups": 8,
        "cross_attention_dim": embedding_dim,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": embedding_dim + 6 * 8,
    }
    return UNet2DConditionModel.from_config({**unet_config("debug"), **small}).eval()


def tiny_video_unet(embedding_dim: int = 32, *, placed: bool = False) -> UNet3DConditionModel:
    """`placed`: it is given embeddings at their places."""
    torch.manual_seed(3)
    channels = 4 + embedding_dim if placed else 4
    small = {"sample_size": 4, "in_channels": channels, "out_channels": 4, "block_out_channels": [16, 32]}
    small.update({"norm_num_groups": 8, "attention_head_dim": 8})
    return UNet3DConditionModel.from_config(
        {**video_unet_config("debug"), **small, "cross_attention_dim": embedding_dim}
    ).eval()


def tiny_film_unet(embedding_dim: int = 32, *, spoken: bool = True) -> FilmUNet:
    """The tiny image U-Net over time, given embeddings at their places; `spoken`: its temporal parts say something."""
    torch.manual_seed(2)
    config = {**tiny_unet(embedding_dim).config, "in_channels": 4 + embedding_dim}
    unet = FilmUNet.of_image_unet(UNet2DConditionModel.from_config(config)).eval()
    if spoken:
        with torch.no_grad():
            for tensor in unet.temporal_weights().values():
                tensor.normal_(std=0.2)
    return unet


def euler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler.from_config(scheduler_config("sdxl"))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed: int = 0, size: tuple[int, int] = (20, 14)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def tiny_pipe() -> Emu2ImagePipeline:
    """A seeded pipeline that draws 16-pixel pictures."""
    return quiet(Emu2ImagePipeline(*tiny_encoder(), tiny_unet(), tiny_vae(), euler()))


def copy_of(pipe: Emu2ImagePipeline) -> Emu2ImagePipeline:
    """A pipeline of the same parts, to be changed."""
    parts = {name: part if name == "processor" else deepcopy(part) for name, part in pipe.components.items()}
    return quiet(Emu2ImagePipeline(**parts))


def seeded(*seeds: int) -> torch.Generator | list[torch.Generator]:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(generators) > 1 else generators[0]


def latents_of(pipe, prompt, **options) -> torch.Tensor:
    options = {"generator": seeded(0), "output_type": "latent", **STEPS, **options}
    return pipe(prompt, **options).images


def count_calls(monkeypatch, model, name: str) -> list:
    """The (arguments, keyword arguments) of every later call of a method."""
    calls = []
    method = getattr(model, name)

    def counted(*args, **kwargs):
        calls.append((args, kwargs))
        return method(*args, **kwargs)

    monkeypatch.setattr(model, name, counted)
    return calls
