"""Several real processes that share one run, as torchrun would start them (gloo, on the CPU)."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_context = multiprocessing.get_context("forkserver")
# Imported once, in the process that all others are forked off.
_context.set_forkserver_preload(
    ["helpers_train", "emu2.train.diffusion", "emu2.train.generation", "emu2.train.video_diffusion"]
)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _live(environment: dict[str, str], told: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        function(*arguments)
    except BaseException:
        Path(told).write_text(traceback.format_exc())
        # As a failed program ends, without waiting for peers that may be gone.
        os._exit(1)


class Ranks:
    """`size` processes that run `function(*arguments)`, with the variables that torchrun sets."""

    def __init__(self, folder: Path, function: Callable[..., Any], *arguments: Any, size: int = 2):
        folder.mkdir(parents=True, exist_ok=True)
        common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        self.errors = [folder / f"rank-{rank}.error" for rank in range(size)]
        self.processes = []
        for rank in range(size):
            environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = _context.Process(
                target=_live, args=(environment, str(self.errors[rank]), function, arguments), daemon=True
            )
            process.start()
            self.processes.append(process)

    def join(self, timeout: float) -> list[int | None]:
        """Exit codes; None for a process that is still there after `timeout` seconds (it is ended then)."""
        codes = []
        for process in self.processes:
            process.join(timeout)
            codes.append(process.exitcode)
            if process.exitcode is None:
                process.kill()
                process.join()
        return codes

    def error(self, rank: int) -> str:
        """The traceback of a process that failed."""
        return self.errors[rank].read_text() if self.errors[rank].exists() else ""

    def finish(self, timeout: float = 120.0) -> None:
        codes = self.join(timeout)
        assert codes == [0] * len(codes), f"exit codes {codes}\n" + "\n".join(map(self.error, range(len(codes))))
