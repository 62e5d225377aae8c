"""Readers: files that people have, as sources of records.

`open_source({"format": "webdataset", "path": "shards/{00000..00009}.tar"}, "pair")` opens one; `FORMATS` lists what is
read. docs/data.md has a working example of each format.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "FORMATS": "emu2.data.readers.opening",
    "Format": "emu2.data.readers.opening",
    "SourceConfig": "emu2.data.readers.config",
    "open_source": "emu2.data.readers.opening",
}

__all__ = ["FORMATS", "Format", "SourceConfig", "open_source"]

if TYPE_CHECKING:
    from emu2.data.readers.config import SourceConfig
    from emu2.data.readers.opening import FORMATS, Format, open_source


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'emu2.data.readers' has no attribute {name!r}; it offers {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
