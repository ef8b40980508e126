"""All rows of one log, from every table a page shows; one log at a time, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latentvla_core.data.records import record_from_row
from latentvla_core.errors import DataError, SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.types import SceneRecord
from latentvla_core.viz.site.options import ViewOptions

FRAME_COLUMNS = (
    "token",
    "log_name",
    "log_index",
    "timestamp_us",
    "map_location",
    "sensor_root",
    "ego_pose",
    "ego_velocity_mps",
    "ego_acceleration_mps2",
    "command",
    "camera_names",
    "camera_paths",
)
PLACE = ("split", "shard", "log_name", "scene_token", "timestamp_us")
Rows = list[dict[str, Any]]


@dataclass(kw_only=True)
class LogRows:
    """Everything known of one log; scenes in order of time, other tables by scene token."""

    name: str
    split: str
    records: list[SceneRecord]
    frames: Rows
    labels: dict[str, Rows] = field(default_factory=dict)
    teacher: dict[str, dict[str, Any]] = field(default_factory=dict)
    student: dict[str, dict[str, Any]] = field(default_factory=dict)
    worlds: dict[str, dict[str, Any]] = field(default_factory=dict)
    plans: dict[str, Rows] = field(default_factory=dict)
    scores: dict[str, Rows] = field(default_factory=dict)


def chosen_scenes(lake: Lake, options: ViewOptions) -> dict[tuple[str, int, str], set[str]]:
    """(split, shard, log) → scene tokens the site shows. Raises DataError when there are none."""
    where = lake.place_of_log(options.log) if options.log else {}
    rows = lake.read("scenes", where, PLACE).to_pylist()
    wanted = _tokens_where(lake, options.where) if options.where else None
    found: dict[tuple[str, int, str], set[str]] = {}
    for row in rows:
        if wanted is None or row["scene_token"] in wanted:
            place = (row["split"], row["shard"], row["log_name"])
            found.setdefault(place, set()).add(row["scene_token"])
    if not found:
        asked = f" with --where {options.where!r}" if options.where else ""
        asked += f" of log {options.log!r}" if options.log else ""
        remedy = "loosen the condition" if rows else "materialise scenes first (latentvla demo)"
        raise DataError(f"the lake {lake.root} has no scene{asked}; {remedy}")
    return found


def _tokens_where(lake: Lake, where: str) -> set[str]:
    """Scene tokens of a condition over `scenes`, or of a whole SELECT."""
    text = where.strip().rstrip(";")
    whole = text.lower().startswith(("select", "with"))
    table = lake.sql(text if whole else f"select scene_token from scenes where {text}")
    if "scene_token" not in table.column_names:
        raise SetupError(
            f"--where selects {', '.join(table.column_names)}; a SELECT must give scene_token"
        )
    return set(table["scene_token"].to_pylist())


def read_log(lake: Lake, place: tuple[str, int, str], tokens: set[str]) -> LogRows:
    """The rows of one log, read from the files of its shard."""
    split, shard, name = place
    where: Mapping[str, Any] = {"split": split, "shard": shard, "log_name": name}
    rows = [r for r in lake.rows("scenes", where) if r["scene_token"] in tokens]
    log = LogRows(
        name=name,
        split=split,
        records=[record_from_row(r) for r in sorted(rows, key=lambda r: r["timestamp_us"])],
        frames=sorted(lake.rows("frames", where, FRAME_COLUMNS), key=lambda r: r["log_index"]),
    )
    log.labels = _by_scene(_newest(lake, "latent_actions", where), tokens)
    log.teacher = _only(_by_scene(_predictions(lake, "vlm_features", where), tokens))
    log.student = _only(_by_scene(_predictions(lake, "student_features", where), tokens))
    log.worlds = _only(_by_scene(lake.rows("scene_worlds", where), tokens))
    log.plans = _by_scene(lake.rows("trajectories", where), tokens)
    log.scores = _by_scene(lake.rows("pdm_scores", where), tokens)
    return log


def _predictions(lake: Lake, table: str, where: Mapping[str, Any]) -> Rows:
    columns = ("scene_token", "codes", "logits", "valid", "model_version")
    return lake.rows(table, where, columns)


def _newest(lake: Lake, table: str, where: Mapping[str, Any]) -> Rows:
    """Labels of one model version: the one the ledger finished last, of those that are there."""
    rows = lake.rows(table, where)
    versions = {row["model_version"] for row in rows}
    if len(versions) < 2:
        return rows
    made = {row["made_by"]: row["model_version"] for row in rows}
    done = lake.read("materialisations", {"asset": table}, ["made_by", "finished_us"]).to_pylist()
    last = max(done, key=lambda r: r["finished_us"] * (r["made_by"] in made), default=None)
    version = made.get(last["made_by"]) if last else None
    version = version or max(versions)
    return [row for row in rows if row["model_version"] == version]


def _by_scene(rows: Rows, tokens: set[str]) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in rows:
        if row["scene_token"] in tokens:
            found.setdefault(row["scene_token"], []).append(row)
    return found


def _only(rows: dict[str, Rows]) -> dict[str, dict[str, Any]]:
    """Tables with one row a scene: the last where several models wrote one."""
    return {token: several[-1] for token, several in rows.items()}
