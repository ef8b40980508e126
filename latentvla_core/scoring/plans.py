"""Trajectories on disk → plans by scene, with the reason where a row cannot be one; and the check
of where to write.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentvla_core.data.v2.submissions import read_submission
from latentvla_core.errors import DataError, SetupError
from latentvla_core.types import PLAN_STEPS, Array

COLUMNS = ("scene_token", "trajectory_id", "poses")


@dataclass(frozen=True, slots=True)
class Plans:
    """Trajectories by scene: token → trajectory id → poses (8, 3), or the reason why they cannot be
    scored.
    """

    of_scene: dict[str, dict[str, Array | str]]

    def __len__(self) -> int:
        return sum(map(len, self.of_scene.values()))


def read_trajectories(path: str | Path) -> Plans:
    """Plans of a Parquet file or a submission.pkl. Poses are (8, 3), also flat or with named fields
    (`latentvla sql … --format parquet` of a table or a view); other rows keep the reason instead.

    Raises:
        SetupError: no such file. DataError: not Parquet, no rows, a column is missing, or a key
        occurs twice.
    """
    path = Path(path)
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise SetupError(
            f"{path} {fault}; give a Parquet file with {', '.join(COLUMNS)}, or a submission.pkl"
        )
    if path.suffix == ".pkl":
        poses = read_submission(path).poses()
        return Plans(
            {token: {"submission": np.asarray(plan, np.float64)} for token, plan in poses.items()}
        )
    table = _read_columns(path)
    of_scene: dict[str, dict[str, Array | str]] = {}
    keys = (table[name].to_pylist() for name in COLUMNS[:2])
    for token, name, poses in zip(*keys, _all_poses(table["poses"]), strict=True):
        if not isinstance(token, str) or not isinstance(name, str):
            message = f"a row has scene_token {token!r} and trajectory_id {name!r}; both are its key and must be text"
            raise DataError(message, file=str(path))
        plans = of_scene.setdefault(token, {})
        if name in plans:
            raise DataError(
                f"trajectory {name!r} occurs twice; keys must be unique",
                file=str(path),
                frame=token,
            )
        plans[name] = poses
    return Plans(of_scene)


def _read_columns(path: Path) -> pa.Table:
    """COLUMNS of a Parquet file. Raises DataError when it is none, lacks one of them, or has no
    rows.
    """
    rule = f"write a Parquet file with the columns {', '.join(COLUMNS)}"
    try:
        names = pq.read_schema(path).names
        absent = [name for name in COLUMNS if name not in names]
        table = pq.read_table(path, columns=list(COLUMNS)) if not absent else None
        if table is not None:
            table.validate(full=True)  # texts that are no UTF-8 show only when they are used
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as Parquet ({error}); {rule}", file=str(path)) from error
    if table is None:
        raise DataError(f"lacks {', '.join(absent)}; has {', '.join(names)}", file=str(path))
    if not table.num_rows:
        raise DataError(f"has no rows, so there is nothing to score; {rule}", file=str(path))
    return table


def check_writable(out: str | Path) -> None:
    """Raises SetupError when a file cannot be written at `out`; makes the folder it lies in."""
    out = Path(out)
    if out.is_dir():
        raise SetupError(
            f"--out {out} is a folder; give the name of a file to write, e.g. {out / 'scores.parquet'}"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.with_name(f".{out.name}.{os.getpid()}")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SetupError(
            f"--out {out} cannot be written ({error.strerror or error}); give a file in a folder of yours"
        ) from error


def _all_poses(column: pa.ChunkedArray) -> Iterable[Array | str]:
    """For each row (8, 3) float64, or what is wrong with it. Row by row only where some row is not
    a plan: it is slow.
    """
    values = column.combine_chunks()
    flat = _list_size(values) == 3 * PLAN_STEPS  # as the lake stores them
    for size in (3 * PLAN_STEPS,) if flat else (PLAN_STEPS, 3):
        if _list_size(values) != size:
            return map(_poses, column.to_pylist())
        values = values.flatten()
    if values.null_count or not (
        pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
    ):
        return map(_poses, column.to_pylist())
    return values.to_numpy().astype(np.float64).reshape(-1, PLAN_STEPS, 3)


def _list_size(values: pa.Array) -> int:
    """The length of every list of a column without nulls; -1 if there is none such."""
    if values.null_count or not len(values):
        return -1
    if pa.types.is_fixed_size_list(values.type):
        return values.type.list_size
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        return -1
    sizes = np.diff(values.offsets.to_numpy())
    return int(sizes[0]) if (sizes == sizes[0]).all() else -1


def _poses(value: Any) -> Array | str:
    """(8, 3) float64, or what is wrong with it. Flat as tables store them, or with named fields as
    views give them, poses are those same 24 numbers.
    """
    rule = f"a plan needs {PLAN_STEPS} poses of x_m, y_m, yaw_rad"
    if value is None:
        return f"no poses; {rule}"
    try:
        poses = np.array([_numbers(pose) for pose in value], np.float64)
    except (TypeError, ValueError, KeyError):
        return f"poses are not a regular table of numbers; {rule}"
    if poses.shape == (3 * PLAN_STEPS,):
        return poses.reshape(PLAN_STEPS, 3)
    return poses if poses.shape == (PLAN_STEPS, 3) else f"poses have shape {poses.shape}; {rule}"


def _numbers(pose: Any) -> Any:
    return [pose[name] for name in ("x_m", "y_m", "yaw_rad")] if isinstance(pose, dict) else pose
