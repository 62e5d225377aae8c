"""How much of a batch is padding: rows as they come, sorted into buckets, and packed.

    python benchmarks/padding.py

Records of the emoji world, 256 a step in micro-batches of 32; nothing is trained.
"""

import torch

from emu2 import recipes
from emu2.data.loader import Loader
from emu2.data.mixture import Mixture
from emu2.recipes.fresh import fresh_whole
from emu2.recipes.start import world_sources, world_tokenizer
from emu2.train.config import with_overrides
from emu2.train.objectives import objective_class

KINDS = '{"pair": 0.3, "video_pair": 0.2, "document": 0.2, "text": 0.2}'
MICRO_BATCHES, BATCH_SIZE = 8, 32


def main() -> None:
    config = with_overrides(recipes.recipe("unified"), [f"data.kinds={KINDS}", "data.mode=mixed"])
    whole = fresh_whole("debug", world_tokenizer(config.data))
    sources = world_sources(config.data)
    for name, settings in (("as they come", []), ("buckets", ["data.bucket=true"]), ("packed", ["data.pack=true"])):
        run = with_overrides(config, settings)
        objective = objective_class("unified")(whole, run, torch.device("cpu"))
        mixture = Mixture(sources, run.data.kinds, mode="mixed", seed=0)
        loader = Loader(mixture.sources, objective.sample, seed=0)
        step = enumerate(mixture.next_step(MICRO_BATCHES, BATCH_SIZE))
        batches = objective.batches([loader.read(addresses, (0, number)) for number, addresses in step])
        real = sum(batch.amounts["tokens"] for batch in batches if batch is not None)
        places = sum(batch.tensors["input_ids"].numel() for batch in batches if batch is not None)
        print(f"{name:13} {real} tokens in {places} places: {1 - real / places:.0%} padding")


if __name__ == "__main__":
    main()
