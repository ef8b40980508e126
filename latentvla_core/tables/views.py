"""Views: tables as people ask for them, with times that have a zone, words instead of numbers, and
poses and boxes with named fields. `latentvla sql` and `Lake.sql` know them beside the tables.

Stored rows stay flat lists and integers: they are what training reads, as arrays and without
copies, and a view costs its readers nothing until it is asked for (docs/conventions.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from latentvla_core.schema import TableSpec, wrapped
from latentvla_core.types import (
    FRAME_INTERVAL_S,
    PLAN_STEPS,
    Command,
    ObjectClass,
)

ZONES = {
    "sg-one-north": "Asia/Singapore",
    "us-ma-boston": "America/New_York",
    "us-nv-las-vegas-strip": "America/Los_Angeles",
    "us-pa-pittsburgh-hazelwood": "America/New_York",
}
"""Time zone of each map's city (IANA)."""


@dataclass(frozen=True, slots=True)
class View:
    """A query with a name."""

    name: str
    row: str
    """What one row is."""
    tables: tuple[str, ...]
    """What it reads; a table that does not exist yet counts as one without rows."""
    columns: tuple[tuple[str, str], ...]
    """(name, meaning) of the columns that no table has under this name and meaning."""
    query: str


def _time(column: str, zone: str = "UTC") -> str:
    return f"""arrow_cast({column}, 'Timestamp(Microsecond, Some("{zone}"))')"""


def _hour_local(place: str, column: str) -> str:
    cases = " ".join(
        f"when '{city}' then date_part('hour', arrow_cast({_time(column)},"
        f""" 'Timestamp(Microsecond, Some("{zone}"))'))"""
        for city, zone in ZONES.items()
    )
    return f"case {place} {cases} end"


def _words(column: str, kinds: type[Command] | type[ObjectClass]) -> str:
    cases = " ".join(f"when {kind.value} then '{kind.name.lower()}'" for kind in kinds)
    return f"case {column} {cases} end"


def _pose(column: str, first: str = "0") -> str:
    fields = ", ".join(
        f"'{name}', {column}[{first}+{i}]" for i, name in enumerate(("x_m", "y_m", "yaw_rad"), 1)
    )
    return f"named_struct({fields})"


def _plan(column: str) -> str:
    poses = ", ".join(_pose(column, str(3 * step)) for step in range(PLAN_STEPS))
    return f"case when array_length({column}) = {3 * PLAN_STEPS} then [{poses}] end"


CURRENT_MODEL = (
    "(select model_version from latent_codes join materialisations using (made_by)"
    " order by finished_us desc limit 1)"
)
"""SQL: the model that labelled last. The atlas, `latent_codes`, is a few rows written after a
model's labels, so a model that the gate stopped, or that labels still, is not in it.
"""

CURRENT_LABELS = View(
    "current_labels",
    "a row of latent_actions of the model that labelled last",
    ("latent_actions", "latent_codes", "materialisations"),
    (("time_utc", "timestamp_us as a time stamp with zone"),),
    f"select *, {_time('timestamp_us')} as time_utc from latent_actions"
    f" where model_version = {CURRENT_MODEL}",
)

SCENE_OVERVIEW = View(
    "scene_overview",
    "a scene with its label, all plans for it and all their scores",
    (*CURRENT_LABELS.tables, "scenes", "trajectories", "pdm_scores"),
    (
        ("time_utc", "time of the current frame, with zone"),
        ("hour_local", "hour of the day in the map's city; null without a map"),
        ("command", "left, forward, right or unknown"),
        ("speed_mps", "of the ego, now"),
        ("ego_pose", "struct of x_m, y_m, yaw_rad; global"),
        ("sentence", "the 12 ego codes, time-major; null where a transition has no label"),
        ("plans", "list of structs: planner, model_version, poses (8 structs x_m, y_m, yaw_rad)"),
        ("scores", "list of structs: planner, metric_version, score; those that are valid"),
    ),
    f"""with sentences as (
  select scene_token, split, flatten(array_agg(ego_codes order by step)) as sentence
  from latent_actions where valid and model_version = {CURRENT_MODEL}
  group by scene_token, split having count(*) = 3),
planned as (
  select scene_token, split, array_agg(named_struct('planner', trajectory_id, 'model_version',
    model_version, 'poses', {_plan("poses")}) order by trajectory_id) as plans
  from trajectories where valid group by scene_token, split),
judged as (
  select scene_token, split, array_agg(named_struct('planner', trajectory_id, 'metric_version',
    metric_version, 'score', score) order by trajectory_id, metric_version) as scores
  from pdm_scores where valid group by scene_token, split)
select s.split, s.log_name, s.scene_token, s.map_location, {_time("s.timestamp_us")} as time_utc,
  {_hour_local("s.map_location", "s.timestamp_us")} as hour_local,
  {_words("s.command", Command)} as command,
  sqrt(power(s.ego_velocity_mps[1], 2) + power(s.ego_velocity_mps[2], 2)) as speed_mps,
  {_pose("s.ego_pose")} as ego_pose, l.sentence, p.plans, j.scores
from scenes s
left join sentences l on l.scene_token = s.scene_token and l.split = s.split
left join planned p on p.scene_token = s.scene_token and p.split = s.split
left join judged j on j.scene_token = s.scene_token and j.split = s.split""",
)

PLAN_POINTS = View(
    "plan_points",
    "one pose of one plan",
    ("trajectories",),
    (
        ("planner", "the same as trajectory_id"),
        ("time_s", f"after now: {FRAME_INTERVAL_S}, {2 * FRAME_INTERVAL_S}, …"),
        ("x_m, y_m, yaw_rad", "ego frame of the scene"),
    ),
    f"""with steps as (
  select split, log_name, scene_token, trajectory_id, model_version, poses,
    unnest(range(0, cast(array_length(poses) / 3 as bigint))) as i
  from trajectories where valid)
select split, log_name, scene_token, trajectory_id as planner, model_version,
  (i + 1) * {FRAME_INTERVAL_S} as time_s, poses[3*i+1] as x_m, poses[3*i+2] as y_m,
  poses[3*i+3] as yaw_rad
from steps""",
)

_BOX = ("x_m", "y_m", "z_m", "length_m", "width_m", "height_m", "yaw_rad")
FRAME_OBJECTS = View(
    "frame_objects",
    "one annotated object of one frame",
    ("frames",),
    (
        ("time_utc", "time of the frame, with zone"),
        ("class", "vehicle, pedestrian, bicycle, traffic_cone, barrier, czone_sign, …"),
        (", ".join(_BOX), "box in the ego frame"),
        ("vx_mps, vy_mps", "velocity over ground, ego axes"),
    ),
    f"""with objects as (
  select split, log_name, token, timestamp_us, object_boxes, object_classes,
    object_velocities_mps, track_tokens,
    unnest(range(0, cast(array_length(object_classes) as bigint))) as i
  from frames)
select split, log_name, token, {_time("timestamp_us")} as time_utc,
  track_tokens[i+1] as track_token, {_words("object_classes[i+1]", ObjectClass)} as class,
  {", ".join(f"object_boxes[7*i+{k}] as {name}" for k, name in enumerate(_BOX, 1))},
  object_velocities_mps[3*i+1] as vx_mps, object_velocities_mps[3*i+2] as vy_mps
from objects""",
)

VIEWS = {view.name: view for view in (CURRENT_LABELS, SCENE_OVERVIEW, PLAN_POINTS, FRAME_OBJECTS)}


def markdown(view: View) -> str:
    """The view's section of docs/tables.md."""
    lines = [f"| {name} | {meaning} |" for name, meaning in view.columns]
    told = wrapped(f"One row is {view.row}. Reads {', '.join(view.tables)}.")
    head = f"## {view.name}\n\n{told}\n\n"
    return head + "| column | meaning |\n|---|---|\n" + "\n".join(lines) + "\n"


_ARROW_NAMES = {"string": "Utf8", "bool": "Boolean"}


def no_rows(spec: TableSpec) -> str:
    """SQL: a table as declared, without rows; it stands for one that does not exist yet."""
    columns = []
    for column in spec.columns:
        scalar = _ARROW_NAMES.get(column.dtype, column.dtype.capitalize())
        kind = scalar if column.shape is None else f"List({scalar})"
        columns.append(f"arrow_cast(null, '{kind}') as {column.name}")
    return f"select {', '.join(columns)} where false"
