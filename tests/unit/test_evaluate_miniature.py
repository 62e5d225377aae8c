"""The paper in miniature: whoever knows the truth gets everything right, whoever guesses gets chance."""

import io
import json
import re
from collections import Counter
from dataclasses import replace

import pytest
from helpers_evaluate import TINY, Constant, Mute, Oracle
from PIL import Image

from emu2.evaluate.exam import Exam, MiniatureConfig, Models
from emu2.evaluate.figures import share
from emu2.evaluate.miniature import GROUPS, miniature, variant_folders
from emu2.evaluate.rows import Group, Measured, Row, Spec
from emu2.evaluate.table import reasons, table


def examine(subject, config=TINY, **options):
    return miniature(Models(subject, subject, subject), config, **options)


@pytest.fixture(scope="module")
def oracle():
    told = []
    return examine(Oracle(), progress=told.append), told


def test_every_row_is_measured_and_an_oracle_has_everything_right(oracle):
    report, told = oracle
    assert told == [group.name for group in GROUPS.values()]
    for row in report.rows:
        assert row.measured is not None, (row.spec.name, row.missing)
        best = {"share": 1.0, "likeness": 1.0, "dB": 99.0}.get(row.spec.unit)
        if best is not None:
            assert row.measured.figure.value == pytest.approx(best), row.spec.name
        assert row.measured.figure.low <= row.measured.figure.value <= row.measured.figure.high
        assert row.measured.beside is not None, row.spec.name


def test_the_oracle_reaches_every_target_but_those_that_ask_for_ignorance_or_learning(oracle):
    missed = {row.spec.name for row in oracle[0].rows if row.reached is False}
    excused = re.compile("0 shots|over 0|chat ahead|least gain|gain of the demonstrations")
    assert all(excused.search(name) for name in missed), missed
    ahead = [row for row in oracle[0].rows if row.spec.name.startswith("ahead of")]
    assert len(ahead) == 4
    assert all(row.reached for row in ahead)


def test_samples_show_what_was_given_and_the_truth(oracle):
    shown = {row.spec.name: row.measured.samples for row in oracle[0].rows if row.measured.samples}
    assert isinstance(shown["object names exact"][0].given[0], Image.Image)
    assert shown["object names exact"][0].got == shown["object names exact"][0].truth
    assert len(shown["2-way, 2 shots"][0].given) == 6  # the words, two demonstrations, the query
    assert shown["asked change made"][0].right is True
    assert len(shown["moves the way the text says"][0].truth) == TINY.frames


def test_a_constant_answerer_is_at_chance():
    config = replace(TINY, questions=24, episodes=40, drawings=8, shots=(0, 2))
    rows = {
        row.spec.name: row
        for row in examine(Constant(), config, only=["chat", "naming", "video", "edit", "drawing", "subject"]).rows
    }
    for name in ("yes or no", "2-way, 0 shots", "2-way, 2 shots", "4-way, 2 shots"):
        found = rows[name].measured
        assert found.figure.low <= found.beside <= found.figure.high, name
        assert found.figure.value > 0, name
    assert rows["2-way, 0 shots"].reached is True  # chance is the target there
    for name in ("what", "how many", "referring expression, box", "moves the way the text says", "asked change made"):
        assert rows[name].measured.figure.value == 0, name
    assert not rows["ahead of an empty background, with boxes"].reached


def test_what_a_model_lacks_is_told_row_by_row():
    report = examine(Mute(), only=["captioning", "chat", "naming", "text_to_image", "video"])
    why = {row.spec.name: row.missing for row in report.rows}
    assert why["object names exact"] == ""
    assert why["mean of the ten kinds"] == why["yes or no"] == "it cannot chat"
    assert why["2-way, 1 shot"] == ""
    assert why["2-way, 2 shots"] == "too many pictures"
    assert why["objects, by template"] == "it has no image decoder"
    assert why["identity kept"] == "it has no video decoder"
    assert Counter(row.group for row in report.rows) == Counter(
        {GROUPS[name].name: len(GROUPS[name].specs(Exam(TINY, 32))) for name in
         ("captioning", "chat", "naming", "text_to_image", "video")}
    )  # fmt: skip
    assert reasons(report.rows)["it cannot chat"] == ["Chat"]
    assert report.summary["not measured"] == sum(bool(reason) for reason in why.values())


def test_a_world_too_small_for_a_group_is_told():
    report = examine(Oracle(), replace(TINY, concepts=1), only=["naming", "families"])
    reasons = {row.spec.name: row.missing for row in report.rows}
    assert all(
        "too small" in reason for name, reason in reasons.items() if name.startswith("tuple") and "over" not in name
    )
    # made-up words stand for any held thing, however few the model can name
    assert not any(reason for name, reason in reasons.items() if "-way" in name)


def test_the_report_is_written_as_json_and_as_one_page(oracle, tmp_path):
    scores, page = oracle[0].save(tmp_path / "eval")
    found = json.loads(scores.read_text())
    assert found["summary"]["rows"] == len(found["rows"]) == len(oracle[0].rows)
    row = next(row for row in found["rows"] if row["name"] == "2-way, 2 shots")
    assert (row["value"], row["chance"], row["n"], row["unit"]) == (1.0, 0.5, 2, "share")
    text = page.read_text()
    for group in GROUPS.values():
        assert f"<h2>{group.name}</h2>" in text
    assert text.count("data:image/png;base64,") > 20
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "$" not in re.sub(r"base64,[^\"]+", "", text)


def test_the_table_has_every_row(oracle):
    from rich.console import Console

    output = io.StringIO()
    Console(file=output, width=160).print(table(oracle[0].rows))
    written = output.getvalue()
    for row in oracle[0].rows:
        assert row.spec.name[:40] in written
    assert "99.0 dB" in written
    assert "≥ 20.0 dB" in written


def test_targets_are_reached_as_the_row_says():
    def row(rights: int, **spec) -> Row:
        return Row("g", Spec("r", "c", **spec), Measured(share([True] * rights + [False] * (10 - rights)), 0.5))

    assert row(8, target=0.8).reached is True
    assert row(7, target=0.8).reached is False
    assert row(8, target=0.8, goal="more than").reached is False
    assert row(9, target=0.8, goal="more than").reached is True
    assert row(7).reached is None
    assert row(6, goal="at chance").reached is True
    assert row(10, goal="at chance").reached is False
    assert row(9, target=0.5, goal="above").reached is True
    assert row(6, target=0.5, goal="above").reached is False
    assert Row("g", Spec("r", "c", 0.8), missing="why").reached is None


def test_a_group_that_forgets_a_row_is_found_out():
    group = Group(
        "g", "", lambda exam: [Spec("one", "c"), Spec("two", "c")], lambda models, exam: iter([("one", "why")])
    )
    with pytest.raises(AssertionError, match="specs without a row"):
        group.rows(Models(Oracle(), Oracle(), Oracle()), Exam(TINY, 32))


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="no group 'chats'; choose from captioning, chat"):
        examine(Oracle(), only=["chats"])
    with pytest.raises(ValueError, match="questions must be at least 2"):
        MiniatureConfig(questions=1)
    with pytest.raises(ValueError, match="style must be one of corners, crowded, simple, full; got 'tidy'"):
        MiniatureConfig(style="tidy")
    with pytest.raises(ValueError, match="concepts is a number of everyday concepts"):
        MiniatureConfig(concepts=0)
    with pytest.raises(ValueError, match="rising numbers of demonstrations"):
        MiniatureConfig(shots=(2, 1))


def test_variants_are_found_in_a_folder_or_beside_a_name(tmp_path):
    assert variant_folders(tmp_path) == dict.fromkeys(("base", "chat", "gen"), str(tmp_path))
    (tmp_path / "chat").mkdir()
    found = variant_folders(tmp_path, gen="elsewhere")
    assert found == {"base": str(tmp_path), "chat": str(tmp_path / "chat"), "gen": "elsewhere"}
    assert variant_folders("nano")["gen"] == "nano-gen"
