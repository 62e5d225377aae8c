"""The name tables: each reversible, each with its own forms of the vision bias and rotary tables."""

import pytest
from helpers_convert import hf_state, native_state

from emu2.model.key_map import (
    Piece,
    from_ours,
    match_safety_checker,
    plan_reading,
    plan_writing,
    recognise_scheme,
    safety_checker_to_published,
    split_components,
    to_ours,
)


def _ours(tiny_model):
    return list(tiny_model.state_dict())


@pytest.mark.parametrize("scheme", ["ours", "native", "hf"])
def test_tables_are_reversible(tiny_model, scheme):
    for name in _ours(tiny_model):
        assert to_ours(from_ours(name, scheme), scheme) == name


@pytest.mark.parametrize(("scheme", "state"), [("native", native_state), ("hf", hf_state)])
def test_reading_a_published_listing_finds_every_tensor_of_ours(tiny_model, scheme, state):
    published = list(state(tiny_model))
    plan = plan_reading(published, scheme)
    assert set(plan.pieces) == set(_ours(tiny_model))
    assert plan.unknown == []
    assert {name for name in published if name.endswith("inv_freq")} == set(plan.ignored)
    assert recognise_scheme(published) == scheme


@pytest.mark.parametrize(("scheme", "state"), [("native", native_state), ("hf", hf_state)])
@pytest.mark.parametrize("inv_freq", [True, False])
def test_writing_names_every_published_tensor(tiny_model, scheme, state, inv_freq):
    written = [entry.name for entry in plan_writing(_ours(tiny_model), scheme, inv_freq=inv_freq)]
    expected = [name for name in state(tiny_model) if inv_freq or not name.endswith("inv_freq")]
    assert sorted(written) == sorted(expected)


def test_a_fused_bias_is_read_as_its_outer_thirds():
    plan = plan_reading(["model.visual.blocks.0.attn.qkv.bias"], "hf")
    assert plan.pieces == {
        "model.visual.blocks.0.attn.q_bias": Piece("model.visual.blocks.0.attn.qkv.bias", "query"),
        "model.visual.blocks.0.attn.v_bias": Piece("model.visual.blocks.0.attn.qkv.bias", "value"),
    }


def test_split_biases_in_the_hf_naming_and_fused_ones_in_the_native_are_understood():
    assert "model.visual.blocks.0.attn.q_bias" in plan_reading(["model.visual.blocks.0.attn.q_bias"], "hf").pieces
    assert "model.visual.blocks.0.attn.v_bias" in plan_reading(["visual.blocks.0.attn.qkv.bias"], "native").pieces


def test_unknown_names_are_kept_apart():
    assert plan_reading(["optimizer.step", "project_up.weight"], "native").unknown == ["optimizer.step"]
    assert recognise_scheme(["optimizer.step"]) is None
    with pytest.raises(ValueError, match=r"'optimizer\.step' is not the name of an Emu2 parameter"):
        from_ours("optimizer.step", "native")


def test_components_of_an_image_generation_file():
    groups = split_components(["unet.conv_in.weight", "multimodal_encoder.project_up.weight", "step"])
    assert groups == {
        "unet": {"conv_in.weight": "unet.conv_in.weight"},
        "multimodal_encoder": {"project_up.weight": "multimodal_encoder.project_up.weight"},
        "": {"step": "step"},
    }


@pytest.mark.parametrize("wanted", ["vision_model.X", "vision_model.vision_model.X"])
@pytest.mark.parametrize("given", ["vision_model.X", "vision_model.vision_model.X"])
def test_safety_checkers_match_in_both_namings(wanted, given):
    matched, ignored = match_safety_checker([given, "vision_model.embeddings.position_ids"], [wanted])
    assert matched == {wanted: given}
    assert ignored == ["vision_model.embeddings.position_ids"]
    assert safety_checker_to_published(given) == "vision_model.vision_model.X"
