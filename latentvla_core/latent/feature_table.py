"""Patch tokens of a frozen DINOv2, computed once per picture and kept as a table that training maps
into memory.

A folder per backbone and picture size holds Arrow files (one per block of new pictures) with the
columns `content` (hash of the picture file), `mirrored`, and `features` (P · D float16). Any Arrow
reader opens them. Rows are found by the picture's content, so a copied or moved data set finds its
features, and a picture that was drawn anew does not find the old ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from latentvla_core.data.cameras import decode_image
from latentvla_core.data.files import join
from latentvla_core.data.guards.places import read_below
from latentvla_core.errors import DataError
from latentvla_core.latent.features import DinoFeatures, FeatureConfig
from latentvla_core.training.checkpoint import file_sha256
from latentvla_core.training.images import MISSING, ImageCache
from latentvla_core.types import Array

FORMAT = 1
"""Raise it when the same picture and backbone give other features."""
BLOCK = 512  # pictures per Arrow file
WEIGHTS = ("*.safetensors", "*.bin")
Key = tuple[str, str]


class _Read(NamedTuple):
    """One picture file."""

    content: str
    """Hash of its bytes; "" if it cannot be read."""
    picture: Array | None
    """(H, W, 3) uint8, decoded only when its features are not known."""


class FeatureTable(ImageCache):
    """Like an `ImageCache`, but `take` gives (..., P, D) float16 features instead of pictures.

    Args:
        folder: where tables are kept, shared by all backbones and sizes.
        mirror: also compute the mirrored pictures, which are other features; training with `mirror`
        takes them.
    """

    def __init__(
        self,
        config: FeatureConfig,
        folder: Path | str,
        *,
        mirror: bool = False,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        threads: int = 0,
    ) -> None:
        super().__init__(config.image_size_wh, threads=threads)
        self.config, self.mirror, self.device, self.batch_size = (
            config,
            mirror,
            torch.device(device),
            batch_size,
        )
        self.features = DinoFeatures(config)
        self.folder = Path(folder) / table_key(config)
        self._parts: list[Array] = []
        self._starts = np.zeros(1, np.int64)
        self._mirrors = np.zeros(0, np.int64)
        self._found: dict[tuple[str, bool], int] = {}
        for path in sorted(self.folder.glob("*.arrow")):
            self._open(path)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: Array, mirror: Array | None = None) -> Array:
        """(...,) rows → (..., P, D) float16 features; those of the mirrored picture where `mirror`
        (...,).
        """
        rows = self._checked(rows)
        if mirror is not None and mirror.any():
            rows = np.where(mirror, self._mirrors[rows], rows)
            if rows.min() < 0:
                raise DataError(
                    "features of a mirrored picture are not in the table; open it with mirror=True"
                )
        flat = rows.reshape(-1)
        part = np.searchsorted(self._starts, flat, side="right") - 1
        picked = [self._parts[p][r - self._starts[p]] for p, r in zip(part, flat, strict=True)]
        values = np.stack(picked) if picked else np.zeros((0, *self._shape), np.float16)
        return values.reshape(*rows.shape, *self._shape)

    def forget(self) -> None:
        """Rows stay: they lie in files, and opening those again costs more than keeping them open."""

    @property
    def _shape(self) -> tuple[int, int]:
        return self.config.grid_hw[0] * self.config.grid_hw[1], self.config.dim

    def _decode(self, new: Sequence[Key]) -> None:
        for first in range(0, len(new), BLOCK):
            part = new[first : first + BLOCK]
            with ThreadPoolExecutor(self.threads) as pool:
                read = list(pool.map(self._read, part))
            self._compute({r.content: r.picture for r in read if r.picture is not None})
            self._rows |= {
                k: self._found.get((r.content, False), MISSING)
                for k, r in zip(part, read, strict=True)
            }

    def _read(self, key: Key) -> _Read:
        try:
            data = read_below(
                *key, remedy="download the sensor blobs of this log, or leave the log out"
            )
            content = hashlib.blake2b(data, digest_size=16).hexdigest()
            known = (content, False) in self._found and (
                not self.mirror or (content, True) in self._found
            )
            return _Read(
                content, None if known else decode_image(data, self.size_wh, name=join(*key))
            )
        except (DataError, OSError) as error:
            self.faults[key[1]] = str(error)
            return _Read("", None)

    def _compute(self, pictures: dict[str, Array]) -> None:
        """Features of new pictures as one more file of the table."""
        keys = [
            (content, side)
            for side in ((False, True) if self.mirror else (False,))
            for content in pictures
        ]
        keys = [key for key in keys if key not in self._found]
        if not keys:
            return
        values = np.zeros((len(keys), *self._shape), np.float16)
        for first in range(0, len(keys), self.batch_size):
            part = keys[first : first + self.batch_size]
            seen = np.stack([pictures[content][:, :: -1 if side else 1] for content, side in part])
            found = self.features(torch.from_numpy(np.ascontiguousarray(seen)).to(self.device))
            values[first : first + len(part)] = found.cpu().numpy()
        self._open(self._write(keys, values))

    def _write(self, keys: Sequence[tuple[str, bool]], values: Array) -> Path:
        import pyarrow as pa

        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "about.json").write_text(json.dumps(asdict(self.config), indent=1))
        features = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values[0].size)
        content, side = pa.array([c for c, _ in keys]), pa.array([s for _, s in keys])
        table = pa.table({"content": content, "mirrored": side, "features": features})
        path = self.folder / f"{uuid.uuid4().hex}.arrow"
        unfinished = path.with_suffix(".tmp")
        with (
            pa.OSFile(str(unfinished), "wb") as file,
            pa.ipc.new_file(file, table.schema) as writer,
        ):
            writer.write_table(table)
        os.replace(unfinished, path)
        return path

    def _open(self, path: Path) -> None:
        """Map a file of the table; nothing is read but the keys."""
        import pyarrow as pa

        try:
            batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
            values = (
                batch["features"]
                .flatten()
                .to_numpy(zero_copy_only=True)
                .reshape(len(batch), *self._shape)
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"{path}: no readable block of features ({error}); delete it, it is computed again"
            ) from error
        keys = zip(batch["content"].to_pylist(), batch["mirrored"].to_pylist(), strict=True)
        new = {key: len(self) + i for i, key in enumerate(keys)}
        self._found |= new
        self._mirrors = np.append(self._mirrors, np.full(len(values), -1, np.int64))
        for content in {content for content, _ in new}:
            if (plain := self._found.get((content, False))) is not None:
                self._mirrors[plain] = self._found.get((content, True), -1)
        self._parts.append(values)
        self._starts = np.append(self._starts, len(self) + len(values))


def table_key(config: FeatureConfig) -> str:
    """Name of the table of a backbone and picture size: other weights or another size give another
    table.
    """
    folder = Path(config.backbone)
    files = [
        folder / "config.json",
        *sorted(p for pattern in WEIGHTS for p in folder.glob(pattern)),
    ]
    told: dict[str, Any] = {
        "format": FORMAT,
        "backbone": [file_sha256(path) for path in files],
        "size": config.image_size_wh,
    }
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def open_cache(
    config: FeatureConfig,
    folder: Path | str | None = None,
    *,
    mirror: bool = False,
    device: torch.device | str = "cpu",
) -> ImageCache:
    """What a model of this observation space reads: pictures, or a table of features below `folder`
    for DINOv2.
    """
    if config.kind == "pixels" or folder is None:
        return ImageCache(config.image_size_wh)
    return FeatureTable(config, folder, mirror=mirror, device=device)
