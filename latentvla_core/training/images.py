"""Decoded pictures, each exactly once, in one array: scenes of a log overlap, their pictures are
the same files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from latentvla_core.data.cameras import load_image
from latentvla_core.errors import DataError
from latentvla_core.types import Array

MISSING = -1
Loader = Callable[[str, str, tuple[int, int]], Array]
"""(root, path, (width, height)) → (height, width, 3) uint8."""


class ImageCache:
    """Pictures of one size. `indices` decodes what is new (in threads) and gives row numbers of
    `images`.

    With `file`, rows live in that file and are mapped into memory: for sets larger than RAM. The
    file belongs to one cache at a time and is overwritten.
    """

    def __init__(
        self,
        size_wh: tuple[int, int],
        *,
        load: Loader | None = None,
        file: Path | str | None = None,
        threads: int = 0,
    ) -> None:
        self.size_wh = (int(size_wh[0]), int(size_wh[1]))
        self.load = load or load_image
        self.file = None if file is None else Path(file)
        self.threads = threads or min(8, os.cpu_count() or 1)
        self.images: Array = np.zeros((0, *self.shape), np.uint8)
        self.faults: dict[str, str] = {}
        self._rows: dict[tuple[str, str], int] = {}
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        self.forget()

    def forget(self) -> None:
        """Let go of what was decoded, before pictures that have nothing in common with those so
        far.
        """
        self.images = np.zeros((0, *self.shape), np.uint8)
        self._rows.clear()
        if self.file is not None:
            self.file.write_bytes(b"")

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.size_wh[1], self.size_wh[0], 3)

    def __len__(self) -> int:
        return len(self.images)

    def __bool__(self) -> bool:
        # an empty cache is a cache: `cache or ImageCache(...)` must not replace the one that was
        # given
        return True

    def indices(self, pictures: Sequence[tuple[str, str]]) -> Array:
        """(n,) int64 rows of (root, path) pairs; `MISSING` for an empty path or one that cannot be
        read.

        Why a picture cannot be read is in `faults`, by path.
        """
        new = [p for p in dict.fromkeys(pictures) if p[1] and p not in self._rows]
        if new:
            self._decode(new)
        return np.array(
            [self._rows.get(p, MISSING) if p[1] else MISSING for p in pictures], np.int64
        )

    def take(self, rows: Array, mirror: Array | None = None) -> Array:
        """(...,) rows → (..., H, W, 3) uint8 pictures; left and right exchanged where `mirror`
        (...,).
        """
        rows = self._checked(rows)
        pictures = self.images[rows]
        if mirror is None or not mirror.any():
            return pictures
        return np.where(mirror[..., None, None, None], pictures[..., ::-1, :], pictures)

    def _checked(self, rows: Array) -> Array:
        rows = np.asarray(rows)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(
                f"rows {rows.min()} … {rows.max()} of {len(self)} pictures; drop missing ones first"
            )
        return rows

    def _decode(self, new: Sequence[tuple[str, str]]) -> None:
        start, block = len(self.images), 4096  # bounds memory beside the file
        for first in range(0, len(new), block):
            part = new[first : first + block]
            with ThreadPoolExecutor(self.threads) as pool:
                decoded = list(pool.map(self._one, part))
            good = [
                (key, picture)
                for key, picture in zip(part, decoded, strict=True)
                if picture is not None
            ]
            self._rows.update(
                {
                    key: MISSING
                    for key, picture in zip(part, decoded, strict=True)
                    if picture is None
                }
            )
            self._rows.update({key: start + i for i, (key, _) in enumerate(good)})
            start += len(good)
            self._append([picture for _, picture in good])

    def _one(self, key: tuple[str, str]) -> Array | None:
        try:
            picture = self.load(*key, self.size_wh)
        except (DataError, OSError) as error:
            self.faults[key[1]] = str(error)
            return None
        if picture.shape != self.shape or picture.dtype != np.uint8:
            raise TypeError(
                f"{key[1]}: the loader gave {picture.dtype} {picture.shape}, expected uint8 {self.shape}"
            )
        return picture

    def _append(self, pictures: list[Array]) -> None:
        if not pictures:
            return
        block = np.stack(pictures)
        if self.file is None:
            self.images = np.concatenate([self.images, block])
            return
        with self.file.open("ab") as file:
            block.tofile(file)
        total = len(self.images) + len(block)
        self.images = np.memmap(self.file, np.uint8, "r", shape=(total, *self.shape))
