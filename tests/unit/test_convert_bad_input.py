"""Damaged, dangerous and mistaken input: one clear error each."""

import json
import os
import pickle
import re

import pytest
import torch
from helpers_convert import hf_config, native_state, write_hf_folder
from safetensors.torch import load_file, save_file

from emu2 import Emu2Config, Emu2ForConditionalGeneration
from emu2.convert import load_native, load_published, save_native, save_published, to_ours
from emu2.model.published_config import published_to_config
from emu2.model.runtime import resolve_device, resolve_dtype
from emu2.model.weight_files import open_checkpoint


class _Payload:
    """A pickle that would make a folder when it is loaded without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def native_file(tiny_model, tmp_path):
    save_file(native_state(tiny_model), tmp_path / "native.safetensors")
    return tmp_path / "native.safetensors"


def _changed(file, change):
    state = load_file(file)
    change(state)
    save_file(state, file)
    return file


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_a_pickle_with_code_is_refused_and_nothing_runs(tiny_config, tmp_path, form):
    mark, file = tmp_path / "executed", tmp_path / "weights.bin"
    content = {"visual.cls_token": _Payload(mark)}
    if form == "zip":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"pickle with code.*nothing of it was executed.*mkdir.*\.safetensors"):
        load_native(file, config=tiny_config)
    assert not mark.exists()


def test_a_shard_with_code_is_refused_and_nothing_runs(tiny_model, tmp_path):
    folder = write_hf_folder(tiny_model, tmp_path / "hf")
    mark = tmp_path / "executed"
    torch.save({"model.visual.cls_token": _Payload(mark)}, folder / "pytorch_model-00001-of-00003.bin")
    with pytest.raises(ValueError, match="pickle with code"):
        Emu2ForConditionalGeneration.from_pretrained(folder)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_truncated_file_is_named(tiny_model, tmp_path, suffix):
    file = tmp_path / f"native{suffix}"
    save_native(tiny_model, file, "base")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"native\{suffix}.*truncated.*copy it again|native\{suffix}.*Copy it again"):
        load_native(file, config=tiny_model.config)


def test_files_that_hold_no_state_dict(tiny_config, tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.bin")
    with pytest.raises(ValueError, match=r"list\.bin holds no state dict.*found a list"):
        load_native(tmp_path / "list.bin", config=tiny_config)
    (tmp_path / "text.bin").write_text("hello there")
    with pytest.raises(ValueError, match=r"text\.bin is not a torch weight file|cannot be read as a torch file"):
        load_native(tmp_path / "text.bin", config=tiny_config)
    (tmp_path / "notes.txt").write_text("hello there")
    with pytest.raises(ValueError, match=r"notes\.txt is not a weight file.*\.safetensors"):
        load_native(tmp_path / "notes.txt", config=tiny_config)
    with pytest.raises(FileNotFoundError, match=r"neither a weight file nor a folder at .*absent\.bin"):
        load_native(tmp_path / "absent.bin", config=tiny_config)


def test_missing_unexpected_and_misshapen_tensors_are_named_at_once(native_file, tiny_config):
    def change(state):
        del state["visual.blocks.1.attn.q_bias"]
        state["visual.norm.weight"] = torch.zeros(3)
        state["project_up.weight"] = torch.zeros(48, 31)

    with pytest.raises(ValueError, match="does not fit the model") as error:
        load_native(_changed(native_file, change), config=tiny_config)
    message = str(error.value)
    assert "1 tensor(s) missing: visual.blocks.1.attn.q_bias" in message
    assert "1 tensor(s) unexpected: visual.norm.weight" in message
    assert "project_up.weight is [48, 31] in the file and [48, 32] in the model" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_and_infinity_are_refused_by_name(native_file, tiny_config, value, dtype):
    def change(state):
        state["project_up.weight"] = state["project_up.weight"].to(dtype)
        state["project_up.weight"][3, 3] = value

    file = _changed(native_file, change)
    with pytest.raises(ValueError, match=r"'project_up\.weight' holds 1 value\(s\) that are NaN or infinite, of 1536"):
        load_native(file, config=tiny_config)
    assert not load_native(file, config=tiny_config, check_finite=False).model.project_up.weight.isfinite().all()


def test_large_finite_weights_whose_sum_overflows_are_accepted(native_file, tiny_config):
    def change(state):
        state["project_up.weight"].fill_(3e38)

    assert load_native(_changed(native_file, change), config=tiny_config).model.project_up.weight.isfinite().all()


def test_nan_is_refused_in_our_folders_and_in_published_ones(tiny_model, tmp_path):
    with torch.no_grad():
        tiny_model.lm_head.weight[0, 0] = float("nan")
    tiny_model.save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"'lm_head\.weight' holds 1 value"):
        Emu2ForConditionalGeneration.from_pretrained(tmp_path / "ours")
    folder = write_hf_folder(tiny_model, tmp_path / "hf")
    with pytest.raises(ValueError, match=r"'model\.decoder\.lm\.lm_head\.weight' holds 1 value"):
        Emu2ForConditionalGeneration.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"'model\.decoder\.lm\.lm_head\.weight' holds 1 value"):
        to_ours(folder, tmp_path / "converted")


def test_a_missing_shard_is_named(tiny_model, tmp_path):
    folder = write_hf_folder(tiny_model, tmp_path / "hf")
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 shards named by .*missing: pytorch_model-00002-of-00003\.bin"):
        Emu2ForConditionalGeneration.from_pretrained(folder)


def test_a_missing_shard_of_ours_is_named(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path, max_shard_size="60KB")
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=rf"missing: {lost.name}"):
        Emu2ForConditionalGeneration.from_pretrained(tmp_path)


def test_an_index_that_disagrees_with_its_shards(tiny_model, tmp_path):
    folder = write_hf_folder(tiny_model, tmp_path / "hf")
    index_file = folder / "pytorch_model.bin.index.json"
    index = json.loads(index_file.read_text())
    index["weight_map"]["model.visual.extra"] = "pytorch_model-00001-of-00003.bin"
    index_file.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index places 'model\.visual\.extra' in pytorch_model-00001-of-00003\.bin"):
        Emu2ForConditionalGeneration.from_pretrained(folder)
    index["weight_map"]["model.visual.extra"] = "../elsewhere.bin"
    index_file.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names the shard '\.\./elsewhere\.bin'"):
        Emu2ForConditionalGeneration.from_pretrained(folder)
    index_file.write_text("{}")
    with pytest.raises(ValueError, match="is not a checkpoint index"):
        Emu2ForConditionalGeneration.from_pretrained(folder)


def test_folders_that_are_no_model(tiny_model, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"not a model folder: looked for config\.json.*found notes\.txt"):
        Emu2ForConditionalGeneration.from_pretrained(tmp_path)
    save_native(tiny_model, tmp_path / "native.bin", "base")
    with pytest.raises(ValueError, match=r"not a model folder.*load_native\(file, variant=\.\.\.\)"):
        Emu2ForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"native\.bin is a file; from_pretrained takes a folder.*load_native"):
        Emu2ForConditionalGeneration.from_pretrained(tmp_path / "native.bin")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ValueError, match=r"not an Emu2 model.*model_type 'llama'"):
        Emu2ForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        Emu2ForConditionalGeneration.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"'language-model'|'unknown'"):
        to_ours(tmp_path, tmp_path / "out")


def test_a_model_folder_without_weights(tiny_config, tmp_path):
    tiny_config.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no weights: looked for model\.safetensors\.index\.json"):
        Emu2ForConditionalGeneration.from_pretrained(tmp_path)


def test_a_pipeline_folder_says_where_the_model_is(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"diffusers pipeline.*Emu2ImagePipeline.*multimodal_encoder"):
        Emu2ForConditionalGeneration.from_pretrained(tmp_path)


def test_unknown_dtypes_and_devices(tiny_model, native_file, tmp_path):
    with pytest.raises(ValueError, match=r"Unknown dtype 'floaty': use one of float32, fp32"):
        resolve_dtype("floaty")
    with pytest.raises(ValueError, match=r"Unknown dtype torch\.int8"):
        resolve_dtype(torch.int8)
    with pytest.raises(ValueError, match=r"Unknown device 'gpu0': use cpu, cuda"):
        resolve_device("gpu0")
    with pytest.raises(ValueError, match=r"Device 'cuda:99' is not on this machine"):
        resolve_device("cuda:99")
    assert resolve_dtype("bf16") == resolve_dtype("torch.bfloat16") == torch.bfloat16
    assert resolve_device("cpu") == torch.device("cpu")
    tiny_model.save_pretrained(tmp_path / "ours")
    for call in (
        lambda: Emu2ForConditionalGeneration.from_pretrained(tmp_path / "ours", dtype="floaty"),
        lambda: load_native(native_file, config=tiny_model.config, dtype="floaty"),
        lambda: load_published(tmp_path / "ours", dtype="floaty"),
    ):
        with pytest.raises(ValueError, match="Unknown dtype 'floaty'"):
            call()
    for call in (
        lambda: Emu2ForConditionalGeneration.from_pretrained(tmp_path / "ours", device_map="gpu0"),
        lambda: Emu2ForConditionalGeneration.from_pretrained(tmp_path / "ours", device_map={"": "gpu0"}),
        lambda: load_native(native_file, config=tiny_model.config, device="gpu0"),
    ):
        with pytest.raises(ValueError, match="Unknown device 'gpu0'"):
            call()


def test_a_mixed_up_variant_is_told(native_file, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=r"Unknown variant 'big': use one of base, chat, gen"):
        load_native(native_file, "big")
    with pytest.raises(ValueError, match=r"language-model file \('base' or 'chat'\), but variant='gen'"):
        load_native(native_file, "gen", config=tiny_model.config)
    save_file(native_state(tiny_model, "multimodal_encoder."), tmp_path / "gen.safetensors")
    with pytest.raises(ValueError, match=r"image-generation file \(variant 'gen'\), but variant='base'"):
        load_native(tmp_path / "gen.safetensors", config=tiny_model.config)
    with pytest.raises(ValueError, match=r"holds no tensor of unet and vae"):
        load_native(tmp_path / "gen.safetensors", "gen", config=tiny_model.config)
    with pytest.raises(ValueError, match=r"Variant 'gen' holds the image decoder too"):
        save_native(tiny_model, tmp_path / "out.safetensors", "gen")
    with pytest.raises(ValueError, match=r"Layout 'hf-gen' holds the image decoder too"):
        save_published(tiny_model, tmp_path / "out", "hf-gen")
    with pytest.raises(ValueError, match=r"Unknown layout 'hf'"):
        save_published(tiny_model, tmp_path / "out", "hf")
    with pytest.raises(ValueError, match=r"Unknown parts in config: \['unte'\]"):
        load_native(tmp_path / "gen.safetensors", "gen", config={"unte": {}, "vae": {}})


def test_chat_weights_under_the_base_variant_are_told(tmp_path):
    rows = torch.zeros(32274, 2, dtype=torch.bfloat16)
    save_file({"decoder.lm.model.embed_tokens.weight": rows}, tmp_path / "chat.safetensors")
    with pytest.raises(ValueError, match=r"32274 token embeddings, as variant 'chat' has.*variant='base' says 32272"):
        load_native(tmp_path / "chat.safetensors", "base")


def test_a_model_without_values_is_not_written(tiny_config, tmp_path):
    with torch.device("meta"):
        model = Emu2ForConditionalGeneration(tiny_config)
    with pytest.raises(ValueError, match="has no values: the model is on the meta device or offloaded"):
        save_native(model, tmp_path / "out.safetensors", "base")
    assert list(tmp_path.iterdir()) == []


def test_published_configurations_that_are_incomplete_or_of_another_tower(tiny_config):
    fields = hf_config(tiny_config)
    del fields["vision_config"]["width"]
    with pytest.raises(ValueError, match=r"lacks the field 'width'"):
        published_to_config(fields)
    fields = hf_config(tiny_config)
    fields["vision_config"]["postnorm"] = False
    with pytest.raises(ValueError, match="without post-norm"):
        published_to_config(fields)


def test_the_published_sizes_of_config_json():
    """The three published config.json files, in the fields that were read in full."""
    published = Emu2Config()
    chat = hf_config(published, version="chat") | {"vocab_size": 32274, "n_query": 256}
    chat["vision_config"] |= {"head_width": 112, "mlp_ratio": 8.571428571428571, "v_query": 64}
    config = published_to_config(chat)
    assert config.vision_config.intermediate_size == 15360
    assert config.vision_config.num_attention_heads == 16
    assert (config.num_query, config.num_video_query, config.text_config.vocab_size) == (256, 64, 32274)
    assert config.image_token_id == 32003


def test_reading_is_lazy_and_one_shard_at_a_time(tiny_model, tmp_path):
    checkpoint = open_checkpoint(write_hf_folder(tiny_model, tmp_path / "hf"))
    first, last = next(iter(checkpoint)), list(checkpoint)[-1]
    checkpoint.read(first)
    opened = checkpoint._open.path
    checkpoint.read(last)
    assert checkpoint._open.path != opened
    assert re.search(r"00003-of-00003", checkpoint._open.path.name)
    checkpoint.close()
    assert checkpoint._open is None
