"""Bytes from a folder or from an object store (`s3://…`), with errors that name file and remedy."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from latentvla_core.errors import DataError, SetupError

T = TypeVar("T")


def is_remote(path: str | Path) -> bool:
    return "://" in str(path)


def join(root: str | Path, relative: str) -> str:
    """`relative` below `root`; an absolute or remote path stays as it is."""
    if not str(root) or is_remote(relative) or relative.startswith("/"):
        return relative
    return f"{str(root).rstrip('/')}/{relative}"


@lru_cache(maxsize=8)
def _filesystem(scheme: str, _settings: tuple[str, ...]) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise SetupError(
            f"{scheme}:// needs s3fs, which is not installed; run `pip install 'latentvla[data]'`"
        ) from error
    return fsspec.filesystem(scheme, skip_instance_cache=True)


def filesystem(path: str) -> Any:
    """The fsspec file system of a remote path; one per endpoint and key, as the environment gives
    them.
    """
    settings = tuple(
        os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_REGION")
    )
    return _filesystem(path.split("://", 1)[0], settings)


def read_bytes(path: str | Path, *, remedy: str) -> bytes:
    """The whole file. Raises DataError naming it, with `remedy`, when it cannot be read."""
    name = str(path)
    return _attempt(
        lambda: filesystem(name).cat_file(name) if is_remote(name) else Path(name).read_bytes(),
        name,
        remedy,
    )


def _remote(call: Callable[[], T], name: str) -> T:
    """A call to an object store; no credentials and no connection are set-up errors."""
    try:
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return call()
    try:
        return call()
    except BotoCoreError as error:
        raise SetupError(
            f"{name}: the object store cannot be reached ({error}); set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and AWS_REGION"
        ) from error


def _attempt(read: Callable[[], bytes], name: str, remedy: str) -> bytes:
    try:
        return _remote(read, name) if is_remote(name) else read()
    except FileNotFoundError as error:
        raise DataError(f"the file does not exist; {remedy}", file=name) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error}); {remedy}", file=name) from error


def local_file(path: str | Path, *, remedy: str) -> Path:
    """The path itself, or a copy of a remote file for readers that need a real one (SQLite); copied
    once per version.

    Copies lie in the temporary folder of the machine, named by address and content, so that
    processes can share them.
    """
    if not is_remote(path):
        return Path(path)
    data = read_bytes(path, remedy=remedy)
    name = hashlib.sha256(str(path).encode() + hashlib.sha256(data).digest()).hexdigest()[:24]
    copy = Path(tempfile.gettempdir()) / f"latentvla-{name}-{str(path).rsplit('/', 1)[-1]}"
    if not (copy.exists() and copy.stat().st_size == len(data)):
        part = copy.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(data)
        part.replace(copy)  # atomic: another process sees the whole file or none
    return copy


def exists(path: str | Path) -> bool:
    name = str(path)
    return (
        bool(_remote(lambda: filesystem(name).exists(name), name))
        if is_remote(name)
        else Path(name).exists()
    )


def list_dir(path: str | Path) -> list[str]:
    """Sorted full paths of what a folder holds; empty when there is no such folder."""
    name = str(path)
    if is_remote(name):
        return _remote(lambda: _list_remote(name.rstrip("/")), name)
    return sorted(str(entry) for entry in Path(name).iterdir()) if Path(name).is_dir() else []


def _list_remote(name: str) -> list[str]:
    scheme, inside = name.split("://", 1)
    store = filesystem(name)
    store.invalidate_cache()
    found = store.ls(name, detail=False) if store.isdir(name) else []
    return sorted(f"{scheme}://{entry}" for entry in found if entry.rstrip("/") != inside)


def remote_keys(path: str) -> dict[str, str]:
    """Relative name → key of every object below a prefix: its size and the store's own tag of its
    content. One listing, a call per thousand objects; nothing is read.
    """
    return _remote(lambda: _keys_below(path.rstrip("/")), path)


def _keys_below(name: str) -> dict[str, str]:
    inside, store = name.split("://", 1)[1], filesystem(name)
    store.invalidate_cache()
    found = store.find(name, detail=True)
    return {
        key[len(inside) + 1 :]: f"{entry['size']}-{_tag_of(entry)}" for key, entry in found.items()
    }


def _tag_of(entry: dict[str, Any]) -> str:
    """What a store says of an object's content: S3's ETag, or else when it was written."""
    tag = entry.get("ETag") or entry.get("etag") or entry.get("LastModified") or ""
    return str(tag).strip('"')
