"""`emu2.load`: what it recognises, and what it says to everything else."""

import json
import shutil

import pytest
import torch
from helpers_inference import save_language_model, save_pipeline

import emu2
from emu2 import presets
from emu2.inference import load as loading
from emu2.inference.names import SIZE_NAMES


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    return save_language_model(tmp_path_factory.mktemp("models") / "words")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("models") / "pictures")


@pytest.fixture(scope="module")
def video_pipeline(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("models") / "clips", video=True)


def test_a_language_model_folder(language_model):
    m = emu2.load(language_model)
    assert m.image_pipeline is None
    assert m.video_pipeline is None
    assert (m.device.type, m.dtype) == (loading._best_device().type, loading._default_dtype(m.device))
    assert not m.model.training
    assert m.name == str(language_model)
    assert "complete" in repr(m)
    assert "draw" not in repr(m)


def test_a_cpu_takes_float32_unless_told():
    assert loading._default_dtype(torch.device("cpu")) == torch.float32
    assert loading._default_dtype(torch.device("cuda")) == torch.bfloat16


def test_dtype_and_device_are_heeded(language_model):
    m = emu2.load(str(language_model), device="cpu", dtype="bf16")
    assert {p.dtype for p in m.model.parameters()} == {torch.bfloat16}
    assert m.device.type == "cpu"
    assert isinstance(m.complete("a photo", max_new_tokens=2), str)


def test_a_device_map_places_the_language_model(language_model):
    m = emu2.load(language_model, device_map={"": "cpu"}, dtype=torch.float32)
    assert m.device.type == "cpu"
    assert isinstance(m.complete("a photo", max_new_tokens=2), str)


def test_a_pipeline_folder(pipeline):
    m = emu2.load(pipeline, device="cpu")
    assert m.model is m.image_pipeline.multimodal_encoder
    assert m.processor is m.image_pipeline.processor
    assert m.video_pipeline is None
    assert "draw" in repr(m)


def test_a_pipeline_folder_with_a_device_map(pipeline):
    m = emu2.load(pipeline, device_map={"": "cpu"}, dtype="float32")
    assert m.model is m.image_pipeline.multimodal_encoder
    assert m.draw("a dog", steps=1).size == (64, 64)


def test_a_video_pipeline_folder(video_pipeline):
    m = emu2.load(video_pipeline, device="cpu")
    assert m.model is m.video_pipeline.multimodal_encoder
    assert m.image_pipeline is None


def test_a_video_decoder_beside_a_language_model(language_model, video_pipeline, tmp_path):
    shutil.copytree(language_model, tmp_path / "both")
    decoder = tmp_path / "both" / loading.VIDEO_FOLDER
    shutil.copytree(video_pipeline, decoder, ignore=shutil.ignore_patterns("multimodal_encoder", "processor"))
    index = json.loads((decoder / "model_index.json").read_text())
    index |= {"multimodal_encoder": [None, None], "processor": [None, None]}
    (decoder / "model_index.json").write_text(json.dumps(index))
    m = emu2.load(tmp_path / "both", device="cpu")
    assert m.video_pipeline.multimodal_encoder is m.model
    assert len(m.film("a dog", steps=1, num_frames=2)) == 2


def test_a_video_decoders_parts_beside_an_image_decoder_share_its_vae(pipeline, video_pipeline, tmp_path):
    shutil.copytree(pipeline, tmp_path / "both")
    for part in ("unet", "scheduler"):
        shutil.copytree(video_pipeline / part, tmp_path / "both" / loading.VIDEO_FOLDER / part)
    m = emu2.load(tmp_path / "both", device="cpu")
    assert m.video_pipeline.vae is m.image_pipeline.vae
    assert len(m.film("a dog", steps=1, num_frames=2)) == 2


def test_a_video_decoder_without_any_vae_is_refused(language_model, video_pipeline, tmp_path):
    shutil.copytree(language_model, tmp_path / "both")
    for part in ("unet", "scheduler"):
        shutil.copytree(video_pipeline / part, tmp_path / "both" / loading.VIDEO_FOLDER / part)
    with pytest.raises(ValueError, match="video decoder without a VAE"):
        emu2.load(tmp_path / "both", device="cpu")


def test_the_model_folder_of_a_training_run_without_a_decoder(pipeline, tmp_path):
    for part in ("multimodal_encoder", "processor"):
        shutil.copytree(pipeline / part, tmp_path / "model" / part)
    m = emu2.load(tmp_path / "model", device="cpu")
    assert m.image_pipeline is None
    assert isinstance(m.complete("a photo", max_new_tokens=2), str)


def test_a_published_folder(tmp_path, language_model):
    m = emu2.load(language_model, device="cpu")
    folder = tmp_path / "published"
    emu2.convert.save_published(m.model, folder, "hf-base")
    copy_tokenizer(language_model, folder)
    again = emu2.load(folder, device="cpu", dtype="float32")
    assert again.processor.num_query == m.processor.num_query
    assert again.complete("a photo", max_new_tokens=4) == m.complete("a photo", max_new_tokens=4)


def test_a_published_pipeline_folder(tmp_path, pipeline):
    m = emu2.load(pipeline, device="cpu")
    folder = tmp_path / "published"
    emu2.convert.save_published(m.image_pipeline, folder, "hf-gen", dtype="float32")
    (folder / "tokenizer").mkdir(exist_ok=True)
    copy_tokenizer(pipeline / "processor", folder / "tokenizer")
    again = emu2.load(folder, device="cpu", dtype="float32")
    assert again.draw("a dog", steps=1, seed=1).tobytes() == m.draw("a dog", steps=1, seed=1).tobytes()


def copy_tokenizer(source, target):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, target / name)


def test_native_files_are_told_apart():
    name = "decoder.lm.model.embed_tokens.weight"
    assert loading._native_config({name: (32272, 6656)}, "f").num_query == 64
    assert loading._native_config({name: (32274, 6656)}, "f").num_query == 256
    with pytest.raises(ValueError, match=r"f is the native file of Emu2-Gen.*emu2 convert load f FOLDER"):
        loading._native_config({f"multimodal_encoder.{name}": (32272, 6656), "unet.conv_in.weight": (1,)}, "f")
    with pytest.raises(ValueError, match="no published native file"):
        loading._native_config({"model.norm.weight": (4,)}, "f")


def test_a_native_file(language_model, tmp_path, monkeypatch):
    """The published sizes are swapped for small ones: nobody loads 74 GB in a test."""
    m = emu2.load(language_model, device="cpu")
    file = tmp_path / "model.safetensors"
    emu2.convert.save_native(m.model, file, "base")
    monkeypatch.setattr(presets, "config", lambda name: m.model.config)
    with pytest.raises(ValueError, match="holds no tokeniser"):
        emu2.load(file)
    copy_tokenizer(language_model, tmp_path)
    again = emu2.load(file, device="cpu")
    assert again.complete("a photo", max_new_tokens=4) == m.complete("a photo", max_new_tokens=4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nanoo", ["no model 'nanoo'", "Did you mean 'nano'"]),
        ("37b-chat", ["size, not of weights"]),
        ("BAAI/Emu2-Chat", ["hf download BAAI/Emu2-Chat"]),
        ("/no/such/folder", ["no such file or folder"]),
    ],
)
def test_names_that_are_no_model(name, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        emu2.load(name)
    assert all(word in str(caught.value) for word in words)


def test_the_size_names_are_those_of_the_presets():
    assert presets.names() == SIZE_NAMES


def test_a_mistyped_folder_is_guessed(language_model):
    with pytest.raises(ValueError, match=r"Did you mean '.*words'"):
        emu2.load(language_model.with_name("wrods"))


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ValueError, match=r"not a model folder.*config\.json"):
        emu2.load(tmp_path)


def test_a_file_that_is_no_weights(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is a file, but no weights"):
        emu2.load(tmp_path / "notes.txt")


def test_a_folder_without_its_tokeniser(language_model, tmp_path):
    shutil.copytree(language_model, tmp_path / "m", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing"):
        emu2.load(tmp_path / "m")


def test_a_decoder_without_its_encoder(pipeline, tmp_path):
    shutil.copytree(pipeline, tmp_path / "p", ignore=shutil.ignore_patterns("multimodal_encoder", "processor"))
    index = json.loads((tmp_path / "p" / "model_index.json").read_text())
    index |= {"multimodal_encoder": [None, None], "processor": [None, None]}
    (tmp_path / "p" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="decoder without its multimodal_encoder"):
        emu2.load(tmp_path / "p")


def test_broken_json_is_named(pipeline, tmp_path):
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_index\.json is not valid JSON"):
        emu2.load(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": "int7"}, "(?i)unknown dtype 'int7'"),
        ({"device": "gpu9"}, "(?i)unknown device 'gpu9'"),
        ({"device": "cuda:99"}, "(?i)device 'cuda:99'"),
        ({"device": "cpu", "device_map": "auto"}, "device or device_map, not both"),
    ],
)
def test_wrong_places_are_named(language_model, wrong, message):
    with pytest.raises(ValueError, match=message):
        emu2.load(language_model, **wrong)
