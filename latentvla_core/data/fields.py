"""Reads typed values out of a stranger's dict, and writes down every fault instead of stopping at
the first.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from latentvla_core.errors import DataError
from latentvla_core.types import Array

_MISSING = object()


def near_miss(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or "" when nothing is close."""
    close = difflib.get_close_matches(name[:80], list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def sound(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether a value is float64 of the given shape and finite; says no to some that are (sums that
    overflow).

    The quick way through for nearly every array of nearly every file: one sum instead of a test and
    a reduction.
    """
    return (
        isinstance(value, np.ndarray)
        and value.dtype == np.float64
        and value.ndim == len(shape)
        and (
            value.shape == shape
            or (shape[0] == -1 and len(value) > 0 and value.shape[1:] == shape[1:])
        )
        and math.isfinite(np.add.reduce(value, axis=None))
    )


class Fields:
    """One dict of one frame. Each getter returns a usable value and notes a fault when the file's
    value is not.
    """

    __slots__ = ("_prefix", "faults", "file", "frame", "raw")

    def __init__(
        self,
        raw: Mapping[str, Any],
        *,
        file: str,
        frame: str,
        prefix: str = "",
        faults: list[DataError] | None = None,
    ) -> None:
        self.raw, self.file, self.frame, self._prefix = raw, file, frame, prefix
        self.faults: list[DataError] = [] if faults is None else faults

    def fault(self, name: str, message: str) -> None:
        self.faults.append(
            DataError(message, file=self.file, frame=self.frame, field=self._prefix + name)
        )

    def inner(self, raw: Mapping[str, Any], name: str) -> Fields:
        """A dict inside this one; faults land in the same list."""
        return Fields(
            raw,
            file=self.file,
            frame=self.frame,
            prefix=f"{self._prefix}{name}.",
            faults=self.faults,
        )

    def _get(self, name: str) -> Any:
        value = self.raw.get(name, _MISSING)
        if value is _MISSING:
            self.fault(
                name,
                f"the key is missing{near_miss(name, (k for k in self.raw if isinstance(k, str)))}",
            )
        return value

    def text(self, name: str, *, empty: bool = False) -> str:
        """A str; None counts as "" where `empty` is allowed."""
        value = self._get(name)
        if value is _MISSING or (empty and value is None):
            return ""
        if not isinstance(value, str) or not (value or empty):
            self.fault(name, f"{value!r:.60} is not a {'' if empty else 'non-empty '}text")
            return ""
        return str(value)

    def integer(self, name: str) -> int:
        value = self._get(name)
        if value is _MISSING:
            return 0
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            self.fault(name, f"{value!r:.60} is a {type(value).__name__}; an integer is expected")
            return 0
        return int(value)

    def array(self, name: str, shape: tuple[int, ...]) -> Array:
        """float64 of the given shape (-1: any length); zeros after a fault. NaN and infinity are
        faults.
        """
        value = self._get(name)
        if sound(value, shape):
            return value.view(np.ndarray)
        blank = np.zeros(tuple(max(n, 0) for n in shape))
        if value is _MISSING:
            return blank
        try:
            array = np.asarray(value, np.float64).view(np.ndarray)
        except (TypeError, ValueError):
            self.fault(name, f"{value!r:.60} is not numeric; numbers of shape {shape} are expected")
            return blank
        if (
            array.size == 0 and shape[0] == -1
        ):  # the generator's empty arrays have any shape (navsim_format.md §4.2)
            return blank
        if array.ndim != len(shape) or any(
            want not in (-1, have) for want, have in zip(shape, array.shape, strict=True)
        ):
            self.fault(name, f"shape {array.shape}; {shape} is expected")
            return blank
        if not np.isfinite(array).all():
            self.fault(name, f"{int((~np.isfinite(array)).sum())} value(s) are NaN or infinite")
            return blank
        return array

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of ids; numbers are written out, as the map's ids are."""
        value = self._get(name)
        if value is _MISSING:
            return ()
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, (list, tuple)):
            self.fault(
                name, f"{value!r:.60} is a {type(value).__name__}; a list of ids is expected"
            )
            return ()
        if set(map(type, value)) <= {str}:
            return tuple(value)
        if bad := [
            v for v in value if isinstance(v, bool) or not isinstance(v, (str, int, np.integer))
        ]:
            self.fault(name, f"{bad[0]!r:.60} is not an id (text or integer)")
            return ()
        return tuple(str(v) for v in value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self._get(name)
        if value is _MISSING:
            return {}
        if not isinstance(value, Mapping):
            self.fault(name, f"{value!r:.60} is a {type(value).__name__}; a dict is expected")
            return {}
        return value

    def items(self, name: str) -> list[Any]:
        value = self._get(name)
        if value is _MISSING:
            return []
        if not isinstance(value, (list, tuple)):
            self.fault(name, f"{value!r:.60} is a {type(value).__name__}; a list is expected")
            return []
        return list(value)
