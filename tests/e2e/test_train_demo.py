"""The training demo, from nothing to its page: what `make train-demo QUICK=1` runs, once for all tests here."""

import json
import re

import pytest

from emu2.recipes.demo import STARTS, plan, run
from emu2.train.metrics import read_log


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, run(folder, quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", list(STARTS))
def test_losses_fall_clearly(demo, stage):
    losses = [line["loss"] for line in read_log(demo[0] / "runs" / stage / "log.jsonl")]
    tenth = max(1, len(losses) // 10)
    # Forty contrastive steps are the start of a slow fall.
    share = 0.9 if stage == "vision" else 0.75
    assert sum(losses[-tenth:]) < share * sum(losses[:tenth])


@pytest.mark.slow
def test_the_page_stands_alone_and_has_its_sections(demo):
    page = (demo[0] / "index.html").read_text()
    for section in ("captions", "counting", "drawings", "autoencoding", "training", "limits", "use"):
        assert f'<section id="{section}">' in page
    assert page.count("<svg") == len(STARTS)
    assert page.count("data:image/png;base64,") > 20
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "$" not in re.sub(r"base64,[^\"]+", "", page)


@pytest.mark.slow
def test_scores_and_times_are_written(demo):
    report = json.loads((demo[0] / "scores.json").read_text())
    assert set(report["scores"]) == {"captions", "counting", "drawings", "autoencoding"}
    assert all(f"stage {stage}" in report["seconds"] for stage in STARTS)
    assert report == json.loads(json.dumps(demo[1]))


@pytest.mark.slow
def test_the_model_folder_is_one_that_users_load(demo):
    import emu2

    model = emu2.load(demo[0] / "model", device="cpu")
    assert model.draw("a dog at the top left on a blue background", steps=2).size == (64, 64)


def test_the_full_form_is_the_same_code_with_more_steps():
    full, quick = plan(), plan(quick=True)
    assert list(full.stages) == list(quick.stages) == ["vision", "caption", "unified", "autoencoder", "decoder"]
    for name, config in full.stages.items():
        assert config.steps > quick.stages[name].steps
        assert config.objective == quick.stages[name].objective
        assert config.parts == quick.stages[name].parts
