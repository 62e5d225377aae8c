"""A short run of every recipe at debug size, each from the one before, and its losses as one figure.

    python docs/recipe_curves.py [FOLDER] [--share 1.0] [--figure docs/figures/recipe_curves.png]

FOLDER keeps the runs (default: runs/curves); a stage that is complete there is not run again. `--share 0.1` takes a
tenth of the steps. The whole takes about two minutes on one free core.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from emu2 import recipes
from emu2.recipes.start import quiet_libraries, train
from emu2.train.metrics import read_log

#: Stage -> steps, and the stage it starts from. Far fewer than the recipes' own: enough to see each loss fall.
STAGES = {
    "vision": (25, None),
    "language": (60, "vision"),
    "caption": (50, "language"),
    "unified": (40, "caption"),
    "autoencoder": (80, "unified"),
    "decoder": (40, "autoencoder"),
    "video_decoder": (16, "decoder"),
    "chat": (40, "video_decoder"),
    "gen": (40, "video_decoder"),
}
#: Steps that a smooth line is the mean of.
_WINDOW = 5


def run_all(folder: Path, share: float) -> dict[str, list[dict]]:
    """Stage -> its log."""
    logs = {}
    for name, (steps, start) in STAGES.items():
        config, steps = recipes.recipe(name), max(2, round(steps * share))
        # Frozen features of no more records than the short run reads.
        pool = config.data.pool and min(config.data.pool, steps * config.data.batch_size)
        config = replace(
            config,
            steps=steps,
            log_every=1,
            data=replace(config.data, pool=pool),
            optim=replace(config.optim, warmup_steps=min(config.optim.warmup_steps, steps // 5)),
        )
        out = folder / name
        if not (out / "model").is_dir():
            train(config, out, model=folder / start / "model" if start else None, quiet=True, tensorboard=False)
        logs[name] = read_log(out / "log.jsonl")
    return logs


def draw(logs: dict[str, list[dict]], file: Path) -> None:
    """One small plot a stage: every loss term, and its mean over five steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 3, figsize=(10.5, 7.5), layout="constrained")
    for axis, (name, log) in zip(axes.flat, logs.items(), strict=True):
        terms = [key for key in log[-1] if key.startswith("loss/") and key != "loss/kl"] or ["loss"]
        for number, term in enumerate(terms):
            points = [(row["step"], row[term]) for row in log if term in row]
            steps, values = zip(*points, strict=True)
            means = [sum(values[max(0, i - _WINDOW + 1) : i + 1]) / len(values[max(0, i - _WINDOW + 1) : i + 1])
                     for i in range(len(values))]  # fmt: skip
            axis.plot(steps, values, color=f"C{number}", alpha=0.25, linewidth=0.8)
            label = term.removeprefix("loss/")
            axis.plot(steps, means, color=f"C{number}", linewidth=1.6, label=label if len(terms) > 1 else None)
        axis.set_title(name, fontsize=11, fontweight="bold", loc="left")
        axis.set_yscale("log")
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3, which="both", linewidth=0.4)
        if len(terms) > 1:
            axis.legend(fontsize=8, frameon=False)
    for axis in axes[-1]:
        axis.set_xlabel("step", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/curves"))
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--figure", type=Path, default=Path(__file__).parent / "figures" / "recipe_curves.png")
    given = parser.parse_args()
    quiet_libraries()
    draw(run_all(given.folder, given.share), given.figure)


if __name__ == "__main__":
    main()
