"""The emoji world: an endless, exactly known data set drawn from a real font.

`World(WorldConfig(...))` makes records; `Scene` is what a picture shows, as data; `default_atlas()` holds the drawings.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "Atlas": "emu2.world.atlas",
    "Background": "emu2.world.scene",
    "Emoji": "emu2.world.atlas",
    "KINDS": "emu2.world.world",
    "Scene": "emu2.world.scene",
    "SceneObject": "emu2.world.scene",
    "World": "emu2.world.world",
    "WorldConfig": "emu2.world.world",
    "default_atlas": "emu2.world.atlas",
}

__all__ = [
    "KINDS",
    "Atlas",
    "Background",
    "Emoji",
    "Scene",
    "SceneObject",
    "World",
    "WorldConfig",
    "default_atlas",
]

if TYPE_CHECKING:
    from emu2.world.atlas import Atlas, Emoji, default_atlas
    from emu2.world.scene import Background, Scene, SceneObject
    from emu2.world.world import KINDS, World, WorldConfig


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'emu2.world' has no attribute {name!r}; it offers {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
