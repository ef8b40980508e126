"""Why a plan lost points: the place and the moment of every failure, in little worlds and on real drives."""

from __future__ import annotations

import numpy as np
import pdms_golden as golden
import pytest
from pdms_golden import needs_golden

from latentvla_core.errors import DataError
from latentvla_core.pdms.explain import explain, moments
from latentvla_core.pdms.metrics import SUB_SCORES
from latentvla_core.pdms.world import World

EVERY = 29  # rows of the golden tables between two that are looked at


def before(world: World, name: str) -> tuple[World, np.ndarray] | None:
    """The golden scene 0.5 s earlier and the plan of the same name there."""
    earlier = {w.scene_token: w for w in golden.worlds()}.get(world.previous_token)
    if earlier is None:
        return None
    return earlier, dict(zip(*golden.plans()[earlier.scene_token], strict=True))[name]


@needs_golden
@pytest.mark.parametrize(("metric", "table"), [("pdms", "pdms_v1"), ("epdms", "epdms_v2")])
def test_failures_are_the_official_ones_at_the_official_time(metric, table):
    official, worlds = golden.table(table), {w.scene_token: w for w in golden.worlds()}
    kinds = set()
    for i in range(0, len(official["score"]), EVERY):
        token, name = official["scene_token"][i], official["trajectory_id"][i]
        poses = dict(zip(*golden.plans()[token], strict=True))[name]
        why = explain(worlds[token], poses, metric, before=before(worlds[token], name))
        assert why.score == pytest.approx(official["score"][i], abs=1e-8)
        counted = {f.sub_score for f in why.failures if not f.forgiven}
        assert counted == {key for key in SUB_SCORES[metric] if official[key][i] < 1.0}
        for failure in why.failures:
            kinds.add(failure.sub_score)
            column = {"no_at_fault_collisions": "collision", "time_to_collision_within_bound": "ttc"}.get(
                failure.sub_score
            )
            if column:
                assert failure.time_s == pytest.approx(official[f"{column}_time_idx"][i] * 0.1)
    assert kinds >= set(SUB_SCORES[metric]) - {"driving_direction_compliance", "traffic_light_compliance"}


@needs_golden
def test_places_are_where_the_failure_is():
    worlds = {w.scene_token: w for w in golden.worlds()}
    official = golden.table("pdms_v1")
    hit = np.flatnonzero((official["no_at_fault_collisions"] == 0) & (official["drivable_area_compliance"] == 0))[::40]
    for i in hit:
        world = worlds[official["scene_token"][i]]
        poses = dict(zip(*golden.plans()[world.scene_token], strict=True))[official["trajectory_id"][i]]
        why = {f.sub_score: f for f in explain(world, poses).failures}
        crash, road = why["no_at_fault_collisions"], why["drivable_area_compliance"]
        assert len(crash.shape) == 4
        assert np.abs(crash.place - crash.egos[0].mean(axis=0)).max() < 3.5  # within the ego box
        assert np.abs(road.egos[0] - road.place).sum(axis=1).min() == 0.0  # one of its corners
        assert "corner leaves" in road.text
        ordered = [f.step for _, f in moments(tuple(why.values()))]
        assert ordered == sorted(ordered)


@needs_golden
def test_a_plan_that_cannot_be_scored_is_not_explained():
    with pytest.raises(DataError, match="NaN"):
        explain(golden.worlds()[0], np.full((8, 3), np.nan))


@needs_golden
def test_the_caption_names_what_fails_and_the_picture_is_one():
    from latentvla_core.viz.failures import caption, failure_view

    official = golden.table("pdms_v1")
    i = int(np.flatnonzero((official["no_at_fault_collisions"] == 0) & (official["ttc_time_idx"] < 20))[0])
    world = next(w for w in golden.worlds() if w.scene_token == official["scene_token"][i])
    poses = dict(zip(*golden.plans()[world.scene_token], strict=True))[official["trajectory_id"][i]]
    why = explain(world, poses)
    text = "\n".join(caption(why))
    assert "NC = 0: hits" in text
    assert "TTC = 0: less than 1 s to" in text
    assert failure_view(world, "plan", poses, why).startswith(b"\x89PNG")
