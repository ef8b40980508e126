"""The score equals the official devkit's on every golden row, from log pickles and maps to the
number.
"""

import numpy as np
import pdms_golden as golden
import pytest
from pdms_golden import needs_golden

from latentvla_core.pdms import backend
from latentvla_core.pdms.metrics import SUB_SCORES
from latentvla_core.pdms.motion import tracker
from latentvla_core.pdms.score import score_trajectories

pytestmark = needs_golden
TABLES = {"pdms": "pdms_v1", "epdms": "epdms_v2"}
TOLERANCE = 1e-8


@pytest.fixture(scope="module", params=["pdms", "epdms"])
def scored(request):
    """Our table and the rows of the official one in the same order."""
    worlds = golden.worlds()
    names, poses = zip(*(golden.plans()[world.scene_token] for world in worlds), strict=True)
    ours = score_trajectories(worlds, poses, metric=request.param, trajectory_ids=names)
    rows = golden.row_of(TABLES[request.param])
    order = [rows[key] for key in zip(ours.scene_token, ours.trajectory_id, strict=True)]
    assert sorted(order) == list(range(len(rows)))
    official = {name: column[order] for name, column in golden.table(TABLES[request.param]).items()}
    return ours, official


def test_every_official_row_is_scored_and_valid(scored):
    ours, official = scored
    assert len(ours) == len(official["score"])
    assert ours.valid.all()


def test_sub_scores_in_steps_are_equal_and_the_others_within_1e_8(scored):
    ours, official = scored
    for name in SUB_SCORES[ours.metric]:
        if name == "ego_progress":
            np.testing.assert_allclose(
                ours[name], official[name], rtol=0, atol=TOLERANCE, err_msg=name
            )
        else:
            np.testing.assert_array_equal(ours[name], official[name], err_msg=name)
    np.testing.assert_allclose(ours["score"], official["score"], rtol=0, atol=TOLERANCE)


def test_diagnostics_are_the_devkits(scored):
    ours, official = scored
    np.testing.assert_allclose(
        ours.details["progress_m"], official["progress_raw"], rtol=0, atol=TOLERANCE
    )
    np.testing.assert_allclose(
        ours.details["reference_progress_m"], official["pdm_progress_raw"], rtol=0, atol=TOLERANCE
    )
    for ours_name, name in (("collision_step", "collision_time_idx"), ("ttc_step", "ttc_time_idx")):
        never = np.isinf(official[name])
        np.testing.assert_array_equal(ours.details[ours_name], np.where(never, -1, official[name]))
    if ours.metric == "epdms":
        names = ["ec_rms_acceleration", "ec_rms_jerk", "ec_rms_yaw_rate", "ec_rms_yaw_accel"]
        rms = np.stack([official[name] for name in names], axis=-1)
        np.testing.assert_allclose(ours.details["two_frame_rms"], rms, rtol=0, atol=1e-6)


def test_driven_states_are_the_devkits():
    rows, states = golden.row_of("simulated_states"), golden.table("simulated_states")
    worst = 0.0
    for world in golden.worlds():
        names, poses = golden.plans()[world.scene_token]
        expected = states["simulated_states"][
            [rows[world.scene_token, name] for name in names]
        ].copy()
        expected[..., :2] -= world.origin_m
        reference = tracker.reference_states(poses, world.ego_state, world.timestamp_us)
        difference = tracker.simulate(reference, world.ego_state) - expected
        difference[..., 2] = tracker.wrap(difference[..., 2])
        worst = max(worst, np.abs(difference).max())
    assert worst < 1e-6


@pytest.mark.parametrize("metric", ["pdms", "epdms"])
def test_numpy_gives_what_numba_gives(metric):
    worlds = golden.worlds()[::24]
    poses = [golden.plans()[world.scene_token][1][::4] for world in worlds]
    fast = score_trajectories(worlds, poses, metric=metric)
    with backend.using("numpy"):
        slow = score_trajectories(worlds, poses, metric=metric)
    for name in (*SUB_SCORES[metric], "score"):
        np.testing.assert_allclose(slow[name], fast[name], rtol=0, atol=1e-10, err_msg=name)


def test_a_plan_scores_the_same_alone_as_in_any_batch():
    world = golden.worlds()[0]
    _, poses = golden.plans()[world.scene_token]
    together = score_trajectories([world], [poses])
    for k in range(0, len(poses), 7):
        alone = score_trajectories([world], poses[k][None])
        assert alone["score"][0] == together["score"][k]
