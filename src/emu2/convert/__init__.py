"""Published checkpoints and public parts <-> our folders. Everything is imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "load_native": "emu2.convert.native",
    "save_native": "emu2.convert.native",
    "load_published": "emu2.convert.published",
    "save_published": "emu2.convert.published",
    "to_ours": "emu2.convert.ours",
    "names": "emu2.convert.listing",
    "LAYOUTS": "emu2.convert.listing",
    "inspect": "emu2.convert.folder_info",
    "FolderInfo": "emu2.convert.folder_info",
    "from_parts": "emu2.convert.parts",
}

__all__ = sorted(_EXPORTS)

if TYPE_CHECKING:
    from emu2.convert.folder_info import FolderInfo as FolderInfo
    from emu2.convert.folder_info import inspect as inspect
    from emu2.convert.listing import LAYOUTS as LAYOUTS
    from emu2.convert.listing import names as names
    from emu2.convert.native import load_native as load_native
    from emu2.convert.native import save_native as save_native
    from emu2.convert.ours import to_ours as to_ours
    from emu2.convert.parts import from_parts as from_parts
    from emu2.convert.published import load_published as load_published
    from emu2.convert.published import save_published as save_published


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(import_module(_EXPORTS[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'emu2.convert' has no attribute {name!r}; it offers {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
