"""Asking a run to stop: SIGTERM of a scheduler, SIGINT of a person."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """While it is entered, SIGTERM and SIGINT set `received` instead of ending the process.

    The run looks at it between micro-batches, gives up the step it is in, writes a checkpoint and returns. A second
    SIGINT interrupts at once. Where the run has not returned within the deadline (a step or a disk too slow), the
    process ends with exit code 1: the newest checkpoint that was complete stays as it is.

    Args:
        deadline_s: seconds from the first signal.

    Signals reach the main thread only; in any other thread this does nothing.
    """

    def __init__(self, deadline_s: float):
        self.deadline_s = deadline_s
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._watch: threading.Timer | None = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number).name
            self._watch = threading.Timer(self.deadline_s, self._give_up)
            self._watch.daemon = True
            self._watch.start()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def _give_up(self) -> None:
        message = (
            f"{self.received}: no checkpoint within {self.deadline_s:g} s (stop_deadline_s). The last one is whole."
        )
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
        os._exit(1)
