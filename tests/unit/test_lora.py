"""Adapters: fresh ones change nothing, merged equals unmerged, saved equals loaded, PEFT reads them, runs train."""

import json

import pytest
import torch
from helpers_train import run_config, tiny_whole, trainer, weights
from peft import PeftModel
from safetensors.torch import load_file

from emu2.inference.adapted import apply_adapter
from emu2.model.adapters import (
    add_lora,
    fold_adapter,
    has_adapter,
    is_adapter_parameter,
    load_adapter,
    merge_adapter,
    save_adapter,
    unmerge_adapter,
)
from emu2.model.vocabulary import add_chat_tokens
from emu2.processing.tokenizer import train_tokenizer
from emu2.recipes.fresh import fresh_whole
from emu2.train.config import LoraSettings, RunConfig, with_overrides
from emu2.train.trainable import set_trainable, trained_parameters

IDS = torch.arange(20, 27)[None]


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


@torch.no_grad()
def adapted(rank=4, **options):
    """A tiny model with an adapter that does something."""
    model = tiny_whole().model
    add_lora(model, rank, **options)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(0))
    return model


def test_a_fresh_adapter_changes_nothing_and_sits_beside_the_language_model_and_the_bridge():
    model = tiny_whole().model
    plain = logits(model)
    add_lora(model, 4)
    assert torch.equal(logits(model), plain)
    layers = {name.rpartition(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    assert len(layers) == 2 * 7 + 1 + 2
    assert not any("visual" in name for name in layers)


def test_merged_equals_unmerged_and_back_again():
    model = adapted()
    beside = logits(model)
    assert not torch.allclose(beside, logits(tiny_whole().model), atol=1e-3)
    merge_adapter(model)
    torch.testing.assert_close(logits(model), beside, rtol=1e-5, atol=1e-6)
    unmerge_adapter(model)
    torch.testing.assert_close(logits(model), beside, rtol=1e-5, atol=1e-6)
    fold_adapter(model)
    torch.testing.assert_close(logits(model), beside, rtol=1e-5, atol=1e-6)
    assert not has_adapter(model)
    assert set(model.state_dict()) == set(tiny_whole().model.state_dict())


def test_saved_and_loaded_by_us_and_by_peft(tmp_path):
    model = adapted(alpha=3.0)
    save_adapter(model, tmp_path, base="somewhere")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "somewhere"
    assert all(is_adapter_parameter(name) for name in load_file(tmp_path / "adapter_model.safetensors"))
    loaded = tiny_whole().model
    load_adapter(loaded, tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_whole().model, str(tmp_path))), logits(model))


def test_wrong_adapters_are_refused(tmp_path):
    model = adapted()
    save_adapter(model, tmp_path / "tiny")
    with pytest.raises(ValueError, match="has an adapter already; merge it"):
        add_lora(model, 2)
    with pytest.raises(ValueError, match="has an adapter already; merge it"):
        load_adapter(model, tmp_path / "tiny")
    with pytest.raises(ValueError, match=r"is no adapter's folder: it has no adapter_config.json"):
        load_adapter(tiny_whole().model, tmp_path)
    with pytest.raises(ValueError, match="This model has no adapter; add one"):
        merge_adapter(tiny_whole().model)
    with pytest.raises(ValueError, match="No linear layer's name ends in one of query; there are down_proj, gate_proj"):
        add_lora(tiny_whole().model, 2, targets=["query"])
    other = fresh_whole("debug", train_tokenizer(["a red apple"], 270)).model
    with pytest.raises(ValueError, match=r"belongs to another model: .*size mismatch"):
        load_adapter(other, tmp_path / "tiny")
    (tmp_path / "tiny" / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="is damaged"):
        load_adapter(tiny_whole().model, tmp_path / "tiny")


def test_a_run_moves_the_adapter_alone_and_leaves_it(tmp_path):
    whole = tiny_whole()
    add_lora(whole.model, 4)
    before = weights(whole)
    run = trainer(run_config("unified", lora=LoraSettings(rank=4)), tmp_path, whole=whole)
    run.run()
    moved = {name for name, value in weights(whole).items() if not torch.equal(value, before[name])}
    assert moved
    assert all(is_adapter_parameter(name) for name in moved)
    assert not (tmp_path / "model").exists()
    other = tiny_whole()
    apply_adapter(other.model, other.processor, tmp_path / "adapter")
    assert torch.equal(logits(other.model), logits(whole.model))
    # Resumed from its half, it ends the same: checkpoints hold the adapter's parameters.
    halves = tiny_whole()
    add_lora(halves.model, 4)
    config = run_config("unified", lora=LoraSettings(rank=4))
    trainer(config, tmp_path / "halves", whole=halves).run(until=3)
    rest = tiny_whole()
    add_lora(rest.model, 4, seed=9)
    trainer(config, tmp_path / "halves", whole=rest).run(resume=True)
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "halves/adapter"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_settings():
    config = run_config("unified")
    assert with_overrides(config, ["lora.rank=8"]).lora == LoraSettings(rank=8)
    assert with_overrides(config, ['lora={"rank": 8, "alpha": 4}']).lora == LoraSettings(rank=8, alpha=4.0)
    for setting, message in (("lora.rank=0", "lora.rank must be 1 or more"), ("lora.dropout=1", r"lies in \[0, 1\)")):
        with pytest.raises(ValueError, match=message):
            with_overrides(config, [setting])
    with pytest.raises(ValueError, match="lora adapts bridge and language only, and this run would train vision too"):
        RunConfig(name="x", objective="caption", parts=("vision", "language"), lora=LoraSettings())


def test_nothing_trainable_is_an_error():
    whole = tiny_whole()
    add_lora(whole.model, 2, targets=["q_proj"])
    with pytest.raises(ValueError, match="Nothing is trainable: the parts bridge hold no parameter of the adapter"):
        set_trainable(whole, ("bridge",))
    set_trainable(whole, ("language",))
    assert len(list(trained_parameters(whole, ("language",)))) == 4


def test_chat_tokens_are_added_once_and_always_alike(tmp_path):
    def base():
        return fresh_whole("debug", train_tokenizer(["user assistant"] * 3, 300, chat=False))

    whole, again = base(), base()
    rows = whole.model.get_input_embeddings().weight.shape[0]
    assert add_chat_tokens(whole.model, whole.processor.tokenizer)
    assert not add_chat_tokens(whole.model, whole.processor.tokenizer)
    table = whole.model.get_input_embeddings().weight
    assert table.shape[0] == whole.model.config.text_config.vocab_size == rows + 2
    words = whole.processor.tokenizer("user", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(table[rows], table[words].mean(0))
    chat = train_tokenizer(["user assistant"] * 3, 300, chat=True)
    text = "You help. [USER]: what is this? [ASSISTANT]: a dog</s>"
    assert whole.processor.tokenizer(text)["input_ids"] == chat(text)["input_ids"]

    # An adapter brings the tokens along.
    add_lora(whole.model, 2)
    save_adapter(whole.model, tmp_path, processor=whole.processor)
    apply_adapter(again.model, again.processor, tmp_path)
    assert torch.equal(again.model.get_input_embeddings().weight, table)
