"""The video decoder's stage: clips from their keyframes, and pictures as clips of one frame."""

import random
from dataclasses import replace

import pytest
import torch
from helpers_train import SIDE, clip, pair, run_config, tiny_whole, trainer, weights
from PIL import Image

from emu2 import Video
from emu2.data.records import Record
from emu2.decoder.inflate import is_temporal
from emu2.train.config import with_overrides
from emu2.train.metrics import read_log
from emu2.train.objectives import objective_class
from emu2.train.whole import Whole


def _objective(whole=None, *settings, placed=False, **data):
    config = with_overrides(run_config("video_decoder"), settings)
    config = replace(config, data=replace(config.data, **data))
    whole = tiny_whole(placed=placed) if whole is None else whole
    return objective_class("video_decoder")(whole, config, torch.device("cpu"))


def test_temporal_parts_move_first_then_everything(tmp_path):
    whole = tiny_whole()
    config = run_config("video_decoder", ema_decay=None)
    config = replace(config, optim=replace(config.optim, part_start={"video_unet": 3}))
    before = weights(whole)
    trainer(config, tmp_path, whole=whole).run(until=3)
    moved = {name for name, value in weights(whole).items() if not torch.equal(value, before[name])}
    assert moved
    assert all("temp_" in name or "transformer_in" in name for name in moved)
    trainer(config, tmp_path, whole=whole).run(resume=True)
    moved = {name for name, value in weights(whole).items() if not torch.equal(value, before[name])}
    assert "video_unet.conv_in.weight" in moved
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["optim/lr_video_unet"] > 0 for line in lines] == [False] * 3 + [True] * 3
    loaded = Whole.load(tmp_path / "model")
    assert torch.equal(loaded.video_unet.conv_in.weight, whole.video_unet.conv_in.weight)
    pipe = loaded.video_pipeline()
    pipe.set_progress_bar_config(disable=True)
    frames = pipe("red left", num_frames=2, num_inference_steps=1, generator=torch.Generator().manual_seed(0)).frames
    assert len(frames[0]) == 2
    assert frames[0][0].size == (SIDE, SIDE)


def test_a_clip_is_made_from_its_middle_frame():
    objective = _objective()
    wide = Video([frame.resize((2 * SIDE, SIDE)) for frame in clip(0, frames=9).segments[0]])
    sample = objective.sample(Record("video_pair", ("words", wide), "w"), random.Random(0))
    assert len(sample.frames) == 3
    assert all(frame.size == (SIDE, SIDE) for frame in sample.frames)
    middle = wide[4].crop((SIDE // 2, 0, SIDE // 2 + SIDE, SIDE))
    assert [frame.tobytes() for frame in sample.keyframes] == [middle.tobytes()]
    embeddings, moments = objective.frozen([sample])
    with torch.no_grad():
        expected = objective.whole.model.encode_image(objective._pixels(middle)[None])
    torch.testing.assert_close(embeddings, expected[None])
    assert moments.shape == (1, 8, 3, SIDE // 4, SIDE // 4)
    batch = objective.collate([sample, sample], ["a", "b"])
    batch.seeds = [1, 2]
    assert float(objective.terms(batch)["diffusion"]) > 0
    assert objective.preview(batch)["video_decoder"].size == (3 * SIDE, 4 * SIDE)


def test_a_clip_is_made_from_its_keyframes():
    objective = _objective(None, "diffusion.keyframes=2", "data.frames=[4]", placed=True)
    record = clip(0, frames=4)
    sample = objective.sample(record, random.Random(0))
    shown = record.segments[0]
    assert [frame.tobytes() for frame in sample.keyframes] == [shown[1].tobytes(), shown[3].tobytes()]
    embeddings, _ = objective.frozen([sample, sample])
    assert embeddings.shape == (2, 2, 4, 16)
    batch = objective.collate([sample, sample], ["a", "b"])
    batch.seeds = [1, 2]
    assert float(objective.terms(batch)["diffusion"]) > 0
    assert objective.preview(batch)["video_decoder"].size == (4 * SIDE, 4 * SIDE)
    with pytest.raises(ValueError, match=r"diffusion.keyframes is 5, and clips have 4 frames .data.frames."):
        _objective(None, "diffusion.keyframes=5", "data.frames=[4]", placed=True)


def test_a_picture_is_a_clip_of_one_frame_and_passes_what_mixes_frames():
    objective = _objective()
    unet = objective.whole.video_unet
    still = objective.sample(pair(0), random.Random(0))
    assert still.frames == still.keyframes
    assert len(still.frames) == 1
    batch = objective.collate([still, objective.sample(pair(1), random.Random(0))], ["a", "b"])
    batch.seeds = [1, 2]
    objective.terms(batch)["diffusion"].backward()
    moved = {name for name, parameter in unet.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, _ in unet.named_parameters() if not is_temporal(name)}
    with pytest.raises(ValueError, match=r"this one has clips of 1 and 3 frames .1: pictures.: set data.mode=one_kind"):
        objective.collate([still, objective.sample(clip(0), random.Random(0))], ["a", "b"])


def test_what_is_no_clip_for_the_video_decoder_is_refused():
    objective = _objective()
    with pytest.raises(ValueError, match=r"'t' .text. has no picture"):
        objective.sample(Record("text", ("words",), "t"), random.Random(0))
    small = Video([Image.new("RGB", (12, 7))] * 3)
    with pytest.raises(ValueError, match=r"'s' shows 12x7 pixels, and a decoder of 16 pixels learns from sides of 8"):
        objective.sample(Record("video_pair", (small,), "s"), random.Random(0))
    with pytest.raises(ValueError, match=r"reads one number of frames.*data.frames is .2, 3."):
        _objective(frames=(2, 3))
    whole = tiny_whole()
    whole.video_unet = None
    with pytest.raises(ValueError, match="'video_decoder' needs a video_unet, which this model does not have"):
        _objective(whole)
