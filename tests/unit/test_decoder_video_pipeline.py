"""Emu2VideoPipeline: what a call gives, what it refuses, and files of clips."""

import av
import numpy as np
import pytest
import torch
from helpers_decoder import euler, picture, quiet, tiny_encoder, tiny_film_unet, tiny_vae, tiny_video_unet
from PIL import Image

from emu2 import Emu2VideoPipeline, Video
from emu2.decoder.export import export_to_gif, export_to_mp4

SHORT = {"num_inference_steps": 2, "num_frames": 3}


@pytest.fixture(scope="module")
def pipe():
    return quiet(Emu2VideoPipeline(*tiny_encoder(), tiny_video_unet(), tiny_vae(), euler()))


@pytest.fixture(scope="module", params=["of SD 2.1", "of the image decoder"])
def keyed(request):
    """One that takes keyframes: its U-Net, of either form, is given embeddings at their places."""
    unet = tiny_video_unet(placed=True) if request.param == "of SD 2.1" else tiny_film_unet()
    return quiet(Emu2VideoPipeline(*tiny_encoder(), unet, tiny_vae(), euler()))


def seeded(*seeds: int):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(generators) > 1 else generators[0]


def test_output_types(pipe):
    out = {kind: pipe("a cat", generator=seeded(0), output_type=kind, **SHORT).frames for kind in ("pil", "np", "pt")}
    assert [len(clip) for clip in out["pil"]] == [3]
    assert out["pil"][0][0].size == (16, 16)
    assert out["np"].shape == (1, 3, 16, 16, 3)
    assert out["pt"].shape == (1, 3, 3, 16, 16)
    np.testing.assert_array_equal(np.asarray(out["pil"][0][1]), (out["np"][0, 1] * 255).round().astype("uint8"))
    np.testing.assert_array_equal(out["pt"][0, 2].permute(1, 2, 0).numpy(), out["np"][0, 2])
    latents = pipe("a cat", generator=seeded(0), output_type="latent", **SHORT).frames
    assert latents.shape == (1, 4, 3, 4, 4)
    assert pipe("a cat", return_dict=False, height=24, width=32, **SHORT)[0][0][0].size == (32, 24)


def test_a_clip_has_sixteen_frames_unless_told_otherwise(pipe):
    assert len(pipe("a cat", num_inference_steps=1, guidance_scale=1).frames[0]) == 16


@pytest.mark.parametrize("prompt", ["", [picture(), "it starts to move"], picture()])
def test_every_kind_of_prompt_films(pipe, prompt):
    assert len(pipe(prompt, **SHORT).frames[0]) == 3


def test_batched_equals_single_and_clips_of_a_prompt_follow_each_other(pipe):
    prompts = [["a red cat"], [picture(), "it moves"]]
    options = {"output_type": "latent", **SHORT}
    together = pipe(prompts, num_videos_per_prompt=2, generator=seeded(1, 2, 3, 4), **options).frames
    for row, (prompt, seed) in enumerate(((0, 1), (0, 2), (1, 3), (1, 4))):
        alone = pipe(prompts[prompt], generator=seeded(seed), **options).frames
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


def test_keyframes_are_written_one_after_the_other(keyed):
    options = {"generator": seeded(0), "output_type": "latent", "guidance_scale": 1, **SHORT}
    embeds, null = keyed.encode_prompt([["a cat"], [picture()]], num_keyframes=2)
    assert embeds.shape == null.shape == (2, 2, *embeds.shape[2:])
    inputs = keyed.processor([["a cat", "[VIDEO]"]], draw=True, return_tensors="pt")
    written = keyed.multimodal_encoder.generate_clip(**inputs, num_frames=2)
    torch.testing.assert_close(embeds[:1], written, rtol=1e-4, atol=1e-4)
    assert torch.equal(embeds[1, 0], embeds[1, 1])  # one picture stands for all keyframes
    made = keyed("a cat", num_keyframes=2, **options).frames
    options["generator"] = seeded(0)
    torch.testing.assert_close(keyed(prompt_embeds=embeds[:1], **options).frames, made, rtol=1e-3, atol=1e-3)


def test_a_clip_alone_is_made_again_from_its_own_frames(keyed):
    frames = [Image.new("RGB", (16, 16), (80 * n, 0, 0)) for n in range(3)]
    embeds, null = keyed.encode_prompt(Video(frames), num_keyframes=3)
    pixels = keyed.processor.image_processor(frames, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(embeds[0], keyed.multimodal_encoder.encode_image(pixels))
        nothing = keyed.multimodal_encoder.encode_image(torch.zeros_like(pixels))
    torch.testing.assert_close(null[0], nothing)
    assert len(keyed(Video(frames), num_keyframes=3, **SHORT).frames[0]) == 3


def test_one_keyframe_is_one_picture(keyed):
    embeds = keyed.encode_prompt("a cat", do_classifier_free_guidance=False)[0]
    options = {"guidance_scale": 1, "output_type": "latent", **SHORT}
    one = keyed(prompt_embeds=embeds, generator=seeded(0), **options).frames
    assert torch.equal(keyed(prompt_embeds=embeds[:, None], generator=seeded(0), **options).frames, one)


def test_a_unet_without_places_refuses_keyframes(pipe):
    with pytest.raises(ValueError, match=r"it cannot tell the order of 2 keyframes"):
        pipe("a cat", num_keyframes=2, **SHORT)
    with pytest.raises(ValueError, match=r"or \[prompts, keyframes, embeddings, 32\]; got \[1, 4, 16\]"):
        pipe(prompt_embeds=torch.zeros(1, 4, 16), **SHORT)


def test_decoding_frame_by_frame_changes_nothing(pipe):
    latents = torch.randn(2, 4, 3, 4, 4, generator=seeded(0))
    whole = pipe.decode_clips(latents, chunk_size=6)
    torch.testing.assert_close(pipe.decode_clips(latents, chunk_size=1), whole, rtol=1e-4, atol=1e-4)
    frame = pipe.decode_latents(latents[1, :, 2].unsqueeze(0))
    torch.testing.assert_close(whole[1, :, 2].unsqueeze(0), frame, rtol=1e-4, atol=1e-4)


def test_negative_prompts_and_guidance_matter(pipe):
    def film(**options):
        return pipe("a cat", generator=seeded(0), output_type="latent", **SHORT, **options).frames

    assert not torch.equal(film(), film(guidance_scale=1))
    assert not torch.equal(film(), film(negative_prompt="two dogs"))
    torch.testing.assert_close(film(), film(negative_prompt=""), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_frames": 0}, "num_frames must be a whole number of at least 1; got 0"),
        ({"num_keyframes": 0}, "num_keyframes must be a whole number of at least 1; got 0"),
        ({"num_keyframes": 4}, "A clip of 3 frames has at most 3 keyframes; got num_keyframes=4"),
        ({"decode_chunk_size": 0}, "decode_chunk_size must be a whole number of at least 1; got 0"),
        ({"height": 18}, "height must be a positive multiple of 4"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number from 1"),
        ({"guidance_scale": -0.5}, "guidance_scale must be a finite number"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt must be a whole number of at least 1"),
        ({"latents": torch.zeros(1, 4, 4, 4)}, r"latents must have shape \[1, 4, 3, 4, 4\]"),
        ({"prompt": [["a"], []]}, "prompt 1 is an empty list"),
    ],
)
def test_one_clear_error(pipe, arguments, said):
    with pytest.raises(ValueError, match=said):
        pipe(**{"prompt": "a cat", **SHORT, **arguments})


# Files


@pytest.fixture
def clip() -> list[Image.Image]:
    """A white square that moves right on blue, 32x24."""
    frames = []
    for step in range(6):
        frame = Image.new("RGB", (32, 24), (0, 0, 200))
        frame.paste((255, 255, 255), (step * 4, 8, step * 4 + 8, 16))
        frames.append(frame)
    return frames


def test_mp4_plays_back_what_was_written(clip, tmp_path):
    path = export_to_mp4(clip, tmp_path / "clip.mp4", fps=5)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 5
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 6
    for frame, original in zip(frames, clip, strict=True):
        assert np.abs(frame.astype(int) - np.asarray(original).astype(int)).mean() < 12


def test_gif_plays_back_what_was_written(clip, tmp_path):
    path = export_to_gif(clip, tmp_path / "clip.gif", fps=5)
    with Image.open(path) as gif:
        assert gif.n_frames == 6
        assert gif.info["duration"] == 200
        assert gif.info["loop"] == 0
        gif.seek(3)
        np.testing.assert_allclose(np.asarray(gif.convert("RGB")), np.asarray(clip[3]), atol=8)


def test_every_output_type_exports_to_the_same_file(pipe, tmp_path):
    files = []
    for kind in ("pil", "np", "pt"):
        frames = pipe("a cat", generator=seeded(0), output_type=kind, **SHORT).frames[0]
        files.append(export_to_mp4(frames, tmp_path / f"{kind}.mp4").read_bytes())
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("export", [export_to_mp4, export_to_gif])
def test_exports_refuse_what_is_no_clip(export, clip, tmp_path):
    path = tmp_path / "clip"
    with pytest.raises(ValueError, match="no frames"):
        export([], path)
    with pytest.raises(ValueError, match="elements of type list"):
        export([clip], path)
    with pytest.raises(ValueError, match="one size"):
        export([clip[0], clip[0].resize((16, 16))], path)
    with pytest.raises(ValueError, match="fps must be above 0"):
        export(clip, path, fps=0)
    with pytest.raises(ValueError, match=r"got shape \[1, 3, 16, 16, 3\]"):
        export(np.zeros((1, 3, 16, 16, 3)), path)
    assert not path.exists()


def test_mp4_refuses_odd_sizes(clip, tmp_path):
    with pytest.raises(ValueError, match="even width and height; these are 31x24"):
        export_to_mp4([frame.resize((31, 24)) for frame in clip], tmp_path / "clip.mp4")
