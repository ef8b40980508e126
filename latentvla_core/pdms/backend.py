"""Which of the two twins of every kernel runs: numba where it is installed, NumPy otherwise (or
when asked).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

try:
    import numba
except ImportError:  # the scorer's minimal install
    numba = None

Backend = Literal["numba", "numpy"]
F = TypeVar("F", bound=Callable[..., Any])
_chosen: list[Backend] = []


def active() -> Backend:
    """The twin in use: the innermost `using`, else LATENTVLA_SCORER ("numba" or "numpy"), else
    numba if installed.
    """
    wanted = _chosen[-1] if _chosen else os.environ.get("LATENTVLA_SCORER", "numba")
    return "numba" if wanted == "numba" and numba is not None else "numpy"


@contextmanager
def using(backend: Backend) -> Iterator[None]:
    """Run the block with one twin; "numba" falls back to NumPy where numba is missing."""
    _chosen.append(backend)
    try:
        yield
    finally:
        _chosen.pop()


def kernel(function: F) -> F:
    """Compile with numba, cached on disk and without the GIL; left as it is (and never called)
    without numba.
    """
    if numba is None:
        return function
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)  # type: ignore[return-value]
