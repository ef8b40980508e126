"""Closed loop: the scenes that are driven, what every driver did in them, and what that was worth.

`latentvla drive --out` writes runs, steps, scores and infractions as Parquet files with the same
columns, less those that only a lake knows (`LAKE_ONLY`).
"""

from __future__ import annotations

from latentvla_core.schema import Column, TableSpec, flag, integer, real, text
from latentvla_core.tables.columns import MADE_BY

LAKE_ONLY = ("model_version", "run_made_by", "made_by")
"""Columns that files of `latentvla drive` lack."""
_SCENE = text("scene", "token of the scene: situation-location-world_seed-seed-style")
_SITUATION = text("situation", "what the scene is about: a name of closed_loop.scenes.situations")
_LOCATION = text("location", "map of the town")
_DRIVER = text("driver", "a floor (human, pdm_closed, constant_velocity, …) or a planner's name")
_TRAFFIC = text("traffic", "reactive: it sees the ego; log: it does what it did around the human")
_MODEL = text("model_version", "fingerprint of the planner, joins `models`; empty for a floor")
_KEY = (_SCENE, _DRIVER, _TRAFFIC, integer("seed", "of everything that is drawn in the scene"))
_VALID = flag("valid", "false: the driver failed; such a run counts zero at every length")
_REASON = text("reason", "the driver's error; empty if it drove")

SCENES = TableSpec(
    "closed_loop_scenes",
    "one candidate for the set that is driven, in the order in which they were tried",
    (
        _SCENE,
        _SITUATION,
        _LOCATION,
        integer("set_seed", "which set: sets of other seeds lie in other towns"),
        integer("number", "position among the candidates of its set"),
        text("spec", "JSON of SceneSpec, from which the scene is made again"),
        flag("is_scene", "whether it is driven: the human's success alone decides"),
        text("reason", "why it is no scene; empty if it is one"),
        flag("is_dangerous", "staged so that not reacting means a crash: for N"),
        real(
            "reference_impact_mps",
            "dangerous scenes: speed of the impact of a driver that does not react; NaN otherwise",
            "m/s",
        ),
        MADE_BY,
    ),
    key=("scene",),
    partition_by=(),
)

RUNS = TableSpec(
    "closed_loop_runs",
    "one driven episode",
    (
        *_KEY,
        _SITUATION,
        _LOCATION,
        text("spec", "JSON of SceneSpec, from which the scene is made again"),
        integer("steps", "steps of 0.1 s that were driven"),
        text("ended", "route_end, time (1.5 · T and not there), or crashed (the driver failed)"),
        _VALID,
        _REASON,
        _MODEL,
        MADE_BY,
    ),
    key=("scene", "driver", "traffic", "seed"),
    partition_by=("driver",),
)

STEPS = TableSpec(
    "closed_loop_steps",
    "0.1 s of one run: the ego, everybody around it, the lights; town frame",
    (
        *_KEY,
        integer("step", "0 is the moment before the first plan takes effect"),
        real("time_s", "since the run began", "s"),
        real("x_m", "rear axle", "m"),
        real("y_m", "rear axle", "m"),
        real("yaw_rad", "heading", "rad"),
        real("vx_mps", "along the heading", "m/s"),
        real("vy_mps", "to the left", "m/s"),
        real("ax_mps2", "along the heading", "m/s2"),
        real("ay_mps2", "to the left", "m/s2"),
        real("steering_rad", "angle of the front wheels", "rad"),
        real("steering_rate_rad_s", "its change", "rad/s"),
        real("yaw_rate_rad_s", "change of the heading", "rad/s"),
        real("yaw_accel_rad_s2", "change of that", "rad/s2"),
        real("plan", "8 poses in the ego frame of this step; empty between plans", "", (-1, 3)),
        text("actor_tokens", "who is there", (-1,)),
        integer("actor_classes", "types.ObjectClass of each", "", (-1,), "int8"),
        real("actor_boxes", "centre x, y, yaw, length, width, height of each", "m, rad", (-1, 6)),
        real("actor_velocities", "vx, vy of each, over ground", "m/s", (-1, 2)),
        text("light_ids", "lane connectors with a light", (-1,)),
        text("light_colours", "red, yellow or green of each", (-1,)),
        MADE_BY,
    ),
    key=("scene", "driver", "traffic", "seed", "step"),
    partition_by=("driver",),
    order=("scene", "traffic", "seed", "step"),
)

_TERMS = (
    real("no_at_fault_collisions", "NC: 1, 0.5 after one object, 0"),
    real("drivable_area", "DAC: 0 if a corner is more than 0.3 m outside at any step"),
    real("driving_direction", "DDC: 1, 0.5, 0 for < 2, 2 … 6, > 6 m against the flow in 1 s"),
    real("making_progress", "MP: whether EP is at least 0.2"),
    real("time_to_collision", "TTC: whether it stays at 0.95 s or more"),
    real("ego_progress", "EP: progress against the human's, at most 1"),
    real("speed_limit", "SL: 1 less what was driven above the limit"),
    real("comfort", "C: whether all of nuPlan's bounds hold"),
    real("traffic_light", "TLC: 0 once a red light was run; no part of CLS"),
)
_SCORES = (
    real("cls", "nuPlan's closed-loop score, 0 … 1"),
    real("cls_tlc", "CLS · TLC, 0 … 1"),
    real("ds", "CARLA's driving score, 0 … 100"),
    real("alpasim", "A, AlpaSim's score, 0 … 1"),
    real("bridgesim", "B, route completion × mean EPDMS of the plans; NaN for runs under 4 s"),
    real("ncap", "N, NeuroNCAP's 0 … 5; NaN where the scene is not a staged danger"),
)
SCORES = TableSpec(
    "closed_loop_scores",
    "what one run is worth up to one length of it; the longest is the score of the run",
    (
        *_KEY,
        _SITUATION,
        _LOCATION,
        real("prefix_s", "length that is judged; DS of the longest looks on to the run's end", "s"),
        text("metric_version", "rules of the score"),
        _VALID,
        _REASON,
        *_TERMS,
        real("min_ttc_s", "least time to collision", "s"),
        real("driven_m", "covered along the route", "m"),
        real("reference_m", "covered by the human in the same time", "m"),
        real("route_completion", "RC: part of the route that was driven on its lanes"),
        integer("infractions", "how many count for DS, see `closed_loop_infractions`"),
        flag("success", "route done and no infraction"),
        *_SCORES,
        _MODEL,
        text("run_made_by", "`made_by` of the run in `closed_loop_runs`"),
        MADE_BY,
    ),
    key=("scene", "driver", "traffic", "seed", "prefix_s"),
    partition_by=("driver",),
)

INFRACTIONS = TableSpec(
    "closed_loop_infractions",
    "something that went wrong in one run",
    (
        *_KEY,
        text(
            "kind",
            "collision_person, collision_vehicle, collision_static, red_light, stop_sign, timeout "
            "(those count for DS), off_road, wrong_way",
        ),
        integer("step", "when, in steps of 0.1 s"),
        real("time_s", "when, since the run began", "s"),
        real("x_m", "where the ego's centre was, town frame", "m"),
        real("y_m", "where the ego's centre was, town frame", "m"),
        text("partner", "actor or lane connector; empty if there is none"),
        flag("at_fault", "whether nuPlan's rules blame the ego"),
        text("detail", "how, in words"),
        MADE_BY,
    ),
    key=("scene", "driver", "traffic", "seed", "kind", "step", "partner"),
    partition_by=("driver",),
)


def _with_interval(name: str, meaning: str) -> tuple[Column, Column, Column]:
    return (
        real(name, f"mean {meaning}; NaN where nothing could be scored"),
        real(f"{name}_low", "lower end of its 95 % interval, whole scenes drawn again"),
        real(f"{name}_high", "upper end"),
    )


SUMMARY = TableSpec(
    "closed_loop_summary",
    "one driver in one kind of traffic, over all scenes of a set or those of one situation",
    (
        _DRIVER,
        _TRAFFIC,
        text("scenes_of", "usual, dangerous, or the name of one situation"),
        real("prefix_s", "length that is judged", "s"),
        integer("runs", "runs behind the means"),
        integer("scenes", "scenes behind the means, which are drawn again for the intervals"),
        integer("crashed", "runs whose driver failed; they count zero"),
        *_with_interval("cls", "of nuPlan's closed-loop score"),
        *_with_interval("cls_tlc", "of CLS · TLC"),
        *_with_interval("ds", "of CARLA's driving score, 0 … 100"),
        *_with_interval("success", "of success: the route done and no infraction"),
        *_with_interval("alpasim", "of A"),
        *_with_interval("bridgesim", "of B"),
        *_with_interval("ncap", "of N"),
        text("metric_version", "rules of the score"),
        _MODEL,
        MADE_BY,
    ),
    key=("driver", "traffic", "scenes_of", "prefix_s"),
    partition_by=(),
)
DRIVEN = (RUNS, STEPS, SCORES, INFRACTIONS)
"""What `latentvla drive` writes, in this order."""
