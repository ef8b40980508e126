"""What scoring needs of a scene, the plans it judges, and its verdicts."""

from __future__ import annotations

from latentvla_core.pdms.metrics import MEANINGS
from latentvla_core.schema import TableSpec, flag, integer, real, single, text
from latentvla_core.tables.columns import (
    LOG,
    MADE_BY,
    MODEL,
    REASON,
    SCENE,
    SPLIT,
    TIME,
    VALID,
    WHERE,
)

SCENE_WORLDS = TableSpec(
    "scene_worlds",
    "what scoring needs of one scene (see pdms.world.World); coordinates are global minus origin_m",
    (
        *WHERE,
        SCENE,
        LOG,
        text("map_location", "one of the four nuPlan maps"),
        TIME,
        text("previous_token", "scene 0.5 s earlier, for two-frame comfort; empty = none"),
        flag("is_synthetic", "a scene of v2's second stage"),
        real("origin_m", "whole metres, global", "m", (2,)),
        real(
            "ego_state",
            "x, y, heading, vx, vy, ax, ay, steering angle and rate, yaw rate and acceleration",
            "m, s, rad",
            (11,),
        ),
        text("object_tokens", "track tokens", (-1,)),
        integer("object_classes", "types.ObjectClass", "", (-1,), "int8"),
        real("object_speed_mps", "at the first appearance", "m/s", (-1,)),
        real("object_corners", "boxes every 0.1 s for 5 s; NaN where absent", "m", (51, -1, 4, 2)),
        flag("object_valid", "present, as v1.1 sees it", (51, -1)),
        flag("object_valid_v2", "present, as v2.2 sees it", (41, -1)),
        flag("object_overlaps_ego", "touches the ego now; v2.2 log replay removes these", (-1,)),
        text("light_ids", "lane connectors of the route that show red at some step", (-1,)),
        real("light_vertices", "their outlines", "m", (-1, 2)),
        integer("light_offsets", "first vertex of each, and the end", "", (-1,)),
        flag("light_active", "red at that step", (41, -1)),
        text("polygon_ids", "drivable map, in the devkit's order", (-1,)),
        integer("polygon_layers", "pdms.state.Layer", "", (-1,), "int8"),
        flag("polygon_on_route", "lane or connector of the corrected route", (-1,)),
        real("ring_vertices", "closed rings, shells and holes", "m", (-1, 2)),
        integer("ring_offsets", "first vertex of each ring, and the end", "", (-1,)),
        integer("polygon_ring_offsets", "first ring of each polygon, and the end", "", (-1,)),
        real("centerline", "centre line of the route ahead", "m, m, rad", (-1, 3)),
        text("route_lane_ids", "lanes and connectors of the corrected route, in order", (-1,)),
        real(
            "reference_v1",
            "PDM-Closed poses every 0.1 s, chosen by the v1.1 scorer",
            "m, m, rad",
            (51, 3),
        ),
        real("reference_v2", "the same, chosen by the v2.2 scorer", "m, m, rad", (51, 3)),
        real("history_states", "past states that v2.2 puts before the plan", "m, s, rad", (-1, 11)),
        real("human_poses", "logged future, ego frame, 0.5 s apart", "m, m, rad", (8, 3)),
        flag("human_valid", "the human can be scored"),
        flag("has_v1", "the log reaches the 5 s ahead that v1.1 needs"),
        VALID,
        REASON,
        MADE_BY,
    ),
    key=("scene_token",),
)

TRAJECTORIES = TableSpec(
    "trajectories",
    "the plan of one planner for one scene",
    (
        *WHERE,
        text("trajectory_id", "the planner's name"),
        SCENE,
        LOG,
        single("poses", "8 poses, 0.5 s apart, ego frame", "m, m, rad", (-1, 3)),
        single(
            "proposals",
            "what the plan was chosen from; empty for a planner of one plan",
            "m, m, rad",
            (-1, 8, 3),
        ),
        single(
            "logits",
            "of each proposal: no collision, drivable area, progress, time to collision, comfort, "
            "score",
            "",
            (-1, 6),
        ),
        integer("chosen", "number of the proposal that is the plan; -1 where there are none"),
        VALID,
        REASON,
        MODEL,
        MADE_BY,
    ),
    key=("scene_token", "trajectory_id"),
    partition_by=("split", "shard", "trajectory_id"),
    version=2,
)

CHOICES = TableSpec(
    "choices",
    "what one planner chose in one scene, beside the best and the nearest of its proposals",
    (
        *WHERE,
        text("trajectory_id", "the planner's name"),
        SCENE,
        LOG,
        integer("proposals", "how many it chose from"),
        integer("chosen", "number of the proposal that is the plan"),
        integer("best", "number of the proposal that scores most; ties go to the first"),
        integer("nearest", "number of the proposal nearest to the logged drive"),
        real("chosen_score", "PDMS v1.1 of the plan, 0 … 1; NaN where not valid"),
        real("best_score", "PDMS v1.1 of the best proposal: chosen with the answer known"),
        real("chosen_ade_m", "mean distance of the plan's poses to the logged ones", "m"),
        real("nearest_ade_m", "the same of the nearest proposal (min-over-K)", "m"),
        VALID,
        REASON,
        MODEL,
        MADE_BY,
    ),
    key=("scene_token", "trajectory_id"),
    partition_by=("split", "shard", "trajectory_id"),
)

_SCORES = {name: f"{short}: {values}" for name, (short, values) in MEANINGS.items()} | {
    "score": "the metric itself"
}
PDM_SCORES = TableSpec(
    "pdm_scores",
    "one metric (PDMS v1.1 or EPDMS v2.2) of one plan; NaN where not valid, and in sub-scores the metric does not have",
    (
        *WHERE,
        text("trajectory_id", "the planner's name"),
        SCENE,
        LOG,
        *(real(name, doc) for name, doc in _SCORES.items()),
        VALID,
        REASON,
        text(
            "metric_version",
            "metric and devkit version: pdms-v1.1, epdms-v2.2; name it in every query",
        ),
        MODEL,
        MADE_BY,
    ),
    key=("scene_token", "trajectory_id", "metric_version"),
    partition_by=("split", "shard", "trajectory_id"),
    version=2,
)

PDM_SUMMARY = TableSpec(
    "pdm_summary",
    "the mean of one metric of one planner on one split; NaN unless every expected scene was scored",
    (
        SPLIT,
        text("trajectory_id", "the planner's name"),
        text(
            "metric_version",
            "metric and devkit version: pdms-v1.1, epdms-v2.2; name it in every query",
        ),
        *(real(name, f"mean of {doc}") for name, doc in _SCORES.items()),
        real("score_stderr", "standard error of the mean score, between logs; NaN for one log"),
        integer("num_scored", "scenes with a valid score"),
        integer("num_expected", "scenes of the split that should have one"),
        text("reasons", "why the others have none, with counts"),
        MADE_BY,
    ),
    key=("split", "trajectory_id", "metric_version"),
    partition_by=(),
    version=2,
)
