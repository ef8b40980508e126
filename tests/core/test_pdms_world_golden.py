"""Worlds equal the official devkit's intermediate results on every golden scene, from log pickles
and maps alone.
"""

from functools import cache

import numpy as np
import pdms_golden as golden
import pytest
import shapely
from pdms_golden import GOLDEN, needs_golden

from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.map_files.maps import MapStore
from latentvla_core.pdms.history import history_states
from latentvla_core.pdms.observation import key_frame
from latentvla_core.pdms.pdm_closed.reference import plan_reference
from latentvla_core.pdms.roads.map_index import MapIndex
from latentvla_core.pdms.state import Layer
from latentvla_core.pdms.world import find_ground, planner_scene
from latentvla_core.types import ObjectClass

pytestmark = needs_golden
TOLERANCE_M = 1e-8  # global coordinates reach 4.5e6 m, where neighbouring doubles are 9e-10 m apart
LAYER_NAMES = {layer: layer.name for layer in Layer} | {Layer.CARPARK: "CARPARK_AREA"}


@cache
def scenes():
    """Scene token → (scene, map index)."""
    wanted = SceneFilter(num_history_frames=4, num_future_frames=10, frame_interval=1)
    maps = MapStore(GOLDEN / "data" / "maps")
    logs = sorted((GOLDEN / "data" / "navsim_logs" / "golden").glob("*.pkl"))
    return {
        s.token: (s, MapIndex.of(maps.get(s.current.map_location)))
        for s in iter_scenes(logs, wanted)
    }


@cache
def grounds():
    return {token: find_ground(scene, index) for token, (scene, index) in scenes().items()}


@cache
def references():
    return {
        token: plan_reference(planner_scene(s, key_frame(s.current), grounds()[token], i))
        for token, (s, i) in scenes().items()
    }


@cache
def worlds():
    return {world.scene_token: world for world in golden.worlds()}


def official(name):
    """(scene token, {column: value}) of each row of a golden table with one row per scene."""
    table = golden.table(name)
    for i, token in enumerate(table["scene_token"]):
        yield token, {key: column[i] for key, column in table.items()}


def rows_by_scene(name):
    """(scene token, row numbers) of a golden table with many rows per scene."""
    tokens = golden.table(name)["scene_token"]
    order = np.argsort(tokens, kind="stable")
    starts = np.flatnonzero(np.append(True, tokens[order][1:] != tokens[order][:-1]))
    return [(tokens[rows[0]], rows) for rows in np.split(order, starts[1:])]


def array(value):
    """Nested lists of a golden cell as float64."""
    return np.array([np.asarray(row, float) for row in value])


def close(ours, theirs, what, atol=TOLERANCE_M):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=str(what))


def less(poses, world):
    """Global poses (..., 2+) minus the world's origin."""
    out = np.array(poses, float)
    out[..., :2] -= world.origin_m
    return out


def test_every_golden_scene_is_there_and_valid():
    tokens = set(golden.table("scenes")["scene_token"])
    assert tokens == set(worlds()) == set(scenes())
    assert all(world.valid and world.has_v1 and world.human_valid for world in worlds().values())


def test_route_starting_lane_and_centre_line():
    for token, row in official("scenes"):
        ground, world = grounds()[token], worlds()[token]
        assert list(ground.blocks) == list(row["corrected_roadblock_ids"]), token
        assert list(world.route_lane_ids) == list(row["route_lane_ids"]), token
        assert ground.start.id == row["starting_lane_id"], token
        np.testing.assert_array_equal(ground.start.speed_limit_mps, row["speed_limit_mps"])
        close(world.centerline, less(array(row["centerline"]), world), token)
        close(world.ego_state, less(row["ego_state"], world), token)
    for token, row in official("epdms_v2_scenes"):
        assert list(worlds()[token].route_lane_ids) == list(row["route_lane_ids"]), token


def test_drivable_map():
    table = golden.table("drivable_map")
    for token, rows in rows_by_scene("drivable_map"):
        rows, world = rows[np.argsort(table["index"][rows])], worlds()[token]
        assert list(world.polygon_ids) == list(table["object_id"][rows])
        assert [LAYER_NAMES[Layer(k)] for k in world.polygon_layers] == list(table["layer"][rows])
        assert list(world.polygon_on_route) == list(table["on_route"][rows])
        shapes = shapely.from_wkb(table["polygon_wkb"][rows])
        assert np.array_equal(
            np.diff(world.polygon_ring_offsets), 1 + shapely.get_num_interior_rings(shapes)
        )
        close(world.ring_vertices, shapely.get_coordinates(shapes) - world.origin_m, token)


def test_objects_every_tenth_of_a_second():
    table = golden.table("observation")
    for token, rows in rows_by_scene("observation"):
        world = worlds()[token]
        for step in (0, 1, 7, 13, 24, 40, 50):
            at = rows[table["time_idx"][rows] == step]
            present = np.flatnonzero(world.object_valid[step])
            column = {world.object_tokens[a]: a for a in present}
            assert len(column) == len(present), "v1.1 sees a token once"
            assert set(column) == set(table["track_token"][at]), (token, step)
            order = [column[t] for t in table["track_token"][at]]
            close(
                world.object_corners[step, order].reshape(-1, 8),
                table["corners"][at] - np.tile(world.origin_m, 4),
                0,
            )
            close(world.object_speed_mps[order], table["first_seen_speed"][at], token, atol=1e-12)
            assert [ObjectClass(c).name for c in world.object_classes[order]] == list(
                table["object_type"][at]
            )


def test_objects_of_an_empty_scene():
    empty = set(worlds()) - set(golden.table("observation")["scene_token"])
    assert all(not worlds()[token].object_tokens for token in empty)


@pytest.mark.slow
def test_proposals_of_the_reference_planner():
    table = golden.table("planner_proposals")
    for token, rows in rows_by_scene("planner_proposals"):
        rows, ours = rows[np.argsort(table["proposal_idx"][rows])], references()[token]
        close(ours.proposals.poses, table["states_se2"][rows], token)
        close(ours.proposals.progress_m, table["idm_progress"][rows], token)
        close(ours.proposals.speed_mps, table["idm_velocity"][rows], token)
        close(ours.proposals.lead, table["leading_agent"][rows], token)
        close(ours.states[:, -1], table["simulated_end"][rows], token)
        close(ours.scores_v1, table["score"][rows], token)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_chosen_proposal_and_trajectory(version):
    for token, row in official("scenes" if version == "v1" else "epdms_v2_scenes"):
        ours, world = references()[token], worlds()[token]
        assert getattr(ours, f"best_{version}") == row["pdm_best_proposal"], token
        close(getattr(world, f"reference_{version}"), less(row["pdm_trajectory"], world), token)
        if version == "v2":
            close(ours.scores_v2, row["pdm_proposal_scores"], token)
        else:
            assert sorted(ours.ignored) == sorted(row["planner_collided_tokens"]), token


def test_red_lights_removed_tracks_history_and_human_of_v2():
    for token, row in official("epdms_v2_scenes"):
        world = worlds()[token]
        times, _ = history_states(scenes()[token][0].history)
        assert times.tolist() == list(row["history_time_us"]), token
        close(world.history_states, less(array(row["history_states"]), world), token)
        close(world.human_poses, row["human_trajectory"], token)
        for step, names in enumerate(row["red_light_lane_connectors_by_step"]):
            red = [world.light_ids[r] for r in np.flatnonzero(world.light_active[step])]
            assert sorted(red) == sorted(names), (token, step)
        seen = world.object_valid_v2.any(axis=0)
        removed = [world.object_tokens[a] for a in np.flatnonzero(world.object_overlaps_ego & seen)]
        assert sorted(removed) == sorted(row["removed_tracks_overlapping_ego"]), token


def test_the_scene_before():
    table = golden.table("epdms_v2")
    for token in worlds():
        before = table["previous_scene_token"][table["scene_token"] == token][0] or ""
        ours = worlds()[token].previous_token
        assert before == (ours if ours in worlds() else ""), token
