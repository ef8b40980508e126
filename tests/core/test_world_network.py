"""Roads that connect, tile and stay the same for a seed; signals that take turns."""

import numpy as np
import pytest
import shapely

from latentvla_core.geometry import wrap
from latentvla_core.types import MAP_LOCATIONS
from latentvla_core.world.streets.layout import LayoutConfig
from latentvla_core.world.streets.lights import SignalCycle
from latentvla_core.world.streets.town import make_town

SEEDS = (0, 1, 2)


@pytest.fixture(
    scope="module", params=[(seed, place) for seed in SEEDS for place in MAP_LOCATIONS[:2]], ids=str
)
def town(request):
    seed, place = request.param
    return make_town(seed, place, LayoutConfig())


def paved(town):
    groups = [shapely.Polygon(b.outline_m) for b in town.blocks.values() if not b.is_connector]
    return shapely.unary_union(
        [*groups, *(shapely.Polygon(j.outline_m) for j in town.junctions.values())]
    )


def test_every_lane_leads_on_and_is_led_to(town):
    reached = {c.to_lane for c in town.lanes.values() if c.is_connector}
    assert all(town.successors[i] for i in town.lanes)
    assert reached == set(town.drive_lanes)


def test_one_can_drive_from_every_lane_to_every_other(town):
    start = town.drive_lanes[0]
    back = {i: [j for j in town.lanes if i in town.successors[j]] for i in town.lanes}
    for links in (town.successors, back):
        seen, queue = {start}, [start]
        while queue:
            new = [j for j in links[queue.pop()] if j not in seen]
            seen.update(new)
            queue += new
        # neighbours are reached by a lane change
        blocks = {town.lanes[i].block_id for i in seen}
        assert blocks >= {town.lanes[i].block_id for i in town.drive_lanes}


def test_connectors_join_their_lanes_smoothly(town):
    for c in (lane for lane in town.lanes.values() if lane.is_connector):
        before, after = town.lanes[c.from_lane], town.lanes[c.to_lane]
        assert np.allclose(c.path_m[0], before.path_m[-1])
        assert np.allclose(c.path_m[-1], after.path_m[0])
        assert abs(wrap(c.yaw_rad[0] - before.yaw_rad[-1])) < 0.12
        assert abs(wrap(c.yaw_rad[-1] - after.yaw_rad[0])) < 0.12
        assert np.abs(c.curvature_per_m).max() < 0.2  # a radius of 5 m


def test_polygons_are_valid_and_tile_what_cars_drive_on(town):
    shapes = [
        shapely.Polygon(o.outline_m)
        for o in (*town.blocks.values(), *town.lanes.values(), *town.junctions.values())
    ]
    assert all(s.is_valid and s.area > 1.0 for s in shapes)
    area = paved(town).buffer(1e-6)
    for lane in town.lanes.values():
        assert area.contains(shapely.LineString(lane.path_m).buffer(1.3, cap_style="flat")), lane.id


def test_a_lane_lies_in_its_block_and_next_to_its_neighbour(town):
    for lane_id in town.drive_lanes:
        lane = town.lanes[lane_id]
        assert (
            shapely.Polygon(town.blocks[lane.block_id].outline_m)
            .buffer(0.02)
            .contains(shapely.Polygon(lane.outline_m))
        )
        left, right = town.neighbours(lane_id)
        for other, side in ((left, 1), (right, -1)):
            if other:
                s, lateral = lane.project(town.lanes[other].pose_at(lane.length_m / 2)[:2])
                assert lateral == pytest.approx(side * 3.6, abs=0.05)


def test_ids_are_unique_over_all_layers(town):
    ids = [
        *town.lanes,
        *town.blocks,
        *town.junctions,
        *(c.id for c in town.crosswalks),
        *(w[0] for w in town.walkways),
    ]
    ids += [stop for j in town.junctions.values() for stop, _ in j.stop_lines.values()]
    assert len(ids) == len(set(ids))
    assert all(i.isdigit() for i in ids)


def test_baselines_have_the_vertices_that_the_reactive_traffic_of_the_devkit_needs(town):
    assert all(len(np.unique(lane.path_m, axis=0)) >= 3 for lane in town.lanes.values())


def test_conflicts_are_mutual_and_never_among_connectors_of_one_lane(town):
    for a, rivals in town.conflicts.items():
        assert all(a in town.conflicts[b] for b in rivals)
        assert all(town.lanes[a].from_lane != town.lanes[b].from_lane for b in rivals)


def test_towns_have_what_a_driver_meets():
    towns = [make_town(seed, place, LayoutConfig()) for seed in SEEDS for place in MAP_LOCATIONS]
    controls = {j.control for t in towns for j in t.junctions.values()}
    assert controls == {"signal", "stop", "priority", "merge", "crossing"}
    assert any(t.carparks for t in towns)
    assert any(t.cones_m for t in towns)
    assert any(len(b.lane_ids) == 2 for t in towns for b in t.blocks.values())
    assert any(b.parking_m for t in towns for b in t.blocks.values())


def test_the_same_seed_gives_the_same_town_and_another_seed_another():
    make_town.cache_clear()
    a = make_town(5, MAP_LOCATIONS[0], LayoutConfig())
    make_town.cache_clear()
    b = make_town(5, MAP_LOCATIONS[0], LayoutConfig())
    c = make_town(6, MAP_LOCATIONS[0], LayoutConfig())
    assert a is not b
    assert a.lanes.keys() == b.lanes.keys()
    assert all(np.array_equal(a.lanes[i].path_m, b.lanes[i].path_m) for i in a.lanes)
    assert not np.array_equal(
        a.junctions[next(iter(a.junctions))].center_m, c.junctions[next(iter(c.junctions))].center_m
    )


@pytest.mark.parametrize(("columns", "rows"), [(1, 4), (2, 2)])
def test_a_town_without_junctions_is_refused(columns, rows):
    with pytest.raises(ValueError, match="3 x 2"):
        LayoutConfig(columns=columns, rows=rows)


def test_the_smallest_town_can_be_driven_in():
    town = make_town(0, MAP_LOCATIONS[0], LayoutConfig(columns=3, rows=2))
    assert len(town.drive_lanes) >= 6
    assert all(town.successors[i] for i in town.lanes)


def test_the_signal_groups_take_turns_with_yellow_and_a_pause_between_them():
    cycle = SignalCycle(green_s=(10.0, 8.0), offset_s=3.0)
    times = np.arange(0, 2 * cycle.period_s, 0.1)
    shown = [(cycle.colour(0, t), cycle.colour(1, t)) for t in times]
    assert all("red" in pair for pair in shown)  # never both may go
    order = [a for a, b in zip(shown, shown[1:], strict=False) if a != b]
    following = {
        ("green", "red"): ("yellow", "red"),
        ("yellow", "red"): ("red", "red"),
        ("red", "green"): ("red", "yellow"),
    }
    for now, then in zip(order, order[1:], strict=False):
        assert then == following.get(now, then)
    assert set(shown) == {
        ("green", "red"),
        ("yellow", "red"),
        ("red", "red"),
        ("red", "green"),
        ("red", "yellow"),
    }


def test_until_green_counts_down_to_the_green():
    cycle = SignalCycle(green_s=(10.0, 8.0), offset_s=11.0)  # group 0 shows yellow
    wait = cycle.until_green_s(0, 0.0)
    assert cycle.colour(0, wait - 0.05) == "red"
    assert cycle.colour(0, wait + 0.05) == "green"
    assert cycle.until_green_s(0, wait + 1.0) == 0.0


@pytest.mark.parametrize("group", [0, 1])
def test_a_cycle_can_be_shifted_so_that_a_light_turns_red_at_a_time(group):
    cycle = SignalCycle(green_s=(10.0, 8.0), offset_s=2.0).turning_red_at(group, 7.5)
    assert cycle.colour(group, 7.4) == "yellow"
    assert cycle.colour(group, 7.6) == "red"
    assert cycle.colour(group, 4.0) == "green"
