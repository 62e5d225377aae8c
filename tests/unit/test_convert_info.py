"""`inspect` and `emu2 info`: what a folder is, how big, and what is missing. `emu2 convert` on small checkpoints."""

import json

import pytest
import torch
from helpers_convert import UNET, VAE, decoder_parts, gen_state, hf_state, native_state, write_hf_folder
from safetensors.torch import save_file
from typer.testing import CliRunner

from emu2 import Emu2ForConditionalGeneration, Emu2ImagePipeline
from emu2.cli import app
from emu2.cli.info import format_bytes
from emu2.convert import inspect, save_published
from emu2.convert.native import build_pipeline


@pytest.fixture
def run():
    def call(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def _parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_a_folder_of_ours(tiny_model, tmp_path):
    tiny_model.to(torch.bfloat16).save_pretrained(tmp_path)
    info = inspect(tmp_path)
    assert info.kind == "emu2"
    assert {name: part.parameters for name, part in info.parts.items()} == {
        "vision tower": _parameters(tiny_model.model.visual),
        "bridge": 2 * 32 * 48,
        "language model": _parameters(tiny_model.model.language_model) + 400 * 48,
    }
    assert set(info.parts["bridge"].dtypes) == {"bfloat16"}
    assert info.parameters == _parameters(tiny_model)
    assert info.missing == ["tokenizer.json or tokenizer.model", "processor_config.json"]


def test_memory_per_precision(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    info = inspect(tmp_path)
    memory, total = info.memory(), info.parameters
    linear = sum(
        module.weight.numel()
        for name, module in tiny_model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    )
    assert memory["float32"] == 4 * total
    assert memory["bfloat16"] == 2 * total
    assert memory["int8"] == linear + 2 * (total - linear)
    assert memory["4bit"] == int(linear * 4.127 / 8) + 2 * (total - linear)


@pytest.mark.parametrize(("version", "kind"), [("base", "hf-base"), ("chat", "hf-chat")])
def test_published_folders(tiny_model, tmp_path, version, kind):
    info = inspect(write_hf_folder(tiny_model, tmp_path / "hf", version=version))
    assert info.kind == kind
    # the fused bias holds a key bias more than ours, for each of the two blocks
    assert info.parameters == _parameters(tiny_model) + 2 * 32
    assert info.missing == ["tokenizer.json or tokenizer.model"]


def test_native_files(tiny_model, tmp_path):
    torch.save(native_state(tiny_model), tmp_path / "native.bin")
    info = inspect(tmp_path / "native.bin")
    assert (info.kind, info.parameters) == ("native-base", _parameters(tiny_model))
    unet, vae, _ = decoder_parts()
    save_file(gen_state(tiny_model, unet, vae), tmp_path / "gen.safetensors")
    info = inspect(tmp_path / "gen.safetensors")
    assert info.kind == "native-gen"
    assert info.parts["U-Net"].parameters == _parameters(unet)
    assert info.parts["VAE"].parameters == _parameters(vae)


def test_pipelines(tiny_model, tmp_path):
    unet, vae, _ = decoder_parts()
    pipe = build_pipeline(tiny_model, unet, vae)
    pipe.save_pretrained(tmp_path / "ours")
    save_published(pipe, tmp_path / "published", "hf-gen")
    for folder, kind in (("ours", "emu2-pipeline"), ("published", "hf-gen")):
        info = inspect(tmp_path / folder)
        assert info.kind == kind
        assert {"vision tower", "language model", "U-Net", "VAE"} <= set(info.parts)
        assert any("tokeni" in what for what in info.missing)
    (tmp_path / "ours" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "ours" / "unet" / "config.json").unlink()
    (tmp_path / "ours" / "unet").rmdir()
    assert "unet/" in inspect(tmp_path / "ours").missing


def test_missing_shards_and_tensors_are_listed(tiny_model, tmp_path):
    folder = write_hf_folder(tiny_model, tmp_path / "hf")
    (folder / "pytorch_model-00003-of-00003.bin").unlink()
    info = inspect(folder)
    assert info.missing[0] == "pytorch_model-00003-of-00003.bin (shard)"
    lost = [name for name in torch.load(folder / "pytorch_model-00001-of-00003.bin") if name in info.missing]
    assert lost == []
    assert any(what.startswith("tensor ") for what in info.missing)
    assert info.missing[-2].startswith("... and ")


def test_a_tensor_of_another_shape_is_noted(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["text_config"]["vocab_size"] = 500
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert any(
        "lm_head.weight is [400, 48], the configuration asks for [500, 48]" in n for n in inspect(tmp_path).notes
    )


def test_a_damaged_configuration_is_noted(tiny_model, tmp_path):
    folder = write_hf_folder(tiny_model, tmp_path / "hf")
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "pad_token_id": 32000}))
    told = "config.json has pad_token_id 32000 outside its vocabulary of 400"
    assert any(told in note for note in inspect(folder).notes)
    with pytest.raises(ValueError, match="pad_token_id 32000 outside its vocabulary"):
        Emu2ForConditionalGeneration.from_pretrained(folder)


def test_other_folders(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    assert inspect(tmp_path / "llama").kind == "language-model"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("hello")
    info = inspect(tmp_path / "other")
    assert info.kind == "unknown"
    assert info.notes == ["looked for config.json, model_index.json and adapter_config.json; found notes.txt"]
    save_file({"visual.cls_token": torch.zeros(1, 1, 4)}, tmp_path / "eva.safetensors")
    assert inspect(tmp_path / "eva.safetensors").kind == "eva-clip"
    with pytest.raises(FileNotFoundError, match="neither a folder nor a file"):
        inspect(tmp_path / "nowhere")


def test_the_info_command(tiny_model, tmp_path, run):
    tiny_model.save_pretrained(tmp_path)
    result = run("info", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    fields = json.loads(result.stdout)
    assert fields["kind"] == "emu2"
    assert fields["parameters"] == _parameters(tiny_model)
    assert fields["memory"]["bfloat16"] == 2 * _parameters(tiny_model)
    shown = run("info", tmp_path).stdout
    assert "vision tower" in shown
    assert "missing: tokenizer.json" in shown
    wrong = run("info", tmp_path / "nowhere")
    assert wrong.exit_code == 2


def test_sizes_are_readable():
    assert [format_bytes(size) for size in (12, 1536, 74 * 2**30)] == ["12 bytes", "1.5 KiB", "74.0 GiB"]


def test_the_convert_commands_round_trip(tiny_model, tmp_path, run):
    folder = write_hf_folder(tiny_model, tmp_path / "hf")
    loaded = run("convert", "load", folder, tmp_path / "ours", "--json")
    assert loaded.exit_code == 0, loaded.output
    assert json.loads(loaded.stdout)["kind"] == "hf-base"
    again = run("convert", "load", folder, tmp_path / "ours")
    assert again.exit_code == 2
    assert "is not empty" in again.stderr
    assert run("convert", "to-hf", tmp_path / "ours", tmp_path / "again", "--layout", "hf-base").exit_code == 0
    native = run("convert", "to-native", tmp_path / "again", tmp_path / "native.bin", "--variant", "base")
    assert native.exit_code == 0, native.output
    written = torch.load(tmp_path / "native.bin", weights_only=True)
    assert all(torch.equal(written[name], tensor) for name, tensor in native_state(tiny_model).items())
    shards = [torch.load(file, weights_only=True) for file in (tmp_path / "again").glob("*.bin")]
    assert set().union(*shards) == set(hf_state(tiny_model))


def test_the_convert_commands_on_a_pipeline(tiny_model, tmp_path, run):
    unet, vae, _ = decoder_parts()
    build_pipeline(tiny_model, unet, vae).save_pretrained(tmp_path / "ours")
    result = run("convert", "to-native", tmp_path / "ours", tmp_path / "gen.safetensors", "--variant", "gen")
    assert result.exit_code == 0, result.output
    assert inspect(tmp_path / "gen.safetensors").kind == "native-gen"
    published = run("convert", "to-hf", tmp_path / "ours", tmp_path / "hf", "--layout", "hf-gen", "--dtype", "fp32")
    assert published.exit_code == 0, published.output
    back = run("convert", "load", tmp_path / "hf", tmp_path / "back")
    assert back.exit_code == 0, back.output
    pipe = Emu2ImagePipeline.from_pretrained(tmp_path / "back")
    assert dict(pipe.unet.config)["cross_attention_dim"] == UNET["cross_attention_dim"]
    assert dict(pipe.vae.config)["block_out_channels"] == VAE["block_out_channels"]
    model = Emu2ForConditionalGeneration.from_pretrained(tmp_path / "back" / "multimodal_encoder")
    assert torch.equal(model.lm_head.weight, tiny_model.lm_head.weight)


def test_wrong_options_are_told(tiny_model, tmp_path, run):
    tiny_model.save_pretrained(tmp_path / "ours")
    for arguments, message in (
        (("names", "--layout", "native-video"), "Unknown layout 'native-video'"),
        (("load", tmp_path / "ours", tmp_path / "out"), "which is not converted"),
        (("load", tmp_path / "ours", tmp_path / "out", "--dtype", "floaty"), "Unknown dtype 'floaty'"),
        (("to-native", tmp_path / "ours", tmp_path / "a.bin", "--variant", "gen"), "this needs a pipeline folder"),
        (("to-native", tmp_path / "ours", tmp_path / "a.txt", "--variant", "base"), "got the suffix '.txt'"),
        (("to-native", tmp_path / "ours", tmp_path / "a.bin", "--variant", "big"), "Unknown variant 'big'"),
    ):
        result = run("convert", *arguments)
        assert result.exit_code == 2, arguments
        assert message in " ".join(result.stderr.split()), arguments
