"""Pipelines on disk: our own folders, the published Emu2-Gen folder, the safety checker."""

import json

import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from helpers_decoder import euler, picture, quiet, tiny_encoder, tiny_film_unet, tiny_unet, tiny_vae, tiny_video_unet
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor

from emu2 import Emu2ImagePipeline, Emu2VideoPipeline
from emu2.convert import save_published

CALL = {"num_inference_steps": 2, "output_type": "latent"}


def tiny_safety_checker() -> StableDiffusionSafetyChecker:
    torch.manual_seed(4)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(projection_dim=8, vision_config={**vision, "image_size": 28, "patch_size": 14})
    return StableDiffusionSafetyChecker(config).eval()


def feature_extractor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})


@pytest.fixture(scope="module")
def image_pipe():
    pipe = Emu2ImagePipeline(
        *tiny_encoder(), tiny_unet(), tiny_vae(), euler(), tiny_safety_checker(), feature_extractor()
    )
    return quiet(pipe)


def draw(pipe, prompt="a red cat", **options):
    return quiet(pipe)(prompt, generator=torch.Generator().manual_seed(0), **{**CALL, **options})


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


# Our own folders


def test_image_pipeline_round_trip_is_bitwise(image_pipe, tmp_path):
    image_pipe.save_pretrained(tmp_path)
    again = Emu2ImagePipeline.from_pretrained(tmp_path)
    for name in ("multimodal_encoder", "unet", "vae", "safety_checker"):
        assert_same_weights(getattr(image_pipe, name), getattr(again, name))
    for prompt in ("a red cat", picture(), [picture(), "make it snow"]):
        assert torch.equal(draw(image_pipe, prompt).images, draw(again, prompt).images)
    assert again.safety_checker is not None
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "Emu2ImagePipeline"


def test_optional_parts_and_settings_survive(image_pipe, tmp_path):
    parts = {**image_pipe.components, "safety_checker": None, "feature_extractor": None}
    Emu2ImagePipeline(**parts, default_original_size=77).save_pretrained(tmp_path / "plain")
    again = Emu2ImagePipeline.from_pretrained(tmp_path / "plain")
    assert again.safety_checker is None
    assert again.config.default_original_size == 77

    alone = {**parts, "multimodal_encoder": None, "processor": None}
    Emu2ImagePipeline(**alone).save_pretrained(tmp_path / "decoder")
    decoder = Emu2ImagePipeline.from_pretrained(tmp_path / "decoder")
    assert decoder.multimodal_encoder is None
    embeds = torch.randn(2, 4, 32)
    made = draw(decoder, None, prompt_embeds=embeds[:1], negative_prompt_embeds=embeds[1:]).images
    assert made.shape == (1, 4, 4, 4)
    whole = Emu2ImagePipeline.from_pretrained(
        tmp_path / "decoder", multimodal_encoder=image_pipe.multimodal_encoder, processor=image_pipe.processor
    )
    assert torch.equal(draw(whole).images, draw(image_pipe).images)


def test_parts_given_later_are_used_and_saved(image_pipe, tmp_path):
    """As with a pipeline from a native file, which holds no tokeniser."""
    parts = {**image_pipe.components, "processor": None, "safety_checker": None, "feature_extractor": None}
    pipe = Emu2ImagePipeline(**parts)
    pipe.processor = image_pipe.processor
    assert torch.equal(draw(pipe).images, draw(image_pipe).images)
    pipe.save_pretrained(tmp_path)
    assert torch.equal(draw(Emu2ImagePipeline.from_pretrained(tmp_path)).images, draw(image_pipe).images)


def test_dtype_of_all_parts_is_an_argument_and_float32_by_default(image_pipe, tmp_path):
    image_pipe.save_pretrained(tmp_path)
    for options, dtype in (({}, torch.float32), ({"dtype": torch.bfloat16}, torch.bfloat16)):
        pipe = Emu2ImagePipeline.from_pretrained(tmp_path, **options)
        for name in ("multimodal_encoder", "unet", "vae", "safety_checker"):
            assert getattr(pipe, name).dtype == dtype, name
    assert draw(pipe).images.dtype == torch.bfloat16
    assert draw(pipe, output_type="pil").images[0].size == (16, 16)


@pytest.mark.parametrize("make_unet", [tiny_video_unet, tiny_film_unet])
def test_video_pipeline_round_trip_is_bitwise(tmp_path, make_unet):
    pipe = Emu2VideoPipeline(*tiny_encoder(), make_unet(), tiny_vae(), euler())
    pipe.save_pretrained(tmp_path)
    again = Emu2VideoPipeline.from_pretrained(tmp_path)
    assert torch.equal(draw(pipe, num_frames=2).frames, draw(again, num_frames=2).frames)


# The published folder


@pytest.fixture(scope="module")
def published(image_pipe, tmp_path_factory):
    """A tiny folder of the form of the published Emu2-Gen: its names, its variants, its model_index.json."""
    folder = tmp_path_factory.mktemp("published") / "Emu2-Gen"
    save_published(image_pipe, folder, "hf-gen", dtype=torch.bfloat16, max_shard_size="100KB")
    image_pipe.processor.tokenizer.save_pretrained(folder / "tokenizer")
    image_pipe.feature_extractor.save_pretrained(folder / "feature_extractor")
    return folder


def test_the_published_folder_is_recognised_and_equal(image_pipe, published):
    assert json.loads((published / "model_index.json").read_text())["_class_name"] == "EmuVisualGenerationPipeline"
    assert [file.name for file in (published / "unet").glob("*.safetensors")] == [
        "diffusion_pytorch_model.bf16.safetensors"
    ]
    for options in ({}, {"variant": "bf16"}):
        pipe = Emu2ImagePipeline.from_pretrained(published, **options)
        for name in ("multimodal_encoder", "unet", "vae", "safety_checker"):
            rounded = {k: v.bfloat16().float() for k, v in getattr(image_pipe, name).state_dict().items()}
            loaded = getattr(pipe, name).state_dict()
            assert loaded.keys() == rounded.keys()
            for key, value in rounded.items():
                assert torch.equal(loaded[key], value), f"{name}.{key}"
    assert pipe.scheduler.config.timestep_spacing == "leading"
    assert pipe.processor.num_query == 4
    assert pipe.feature_extractor.crop_size["height"] == 28
    for prompt in ("a red cat", picture()):
        assert draw(pipe, prompt).images.shape == (1, 4, 4, 4)


def test_published_parts_can_be_replaced_or_left_out(image_pipe, published):
    pipe = Emu2ImagePipeline.from_pretrained(
        published, safety_checker=None, unet=image_pipe.unet, dtype=torch.bfloat16, default_original_size=64
    )
    assert pipe.safety_checker is None
    assert pipe.unet is image_pipe.unet
    assert pipe.vae.dtype == pipe.multimodal_encoder.dtype == torch.bfloat16
    assert pipe.config.default_original_size == 64


def test_a_missing_part_of_a_published_folder_is_named(published, tmp_path):
    (tmp_path / "model_index.json").write_bytes((published / "model_index.json").read_bytes())
    with pytest.raises(ValueError, match="part multimodal_encoder/ is missing"):
        Emu2ImagePipeline.from_pretrained(tmp_path)
    (tmp_path / "multimodal_encoder").symlink_to(published / "multimodal_encoder")
    (tmp_path / "tokenizer").symlink_to(published / "tokenizer")
    (tmp_path / "unet").mkdir()
    with pytest.raises(ValueError, match=r"unet holds no safetensors weights"):
        Emu2ImagePipeline.from_pretrained(tmp_path)
    for variant in ("bf16", "fp16"):
        save_file({"x": torch.zeros(1)}, tmp_path / "unet" / f"diffusion_pytorch_model.{variant}.safetensors")
    with pytest.raises(ValueError, match=r"variants \['bf16', 'fp16'\]; name one"):
        Emu2ImagePipeline.from_pretrained(tmp_path)


def test_both_namings_of_the_safety_checker_load(image_pipe, published, tmp_path):
    """Files of transformers 4.31 nest the vision model twice, today's class once."""
    names = load_file(next((published / "safety_checker").glob("*.safetensors")))
    assert any(name.startswith("vision_model.vision_model.") for name in names)
    folder = tmp_path / "Emu2-Gen"
    folder.mkdir()
    for part in published.iterdir():
        if part.name != "safety_checker":
            (folder / part.name).symlink_to(part)
    image_pipe.safety_checker.save_pretrained(folder / "safety_checker")
    pipe = Emu2ImagePipeline.from_pretrained(folder)
    assert_same_weights(pipe.safety_checker, image_pipe.safety_checker)


def test_a_name_that_is_neither_folder_nor_hub_name(tmp_path):
    with pytest.raises(ValueError, match="not a folder"):
        Emu2ImagePipeline.from_pretrained(tmp_path / "nowhere")


# The safety checker


def test_the_safety_checker_reports_and_blackens(image_pipe):
    checker = image_pipe.safety_checker
    prompts = [["a red cat"], ["two dogs"]]
    try:
        checker.concept_embeds_weights.data.fill_(2.0)  # no cosine is that large
        passed = draw(image_pipe, prompts, output_type="pt")
        checker.concept_embeds_weights.data.fill_(-2.0)
        flagged = draw(image_pipe, prompts, output_type="pt")
    finally:
        checker.concept_embeds_weights.data.fill_(1.0)
    assert passed.nsfw_content_detected == [False, False]
    assert passed.images.any()
    assert flagged.nsfw_content_detected == [True, True]
    assert not flagged.images.any()
    assert draw(image_pipe).nsfw_content_detected is None  # latents were not looked at


def test_without_a_safety_checker_pictures_are_those_it_would_pass(image_pipe):
    parts = {**image_pipe.components, "safety_checker": None, "feature_extractor": None}
    unchecked = draw(Emu2ImagePipeline(**parts), output_type="pt")
    image_pipe.safety_checker.concept_embeds_weights.data.fill_(2.0)
    assert torch.equal(draw(image_pipe, output_type="pt").images, unchecked.images)
    assert unchecked.nsfw_content_detected is None


def test_a_safety_checker_needs_its_feature_extractor(image_pipe):
    with pytest.raises(ValueError, match="needs its feature_extractor"):
        Emu2ImagePipeline(**{**image_pipe.components, "feature_extractor": None})
