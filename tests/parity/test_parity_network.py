"""The network against the published code's numbers: vision tower, decoder forward, picture roll-out."""

import json
import os
from pathlib import Path

import pytest
import torch
from helpers_parity import assert_within, load_parity_model, normalise_u8

VISUAL = (1e-4, 3e-6)
PROJECTED = (2e-4, 3e-6)
HIDDEN = (1e-5, 1e-6)
LOGITS = (5e-5, 2e-6)
LOGSUMEXP = (2e-5, 1e-6)
ROLL_OUT = {64: (3e-3, 2e-4), 16: (2e-4, 3e-5)}

# Cases are listed at collection, so that each is a test of its own; without the folder the lists are empty and one
# test says why.
_SHARED = Path(os.environ.get("EMU2_SHARED", Path(__file__).parents[3] / "shared")) / "parity" / "open"
ROLL_OUT_CASES = (
    json.loads((_SHARED / "generate_image.json").read_text())["cases"]
    if (_SHARED / "generate_image.json").exists()
    else []
)


@pytest.fixture(scope="module")
def model_of(parity_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    return lambda name: load_parity_model(parity_dir, name, folder)


def test_recorded_cases_are_there(parity_dir):
    assert len(ROLL_OUT_CASES) >= 8


@pytest.fixture(scope="module")
def pictures(load_parity):
    """Preprocessed pictures as every recorded group was fed them, by model: float32[4, 3, S, S]."""
    small, _ = load_parity("preprocess")
    large, _ = load_parity("preprocess_448")
    stack_224 = torch.stack([small[f"img{i}.s224"] for i in range(4)])
    stack_448 = torch.stack([normalise_u8(large[f"img{i}.s448.resized_u8"]) for i in range(4)])
    return {"base224": stack_224, "base224q16": stack_224, "chat448": stack_448}


@torch.no_grad()
@pytest.mark.parametrize("name", ["base224", "base224q16", "chat448"])
def test_vision(name, model_of, pictures, load_parity):
    want, _ = load_parity("vision")
    model = model_of(name)
    seen = set()
    for key, recorded in want.items():
        if not key.startswith(f"{name}."):
            continue
        count = recorded.shape[0] if ".img0." not in key else 1
        got, limit = _vision_output(model, pictures[name][:count], key.removeprefix(f"{name}."))
        assert_within(got, recorded, *limit, what=key)
        seen.add(key)
    assert len(seen) >= 2, f"nothing recorded for {name}"


def _vision_output(model, pixels, what):
    """Ours of one recorded item, `visual`, `encode_image.q64`, `img0.block1.attn` and so on, with its limits."""
    if what == "visual":
        return model.model.visual(pixels).last_hidden_state, VISUAL
    if what == "encode_image.zeros":
        return model.encode_image(torch.zeros_like(pixels)), VISUAL
    if what.startswith("img0."):
        return _inside_tower(model.model.visual, pixels, what.removeprefix("img0.")), VISUAL
    step, num_query = what.split(".")[:2]
    features = model.encode_image(pixels, int(num_query.removeprefix("q")))
    return (features, VISUAL) if step == "encode_image" else (model.model.project_up(features), PROJECTED)


def _inside_tower(tower, pixels, what):
    """One recorded intermediate of the first picture: patch_embed, blockN.attn or blockN.out."""
    modules = {"patch_embed": tower.patch_embed}
    for i, block in enumerate(tower.blocks):
        modules[f"block{i}.attn"], modules[f"block{i}.out"] = block.attn, block
    caught = {}
    handle = modules[what].register_forward_hook(lambda _m, _i, out: caught.update(out=out))
    tower(pixels)
    handle.remove()
    return caught["out"][0]


@torch.no_grad()
@pytest.mark.parametrize("convention", ["arange", "masked"])
def test_lm_forward(convention, model_of, pictures, load_parity):
    want, _ = load_parity("lm_forward")
    model = model_of("base224")
    mask, real = want["attention_mask"], want["attention_mask"].bool()
    embeds = model.embed_inputs(want["input_ids"], pictures["base224"])
    assert_within(embeds[real], want["inputs_embeds"][real], *PROJECTED, what="inputs_embeds")

    positions = None
    if convention == "masked":
        positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    out = model(
        inputs_embeds=want["inputs_embeds"], attention_mask=mask, position_ids=positions, output_hidden_states=True
    )
    compared = set()
    for key, recorded in want.items():
        if not key.startswith(f"{convention}."):
            continue
        what = key.removeprefix(f"{convention}.")
        if what == "hidden":
            assert_within(out.last_hidden_state[real], recorded[real], *HIDDEN, what=key)
        elif what.startswith("layer"):
            layer = int(what.removeprefix("layer").split(".")[0])
            # hidden_states[0] is the embedding; the last entry is normed, so the last layer is checked as `hidden`.
            if layer + 1 < len(out.hidden_states) - 1:
                assert_within(out.hidden_states[layer + 1][real], recorded[real], 2e-5, 1e-6, what=key)
        elif what == "logits_last2":
            assert_within(out.logits[:, -2:], recorded, *LOGITS, what=key)
        elif what == "logsumexp":
            assert_within(out.logits.logsumexp(-1)[real], recorded[real], *LOGSUMEXP, what=key)
        elif what == "top5_values":
            assert_within(out.logits.topk(5).values[real], recorded[real], *LOGITS, what=key)
        elif what == "top5_ids":
            assert torch.equal(out.logits.topk(5).indices[real], recorded[real])
        else:
            pytest.fail(f"nothing compares the recorded {key}")
        compared.add(what)
    assert {"hidden", "logsumexp", "top5_values", "top5_ids"} <= compared


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "recomputed"])
@pytest.mark.parametrize("case", ROLL_OUT_CASES, ids=lambda case: case["key"])
def test_generate_visual(case, use_cache, model_of, pictures, load_parity):
    want, _ = load_parity("generate_image")
    key, model = case["key"], model_of(case["model"])
    pixels = None
    if case["images"]:
        pixels = torch.stack([pictures[case["model"]][int(Path(i).stem[-1])] for i in case["images"]])
    ids, mask = want[f"{key}.input_ids"], want[f"{key}.attention_mask"]
    embeds = model.embed_inputs(ids, pixels)
    real = mask.bool()
    assert_within(embeds[real], want[f"{key}.inputs_embeds"][real], *PROJECTED, what=f"{key}.inputs_embeds")
    states = []
    hook = model.model.language_model.register_forward_hook(
        lambda _module, _inputs, out: states.append(out.last_hidden_state[:, -1:])
    )
    got = model.generate_visual(ids, mask, pixels, num_query=case["n_query"], use_cache=use_cache)
    hook.remove()
    limits = ROLL_OUT[case["n_query"]]
    assert_within(got, want[f"{key}.target"], *limits, what=f"{key}.target")
    per_step = torch.cat(states, dim=1)
    for recorded in ("hidden_per_step", "hidden"):
        assert_within(per_step, want[f"{key}.{recorded}"], *limits, what=f"{key}.{recorded}")
