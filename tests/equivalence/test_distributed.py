"""Two processes learn what one learns, and each takes up what the other left. Real processes, gloo, tiny models."""

import errno
import os
import signal
from dataclasses import replace

import pytest
from helpers_distributed import Ranks
from helpers_train import RECORDS, clip, pair, run_config, text, tiny_whole, trainer
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from emu2.data.sources import ListSource
from emu2.train.checkpoint import CheckpointError, list_checkpoints, read_state
from emu2.train.metrics import read_log
from emu2.train.settings import ParallelConfig
from emu2.train.whole import Whole

OBJECTIVES = (
    *("contrastive", "language", "caption", "unified", "autoencoder"),
    *("decoder", "video_decoder", "chat", "gen"),
)
FULL = ParallelConfig(shard="full", timeout_s=60.0)
#: Name -> objective, grid of processes, steps, step to stop at: only what ends also writes its model.
RUNS = {
    **{objective: (objective, FULL, 3, 2) for objective in OBJECTIVES},
    "copies": ("unified", ParallelConfig(shard="none"), 3, 2),
    "tensor": ("unified", ParallelConfig(tensor=2), 3, 2),
    "from a folder": ("unified", FULL, 3, 2),
    "bad records": ("caption", FULL, 3, 2),
    **{objective: (objective, FULL, 2, 2) for objective in ("gen", "decoder")},
    "two then one": ("caption", FULL, 5, 2),
    "one then two": ("decoder", FULL, 5, 4),
    **dict.fromkeys(("killed", "caption whole"), ("caption", FULL, 5, 4)),
    "decoder whole": ("decoder", FULL, 5, 4),
}
#: What one pair of processes makes, one run after another.
PAIR = [name for name in RUNS if name not in ("killed", "caption whole", "decoder whole")]


class _Torn(ListSource):
    """Some of its records cannot be read."""

    def __init__(self, made):
        super().__init__(made)
        self.torn: set[int] = set()

    def __getitem__(self, index):
        if index in self.torn:
            raise OSError("torn")
        return super().__getitem__(index)


def _trainer(name: str, out):
    objective, parallel, steps, _ = RUNS[name]
    config = run_config(objective, steps=steps, parallel=parallel, save_async=name == "two then one")
    sources = {"pair": _Torn([RECORDS.get(objective, pair)(i) for i in range(12)])}
    if objective == "unified":
        # Two records for each rank: often one of them has pictures or clips and the other none.
        makers = {"pair": pair, "text": text, "video_pair": clip}
        sources = {kind: ListSource([maker(i) for i in range(12)]) for kind, maker in makers.items()}
        config = replace(config, data=replace(config.data, kinds=dict.fromkeys(makers, 1.0)))
    if name in ("caption", "bad records"):
        config = replace(config, sample_every=2 if name == "caption" else 0, max_bad_share=0.5)
    if objective == "video_decoder":
        config = replace(config, ema_decay=None)  # 622 tensors are enough
    whole = Whole.load(out.parent / "start", in_pieces=True) if name == "from a folder" else tiny_whole()
    assert (whole.unread is not None) == (name == "from a folder")
    for module in whole.video_unet.modules():
        if isinstance(module, nn.Dropout):  # draws from each process's own generator
            module.p = 0.0
    run = trainer(config, out, whole=whole, sources=sources)
    if name == "bad records":
        # The first process can read neither of its two records of the first step.
        for _, index in run.mixture.ahead().next_step(1, 4)[0][:2]:
            sources["pair"].torn.add(index)
    return run


def _run_all(folder) -> None:
    for name in PAIR:
        run = _trainer(name, folder / name)
        run.run(resume=name == "one then two", until=RUNS[name][-1])
    _fill_one_disk(run)


def _fill_one_disk(run) -> None:
    """The disk of the second process has no room; what each of the two says of it."""

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write = HuggingFaceStorageWriter.write_data
    if not run.world.main:
        HuggingFaceStorageWriter.write_data = full
    run.step += 1
    try:
        run.save()
    except CheckpointError as error:
        (run.out / f"told-{run.world.rank}").write_text(str(error))
    HuggingFaceStorageWriter.write_data = write


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folder of the pair's runs."""
    folder = tmp_path_factory.mktemp("two")
    _trainer("one then two", folder / "one then two").run(until=2)
    tiny_whole().save(folder / "start")
    Ranks(folder / "errors", _run_all, folder).finish()
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder of the same run by one process; each is made when it is first asked for."""
    folder = tmp_path_factory.mktemp("one")

    def make(name: str):
        if not (folder / name).exists():
            _trainer(name, folder / name).run(until=RUNS[name][-1])
        return folder / name

    return make


def _losses(out) -> dict[int, dict[str, float]]:
    """Step -> its losses and the norm of its gradient."""
    return {
        line["step"]: {k: v for k, v in line.items() if k.startswith("loss") or k == "optim/grad_norm"}
        for line in read_log(out / "log.jsonl")
    }


def _assert_same(out, expected) -> None:
    got, wanted = _losses(out), _losses(expected)
    assert got.keys() == wanted.keys()
    for step, values in wanted.items():
        assert got[step] == pytest.approx(values, rel=1e-5), step


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_learn_what_one_learns(objective, two, one):
    _assert_same(two / objective, one(objective))


@pytest.mark.slow
@pytest.mark.parametrize("grid", ["copies", "tensor", "from a folder"])
def test_other_grids_and_a_start_in_pieces_learn_the_same(grid, two, one):
    _assert_same(two / grid, one("unified"))


@pytest.mark.slow
def test_a_process_without_records_takes_part(two, one):
    _assert_same(two / "bad records", one("bad records"))
    lines = [read_log(folder / "bad records" / "log.jsonl") for folder in (two, one("bad records").parent)]
    assert [[line["data/bad"] for line in of_one] for of_one in lines] == [[2, 2], [2, 2]]


@pytest.mark.slow
def test_saved_by_two_resumed_by_one(two, one):
    (saved,) = list_checkpoints(two / "two then one")
    assert sorted(read_state(saved)["files"])[-1].startswith("shard-00002")
    _trainer("two then one", two / "two then one").run(resume=True, until=4)
    _assert_same(two / "two then one", one("caption whole"))


@pytest.mark.slow
def test_saved_by_one_resumed_by_two(two, one):
    _assert_same(two / "one then two", one("decoder whole"))


@pytest.mark.slow
@pytest.mark.parametrize(("run", "part"), [("gen", "multimodal_encoder"), ("decoder", "unet")])
def test_the_model_folder_is_the_one_that_one_process_writes(run, part, two, one):
    got, expected = two / run / "model", one(run) / "model"
    listed = [
        sorted(path.relative_to(f).as_posix() for path in f.rglob("*") if path.is_file()) for f in (got, expected)
    ]
    assert listed[0] == listed[1]
    for path in expected.rglob("*.json"):
        assert (got / path.relative_to(expected)).read_text() == path.read_text(), path
    (name,) = [path.name for path in (expected / part).glob("*.safetensors")]
    ours, theirs = load_file(got / part / name), load_file(expected / part / name)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert (ours[key] - value).abs().mean() < 1e-5, key
    assert Whole.load(got).complete


@pytest.mark.slow
def test_one_full_disk_is_told_by_all(two):
    folder = two / "one then two"
    told = [(folder / f"told-{rank}").read_text() for rank in range(2)]
    assert told[0] == told[1]
    assert "The checkpoint of step 5 could not be written" in told[0]
    assert "No space left on device. The newest complete one is step-00000004." in told[0]
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-00000002", "step-00000004"]


def _resume_and_die(folder, victim: int, step: int) -> None:
    """One rank is killed in the middle of a step, after its forward pass."""
    run = _trainer("killed", folder)
    terms = run.objective.terms

    def dying(batch):
        values = terms(batch)
        if run.world.rank == victim and run.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return values

    run.objective.terms = dying
    run.run(resume=True, until=4)


@pytest.mark.slow
def test_a_killed_rank_stops_the_others_and_the_run_resumes(one, tmp_path):
    _trainer("killed", tmp_path / "run").run(until=2)
    ranks = Ranks(tmp_path / "errors", _resume_and_die, tmp_path / "run", 1, 3)
    codes = ranks.join(timeout=60.0)
    assert codes == [1, -signal.SIGKILL], codes
    assert "rank" in ranks.error(0).lower() or "peer" in ranks.error(0).lower()
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000002"]
    _trainer("killed", tmp_path / "run").run(resume=True, until=4)
    _assert_same(tmp_path / "run", one("caption whole"))


def _run_until_told(folder) -> None:
    """The second process alone is told to stop, in its third step."""
    run = _trainer("killed", folder)
    terms = run.objective.terms

    def told(batch):
        if run.world.rank == 1 and run.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return terms(batch)

    run.objective.terms = told
    assert run.run(until=4).stopped == "SIGTERM"


@pytest.mark.slow
def test_a_signal_to_one_stops_all_with_a_checkpoint(one, tmp_path):
    Ranks(tmp_path / "errors", _run_until_told, tmp_path / "run").finish()
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000003"]
    _trainer("killed", tmp_path / "run").run(resume=True, until=4)
    _assert_same(tmp_path / "run", one("caption whole"))
