"""Complete, named runs: a recipe is a Python function that returns one typed, checked `RunConfig`.

A recipe is a stage at a size. Sizes:

    debug   two CPU cores, minutes a stage, from nothing, on the emoji world
    nano    the smallest whole Emu2, from nothing, on the emoji world
    37b     the paper's own numbers, from public parts, on data of the user's
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu2.train.config import RunConfig

_MODULES = {"debug": "emu2.recipes.debug", "nano": "emu2.recipes.nano", "37b": "emu2.recipes.paper"}

#: Sizes that have recipes.
SIZES = tuple(_MODULES)


def _recipes(size: str) -> dict[str, Callable[[], RunConfig]]:
    if size not in SIZES:
        raise ValueError(f"There are no recipes at the size {size!r}; sizes are {', '.join(SIZES)}.")
    return import_module(_MODULES[size]).RECIPES


def names(size: str = "debug") -> tuple[str, ...]:
    """Recipes of a size, in the order a model from nothing (or from public parts) goes through them."""
    return tuple(_recipes(size))


def recipe(name: str, size: str = "debug") -> RunConfig:
    """The configuration of a named run.

    Raises:
        ValueError: unknown name or size; the message lists those there are.
    """
    recipes = _recipes(size)
    if name not in recipes:
        elsewhere = [other for other in SIZES if name in _recipes(other)]
        if name in ("debug", "nano"):  # sizes that start from nothing (`presets.FROM_NOTHING`)
            raise ValueError(f"{name!r} is a size, not a recipe: emu2 train {name} --all trains all of its stages.")
        raise ValueError(
            f"There is no recipe {name!r} at the size {size!r}; there are {', '.join(recipes)}."
            + (f" ({name!r} exists at {', '.join(elsewhere)}.)" if elsewhere else "")
        )
    return recipes[name]()


def accumulated(config: RunConfig, parts: int) -> RunConfig:
    """The same run with every batch cut into `parts` micro-batches: it learns the same in less memory.

    Raises:
        ValueError: a batch that `parts` does not divide.
    """
    if parts < 1:
        raise ValueError(f"A batch is cut into 1 or more micro-batches; got {parts}.")
    sizes = {"batch_size": config.data.batch_size, **config.data.batch_sizes}
    for name, size in sizes.items():
        if size % parts:
            raise ValueError(
                f"{parts} micro-batches do not divide the batch of {size} ({name}); take a number that divides "
                f"{', '.join(str(size) for size in dict.fromkeys(sizes.values()))}."
            )
    data = replace(
        config.data,
        batch_size=config.data.batch_size // parts,
        batch_sizes={kind: size // parts for kind, size in config.data.batch_sizes.items()},
    )
    return replace(config, data=data, accumulation=config.accumulation * parts)
