"""GeoPackage layers as columns: sqlite3 for the rows, shapely for the geometry, pyproj for the
projection.

A GeoPackage is an SQLite file; a geometry is a small header (with or without an envelope) and
standard WKB.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from latentvla_core.data.guards.places import check_file
from latentvla_core.errors import DataError
from latentvla_core.types import Array

_ENVELOPE_BYTES = (
    0,
    32,
    48,
    48,
    64,
)  # by envelope code of the header's flags (OGC 12-128r19 §2.1.3.1.1)


MOST_ROWS = 2_000_000
LARGEST_B = 4_000_000_000
"""Of a map file; the published ones are below 1 GB."""
LARGEST_VALUE_B = 64_000_000
MOST_STEPS = 100_000_000
"""Of SQLite's machine per query; the largest nuPlan layer takes a thousandth of it."""
_STEP = 100_000


@dataclass(frozen=True, slots=True)
class Layer:
    """One feature layer in feature-id order, which is the order every reader of GeoPackages sees."""

    file: str
    name: str
    ids: tuple[str, ...]
    """Feature ids as text."""
    shapes: Array
    """(n,) object array of shapely geometries, in the projected frame."""
    columns: dict[str, list[Any]]

    def keys(self, column: str) -> tuple[str, ...]:
        """A foreign key as text, "" for NULL."""
        return tuple(
            "" if v is None else str(self._number(int, v, column)) for v in self._column(column)
        )

    def numbers(self, column: str) -> Array:
        """(n,) float64, NaN for NULL."""
        return np.array(
            [np.nan if v is None else self._number(float, v, column) for v in self._column(column)],
            float,
        )

    def _number(self, kind: type[int] | type[float], value: Any, column: str) -> int | float:
        try:
            return kind(value)
        except (TypeError, ValueError, OverflowError) as error:
            message = f"layer {self.name!r}: {value!r:.40} is not a number; mend the map or download it again"
            raise DataError(message, file=self.file, field=column) from error

    def lists(self, column: str) -> tuple[tuple[str, ...], ...]:
        """Comma-separated keys; NULL and "" are no keys."""
        texts = ("" if v is None else str(v) for v in self._column(column))
        return tuple(
            tuple(part.strip() for part in text.split(",") if part.strip()) for text in texts
        )

    def _column(self, name: str) -> list[Any]:
        if name not in self.columns:
            raise DataError(
                f"layer {self.name!r} has no column {name!r} (it has {', '.join(self.columns)}); "
                "use the nuPlan map of the version named in nuplan-maps-v1.0.json",
                file=self.file,
                field=name,
            )
        return self.columns[name]


class GeoPackage:
    """Reads layers of one file; opened read-only, for the length of each call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DataError(
                "the map does not exist; download the nuPlan maps and set NUPLAN_MAPS_ROOT",
                file=str(path),
            )
        check_file(path, largest_b=LARGEST_B)
        if not path.stat().st_size:
            raise DataError("0 bytes: the download broke; fetch this map again", file=str(path))

    def meta(self) -> dict[str, str]:
        """The layer `meta`: `projectedCoordSystem` and others."""
        rows, names = self._rows("meta")
        if not {"key", "value"} <= set(names):
            message = f"layer 'meta' has columns {names}; key and value are expected"
            raise DataError(message[:500], file=str(self.path), field="meta")
        key, value = names.index("key"), names.index("value")
        return {str(row[key]): str(row[value]) for row in rows}

    def layer_names(self) -> set[str]:
        rows, _ = self._query(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')", layer="sqlite_master"
        )
        return {str(row[0]) for row in rows}

    def layer(self, name: str, crs: str) -> Layer:
        """A layer, moved to the projected `crs` unless it is there already.

        Raises DataError naming map, layer and remedy when it is missing or broken.
        """
        rows, names = self._rows(name, order_by_id=True)
        fid, geometry = self._key_column(name), self._geometry_column(name)
        if absent := [column for column in (fid, geometry) if column not in names]:
            message = f"layer {name!r} has no column {absent[0]!r:.60}"
            raise DataError(message, file=str(self.path), field=name)
        srs, shapes = _decode(
            [row[names.index(geometry)] for row in rows], f"{self.path}, layer {name}"
        )
        columns = {
            c: [row[i] for row in rows] for i, c in enumerate(names) if c not in (geometry, fid)
        }
        ids = tuple(str(row[names.index(fid)]) for row in rows)
        return Layer(str(self.path), name, ids, self._project(shapes, srs, crs), columns)

    def _rows(
        self, table: str, *, order_by_id: bool = False
    ) -> tuple[list[tuple[Any, ...]], list[str]]:
        order = " ORDER BY rowid" if order_by_id else ""
        return self._query(f'SELECT * FROM "{table}"{order}', layer=table)

    def _query(
        self, sql: str, args: Sequence[Any] = (), *, layer: str
    ) -> tuple[list[tuple[Any, ...]], list[str]]:
        try:
            with closing(
                sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
            ) as db:
                _bound(db)
                cursor = db.execute(sql, args)
                rows = cursor.fetchmany(MOST_ROWS + 1)
                if len(rows) > MOST_ROWS:
                    message = f"layer {layer!r} has more than {MOST_ROWS:,} rows"
                    raise DataError(message, file=str(self.path), field=layer)
                return rows, [d[0] for d in cursor.description]
        except (sqlite3.DataError, OverflowError, MemoryError, ValueError) as error:
            message = f"layer {layer!r} holds values that cannot be read ({error})"
            raise DataError(message, file=str(self.path), field=layer) from error
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                message = (
                    f"layer {layer!r} takes more than {MOST_STEPS:,} steps: a view without end"
                )
            elif "no such table" in str(error):
                message = f"layer {layer!r} is missing; use the complete nuPlan map of this city, or write an empty layer"
            else:
                message = f"cannot be read ({error}); check its permissions"
            raise DataError(message, file=str(self.path), field=layer) from error
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"not a GeoPackage ({error}); download the map again", file=str(self.path)
            ) from error

    def _key_column(self, table: str) -> str:
        rows, names = self._query(f'PRAGMA table_info("{table}")', layer=table)
        return next((row[1] for row in rows if row[5]), "fid")

    def _geometry_column(self, table: str) -> str:
        sql = "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?"
        rows, _ = self._query(sql, (table,), layer="gpkg_geometry_columns")
        if not rows:
            raise DataError(
                f"layer {table!r} has no entry in gpkg_geometry_columns; register it there",
                file=str(self.path),
                field=table,
            )
        return str(rows[0][0])

    def _project(self, shapes: Array, srs: int, crs: str) -> Array:
        source = self._authority(srs) if len(shapes) else crs
        if source.upper() == crs.upper():
            return shapes
        try:
            move = _transformer(source, crs)
            moved = shapely.transform(
                shapes, lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1]))
            )
        except (RuntimeError, ValueError, TypeError) as error:  # pyproj's and shapely's own
            message = f"no way from {source[:60]!r} to {crs[:60]!r} ({str(error)[:200]})"
            raise DataError(message, file=str(self.path), field="projectedCoordSystem") from error
        _check_finite(moved, f"{self.path}, moved to {crs}")
        return moved

    def _authority(self, srs: int) -> str:
        """`EPSG:4326` for the srs id of a geometry."""
        sql = "SELECT organization, organization_coordsys_id FROM gpkg_spatial_ref_sys WHERE srs_id = ?"
        rows, _ = self._query(sql, (srs,), layer="gpkg_spatial_ref_sys")
        if not rows or str(rows[0][0]).upper() == "NONE":
            raise DataError(
                f"coordinates in unknown system {srs}; declare it in gpkg_spatial_ref_sys",
                file=str(self.path),
            )
        return f"{rows[0][0]}:{rows[0][1]}"


@lru_cache(maxsize=16)
def _transformer(source: str, target: str) -> Any:
    import pyproj

    return pyproj.Transformer.from_crs(
        source, target, always_xy=True
    )  # longitude first, as the files store it


def _decode(blobs: Sequence[bytes | None], where: str) -> tuple[int, Array]:
    """Geometry blobs → (srs id, (n,) shapely geometries in two dimensions); NULL becomes an empty
    polygon.
    """
    srs, wkbs = 0, []
    for blob in blobs:
        if blob is not None and not isinstance(blob, bytes):
            message = f"a geometry that is a {type(blob).__name__}; download the map again"
            raise DataError(message, file=where)
        if blob is None:
            wkbs.append(shapely.to_wkb(shapely.Polygon()))
            continue
        flags = blob[3] if len(blob) > 8 and blob[:2] == b"GP" else 0xFF
        envelope = (flags >> 1) & 0x07
        if envelope >= len(_ENVELOPE_BYTES):
            raise DataError(
                f"a geometry with a broken header ({bytes(blob[:8]).hex()}); download the map again",
                file=where,
            )
        srs = int.from_bytes(blob[4:8], "little" if flags & 1 else "big", signed=True)
        wkbs.append(blob[8 + _ENVELOPE_BYTES[envelope] :])
    try:
        shapes = shapely.force_2d(shapely.from_wkb(np.array(wkbs, dtype=object)))
    except (shapely.errors.GEOSException, ValueError, TypeError, MemoryError) as error:
        raise DataError(
            f"a geometry is broken ({error}); download the map again", file=where
        ) from error
    _check_finite(shapes, where)
    return srs, shapes


def _check_finite(shapes: Array, where: str) -> None:
    """Infinite coordinates make every distance and area infinite, in silence."""
    xy = shapely.get_coordinates(shapes)
    bad = np.flatnonzero(~np.isfinite(xy).all(axis=1))
    if len(bad):
        message = f"{len(bad):,} of {len(xy):,} coordinates are no numbers ({xy[bad[0]].tolist()})"
        raise DataError(f"{message}; download the map again", file=where)


def _bound(db: sqlite3.Connection) -> None:
    """A file may hold views that never end, and rows of gigabytes."""
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE_B)
    steps = iter(range(MOST_STEPS // _STEP))
    db.set_progress_handler(lambda: next(steps, None) is None, _STEP)
