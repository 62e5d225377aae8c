"""Indices of large files, kept on disk: integer arrays that are computed once per version of a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from emu2.data.readers.files import cache_folder, is_url, local, stamp

#: Raised whenever an index means something else than before.
_VERSION = 1


def cached_index(path: str, label: str, build: Callable[[str], np.ndarray], cache: str | None) -> np.ndarray:
    """`build(path)`, an int64 array, or what it gave before for this version of the file.

    A cache folder that cannot be written to only means that the index is built again next time.
    """
    where = path if is_url(path) else os.path.abspath(local(path))
    name = hashlib.sha256("\n".join((str(_VERSION), label, where, stamp(path))).encode()).hexdigest()[:40]
    file = cache_folder(cache) / f"{name}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        return np.load(file, allow_pickle=False)
    index = build(path)
    with contextlib.suppress(OSError):
        _write(file, index)
    return index


def _write(file: Path, index: np.ndarray) -> None:
    """Aside, then renamed, so that nobody reads half an index."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=file.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as opened:
            np.save(opened, index, allow_pickle=False)
        os.replace(aside, file)
    except OSError:
        os.unlink(aside)
        raise
