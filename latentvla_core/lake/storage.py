"""What the storage below the lake says when it fails, in words of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from latentvla_core.errors import SetupError

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
        raise SetupError(f"{uri}: {first_lines(error)}; {storage_remedy(uri)}") from error


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
