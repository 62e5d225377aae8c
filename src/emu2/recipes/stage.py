"""One stage of a pipeline, in a process of its own: from model folders to a model folder."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel  # noqa: F401

from emu2.decoder.image_pipeline import Emu2ImagePipeline  # noqa: F401  (imported ahead, once for all stages)
from emu2.decoder.video_unet import FilmUNet  # noqa: F401
from emu2.recipes.checks import check_start
from emu2.recipes.start import completed, quiet_libraries, start_whole, train
from emu2.train.config import RunConfig
from emu2.train.whole import Whole

with contextlib.suppress(ImportError):  # it takes a second, once for all stages
    import torch.utils.tensorboard


def enter(task: str, config: RunConfig, run: Path, starts: dict[str, str], threads: int) -> None:
    """Carry out `make_start` or `run_stage`; the process's exit code is 1 where it fails, with one line on why."""
    torch.set_num_threads(threads)
    quiet_libraries()
    _end_with_parent()
    try:
        with _alone(run):
            {"make_start": make_start, "run_stage": run_stage}[task](config, run, starts)
    except (ValueError, RuntimeError, OSError) as error:
        import traceback

        traceback.print_exc()
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(1)


def make_start(config: RunConfig, run: Path, starts: Mapping[str, str]) -> None:
    """The fresh model and its tokeniser, written aside and renamed."""
    whole = start_whole(config, None)
    aside = run / "model.writing"
    whole.save(aside)
    (run / "start.json").write_text(json.dumps({"size": config.size, "seed": config.seed, "made": time.time()}))
    aside.rename(run / "model")


def run_stage(config: RunConfig, run: Path, starts: Mapping[str, str]) -> None:
    """Train one stage to its end, or to where it is asked to stop; goes on from its newest checkpoint."""
    from emu2.train.trainable import trained_parameters

    whole = started(config, starts)
    moving = sum(parameter.numel() for _, _, parameter in trained_parameters(whole, config.parts))
    (run / "trained.json").write_text(json.dumps({"parameters": moving, "of": whole.count_parameters()}))
    train(config, run, whole=whole, resume=True, quiet=True)


def started(config: RunConfig, starts: Mapping[str, str]) -> Whole:
    """The model a stage starts from, without decoders it does not need: a stage's folder holds what it learned with.

    Args:
        starts: what -> folder: "whole", the model itself (without its decoders); then "language", the language model;
            "vision", the vision tower; "image_decoder", the picture decoder's parts; "vae", the VAE alone.

    Raises:
        ValueError: a folder that holds no model, or one of another kind than the stage starts from.
    """
    whole = Whole.load(starts["whole"])
    check_start(config, whole, starts["whole"])
    whole.vae = whole.unet = whole.scheduler = whole.video_unet = whole.video_scheduler = whole.video_vae = None
    for part, folder in starts.items():
        if part == "whole":
            continue
        other = Whole.load(folder)
        if part == "language":
            whole.model.model.language_model.load_state_dict(other.model.model.language_model.state_dict())
            whole.model.lm_head.load_state_dict(other.model.lm_head.state_dict())
        elif part == "vision":
            whole.model.model.visual.load_state_dict(other.model.model.visual.state_dict())
        else:
            whole.vae = other.vae
        if part == "image_decoder":
            whole.unet, whole.scheduler = other.unet, other.scheduler
    return completed(config, whole)


@contextlib.contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Wait until no other process works on this run: one whose parent was killed may still write its checkpoint."""
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    with (run / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _end_with_parent() -> None:
    """Stop in order when the process that began this one is gone."""
    parent: Any = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
