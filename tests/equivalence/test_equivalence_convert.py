"""Every published form and ours hold the same bits, in both directions."""

import copy
import json

import pytest
import torch
from helpers_convert import (
    SAFETY_CHECKER,
    UNET,
    VAE,
    assert_same,
    decoder_parts,
    gen_state,
    hf_config,
    hf_state,
    native_state,
    published_safety_names,
    write_hf_folder,
    write_shards,
)
from safetensors.torch import load_file, save_file

from emu2 import Emu2ForConditionalGeneration, Emu2ImagePipeline
from emu2.convert import load_native, load_published, save_native, save_published, to_ours


@pytest.fixture
def tiny_pipeline(tiny_model):
    from diffusers import EulerDiscreteScheduler
    from transformers import CLIPImageProcessor

    from emu2.decoder.presets import scheduler_config

    unet, vae, checker = decoder_parts()
    return Emu2ImagePipeline(
        multimodal_encoder=tiny_model,
        processor=None,
        unet=unet,
        vae=vae,
        scheduler=EulerDiscreteScheduler.from_config(scheduler_config("sdxl")),
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor(),
    )


def _write(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_native_to_ours_to_native_is_lossless(tiny_model, tmp_path, suffix, dtype):
    state = native_state(tiny_model.to(dtype))
    file = _write(state, tmp_path / f"published{suffix}")
    model = load_native(file, "base", tiny_model.config, dtype=dtype)
    assert_same(model, tiny_model)
    save_native(model, tmp_path / "again.safetensors", "base")
    assert_same(load_file(tmp_path / "again.safetensors"), state)


def test_a_native_file_that_we_write_as_bin_loads_as_the_published_code_would(tiny_model, tmp_path):
    save_native(tiny_model, tmp_path / "native.bin", "chat")
    assert_same(torch.load(tmp_path / "native.bin", weights_only=True), native_state(tiny_model))


def test_the_stored_dtype_is_kept_but_float16_becomes_float32(tiny_model, tmp_path):
    for stored, loaded in ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)):
        file = _write(native_state(tiny_model.to(stored)), tmp_path / "native.safetensors")
        assert load_native(file, config=tiny_model.config).dtype == loaded


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict"])
def test_wrapped_state_dicts_are_unwrapped(tiny_model, tmp_path, wrapper):
    torch.save({wrapper: native_state(tiny_model), "epoch": 3}, tmp_path / "wrapped.pt")
    assert_same(load_native(tmp_path / "wrapped.pt", config=tiny_model.config), tiny_model)


def test_a_module_prefix_is_dropped(tiny_model, tmp_path):
    torch.save({f"module.{name}": t for name, t in native_state(tiny_model).items()}, tmp_path / "ddp.pt")
    assert_same(load_native(tmp_path / "ddp.pt", config=tiny_model.config), tiny_model)


def test_torch_files_from_before_the_zip_format_load(tiny_model, tmp_path):
    torch.save(native_state(tiny_model), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert_same(load_native(tmp_path / "old.bin", config=tiny_model.config), tiny_model)


def test_the_loaded_model_computes_the_same(tiny_model, tmp_path):
    file = _write(native_state(tiny_model), tmp_path / "native.bin")
    model = load_native(file, config=tiny_model.config)
    ids = torch.tensor([[1, 5, 101, 103, 103, 103, 103, 102, 7]])
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = (m(input_ids=ids, pixel_values=pixels).logits for m in (tiny_model, model))
    assert torch.equal(expected, found)


def test_published_folder_is_recognised(tiny_model, tmp_path):
    folder = write_hf_folder(tiny_model, tmp_path / "hf")
    model, info = Emu2ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert_same(model, tiny_model)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ours, theirs = tiny_model.config, model.config
    assert (theirs.num_query, theirs.num_video_query) == (ours.num_query, ours.num_video_query)
    assert theirs.vision_config.num_attention_heads == ours.vision_config.num_attention_heads
    assert theirs.vision_config.intermediate_size == ours.vision_config.intermediate_size
    assert theirs.image_token_id == ours.image_token_id
    assert theirs.image_start_token_id == ours.image_start_token_id
    assert not any(buffer.is_meta for buffer in model.buffers())


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_published_folder_takes_dtype_and_device_map(tiny_model, tmp_path, device_map):
    folder = write_hf_folder(tiny_model, tmp_path / "hf")
    model = Emu2ForConditionalGeneration.from_pretrained(folder, dtype="bf16", device_map=device_map)
    assert_same(model, tiny_model.to(torch.bfloat16))


def test_a_part_of_a_published_model_may_be_offloaded_to_disk(tiny_model, tmp_path):
    folder = write_hf_folder(tiny_model, tmp_path / "hf")
    placement = dict.fromkeys(("model.visual", "model.project_up", "model.project_down", "lm_head"), "cpu")
    model = Emu2ForConditionalGeneration.from_pretrained(
        folder, device_map={**placement, "model.language_model": "disk"}, offload_folder=tmp_path / "offload"
    )
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, tiny_model(input_ids=ids).logits, atol=1e-6)


def test_our_folders_load_by_every_entry(tiny_config, tiny_model, tmp_path):
    from transformers import AutoModelForImageTextToText

    tiny_model.save_pretrained(tmp_path / "plain", max_shard_size="60KB")
    assert_same(AutoModelForImageTextToText.from_pretrained(tmp_path / "plain"), tiny_model)
    model = Emu2ForConditionalGeneration.from_pretrained(
        tmp_path / "plain", num_query=16, attn_implementation="eager", torch_dtype="float32"
    )
    assert (model.config.num_query, model.config._attn_implementation) == (16, "eager")
    assert model.config.name_or_path == str(tmp_path / "plain")

    tied = copy.deepcopy(tiny_config)
    tied.text_config.tie_word_embeddings = tied.tie_word_embeddings = True
    tied_model = Emu2ForConditionalGeneration(tied)
    tied_model.save_pretrained(tmp_path / "tied")
    loaded = Emu2ForConditionalGeneration.from_pretrained(tmp_path / "tied")
    assert_same(loaded, tied_model)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight


def test_generation_settings_come_with_the_folder(tiny_model, tmp_path):
    tiny_model.generation_config.max_new_tokens = 7
    tiny_model.save_pretrained(tmp_path)
    assert Emu2ForConditionalGeneration.from_pretrained(tmp_path).generation_config.max_new_tokens == 7


@pytest.mark.parametrize("bits", ["load_in_8bit", "load_in_4bit"])
def test_a_published_folder_loads_quantised_as_our_own_does(tiny_model, tmp_path, bits):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes, an optional extra, is not installed")
    from transformers import BitsAndBytesConfig

    tiny_model.save_pretrained(tmp_path / "ours")
    write_hf_folder(tiny_model, tmp_path / "hf")
    quantization = BitsAndBytesConfig(**{bits: True})
    ours, theirs = (
        Emu2ForConditionalGeneration.from_pretrained(tmp_path / name, quantization_config=quantization)
        for name in ("ours", "hf")
    )
    assert ours.model.language_model.layers[0].mlp.up_proj.weight.dtype in (torch.int8, torch.uint8)
    assert_same(ours, theirs)


def test_published_to_ours_to_published_is_lossless(tiny_model, tmp_path):
    source = write_hf_folder(tiny_model, tmp_path / "hf", version="chat")
    model = Emu2ForConditionalGeneration.from_pretrained(source)
    model.save_pretrained(tmp_path / "ours")
    again = Emu2ForConditionalGeneration.from_pretrained(tmp_path / "ours")
    save_published(again, tmp_path / "again", "hf-chat", max_shard_size="60KB")
    shards = sorted((tmp_path / "again").glob("pytorch_model-*-of-*.bin"))
    assert len(shards) > 2
    written = {}
    for shard in shards:
        written.update(torch.load(shard, weights_only=True))
    assert_same(written, hf_state(tiny_model))
    index = json.loads((tmp_path / "again" / "pytorch_model.bin.index.json").read_text())
    assert set(index["weight_map"]) == set(written)
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    fields = json.loads((tmp_path / "again" / "config.json").read_text())
    expected = hf_config(tiny_model.config, version="chat")
    assert {name: fields[name] for name in expected if name not in ("auto_map", "vision_config", "xattn")} == {
        name: value for name, value in expected.items() if name not in ("auto_map", "vision_config", "xattn")
    }
    assert_same(Emu2ForConditionalGeneration.from_pretrained(tmp_path / "again"), tiny_model)


def test_a_key_bias_is_dropped_and_changes_nothing(tiny_model, tmp_path):
    state = hf_state(tiny_model)
    fused = [name for name in state if name.endswith("qkv.bias")]
    for name in fused:
        third = state[name].shape[0] // 3
        state[name][third : 2 * third] = 5.0
    write_shards(state, tmp_path, "pytorch_model-{number:05d}-of-{count:05d}.bin", ["pytorch_model.bin.index.json"])
    (tmp_path / "config.json").write_text(json.dumps(hf_config(tiny_model.config)))
    assert fused
    assert_same(Emu2ForConditionalGeneration.from_pretrained(tmp_path), tiny_model)


@pytest.mark.parametrize("naming", ["published", "flattened"])
def test_gen_file_gives_the_pipeline_and_back(tiny_pipeline, tmp_path, naming):
    pipe = tiny_pipeline
    state = gen_state(pipe.multimodal_encoder, pipe.unet, pipe.vae, pipe.safety_checker)
    if naming == "flattened":
        state = {name.replace("vision_model.vision_model.", "vision_model."): t for name, t in state.items()}
    save_file(state, tmp_path / "gen.safetensors")
    config = {
        "multimodal_encoder": pipe.multimodal_encoder.config,
        "unet": UNET,
        "vae": VAE,
        "safety_checker": SAFETY_CHECKER,
    }
    loaded = load_native(tmp_path / "gen.safetensors", "gen", config)
    for part in ("multimodal_encoder", "unet", "vae", "safety_checker"):
        assert_same(getattr(loaded, part), getattr(pipe, part))
    assert not any(buffer.is_meta for buffer in loaded.safety_checker.buffers())
    save_native(loaded, tmp_path / "again.safetensors", "gen")
    published = gen_state(pipe.multimodal_encoder, pipe.unet, pipe.vae, pipe.safety_checker)
    assert_same(load_file(tmp_path / "again.safetensors"), published)


def test_gen_takes_its_configurations_as_keywords(tiny_pipeline, tmp_path):
    pipe = tiny_pipeline
    save_file(gen_state(pipe.multimodal_encoder, pipe.unet, pipe.vae), tmp_path / "gen.safetensors")
    loaded = load_native(
        tmp_path / "gen.safetensors",
        variant="gen",
        config=pipe.multimodal_encoder.config,
        unet_config=UNET,
        vae_config=VAE,
        scheduler_config={"num_train_timesteps": 500},
        dtype=torch.float32,
    )
    assert loaded.safety_checker is None
    assert loaded.scheduler.config.num_train_timesteps == 500


def test_old_attention_names_of_the_autoencoder_are_understood(tiny_pipeline, tmp_path):
    pipe = tiny_pipeline
    state = gen_state(pipe.multimodal_encoder, pipe.unet, pipe.vae)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        state = {
            name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.") if name.startswith("vae.") else name: tensor
            for name, tensor in state.items()
        }
    assert any(".attentions.0.proj_attn." in name for name in state)
    save_file(state, tmp_path / "gen.safetensors")
    config = {"multimodal_encoder": pipe.multimodal_encoder.config, "unet": UNET, "vae": VAE}
    assert_same(load_native(tmp_path / "gen.safetensors", "gen", config).vae, pipe.vae)


def test_published_gen_folder_both_ways(tiny_pipeline, tmp_path):
    pipe = tiny_pipeline
    for part in ("multimodal_encoder", "unet", "vae", "safety_checker"):
        getattr(pipe, part).to(torch.bfloat16)
    save_published(pipe, tmp_path / "gen", "hf-gen", max_shard_size="60KB")
    encoder = tmp_path / "gen" / "multimodal_encoder"
    shards = sorted(file.name for file in encoder.glob("*.safetensors"))
    assert shards[0] == f"model.bf16-00001-of-{len(shards):05d}.safetensors"
    assert len(shards) > 2
    indexes = [encoder / name for name in ("model.safetensors.index.bf16.json", "model.safetensors.index.json")]
    assert indexes[0].read_text() == indexes[1].read_text()
    checker_file = tmp_path / "gen" / "safety_checker" / "model.bf16.safetensors"
    assert_same(load_file(checker_file), published_safety_names(pipe.safety_checker.state_dict()))

    loaded = load_published(tmp_path / "gen")
    for part in ("multimodal_encoder", "unet", "vae", "safety_checker"):
        assert_same(getattr(loaded, part), getattr(pipe, part))
    assert_same(Emu2ForConditionalGeneration.from_pretrained(encoder), pipe.multimodal_encoder)
    indexes[1].unlink()  # either index is enough
    assert_same(Emu2ForConditionalGeneration.from_pretrained(encoder), pipe.multimodal_encoder)


def test_disk_to_disk_conversion_equals_loading_and_saving(tiny_model, tmp_path):
    save_file(native_state(tiny_model), tmp_path / "native.safetensors")
    config = tiny_model.config
    kind = to_ours(tmp_path / "native.safetensors", tmp_path / "a", config=config, max_shard_size="50KB")
    assert kind == "native-base"
    assert len(list((tmp_path / "a").glob("model-*.safetensors"))) > 2
    assert_same(Emu2ForConditionalGeneration.from_pretrained(tmp_path / "a"), tiny_model)
    assert to_ours(write_hf_folder(tiny_model, tmp_path / "hf"), tmp_path / "b", dtype="bf16") == "hf-base"
    loaded = Emu2ForConditionalGeneration.from_pretrained(tmp_path / "b")
    assert_same(loaded, tiny_model.to(torch.bfloat16))
    assert loaded.config.num_query == config.num_query


@pytest.mark.parametrize("source", ["native", "published"])
def test_disk_to_disk_conversion_of_a_pipeline(tiny_pipeline, tmp_path, source):
    pipe = tiny_pipeline
    config = {
        "multimodal_encoder": pipe.multimodal_encoder.config,
        "unet": UNET,
        "vae": VAE,
        "safety_checker": SAFETY_CHECKER,
    }
    if source == "native":
        state = gen_state(pipe.multimodal_encoder, pipe.unet, pipe.vae, pipe.safety_checker)
        save_file(state, tmp_path / "gen.safetensors")
        kind = to_ours(tmp_path / "gen.safetensors", tmp_path / "ours", config=config)
    else:
        save_published(pipe, tmp_path / "gen", "hf-gen", dtype=torch.float32)
        settings = tmp_path / "gen" / "feature_extractor" / "preprocessor_config.json"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "size": {"shortest_edge": 28}}))
        kind = to_ours(tmp_path / "gen", tmp_path / "ours")
    assert kind == ("native-gen" if source == "native" else "hf-gen")
    loaded = Emu2ImagePipeline.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    for part in ("multimodal_encoder", "unet", "vae", "safety_checker"):
        assert_same(getattr(loaded, part), getattr(pipe, part))
    assert loaded.feature_extractor.size["shortest_edge"] == (224 if source == "native" else 28)
