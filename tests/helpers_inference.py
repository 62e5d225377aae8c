"""Small whole models on disk, of real parts with random weights: what `emu2.load` and the commands are tested on."""

from pathlib import Path

import torch
from PIL import Image

from emu2 import Emu2ForConditionalGeneration, Emu2ImageProcessor, Emu2Processor, presets
from emu2.processing.tokenizer import train_tokenizer

TEXTS = ["a photo of a red dog and two blue cats", "what is this? it is a bicycle in the rain."] * 4


def build_parts() -> tuple[Emu2ForConditionalGeneration, Emu2Processor]:
    """A seeded model of the debug size with fewer layers, and its processor."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=280, chat=True)
    config = presets.debug(vocab_size=len(tokenizer), first_special_id=tokenizer.convert_tokens_to_ids("[PAD]"))
    config.vision_config.num_hidden_layers = 1
    config.text_config.num_hidden_layers = 2
    torch.manual_seed(0)
    model = Emu2ForConditionalGeneration(config).eval()
    processor = Emu2Processor(
        Emu2ImageProcessor(size=config.vision_config.image_size),
        tokenizer,
        num_query=config.num_query,
        num_video_query=config.num_video_query,
    )
    return model, processor


def save_language_model(folder: Path) -> Path:
    model, processor = build_parts()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_pipeline(folder: Path, *, video: bool = False) -> Path:
    """The model with an untrained image or video decoder, as a diffusers folder."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel, UNet3DConditionModel

    from emu2 import Emu2ImagePipeline, Emu2VideoPipeline
    from emu2.decoder import presets as decoder_presets

    model, processor = build_parts()
    torch.manual_seed(1)
    if video:
        unet = UNet3DConditionModel(**decoder_presets.video_unet_config("debug"))
    else:
        unet = UNet2DConditionModel(**decoder_presets.unet_config("debug"))
    pipeline = (Emu2VideoPipeline if video else Emu2ImagePipeline)(
        multimodal_encoder=model,
        processor=processor,
        unet=unet,
        vae=AutoencoderKL(**decoder_presets.vae_config("debug")),
        scheduler=EulerDiscreteScheduler.from_config(decoder_presets.scheduler_config("debug")),
    )
    pipeline.save_pretrained(folder)
    return folder


def picture(colour: str = "red", size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, colour)
