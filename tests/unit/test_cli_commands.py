"""The commands complete, chat, draw and film, on small whole models, in this process."""

import json

import pytest
from helpers_inference import picture, save_language_model, save_pipeline
from PIL import Image
from typer.testing import CliRunner

import emu2
from emu2.cli import app
from emu2.cli.common import describe_error

runner = CliRunner()


def run(*arguments, stdin=None):
    return runner.invoke(app, [str(argument) for argument in arguments], input=stdin)


def refused(*arguments, code=2):
    """The one line a person sees; no traceback, nothing on stdout."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return save_language_model(tmp_path_factory.mktemp("models") / "words")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("models") / "pictures")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("models") / "clips", video=True)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with two pictures."""
    monkeypatch.chdir(tmp_path)
    picture("red").save("red.png")
    picture("blue").save("blue.png")
    return tmp_path


class Recorder:
    """Stands in for a loaded model; remembers what it was asked."""

    name = "recorder"

    def __init__(self):
        self.prompts, self.options = [], []

    def complete(self, prompt, **options):
        self.prompts.append(prompt)
        self.options.append(options)
        return "an answer"

    def draw(self, prompt, *, count, **options):
        self.complete(prompt, **options)
        drawn = [picture() for _ in range(count)]
        return drawn[0] if count == 1 else drawn


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    for command in ("complete", "draw"):
        monkeypatch.setattr(f"emu2.cli.{command}.check_model", lambda _: None)
        monkeypatch.setattr(f"emu2.cli.{command}.load_model", lambda *_, **__: recorder)
    return recorder


def seen(parts):
    """A prompt in a form that can be compared: text as it is, pictures by their colour."""
    return [part if isinstance(part, str) else part.getpixel((0, 0)) for part in parts]


# The order of the prompt


def test_parts_keep_their_order_across_options(here, recorder):
    run("complete", "-i", "red.png", "--text", "a", "--image=blue.png", "-tb", "-i", "red.png", "-t", "c", "and d")
    red, blue = (255, 0, 0), (0, 0, 255)
    assert seen(recorder.prompts[0]) == [red, "a", blue, "b", red, "c", "and d"]


def test_the_argument_comes_last_wherever_it_stands(here, recorder):
    run("complete", "what is this?", "-i", "red.png", "--seed", "3", "-t", "x")
    assert seen(recorder.prompts[0]) == [(255, 0, 0), "x", "what is this?"]


def test_values_that_look_like_options_are_values(here, recorder):
    run("complete", "--text=--image", "--text", "-x", "--", "-y")
    assert recorder.prompts[0] == ["--image", "-x", "-y"]


def test_boxes_and_pictures_keep_their_order(here, recorder):
    run("draw", "--box", "a dog=10,20,100,200", "-i", "red.png", "--box", "1,2,3,4", "on grass", "--out", "o.png")
    box, image, other, text = recorder.prompts[0]
    assert (box.xyxy, box.phrase) == ((10, 20, 100, 200), "a dog")
    assert isinstance(image, Image.Image)
    assert (other.xyxy, other.phrase, text) == ((1, 2, 3, 4), None, "on grass")


def test_a_clip_becomes_frames(here, recorder):
    from emu2.decoder.export import export_to_mp4

    export_to_mp4([picture("red", (32, 32)) for _ in range(6)], "clip.mp4")
    run("complete", "--video", "clip.mp4", "--frames", "3", "shows")
    clip, text = recorder.prompts[0]
    assert isinstance(clip, emu2.Video)
    assert (len(clip), text) == (3, "shows")


# complete


def test_complete_prints_what_the_model_says(words, here):
    result = run("complete", "-m", words, "--device", "cpu", "-i", "red.png", "a photo of", "-n", 4)
    assert result.exit_code == 0, result.output
    m = emu2.load(words, device="cpu")
    assert result.stdout == m.complete([picture("red"), "a photo of"], max_new_tokens=4) + "\n"


def test_complete_json_is_one_object_on_stdout(words, here):
    result = run(
        "complete", "-m", words, "a photo", "-n", 6, "--temperature", 1.0, "--seed", 7, "--json", "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    m = emu2.load(words, device="cpu")
    assert answer["text"] == m.complete("a photo", max_new_tokens=6, temperature=1.0, seed=7)
    assert (answer["seed"], answer["decoding"], answer["model"]) == (7, "transformers", str(words))


def test_complete_stream_prints_the_same(words, here):
    options = ("-m", words, "dog", "-n", 6, "--temperature", 1.0, "--seed", 1, "--device", "cpu")
    assert run("complete", *options, "--stream").stdout == run("complete", *options).stdout


def test_published_decoding_and_its_options_reach_the_model(recorder):
    run("complete", "x", "--published")
    run("complete", "x", "--num-beams", 3, "--length-penalty", 2, "--repetition-penalty", 1.2, "-n", 9)
    first, second = recorder.options
    assert first["decoding"] == "published"
    assert first["num_beams"] is None
    assert second == {
        "max_new_tokens": 9,
        "num_beams": 3,
        "temperature": None,
        "length_penalty": 2.0,
        "repetition_penalty": 1.2,
        "seed": None,
        "stream": False,
        "decoding": "transformers",
    }


# chat


def test_chat_answers_one_question(words, here):
    result = run("chat", "-m", words, "-i", "red.png", "what is this?", "-n", 5, "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    m = emu2.load(words, device="cpu")
    assert json.loads(result.stdout)["text"] == m.chat([picture("red"), "what is this?"], max_new_tokens=5)
    plain = run("chat", "-m", words, "-i", "red.png", "what is this?", "-n", 5, "--device", "cpu")
    assert plain.stdout == json.loads(result.stdout)["text"] + "\n"


def test_chat_grounding_gives_boxes_in_pixels_of_the_picture(words, here, monkeypatch):
    from emu2.inference.face import Emu2

    text = (
        "<phrase>a dog</phrase><object>" + "".join(f"<patch_index_{i:04d}>" for i in (0, 112, 112, 224)) + "</object>"
    )
    monkeypatch.setattr(Emu2, "chat", lambda *args, **options: text)
    result = run("chat", "-m", words, "-i", "red.png", "where?", "--grounding", "--json", "--device", "cpu")
    answer = json.loads(result.stdout)
    assert answer["phrases"] == [{"phrase": "a dog", "boxes": [[0.0, 15.0, 20.0, 30.0]]}]


def test_talking(words, here):
    lines = [
        "/image red.png",
        "what is this?",
        "/help",
        "/image nope.png",
        "/dance",
        "and?",
        "/reset",
        "",
        "/quit",
        "never",
    ]
    result = run("chat", "-m", words, "-n", 3, "--device", "cpu", stdin="\n".join(lines))
    assert result.exit_code == 0, result.output
    m = emu2.load(words, device="cpu")
    talk = m.conversation(max_new_tokens=3)
    answers = [talk.say(picture("red"), "what is this?"), talk.say("and?")]
    assert result.stdout == "".join(answer + "\n" for answer in answers)
    assert "red.png goes with what you say next" in result.stderr
    assert "/video FILE" in result.stderr
    assert "nope.png" in result.stderr
    assert "no /dance" in result.stderr
    assert "Forgotten" in result.stderr


def test_talking_on_after_a_question_and_to_the_end_of_the_input(words, here):
    result = run("chat", "-m", words, "-n", 2, "-I", "hello", "--device", "cpu", stdin="and?\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 2


# draw


def test_draw_writes_a_picture_and_says_where(pictures, here):
    result = run("draw", "-m", pictures, "a dog", "--steps", 1, "--seed", 1, "--out", "dog.png", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "Wrote dog.png" in result.stderr
    assert result.stdout == ""
    m = emu2.load(pictures, device="cpu")
    assert Image.open("dog.png").tobytes() == m.draw(["a dog"], steps=1, seed=1).tobytes()


def test_draw_several_as_json(pictures, here):
    result = run(
        "draw",
        "-m",
        pictures,
        "x",
        "--steps",
        1,
        "--count",
        2,
        "--width",
        32,
        "-o",
        "p.jpg",
        "--json",
        "--device",
        "cpu",
    )
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["files"] == ["p-1.jpg", "p-2.jpg"]
    assert (answer["width"], answer["height"]) == (32, 64)
    assert all(Image.open(file).size == (32, 64) for file in answer["files"])


def test_nothing_is_overwritten_unasked(here, recorder):
    run("draw", "x")
    run("draw", "x", "--count", 2)
    assert sorted(file.name for file in here.glob("emu2-draw*")) == [
        "emu2-draw-2.png",
        "emu2-draw-3.png",
        "emu2-draw.png",
    ]
    assert "red.png exists; give another name, or --force" in refused("draw", "x", "--out", "red.png")
    assert Image.open("red.png").size == (40, 30)
    assert run("draw", "x", "--out", "red.png", "--force").exit_code == 0


@pytest.mark.parametrize("out", ["clip.gif", "clip.mp4"])
def test_film_writes_a_clip(clips, here, out):
    result = run(
        "film", "-m", clips, "a dog", "--steps", 1, "--num-frames", 3, "--out", out, "--json", "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["file"], answer["frames"], answer["width"]) == (out, 3, 64)
    assert len(emu2.Video.from_file(out, num_frames=3)) == 3


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words_seen"),
    [
        (["complete", "x", "-m", "nowhere"], ["no model 'nowhere'", "no such file or folder"]),
        (["complete", "x", "--dtype", "int7", "-m", "."], ["'--dtype'", "nknown dtype 'int7'"]),
        (["complete", "x", "--device", "gpu", "-m", "."], ["'--device'", "nknown device 'gpu'"]),
        (["complete", "-i", "nope.png", "-m", "."], ["'--image'", "nope.png"]),
        (["complete", "--video", "nope.mp4", "-m", "."], ["'--video'", "nope.mp4"]),
        (["complete", "-m", "."], ["prompt is empty"]),
        (["complete", " ", "-m", "."], ["prompt is empty"]),
        (["draw", "", "-m", "."], ["prompt is empty"]),
        (["complete", "x", "--num-beams", "0", "-m", "."], ["'--num-beams'"]),
        (["complete", "x", "--temperature", "-1", "-m", "."], ["'--temperature'"]),
        (["complete", "x", "--published", "--temperature", "1", "-m", "."], ["exclude each other"]),
        (["complete", "x", "--stream", "--json", "-m", "."], ["exclude each other"]),
        (["chat", "--json", "-m", "."], ["--json answers one question"]),
        (["draw", "x", "--steps", "0", "-m", "."], ["'--steps'"]),
        (["draw", "x", "--guidance", "-1", "-m", "."], ["'--guidance'"]),
        (["draw", "x", "--height", "63", "-m", "."], ["'--height'", "multiple of 8; got 63", "64 is the nearest"]),
        (["draw", "x", "--width", "0", "-m", "."], ["'--width'", "multiple of 8; got 0"]),
        (["draw", "x", "--count", "0", "-m", "."], ["'--count'"]),
        (["draw", "--box", "1,2,3", "x", "-m", "."], ["'--box'", "'1,2,3' is no box", "x1,y1,x2,y2"]),
        (["draw", "--box", "1,2,3,449", "x", "-m", "."], ["'--box'", "outside its picture of 448x448"]),
        (["draw", "x", "--out", "x.txt", "-m", "."], ["'--out'", "must end in one of .png"]),
        (["draw", "x", "--out", "no/x.png", "-m", "."], ["'--out'", "no folder no"]),
        (["film", "x", "--out", "x.png", "-m", "."], ["'--out'", "must end in one of .mp4, .gif"]),
        (["drew", "x"], ["No such command 'drew'", "emu2 --help"]),
        (["draw", "x", "--stepz", "3", "-m", "."], ["--stepz", "emu2 draw --help"]),
        (["draw", "x", "y", "-m", "."], ["unexpected extra argument"]),
    ],
)
def test_what_is_wrong_is_one_line(here, arguments, words_seen):
    line = refused(*arguments)
    assert all(word in line for word in words_seen), line


def test_a_picture_that_is_none_is_named(here):
    (here / "bad.png").write_bytes(b"no picture")
    assert "bad.png" in refused("complete", "-i", "bad.png", "-m", ".")
    whole = (here / "red.png").read_bytes()
    (here / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert "cut.png" in refused("complete", "-i", "cut.png", "-m", ".")


def test_a_folder_that_is_no_model_is_named(here):
    assert "is not a model folder" in refused("complete", "x", "-m", here)


def test_a_model_without_a_decoder_says_so(words, here):
    assert "has no image decoder" in refused("draw", "x", "-m", words, "--device", "cpu")
    assert "has no video decoder" in refused("film", "x", "-m", words, "--device", "cpu")


def test_a_prompt_longer_than_the_context_says_how_long(words, here):
    line = refused("complete", "cat " * 3000, "-m", words, "--device", "cpu")
    assert "tokens long" in line
    assert "1024 tokens" in line
    assert "tokens" in refused("chat", "cat " * 3000, "-m", words, "--device", "cpu")


def test_failures_while_running_exit_with_1(here, recorder, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("CUDA out of memory.\nTried to allocate.")

    monkeypatch.setattr(recorder, "complete", fail)
    assert refused("complete", "x", code=1) == "Error: CUDA out of memory. Tried to allocate."


def test_a_programming_error_hints_at_the_traceback(here, recorder, monkeypatch):
    monkeypatch.setattr(recorder, "complete", None)
    assert "TypeError" in refused("complete", "x", code=1)
    assert "EMU2_DEBUG=1" in refused("complete", "x", code=1)
    monkeypatch.setenv("EMU2_DEBUG", "1")
    assert isinstance(run("complete", "x").exception, TypeError)


def test_errors_without_words_are_still_told():
    assert describe_error(RuntimeError()) == ("RuntimeError", 1)
    assert describe_error(FileNotFoundError(2, "No such file", "a.txt")) == ("a.txt: no such file or folder.", 2)


@pytest.mark.parametrize("command", ["complete", "chat", "draw", "film", "convert", "info", "train", "world"])
def test_help_has_examples(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Examples" in result.stdout
    assert f"emu2 {command} " in result.stdout


def test_version():
    assert run("--version").stdout == f"emu2 {emu2.__version__}\n"
