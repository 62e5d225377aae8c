"""Shards: the training readers give back the records that were written."""

import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from emu2.cli.world import app
from emu2.data.readers import FORMATS, open_source
from emu2.data.settings import DataConfig
from emu2.processing.grounding import Box
from emu2.processing.video import Video
from emu2.recipes.start import open_sources
from emu2.world import KINDS, World, WorldConfig
from emu2.world.shards import FORMAT_OF, SOURCES, sources, writable, write_shards

COUNT, START = 7, 3


@pytest.fixture(scope="module")
def world() -> World:
    return World(WorldConfig(image_size=32, concepts=64, style="simple", seed=5, shots=(0, 2, 16), frames=(4, 20)))


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    write_shards(world, out, list(FORMAT_OF), COUNT, start=START, per_shard=4)
    return out


def _same(written, read) -> bool:
    if isinstance(written, str):
        return written == read
    if isinstance(written, Box):
        same_box = isinstance(read, Box) and np.allclose(written.xyxy, read.xyxy)
        return same_box and (written.phrase, written.size) == (read.phrase, read.size)
    if isinstance(written, Video):
        frames = zip(written, read, strict=True) if isinstance(read, Video) else [(None, None)]
        return all(_same(*pair) for pair in frames)
    return isinstance(read, Image.Image) and np.array_equal(np.asarray(written), np.asarray(read))


@pytest.mark.parametrize("kind", FORMAT_OF)
def test_readers_give_the_records_back(world, folder, tmp_path, kind):
    [(name, spec)] = sources(folder, [kind], 20).items()
    source = open_source({**spec, "cache": str(tmp_path)}, name.partition("/")[0])
    assert source.size == COUNT
    for number in range(COUNT):
        written, read = world.record(kind, START + number), source[number]
        assert len(read.segments) == len(written.segments)
        assert all(map(_same, written.segments, read.segments))
        if name == kind:  # episodes are read as documents, which are learned as a whole
            assert (read.kind, read.answer_from) == (kind, written.answer_from)
        assert [(role, len(content)) for role, content in read.turns or ()] == [
            (role, len(content)) for role, content in written.turns or ()
        ]


def test_the_table_of_sources_fits_a_run(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = json.loads((folder / SOURCES).read_text())
    assert set(table) == {*sources(folder, list(FORMAT_OF), 20)}
    assert {"pair", "document", "document/rule", "edit"} <= set(table)
    data = DataConfig(kinds=dict.fromkeys(table, 1.0), sources=table)
    for name, source in open_sources(data).items():
        assert (source.size, source[0].kind) == (COUNT, name.partition("/")[0])


def test_every_kind_but_composition_has_a_format():
    assert set(KINDS) - set(FORMAT_OF) == {"composition"}
    assert set(FORMAT_OF.values()) <= set(FORMATS)
    assert writable(None) == [kind for kind in KINDS if kind in FORMAT_OF]


def test_samples_are_named_as_img2dataset_names_them(folder):
    with tarfile.open(folder / "pair" / "00001.tar") as tar:
        assert tar.getnames()[:4] == ["000010000.png", "000010000.txt", "000010000.json", "000010001.png"]
        note = json.load(tar.extractfile("000010000.json"))
    assert (note["record"], note["width"]) == ("5-train-pair-000000007", 32)
    assert note["truth"]["caption"] == note["caption"]
    assert not list(folder.rglob("*.part"))


def test_the_same_records_give_the_same_bytes(world, folder, tmp_path):
    kinds = ["edit", "chat", "video_pair"]
    write_shards(world, tmp_path, kinds, COUNT, start=START, per_shard=4)
    for kind in kinds:
        for path in (tmp_path / kind).iterdir():
            assert path.read_bytes() == (folder / kind / path.name).read_bytes()


def test_the_command_writes_shards_and_says_what_it_cannot(tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, ["shards", str(tmp_path), *map(str, arguments)])

    options = ("-k", "pair", "-k", "text", "--concepts", 16, "--size", 16)
    result = run(*options, "-n", 5, "--per-shard", 2, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert [(item["kind"], item["format"], item["files"]) for item in found["shards"]] == [
        ("pair", "webdataset", 3),
        ("text", "text", 3),
    ]
    assert "give --force" in str(run(*options).exception)
    assert run(*options, "-n", 1, "--force").exit_code == 0
    assert [path.name for path in (tmp_path / "pair").iterdir()] == ["00000.tar"]
    assert "no format on disk" in str(run("-k", "composition").exception)
    assert "There is no kind 'pears'" in str(run("-k", "pears").exception)


def test_wrong_numbers_are_told(world, tmp_path):
    with pytest.raises(ValueError, match="at least 1; got 0 and 4"):
        write_shards(world, tmp_path, ["pair"], 0, per_shard=4)
