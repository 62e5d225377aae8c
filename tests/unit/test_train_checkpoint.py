"""Checkpoints survive what happens to disks and processes; grids of processes that cannot be are refused."""

import re
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_train import run_config, tiny_whole, trainer, weights
from safetensors.torch import load_file
from torch.distributed.device_mesh import DeviceMesh

from emu2.train.checkpoint import CheckpointError, list_checkpoints
from emu2.train.distributed import World
from emu2.train.settings import ParallelConfig
from emu2.train.sharding import split_layers


def _names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


@pytest.fixture
def small_disk():
    """A limit on the size of every file this process writes, as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("save_async", [False, True], ids=["at once", "beside the training"])
@pytest.mark.parametrize("size", [1 << 16, 1 << 9], ids=["weights", "state"])
def test_a_full_disk_leaves_the_last_good_checkpoint(size, save_async, tmp_path, small_disk):
    run = trainer(run_config("caption", save_async=save_async), tmp_path)
    run.run(until=1)
    before = {path.name: path.read_bytes() for path in list_checkpoints(tmp_path)[0].iterdir()}
    run.step = 2
    small_disk(size)
    message = r"could not be written to .*checkpoints: .*File too large.* The newest complete one is step-00000001\."

    def save() -> None:
        run.save()
        run.checkpoints.wait()

    with pytest.raises(CheckpointError, match=message):
        save()
    assert _names(tmp_path) == ["step-00000001"]
    assert {path.name: path.read_bytes() for path in list_checkpoints(tmp_path)[0].iterdir()} == before
    small_disk(-1)
    trainer(run_config("caption"), tmp_path).run(resume=True, until=2)
    assert _names(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_torn_write_is_no_checkpoint(tmp_path):
    trainer(run_config("caption"), tmp_path).run(until=1)
    torn = tmp_path / "checkpoints" / ".writing-step-00000002"
    shutil.copytree(list_checkpoints(tmp_path)[0], torn)
    (torn / "state.json").unlink()
    run = trainer(run_config("caption"), tmp_path)
    run.run(resume=True, until=2)
    assert run.step == 2
    assert _names(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_file_cut_short_is_named(tmp_path):
    trainer(run_config("caption"), tmp_path).run(until=1)
    (shard,) = list_checkpoints(tmp_path)[0].glob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    again = trainer(run_config("caption"), tmp_path)
    said = f"step-00000001 is damaged: {shard.name} could not be read"
    with pytest.raises(ValueError, match=rf"{re.escape(said)}.*bytes of {len(whole)}.*Remove this folder"):
        again.run(resume=True)


def test_written_beside_the_training_it_holds_its_own_step(tmp_path):
    """What a checkpoint holds does not follow the weights that move while it is being written."""
    config = run_config("caption", save_every=1, keep_checkpoints=9)
    beside, at_once = tmp_path / "beside", tmp_path / "at once"
    trainer(replace(config, save_async=True), beside).run()
    trainer(config, at_once).run()
    assert _names(beside) == _names(at_once) == [f"step-{step:08d}" for step in range(1, 7)]
    for path in at_once.glob("checkpoints/*/*.safetensors"):
        got, expected = load_file(beside / path.relative_to(at_once)), load_file(path)
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], value) for name, value in expected.items()), path


def test_no_pickle_lies_in_a_checkpoint(tmp_path):
    run = trainer(run_config("decoder"), tmp_path)
    run.run(until=1)
    (folder,) = list_checkpoints(tmp_path)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize(
    ("size", "parallel", "message"),
    [
        (8, ParallelConfig(tensor=3), "8 processes cannot be grouped by parallel.tensor=3"),
        (8, ParallelConfig(shard="full", replicate=3), "parallel.replicate=3 does not divide the 8 data-parallel"),
        (8, ParallelConfig(shard="full", replicate=8, tensor=2), "does not divide the 4 data-parallel processes"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(size, parallel, message, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(size))
    with pytest.raises(ValueError, match=re.escape(message)):
        World.start(parallel, "cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replicate": 2}, "parallel.replicate=2 groups of shards need parallel.shard=full"),
        ({"cpu_offload": True}, "parallel.cpu_offload needs parallel.shard=full"),
        ({"tensor": 0}, "parallel.tensor must be 1 or more; got 0"),
        ({"timeout_s": 0.0}, "parallel.timeout_s must be above 0; got 0.0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ParallelConfig(**settings)


def test_the_ranks_divide_the_batch(tmp_path):
    world = World()
    world.data_size = 3
    from emu2.train.loop import Trainer

    with pytest.raises(ValueError, match=r"data.batch_size=4 records are shared by 3 data-parallel ranks"):
        Trainer(run_config("caption"), tiny_whole(), {"pair": _Nothing()}, tmp_path, world=world)


class _Nothing:
    size = 4


class _Mesh:
    """What `split_layers` asks of a mesh before it splits anything."""

    def __init__(self, parts: int):
        self.parts = parts

    def size(self) -> int:
        return self.parts


def test_heads_that_do_not_divide_are_refused():
    mesh: DeviceMesh = _Mesh(3)  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"parallel.tensor=3 does not divide .* num_attention_heads=2; use one of \[1, 2\]"
    ):
        split_layers(tiny_whole(), mesh)


def test_a_model_that_says_nothing_of_splitting_is_refused():
    whole = tiny_whole()
    whole.model.config.text_config.base_model_tp_plan = None
    with pytest.raises(ValueError, match="'llama' cannot be split by layers"):
        split_layers(whole, _Mesh(2))  # type: ignore[arg-type]


def test_a_world_of_one_changes_nothing():
    world, whole = World(), tiny_whole()
    before = weights(whole)
    world.place(whole, run_config("caption"))
    assert world.gather({"a": 1}) == [{"a": 1}]
    assert world.any(True, False) == (True, False)
    assert world.first(None) is None
    rows = torch.ones(2, 3)
    assert world.all_rows(rows) == (rows, 0)
    assert all(torch.equal(value, before[name]) for name, value in weights(whole).items())
