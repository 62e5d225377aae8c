"""The image decoder against the numbers the published code produced, case by case."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from helpers_decoder import quiet, recorded_config, recorded_processor, recorded_prompt, write_recorded_native_file
from PIL import Image

from emu2 import Box, Emu2ImagePipeline
from emu2.convert import load_native, save_published
from emu2.decoder.presets import scheduler_config

CASES = [
    *(
        f"{name}.s{steps}.g{g}"
        for name in ("text", "edit", "autoencode", "grounded")
        for steps in (4, 10)
        for g in (3, 1)
    ),
    "text_rect",
]

# parity/MANIFEST.md section 4: max abs, relative L2
LIMITS = {
    "sigmas": (1e-5, 2e-6),
    "text_embeds": (1e-6, 1e-6),
    "unet_in": (2e-4, 4e-5),
    "unet_out": (2e-4, 4e-5),
    "latents": (8e-4, 2e-5),
    "image_raw": (2e-4, 4e-5),
}


def assert_within(name: str, got: torch.Tensor, expected: torch.Tensor, limits: tuple[float, float]) -> None:
    assert got.shape == expected.shape, (name, got.shape, expected.shape)
    difference = (got.double() - expected.double()).abs()
    worst, relative = difference.max().item(), (difference.norm() / expected.double().norm()).item()
    assert worst <= limits[0], f"{name}: off by {worst:.3g}, allowed {limits[0]:.3g}"
    assert relative <= limits[1], f"{name}: relative error {relative:.3g}, allowed {limits[1]:.3g}"


def assert_same_picture(got: torch.Tensor, expected: torch.Tensor) -> None:
    """uint8 HWC: at most one level apart, on at most 0.2% of the values."""
    levels = (got.int() - expected.int()).abs()
    assert levels.max() <= 1
    assert (levels > 0).float().mean() <= 0.002


def as_levels(image: Image.Image) -> torch.Tensor:
    return torch.as_tensor(np.asarray(image).copy())


@pytest.fixture(scope="module")
def recorded(load_parity):
    tensors, description = load_parity("diffusion")
    return tensors, {case["key"]: case for case in description["cases"]}


@pytest.fixture(scope="module")
def pipe(shared_dir, parity_dir, tmp_path_factory):
    """The recorded image-generation model, loaded strictly from one native file by the shipped converter."""
    file = tmp_path_factory.mktemp("native") / "Emu2-Gen.safetensors"
    write_recorded_native_file(parity_dir, file)
    config = recorded_config(parity_dir)
    return quiet(load_native(file, "gen", config=config, processor=recorded_processor(shared_dir)))


def inputs_of(recorded, key: str) -> tuple[dict, str]:
    """A case, and the key its noise and embeddings stand under."""
    case = recorded[1][key]
    return case, case.get("shares_inputs_with", key)


def call_arguments(case: dict) -> dict:
    """The call as recorded. Sizes that have the published defaults are left to the pipeline's defaults."""
    arguments = {"num_inference_steps": case["steps"], "guidance_scale": case["guidance"]}
    arguments.update(height=case["height"], width=case["width"])
    if (case["original_size"], case["crop_info"]) != ([1024, 1024], [0, 0]):
        arguments.update(original_size=case["original_size"], crops_coords_top_left=case["crop_info"])
    return arguments


@pytest.mark.parametrize("key", CASES)
def test_every_step_from_recorded_embeddings_and_noise(key, recorded, pipe, monkeypatch):
    tensors, (case, source) = recorded[0], inputs_of(recorded, key)
    seen: dict[str, list] = {"unet_in": [], "unet_out": [], "latents": [], "conditions": []}
    forward = pipe.unet.forward

    def watched(sample, timestep, **kwargs):
        out = forward(sample, timestep, **kwargs)
        seen["unet_in"].append(sample)
        seen["unet_out"].append(out[0])
        seen["conditions"].append(kwargs["added_cond_kwargs"])
        return out

    monkeypatch.setattr(pipe.unet, "forward", watched)
    rows = tensors[f"{source}.prompt_embeds"]
    guided = case["guidance"] > 1
    result = pipe(
        prompt_embeds=rows[:1],
        negative_prompt_embeds=rows[1:] if guided else None,
        latents=tensors[f"{source}.noise"],
        callback_on_step_end=lambda _, i, t, kw: seen["latents"].append(kw["latents"]),
        **call_arguments(case),
    )

    # Exact things first
    assert torch.equal(pipe.scheduler.timesteps, tensors[f"{key}.timesteps"])
    assert_within("sigmas", pipe.scheduler.sigmas, tensors[f"{key}.sigmas"], LIMITS["sigmas"])
    assert float(pipe.scheduler.init_noise_sigma) == pytest.approx(case["init_noise_sigma"], rel=1e-6)
    conditions = seen["conditions"][0]
    assert torch.equal(conditions["time_ids"].flatten(), tensors[f"{source}.time_ids"])
    assert conditions["time_ids"].dtype == torch.int64
    assert_within("text_embeds", conditions["text_embeds"], tensors[f"{source}.text_embeds"], LIMITS["text_embeds"])

    for name in ("unet_in", "unet_out", "latents"):
        if f"{key}.{name}" in tensors:
            assert_within(name, torch.stack(seen[name]), tensors[f"{key}.{name}"], LIMITS[name])
    if f"{key}.image_raw" in tensors:
        raw = pipe.decode_latents(seen["latents"][-1])
        assert_within("image_raw", raw, tensors[f"{key}.image_raw"], LIMITS["image_raw"])
    assert_same_picture(as_levels(result.images[0]), tensors[f"{key}.image_u8"])


def test_the_preset_scheduler_is_the_recorded_one(parity_dir):
    recorded = json.loads((parity_dir / "fixture_config.json").read_text())["scheduler"]
    preset = EulerDiscreteScheduler.from_config(scheduler_config("sdxl"))
    assert {name: preset.config[name] for name in recorded} == recorded


# End to end: prompts through tokeniser, language model and vision tower

EMBEDDING_LIMITS = {"generated": (3e-3, 2e-4), "encoded": (1e-4, 3e-6)}  # generate_image of 64, encode_image


@pytest.mark.parametrize("key", CASES)
def test_prompts_to_pictures(key, recorded, pipe, parity_dir):
    tensors, (case, source) = recorded[0], inputs_of(recorded, key)
    prompt, rows = recorded_prompt(case, parity_dir), tensors[f"{source}.prompt_embeds"]
    limits = EMBEDDING_LIMITS["encoded" if case["name"] == "autoencode" else "generated"]
    guided = case["guidance"] > 1
    conditional, unconditional = pipe.encode_prompt(prompt, do_classifier_free_guidance=guided)
    embeds = torch.cat([conditional, unconditional]) if guided else conditional
    assert_within("prompt_embeds", embeds, rows, limits)

    image = pipe(prompt, latents=tensors[f"{source}.noise"], **call_arguments(case)).images[0]
    assert_same_picture(as_levels(image), tensors[f"{key}.image_u8"])


def test_boxes_spell_out_the_recorded_grounded_prompt(recorded, pipe, parity_dir):
    words, source = recorded_prompt(recorded[1]["grounded.s4.g1"], parity_dir), "grounded.s4.g1"
    assert words[0] == "<grounding>"
    boxes = []
    for index in (3, 7):
        left, top, right, bottom = words[index].getbbox()
        boxes.append((left, top, right - 1, bottom - 1))
    prompt = [words[1], Box(boxes[0], "the first cat", image=words[5]), Box(boxes[1], "the second cat", image=words[9])]
    embeds = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)[0]
    assert_within("prompt_embeds", embeds, recorded[0][f"{source}.prompt_embeds"], EMBEDDING_LIMITS["generated"])


def test_the_published_folder_form_gives_the_recorded_embeddings(recorded, pipe, shared_dir, parity_dir, tmp_path):
    """Emu2-Gen's diffusers folder, with LLaMA's own tokeniser files in it, opened by the pipeline itself."""
    folder = tmp_path / "Emu2-Gen"
    save_published(pipe, folder, "hf-gen", dtype=torch.float32)
    shutil.rmtree(folder / "tokenizer", ignore_errors=True)
    (folder / "tokenizer").symlink_to(shared_dir / "tokenizer")
    loaded = Emu2ImagePipeline.from_pretrained(folder)
    key = "text.s4.g3"
    embeds = torch.cat(loaded.encode_prompt(recorded_prompt(recorded[1][key], parity_dir)))
    assert_within("prompt_embeds", embeds, recorded[0][f"{key}.prompt_embeds"], EMBEDDING_LIMITS["generated"])
    unet = loaded.unet.state_dict()
    assert all(torch.equal(weight, unet[name]) for name, weight in pipe.unet.state_dict().items())


def test_all_prompts_in_one_batch(recorded, pipe, parity_dir):
    """Prompts of every kind at once, autoencoding among them, give each its own recorded embeddings."""
    keys = [f"{name}.s4.g3" for name in ("text", "edit", "autoencode", "grounded")]
    prompts = [recorded_prompt(recorded[1][key], parity_dir) for key in keys]
    conditional, unconditional = pipe.encode_prompt(prompts)
    for row, key in enumerate(keys):
        got = torch.stack([conditional[row], unconditional[row]])
        assert_within(key, got, recorded[0][f"{key}.prompt_embeds"], EMBEDDING_LIMITS["generated"])
