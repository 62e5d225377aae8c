"""Checkpoints of a run: written aside, synced, then renamed, so that a torn write never replaces a good one.

out/checkpoints/step-00000400/
    shard-00001-model-00001-of-00001.safetensors ...
                  each process's pieces of `weights.NAME`, `optimizer.NAME/KEY` and `average.NAME`
    state.json    step, position in the data, counters, the resolved config, the size of every file

torch.distributed.checkpoint writes and reads the pieces, for one process too, in its safetensors format (its own holds
a pickle). A run saved by so many processes resumes on any other number: each process reads the pieces it needs.
All processes must see the same folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from emu2.train.distributed import World

_NAME = re.compile(r"step-(\d{8})")
_ASIDE = ".writing-"
#: Bytes of one process's pieces in one file: each file is put together in memory.
_FILE_BYTES = 2 << 30
#: What torch warns of where a single process is what was meant.
_ALONE = "torch.distributed is disabled"


class CheckpointError(OSError):
    """A checkpoint could not be written. Those before it are as they were."""


def checkpoint_folder(out: Path) -> Path:
    return out / "checkpoints"


def list_checkpoints(out: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folder = checkpoint_folder(out)
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and (path / "state.json").is_file()]
    return sorted(found, key=lambda path: path.name)


class Checkpoints:
    """Writes a run's checkpoints and removes all but the newest.

    Args:
        out: the run's folder, the same for every process.
        keep: how many stay.
        world: the processes that write, each its own pieces.
        asynchronous: go on as soon as the tensors are copied to the host's memory; writing happens beside the run.
    """

    def __init__(self, out: Path, *, keep: int, world: World, asynchronous: bool = False):
        self._out, self._keep, self._world, self._asynchronous = out, keep, world, asynchronous
        self._written: Future[None] | None = None
        if asynchronous:
            # Said in the writing thread, where `_quiet` does not reach.
            warnings.filterwarnings("ignore", message=_ALONE)

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
        """Write one checkpoint; every process calls it. Waits for the one before it.

        Args:
            tensors: group ("weights", "optimizer", "average") -> name -> the pieces that this process holds.
            state: JSON-able, the same for every process.

        Raises:
            CheckpointError: this one, or the one before it, could not be written (disk full, no permission).
        """
        self.wait()
        folder = checkpoint_folder(self._out)
        final = folder / f"step-{step:08d}"
        aside = folder / f"{_ASIDE}{final.name}"
        with self._told(step):
            if self._world.main:
                for torn in folder.glob(f"{_ASIDE}*"):
                    shutil.rmtree(torn)
                aside.mkdir(parents=True)
        stored = _stored(tensors)
        writer = HuggingFaceStorageWriter(
            str(aside), fqn_to_index_mapping=_files(stored, self._world.size), save_distributed=True
        )
        settings: dict[str, Any] = {
            "storage_writer": writer,
            "process_group": self._world.checkpoint_group,
            "no_dist": self._world.size == 1,
        }
        if self._asynchronous:
            with _quiet():
                copied: Any = dcp.async_save(stored, **settings)
            written: Future[None] = Future()
            copied.add_done_callback(lambda done: self._complete(done, written, aside, final, state))
            self._written = written
            return final
        with self._told(step):
            try:
                with _quiet():
                    dcp.save(stored, **settings)
                if self._world.main:
                    self._commit(aside, final, state)
            except BaseException:
                if self._world.main:
                    shutil.rmtree(aside, ignore_errors=True)
                raise
        return final

    def wait(self) -> None:
        """Until what was saved last is on disk.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._written is None:
            return
        written, self._written = self._written, None
        with self._told(None):
            written.result()

    def _complete(
        self, done: Future[Any], written: Future[None], aside: Path, final: Path, state: Mapping[str, Any]
    ) -> None:
        """The end of writing beside the run, in the writing thread."""
        try:
            done.result()
            if self._world.main:
                self._commit(aside, final, state)
        except BaseException as error:
            if self._world.main:
                shutil.rmtree(aside, ignore_errors=True)
            written.set_exception(error)
        else:
            written.set_result(None)

    def _commit(self, aside: Path, final: Path, state: Mapping[str, Any]) -> None:
        """Everything is written: make it the newest checkpoint."""
        files = {path.name: path.stat().st_size for path in sorted(aside.iterdir())}
        described = aside / "state.json"
        described.write_text(json.dumps({**state, "files": files}, indent=1))
        _sync(described)
        _sync(aside)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        _sync(final.parent)
        for old in list_checkpoints(self._out)[: -self._keep]:
            shutil.rmtree(old)

    @contextmanager
    def _told(self, step: int | None) -> Iterator[None]:
        """What fails on one process fails on all, as one error that names the newest good checkpoint."""
        problem, cause = None, None
        try:
            yield
        except (OSError, RuntimeError, CheckpointException) as error:
            cause = error
            problem = _reason(error)
        problem = self._world.first(problem)
        if problem is not None:
            whole = list_checkpoints(self._out)
            raise CheckpointError(
                f"The checkpoint{'' if step is None else f' of step {step}'} could not be written to "
                f"{checkpoint_folder(self._out)}: {problem}. "
                + (f"The newest complete one is {whole[-1].name}." if whole else "There is no complete one yet.")
            ) from cause


def read_state(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint, all of whose files are there in their full size.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    name = "state.json"
    try:
        state = json.loads((folder / name).read_text())
        for name, size in state["files"].items():
            if (folder / name).stat().st_size != size:
                raise ValueError(f"{(folder / name).stat().st_size} bytes of {size}")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(folder, name, error) from error
    return state


def stored_tensors(folder: Path, group: str) -> dict[str, torch.dtype]:
    """Name -> type of every tensor of one group in a checkpoint.

    Raises:
        ValueError: a file is damaged.
    """
    try:
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, "a shard", error) from error
    prefix = f"{group}."
    return {
        name.removeprefix(prefix): data.properties.dtype  # type: ignore[union-attr]
        for name, data in found.items()
        if name.startswith(prefix)
    }


@torch.no_grad()
def load_tensors(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], world: World) -> None:
    """Fill tensors, by group and name, from a checkpoint in place, each process the pieces it holds; all call it.

    Raises:
        ValueError: one is missing there, has another shape, or its file is damaged.
    """
    try:
        with _quiet():
            dcp.load(
                _stored(tensors),
                storage_reader=HuggingFaceStorageReader(str(folder)),
                process_group=world.checkpoint_group,
                no_dist=world.size == 1,
            )
    except (OSError, RuntimeError, CheckpointException, SafetensorError) as error:
        raise ValueError(
            f"The checkpoint {folder} could not be read: {_reason(error)}. Remove this folder to resume from the one "
            "before it."
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """State of the optimizer by parameter name: `{parameter}/{key}`. `names` maps id(parameter) to its name."""
    return {
        f"{names[id(parameter)]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def room_for_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    stored: Mapping[str, torch.dtype],
) -> dict[str, Tensor]:
    """Make empty state in `optimizer` for what a checkpoint holds of it, by the names of `optimizer_tensors`.

    Args:
        stored: those names -> type.

    Raises:
        ValueError: it belongs to other parameters.
    """
    room = {}
    for full_name, dtype in stored.items():
        name, _, key = full_name.rpartition("/")
        if name not in parameters:
            raise ValueError(f"The checkpoint's optimizer knows {name!r}, which this run does not train.")
        parameter = parameters[name]
        # Moments are split as their parameter; the step counter is one number, beside it.
        if key != "step":
            value = torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
        else:
            value = torch.zeros((), dtype=dtype, device=parameter.device)
        optimizer.state[parameter][key] = room[full_name] = value
    return room


def _stored(tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """As they lie on disk: at least one dimension, which pieces are counted along. Names there are GROUP.NAME."""
    return {
        group: {
            name: tensor.detach().view(1) if tensor.ndim == 0 else tensor.detach() for name, tensor in named.items()
        }
        for group, named in tensors.items()
        if named
    }


def _files(tensors: Mapping[str, Mapping[str, Tensor]], processes: int) -> dict[str, int]:
    """Name on disk -> number of the file, from 1, so that no process puts too much into one."""
    numbers, written = {}, 0
    for group, named in tensors.items():
        for name, tensor in named.items():
            numbers[f"{group}.{name}"] = 1 + written // (_FILE_BYTES * processes)
            written += tensor.numel() * tensor.element_size()
    return numbers


def _reason(error: BaseException) -> str:
    failures = list(getattr(error, "failures", {}).values())
    first: Any = failures[0][0] if failures else error
    return str(first) or type(first).__name__


def _damaged(folder: Path, name: str, error: BaseException) -> ValueError:
    return ValueError(
        f"The checkpoint {folder} is damaged: {name} could not be read ({error}). Remove this folder to resume from "
        "the one before it."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that a single process is one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_ALONE)
        yield


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
