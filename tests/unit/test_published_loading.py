"""Published folders by the ways their users know: a part's folder, the bf16 variant, their names on the hub."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers_convert import decoder_parts, hf_state, write_hf_folder, write_shards

import emu2
from emu2.convert import native, save_published

REVISION = "0123456789012345678901234567890123456789"


@pytest.fixture
def published_pipeline(tiny_model, tmp_path) -> Path:
    """Emu2-Gen's folder, tokeniser and safety checker left out."""
    unet, vae, _ = decoder_parts()
    pipe = native.build_pipeline(tiny_model, unet, vae)
    save_published(pipe, tmp_path / "Emu2-Gen", "hf-gen", dtype="float32")
    return tmp_path / "Emu2-Gen"


def as_on_the_hub(folder: Path, name: str, cache: Path) -> dict:
    """Lay a folder out as the hub's cache does; returns what makes `from_pretrained` look there and nowhere else."""
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(REVISION)
    shutil.copytree(folder, place / "snapshots" / REVISION)
    return {"cache_dir": str(cache), "local_files_only": True}


@pytest.mark.parametrize(
    "usual",
    [
        {"variant": "bf16", "use_safetensors": True, "trust_remote_code": True, "torch_dtype": torch.float32},
        {"low_cpu_mem_usage": True},
    ],
)
def test_the_encoder_of_a_pipeline_loads_as_its_model_card_loads_it(published_pipeline, tiny_model, usual):
    for where, options in (
        (published_pipeline / "multimodal_encoder", usual),
        (published_pipeline, {"subfolder": "multimodal_encoder", **usual}),
    ):
        model = emu2.Emu2ForConditionalGeneration.from_pretrained(where, **options)
        assert torch.equal(model.lm_head.weight, tiny_model.lm_head.weight)
        assert model.config.vision_config.hidden_size == tiny_model.config.vision_config.hidden_size


def test_a_published_model_is_found_by_its_name_on_the_hub(tiny_model, published_pipeline, tmp_path):
    options = as_on_the_hub(write_hf_folder(tiny_model, tmp_path / "Emu2"), "BAAI/Emu2", tmp_path / "cache")
    model = emu2.Emu2ForConditionalGeneration.from_pretrained("BAAI/Emu2", **options)
    assert torch.equal(model.lm_head.weight, tiny_model.lm_head.weight)

    options = as_on_the_hub(published_pipeline, "BAAI/Emu2-Gen", tmp_path / "cache")
    model = emu2.Emu2ForConditionalGeneration.from_pretrained(
        "BAAI/Emu2-Gen", subfolder="multimodal_encoder", **options
    )
    assert torch.equal(model.lm_head.weight, tiny_model.lm_head.weight)


def test_a_published_processor_is_found_by_its_name_on_the_hub(tiny_model, shared_dir, tmp_path):
    folder = write_hf_folder(tiny_model, tmp_path / "Emu2")
    shutil.copyfile(shared_dir / "tokenizer" / "tokenizer.model", folder / "tokenizer.model")
    options = as_on_the_hub(folder, "BAAI/Emu2", tmp_path / "cache")
    processor = emu2.Emu2Processor.from_pretrained("BAAI/Emu2", **options)
    assert processor.num_query == tiny_model.config.num_query
    assert processor.tokenizer.convert_tokens_to_ids("[IMG]") == 32001


def test_arguments_that_only_our_folders_can_be_loaded_with_are_refused(tiny_model, tmp_path):
    folder = write_hf_folder(tiny_model, tmp_path / "Emu2")
    with pytest.raises(ValueError, match="published folder, which loads without ignore_mismatched_sizes"):
        emu2.Emu2ForConditionalGeneration.from_pretrained(folder, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "a/b/c"])
@pytest.mark.parametrize("kind", ["Emu2ForConditionalGeneration", "Emu2Processor", "Emu2ImagePipeline"])
def test_a_mistyped_folder_is_told_without_asking_the_network(kind, name):
    with pytest.raises((FileNotFoundError, ValueError), match=rf"(?s){name}.*OWNER/NAME"):
        getattr(emu2, kind).from_pretrained(name)


def test_a_model_folder_is_no_pipeline(tiny_model, tmp_path):
    folder = write_hf_folder(tiny_model, tmp_path / "Emu2")
    with pytest.raises(
        ValueError, match=r"no model_index\.json\. It is a model without a decoder: open it with Emu2For"
    ):
        emu2.Emu2ImagePipeline.from_pretrained(folder)


def test_a_pipeline_takes_short_names_of_dtypes(published_pipeline):
    parts = {"processor": None}
    pipe = emu2.Emu2ImagePipeline.from_pretrained(published_pipeline, dtype="bf16", **parts)
    assert pipe.unet.dtype == pipe.multimodal_encoder.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="Unknown dtype 'int3': use one of float32"):
        emu2.Emu2ImagePipeline.from_pretrained(published_pipeline, dtype="int3", **parts)


def test_a_model_is_not_written_as_the_variant_it_is_not(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_model.config.text_config, "vocab_size", 32274)  # Emu2-Chat's
    with pytest.raises(ValueError, match="32274 token embeddings, as 'chat' has; the published code could not load it"):
        emu2.convert.save_native(tiny_model, tmp_path / "a.bin", "base")
    with pytest.raises(ValueError, match="32274 token embeddings, as 'chat' has"):
        save_published(tiny_model, tmp_path / "a", "hf-base")
    assert not list(tmp_path.iterdir())


def test_parts_are_listed_in_one_order_whatever_the_files(tiny_model, tmp_path):
    state = hf_state(tiny_model)
    folder = write_hf_folder(tiny_model, tmp_path / "Emu2")
    write_shards(
        dict(reversed(state.items())), folder, "pytorch_model-{number:05d}.bin", ["pytorch_model.bin.index.json"]
    )
    assert list(emu2.convert.inspect(folder).parts) == ["vision tower", "bridge", "language model"]
