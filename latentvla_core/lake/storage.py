"""What the storage below the lake says when it fails, in words of ours."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from latentvla_core.errors import SetupError

if TYPE_CHECKING:
    import pyarrow.dataset as ds
    from deltalake import DeltaTable
    from pyarrow.fs import FileSystem

WRITE_ATTEMPTS = 20


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Failures of the storage below as one SetupError that names the table and the remedy."""
    import pyarrow as pa
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        yield
    except CommitFailedError as error:
        text = f"{WRITE_ATTEMPTS} commits failed against other writers ({first_lines(error)})"
        raise SetupError(
            f"{uri}: {text}; nothing was written, run again when the others are done"
        ) from error
    except (DeltaError, OSError, pa.ArrowException) as error:
        remedy = cut_commit(uri) or storage_remedy(uri)
        raise SetupError(f"{uri}: {first_lines(error)}; {remedy}") from error


def cut_commit(uri: str) -> str:
    """What is wrong with the last commit of a table, and what to do; "" where it is whole.

    A machine that loses power may leave a commit without its end. Nothing that came before is hurt.
    """
    from pyarrow import ArrowException
    from pyarrow.fs import FileSelector

    files = native_files(uri)
    if files is None:
        return ""
    try:
        log = files.get_file_info(FileSelector("_delta_log"))
        commits = sorted(info.path for info in log if info.path.endswith(".json"))
        text = files.open_input_file(commits[-1]).read().decode() if commits else ""
        for line in text.splitlines():
            json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError):
        return (
            f"its last commit {commits[-1]} was cut off, as by a machine that lost power: delete"
            " that file and run again, which makes its rows anew (decisions of `releases` in it are"
            " lost)"
        )
    except (OSError, ArrowException):
        return ""
    return (
        ""
        if text or not commits
        else f"its last commit {commits[-1]} is empty: delete that file and run again"
    )


def storage_remedy(uri: str) -> str:
    """What to look at when a store fails."""
    if "://" in uri:
        return (
            "check LATENTVLA_LAKE and that the bucket exists, and set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,"
            " AWS_SECRET_ACCESS_KEY and AWS_REGION"
        )
    return (
        "LATENTVLA_LAKE must name a folder that can be written, with space left; if the table is damaged, move its"
        " folder away and run again, which makes its rows anew"
    )


def first_lines(error: Exception) -> str:
    """What a storage error says, without colours and stack frames of the native library, on one
    line.
    """
    lines = re.sub(r"\x1b\[\d+m|↳", "", str(error)).splitlines()
    said = [line.strip() for line in lines if not re.match(r"\s*(\d+: |at )", line)]
    return ": ".join(dict.fromkeys(filter(None, said)))[:400]


def dataset_of(table: DeltaTable, files: str | None = None) -> ds.FileSystemDataset:
    """The Arrow data set of a table, of the files that `files` (SQL over partition columns) leaves.

    Read by Arrow's own file systems. Through the one that deltalake hands over, which is Python,
    Arrow's threads still ask for the interpreter when reading has ended, and a process that ends
    just then is aborted ("terminate called without an active exception").
    """
    return table.to_pyarrow_dataset(
        file_pruning_predicate=files, filesystem=native_files(table.table_uri)
    )


def native_files(uri: str) -> FileSystem | None:
    """Arrow's file system rooted at a table; None for stores that it does not know."""
    from pyarrow import fs

    kind, _, place = uri.rstrip("/").partition("://")
    if not place:
        return fs.SubTreeFileSystem(uri, fs.LocalFileSystem())
    if kind == "file":
        return fs.SubTreeFileSystem("/" + place.lstrip("/"), fs.LocalFileSystem())
    return fs.SubTreeFileSystem(place, _object_store()) if kind in ("s3", "s3a") else None


def _object_store() -> FileSystem:
    """As deltalake finds it: endpoint and region by the AWS_* variables, keys as every client does."""
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    scheme, _, host = endpoint.rpartition("://")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fs.S3FileSystem(
        endpoint_override=host.rstrip("/") or None, scheme=scheme or "https", region=region
    )
