"""Worlds of little scenes on a straight road: what `build` finds, and what it says when it cannot."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pdms_worlds import (
    AFTER_M,
    CROSS_M,
    moved_map,
    moved_scene,
    straight_map,
    straight_scene,
    with_object,
    with_red_light,
)

from latentvla_core import tables
from latentvla_core.pdms import backend
from latentvla_core.pdms.contacts.quads import quad_distances, ring_distance
from latentvla_core.pdms.observation import KeyFrame, detections, key_frame, tracks
from latentvla_core.pdms.pdm_closed.path import Path
from latentvla_core.pdms.pdm_closed.reference import plan_reference
from latentvla_core.pdms.roads.map_index import MapIndex
from latentvla_core.pdms.roads.route import correct_route, search_blocks
from latentvla_core.pdms.state import Layer
from latentvla_core.pdms.world import build, find_ground, planner_scene
from latentvla_core.types import ObjectClass, Polygons


@cache
def road():
    return straight_map()


def world_of(scene):
    world = build(scene, road())
    assert world.valid, world.reason
    return world


# ---------------------------------------------------------------- objects


def test_a_car_driving_on_is_where_it_should_be_every_tenth_of_a_second():
    world = world_of(with_object(straight_scene(8.0), "car", (20.0, 0.0), (6.0, 0.0)))
    assert world.object_tokens == ("car",)
    assert world.object_valid.all()
    assert world.object_valid_v2.all()
    centers = world.object_corners[:, 0].mean(axis=1)
    np.testing.assert_allclose(centers[:, 0], 20.0 + 0.6 * np.arange(51), atol=1e-9)
    assert world.object_speed_mps[0] == pytest.approx(6.0)


def test_a_track_with_a_gap_is_bridged_and_one_that_ends_is_gone_after():
    world = world_of(with_object(straight_scene(), "car", (20.0, 3.5), (6.0, 0.0), seen=(1, 2, 6)))
    present = np.flatnonzero(world.object_valid[:, 0])
    assert (present[0], present[-1], len(present)) == (5, 30, 26)
    assert np.isnan(world.object_corners[0]).all()


def test_an_object_seen_once_is_a_ghost_at_every_step():
    world = world_of(with_object(straight_scene(), "ghost", (20.0, 0.0), (6.0, 0.0), seen=(3,)))
    assert world.object_valid.all()
    assert np.ptp(world.object_corners[:, 0], axis=0).max() == 0.0


def test_what_v2_sees_only_once_is_a_ghost_for_v2_alone():
    """v1.1 looks 5 s ahead and sees the car at 4, 4.5 and 5 s; v2.2 stops at 4 s."""
    world = world_of(
        with_object(straight_scene(), "late", (20.0, 0.0), (6.0, 0.0), seen=(8, 9, 10))
    )
    assert world.object_tokens == ("late", "late")
    v1, v2 = world.object_valid.any(axis=0), world.object_valid_v2.any(axis=0)
    assert v1.tolist() == [True, False]
    assert v2.tolist() == [False, True]
    assert world.object_valid[:, 0].sum() == 11
    assert world.object_valid_v2[:, 1].all()


def test_objects_that_overlap_the_ego_now_are_marked():
    scene = with_object(straight_scene(), "inside", (3.0, 0.0))
    scene = with_object(scene, "beside", (1.461, 2.297 / 2 + 0.2), kind=ObjectClass.TRAFFIC_CONE)
    scene = with_object(scene, "away", (1.461, 2.297 / 2 + 0.21), kind=ObjectClass.TRAFFIC_CONE)
    world = world_of(scene)
    assert dict(zip(world.object_tokens, world.object_overlaps_ego, strict=True)) == {
        "inside": True,
        "beside": True,  # touching counts
        "away": False,
    }


def test_a_static_object_has_no_speed_even_where_the_log_gives_one():
    world = world_of(
        with_object(
            straight_scene(), "cone", (20.0, 0.0), (1.0, 0.0), kind=ObjectClass.TRAFFIC_CONE
        )
    )
    assert world.object_speed_mps.tolist() == [0.0]


# ---------------------------------------------------------------- lights


def test_a_red_light_of_the_route_holds_for_half_a_second_each():
    world = world_of(with_red_light(straight_scene(), "own_j", seen=(2, 3)))
    assert world.light_ids == ("own_j",)
    assert np.flatnonzero(world.light_active[:, 0]).tolist() == list(range(10, 20))
    ring = world.light_vertices + world.origin_m
    assert ring.min(axis=0).tolist() == [CROSS_M, -1.75]
    assert ring.max(axis=0).tolist() == [AFTER_M, 1.75]


def test_a_red_light_off_the_route_is_not_seen():
    assert world_of(with_red_light(straight_scene(), "own_j", seen=())).light_ids == ()
    scene = straight_scene(route=("a",))
    assert world_of(with_red_light(scene, "own_j")).light_ids == ()


# ---------------------------------------------------------------- road and route


def test_the_drivable_map_lists_blocks_lanes_connectors_and_intersections():
    world = world_of(straight_scene())
    kinds = dict(zip(world.polygon_ids, (Layer(k) for k in world.polygon_layers), strict=True))
    assert [k for k, v in kinds.items() if v is Layer.ROADBLOCK] == ["a", "b", "w"]
    assert kinds["own_j"] is Layer.LANE_CONNECTOR
    assert kinds["cross"] is Layer.INTERSECTION
    assert "j" not in kinds  # a roadblock connector is not drivable by itself
    on_route = {
        id_ for id_, yes in zip(world.polygon_ids, world.polygon_on_route, strict=True) if yes
    }
    assert on_route == {"own_a", "side_a", "own_j", "side_j", "own_b", "side_b"}


def test_rings_keep_holes():
    holed = shapely.Polygon([(0, 0), (9, 0), (9, 9), (0, 9)], [[(1, 1), (2, 1), (2, 2)]])
    shapes = road().carparks.shapes.tolist() + [holed]
    world = build(
        straight_scene(), replace(road(), carparks=Polygons(("park",), np.array(shapes, object)))
    )
    park = world.polygon_ids.index("park")
    assert np.diff(world.polygon_ring_offsets)[park] == 2
    assert world.ring_offsets[-1] == len(world.ring_vertices)


def test_the_centre_line_follows_the_lane_of_the_ego_through_the_intersection():
    world = world_of(straight_scene(start=(0.0, -3.4, 0.02)))
    np.testing.assert_allclose(world.centerline[:, 1] + world.origin_m[1], -3.5)
    np.testing.assert_allclose(world.centerline[[0, -1], 0], [-100, 260])


@pytest.mark.parametrize(
    ("route", "x", "expected"),
    [
        (("b",), 0.0, ("a", "j", "b")),  # starts before the route: joined backward
        (("a", "b"), 0.0, ("a", "j", "b")),  # a gap: filled
        (("a", "a", "j", "b"), 0.0, ("a", "j", "b")),  # duplicates: dropped
        (("w",), 0.0, ("w",)),  # cannot be joined: left as it is
        (("b", "w"), 100.0, ("b", "w")),  # not linked, nothing to insert
    ],
)
def test_the_route_is_corrected(route, x, expected):
    assert correct_route(np.array([x, 0.0, 0.0]), route, MapIndex.of(road())) == expected


def test_breadth_first_search_equals_the_devkits_without_its_exponential_queue():
    """A plain search that keeps every copy of a node in its queue, on random graphs."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        edges = {
            str(n): [str(m) for m in rng.choice(7, rng.integers(0, 4), replace=False)]
            for n in range(7)
        }
        goals = {str(g) for g in rng.choice(7, 2)}
        assert search_blocks("0", goals, 5, edges.__getitem__) == _naive_search(
            "0", goals, 5, edges
        )


def _naive_search(start, goals, max_depth, edges):
    queue, parent = [(start, 1)], {}
    while queue:
        node, depth = queue.pop(0)
        if depth > max_depth:
            return []
        if node in goals:
            path = [node]
            while depth > 1:
                node, depth = parent[node, depth], depth - 1
                path.append(node)
            return path[::-1]
        for after in edges[node]:
            queue.append((after, depth + 1))
            parent[after, depth + 1] = node
    return []


def test_a_path_answers_by_arc_length_and_survives_repeated_vertices():
    path = Path(np.array([[0, 0, 3.1], [1, 0, -3.1], [1, 0, -3.1], [1, 2, 0.0]], float))
    assert path.length_m == 3.0
    np.testing.assert_allclose(
        path.at(np.array([-5.0, 0.5, 2.0, 99.0]))[:, :2], [[1e-5, 0], [0.5, 0], [1, 1], [1, 2]]
    )
    assert abs(path.at(np.array(0.5))[2]) == pytest.approx(
        np.pi, abs=1e-9
    )  # headings go the short way round
    assert path.project(np.array([[3.0, 1.5]])).tolist() == [2.5]


# ---------------------------------------------------------------- reference


def test_the_reference_drives_on_an_empty_road_and_brakes_in_its_first_step():
    world = world_of(straight_scene(8.0))
    x = world.reference_v1[:, 0]
    np.testing.assert_allclose(
        np.diff(x)[:2], [0.8, 0.77], atol=1e-9
    )  # quirk: the lead of step 1 is zero
    assert x[-1] > 38.0
    np.testing.assert_array_equal(world.reference_v1, world.reference_v2)


def test_the_reference_stops_behind_a_standing_car_and_before_a_red_light():
    free = world_of(straight_scene(8.0)).reference_v1[-1, 0]
    blocked = with_object(straight_scene(8.0), "car", (25.0, 0.0))
    for lane in (0, 1):  # all three of its paths
        blocked = with_object(blocked, f"wide {lane}", (25.0, -1.0 + 2.0 * lane))
    stopped = world_of(blocked).reference_v1
    assert stopped[-1, 0] + 4.049 < 25.0 - 2.3 < free
    red = world_of(with_red_light(straight_scene(8.0), "own_j")).reference_v2
    assert red[-1, 0] + 4.049 < CROSS_M


def test_the_planner_ignores_what_overlaps_the_ego():
    scene = with_object(straight_scene(5.0), "inside", (4.0, 0.0))
    index = MapIndex.of(road())
    reference = plan_reference(
        planner_scene(scene, key_frame(scene.current), find_ground(scene, index), index)
    )
    assert reference.ignored == ("inside",)
    assert reference.poses_v1[-1, 0] > 10.0


def test_an_object_of_unknown_velocity_stands_in_the_forecast():
    scene = with_object(straight_scene(8.0), "car", (40.0, 0.0), (np.nan, 0.0), heading=0.0)
    still = with_object(straight_scene(8.0), "car", (40.0, 0.0), (0.0, 0.0), heading=0.0)
    frames = [
        replace(f, objects=replace(g.objects, velocities_mps=np.full((1, 3), np.nan)))
        for f, g in zip(scene.frames, still.frames, strict=True)
    ]
    np.testing.assert_array_equal(
        world_of(replace(scene, frames=tuple(frames))).reference_v1, world_of(still).reference_v1
    )


def test_both_twins_plan_the_same():
    scene = with_object(straight_scene(8.0), "car", (30.0, 0.5), (3.0, 0.0))
    scene = with_object(scene, "person", (25.0, -4.0), (0.0, 1.0), kind=ObjectClass.PEDESTRIAN)
    plans = []
    for name in ("numba", "numpy"):
        with backend.using(name):
            plans.append(world_of(scene))
    np.testing.assert_allclose(plans[0].reference_v1, plans[1].reference_v1, atol=1e-9)
    np.testing.assert_allclose(plans[0].reference_v2, plans[1].reference_v2, atol=1e-9)


@pytest.mark.parametrize("name", ["numba", "numpy"])
def test_distances_of_boxes_are_those_of_shapely(name):
    rng = np.random.default_rng(1)
    egos, quads = (_boxes(rng, n) + 4.5e6 for n in (6, 200))
    allowed = rng.random((6, 200)) < 0.8
    with backend.using(name):
        ours = quad_distances(egos, quads, allowed)
    theirs = shapely.distance(shapely.polygons(egos)[:, None], shapely.polygons(quads)[None])
    assert (theirs[allowed] == 0).any()
    assert (theirs[allowed] > 1).any()
    np.testing.assert_allclose(ours[allowed], theirs[allowed], atol=5e-9)
    assert np.isinf(ours[~allowed]).all()


@pytest.mark.skipif(
    backend.numba is None, reason="numba is not installed; shapely measures these distances then"
)
def test_distances_to_any_polygon_are_those_of_shapely():
    rng = np.random.default_rng(2)
    angles = np.linspace(0, 2 * np.pi, 9)[:-1]
    for box in _boxes(rng, 200):
        radius = rng.uniform(1.0, 9.0, 8)  # a star around the origin: not convex
        ring = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=-1)
        expected = shapely.distance(shapely.Polygon(box), shapely.Polygon(ring))
        assert ring_distance(box, ring) == pytest.approx(expected, abs=1e-12)


def _boxes(rng, n):
    yaw = rng.uniform(-4, 4, (n, 1))
    sides = rng.uniform(0.3, 3, (n, 2, 1))
    ahead = sides[:, 0] * np.concatenate([np.cos(yaw), np.sin(yaw)], axis=1)
    left = sides[:, 1] * np.concatenate([-np.sin(yaw), np.cos(yaw)], axis=1)
    corners = np.stack([ahead + left, left - ahead, -ahead - left, ahead - left], axis=1)
    return corners + rng.uniform(-15, 15, (n, 1, 2))


# ---------------------------------------------------------------- driver and identity


def test_history_stops_two_steps_before_now():
    world = world_of(straight_scene(8.0))
    assert world.history_states.shape == (14, 11)
    np.testing.assert_allclose(
        world.history_states[:, 0] + world.origin_m[0], 0.8 * np.arange(-15, -1), atol=1e-9
    )


def test_the_human_is_relative_and_unknown_for_synthetic_scenes():
    scene = straight_scene(8.0, start=(0.0, 0.0, 0.0))
    np.testing.assert_allclose(world_of(scene).human_poses[:, 0], 4.0 * np.arange(1, 9), atol=1e-9)
    renamed = replace(scene, frames=tuple(replace(f, token=f.token + "s") for f in scene.frames))
    world = world_of(renamed)
    assert world.is_synthetic
    assert not world.human_valid
    assert np.isnan(world.human_poses).all()


def test_the_scene_before_is_known_only_if_it_is_close_in_time():
    scene = straight_scene()
    assert world_of(scene).previous_token == scene.frames[2].token
    late = list(scene.frames)
    late[2] = replace(late[2], timestamp_us=late[2].timestamp_us - 60_000)
    assert world_of(replace(scene, frames=tuple(late))).previous_token == ""


def test_eight_future_frames_are_enough_for_v2_only():
    world = world_of(with_object(straight_scene(future=8), "car", (20.0, 0.0), (6.0, 0.0)))
    assert not world.has_v1
    assert world.object_corners.shape == (51, 1, 4, 2)
    assert world.object_valid_v2.all()
    assert not world.object_valid[41:].any()


def test_an_extended_future_takes_the_place_of_missing_frames():
    whole = with_object(straight_scene(), "car", (20.0, 0.0), (6.0, 0.0))
    short = replace(whole, frames=whole.frames[:4])
    rest = [key_frame(frame) for frame in whole.frames[4:]]
    world, other = world_of(whole), build(short, road(), extended=rest)
    np.testing.assert_array_equal(world.object_corners, other.object_corners)
    assert other.has_v1
    assert not other.human_valid


# ---------------------------------------------------------------- what cannot be scored


def broken(**changes):
    scene = straight_scene()
    frames = list(scene.frames)
    frames[3] = replace(frames[3], **changes)
    return replace(scene, frames=tuple(frames))


@pytest.mark.parametrize(
    ("scene", "reason"),
    [
        (straight_scene(future=7), "7 frames after it"),
        (straight_scene(route=()), "route is empty"),
        (straight_scene(route=("a", "nowhere")), "nowhere"),
        (broken(objects=None), "no annotations"),
        (broken(ego_velocity_mps=np.array([np.nan, 0.0])), "not finite"),
        (straight_scene(start=(5_000.0, 0.0, 0.0)), "no roads within 100 m"),
    ],
)
def test_a_scene_that_cannot_be_scored_says_why(scene, reason):
    world = build(scene, road())
    assert not world.valid
    assert reason in world.reason
    assert world.scene_token == scene.token
    assert round_trip(world).reason == world.reason


def test_a_map_without_lanes_is_named():
    empty = replace(road().lanes, ids=(), shapes=np.empty(0, object), group_ids=(), baselines=())
    world = build(straight_scene(route=("a",)), replace(road(), lanes=empty))
    assert not world.valid
    assert "no lanes" in world.reason


def test_a_map_with_broken_geometry_is_named():
    """Two roadblock connectors of the route, one of them a bow tie that GEOS refuses to intersect."""
    bow = shapely.Polygon([(50, -2), (90, 2), (90, -2), (50, 2)])
    whole = road().group_connectors
    shapes = np.array([*whole.shapes, bow], object)
    broken_layer = replace(
        whole, ids=("j", "k"), shapes=shapes, from_group_ids=("a", "b"), to_group_ids=("b", "w")
    )
    world = build(
        straight_scene(route=("a", "j", "b", "k", "w")),
        replace(road(), group_connectors=broken_layer),
    )
    assert not world.valid
    assert "not valid geometry" in world.reason


# ---------------------------------------------------------------- rows


def round_trip(world):
    spec = tables.TABLES["scene_worlds"]
    row = {"split": "test", "shard": 0, "made_by": "", **world.to_row()}
    return type(world).from_row(tables.to_rows(spec, tables.to_arrow(spec, [row]))[0])


def test_a_world_survives_its_table():
    scene = with_red_light(
        with_object(straight_scene(), "car", (20.0, 0.0), (6.0, 0.0), seen=(0, 1)), "own_j"
    )
    world = world_of(scene)
    again = round_trip(world)
    for name, value in world.to_row().items():
        other = getattr(again, name)
        assert type(other) is type(value), name
        if isinstance(value, np.ndarray):
            assert other.shape == value.shape, name
        np.testing.assert_array_equal(np.asarray(other), np.asarray(value), err_msg=name)


# ---------------------------------------------------------------- properties


@settings(max_examples=15, deadline=None)
@given(
    turn=st.floats(-3.1, 3.1),
    shift=st.tuples(st.floats(-4e6, 4e6), st.floats(-4e6, 4e6)),
    speed=st.floats(0.5, 14.0),
    gap=st.floats(12.0, 60.0),
)
def test_a_world_does_not_depend_on_where_the_map_lies(turn, shift, speed, gap):
    scene = with_object(straight_scene(speed), "car", (gap, 0.3), (2.0, 0.0))
    here = world_of(scene)
    far = build(moved_scene(scene, shift, turn), moved_map(straight_map(), shift, turn))
    assert far.valid, far.reason
    assert far.polygon_ids == here.polygon_ids or set(far.polygon_ids) == set(here.polygon_ids)
    assert far.route_lane_ids == here.route_lane_ids
    back = MapFrame(here, shift, turn)
    for name in ("object_corners", "centerline", "history_states"):
        np.testing.assert_allclose(back.points(far, name), back.home(name), atol=1e-7, err_msg=name)
    np.testing.assert_allclose(far.human_poses, here.human_poses, atol=1e-7)


class MapFrame:
    """Brings points of a moved world back to the map they came from."""

    def __init__(self, world, shift, turn):
        self.world, self.shift, self.turn = world, np.array(shift), turn

    def home(self, name):
        return getattr(self.world, name)[..., :2] + self.world.origin_m

    def points(self, far, name):
        from latentvla_core.geometry import rotate

        return rotate(getattr(far, name)[..., :2] + (far.origin_m - self.shift), -self.turn)


@settings(max_examples=25, deadline=None)
@given(
    seen=st.lists(st.integers(0, 10), min_size=1, max_size=6, unique=True), speed=st.floats(-5, 12)
)
def test_a_track_is_present_exactly_between_its_sightings(seen, speed):
    scene = with_object(
        straight_scene(), "car", (20.0, 7.0), (speed, 0.0), heading=0.3, seen=tuple(seen)
    )
    world = world_of(scene)
    column = int(np.flatnonzero(world.object_valid.any(axis=0))[0])
    steps = np.flatnonzero(world.object_valid[:, column])
    span = (0, 50) if len(seen) == 1 else (5 * min(seen), 5 * max(seen))
    assert (steps[0], steps[-1]) == span
    assert len(steps) == span[1] - span[0] + 1
    assert np.isnan(world.object_corners[:, column]).all(axis=(1, 2)).sum() == 51 - len(steps)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sets(st.integers(0, 10), min_size=1), min_size=1, max_size=6))
def test_v2_sees_what_nine_key_frames_alone_would_show(sightings):
    scene = straight_scene()
    for i, seen in enumerate(sightings):
        scene = with_object(
            scene, f"track {i}", (20.0 + 6 * i, 7.0), (2.0 + i, 1.0), seen=tuple(seen)
        )
    frames = [detections(frame) for frame in (scene.current, *scene.future)]
    both, alone = tracks(frames, 9), tracks(frames[:9], 9)
    seen_v2 = np.flatnonzero(both.valid_v2.any(axis=0))
    assert sorted(both.tokens[a] for a in seen_v2) == sorted(alone.tokens)
    order = [alone.tokens.index(both.tokens[a]) for a in seen_v2]
    np.testing.assert_array_equal(both.valid_v2[:, seen_v2], alone.valid[:, order])
    shown = both.valid_v2[:, seen_v2]
    np.testing.assert_array_equal(both.corners[:41, seen_v2][shown], alone.corners[:, order][shown])


def test_detections_undo_the_ego_frame():
    scene = with_object(
        straight_scene(start=(3.0, 1.0, 0.7)), "car", (9.0, 4.0), (1.0, 2.0), heading=-0.4
    )
    found = detections(scene.current)
    np.testing.assert_allclose(found.poses, [[9.0, 4.0, -0.4]])
    np.testing.assert_allclose(found.velocities_mps, [[1.0, 2.0]])
    assert isinstance(key_frame(scene.current), KeyFrame)
