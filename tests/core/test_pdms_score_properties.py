"""What must hold in any world: random roads, traffic and plans, compared with themselves seen
differently.
"""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pdms_little_worlds import (
    CAR,
    CONE,
    PERSON,
    seen_from,
    straight_road,
    with_intersection,
    with_object,
    with_red_light,
)

from latentvla_core.pdms import backend
from latentvla_core.pdms.contacts import collisions
from latentvla_core.pdms.metrics import SUB_SCORES
from latentvla_core.pdms.roads import progress, road
from latentvla_core.pdms.roads.road_kernels import box_meets_ring
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.pdms.state import Obstacles, RedLights, RoadPolygons
from latentvla_core.types import ObjectClass

SEEDS = st.integers(0, 2**32 - 1)
KINDS = [
    (ObjectClass.VEHICLE, CAR),
    (ObjectClass.PEDESTRIAN, PERSON),
    (ObjectClass.TRAFFIC_CONE, CONE),
]
few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
METRICS = pytest.mark.parametrize("metric", ["pdms", "epdms"])


def random_world(rng, token="now"):
    speed = rng.uniform(0, 12)
    world = straight_road(speed, token=token, human_speed=rng.uniform(0, 12))
    for _ in range(rng.integers(0, 6)):
        kind, size = KINDS[rng.integers(len(KINDS))]
        velocity = rng.normal(0, 4, 2) * (kind != ObjectClass.TRAFFIC_CONE)
        world = with_object(world, rng.uniform([-15, -6], [45, 9]), velocity, size=size, kind=kind)
    if rng.random() < 0.5:
        world = with_intersection(world, rng.uniform(-5, 15), rng.uniform(16, 60))
    if rng.random() < 0.5:
        world = with_red_light(
            world, rng.uniform(3, 20), rng.uniform(21, 40), from_step=int(rng.integers(0, 40))
        )
    shifted = world.ego_state.copy()
    shifted[1:3] = rng.normal(0, [0.8, 0.1])
    return replace(world, ego_state=shifted)


def random_plans(rng, count):
    t = np.arange(1, 9) * 0.5
    speed, bend = rng.uniform(-1, 12, (count, 1)), rng.normal(0, 0.02, (count, 1))
    along = speed * t + rng.normal(0, 0.5, (count, 1)) * t**2
    return np.stack([along, bend * along**2 / 2, np.arctan(bend * along)], axis=-1)


def assert_equal_tables(a, b, order=None, atol=1e-7):
    for name in (*SUB_SCORES[a.metric], "score"):
        theirs = b[name] if order is None else b[name][order]
        np.testing.assert_allclose(a[name], theirs, rtol=0, atol=atol, err_msg=name)


@METRICS
@few
@given(SEEDS, st.floats(-3.1, 3.1), st.floats(-2000, 2000), st.floats(-2000, 2000))
def test_turning_and_moving_the_world_changes_nothing(metric, seed, turn, east, north):
    rng = np.random.default_rng(seed)
    world, plans = random_world(rng), random_plans(rng, 4)
    here = score_trajectories([world], plans[None], metric=metric)
    there = score_trajectories([seen_from(world, (east, north), turn)], plans[None], metric=metric)
    assert_equal_tables(here, there)


@METRICS
@few
@given(SEEDS)
def test_a_batch_is_the_sum_of_its_members(metric, seed):
    rng = np.random.default_rng(seed)
    worlds = [random_world(rng, str(i)) for i in range(3)]
    plans = [random_plans(rng, 3) for _ in worlds]
    together = score_trajectories(worlds, plans, metric=metric)
    for i, (world, plan) in enumerate(zip(worlds, plans, strict=True)):
        for k in range(3):
            alone = score_trajectories([world], plan[k][None], metric=metric)
            for name in (*SUB_SCORES[metric], "score"):
                np.testing.assert_array_equal(
                    alone[name], together[name][3 * i + k : 3 * i + k + 1]
                )


@METRICS
@few
@given(SEEDS)
def test_the_order_of_scenes_and_plans_does_not_matter(metric, seed):
    rng = np.random.default_rng(seed)
    worlds = [random_world(rng, str(i)) for i in range(3)]
    worlds[2] = replace(
        worlds[2], previous_token="0", timestamp_us=worlds[0].timestamp_us + 500_000
    )
    plans, names = np.stack([random_plans(rng, 4) for _ in worlds]), [("a", "b", "c", "d")] * 3
    first = score_trajectories(worlds, plans, metric=metric, trajectory_ids=names)
    scenes, inner = rng.permutation(3), rng.permutation(4)
    turned = score_trajectories(
        [worlds[i] for i in scenes],
        plans[scenes][:, inner],
        metric=metric,
        trajectory_ids=[tuple(np.array(names[0])[inner])] * 3,
    )
    key = {
        pair: i for i, pair in enumerate(zip(turned.scene_token, turned.trajectory_id, strict=True))
    }
    order = [key[pair] for pair in zip(first.scene_token, first.trajectory_id, strict=True)]
    assert_equal_tables(first, turned, order, atol=0)


@METRICS
@few
@given(SEEDS)
def test_more_obstacles_never_help(metric, seed):
    rng = np.random.default_rng(seed)
    world, plans = random_world(rng), random_plans(rng, 4)
    world = replace(world, human_valid=False)
    before = score_trajectories([world], plans[None], metric=metric)
    fuller = with_object(world, rng.uniform([0, -3], [40, 3]), rng.normal(0, 3, 2))
    after = score_trajectories([fuller], plans[None], metric=metric)
    for name in ("no_at_fault_collisions", "time_to_collision_within_bound"):
        assert (after[name] <= before[name]).all()


@METRICS
@few
@given(SEEDS)
def test_numba_and_numpy_agree(metric, seed):
    rng = np.random.default_rng(seed)
    worlds = [random_world(rng, str(i)) for i in range(2)]
    plans = [random_plans(rng, 3) for _ in worlds]
    with backend.using("numpy"):
        slow = score_trajectories(worlds, plans, metric=metric)
    with backend.using("numba"):
        assert_equal_tables(score_trajectories(worlds, plans, metric=metric), slow, atol=1e-9)


@few
@given(SEEDS)
def test_sub_scores_take_their_values_only(seed):
    rng = np.random.default_rng(seed)
    for metric in ("pdms", "epdms"):
        table = score_trajectories([random_world(rng)], random_plans(rng, 5)[None], metric=metric)
        assert ((table["score"] >= 0) & (table["score"] <= 1)).all()
        assert set(table["no_at_fault_collisions"]) <= {0.0, 0.5, 1.0}
        assert set(table["driving_direction_compliance"]) <= {0.0, 0.5, 1.0}
        assert set(table["drivable_area_compliance"]) <= {0.0, 1.0}
        assert ((table["ego_progress"] >= 0) & (table["ego_progress"] <= 1)).all()


# ---------------------------------------------------------------- kernels against shapely


def random_polygon(rng, points=9):
    """(n, 2) star-shaped ring, not convex in general."""
    angle = (
        (np.arange(points) + rng.uniform(0, 0.9, points)) * 2 * np.pi / points
    )  # no gap of half a turn: no crossing
    radius = rng.uniform(1, 8, points)[:, None]
    return rng.uniform(-4, 4, 2) + radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


@few
@given(SEEDS)
def test_points_in_polygons_are_shapelys(seed):
    rng = np.random.default_rng(seed)
    rings = [random_polygon(rng) for _ in range(4)]
    roads = RoadPolygons(
        np.array([0, 1, 2, 3], np.int8),
        np.array([False, False, True, False]),
        np.concatenate(rings),
        np.arange(5) * 9,
        np.arange(5),
    )
    states = np.zeros((5, 41, 11))
    states[..., :2], states[..., 2] = rng.uniform(-8, 8, (5, 41, 2)), rng.uniform(-3, 3, (5, 41))
    block, lane, connector, cross = (shapely.Polygon(ring) for ring in rings)
    points = road.ego_points(states)
    held = [
        shapely.contains_xy(p, points[..., 0], points[..., 1])
        for p in (block, lane, connector, cross)
    ]
    corners = [h[..., :4] for h in held]
    for name in ("numba", "numpy"):
        with backend.using(name):
            areas = road.ego_areas(states, road.index_roads(roads))
        np.testing.assert_array_equal(areas.non_drivable, ~(corners[0] | corners[3]).all(-1))
        np.testing.assert_array_equal(areas.oncoming, ~held[2][..., 4])
        np.testing.assert_array_equal(areas.center_in_intersection, held[3][..., 4])
        rear = shapely.contains_xy(cross, states[..., 0], states[..., 1])
        np.testing.assert_array_equal(areas.rear_in_intersection, rear)
        both = corners[1].any(-1) & corners[2].any(-1) & ~corners[1].all(-1) & ~corners[2].all(-1)
        np.testing.assert_array_equal(areas.multiple_lanes, both)


def test_a_point_on_an_edge_or_a_corner_is_outside():
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]], float)
    roads = RoadPolygons(
        np.array([3], np.int8), np.zeros(1, bool), square, np.array([0, 5]), np.array([0, 1])
    )
    at = np.array(
        [[0, 0], [4, 4], [2, 0], [4, 2], [2, 4], [0, 2], [2, 2], [1e-9, 1e-9], [-1e-9, 2], [4, 0]]
    )
    states = np.zeros((1, len(at), 11))
    states[0, :, :2] = at
    for name in ("numba", "numpy"):
        with backend.using(name):
            inside = road.ego_areas(states, road.index_roads(roads)).rear_in_intersection[0]
        assert inside.tolist() == [False] * 6 + [True, True, False, False]


@few
@given(SEEDS)
def test_boxes_that_touch_are_shapelys(seed):
    rng = np.random.default_rng(seed)
    world = straight_road()
    for _ in range(8):
        world = with_object(
            world, rng.uniform(-9, 9, 2), rng.normal(0, 3, 2), heading=rng.uniform(-3, 3)
        )
    traffic = Obstacles.of(
        world.object_corners, world.object_valid, world.object_classes, world.object_speed_mps
    )
    states = np.zeros((3, 41, 11))
    states[..., :2], states[..., 2] = rng.uniform(-9, 9, (3, 41, 2)), rng.uniform(-3, 3, (3, 41))
    states[..., 3] = 5.0
    boxes = shapely.polygons(world.object_corners[:41])
    ego = shapely.polygons(road.ego_points(states)[..., :4, :])
    touch = shapely.intersects(ego[..., None], boxes)  # (3, 41, 8)
    expected = np.where(touch.any(1), touch.argmax(1), -1)
    for name in ("numba", "numpy"):
        with backend.using(name):
            steps, _ = collisions._contacts(
                collisions.ego_motion(states), np.zeros((3, 41), bool), traffic
            )
        np.testing.assert_array_equal(steps, expected)


@few
@given(SEEDS)
def test_red_polygons_meet_the_ego_as_shapely_says(seed):
    rng = np.random.default_rng(seed)
    rings = [random_polygon(rng) for _ in range(3)]
    lights = RedLights(np.concatenate(rings), np.arange(4) * 9, rng.random((41, 3)) < 0.2)
    states = np.zeros((6, 41, 11))
    states[..., :2], states[..., 2] = rng.uniform(-14, 14, (6, 41, 2)), rng.uniform(-3, 3, (6, 41))
    with backend.using("numba"):
        fast = road.traffic_light_compliance(states, lights)
    with backend.using("numpy"):
        np.testing.assert_array_equal(road.traffic_light_compliance(states, lights), fast)


def test_a_box_around_or_inside_a_polygon_meets_it():
    box = np.array([[2, 1], [-2, 1], [-2, -1], [2, -1]], float)
    assert box_meets_ring(box, box * 0.1)
    assert box_meets_ring(box, box * 10)
    assert box_meets_ring(box, box + [4.0, 0.0])
    assert not box_meets_ring(box, box + [4.001, 0.0])


@few
@given(SEEDS)
def test_projection_and_distance_are_shapelys(seed):
    rng = np.random.default_rng(seed)
    line = np.cumsum(rng.normal(0, 3, (40, 2)), axis=0)
    line[10] = line[9]  # a repeated vertex, as where two lanes meet
    points = rng.uniform(-20, 20, (30, 2))
    there = shapely.LineString(line)
    for name in ("numba", "numpy"):
        with backend.using(name):
            far = progress.distances(points, line)
            along = progress.project(points, line)
        np.testing.assert_allclose(far, shapely.distance(there, shapely.points(points)), atol=1e-9)
        np.testing.assert_allclose(
            along, shapely.line_locate_point(there, shapely.points(points)), atol=1e-9
        )
