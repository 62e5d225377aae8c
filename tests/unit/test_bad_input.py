"""Bad input, as a person meets it at the command line: one line that names what was given and what is expected.

Every kind of mistake once, on whole models, through to the end. The parts' own tests hold the finer cases.
"""

import json
import os
import shutil
from pathlib import Path

import av
import pytest
import torch
from helpers_inference import picture, save_language_model, save_pipeline
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import emu2
from emu2.cli import app


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("models") / "words")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("models") / "pictures")


@pytest.fixture(scope="module")
def painter(pictures):
    return emu2.load(pictures, device="cpu")


@pytest.fixture
def copied(words, tmp_path) -> Path:
    """The language model, to be damaged."""
    return Path(shutil.copytree(words, tmp_path / "model"))


def refused(*arguments) -> str:
    """What a person sees of a mistake: one line, exit code 2, no traceback, nothing on stdout."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    [line] = [line for line in result.stderr.splitlines() if line.strip()]
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


def complete(model, *arguments) -> str:
    return refused("complete", "-m", model, "--device", "cpu", *arguments)


def change_weights(folder: Path, change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


# The prompt


def test_wrong_number_of_pictures_for_the_slots(words):
    m = emu2.load(words, device="cpu")
    inputs = m.processor([[picture(), "one"], [picture(), "and", picture(), "two"]])
    inputs["pixel_values"] = inputs["pixel_values"][:2]
    said = r"slots for 3 images .* but 2 images were given: they run out in sample 1, which needs 2"
    for call in (m.model.generate, m.model.generate_visual, m.model):
        with pytest.raises(ValueError, match=said):
            call(**inputs)


@pytest.mark.parametrize("command", ["complete", "draw", "film"])
@pytest.mark.parametrize("prompt", [[], [""], ["-t", " "]])
def test_empty_prompt(words, command, prompt):
    assert (
        refused(command, "-m", words, *prompt) == "The prompt is empty; give a text, or a list of texts and pictures."
    )


def test_a_slot_token_that_was_typed_is_text(words):
    result = CliRunner().invoke(
        app, ["complete", "-m", str(words), "--device", "cpu", "--max-new-tokens", "1", "what is <image> and [gIMG]?"]
    )
    assert result.exit_code == 0, result.output
    processor = emu2.Emu2Processor.from_pretrained(words)
    ids = processor(["what is <image> and [gIMG]?"])["input_ids"][0].tolist()
    slots = processor.tokenizer.convert_tokens_to_ids(["<image>", "[gIMG]", "[IMG]", "[/IMG]"])
    assert not set(slots) & set(ids)
    assert processor.decode(ids, skip_special_tokens=True) == "what is <image> and [gIMG]?"


def test_prompt_longer_than_the_context(words):
    line = complete(words, "cat " * 2000)
    assert (
        f"The prompt is {len(emu2.Emu2Processor.from_pretrained(words)(['cat ' * 2000]).input_ids[0])} tokens" in line
    )
    assert "the context of" in line
    assert "is 1024 tokens: shorten it" in line


# Files


def test_truncated_picture(words, tmp_path):
    picture().resize((400, 400)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    line = complete(words, "-i", tmp_path / "cut.png")
    assert "'--image'" in line
    assert "cut.png is truncated or broken" in line


def test_huge_picture(words, tmp_path):
    from PIL import Image

    Image.new("1", (30_000, 30_000)).save(tmp_path / "huge.png")
    assert "huge.png is too large" in complete(words, "-i", tmp_path / "huge.png")


def test_file_that_is_no_picture(words, tmp_path):
    (tmp_path / "notes.png").write_text("a dog")
    assert "notes.png is not a picture in a known format" in complete(words, "-i", tmp_path / "notes.png")


def test_video_without_frames(words, tmp_path):
    with av.open(str(tmp_path / "none.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()
    line = complete(words, "--video", tmp_path / "none.avi", "what happens?")
    assert "'--video'" in line
    assert "none.avi" in line
    assert "frames" in line or "video" in line
    with pytest.raises(ValueError, match="frame"):
        emu2.Video([])


# Models


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("a dog")
    line = complete(tmp_path, "x")
    assert f"{tmp_path} is not a model folder: looked for config.json beside weights" in line
    assert "found notes.txt" in line


def test_a_missing_shard(words, tmp_path):
    emu2.Emu2ForConditionalGeneration.from_pretrained(words).save_pretrained(tmp_path, max_shard_size="200KB")
    emu2.Emu2Processor.from_pretrained(words).save_pretrained(tmp_path)
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    line = complete(tmp_path, "x")
    assert "1 of " in line
    assert f"named by model.safetensors.index.json are missing: {lost.name}. Copy them again." in line


def test_a_tensor_of_a_wrong_shape(copied):
    change_weights(copied, lambda state: state.update({"model.project_up.weight": torch.zeros(3, 5)}))
    line = complete(copied, "x")
    assert "1 tensor(s) of a wrong shape: model.project_up.weight is [3, 5] in the file and [" in line


def test_nan_in_weights(copied):
    change_weights(copied, lambda state: state["model.project_up.weight"][0].fill_(torch.nan))
    line = complete(copied, "x")
    assert "tensor 'model.project_up.weight' holds" in line
    assert "NaN or infinite" in line


class Payload:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("command", ["complete", "info"])
def test_a_pickle_with_code_in_it(copied, tmp_path, command):
    (copied / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Payload(tmp_path / "executed")}, copied / "pytorch_model.bin")
    line = complete(copied, "x") if command == "complete" else refused("info", copied)
    assert "pytorch_model.bin is a pickle with code in it and was refused; nothing of it was executed" in line
    assert "mkdir" in line
    assert not (tmp_path / "executed").exists()


def test_a_broken_config(copied):
    (copied / "config.json").write_text('{"model_type": ')
    assert "config.json is not valid JSON" in complete(copied, "x")
    (copied / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert "is not an Emu2 model: its config.json has model_type 'gpt2'" in complete(copied, "x")


# Options


def test_unknown_dtype(words):
    line = complete(words, "x", "--dtype", "int7")
    assert "'--dtype': Unknown dtype 'int7': use one of float32" in line
    for load in (emu2.load, emu2.Emu2ForConditionalGeneration.from_pretrained):
        with pytest.raises(ValueError, match="Unknown dtype 'int7': use one of float32"):
            load(words, dtype="int7")


def test_unknown_device(words):
    line = refused("complete", "-m", words, "x", "--device", "gpu")
    assert "'--device': Unknown device 'gpu': use cpu, cuda" in line
    with pytest.raises(ValueError, match="Unknown device 'gpu': use cpu, cuda"):
        emu2.load(words, device="gpu")
    with pytest.raises(ValueError, match="Unknown device 'gpu': use cpu, cuda"):
        emu2.Emu2ForConditionalGeneration.from_pretrained(words, device_map="gpu")


@pytest.mark.parametrize("side", ["height", "width"])
@pytest.mark.parametrize("pixels", [62, 0, -8])
def test_sizes_that_are_no_multiple_of_8(pictures, painter, side, pixels):
    line = refused("draw", "-m", pictures, "x", f"--{side}", pixels)
    assert f"'--{side}': must be a positive multiple of 8; got {pixels}" in line
    with pytest.raises(ValueError, match=f"{side} must be a positive multiple of .*; got {pixels}"):
        painter.draw("x", **{side: pixels})


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_guidance_out_of_range(pictures, painter, value):
    with pytest.raises(ValueError, match=f"guidance_scale must be a finite number of at least 0 .*; got {value}"):
        painter.draw("x", guidance=float(value))
    line = refused("draw", "-m", pictures, "x", "--device", "cpu", f"--guidance={value}")
    assert "guidance" in line


@pytest.mark.parametrize("value", [0, -3, 1001])
def test_steps_out_of_range(pictures, painter, value):
    with pytest.raises(ValueError, match=f"num_inference_steps must be a whole number from 1 to 1000; got {value}"):
        painter.draw("x", steps=value)
    assert "steps" in refused("draw", "-m", pictures, "x", "--device", "cpu", f"--steps={value}")


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ("a dog=30,200,220,500", "Box (30.0, 200.0, 220.0, 500.0) lies outside its picture of 448x448 pixels"),
        ("-1,0,20,20", "lies outside its picture of 448x448 pixels: left and right range from 0 to 448"),
        ("30,200,20,400", "with left <= right and top <= bottom; got (30.0, 200.0, 20.0, 400.0)"),
    ],
)
def test_a_box_outside_the_picture(pictures, box, said):
    line = refused("draw", "-m", pictures, f"--box={box}", "x")
    assert "'--box'" in line
    assert said in line
