"""What must not change a number: caches, batches, padding, beams, saving, adapters, compilation."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from emu2 import Emu2Config, Emu2ForConditionalGeneration
from emu2.model.visual_generation import ImageSegment, TextSegment

IMG, END, SLOT, FRAME, PAD = 101, 102, 103, 104, 100
PICTURE = [IMG, *[SLOT] * 4, END]


def batch():
    """Two left-padded prompts: one with two pictures, one with a picture and a clip of one frame."""
    rows = [[1, *PICTURE, 9, *PICTURE, 11, 12], [1, 20, *PICTURE, IMG, *[FRAME] * 4, END]]
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    generator = torch.Generator().manual_seed(3)
    return {
        "input_ids": ids,
        "attention_mask": (ids != PAD).long(),
        "pixel_values": torch.randn(3, 3, 28, 28, generator=generator),
        "video_pixel_values": torch.randn(1, 3, 28, 28, generator=generator),
    }


def single(inputs, row):
    """One row of `batch()` without its padding."""
    mask = inputs["attention_mask"][row].bool()
    stills = inputs["pixel_values"][:2] if row == 0 else inputs["pixel_values"][2:]
    one = {"input_ids": inputs["input_ids"][row : row + 1, mask], "pixel_values": stills}
    return one if row == 0 else one | {"video_pixel_values": inputs["video_pixel_values"]}


GREEDY = {"max_new_tokens": 8, "do_sample": False}
MODES = {
    "greedy": GREEDY,
    "beams": {**GREEDY, "num_beams": 3, "length_penalty": -1.0},
    "penalties": {**GREEDY, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "beam sampling": {"max_new_tokens": 8, "do_sample": True, "num_beams": 2, "top_k": 20},
    "sampling": {"max_new_tokens": 8, "do_sample": True, "temperature": 0.8, "top_p": 0.9, "num_return_sequences": 2},
}


@pytest.mark.parametrize("mode", MODES)
def test_generate_with_pictures_equals_generate_with_embeddings(tiny_model, mode):
    inputs, options = batch(), MODES[mode]
    width = inputs["input_ids"].shape[1]
    torch.manual_seed(1)
    whole = tiny_model.generate(**inputs, **options)
    embeds = tiny_model.embed_inputs(inputs["input_ids"], inputs["pixel_values"], inputs["video_pixel_values"])
    assert torch.equal(
        whole[: inputs["input_ids"].shape[0] : options.get("num_return_sequences", 1), :width][0],
        inputs["input_ids"][0],
    )
    if "repetition_penalty" in options:  # it sees the prompt's ids, which embeddings do not have
        return
    torch.manual_seed(1)
    new = tiny_model.generate(inputs_embeds=embeds, attention_mask=inputs["attention_mask"], **options)
    assert torch.equal(whole[:, width:], new)


@pytest.mark.parametrize("mode", ["greedy", "beams", "penalties"])
@pytest.mark.parametrize("row", [0, 1])
def test_batched_equals_single(tiny_model, mode, row):
    inputs = batch()
    together = tiny_model.generate(**inputs, **MODES[mode])[row]
    alone = tiny_model.generate(**single(inputs, row), **MODES[mode])[0]
    padding = int((inputs["attention_mask"][row] == 0).sum())
    assert torch.equal(together[padding:][: len(alone)], alone)


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"num_beams": 3, "cache_implementation": "static", "disable_compile": True},
        {"num_beams": 3, "use_cache": False},
        {"prefill_chunk_size": 5},
    ],
    ids=str,
)
def test_caches_change_nothing(tiny_model, options):
    inputs = batch()
    plain = tiny_model.generate(**inputs, **GREEDY, num_beams=options.get("num_beams", 1))
    assert torch.equal(tiny_model.generate(**inputs, **{**GREEDY, **options}), plain)


def test_assisted_generation_changes_nothing(tiny_model, tiny_config):
    inputs = single(batch(), 0)
    plain = tiny_model.generate(**inputs, **GREEDY)
    torch.manual_seed(5)
    assistant = Emu2ForConditionalGeneration(tiny_config).eval()
    seen = []
    assistant.model.visual.register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(tiny_model.generate(**inputs, **GREEDY, assistant_model=assistant), plain)
    assert seen, "the assistant never looked at the pictures"
    assert torch.equal(tiny_model.generate(**inputs, **GREEDY, prompt_lookup_num_tokens=3), plain)


def test_pictures_are_encoded_once_whatever_the_beams(tiny_model):
    calls = []
    tiny_model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    tiny_model.generate(**single(batch(), 0), **MODES["beams"])
    assert len(calls) == 1


def test_streamer_and_stopping_criteria(tiny_model):
    class StopAfterThree(StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            return torch.full((input_ids.shape[0],), input_ids.shape[1] >= width + 3)

    class Ids:
        """What TextIteratorStreamer asks of a tokeniser."""

        def decode(self, ids, **_):
            return " ".join(map(str, ids)) + "\n"

    inputs = single(batch(), 0)
    width = inputs["input_ids"].shape[1]
    streamer = TextIteratorStreamer(Ids(), skip_prompt=True)
    out = tiny_model.generate(
        **inputs, **GREEDY, streamer=streamer, stopping_criteria=StoppingCriteriaList([StopAfterThree()])
    )
    assert out.shape[1] == width + 3
    assert "".join(streamer).split() == [str(i) for i in out[0, width:].tolist()]


@torch.no_grad()
def test_padding_changes_no_logit_and_no_loss(tiny_model):
    inputs = batch()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    together = tiny_model(**inputs, labels=labels)
    text, visual = 0.0, 0.0
    for row in range(2):
        one = single(inputs, row)
        alone = tiny_model(**one, labels=one["input_ids"])
        real = inputs["attention_mask"][row].bool()
        torch.testing.assert_close(together.logits[row, real], alone.logits[0], atol=1e-5, rtol=1e-4)
        text += alone.text_loss * alone.num_text_targets
        visual += alone.visual_loss * alone.num_visual_targets
    # The padded row's first real token has no state before it that means anything; its label must not count.
    torch.testing.assert_close(together.visual_loss, visual / together.num_visual_targets)
    assert together.num_text_targets - 1 == sum(
        tiny_model(**single(inputs, r), labels=single(inputs, r)["input_ids"]).num_text_targets for r in range(2)
    )


@pytest.mark.parametrize("num_query", [4, 9])
def test_roll_out_cached_equals_recomputed_and_batched_equals_single(tiny_model, num_query):
    inputs = batch()
    cached = tiny_model.generate_visual(**inputs, num_query=num_query)
    assert cached.shape == (2, num_query, 32)
    torch.testing.assert_close(
        cached, tiny_model.generate_visual(**inputs, num_query=num_query, use_cache=False), atol=1e-5, rtol=1e-4
    )
    for row in range(2):
        alone = tiny_model.generate_visual(**single(inputs, row), num_query=num_query)
        torch.testing.assert_close(cached[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_frames_cached_equal_recomputed_and_batched_equal_single(tiny_model):
    inputs = batch()
    cached = tiny_model.generate_clip(**inputs, num_frames=3, num_query=4)
    assert cached.shape == (2, 3, 4, 32)
    recomputed = tiny_model.generate_clip(**inputs, num_frames=3, num_query=4, use_cache=False)
    torch.testing.assert_close(cached, recomputed, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(cached[:, 0], tiny_model.generate_visual(**inputs, num_query=4), atol=1e-5, rtol=1e-4)
    for row in range(2):
        alone = tiny_model.generate_clip(**single(inputs, row), num_frames=3, num_query=4)
        torch.testing.assert_close(cached[row : row + 1], alone, atol=1e-5, rtol=1e-4)

    with pytest.raises(ValueError, match="num_frames must be at least 1; got 0"):
        tiny_model.generate_clip(**inputs, num_frames=0)
    with pytest.raises(ValueError, match=r"a picture takes 357 more positions"):
        tiny_model.generate_clip(**inputs, num_frames=60, num_query=4)


def test_roll_out_appends_img_only_where_no_row_has_it(tiny_model):
    bare = torch.tensor([[1, 5, 6], [1, 7, 8]])
    ended = torch.cat([bare, torch.full((2, 1), IMG)], dim=1)
    assert torch.equal(tiny_model.generate_visual(bare), tiny_model.generate_visual(ended))
    with pytest.raises(ValueError, match=r"Some prompts end in \[IMG\] and some do not \(rows \[1\] do\)"):
        tiny_model.generate_visual(torch.tensor([[1, 5, 6], [1, 7, IMG]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_query": 0}, "num_query must be at least 1; got 0"),
        ({"attention_mask": torch.tensor([[1, 1, 0]])}, r"padded on the left; rows \[0\]"),
        ({"num_query": 300}, r"4 tokens and a picture takes 299 more positions, 303 in all; .* context is 256"),
    ],
)
def test_roll_out_refuses(tiny_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_model.generate_visual(torch.tensor([[1, 5, 6]]), **arguments)


def _will_draw(after=3):
    """A logits processor: every `after`-th token is `[IMG]`, where it is allowed. Trained models choose themselves."""
    count = [0]

    def draw(_ids, scores):
        count[0] += 1
        if count[0] % after == 0 and scores[0, IMG] > -torch.inf:
            scores = torch.full_like(scores, -1e9)
            scores[:, IMG] = 0
        return scores

    return draw


def test_interleaved_answer_draws_where_the_model_says_so(tiny_model):
    prompt = torch.tensor([[1, 5, 6]])
    (answer,) = tiny_model.generate_interleaved(
        prompt, max_new_tokens=9, max_images=5, do_sample=False, eos_token_id=None,
        logits_processor=[_will_draw()],
    )  # fmt: skip
    kinds = [type(segment) for segment in answer]
    assert kinds == [TextSegment, ImageSegment] * 3
    assert all(s.embeddings.shape == (4, 32) for s in answer if isinstance(s, ImageSegment))
    assert not {IMG, END, SLOT, FRAME} & {t for s in answer if isinstance(s, TextSegment) for t in s.token_ids}

    # The first picture is the one that the plain roll-out writes after the same text.
    context = torch.cat([prompt, torch.tensor([[*answer[0].token_ids, IMG]])], dim=1)
    torch.testing.assert_close(answer[1].embeddings, tiny_model.generate_visual(context)[0], atol=1e-5, rtol=1e-4)

    # What follows it is what the model writes when it is shown the picture as part of its prompt.
    seen = torch.cat([context, torch.tensor([[SLOT] * 4 + [END]])], dim=1)
    follow = tiny_model.generate(
        input_ids=seen, image_features=answer[1].embeddings[None], max_new_tokens=2, do_sample=False,
        suppress_tokens=[SLOT, FRAME, END, IMG, 2],
    )  # fmt: skip
    redone = tiny_model.generate_interleaved(
        context, max_new_tokens=2, max_images=1, do_sample=False, suppress_tokens=[2]
    )[0]
    assert isinstance(redone[0], ImageSegment)
    assert redone[1].token_ids == follow[0, seen.shape[1] :].tolist()


def test_interleaved_limits(tiny_model):
    prompt = torch.tensor([[1, 5, 6], [1, 7, 8]])
    forced = {"do_sample": False, "logits_processor": [_will_draw(after=1)]}
    answers = tiny_model.generate_interleaved(prompt, max_new_tokens=6, max_images=2, **forced)
    assert [sum(isinstance(s, ImageSegment) for s in a) for a in answers] == [2, 2]
    assert tiny_model.generate_interleaved(prompt, max_new_tokens=0) == [[], []]
    with pytest.raises(ValueError, match="without beams; got num_beams=3"):
        tiny_model.generate_interleaved(prompt, num_beams=3)
    with pytest.raises(ValueError, match="must not be negative; got -1 and 4"):
        tiny_model.generate_interleaved(prompt, max_new_tokens=-1)


@torch.no_grad()
def test_saved_equals_loaded(tiny_model, tmp_path):
    inputs = batch()
    tiny_model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again, info = Emu2ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for part in ("vision_config", "text_config"):
        assert getattr(again.config, part).hidden_size == getattr(tiny_model.config, part).hidden_size
    assert again.config.num_query == tiny_model.config.num_query
    assert torch.equal(again.eval()(**inputs).logits, tiny_model(**inputs).logits)
    half = Emu2ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16, device_map="cpu")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half(**inputs).logits.dtype == torch.bfloat16


def test_auto_classes_in_a_fresh_interpreter(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    code = (
        "import emu2.auto; from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText as A;"
        f"folder = {str(tmp_path)!r};"
        "print(type(AutoConfig.from_pretrained(folder)).__name__, type(AutoModel.from_pretrained(folder)).__name__,"
        " type(A.from_pretrained(folder)).__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["Emu2Config", "Emu2Model", "Emu2ForConditionalGeneration"]
    assert AutoModel.from_pretrained(tmp_path).config.model_type == "emu2"


def test_gradient_checkpointing_changes_no_gradient(tiny_model):
    inputs = batch()
    tiny_model.train()
    tiny_model(**inputs, labels=inputs["input_ids"]).loss.backward()
    plain = {name: p.grad.clone() for name, p in tiny_model.named_parameters()}
    tiny_model.zero_grad()
    tiny_model.gradient_checkpointing_enable()
    assert tiny_model.model.visual.is_gradient_checkpointing
    assert tiny_model.model.language_model.is_gradient_checkpointing
    tiny_model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    for name, p in tiny_model.named_parameters():
        torch.testing.assert_close(p.grad, plain[name], msg=name)


@torch.no_grad()
def test_lora_merged_equals_unmerged(tiny_model, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    inputs = batch()
    tiny_model.save_pretrained(tmp_path / "base")
    plain = tiny_model(**inputs).logits
    adapted = get_peft_model(tiny_model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "qkv", "project_up"]))
    assert torch.equal(adapted(**inputs).logits, plain)
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    moved = adapted.eval()(**inputs).logits
    assert (moved - plain).abs().max() > 1e-3
    assert adapted.generate(**inputs, **GREEDY).shape[1] == inputs["input_ids"].shape[1] + 8
    adapted.save_pretrained(tmp_path / "adapter")
    base = Emu2ForConditionalGeneration.from_pretrained(tmp_path / "base")
    reloaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(reloaded(**inputs).logits, moved)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(**inputs).logits, moved, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_equals_eager(tiny_model):
    inputs = batch()
    eager = tiny_model(**inputs)
    compiled = torch.compile(tiny_model, backend="aot_eager")(**inputs)
    torch.testing.assert_close(compiled.logits, eager.logits, atol=1e-5, rtol=1e-4)

    step = {"input_ids": torch.tensor([[5], [6]]), "past_key_values": eager.past_key_values, "use_cache": True}
    compiled_step = torch.compile(tiny_model.forward, fullgraph=True, backend="aot_eager")
    logits = compiled_step(**step).logits
    eager.past_key_values.crop(-1)
    torch.testing.assert_close(logits, tiny_model(**step).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["mistral", "qwen2", "qwen3", "gpt_neox"])
def test_any_causal_language_model(tiny_config, model_type):
    text = {
        "model_type": model_type, "vocab_size": 400, "hidden_size": 48, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256, "head_dim": 12,
    }  # fmt: skip
    if model_type in ("mistral", "qwen2", "qwen3"):
        text["num_key_value_heads"] = 2
    if model_type in ("qwen2", "gpt_neox"):
        del text["head_dim"]
    torch.manual_seed(0)
    model = Emu2ForConditionalGeneration(Emu2Config.from_dict(tiny_config.to_dict() | {"text_config": text})).eval()
    inputs = batch()
    assert torch.isfinite(model(**inputs, labels=inputs["input_ids"]).loss)
    assert torch.equal(model.generate(**inputs, **GREEDY), model.generate(**inputs, **GREEDY, use_cache=False))
    torch.testing.assert_close(
        model.generate_visual(**inputs), model.generate_visual(**inputs, use_cache=False), atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_tied_embeddings_stay_tied(tiny_config, tmp_path):
    text = tiny_config.text_config.to_dict() | {"tie_word_embeddings": True}
    model = Emu2ForConditionalGeneration(Emu2Config.from_dict(tiny_config.to_dict() | {"text_config": text}))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again = Emu2ForConditionalGeneration.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


@torch.no_grad()
@pytest.mark.parametrize(
    "device_map",
    [
        "auto",
        "cpu",
        {"": "cpu"},
        {
            "model.visual": "cpu",
            "model.project_up": "cpu",
            "model.project_down": "cpu",
            "model.language_model": "disk",
            "lm_head": "cpu",
        },
    ],
    ids=["auto", "cpu", "dict", "language model on disk"],
)
def test_device_maps_change_nothing(tiny_model, device_map, tmp_path):
    inputs = batch()
    tiny_model.save_pretrained(tmp_path / "model")
    placed = Emu2ForConditionalGeneration.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    assert torch.equal(placed(**inputs).logits, tiny_model(**inputs).logits)
    assert torch.equal(placed.generate_visual(**inputs), tiny_model.generate_visual(**inputs))
