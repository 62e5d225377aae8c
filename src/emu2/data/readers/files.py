"""Files by local path or URL: finding them, their stamps, and reading parts of them.

URLs go through fsspec, whose file systems are asked for anew each time: it keeps them itself, one per process.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

#: In URLs a question mark is no wildcard.
_MAGIC = re.compile(r"[*\[]")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


def is_url(path: str) -> bool:
    """Whether a path is opened through fsspec: `memory://`, `s3://`, `https://`, ...; `file://` counts as local."""
    return "://" in path and not path.startswith("file://")


def local(path: str) -> str:
    return os.path.expanduser(path.removeprefix("file://"))


def file_system(path: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it.

    Raises:
        ValueError: an unknown protocol, or its library is not installed.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{path} cannot be opened: {error}") from error


def expand_braces(path: str) -> list[str]:
    """`a{00..02}{b,c}` as every path it stands for, in order; ranges keep their leading zeros."""
    match = _RANGE.search(path)
    if match:
        first, last = match.groups()
        if int(first) > int(last):
            raise ValueError(f"The range {match.group()} in {path} runs backwards.")
        width = len(first) if first.startswith("0") else 0
        options: Iterable[str] = (str(number).zfill(width) for number in range(int(first), int(last) + 1))
    else:
        match = _CHOICE.search(path)
        if not match:
            return [path]
        options = match.group(1).split(",")
    head, tail = path[: match.start()], path[match.end() :]
    return [found for option in options for found in expand_braces(head + option + tail)]


def find(paths: Sequence[str], suffixes: Sequence[str], what: str) -> list[str]:
    """The files that paths, folders (searched to any depth), globs and brace ranges stand for.

    Files named one by one are taken whatever they are called; of folders and globs, those ending in `suffixes`. The
    order is that of `paths`, and by name within each.

    Raises:
        ValueError: nothing is found there (says where), or a named file is missing.
    """
    found: list[str] = []
    for path in (one for given in paths for one in expand_braces(given)):
        if is_url(path):
            found += _find_remote(path, suffixes)
        else:
            found += _find_local(local(path), suffixes)
    if not found:
        raise ValueError(f"No data found: {', '.join(paths)} holds no {what} ({', '.join(suffixes)}).")
    return found


def _ends(name: str, suffixes: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(suffixes)) and not name.startswith(".")


def _find_local(path: str, suffixes: Sequence[str]) -> list[str]:
    if os.path.isdir(path):
        return sorted(_walk(path, suffixes))
    if os.path.isfile(path):
        return [path]
    if glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True))
        return [name for name in matches if os.path.isfile(name) and _ends(os.path.basename(name), suffixes)]
    raise ValueError(f"No data found: there is no file or folder {path}.")


def _walk(path: str, suffixes: Sequence[str]) -> Iterator[str]:
    """Files below a folder, through links, but neither twice nor in hidden folders."""
    seen = {os.path.realpath(path)}
    for folder, folders, names in os.walk(path, followlinks=True):
        entered = {name: os.path.realpath(os.path.join(folder, name)) for name in sorted(folders) if name[0] != "."}
        folders[:] = [name for name, real in entered.items() if real not in seen]
        seen.update(entered.values())
        yield from (os.path.join(folder, name) for name in names if _ends(name, suffixes))


def _find_remote(path: str, suffixes: Sequence[str]) -> list[str]:
    if _ends(path.rsplit("/", 1)[-1], suffixes) and not _MAGIC.search(path):
        return [path]  # one file: whether it is there shows when it is read, without a question for each of thousands
    with _remote(path) as (fs, inner):
        if _MAGIC.search(path):
            names = [name for name in fs.glob(inner) if _ends(name.rsplit("/", 1)[-1], suffixes)]
        elif fs.isdir(inner):
            names = [name for name in fs.find(inner) if _ends(name.rsplit("/", 1)[-1], suffixes)]
            # Below the folder as it was named: file systems may write a path in another way.
            below = len(inner.rstrip("/"))
            return [path.rstrip("/") + name[below:] for name in sorted(names)]
        elif fs.exists(inner):
            return [path]
        else:
            raise ValueError(f"No data found: there is no file or folder {path}.")
        return [fs.unstrip_protocol(name) for name in sorted(names)]


@contextlib.contextmanager
def _remote(path: str) -> Iterator[tuple[Any, str]]:
    """A URL's file system and the path in it; whatever its library raises inside is an OSError."""
    fs, inner = file_system(path)
    try:
        yield fs, inner
    except (OSError, ValueError):
        raise
    except Exception as error:  # libraries of clouds and the web have exceptions of their own
        raise OSError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def is_file(path: str) -> bool:
    if is_url(path):
        with _remote(path) as (fs, inner):
            return bool(fs.isfile(inner))
    return os.path.isfile(local(path))


def top_names(path: str) -> list[str]:
    """What stands at the top of a folder."""
    if is_url(path):
        with _remote(path) as (fs, inner):
            return [str(name) for name in fs.ls(inner, detail=False)]
    return os.listdir(local(path))


def subfolders(path: str) -> list[str]:
    """The folders in a folder, by name."""
    if is_url(path):
        with _remote(path) as (fs, inner):
            entries = [entry["name"] for entry in fs.ls(inner, detail=True) if entry["type"] == "directory"]
        return [f"{path.rstrip('/')}/{base_name(name)}" for name in sorted(entries)]
    with os.scandir(local(path)) as found:
        return sorted(entry.path for entry in found if entry.is_dir())


def is_folder(path: str) -> bool:
    if is_url(path):
        with _remote(path) as (fs, inner):
            return bool(fs.isdir(inner))
    return os.path.isdir(local(path))


def size_of(path: str) -> int:
    if is_url(path):
        with _remote(path) as (fs, inner):
            return int(fs.size(inner) or 0)
    return os.path.getsize(local(path))


def stamp(path: str) -> str:
    """Changes when the file does: its size and time of change, or what the remote store calls its version."""
    if is_url(path):
        with _remote(path) as (fs, inner):
            return str(fs.checksum(inner))
    status = os.stat(local(path))
    return f"{status.st_size}-{status.st_mtime_ns}"


def open_file(path: str) -> Any:
    """The file, opened for reading bytes; seekable."""
    if is_url(path):
        with _remote(path) as (fs, inner):
            return fs.open(inner, "rb")
    return open(local(path), "rb")


def read_bytes(path: str) -> bytes:
    if is_url(path):
        with _remote(path) as (fs, inner):
            return fs.cat_file(inner)
    with open(local(path), "rb") as file:
        return file.read()


def read_range(path: str, start: int, size: int) -> bytes:
    """`size` bytes from `start` on, or fewer where the file ends before."""
    if is_url(path):
        with _remote(path) as (fs, inner):
            return fs.cat_file(inner, start=start, end=start + size)
    with open(local(path), "rb", buffering=0) as file:
        file.seek(start)
        parts, left = [], size
        while left > 0 and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


def base_name(path: str) -> str:
    return path.rstrip("/").replace(os.sep, "/").rsplit("/", 1)[-1]


def short_names(paths: Sequence[str]) -> list[str]:
    """Paths below the folder that they share: different wherever the files are."""
    folders = [path.split("/")[:-1] for path in paths]
    differing = (depth for depth, names in enumerate(zip(*folders, strict=False)) if len(set(names)) > 1)
    shared = next(differing, min(map(len, folders)))
    return ["/".join(path.split("/")[shared:]) for path in paths]


def fingerprint(label: str, paths: Sequence[str], counts: Sequence[int] = ()) -> str:
    """Of a list of files: their names below their common folder, sizes, and numbers of records; not where they lie or
    when they were written, so a copy of the data has the same."""
    digest = hashlib.sha256(label.encode())
    for index, (path, name) in enumerate(zip(paths, short_names(paths), strict=True)):
        count = counts[index] if index < len(counts) else ""
        digest.update(f"\n{name}\t{size_of(path)}\t{count}".encode())
    return digest.hexdigest()[:32]


def cache_folder(given: str | None) -> Path:
    """Where indices are kept: `given`, or emu2's folder in the user's cache."""
    if given is not None:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emu2" / "index"
