"""Complete, named runs: a recipe is a Python function that returns one typed, checked `RunConfig`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu2.train.config import RunConfig

#: Sizes that have recipes.
SIZES = ("debug",)


def _recipes(size: str) -> dict[str, Callable[[], RunConfig]]:
    if size not in SIZES:
        raise ValueError(f"There are no recipes at the size {size!r}; sizes are {', '.join(SIZES)}.")
    from emu2.recipes import debug

    return debug.RECIPES


def names(size: str = "debug") -> tuple[str, ...]:
    """Recipes of a size, in the order a model from nothing goes through them."""
    return tuple(_recipes(size))


def recipe(name: str, size: str = "debug") -> RunConfig:
    """The configuration of a named run.

    Raises:
        ValueError: unknown name or size; the message lists those there are.
    """
    recipes = _recipes(size)
    if name not in recipes:
        raise ValueError(f"There is no recipe {name!r} at the size {size!r}; there are {', '.join(recipes)}.")
    return recipes[name]()
