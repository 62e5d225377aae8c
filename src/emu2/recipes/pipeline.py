"""All stages of a size in order, each a run in a folder of its own, in pieces as long as one likes.

    out/start            the fresh model and its tokeniser
    out/vision ...       one run a stage: what `emu2 train` leaves, sessions.json, started.json, output.txt
    out/model            the three variants of the trained model, what they share stored once
    out/report.html      curves and samples of all stages;   out/MODEL_CARD.md

A stage that is finished is recognised and left alone, a half-done one is resumed from its newest checkpoint, so the
same call goes on after any end: a time limit, SIGTERM, Ctrl-C, a kill, a power cut. Each stage is a process; two that
do not start from one another may run side by side.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from emu2.recipes.lanes import Lanes
from emu2.train.config import RunConfig, from_dict, to_dict
from emu2.train.metrics import describe, progress_bar, read_log
from emu2.train.stopping import StopRequest

#: What makes the first model: not a training run.
START = "start"
#: Stage -> what it takes from which other: the whole model first, then parts in its place.
STARTS: dict[str, dict[str, str]] = {
    "vision": {"whole": START},
    "autoencoder": {"whole": START, "vae": START},
    "language": {"whole": START},
    "caption": {"whole": "vision", "language": "language"},
    "unified": {"whole": "caption"},
    "decoder": {"whole": "caption", "image_decoder": START, "vae": "autoencoder"},
    "video_decoder": {"whole": "caption", "image_decoder": "decoder"},
    # Chat draws nothing, so it may see in a way of its own; the tower's is a stage that not every size has.
    "reading": {"whole": "caption"},
    "chat": {"whole": "unified", "vision": "reading"},
    # The decoder is there to show what is drawn; it does not train.
    "gen": {"whole": "unified", "image_decoder": "decoder"},
}
#: Without these, what would start from them keeps the parts it has.
OPTIONAL = frozenset({"reading"})
#: Which stages go first where several could: those that the longest chain of others waits for.
ORDER = (
    "vision",
    "language",
    "autoencoder",
    "caption",
    "unified",
    "reading",
    "decoder",
    "chat",
    "gen",
    "video_decoder",
)

_POLL_SECONDS, _NOTE_SECONDS = 0.5, 5.0
#: Beside a run's own files: what it started from, and when who has worked on it.
STARTED, SESSIONS = "started.json", "sessions.json"


def starts_of(name: str, stages: Iterable[str]) -> dict[str, str]:
    """What a stage takes from which other, where the pipeline has `stages`."""
    return {part: other for part, other in STARTS[name].items() if other not in OPTIONAL or other in stages}


@dataclass
class Outcome:
    """Of one call.

    finished: stages that are complete, in order. stopped: why the others are not: a signal, or "minutes"; None when all
    are. seconds: of this call. model: folder of the assembled variants, once all stages are complete.
    """

    finished: list[str]
    stopped: str | None
    seconds: float
    model: Path | None = None
    report: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "finished": self.finished,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 1),
            "model": str(self.model) if self.model else None,
            "report": str(self.report) if self.report else None,
        }


@dataclass
class Pipeline:
    """One trained whole in the making.

    Raises:
        ValueError: a stage is left out that another one starts from.

    Args:
        out: its folder.
        stages: stage -> settings, in order (`emu2.recipes.budgets.stages`).
        lanes: stages side by side.
        about: what else the records say of it: size, budget, seed. Another call must agree.
    """

    out: Path
    stages: Mapping[str, RunConfig]
    lanes: int = 1
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.stages:
            lacking = [other for other in self.needs(name) if other not in (START, *self.stages)]
            if lacking:
                raise ValueError(f"The stage {name!r} starts from {lacking[0]!r}, which is not among the stages.")

    @classmethod
    def reopened(cls, out: str | Path) -> Pipeline:
        """A pipeline as its folder describes it.

        Raises:
            ValueError: the folder is no pipeline's.
        """
        out = Path(out)
        about = _read(out / "pipeline.json")
        if not about:
            raise ValueError(f"{out} is not the folder of a pipeline: it has no pipeline.json.")
        found = {name: _read(out / name / "config.json") for name in about.pop("stages")}
        stages = {name: from_dict(values) for name, values in found.items() if values}
        begun = {n: c for n, c in stages.items() if all(o in (START, *stages) for o in starts_of(n, found).values())}
        return cls(out, begun, about=about)

    def run(self, *, minutes: float | None = None, console: Console | None = None, quiet: bool = False) -> Outcome:
        """Go on until all is done, the minutes are used up, or a signal asks to stop.

        Raises:
            ValueError: the folder belongs to another pipeline, is in use, or a stage in it was trained with other
                settings or from another model; nothing has run then.
            RuntimeError: a stage failed; says where its output is. The others were stopped in order.
        """
        began = time.monotonic()
        console = console or Console(stderr=True)
        self.out.mkdir(parents=True, exist_ok=True)
        with _alone(self.out), StopRequest(_longest_stop(self.stages)) as asked:
            self._claim()
            for name in self.stages:
                self._check(name)

            def stop() -> str | None:
                if asked.received:
                    return asked.received
                return "minutes" if minutes is not None and time.monotonic() - began >= 60 * minutes else None

            stopped = self._train(stop, console, quiet)
            finished = [name for name in self.stages if self.finished(name)]
            complete = len(finished) == len(self.stages)
            outcome = Outcome(finished, None if complete else stopped, time.monotonic() - began)
            outcome.report = self._report()
            if complete:
                from emu2.recipes.assemble import assemble
                from emu2.recipes.card import write_card
                from emu2.recipes.start import quiet_libraries

                quiet_libraries()
                outcome.model = assemble(self.out, self.out / "model")
                write_card(self)
            outcome.seconds = time.monotonic() - began
            return outcome

    def finished(self, name: str) -> bool:
        """Whether a stage has left its model."""
        run = self.out / name
        if name == START:
            return (run / "model").is_dir()
        summary = _read(run / "summary.json")
        return (run / "model").is_dir() and summary.get("steps", -1) >= self.stages[name].steps

    def ready(self, name: str) -> bool:
        """Whether all that a stage starts from is there."""
        return all(self.finished(other) for other in self.needs(name))

    def needs(self, name: str) -> list[str]:
        return [] if name == START else list(dict.fromkeys(self.starts(name).values()))

    def starts(self, name: str) -> dict[str, str]:
        """What a stage takes from which other: `STARTS`, less the stages that this size has not."""
        return starts_of(name, self.stages)

    def sessions(self, name: str) -> list[dict[str, Any]]:
        """Every piece of work on a stage: when, how long, from which step to which, on what machine."""
        return _read(self.out / name / SESSIONS).get("sessions", [])

    def step(self, name: str) -> int:
        """How far a stage has come, as far as its log and summary say."""
        log = read_log(self.out / name / "log.jsonl")
        return max(int(log[-1]["step"]) if log else 0, _read(self.out / name / "summary.json").get("steps", 0))

    # Before anything runs

    def _claim(self) -> None:
        """The folder is this pipeline's, and was before."""
        file = self.out / "pipeline.json"
        mine = {**self.about, "stages": list(self.stages)}
        known = _read(file)
        for key, value in mine.items():
            if known and key != "settings" and known.get(key) != value:  # settings are looked at stage by stage
                raise ValueError(
                    f"{self.out} was begun with {key}={known.get(key)!r}, and is to go on with {key}={value!r}. Go on "
                    "as it was begun, or choose another folder (--out)."
                )
        _write(file, mine)

    def _check(self, name: str) -> None:
        """A stage that has begun was begun with these settings, from the models that are here now.

        Raises:
            ValueError: it was not; the message says which folders to remove.
        """
        from emu2.train.resume import check_settings

        run = self.out / name
        if not (run / "config.json").is_file():
            return
        again = f"Remove {', '.join(str(self.out / other) for other in self._after(name))} to train it again."
        before = _read(run / STARTED)
        for part, (other, mark) in before.items():
            if mark != self._mark(other):
                raise ValueError(
                    f"The stage {name!r} in {run} took its {part} from another run of {other!r} than the one in "
                    f"{self.out / other} now. {again}"
                )
        try:
            check_settings(to_dict(self.stages[name]), _read(run / "config.json"), run)
        except ValueError as error:
            raise ValueError(f"Stage {name!r}: {error} {again}") from error

    def _after(self, name: str) -> list[str]:
        """A stage and all that start from it."""
        found = [name]
        for other in ORDER:
            if other not in found and any(start in found for start in self.starts(other).values()):
                found.append(other)
        return found

    def _mark(self, name: str) -> str:
        """Tells one training of a stage from another, by when and how long it took."""
        file = self.out / name / ("start.json" if name == START else "summary.json")
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else "absent"

    # The stages

    def _train(self, stop: Callable[[], str | None], console: Console, quiet: bool) -> str | None:
        """Run what is not finished; why it ended early, or None."""
        todo = [name for name in (START, *ORDER) if (name == START or name in self.stages) and not self.finished(name)]
        stopped: str | None = None
        with Lanes(self.lanes) as lanes, progress_bar(console, disable=quiet) as bar:
            tasks: dict[str, Any] = {}
            noted = 0.0
            while todo or lanes.running:
                stopped = stopped or stop()
                if stopped:
                    todo.clear()
                    lanes.stop()
                for name in [name for name in todo if self.ready(name)][: lanes.free]:
                    todo.remove(name)
                    steps = None if name == START else self.stages[name].steps
                    tasks[name] = bar.add_task(name, total=steps, status="")
                    self._begin(name, lanes)
                ended = lanes.wait(_POLL_SECONDS)
                if ended or time.monotonic() - noted > _NOTE_SECONDS:
                    noted = time.monotonic()
                    for name in {**lanes.running, **ended}:
                        self._note(name, lanes)
                for name in lanes.running:
                    _show(bar, tasks[name], self.out / name)
                for name, code in ended.items():
                    if self.finished(name):
                        bar.update(tasks[name], total=bar.tasks[tasks[name]].total or 1)
                        bar.update(tasks[name], completed=bar.tasks[tasks[name]].total)
                        shutil.rmtree(self.out / name / "checkpoints", ignore_errors=True)
                        self._report()
                    elif not stopped:
                        todo.clear()
                        lanes.stop()
                        while lanes.running:
                            lanes.wait(_POLL_SECONDS)
                        raise RuntimeError(self._failure(name, code))
        return stopped

    def _begin(self, name: str, lanes: Lanes) -> None:
        run = self.out / name
        run.mkdir(parents=True, exist_ok=True)
        if name == START:
            lanes.begin(name, run, "make_start", next(iter(self.stages.values())), {})
            return
        starts = self.starts(name)
        _write(run / STARTED, {part: [other, self._mark(other)] for part, other in starts.items()})
        folders = {part: str(self.out / other / "model") for part, other in starts.items()}
        lanes.begin(name, run, "run_stage", self.stages[name], folders)

    def _note(self, name: str, lanes: Lanes) -> None:
        """Keep the time that a stage has taken, so that it is known however the call ends."""
        if name == START:
            return
        session = lanes.session(name)
        session["to_step"] = self.step(name)
        kept = [other for other in self.sessions(name) if other["began"] != session["began"]]
        _write(self.out / name / SESSIONS, {"sessions": [*kept, session]})

    def _report(self) -> Path | None:
        """The page of what there is so far, once there is something."""
        from emu2.recipes.pipeline_page import write_page

        if not any((self.out / name / "config.json").is_file() for name in self.stages):
            return None
        return write_page(self)

    def _failure(self, name: str, code: int | None) -> str:
        output = self.out / name / "output.txt"
        lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines() if output.is_file() else []
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"failed (exit code {code})"
        why = f": {lines[-1]}" if lines else "."
        return f"The stage {name!r} {how}{why}\nIts output is in {output}. The same command goes on from where it was."


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder against a second call, for as long as this process lives.

    Raises:
        ValueError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    with (out / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"Another process is training in {out}. Wait for it, or stop it first.") from error
        yield


def _longest_stop(stages: Mapping[str, RunConfig]) -> float:
    """Seconds in which every stage has written its checkpoint, and this process its records."""
    return 60.0 + max(config.stop_deadline_s for config in stages.values())


def _show(bar: Any, task: Any, run: Path) -> None:
    log = read_log(run / "log.jsonl")
    if log:
        rates = {name.removeprefix("speed/"): rate for name, rate in log[-1].items() if name.startswith("speed/")}
        bar.update(task, completed=log[-1]["step"], status=describe(log[-1], rates))


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write(file: Path, values: Mapping[str, Any]) -> None:
    """Aside and renamed: whoever reads it finds all of it, also after a kill."""
    aside = file.with_suffix(".writing")
    aside.write_text(json.dumps(values, indent=1), encoding="utf-8")
    aside.replace(file)
