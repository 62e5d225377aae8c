"""What each stage's objective makes of a record, and the settings that shape it."""

import math
import pickle
import random
from dataclasses import replace

import pytest
import torch
from helpers_train import (
    SIDE,
    clip,
    composition,
    conversation,
    pair,
    records,
    run_config,
    tiny_whole,
    trainer,
    weights,
)
from PIL import Image
from transformers import DynamicCache

from emu2 import tokens
from emu2.data.loader import Samples
from emu2.data.records import Record
from emu2.data.sequences import IGNORE
from emu2.processing.grounding import Box
from emu2.train.config import GenerationConfig, OptimConfig, with_overrides
from emu2.train.fitting import fit_whole
from emu2.train.generation import object_picture, varied
from emu2.train.objectives import objective_class
from emu2.train.optim import schedule_factor
from emu2.train.whole import Whole


def _objective(name, whole=None, **data):
    config = run_config(name)
    config = replace(config, data=replace(config.data, **data))
    return objective_class(name)(tiny_whole() if whole is None else whole, config, torch.device("cpu"))


def _read(objective, sample) -> str:
    return objective.whole.processor.tokenizer.decode(sample.input_ids)


# Order, clips, texts


def test_unified_puts_pictures_before_or_after_their_texts():
    objective = _objective("unified", max_length=128)
    story = Record("document", tuple(s for i in range(3) for s in reversed(pair(i).segments)), "story")
    slot = objective.whole.processor.tokenizer.convert_tokens_to_ids(tokens.IMG)
    for record in (pair(0), clip(0), story):
        starts = [objective.sample(record, random.Random(i)).input_ids[1] for i in range(60)]
        shown_first = {slot, objective.whole.processor.tokenizer.convert_tokens_to_ids(tokens.VIDEO)}
        assert 15 < sum(start in shown_first for start in starts) < 45
    both = {objective.sample(story, random.Random(i)).num_visual_targets for i in range(20)}
    assert both == {8, 12}  # the picture that opens a document is told by nothing
    asked = replace(pair(0), segments=pair(0).segments[::-1], kind="text_to_image")
    assert all(objective.sample(asked, random.Random(i)).input_ids[1] != slot for i in range(10))


def test_unified_learns_the_pictures_of_an_episode_only_where_it_asks_for_one():
    objective = _objective("unified", max_length=128)
    shown = [segment for i in range(3) for segment in pair(i).segments]
    told = Record("naming", tuple(shown), "told", answer_from=5)
    sample = objective.sample(told, random.Random(0))
    assert sample.num_visual_targets == 0
    learned = objective.whole.processor.tokenizer.decode([i for i in sample.labels if i >= 0])
    assert [words in learned for words in shown[1::2]] == [False, True, True]
    drawn = Record("drawing", tuple(reversed(shown)), "drawn", answer_from=5)
    assert objective.sample(drawn, random.Random(0)).num_visual_targets > 0


def test_each_kind_may_have_its_pictures_first_as_often_as_it_likes():
    objective = _objective(
        "unified", image_first=0.0, image_firsts={"pair": 1.0}, kinds={"pair": 1.0, "video_pair": 1.0}
    )
    assert objective.sample(pair(0), random.Random(0)).num_visual_targets == 0
    assert objective.sample(clip(1), random.Random(0)).num_visual_targets > 0
    with pytest.raises(ValueError, match=r"image_firsts gives a probability to kinds .* got 'pears': 1\.0"):
        _objective("unified", image_firsts={"pears": 1.0})


def test_unified_learns_the_frames_of_a_clip_after_its_text():
    objective = _objective("unified", image_first=0.0)
    sample = objective.sample(clip(0, frames=6), random.Random(0))
    assert len(sample.frames) == 3
    assert sample.num_visual_targets == 12
    assert objective.collate([sample], ["k"]).counts["visual"] == 12


def test_captions_of_clips_are_learned_and_shown():
    objective = _objective("caption", frames=(2,))
    sample = objective.sample(clip(1), random.Random(0))
    assert (len(sample.frames), sample.num_visual_targets) == (2, 0)
    shown = objective.preview(objective.collate([sample], ["k"]))
    assert set(shown) == {"caption/0/picture", "caption/0/text"}


def test_a_clip_with_too_few_frames_is_a_bad_sample(tmp_path):
    from emu2.data.sources import ListSource

    sources = {"pair": ListSource([clip(i, frames=2 if i == 5 else 3) for i in range(12)])}
    summary = trainer(run_config("caption", max_bad_share=0.5), tmp_path, sources=sources).run()
    assert sum(summary.bad.values()) == 2
    assert all("has a clip of" in cause and "lower data.frames" in cause for cause in summary.bad)


def test_text_is_learned_in_chunks():
    words = " ".join(pair(i).segments[1] for i in range(20))
    for name in ("language", "unified"):
        sample = _objective(name).sample(Record("text", (words,), "t"), random.Random(0))
        assert len(sample.input_ids) == 64


def test_training_keeps_no_keys_and_values(monkeypatch):
    """Nothing is continued from a training batch: a cache would only copy what the backward pass holds already."""
    filled = []
    monkeypatch.setattr(DynamicCache, "update", lambda *given: filled.append(given))
    objective = _objective("unified")
    batch = objective.collate([objective.sample(pair(i), random.Random(i)) for i in range(2)], ["0", "1"])
    assert objective.terms(batch)["text"].isfinite()
    assert not filled


def test_sequences_longer_than_the_context_are_refused():
    with pytest.raises(ValueError, match=r"data.max_length is 256 tokens, and the language model's context holds 128"):
        _objective("unified", max_length=256)


def test_what_each_objective_shows():
    for name, record, shown in (("language", pair(0), "language/0/asked"), ("chat", conversation(0), "chat/0/picture")):
        objective = _objective(name)
        batch = objective.collate([objective.sample(record, random.Random(0))], ["k"])
        assert shown in objective.preview(batch)
    objective = _objective("gen")
    batch = objective.collate([objective.sample(composition(0), random.Random(0))], ["k"])
    shown = objective.preview(batch)
    assert shown["gen/0/drawn"].size == shown["gen/0/target"].size == (SIDE, SIDE)


def test_gen_learns_what_a_caption_belongs_to():
    objective = _objective("gen")
    for record, slot in ((pair(0), tokens.IMAGE_SLOT), (clip(0), tokens.FRAME_SLOT)):
        sample = objective.sample(record, random.Random(0))
        words = record.segments[1]
        assert _read(objective, sample).startswith(f"<s>{words}") or words in _read(objective, sample)
        slots = objective.whole.processor.tokenizer.convert_tokens_to_ids(slot)
        shown = [t for t, token in enumerate(sample.input_ids) if token == slots]
        assert [t for t, label in enumerate(sample.labels) if label != IGNORE] == shown
    batch = objective.collate([sample], ["k"])
    assert float(objective.terms(batch)["visual"]) > 0
    assert objective.preview(batch) == {}


# Generation: what is left out and changed at random


def _kept(settings: dict, number: int = 200):
    """Of many variations of one composition, the share that has a box, its object's picture."""
    made = [varied(composition(0), GenerationConfig(**settings), random.Random(i)) for i in range(number)]
    boxed = sum(any(isinstance(s, Box) for s in record.segments) for record in made) / number
    pictured = (
        sum(any(isinstance(s, Image.Image) or getattr(s, "image", None) for s in r.segments[:-1]) for r in made)
        / number
    )
    return boxed, pictured, made


def test_boxes_and_entities_are_left_out_at_their_rates():
    boxed, pictured, made = _kept({"drop_boxes": 0.4, "drop_entities": 0.25})
    assert boxed == pytest.approx(0.6, abs=0.1)
    assert pictured == pytest.approx(0.75, abs=0.1)
    assert all(record.answer_from == len(record.segments) - 1 for record in made)
    boxed, pictured, made = _kept({"drop_boxes": 0.0, "drop_entities": 0.0}, 20)
    assert (boxed, pictured) == (1.0, 1.0)


def test_without_boxes_their_phrases_are_plain_words():
    record = Record(
        "grounded_generation",
        (
            "<grounding>A picture of",
            Box((0, 0, 8, 8), "a cat", (16, 16)),
            ", beside",
            Box((8, 8, 16, 16), "a dog", (16, 16)),
            Image.new("RGB", (16, 16)),
        ),
        "g",
        4,
    )
    plain = varied(record, GenerationConfig(drop_boxes=1.0), random.Random(0))
    assert plain.segments[0] == "A picture of a cat, beside a dog"
    assert plain.answer_from == 1
    assert varied(record, GenerationConfig(drop_boxes=0.0), random.Random(0)).segments[:-1] == record.segments[:-1]


def test_objects_get_other_backgrounds_and_crops_and_other_pictures_none():
    thing = Image.new("RGBA", (40, 40))
    thing.paste((255, 0, 0, 255), (10, 10, 30, 30))
    settings = GenerationConfig(background=1.0, crop_scale=(0.7, 0.9))
    made = [object_picture(thing, settings, random.Random(i)) for i in range(12)]
    assert all(picture.mode == "RGB" and 28 <= picture.width <= 36 for picture in made)
    assert len({picture.getpixel((0, 0)) for picture in made}) > 6
    assert all((255, 0, 0) in [colour for _, colour in picture.getcolors(2000)] for picture in made)
    white = object_picture(thing, GenerationConfig(background=0.0, crop_scale=(1.0, 1.0)), random.Random(0))
    assert white.size == (40, 40)
    assert white.getpixel((0, 0)) == (255, 255, 255)
    edit = Record(
        "edit", (Image.new("RGB", (16, 16), "red"), "make it blue", Image.new("RGB", (16, 16), "blue")), "e", 2
    )
    assert varied(edit, settings, random.Random(0)).segments == edit.segments
    shown = varied(replace(edit, kind="composition/mine"), settings, random.Random(0)).segments
    assert shown[0].width < 16
    assert shown[1:] == edit.segments[1:]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("gen.drop_boxes=2", "gen.drop_boxes is a probability; got 2.0"),
        ("gen.crop_scale=[0.0,1.0]", r"gen.crop_scale is \(low, high\) with 0 < low <= high <= 1"),
        ("data.frames=[]", "data.frames needs at least one number"),
        ("optim.part_start.unet=5", "optim.part_start names 'unet', which this run does not train"),
        ("optim.part_start.vision=-1", r"optim.part_start\['vision'\] must be 0 or more; got -1"),
        ("resolution=0", "resolution must be 1 or more"),
    ],
)
def test_wrong_settings_are_refused_by_name(setting, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(run_config("caption"), [setting])


# Decoders


def test_the_decoder_enlarges_pictures_down_to_half_its_own_size():
    objective = _objective("decoder")
    small = Record("pair", (Image.new("RGB", (12, 8), "red"), "red"), "s", 1)
    sample = objective.sample(small, random.Random(0))
    assert sample.image.size == (SIDE, SIDE)
    assert (sample.original_size, sample.crop[0]) == ((8, 12), 0)
    with pytest.raises(ValueError, match="'s' shows 12x7 pixels, and a decoder of 16 pixels learns from sides of 8"):
        objective.sample(replace(small, segments=(Image.new("RGB", (12, 7)), "red")), random.Random(0))


# Resolution and schedule


def test_the_decoder_learns_any_frame_of_a_clip():
    objective, record = _objective("decoder"), clip(0, frames=4)
    seen = [objective.sample(record, random.Random(seed)) for seed in range(20)]
    frames = [frame.tobytes() for frame in record.segments[0]]
    assert {sample.image.tobytes() for sample in seen} == set(frames)
    assert len({sample.key for sample in seen}) == 4  # each is remembered as a picture of its own
    still = objective.sample(pair(0), random.Random(0))
    assert still.image.tobytes() == pair(0).segments[0].tobytes()


def test_the_model_is_fitted_to_another_resolution(tmp_path):
    whole = tiny_whole()
    old = whole.model.model.visual.pos_embed.detach().clone()
    config = run_config("caption", resolution=2 * SIDE, num_query=16)
    trainer(config, tmp_path, whole=whole).run(until=3)
    assert whole.model.model.visual.pos_embed.shape == (1, 1 + 64, 16)
    resumed = tiny_whole()
    trainer(config, tmp_path, whole=resumed).run(resume=True)
    loaded = Whole.load(tmp_path / "model")
    assert loaded.model.config.vision_config.image_size == loaded.processor.image_processor.image_size == 2 * SIDE
    assert loaded.model.config.num_query == loaded.processor.num_query == 16
    assert loaded.model.encode_image(torch.zeros(1, 3, 2 * SIDE, 2 * SIDE)).shape == (1, 16, 16)
    # What the fit itself does: the class row stays, the grid is enlarged.
    fresh = tiny_whole()
    fit_whole(fresh, config)
    enlarged = fresh.model.model.visual.pos_embed
    torch.testing.assert_close(enlarged[:, 0], old[:, 0])
    torch.testing.assert_close(enlarged[:, 1:].mean(), old[:, 1:].mean(), rtol=0, atol=2e-3)
    again = enlarged
    fit_whole(fresh, config)
    assert fresh.model.model.visual.pos_embed is again


def test_a_resolution_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="multiple of the patch size, 4 pixels; got 18"):
        fit_whole(tiny_whole(), run_config("caption", resolution=18))
    with pytest.raises(ValueError, match="num_query=9 does not fit a 4x4 patch grid"):
        fit_whole(tiny_whole(), run_config("caption", num_query=9))


def test_the_decoders_schedule_rises_as_a_logarithm_and_falls_in_a_line():
    optim = OptimConfig(warmup_steps=2000, warmup_shape="log", schedule="linear")
    factors = [schedule_factor(step, 8000, optim) for step in (0, 43, 1999, 2000, 5000, 7999)]
    expected = [math.log(2), math.log(45), math.log(2001)]
    assert factors[:3] == pytest.approx([value / math.log(2001) for value in expected])
    assert factors[3:] == pytest.approx([1.0, 0.5, 1 / 6000])


@pytest.mark.parametrize("name", ["contrastive", "language", "caption", "unified", "chat", "gen", "video_decoder"])
def test_batches_travel_between_processes(name):
    """What workers make is the same on the other side."""
    objective = _objective(name)
    source = records(name, 3)
    read = Samples([objective.sample(source[i], random.Random(i)) for i in range(3)], ["a", "b", "c"], [1, 2, 3])
    batch = objective.batches([read])[0]
    received = pickle.loads(pickle.dumps(batch))
    assert (received.counts, received.seeds, received.keys) == (batch.counts, batch.seeds, batch.keys)
    expected = objective.terms(batch)
    for term, value in objective.terms(received).items():
        assert torch.equal(value, expected[term]), term


@pytest.mark.parametrize("objective", ["unified", "gen"])
def test_errors_of_embeddings_may_count_by_their_spread(objective, tmp_path):
    config = run_config(objective, visual_loss="whitened")
    whole, plain, again = tiny_whole(), tiny_whole(), tiny_whole()
    trainer(config, tmp_path / "whole", whole=whole).run()
    trainer(replace(config, visual_loss="plain"), tmp_path / "plain", whole=plain).run()
    assert whole.model.visual_metric.shape == (16, 16)
    assert plain.model.visual_metric is None
    trainer(config, tmp_path / "again").run(until=3)
    trainer(config, tmp_path / "again", whole=again).run(resume=True)
    one, other, third = weights(whole), weights(plain), weights(again)
    assert all(torch.equal(one[name], third[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_spread_needs_pictures_to_be_measured_on(tmp_path):
    config = run_config("unified", visual_loss="whitened")
    config = replace(config, data=replace(config.data, kinds={"text": 1.0}))
    with pytest.raises(
        ValueError, match=r"the first records of 'text', the first of data\.kinds, have none: name anot"
    ):
        trainer(config, tmp_path, sources={"text": records("language")}).run()
