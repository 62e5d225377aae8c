"""How fast records become batches, and how long the training waits for them.

    python benchmarks/loader.py                # both tables
    python benchmarks/loader.py --check        # exit code 1 where the debug recipe waits 5 % of its time or more
    python benchmarks/loader.py --workers 0    # the second table without workers

First table: pairs of a JPEG (512 x 512, of the emoji world) and a caption in tars, read, decoded, resized, tokenised
and batched on one core, for two sizes that the vision tower reads. Second table: the debug recipe `caption` on the
records it draws, with the share of each step's time that the loop spent waiting for the reader.
"""

import argparse
import io
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

#: The promise: the debug recipe waits for less than this share of its time.
WAIT = 0.05
SIZES = (224, 448)


def write_pairs(folder: Path, number: int) -> None:
    """Captioned pictures in one tar, as img2dataset writes them."""
    from emu2.world import World, WorldConfig

    world = World(WorldConfig(image_size=512, style="full"))
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for index in range(number):
            record = world["pair", index]
            text = next(segment for segment in record.segments if isinstance(segment, str))
            picture = io.BytesIO()
            next(segment for segment in record.segments if not isinstance(segment, str)).save(
                picture, "JPEG", quality=90
            )
            about = json.dumps({"caption": text, "key": f"{index:09d}"})
            for suffix, data in (("jpg", picture.getvalue()), ("txt", text.encode()), ("json", about.encode())):
                member = tarfile.TarInfo(f"{index:09d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def samples_per_second(folder: Path, size: int, number: int) -> float:
    """Of one core, without workers: processor time, which other programs on the machine do not change."""
    import torch

    from emu2 import recipes
    from emu2.data.feed import Feed
    from emu2.data.loader import Loader
    from emu2.data.mixture import Mixture
    from emu2.data.readers import open_source
    from emu2.recipes.start import start_whole
    from emu2.train.fitting import fit_whole
    from emu2.train.objectives import objective_class

    config = recipes.recipe("caption", "debug")
    whole = start_whole(config, None)
    # Only the side of the pictures matters here; the network never runs.
    config = replace(config, resolution=size // 8 * 8)
    fit_whole(whole, config)
    objective = objective_class("caption")(whole, config, torch.device("cpu"))
    source = open_source({"format": "webdataset", "path": str(folder / "*.tar")}, "pair")
    mixture = Mixture({"pair": source}, {"pair": 1.0})
    loader = Loader(mixture.sources, objective.sample)
    feed = Feed(mixture, loader, objective.batches, micro_batches=1, batch_size=16)
    steps = feed.steps(1 + number // 16)
    assert next(steps).bad.total() == 0
    start = time.process_time()
    read = sum(len(batch.keys) for data in steps for batch in data.batches)
    return read / (time.process_time() - start)


def waiting(workers: int, steps: int) -> tuple[float, float]:
    """Seconds of a step of the debug recipe, and the share of it spent waiting; means after the first quarter."""
    from emu2 import recipes
    from emu2.recipes.start import open_sources, quiet_libraries, start_whole
    from emu2.train.loop import Trainer
    from emu2.train.metrics import read_log

    quiet_libraries()
    config = recipes.recipe("caption", "debug")
    config = replace(config, optim=replace(config.optim, warmup_steps=0))
    config = replace(config, steps=steps, log_every=1, data=replace(config.data, workers=workers))
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(config, start_whole(config, None), open_sources(config.data), out, quiet=True)
        optimizer_step = trainer.optimizer.step
        trainer.optimizer.step = lambda *a, **k: (ends.append(time.perf_counter()), optimizer_step(*a, **k))[1]
        trainer.run()
        waits = [line["data/wait_seconds"] for line in read_log(Path(out) / "log.jsonl")]
    warm = steps // 4
    seconds = statistics.mean(b - a for a, b in zip(ends[warm:-1], ends[warm + 1 :], strict=True))
    return seconds, statistics.mean(waits[warm:]) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=320, help="pairs to read at each size")
    parser.add_argument("--steps", type=int, default=60, help="steps of the debug recipe")
    parser.add_argument("--workers", type=int, default=1, help="of the debug recipe")
    parser.add_argument("--check", action="store_true", help="fail where the debug recipe waits too long")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pairs(folder, arguments.pairs)
        print(f"{'pairs read at':<16} {'samples/s and core':>20}")
        for size in SIZES:
            print(f"{size:>4} pixels     {samples_per_second(folder, size, arguments.pairs):>20.0f}")
    seconds, share = waiting(arguments.workers, arguments.steps)
    print(f"debug recipe caption, {arguments.workers} worker(s): {1000 * seconds:.0f} ms a step, {share:.1%} waiting")
    if arguments.check and share >= WAIT:
        sys.exit(f"The training waits for data {share:.1%} of its time; the promise is less than {WAIT:.0%}.")


if __name__ == "__main__":
    main()
