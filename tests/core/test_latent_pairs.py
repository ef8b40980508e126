"""From scenes to frame pairs: each transition once, in the right frame, with reasons for what is
left out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from latent_little_world import SIZE_WH, little_records

from latentvla_core import geometry
from latentvla_core.data.cameras import load_image
from latentvla_core.errors import DataError
from latentvla_core.latent.environment.agents import AGENT_AXES
from latentvla_core.latent.pairs import collect_pairs, ego_states, mirrored, require_change
from latentvla_core.training.images import ImageCache


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return little_records(tmp_path_factory.mktemp("little"), logs=2, frames=20, stride=1)


def test_overlapping_scenes_give_each_transition_and_each_picture_once(records):
    decoded = []

    def counting(root, path, size_wh):
        decoded.append(path)
        return load_image(root, path, size_wh)

    pairs = collect_pairs(records, 2, ImageCache(SIZE_WH, load=counting))
    assert len(pairs) == 2 * (20 - 2)
    assert len(np.unique(pairs.rows, axis=0)) == len(pairs)
    assert len(decoded) == len(set(decoded)) == 2 * 20
    assert pairs.pictures(np.array([0, 5])).shape == (2, 2, 32, 64, 3)
    assert pairs.dropped == {}
    assert np.isnan(pairs.agents).all()  # the little world has no boxes
    seeing = [
        replace(
            r,
            has_objects=True,
            object_boxes=np.zeros((0, 7)),
            object_velocities_mps=np.zeros((0, 2)),
            object_classes=np.zeros(0, int),
        )
        for r in records
    ]
    known = np.isfinite(
        collect_pairs(seeing, 2, ImageCache(SIZE_WH)).agents[:, AGENT_AXES.index("moving")]
    )
    assert known.sum() == len(
        records
    )  # every scene has boxes for the one transition that starts now


def test_waypoints_are_in_the_frame_of_the_first_picture(records):
    record = records[0]
    pairs = collect_pairs([record], 2, ImageCache(SIZE_WH))
    poses = np.concatenate([record.history_poses, record.future_poses])
    assert len(pairs) == 12
    for i in range(12):
        expected = geometry.to_local(poses[i], poses[[i + 1, i + 2]])
        np.testing.assert_allclose(pairs.waypoints[i], expected, atol=1e-5)
    np.testing.assert_array_equal(pairs.motion, pairs.waypoints[:, 1])


def test_states_are_speed_acceleration_and_yaw_rate():
    time = np.arange(6) * 0.5
    straight = np.stack([3 * time + time**2, 0 * time, 0 * time], axis=-1)  # v = 3 + 2t, a = 2
    states = ego_states(straight)
    np.testing.assert_allclose(states[2:, 1], 2.0)
    np.testing.assert_allclose(states[1:, 0], 3 + 2 * (time[1:] - 0.25))
    turning = np.stack([0 * time, 0 * time, np.pi - 0.1 + 0.2 * time], axis=-1)  # passes ±pi
    np.testing.assert_allclose(ego_states(turning)[:, 2], 0.2)
    assert ego_states(straight[:1]).shape == (1, 3)


def test_backing_up_has_negative_speed():
    poses = np.array([[0.0, 0, np.pi / 2], [0, -1, np.pi / 2], [0, -2, np.pi / 2]])
    np.testing.assert_allclose(ego_states(poses)[:, 0], -2.0)


def test_missing_pictures_drop_their_transitions_and_say_so(records, tmp_path):
    paths = list(records[0].front_paths)
    paths[4] = ""
    (tmp_path / "gone").mkdir()
    broken = replace(records[0], front_paths=tuple(paths))
    pairs = collect_pairs([broken], 2, ImageCache(SIZE_WH))
    assert pairs.dropped == {"a frame has no front picture": 2}
    assert len(pairs) == 10
    paths[6] = "log-0/nowhere.jpg"
    pairs = collect_pairs([replace(broken, front_paths=tuple(paths))], 2, ImageCache(SIZE_WH))
    # 4 → 6 is already counted as having no picture at 4; 6 → 8 cannot be read
    assert pairs.dropped == {"a frame has no front picture": 2, "a picture cannot be read": 1}


def test_a_transition_that_cannot_be_used_counts_once_however_many_scenes_show_it(records):
    paths, later = list(records[0].front_paths), list(records[1].front_paths)
    shift = (records[1].timestamp_us - records[0].timestamp_us) // 500_000
    paths[6], later[6 - shift] = "", ""
    pair = [
        replace(records[0], front_paths=tuple(paths)),
        replace(records[1], front_paths=tuple(later)),
    ]
    dropped = [collect_pairs(some, 2, ImageCache(SIZE_WH)).dropped for some in (pair[:1], pair)]
    assert dropped[0] == dropped[1] == {"a frame has no front picture": 2}


@pytest.mark.parametrize("order", [1, -1])
def test_a_picture_that_one_scene_lacks_and_another_has_drops_nothing(records, order):
    paths = list(records[0].front_paths)
    paths[6] = ""
    scenes = [replace(records[0], front_paths=tuple(paths)), records[0]]
    assert collect_pairs(scenes[::order], 2, ImageCache(SIZE_WH)).dropped == {}


def test_a_pose_that_is_no_number_drops_its_transitions(records):
    future = records[0].future_poses.copy()
    future[3] = np.nan
    pairs = collect_pairs([replace(records[0], future_poses=future)], 2, ImageCache(SIZE_WH))
    assert pairs.dropped["a pose is not finite"] > 0
    assert np.isfinite(pairs.waypoints).all()
    assert np.isfinite(pairs.states).all()


def test_a_jump_of_the_localisation_drops_what_it_touches(records):
    history = records[0].history_poses.copy()
    history[0] += [-80.0, 0, 0]  # the log starts 80 m away
    pairs = collect_pairs([replace(records[0], history_poses=history)], 2, ImageCache(SIZE_WH))
    assert pairs.dropped == {
        "the pose jumps": 3
    }  # its own transition, and two whose state looks back at it
    assert np.abs(pairs.motion).max() < 20
    assert np.abs(pairs.states).max() < 20


def test_nothing_usable_is_an_error_with_the_counts(records):
    empty = replace(records[0], front_paths=("",) * 14)
    with pytest.raises(DataError, match="no front picture: 12"):
        collect_pairs([empty], 2, ImageCache(SIZE_WH))
    short = replace(records[0], front_paths=records[0].front_paths[:2])
    with pytest.raises(DataError, match="no scene is long enough"):
        collect_pairs([short], 2, ImageCache(SIZE_WH))


def test_mirroring_twice_is_nothing_and_turns_left_into_right(records):
    pairs = collect_pairs(records[:1], 2, ImageCache(SIZE_WH))
    index = np.arange(4)
    pictures, waypoints, states = pairs.pictures(index), pairs.waypoints[index], pairs.states[index]
    flip = np.array([True, False, True, False])
    turned = pairs.pictures(index, flip)
    np.testing.assert_array_equal(turned[0], pictures[0][:, :, ::-1])
    np.testing.assert_array_equal(turned[1], pictures[1])
    np.testing.assert_array_equal(pairs.pictures(index, np.zeros(4, bool)), pictures)
    m = mirrored(waypoints, states, flip)
    np.testing.assert_allclose(m[0][0], waypoints[0] * [1, -1, -1])
    np.testing.assert_allclose(m[1][2], states[2] * [1, 1, -1])
    for again, original in zip(mirrored(*m, flip), (waypoints, states), strict=True):
        np.testing.assert_array_equal(again, original)


def test_an_empty_cache_that_was_given_is_the_one_that_is_used(records):
    cache = ImageCache(SIZE_WH)
    assert bool(cache)
    assert len(cache) == 0


def test_pictures_that_never_change_are_told_and_one_that_does_is_enough(records):
    def still(root, path, size_wh):
        return np.full((*size_wh[::-1], 3), 7, np.uint8)

    def moves_once(root, path, size_wh):
        return still(root, path, size_wh) + np.uint8(path == records[0].front_paths[3])

    with pytest.raises(
        DataError, match=r"no picture changes in 36 transitions of logs .*frozen camera"
    ):
        require_change(collect_pairs(records, 2, ImageCache(SIZE_WH, load=still)))
    require_change(collect_pairs(records, 2, ImageCache(SIZE_WH, load=moves_once)))
