"""Several variants of a small model in one folder: stored once, loaded by folder and by name, described, refused."""

import json
from copy import deepcopy

import pytest
import torch
from helpers_train import pair, tiny_whole
from safetensors import safe_open
from typer.testing import CliRunner

import emu2
from emu2.cli import app
from emu2.decoder.video_unet import FilmUNet
from emu2.evaluate.miniature import scenes_of
from emu2.inference import names
from emu2.model.variants import find_variant
from emu2.recipes.assemble import assemble, folder_bytes, write_variants
from emu2.recipes.checks import size_of
from emu2.recipes.fresh import add_video_decoder, fresh_whole
from emu2.train.whole import Whole

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    wholes = {name: tiny_whole() for name in ("base", "chat", "gen")}
    with torch.no_grad():
        wholes["chat"].model.lm_head.weight.mul_(2.0)
        wholes["gen"].model.model.project_down.weight.mul_(3.0)
    wholes["chat"].model.config.num_query = 16
    return write_variants(wholes, tiny_whole(), tiny_whole(), tmp_path_factory.mktemp("variants") / "tiny")


def test_what_they_share_is_stored_once(folder):
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.safetensors")}
    assert set(files) == {
        *("vision.safetensors", "base/model.safetensors", "chat/model.safetensors", "gen/model.safetensors"),
        *(f"{part}/diffusion_pytorch_model.safetensors" for part in ("vae", "unet", "video/unet")),
    }
    kept = {}
    for file in files.values():
        with safe_open(file, framework="pt") as opened:
            kept |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    assert {tensor.dtype for tensor in kept.values() if tensor.ndim > 1} == {torch.bfloat16}
    assert {tensor.dtype for tensor in kept.values() if tensor.ndim == 1} == {torch.float32}
    with safe_open(files["chat/model.safetensors"], framework="pt") as opened:
        assert not [name for name in opened.keys() if "visual" in name]  # noqa: SIM118


def test_each_is_itself(folder):
    base, chat, gen = (emu2.load(folder / name, device="cpu") for name in ("base", "chat", "gen"))
    assert emu2.load(folder, device="cpu").name == base.name
    ours = tiny_whole().model
    assert torch.equal(base.model.lm_head.weight, ours.lm_head.weight.bfloat16().float())
    assert torch.equal(chat.model.lm_head.weight, (ours.lm_head.weight * 2).bfloat16().float())
    assert torch.equal(gen.model.model.project_down.weight, (ours.model.project_down.weight * 3).bfloat16().float())
    assert torch.equal(chat.model.model.visual.pos_embed, base.model.model.visual.pos_embed)
    assert (base.processor.num_query, chat.processor.num_query, chat.processor.num_video_query) == (4, 16, 4)
    assert isinstance(chat.chat([pair(0).segments[0], "left?"], max_new_tokens=3), str)
    assert base.draw("red left", steps=2, seed=0).size == (16, 16)
    assert len(gen.film("red left", steps=2, seed=0, num_frames=2)) == 2
    with pytest.raises(ValueError, match="has no image decoder"):
        chat.draw("red left")


def test_training_goes_on_from_one(folder):
    whole = Whole.load(folder / "gen")
    assert whole.complete
    assert whole.films
    assert {parameter.dtype for module in whole.modules() for parameter in module.parameters()} == {torch.float32}
    assert not Whole.load(folder / "chat").complete
    assert size_of(folder) == size_of(folder / "chat") == "debug"


def test_names_of_what_ships(folder, monkeypatch):
    monkeypatch.setattr(names, "SHIPPED_FOLDER", folder)
    assert emu2.load("nano", device="cpu").name == str(folder / "base")
    assert emu2.load("nano-chat", device="cpu").processor.num_query == 16
    assert emu2.load("nano-gen", device="cpu").image_pipeline is not None
    for name in ("nanno", "nano-caht"):
        with pytest.raises(ValueError, match=f"no model '{name}'.*Did you mean 'nano"):
            emu2.load(name)
    drawn = runner.invoke(app, ["draw", "--model", "nano-chat", "red left"])
    assert drawn.exit_code == 2
    assert "nano-chat has no image decoder" in " ".join(drawn.output.split())
    (folder / "card.json").write_text(
        json.dumps(
            {
                "budget": "cpu",
                "stages": {"vision": {"steps": 5, "batch_size": 4, "seconds": 90.0, "machines": ["a chip, 1 thread"]}},
                "after": "Vision went on for [an hour].",
                "figures": [{"group": "captions", "name": "names", "value": 0.875, "target": 0.9}],
            }
        )
    )
    told = runner.invoke(app, ["info", "nano"])
    assert told.exit_code == 0, told.output
    for words in ("several variants", "vision tower", "chat: bridge", "video U-Net", "budget cpu", "a chip", "0.875"):
        assert words in " ".join(told.output.split())
    assert "Vision went on for [an hour]." in " ".join(told.output.split())
    assert json.loads(runner.invoke(app, ["info", "nano-gen", "--json"]).stdout)["card"]["budget"] == "cpu"


@pytest.mark.parametrize("name", ["nano", "nano-chat", "nano-gen"])
def test_names_of_what_does_not_ship(name, tmp_path, monkeypatch):
    monkeypatch.setattr(names, "SHIPPED_FOLDER", tmp_path)
    with pytest.raises(ValueError, match=f"'{name}' does not ship with this version of emu2. Give a model's folder"):
        emu2.load(name)
    told = runner.invoke(app, ["info", name])
    assert told.exit_code != 0
    assert "does not ship" in told.output


def test_info_of_a_mistyped_name_says_which_was_meant():
    told = runner.invoke(app, ["info", "nanno"])
    assert told.exit_code == 2
    assert "There is no model 'nanno': no such file or folder. Did you mean 'nano'?" in " ".join(told.output.split())


def test_info_of_a_folder_below_home_is_not_taken_for_what_ships(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine").mkdir()
    told = runner.invoke(app, ["info", "~/mine", "--json"])
    assert json.loads(told.stdout)["path"] == str(tmp_path / "mine")


def test_an_image_decoder_over_time_is_stored_as_what_it_has_beyond_it(tmp_path):
    wholes, drawing, filming = {name: tiny_whole() for name in ("base", "chat", "gen")}, tiny_whole(), tiny_whole()
    filming.video_unet = FilmUNet.of_image_unet(deepcopy(drawing.unet))
    with torch.no_grad():
        for tensor in filming.video_unet.temporal_weights().values():
            tensor.normal_(std=0.1)
    others = deepcopy((wholes, drawing, filming))  # writing halves what it is given
    shared = write_variants(wholes, drawing, filming, tmp_path / "shared")
    assert sorted(file.name for file in (shared / "video" / "unet").iterdir()) == [
        "config.json",
        "temporal.safetensors",
    ]
    gen = emu2.load(shared / "gen", device="cpu")
    assert gen.video_pipeline.unet.conv_in.weight is gen.image_pipeline.unet.conv_in.weight
    whole = Whole.load(shared / "gen")
    assert whole.video_unet.conv_in.weight is not whole.unet.conv_in.weight  # either may train
    with torch.no_grad():
        others[1].unet.conv_out.bias.add_(1.0)
    apart = write_variants(*others, tmp_path / "apart")
    clips = [emu2.load(place / "gen", device="cpu").film("red left", steps=2, seed=0) for place in (shared, apart)]
    assert [frame.tobytes() for frame in clips[0]] == [frame.tobytes() for frame in clips[1]]
    told = runner.invoke(app, ["info", str(shared)])
    assert "video U-Net" in told.output


def test_no_file_names_the_folders_that_parts_were_read_from(tmp_path):
    tiny_whole().save(tmp_path / "run")
    whole = Whole.load(tmp_path / "run")
    folder = write_variants(dict.fromkeys(("base", "chat", "gen"), whole), whole, whole, tmp_path / "model")
    assert not [file for file in folder.rglob("*.json") if str(tmp_path) in file.read_text()]


def test_one_that_draws_nothing_may_have_a_tower_of_its_own(tmp_path):
    wholes = {name: tiny_whole() for name in ("base", "chat", "gen")}
    with torch.no_grad():
        wholes["chat"].model.model.visual.pos_embed.add_(1.0)
    folder = write_variants(wholes, tiny_whole(), tiny_whole(), tmp_path / "model")
    base, chat = (emu2.load(folder / name, device="cpu") for name in ("base", "chat"))
    apart = chat.model.model.visual.pos_embed - base.model.model.visual.pos_embed
    assert apart.mean().item() == pytest.approx(1.0, abs=0.01)  # bfloat16
    told = " ".join(runner.invoke(app, ["info", str(folder)]).output.split())
    assert "chat: its own vision tower" in told
    assert "gen: its own vision tower" not in told
    with torch.no_grad():
        wholes["gen"].model.model.visual.pos_embed.add_(1.0)
    with pytest.raises(ValueError, match="vision tower of gen is another than the others'"):
        write_variants(wholes, tiny_whole(), tiny_whole(), tmp_path / "model")


def test_parts_of_different_runs_are_not_put_together(tmp_path):
    wholes = {name: tiny_whole() for name in ("base", "chat", "gen")}
    with pytest.raises(ValueError, match="vision tower of the image decoder's is another than the others'"):
        write_variants(wholes, tiny_whole(seed=1), tiny_whole(), tmp_path / "model")
    with pytest.raises(ValueError, match="The stage 'unified' is not complete"):
        assemble(tmp_path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_damaged_list_is_named(tmp_path):
    (tmp_path / "variants.json").write_text("{}")
    with pytest.raises(ValueError, match=r"variants.json is damaged: expected the variants of a model"):
        find_variant(tmp_path)
    assert find_variant(tmp_path / "none" / "base") is None


def test_all_of_nano_fits_64_megabytes(tmp_path):
    """From freshly made weights, with the vocabulary that nano's own tokeniser has."""
    whole = fresh_whole("nano", tiny_whole().processor.tokenizer)
    whole.model.resize_token_embeddings(1536 + 274)
    add_video_decoder(whole)
    made = write_variants(dict.fromkeys(("base", "chat", "gen"), whole), whole, whole, tmp_path / "nano")
    trained_tokeniser = 200_000  # the tiny one that is here is smaller
    assert folder_bytes(made) + trained_tokeniser < 64e6


def test_the_card_of_an_assembled_model_is_written_again(tmp_path):
    from emu2.recipes.card import write_again

    model, card = tmp_path / "model", tmp_path / "MODEL_CARD.md"
    whole = tiny_whole()
    write_variants({"base": whole, "chat": whole, "gen": whole}, whole, whole, model)
    figures, notes = tmp_path / "figures.json", tmp_path / "notes.md"
    row = {
        "group": "Edit",
        "name": "made",
        "value": 0.5,
        "interval": [0.4, 0.6],
        "n": 9,
        "target": 0.7,
        "reached": False,
    }
    gained = {"group": "Naming", "name": "gain", "value": 0.0, "target": 0.0, "goal": "more than", "reached": False}
    config = {"style": "corners", "concepts": 20, "seed": 1, "questions": 200}
    figures.write_text(json.dumps({"rows": [row, gained], "config": config}))
    notes.write_text("It fails at dusk.")
    for given in (card, model / "card.json"):  # either half alone is no card
        with pytest.raises(ValueError, match="are not the two halves of a model card"):
            write_again(model, card, figures=figures, notes=notes)
        given.write_text("{}")
    sizes = "| part | parameters | bytes |\n|---|---:|---:|\n| base | 1 | 2 |"
    card.write_text(
        f"# nano\n\n{sizes}\n\n## How it was made\n\nSlowly.\n\n## Measured\n\nold\n\n## Known failures\n\nold\n"
    )
    (model / "card.json").write_text(json.dumps({"budget": "cpu", "figures": []}))
    write_again(model, card, figures=figures, notes=notes)
    written = card.read_text()
    assert "## How it was made\n\nSlowly.\n\n## Measured\n\nPrinted by `emu2 eval miniature --style" in written
    assert "--style corners --concepts 20 --seed 1`: scenes that training never showed" in written
    assert "\n\n| what | | value |" in written
    assert "| Edit | made | 0.5 | 0.4 to 0.6 | 9 | 0.7 | no |" in written
    assert "- Edit, made: 0.5 where 0.7 was wanted" in written
    assert "- Naming, gain: 0 where more than 0 was wanted" in written
    assert "It fails at dusk." in written
    assert "old" not in written
    assert f"| all | | {folder_bytes(model):,} |" in written
    assert json.loads((model / "card.json").read_text()) == {"budget": "cpu", "figures": [row, gained]}
    before = written
    write_again(model, card, figures=figures, notes=notes)
    assert card.read_text() == before
    notes.write_text("It fails at dusk.\n\n## After the budget\n\nBase went\non.\n\n- **base**: 5 steps more.\n")
    write_again(model, card, figures=figures, notes=notes)
    assert "- **base**: 5 steps more." in card.read_text()
    assert json.loads((model / "card.json").read_text())["after"] == "Base went on."
    notes.write_text("It fails at dusk.")
    write_again(model, card, figures=figures, notes=notes)
    assert "after" not in json.loads((model / "card.json").read_text())


def test_scenes_of_a_model_are_those_of_its_card(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(names, "SHIPPED_FOLDER", folder)
    assert scenes_of("nano") == {}
    card = folder / "card.json"
    card.write_text(json.dumps({"scenes": {"style": "corners", "concepts": 20, "more": 1}}))
    for name in ("nano", "nano-chat", str(folder), str(folder / "gen")):
        assert scenes_of(name) == {"style": "corners", "concepts": 20}
    for name in (str(folder.parent), str(folder / "vision.safetensors")):
        assert scenes_of(name) == {}
    asked = ["eval", "miniature", "--only=captioning", "--number=2", "--force", "--out", str(tmp_path)]
    for given, style, concepts in (([], "corners", 20), (["--style=simple"], "simple", None)):
        told = runner.invoke(app, [*asked, *given])
        assert told.exit_code == 0, told.output
        known = f"{concepts} everyday concepts of each split, as the model's card says" if concepts else "all concepts."
        assert f"Scenes in the style '{style}', {known}" in " ".join(told.output.split())
        config = json.loads((tmp_path / "miniature.json").read_text())["config"]
        assert (config["style"], config["concepts"]) == (style, concepts)
    for broken in ("{", "5"):
        card.write_text(broken)
        with pytest.raises(ValueError, match=r"card.json is no model card: .*Remove it, or put the one it was back"):
            scenes_of("nano")
    for told in (runner.invoke(app, ["info", "nano"]), runner.invoke(app, ["eval", "miniature"])):
        assert told.exit_code == 2
        assert "is no model card" in " ".join(told.output.replace("│", " ").split())
