"""What the world looks up instead of computing is what it would have computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_world_simulate import simulation

from latentvla_core.world.actors.driving import (
    STYLES,
    Bends,
    Driver,
    ahead,
    center_pose,
    move,
    wished_speed,
)
from latentvla_core.world.actors.traffic import zebras
from latentvla_core.world.simulate import SIGHT_M, Simulation


@pytest.fixture(scope="module")
def moments() -> list[tuple[Simulation, list[tuple[Driver, float]]]]:
    """Two towns after a while, and every driver there with the speed it wishes."""
    found = []
    for kind, seed in (("turn_left", 1), ("curve", 4)):
        sim = simulation(kind, seed)
        for _ in range(25):
            sim.step(look=False)
        wishes = [(d, wished_speed(d, sim.network, sim.time_s)) for d in sim.traffic.drivers]
        found.append((sim, wishes))
    return found


def slow_wish(driver: Driver, sim: Simulation) -> float:
    """The wished speed from every vertex within 45 m, one after the other."""
    style, wish = driver.style, driver.style.max_speed_mps
    for lane, start in ahead(driver, sim.network, 45.0):
        straight = (lane.speed_limit_mps * style.speed_factor) ** 2
        if style.lateral_mps2 > straight * lane.peak_curvature_per_m:
            wish = min(wish, (straight + 1.5 * style.decel_mps2 * max(start, 0.0)) ** 0.5)
            continue
        bends = style.lateral_mps2 / np.maximum(np.abs(lane.curvature_per_m), 1e-4)
        for s, square in zip(lane.s_m, np.minimum(bends, straight), strict=True):
            if -1.0 <= s + start < 45.0:
                room = 1.5 * style.decel_mps2 * max(s + start, 0.0)
                wish = min(wish, float(square + room) ** 0.5)
    for begin, end, limit in driver.slow_until:
        wish = min(wish, limit) if begin <= sim.time_s < end else wish
    return wish


def test_the_wished_speed_is_that_of_every_vertex_ahead(moments):
    bent = 0
    for sim, wishes in moments:
        for driver, wish in wishes:
            assert wish == pytest.approx(slow_wish(driver, sim), rel=1e-12)
            bent += wish < driver.lane(sim.network).speed_limit_mps * 0.8
    assert bent > 5  # some of them brake for a bend


def test_every_style_has_bends_of_its_own(moments):
    sim, _ = moments[0]
    lane = max(sim.network.lanes.values(), key=lambda a: a.peak_curvature_per_m)
    calm, brisk = (Bends.of(lane, STYLES[name]) for name in ("calm", "brisk"))
    assert calm.slowest < brisk.slowest and calm.gain_mps2 < brisk.gain_mps2
    softer = replace(STYLES["calm"], decel_mps2=0.5)
    assert softer.bend_key != STYLES["calm"].bend_key
    assert softer.root_mps2 == pytest.approx(2 * (1.1 * 0.5) ** 0.5)


def test_a_way_that_is_known_changes_no_decision(moments):
    for sim, wishes in moments:
        sim.traffic.observe(sim.colours)
        for driver, wish in wishes:
            way = ahead(driver, sim.network)
            assert wished_speed(driver, sim.network, sim.time_s, way) == wish
            alone = sim.traffic.acceleration(driver, sim.time_s)
            assert sim.traffic.acceleration(driver, sim.time_s, way) == alone
            sim.traffic.nudge(driver)
            goal = driver.lateral_goal_m
            sim.traffic.nudge(driver, way)
            assert driver.lateral_goal_m == goal


def test_a_shorter_reach_is_the_first_part_of_a_longer_one(moments):
    for sim, wishes in moments:
        for driver, _ in wishes:
            whole = ahead(driver, sim.network, 70.0)
            for reach in (28.0, 45.0, 55.0):
                first = [(lane, start) for lane, start in whole if start <= reach]
                assert ahead(driver, sim.network, reach) == first


def test_cars_that_come_to_one_crosswalk_are_those_of_all(moments):
    for sim, _ in moments:
        every = sim.traffic.approaches(range(len(sim.network.crosswalks)))
        assert every
        for crosswalk, cars in every.items():
            assert sim.traffic.approaches({crosswalk}) == {crosswalk: cars}
        assert sim.traffic.approaches(()) == {}


def test_crosswalks_of_a_network_are_found_once(moments):
    sim, _ = moments[0]
    assert zebras(sim.network) is sim.traffic.zebras
    assert zebras(moments[1][0].network) is not sim.traffic.zebras


def test_who_is_in_sight_is_seen_and_nobody_else(moments):
    for sim, _ in moments:
        seen = {a.token for a in sim.snapshot().actors}
        center = sim.ego.center_m()

        def near(xy: np.ndarray, center: np.ndarray = center) -> bool:
            return bool(np.hypot(*(xy[:2] - center)) < SIGHT_M)

        others = [d for d in sim.traffic.drivers if d is not sim.driver]
        wanted = {d.token for d in others if near(center_pose(d, sim.network))}
        wanted |= {w.token for w in sim.scenario.walkers if near(w.pose())}
        wanted |= {a.token for a in sim.still if near(a.pose)}
        assert seen == wanted


def test_who_keeps_to_the_middle_swings_no_more_and_ends_its_lane_change(moments):
    sim, _ = moments[0]
    driver = next(d for d in sim.traffic.drivers if d is not sim.driver)
    driver.lateral_m = driver.lateral_goal_m = driver.lateral_mps = 0.0
    driver.shadow, driver.s_m = driver.chain[driver.at], 1.0
    move(driver, sim.network, 0.0)
    assert (driver.lateral_m, driver.lateral_mps, driver.shadow) == (0.0, 0.0, "")
    driver.lateral_goal_m, driver.speed_mps = 0.55, 8.0
    move(driver, sim.network, 0.0)
    assert driver.lateral_m > 0.0
