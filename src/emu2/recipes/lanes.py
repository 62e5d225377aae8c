"""Processes that carry out stages, so many side by side; and what is known of their machine."""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timezone
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any

from emu2.train.config import RunConfig
from emu2.train.metrics import read_log

#: Seconds after which a process that was asked to stop is ended: its own deadline has passed long before.
_PATIENCE = 150.0


@dataclass
class _Running:
    process: Any
    began: str
    clock: float
    first_step: int
    host: dict[str, Any]


class Lanes(AbstractContextManager["Lanes"]):
    """At most `number` processes at a time, each begun in the folder of its run.

    They are forked from a server that has imported the libraries once and computed nothing: each begins at once and is
    as fresh as any.
    """

    def __init__(self, number: int):
        self.number = max(1, number)
        self.running: dict[str, _Running] = {}
        self._ended: dict[str, _Running] = {}
        self._asked: float | None = None
        methods = multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            self._context.set_forkserver_preload(["emu2.recipes.stage"])

    @property
    def free(self) -> int:
        return self.number - len(self.running)

    def begin(self, name: str, run: Path, task: str, config: RunConfig, starts: dict[str, str]) -> None:
        """Carry out `emu2.recipes.stage`.`task` for a stage in a process of its own."""
        threads = _threads(self.number)
        process = self._context.Process(target=_enter, args=(task, config, str(run), starts, threads), name=name)
        process.start()
        log = read_log(run / "log.jsonl")
        began = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        first = int(log[-1]["step"]) if log else 0
        self.running[name] = _Running(process, began, time.monotonic(), first, host(config, threads))

    def wait(self, seconds: float) -> dict[str, int | None]:
        """Stages that have ended by then, and their exit codes (minus the signal's number where one ended them)."""
        if self.running:
            wait([item.process.sentinel for item in self.running.values()], timeout=seconds)
        else:
            time.sleep(0)
        if self._asked is not None and time.monotonic() - self._asked > _PATIENCE:
            for item in self.running.values():
                item.process.kill()
        ended = {name: item.process.exitcode for name, item in self.running.items() if not item.process.is_alive()}
        for name in ended:
            self._ended[name] = self.running.pop(name)
        return ended

    def stop(self) -> None:
        """Ask every process, once, to write its checkpoint and end."""
        if self._asked is None:
            self._asked = time.monotonic()
            for item in self.running.values():
                item.process.terminate()

    def session(self, name: str) -> dict[str, Any]:
        """This call's work on a stage so far."""
        item = self.running.get(name) or self._ended[name]
        seconds = round(time.monotonic() - item.clock, 1)
        return {"began": item.began, "seconds": seconds, "from_step": item.first_step, **item.host}

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        while self.running:
            self.wait(1.0)


def _threads(lanes: int) -> int:
    """Of each process: what OMP_NUM_THREADS says, else its share of the cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else max(1, (os.cpu_count() or 1) // lanes)


def host(config: RunConfig, threads: int) -> dict[str, Any]:
    """The machine that a stage runs on, as its records name it."""
    import torch

    found: dict[str, Any] = {"device": config.device, "threads": threads, "cores": os.cpu_count()}
    found["processor"] = _processor()
    if config.device.startswith("cuda") and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(config.device)
    return {**found, "torch": torch.__version__, "python": platform.python_version()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _enter(task: str, config: RunConfig, run: str, starts: dict[str, str], threads: int) -> None:
    """The first thing a stage's process does: its output goes into its folder, from the first line on."""
    with open(Path(run) / "output.txt", "a", encoding="utf-8") as output:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    from emu2.recipes import stage

    stage.enter(task, config, Path(run), starts, threads)
