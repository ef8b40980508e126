"""A town that drives: nobody touches the ego, red is red, people are waited for; and the ego can be
steered from outside.
"""

import numpy as np
import pytest
import shapely

from latentvla_core.geometry import box_corners
from latentvla_core.types import MAP_LOCATIONS, ObjectClass
from latentvla_core.world.actors.driving import STYLES, Style, idm
from latentvla_core.world.actors.ego import EgoControl, EgoState
from latentvla_core.world.scenario import KINDS, TrafficConfig, make_scenario
from latentvla_core.world.session import ego_corners
from latentvla_core.world.simulate import Simulation
from latentvla_core.world.streets.layout import LayoutConfig
from latentvla_core.world.streets.network import RoadNetwork
from latentvla_core.world.streets.town import make_town, parked_actors

SECONDS = 11


def simulation(kind: str, seed: int, style: str = "normal") -> Simulation:
    town = make_town(seed, MAP_LOCATIONS[seed % 4], LayoutConfig())
    rng = np.random.default_rng(seed)
    scenario = make_scenario(town, kind, style, rng, TrafficConfig(), 2.0)
    return Simulation(scenario, rng, parked_actors(town, rng))


def drivable(town: RoadNetwork):
    groups = [shapely.Polygon(b.outline_m) for b in town.blocks.values() if not b.is_connector]
    return shapely.unary_union(
        [*groups, *(shapely.Polygon(j.outline_m) for j in town.junctions.values())]
    ).buffer(1e-6)


def entered_red(sim: Simulation, before: tuple[str, str]) -> bool:
    """Whether the ego's front crossed a stop line in this step although the light was red."""
    lane, colour = before
    now = sim.driver.chain[sim.driver.at]
    return now != lane and sim.network.lanes[now].is_connector and colour == "red"


@pytest.fixture(scope="module", params=list(enumerate(KINDS)), ids=lambda p: p[1])
def drive(request):
    """One drive per kind of scenario, with what was seen at every step."""
    seed, kind = request.param
    sim = simulation(kind, seed + 10, list(STYLES)[seed % 3])
    seen, ego, grants = [], [], []
    for _ in range(SECONDS * 10):
        seen.append(sim.step())
        ego.append((sim.ego.speed_mps, sim.ego.accel_mps2, sim.ego.curvature_per_m))
        held = {c: d for d in sim.traffic.drivers for c in d.grants}
        grants += [
            (c, r)
            for c, d in held.items()
            for r in sim.network.conflicts[c]
            if r in held and held[r] is not d
        ]
    return sim, seen, np.array(ego), grants


def test_the_ego_touches_nobody(drive):
    _, seen, _, _ = drive
    for snapshot in seen:
        ego = shapely.Polygon(ego_corners(snapshot.ego_pose))
        for actor in snapshot.actors:
            box = shapely.Polygon(
                box_corners(actor.pose[None], actor.size_m[0], actor.size_m[1])[0]
            )
            assert not box.intersects(ego), (actor.token, snapshot.time_s)


def test_the_ego_stays_on_the_road(drive):
    sim, seen, _, _ = drive
    area = drivable(sim.network)
    assert all(area.contains(shapely.Polygon(ego_corners(s.ego_pose))) for s in seen)


def test_the_ego_drives_comfortably(drive):
    _, _, ego, _ = drive
    speed, accel, curvature = ego.T
    assert accel.min() > -4.05
    assert accel.max() < 2.40
    assert np.abs(speed**2 * curvature).max() < 4.0
    assert np.abs(speed * curvature).max() < 0.95
    assert speed.max() < 15.0


def test_conflicting_connectors_are_never_granted_together(drive):
    assert not drive[3]


def test_moving_cars_do_not_drive_through_each_other(drive):
    _, seen, _, _ = drive
    for snapshot in seen[::5]:
        cars = [a for a in snapshot.actors if a.cls == ObjectClass.VEHICLE]
        boxes = [
            shapely.Polygon(box_corners(a.pose[None], a.size_m[0] - 0.3, a.size_m[1] - 0.3)[0])
            for a in cars
        ]
        pairs = shapely.STRtree(boxes).query(boxes, predicate="intersects").T if boxes else []
        assert all(i == j for i, j in pairs), snapshot.time_s


@pytest.mark.parametrize("seed", [3, 9])
def test_the_ego_stops_for_a_light_that_turns_red(seed):
    sim = simulation("red_light", seed)
    stopped = False
    for _ in range(130):
        lane = sim.driver.chain[sim.driver.at]
        following = sim.driver.chain[sim.driver.at + 1]
        before = (lane, sim.colours.get(following, "none"))
        sim.step(look=False)
        assert not entered_red(sim, before)
        stopped |= sim.ego.speed_mps < 0.1 and before[1] == "red"
    assert stopped


def test_drivers_wait_for_a_pedestrian_until_he_has_passed():
    sim = simulation("crossing", 3)
    connector = next(c for c in sim.driver.chain if sim.traffic.zebras.get(c))
    zebra = sim.traffic.zebras[connector][0]
    walker = sim.scenario.walkers[0]
    path = sim.network.crosswalks[zebra.crosswalk].path_m
    walker.path_m = np.array([path[0] - 1.0, path[0], path[1], path[1] + 1.0])
    walker.crosswalk, walker.phase, walker.leg = zebra.crosswalk, "crossing", 1
    others = [w for w in sim.scenario.walkers if w is not walker and w.crosswalk == zebra.crosswalk]
    for other in others:
        other.phase = "kerb"
    walker.along_m = zebra.across_m - 4.0
    assert sim.traffic._people_on(zebra, sim.driver)
    walker.along_m = zebra.across_m + 4.0
    assert not sim.traffic._people_on(zebra, sim.driver)


def test_people_cross_and_the_ego_lets_them():
    sims = [simulation("crossing", seed) for seed in (1, 2)]
    crossed = 0
    for sim in sims:
        for _ in range(110):
            sim.step(look=False)
            crossed += sum(w.phase == "crossing" for w in sim.scenario.walkers)
    assert crossed > 30


def test_a_lead_that_brakes_makes_the_ego_brake():
    sim = simulation("follow", 10)
    lead = next(d for d in sim.traffic.drivers if d.token == "lead")
    lights, slowest = False, np.inf
    for _ in range(110):
        snapshot = sim.step()
        lights |= any(a.token == "lead" and a.brake_lights for a in snapshot.actors)
        slowest = min(slowest, sim.ego.speed_mps)
    assert lights
    assert slowest < 5.0
    assert lead.slow_until


def test_turning_cars_indicate():
    sim = simulation("turn_left", 2)
    shown = {a.indicator for _ in range(80) for a in sim.step().actors}
    assert shown >= {"off", "left"} or shown >= {"off", "right"}


def test_the_ego_obeys_whoever_drives_it():
    sim = simulation("curve", 4)
    start = sim.ego.speed_mps
    for _ in range(10):
        sim.step(EgoControl(accel_mps2=1.0, steering_rad=0.0))
    assert sim.ego.speed_mps == pytest.approx(start + 1.0)
    for _ in range(60):
        sim.step(EgoControl(accel_mps2=-5.0, steering_rad=0.0))
    assert sim.ego.speed_mps == 0.0


def test_an_ego_far_from_its_chain_is_found_on_another_lane():
    sim = simulation("curve", 4)
    target = sim.network.lanes[
        next(i for i in sim.network.drive_lanes if i not in sim.driver.chain)
    ]
    x, y, yaw = target.pose_at(target.length_m / 2)
    sim.ego.pose = np.array([x, y, yaw])
    sim.step(EgoControl(accel_mps2=0.0, steering_rad=0.0))
    assert sim.network.lanes[sim.driver.chain[sim.driver.at]].block_id == target.block_id


def test_the_bicycle_model_turns_on_a_circle():
    state = EgoState(np.zeros(3), 5.0, steering_rad=np.arctan(3.089 / 20.0))
    for _ in range(round(2 * np.pi * 20.0 / 0.5)):
        state.advance(EgoControl(accel_mps2=0.0, steering_rad=state.steering_rad))
    assert np.abs(state.pose[:2]).max() < 0.4  # back at the start


def test_idm_keeps_its_headway_and_stops_before_a_standing_car():
    style = Style()
    assert idm(style, 10.0, 10.0, []) == pytest.approx(0.0)
    assert idm(style, 0.0, 10.0, []) == pytest.approx(style.accel_mps2)
    assert idm(style, 10.0, 10.0, [(8.0, 10.0, 2.4)]) < -1.0
    speed, gap = 10.0, 60.0
    for _ in range(400):
        accel = idm(style, speed, 10.0, [(gap, 0.0, 2.4)])
        gap -= speed * 0.1
        speed = max(0.0, speed + 0.1 * accel)
    assert speed < 0.05
    assert 1.5 < gap < 3.5


def test_the_same_seed_drives_the_same():
    a, b = simulation("merge", 6), simulation("merge", 6)
    for _ in range(25):
        x, y = a.step(), b.step()
    assert np.array_equal(x.ego_pose, y.ego_pose)
    assert [t.token for t in x.actors] == [t.token for t in y.actors]
    assert all(np.array_equal(t.pose, u.pose) for t, u in zip(x.actors, y.actors, strict=True))
