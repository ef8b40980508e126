"""Files that a log names: below the log's own root, regular, and no larger than such a file is.

A log is a stranger's text. What it calls a picture may be `/etc/passwd`, `s3://other/bucket`, a
device, or a link out of its folder. Data that lies elsewhere on purpose (pictures on another disk
behind a link) is named by the user: LATENTVLA_DATA_ROOTS, folders joined by the system's separator.
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path

from latentvla_core.data.files import filesystem, is_remote, join, read_bytes
from latentvla_core.errors import DataError

ROOTS_VARIABLE = "LATENTVLA_DATA_ROOTS"
LARGEST_B = 256_000_000
_NAMED_BY_USER = f"put it below the root, or name its folder in {ROOTS_VARIABLE}"


def place_below(root: str, relative: str) -> str:
    """The full path of what a log calls `relative`. Raises DataError when it is not below `root`,
    nor below a folder of LATENTVLA_DATA_ROOTS.
    """
    if not root:
        rule = "no folder is known that it lies in; name it (`sensors:` of the source)"
        raise DataError(f"{relative[:200]!r}: {rule}", file=relative[:200])
    parts = relative.split("/")
    if relative.startswith(("/", "~")) or is_remote(relative) or "\0" in relative:
        fault = "is no path below a root; logs name files relative to their sensor folder"
        raise DataError(f"{relative[:200]!r} {fault}; {_NAMED_BY_USER}", file=root)
    if ".." in parts:
        raise DataError(f"{relative[:200]!r} leaves the root; {_NAMED_BY_USER}", file=root)
    path = join(root, relative)
    if is_remote(root):
        return path
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError) as error:
        raise DataError(f"no usable path ({error})", file=path[:300]) from error
    if not any(_is_below(real, top) for top in (_real(root), *_more_roots())):
        raise DataError(f"a link that leaves {root}, to {real}; {_NAMED_BY_USER}", file=path)
    return path


def read_below(root: str, relative: str, *, remedy: str, largest_b: int = LARGEST_B) -> bytes:
    """The bytes of a file that a log names. Raises DataError naming it when it is not below the
    root, no regular file, too large, or cannot be read.
    """
    path = place_below(root, relative)
    size = _size(path)
    if size > largest_b:
        rule = f"{size:,} bytes; at most {largest_b:,} are read"
        raise DataError(f"{rule}; {remedy}", file=path)
    return read_bytes(path, remedy=remedy)


def check_file(path: str | Path, *, largest_b: int) -> None:
    """Raises DataError when a local file is there and is no regular file, or too large."""
    if (size := _size(str(path))) > largest_b:
        raise DataError(f"{size:,} bytes; at most {largest_b:,} are read", file=str(path))


def _size(path: str) -> int:
    """Bytes; 0 when there is no such file, which reading it will say."""
    if is_remote(path):
        try:
            return int(filesystem(path).size(path) or 0)
        except Exception:  # whatever the store's client raises, reading raises and names it again
            return 0
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return 0
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise DataError("no regular file (a device, a pipe or a socket)", file=path)
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


@lru_cache(maxsize=64)
def _real(root: str) -> str:
    return os.path.realpath(root)


def _more_roots() -> tuple[str, ...]:
    named = os.environ.get(ROOTS_VARIABLE, "")
    return tuple(_real(os.path.expanduser(top)) for top in named.split(os.pathsep) if top)
