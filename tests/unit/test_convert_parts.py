"""A fresh Emu2 from public parts, with tiny stand-ins in the exact published naming."""

import json

import pytest
import torch
from helpers_convert import UNET, VAE, assert_same
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from emu2 import Emu2ForConditionalGeneration, Emu2ImagePipeline, tokens
from emu2.convert import from_parts
from emu2.model.eva import EvaVisionTower, resize_pos_embed

WIDTH = 112  # one head of the published size
ROWS = 50
SMALL = {"image_size": 28, "num_query": 4, "num_video_query": 4}


def _random(shape, generator):
    return torch.randn(shape, generator=generator)


def eva_state(prefix="visual.", *, seed=0):
    """EVA-02-CLIP: 2 blocks, 28-pixel pictures of 2x2 patches; norm, head and text tower as published."""
    from emu2 import Emu2VisionConfig

    generator = torch.Generator().manual_seed(seed)
    tower = EvaVisionTower(
        Emu2VisionConfig(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=1,
            intermediate_size=40,
            image_size=28,
            patch_size=14,
        )
    )
    state = {prefix + name: _random(tensor.shape, generator) for name, tensor in tower.state_dict().items()}
    for name, shape in (("norm.weight", WIDTH), ("norm.bias", WIDTH), ("head.weight", (10, WIDTH)), ("head.bias", 10)):
        state[prefix + name] = torch.zeros(shape)
    if prefix:
        state["logit_scale"] = torch.tensor(4.6)
        state["text.positional_embedding"] = torch.zeros(7, 8)
        state["text.transformer.resblocks.0.attn.in_proj_weight"] = torch.zeros(24, 8)
    return state


@pytest.fixture
def llama_folder(tmp_path):
    """huggyllama's form: float16 shards with rotary tables, architecture LlamaForCausalLM."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-6,
    )
    folder = tmp_path / "llama"
    LlamaForCausalLM(config).half().save_pretrained(folder, max_shard_size="20KB")
    index_file = folder / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    tables = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(2)}
    save_file(tables, folder / "tables.safetensors")
    index["weight_map"].update(dict.fromkeys(tables, "tables.safetensors"))
    index_file.write_text(json.dumps(index))
    return folder


@pytest.fixture
def sdxl_folder(tmp_path):
    """Stable Diffusion XL's form: cross-attention over 24-wide text states, 20 pooled + 6 x 8 size columns."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    torch.manual_seed(2)
    folder = tmp_path / "sdxl"
    unet = UNet2DConditionModel.from_config(
        {**UNET, "cross_attention_dim": 24, "projection_class_embeddings_input_dim": 68}
    )
    unet.half().save_pretrained(folder / "unet", variant="fp16")
    AutoencoderKL.from_config(VAE).save_pretrained(folder / "vae")
    EulerDiscreteScheduler(steps_offset=1).save_pretrained(folder / "scheduler")
    return folder


def _eva_file(tmp_path, state=None):
    torch.save({"module": state if state is not None else eva_state()}, tmp_path / "EVA02_CLIP_E_psz14_plus_s9B.pt")
    return tmp_path / "EVA02_CLIP_E_psz14_plus_s9B.pt"


def test_every_tensor_comes_from_its_part(tmp_path, llama_folder):
    fresh = from_parts(vision=_eva_file(tmp_path), language_model=llama_folder, **{**SMALL, "image_size": 56})
    model, state = fresh.model, fresh.model.state_dict()
    eva, llama = eva_state(), LlamaForCausalLM.from_pretrained(llama_folder, dtype=torch.float32).state_dict()

    grown = resize_pos_embed(eva["visual.pos_embed"], 4)
    assert torch.equal(state["model.visual.pos_embed"], grown)
    assert torch.equal(grown[:, 0], eva["visual.pos_embed"][:, 0])
    for name in ("blocks.1.attn.qkv.weight", "blocks.0.attn.q_bias", "patch_embed.proj.weight", "cls_token"):
        assert torch.equal(state[f"model.visual.{name}"], eva[f"visual.{name}"])
    for name, tensor in llama.items():
        ours = name if name.startswith("lm_head") else name.replace("model.", "model.language_model.", 1)
        old = state[ours][:ROWS] if ours.endswith(("embed_tokens.weight", "lm_head.weight")) else state[ours]
        assert torch.equal(old, tensor), name
    for name, source in (("lm_head.weight", "lm_head.weight"), ("model.language_model.embed_tokens.weight", None)):
        new = state[name][ROWS:]
        assert new.shape[0] == len(tokens.special_tokens())
        expected = llama[source or "model.embed_tokens.weight"].mean(0)
        assert torch.allclose(new, expected.expand_as(new), atol=1e-6)

    config = model.config
    assert (config.pad_token_id, config.image_token_id) == (ROWS, ROWS + 3)
    assert config.text_config.vocab_size == ROWS + len(tokens.special_tokens())
    assert config.vision_config.num_attention_heads == 1
    assert model.model.project_up.weight.std() > 0.01
    assert model.dtype == torch.float32
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_the_report_names_what_happened(tmp_path, llama_folder):
    report = from_parts(vision=_eva_file(tmp_path), language_model=llama_folder, **{**SMALL, "image_size": 56}).report
    vision, text, bridge = report["vision tower"], report["language model"], report["bridge"]
    assert vision.resized == ["model.visual.pos_embed"]
    assert sorted(vision.unused) == sorted(
        name for name in eva_state() if name.startswith(("text.", "logit_scale", "visual.norm.", "visual.head."))
    )
    assert len(vision.copied) + len(vision.resized) + len(vision.unused) == len(eva_state())
    assert sorted(text.resized) == ["lm_head.weight", "model.language_model.embed_tokens.weight"]
    assert sorted(text.unused) == [f"model.layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in range(2)]
    assert sorted(bridge.fresh) == ["model.project_down.weight", "model.project_up.weight"]
    assert "2 resized" in str(text)
    assert "2 unused" in str(text)


@pytest.mark.parametrize("prefix", ["visual.trunk.", ""])
def test_open_clip_and_timm_namings_give_the_same_tower(tmp_path, llama_folder, prefix):
    options = {"language_model": llama_folder, **SMALL}
    expected = from_parts(vision=_eva_file(tmp_path), **options)
    save_file(eva_state(prefix), tmp_path / "timm.safetensors")
    found = from_parts(vision=tmp_path / "timm.safetensors", **options)
    assert_same(found.model.model.visual, expected.model.model.visual)
    assert expected.report["vision tower"].resized == []


def test_fresh_tensors_follow_the_seed(tmp_path, llama_folder):
    options = {
        "vision": _eva_file(tmp_path),
        "language_model": llama_folder,
        "image_size": 28,
        "num_query": 4,
        "num_video_query": 4,
    }
    before = torch.random.get_rng_state()
    first, again, other = (from_parts(**options, seed=seed).model for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert_same(first, again)
    assert not torch.equal(first.model.project_up.weight, other.model.project_up.weight)


def test_a_part_left_out_starts_fresh(tmp_path, llama_folder):
    config = from_parts(vision=_eva_file(tmp_path), language_model=llama_folder, **SMALL).model.config
    fresh = from_parts(language_model=llama_folder, config=config)
    assert len(fresh.report["vision tower"].fresh) == len(fresh.model.model.visual.state_dict())
    assert fresh.model.model.visual.blocks[0].attn.qkv.weight.std() > 0.01
    assert torch.equal(fresh.model.model.visual.blocks[0].norm1.weight, torch.ones(WIDTH))
    with pytest.raises(ValueError, match="Without config, both vision and language_model are needed"):
        from_parts(language_model=llama_folder)


def test_sdxl_becomes_the_image_decoder(tmp_path, llama_folder, sdxl_folder):
    from diffusers import UNet2DConditionModel

    fresh = from_parts(
        vision=_eva_file(tmp_path),
        language_model=llama_folder,
        decoder=sdxl_folder,
        **SMALL,
    )
    old = UNet2DConditionModel.from_pretrained(sdxl_folder / "unet", variant="fp16").float().state_dict()
    new = fresh.unet.state_dict()
    assert set(old) == set(new)
    report = fresh.report["U-Net"]
    changed = {name for name in old if old[name].shape != new[name].shape}
    assert changed == {*report.fresh, *report.resized}
    assert all(torch.equal(old[name], new[name]) for name in report.copied)
    assert report.resized == ["add_embedding.linear_1.weight"]
    assert all(name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight")) for name in report.fresh)
    assert new[report.fresh[0]].shape[1] == WIDTH
    bound = WIDTH**-0.5
    assert bound * 0.9 < new[report.fresh[0]].abs().max() <= bound
    # the six embedded size numbers keep their columns behind the mean embedding
    size_columns = 6 * UNET["addition_time_embed_dim"]
    name = "add_embedding.linear_1.weight"
    assert torch.equal(new[name][:, -size_columns:], old[name][:, -size_columns:])
    assert new[name].shape[1] == WIDTH + size_columns
    assert len(fresh.report["VAE"].copied) == len(fresh.vae.state_dict())

    fresh.save(tmp_path / "start")
    pipe = Emu2ImagePipeline.from_pretrained(tmp_path / "start", dtype=torch.float32)
    assert_same(pipe.unet, fresh.unet)
    assert_same(pipe.multimodal_encoder, fresh.model)
    assert pipe.scheduler.config.steps_offset == 1


def test_wrong_parts_are_told(tmp_path, llama_folder, sdxl_folder):
    options = SMALL
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"holds no EVA-CLIP vision tower: looked for cls_token"):
        from_parts(vision=tmp_path / "other.pt", language_model=llama_folder, **options)
    with pytest.raises(ValueError, match=r"not a language model folder"):
        from_parts(vision=_eva_file(tmp_path), language_model=tmp_path, **options)
    with pytest.raises(ValueError, match=r"not an SDXL folder: looked for unet/config\.json"):
        from_parts(vision=_eva_file(tmp_path), language_model=llama_folder, decoder=tmp_path, **options)
    state = eva_state()
    state["visual.rope.freqs"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"1 tensor\(s\) unexpected: model\.visual\.rope\.freqs"):
        from_parts(vision=_eva_file(tmp_path, state), language_model=llama_folder, **options)
    del state["visual.rope.freqs"]
    state["visual.cls_token"][0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"'visual\.cls_token' holds 1 value"):
        from_parts(vision=_eva_file(tmp_path, state), language_model=llama_folder, **options)


def test_the_command_builds_and_reports(tmp_path, llama_folder):
    from emu2.cli.convert import app

    arguments = ["parts", str(tmp_path / "out"), "--vision", str(_eva_file(tmp_path)), "--llama", str(llama_folder)]
    result = CliRunner().invoke(app, [*arguments, "--image-size", "112", "--num-query", "4", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)["report"]
    assert report["vision tower"]["resized"] == 1
    assert report["bridge"]["fresh"] == 2
    model = Emu2ForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.config.vision_config.image_size == 112
