"""A recipe on one's own data: which form a path is in, and the scale of the run."""

import json

import pytest
from helpers_train import pair

from emu2 import recipes
from emu2.recipes.tuning import tuned, with_data


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Pictures with captions, conversations about them, edits, and plain text, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").mkdir()
    talks, edits = [], []
    for number in range(16):
        picture, words = pair(number).segments
        picture.save(f"pairs/{number}.png")
        (tmp_path / "pairs" / f"{number}.txt").write_text(words)
        turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": words}]
        talks.append({"image": f"pairs/{number}.png", "conversations": turns})
        edits.append({"input": f"pairs/{number}.png", "instruction": "turn it", "output": "pairs/0.png"})
    for name, rows in (("talks.jsonl", talks), ("edits.jsonl", edits)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.txt").write_text("a red thing")
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "given", "kind", "form"),
    [
        ("chat", "talks.jsonl", "chat", "llava"),
        ("chat", "pairs", "chat", "folder"),
        ("chat", 'chat/mine={"format": "llava", "path": "talks.jsonl"}', "chat/mine", "llava"),
        ("gen", "pairs/", "text_to_image", "folder"),
        ("gen", "edits.jsonl", "edit", "instructpix2pix"),
        ("gen", "edit=edits.jsonl", "edit", "instructpix2pix"),
        ("caption", "pairs", "pair", "folder"),
        ("decoder", "pairs", "pair", "folder"),
        ("language", "words.txt", "text", "text"),
    ],
)
def test_the_form_of_a_path_is_recognised(files, recipe, given, kind, form):
    data = with_data(recipes.recipe(recipe), [given]).data
    assert {name: spec["format"] for name, spec in data.sources.items()} == {kind: form}
    assert data.kinds == {kind: 1.0}


@pytest.mark.parametrize("stage", sorted(recipes.names("nano")))
def test_every_recipe_of_nano_reads_files_of_ones_own(stage):
    """What a recipe tells of its own kinds of records, it does not ask of others."""
    config = recipes.recipe(stage, "nano")
    kind = {"language": "text", "chat": "chat", "reading": "grounded_pair"}.get(stage, "pair")
    own = with_data(config, [f'{kind}={{"format": "any", "path": "mine"}}'])
    assert list(own.data.kinds) == [kind]
    assert own.data.opening == {}
    told = own.looking_back
    assert (told is not None) == (stage in ("chat", "reading"))
    if told is not None:
        assert told.heads == config.looking_back.heads


def test_several_sources_weigh_by_their_records(files):
    (files / "few.jsonl").write_text("\n".join((files / "talks.jsonl").read_text().splitlines()[:4]))
    config = tuned(with_data(recipes.recipe("chat"), ["talks.jsonl", "few.jsonl"]), epochs=2)
    assert config.data.kinds == {"chat": 16.0, "chat/2": 4.0}
    assert config.data.batch_size == 20 // 8
    assert config.steps == 20


def test_a_tuning_run_is_small_and_an_adapter_learns_faster(files):
    recipe = recipes.recipe("chat", "37b")
    config = tuned(with_data(recipe, ["talks.jsonl"]), epochs=3, context=1024)
    assert (config.data.batch_size, config.steps, config.data.max_length) == (2, 24, 1024)
    assert config.optim.warmup_steps <= 2
    assert config.optim.lr == recipe.optim.lr
    adapted = tuned(with_data(recipe, ["talks.jsonl"]), epochs=3, lora=8)
    assert adapted.optim.lr == pytest.approx(5 * recipe.optim.lr)
    assert adapted.lora.rank == 8


@pytest.mark.parametrize(
    ("recipe", "given", "message"),
    [
        ("chat", "nowhere.jsonl", "No data found: there is no file or folder nowhere.jsonl"),
        ("chat", "edits.jsonl", "'conversations' in every record"),
        ("chat", "words.txt", "No data found: words.txt is in no form that holds chat; these do: .*llava"),
        ("gen", "edit={nonsense", "neither a path nor the JSON of a source's settings"),
        ("gen", "edit=", "A source is written PATH or KIND=PATH; got 'edit='"),
    ],
)
def test_what_cannot_be_read_is_said(files, recipe, given, message):
    with pytest.raises(ValueError, match=message):
        with_data(recipes.recipe(recipe), [given])
