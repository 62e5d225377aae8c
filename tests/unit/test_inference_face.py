"""The friendly face: each method once for what it does, once for what it refuses."""

import pytest
import torch
from helpers_inference import build_parts, picture, save_pipeline
from PIL import Image

import emu2
from emu2.inference.face import Emu2


@pytest.fixture(scope="module")
def m():
    return Emu2(*build_parts(), name="the tiny model")


@pytest.fixture(scope="module")
def artist(tmp_path_factory):
    return emu2.load(save_pipeline(tmp_path_factory.mktemp("models") / "pictures"), device="cpu")


@pytest.fixture(scope="module")
def talkative(m):
    """Options under which the untrained model writes words: no special token, sampled."""
    special = [i for i in range(m.model.config.text_config.vocab_size) if i in m.processor.tokenizer.all_special_ids]
    special += range(m.model.config.pad_token_id, m.model.config.text_config.vocab_size)
    return {"suppress_tokens": sorted(set(special)), "temperature": 1.0, "max_new_tokens": 12}


def test_complete_is_generate_on_the_processed_prompt(m):
    prompt = [picture(), "a photo of"]
    inputs = m.processor([prompt])
    eos = [m.model.config.eos_token_id, m.model.config.image_start_token_id]
    ids = m.model.generate(**inputs, max_new_tokens=6, eos_token_id=eos, do_sample=False)
    new = ids[0, inputs["input_ids"].shape[1] :]
    assert m.complete(prompt, max_new_tokens=6) == m.processor.decode(new, skip_special_tokens=True)


def test_complete_takes_text_paths_and_videos(m, tmp_path):
    picture().save(tmp_path / "p.png")
    video = emu2.Video([picture("red"), picture("blue")])
    for prompt in ("a photo", [tmp_path / "p.png"], [video, "shows"], ("a", picture(), "b")):
        assert isinstance(m.complete(prompt, max_new_tokens=2), str)


def test_seed_makes_sampling_repeatable_and_leaves_the_global_state_alone(m, talkative):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = m.complete("a photo", seed=1, **talkative)
    assert torch.equal(torch.get_rng_state(), before)
    assert first
    assert m.complete("a photo", seed=1, **talkative) == first
    assert any(m.complete("a photo", seed=seed, **talkative) != first for seed in (2, 3))


def test_a_stream_joins_to_the_answer(m, talkative):
    pieces = list(m.complete([picture(), "a photo"], seed=1, stream=True, **talkative))
    assert len(pieces) > 1
    assert "".join(pieces) == m.complete([picture(), "a photo"], seed=1, **talkative)


def test_an_error_in_a_stream_reaches_the_reader(m, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(m.model, "generate", fail, raising=False)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(m.complete("a photo", stream=True))


def test_leaving_a_stream_early_ends_the_generation(m, talkative):
    steps = []
    hook = m.model.register_forward_pre_hook(lambda *_: steps.append(1))
    stream = m.complete("a photo", seed=1, stream=True, **talkative | {"max_new_tokens": 500})
    next(stream)
    stream.close()
    hook.remove()
    assert 0 < len(steps) < 400


def test_published_decoding_streams_when_greedy(m):
    whole = m.complete("dog", decoding="published", num_beams=1, max_new_tokens=8)
    pieces = m.complete("dog", decoding="published", num_beams=1, max_new_tokens=8, stream=True)
    assert "".join(pieces) == whole


def test_chat_words_a_question_as_published(m, monkeypatch):
    seen = {}
    generate = m.model.generate
    monkeypatch.setattr(m.model, "generate", lambda **k: seen.update(k) or generate(**k), raising=False)
    m.chat("what is this?", max_new_tokens=1)
    told = m.processor.decode(seen["input_ids"][0])
    assert "comprehensive and meticulous" in told
    assert told.rstrip().endswith("[ASSISTANT] :")
    m.chat("what is this?", style="concise", max_new_tokens=1)
    assert "concise and efficient" in m.processor.decode(seen["input_ids"][0])
    m.chat("what is this?", system="Be brief.", max_new_tokens=1)
    assert "Be brief." in m.processor.decode(seen["input_ids"][0])


def test_chat_takes_a_list_and_messages_alike(m):
    as_list = m.chat([picture(), "what is this?"], max_new_tokens=4)
    content = [{"type": "image", "image": picture()}, {"type": "text", "text": "what is this?"}]
    assert m.chat([{"role": "user", "content": content}], max_new_tokens=4) == as_list


def test_grounded_answers_keep_their_markup(m, monkeypatch):
    tokenizer = m.processor.tokenizer
    answer = tokenizer("<phrase>a dog</phrase><object><patch_index_0010>", add_special_tokens=False)["input_ids"]
    eos = m.model.config.eos_token_id

    def answered(**kwargs):
        return torch.cat([kwargs["input_ids"], torch.tensor([[*answer, eos]])], dim=1)

    monkeypatch.setattr(m.model, "generate", answered, raising=False)
    markup = m.chat([picture(), "where?"], grounding=True)
    assert markup.replace(" ", "") == "<phrase>adog</phrase><object><patch_index_0010>"
    assert "<" not in m.chat([picture(), "where?"])


def test_a_conversation_remembers(m):
    talk = m.conversation(max_new_tokens=3)
    first = talk.say(picture(), "what is this?")
    talk.say("and now?")
    assert [message["role"] for message in talk.messages] == ["user", "assistant"] * 2
    assert talk.messages[1]["content"] == first
    history = [*talk.messages[:2], {"role": "user", "content": "and now?"}]
    assert m.chat(history, max_new_tokens=3) == talk.messages[3]["content"]
    talk.reset()
    assert talk.messages == []


def test_a_failed_or_unread_turn_is_forgotten(m):
    talk = m.conversation(max_new_tokens=3)
    with pytest.raises(ValueError, match="context"):
        talk.say("cat " * 3000)
    stream = talk.say("hello", stream=True)
    stream.close()
    assert talk.messages == []
    assert isinstance("".join(talk.say("hello", stream=True)), str)
    assert len(talk.messages) == 2


def test_draw_film_and_edit_say_what_is_missing(m):
    with pytest.raises(ValueError, match=r"the tiny model has no image decoder.*model_index\.json"):
        m.draw("a dog")
    with pytest.raises(ValueError, match="no image decoder"):
        m.edit(picture(), "make it blue")
    with pytest.raises(ValueError, match="the tiny model has no video decoder"):
        m.film("a dog")


def test_draw_is_the_pipeline_with_a_seeded_generator(artist):
    direct = artist.image_pipeline(
        ["a dog", picture()], num_inference_steps=2, generator=torch.Generator().manual_seed(3)
    ).images[0]
    drawn = artist.draw(["a dog", picture()], steps=2, seed=3)
    assert isinstance(drawn, Image.Image)
    assert drawn.tobytes() == direct.tobytes()
    assert artist.draw(["a dog", picture()], steps=2, seed=4).tobytes() != direct.tobytes()


def test_draw_several_at_another_size(artist):
    drawn = artist.draw("a dog", steps=1, count=2, height=32, width=48, seed=0)
    assert [one.size for one in drawn] == [(48, 32)] * 2
    assert drawn[0].tobytes() != drawn[1].tobytes()


def test_a_picture_alone_is_autoencoded_and_edit_is_a_drawing(artist):
    assert artist.draw(picture(), steps=1, seed=1).tobytes() == artist.draw([picture()], steps=1, seed=1).tobytes()
    edited = artist.edit(picture(), "make it blue", steps=1, seed=1)
    assert edited.tobytes() == artist.draw([picture(), "make it blue"], steps=1, seed=1).tobytes()
    with pytest.raises(ValueError, match="instruction is empty"):
        artist.edit(picture(), " ")


def test_interleave_draws_where_the_model_starts_a_picture_and_goes_on_in_text(artist, m):
    options = {"max_new_tokens": 6, "max_images": 1, "temperature": 1.0, "steps": 1, "seed": 1}
    told = artist.interleave("a dog", draw_first=True, **options)
    assert told[0].tobytes() == artist.draw("a dog", steps=1, seed=1).tobytes()
    assert all(isinstance(part, str) for part in told[1:])
    assert told[1:] == artist.interleave("a dog", draw_first=True, **options)[1:]
    with pytest.raises(ValueError, match="no image decoder"):
        m.interleave("a dog")
    with pytest.raises(ValueError, match="temperature must not be negative"):
        artist.interleave("a dog", temperature=-1.0)


def test_embed_encodes_pictures_and_rolls_prompts_out(m):
    config = m.model.config
    shape = (config.num_query, config.vision_config.hidden_size)
    pixels = m.processor.image_processor([picture()], return_tensors="pt")["pixel_values"]
    seen, imagined = m.embed(picture()), m.embed([picture(), "a dog"])
    assert seen.shape == imagined.shape == shape
    torch.testing.assert_close(seen, m.model.encode_image(pixels)[0])
    torch.testing.assert_close(imagined, m.model.generate_visual(**m.processor([[picture(), "a dog"]], draw=True))[0])


@pytest.mark.parametrize("prompt", ["", "  ", [], [""], None])
@pytest.mark.parametrize("method", ["complete", "chat", "embed"])
def test_an_empty_prompt_is_refused(m, method, prompt):
    with pytest.raises(ValueError, match="is empty"):
        getattr(m, method)(prompt)


def test_an_empty_prompt_is_not_drawn(artist):
    with pytest.raises(ValueError, match="is empty"):
        artist.draw("")


def test_a_prompt_longer_than_the_context_says_how_long_of_what(m):
    with pytest.raises(
        ValueError, match=r"prompt is \d{4} tokens long .* context of the tiny model is 1024 tokens"
    ) as e:
        m.complete("cat " * 3000)
    assert "a picture takes 18 tokens" in str(e.value)
    with pytest.raises(ValueError, match=r"ask for at most \d+ new ones"):
        m.complete("a cat", max_new_tokens=2000)
    with pytest.raises(ValueError, match="context"):
        m.embed("cat " * 3000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoding": "beam"}, "decoding is one of transformers, published; got 'beam'"),
        ({"temperature": -1.0}, "temperature must not be negative"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1; got 0"),
        ({"num_beams": 0}, "num_beams must be at least 1; got 0"),
        ({"num_beams": 3, "stream": True}, "Streaming needs num_beams=1, got 3"),
        ({"decoding": "published", "stream": True}, "Streaming needs num_beams=1, got 5"),
        ({"decoding": "published", "temperature": 1.0}, "Published decoding has no temperature"),
    ],
)
def test_options_out_of_range_are_named(m, options, message):
    with pytest.raises(ValueError, match=message):
        m.complete("a photo", **options)


def test_a_message_out_of_turn_is_refused(m):
    with pytest.raises(ValueError, match="the assistant's"):
        m.chat([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}])
    with pytest.raises(ValueError, match="The last message is empty"):
        m.chat([{"role": "user", "content": ""}])


def test_a_slot_token_in_text_is_only_text(m):
    """A person may type `<image>`; no picture is asked for, and nothing is filled."""
    assert isinstance(m.complete("what does <image> and [IMG] mean?", max_new_tokens=2), str)
