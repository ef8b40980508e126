"""Items of a training in a file instead of a list: written once as a stream, read one at a time.

A list of 93 000 scenes with their worlds is 30 GB. A spool is a sequence like it that holds 8 bytes
an item in memory; the system's page cache keeps what is read often and gives it back when memory is
short. Any item can be read at any time, so the order of samples stays the loop's own
(`SampleOrder`: a whole shuffle per pass, exact resume, the same for any number of readers) where a
shuffle buffer would only mix neighbours.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar, cast, overload

import numpy as np

from latentvla_core.errors import DataError
from latentvla_core.types import Array

Item = TypeVar("Item")


class Spool(Sequence[Item], Generic[Item]):
    """Items in a nameless file of `folder`, gone with this object even if the process is killed."""

    def __init__(self, items: Iterable[Item], folder: Path | str | None = None) -> None:
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, open as long as this object
        ends = [0]
        for item in items:
            ends.append(ends[-1] + self._file.write(pickle.dumps(item, protocol=5)))
        self._file.flush()
        self._ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # negative numbers, and IndexError
        first, end = int(self._ends[number]), int(self._ends[number + 1])
        return pickle.loads(self._read(first, end - first))

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return int(self._ends[-1])

    def __getstate__(self) -> tuple[str, Array]:
        """For another process of this machine: it opens the same file, no item is copied."""
        return f"/proc/{os.getpid()}/fd/{self._file.fileno()}", self._ends

    def __setstate__(self, state: tuple[str, Array]) -> None:
        self._file = open(state[0], "rb")  # noqa: SIM115
        self._ends = state[1]

    def reordered(self, order: Sequence[int] | Array) -> Sequence[Item]:
        """The same items in another order, in the same file."""
        return cast("Sequence[Item]", Picked(self, order))

    def close(self) -> None:
        """Give the file back now."""
        self._file.close()

    def _read(self, first: int, count: int) -> bytes:
        data = os.pread(self._file.fileno(), count, first)
        if len(data) != count:  # another program cut the file, or the disk failed
            raise DataError(
                f"a spool gave {len(data)} of {count} bytes at {first}; its disk is damaged: start"
                " the training again with LATENTVLA_HOME on another disk"
            )
        return data


class Picked(Sequence[Item | None], Generic[Item]):
    """Items of a spool in another order: one per number, None for -1."""

    def __init__(self, spool: Spool[Item], numbers: Sequence[int] | Array) -> None:
        self.spool, self.numbers = spool, np.array(numbers, np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Item | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item | None]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item | None] | None:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = int(self.numbers[index])
        return None if number < 0 else self.spool[number]
