"""The demo: train the `debug` size from nothing on the emoji world in minutes, then show what it learned.

    python -m emu2.recipes.demo [--quick] [--out train-demo] [--seed 0]

Two lanes run side by side, one process each, because small models use two cores better as two programs than as two
threads:

    vision -> caption -> unified
    autoencoder -> (when the caption stage has made the vision tower) decoder

Steps, not seconds, are fixed, so the same seed on the same machine makes the same page.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from emu2 import recipes
from emu2.train.config import RunConfig
from emu2.train.metrics import describe, progress_bar, read_log

#: Optimizer steps of each stage.
STEPS = {"vision": 120, "caption": 750, "unified": 1900, "autoencoder": 2600, "decoder": 2300}
#: The same for the quick form, which shows the same page with less on it.
QUICK_STEPS = {"vision": 40, "caption": 170, "unified": 150, "autoencoder": 400, "decoder": 200}
#: Stage -> stages whose models it starts from: the first gives everything, the others their own part.
STARTS: dict[str, tuple[str, ...]] = {
    "vision": (),
    "autoencoder": (),
    "caption": ("vision",),
    "unified": ("caption",),
    "decoder": ("caption", "autoencoder"),
}
_POLL_SECONDS = 0.5
LANES = 2


@dataclass(frozen=True)
class Plan:
    """What one demo does.

    stages: stage -> its configuration. scored: records each figure is measured on. shown: rows of each section.
    denoising: steps of a drawing.
    """

    stages: dict[str, RunConfig]
    scored: int
    shown: int
    denoising: int


def plan(*, quick: bool = False, seed: int = 0) -> Plan:
    """The full or the quick demo.

    Args:
        quick: far fewer steps, same code.
        seed: of everything.
    """
    stages = {}
    for name, steps in (QUICK_STEPS if quick else STEPS).items():
        config = recipes.recipe(name)
        pool = config.data.pool and min(config.data.pool, max(64, steps * config.data.batch_size))
        stages[name] = replace(
            config,
            steps=steps,
            seed=seed,
            log_every=max(1, steps // 100),
            data=replace(config.data, pool=pool),
            optim=replace(config.optim, warmup_steps=min(config.optim.warmup_steps, steps // 4)),
        )
    return Plan(stages, scored=16 if quick else 64, shown=6 if quick else 10, denoising=15 if quick else 25)


def run_stage(config: RunConfig, out: str, starts: list[str]) -> dict[str, Any]:
    """One stage in a process of its own: from model folders to a model folder; returns its summary."""
    from emu2.recipes.start import quiet_libraries, start_whole, train
    from emu2.train.whole import Whole

    quiet_libraries()
    whole = start_whole(config, starts[0] if starts else None)
    if len(starts) > 1:
        whole.vae = Whole.load(starts[1]).vae
    return train(config, out, whole=whole, quiet=True).to_dict()


def _use_threads(number: int) -> None:
    import torch

    torch.set_num_threads(number)


def train_all(chosen: Plan, runs: Path, console: Console) -> dict[str, dict[str, Any]]:
    """All stages, in two lanes; stage -> summary."""
    threads = max(1, (os.cpu_count() or 1) // LANES)
    context = multiprocessing.get_context("spawn")
    done: dict[str, dict[str, Any]] = {}
    running: dict[Future[dict[str, Any]], str] = {}
    executor = ProcessPoolExecutor(LANES, mp_context=context, initializer=_use_threads, initargs=(threads,))
    try:
        with progress_bar(console) as bar:
            tasks: dict[str, Any] = {}
            while len(done) < len(chosen.stages):
                for name, config in chosen.stages.items():
                    free = len(running) < LANES
                    ready = all(start in done for start in STARTS[name])
                    if free and ready and name not in done and name not in running.values():
                        starts = [str(runs / start / "model") for start in STARTS[name]]
                        running[executor.submit(run_stage, config, str(runs / name), starts)] = name
                        tasks[name] = bar.add_task(name, total=config.steps, status="")
                finished, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                for name in running.values():
                    _show_progress(bar, tasks[name], runs / name)
                for future in finished:
                    name = running.pop(future)
                    done[name] = future.result()
                    bar.update(tasks[name], completed=chosen.stages[name].steps)
    finally:
        executor.shutdown(cancel_futures=True)
    return {name: done[name] for name in chosen.stages}


def _show_progress(bar: Any, task: Any, run: Path) -> None:
    log = read_log(run / "log.jsonl")
    if log:
        rates = {name.removeprefix("speed/"): rate for name, rate in log[-1].items() if name.startswith("speed/")}
        bar.update(task, completed=log[-1]["step"], status=describe(log[-1], rates))


def assemble(runs: Path, folder: Path) -> Any:
    """The trained whole: autoregressive model of `unified`, VAE and U-Net of `decoder`; saved in `folder`."""
    from emu2.train.whole import Whole

    whole, decoder = Whole.load(runs / "unified" / "model"), Whole.load(runs / "decoder" / "model")
    whole.vae, whole.unet, whole.scheduler = decoder.vae, decoder.unet, decoder.scheduler
    whole.save(folder)
    return whole


def run(
    out: str | Path = "train-demo",
    *,
    quick: bool = False,
    seed: int = 0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train, show, and write `out`/index.html, `out`/scores.json and `out`/model.

    Returns:
        what scores.json holds: figures, times and paths.
    """
    from emu2.recipes.demo_page import write_page
    from emu2.recipes.demo_show import show
    from emu2.recipes.start import quiet_libraries

    out, console, began = Path(out), console or Console(), time.perf_counter()
    chosen = plan(quick=quick, seed=seed)
    runs = out / "runs"
    for old in (runs, out / "model"):
        shutil.rmtree(old, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    console.print(f"Training [bold]debug[/bold] from nothing, {'quick' if quick else 'full'} form, seed {seed}.")
    summaries = train_all(chosen, runs, console)
    trained = time.perf_counter()

    quiet_libraries()
    console.print("Looking at pictures whose scenes it never saw ...")
    whole = assemble(runs, out / "model")
    results = show(whole, chosen, seed=seed)
    finished = time.perf_counter()
    report = {
        "form": "quick" if quick else "full",
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "seconds": {
            "training": round(trained - began, 1),
            "showing": round(finished - trained, 1),
            "total": round(finished - began, 1),
            **{f"stage {name}": round(summary["seconds"], 1) for name, summary in summaries.items()},
        },
        "steps": {name: config.steps for name, config in chosen.stages.items()},
        "batch_size": {name: config.data.batch_size for name, config in chosen.stages.items()},
        "parameters": whole.count_parameters(),
        "things": chosen.stages["caption"].data.concepts,
        "scores": results.scores,
    }
    logs = {name: read_log(runs / name / "log.jsonl") for name in chosen.stages}
    page = write_page(out / "index.html", report, results, logs)
    (out / "scores.json").write_text(json.dumps(report, indent=1))
    console.print(f"Done in {report['seconds']['total'] / 60:.1f} minutes. Open [bold]{page.resolve()}[/bold]")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m emu2.recipes.demo", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps: about three minutes on two cores")
    parser.add_argument("--out", default="train-demo", help="folder for the page, the model and the runs")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run(arguments.out, quick=arguments.quick, seed=arguments.seed)


if __name__ == "__main__":
    main()
