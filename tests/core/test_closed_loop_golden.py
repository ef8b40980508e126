"""Real drives with official scores: the closed-loop rules of fault, and nuPlan's tolerance, on the
golden scenes of the devkit.

The devkit scores 4 s of a plan that its tracker has driven through the log; the same driven states
go through the closed-loop scores here. NC is the same rule in both; the drivable area has 0.3 m of
tolerance in nuPlan's closed loop and none in the devkit.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import shapely
from pdms_golden import needs_golden, plans, row_of, table, worlds

from latentvla_core.closed_loop.scenes.route import Route
from latentvla_core.closed_loop.scores import comfort, contacts
from latentvla_core.closed_loop.scores import road as on_road
from latentvla_core.closed_loop.scores.drive import Actors, Drive, Ground
from latentvla_core.pdms.measure import drive as driven
from latentvla_core.pdms.measure import road_polygons
from latentvla_core.pdms.state import DRIVABLE
from latentvla_core.pdms.world import World

pytestmark = pytest.mark.slow

PLANS = ("human", "pdm_closed")
MORE = 3
"""Other plans of every scene that are driven too."""


def ground(world: World) -> Ground:
    roads = road_polygons(world)
    shells = [
        world.ring_vertices[world.ring_offsets[r] : world.ring_offsets[r + 1]]
        for r in world.polygon_ring_offsets[:-1]
    ]
    shapes = np.array([shapely.make_valid(shapely.Polygon(s)) for s in shells], object)
    area = shapely.union_all(shapes[np.isin(world.polygon_layers, DRIVABLE)])
    return Ground((), np.zeros(0, object), area, roads, (), Route.of(_distinct(world.centerline)))


def _distinct(center: np.ndarray) -> np.ndarray:
    xy = center[:, :2]
    return xy[np.concatenate([[True], np.linalg.norm(np.diff(xy, axis=0), axis=1) > 1e-3])]


def actors(world: World) -> Actors:
    corners = np.where(world.object_valid[:41, :, None, None], world.object_corners[:41], np.nan)
    ahead = corners[..., 0, :] - corners[..., 1, :]
    yaw = np.arctan2(ahead[..., 1], ahead[..., 0])
    first = world.object_corners[
        world.object_valid.argmax(axis=0), np.arange(len(world.object_tokens))
    ]
    sizes = [np.linalg.norm(first[:, i] - first[:, i + 1], axis=1) for i in (0, 1)]
    poses = np.concatenate([corners.mean(axis=2), yaw[..., None]], axis=-1)
    speed = np.broadcast_to(world.object_speed_mps, poses.shape[:2])
    return Actors(
        world.object_tokens, world.object_classes, np.nan_to_num(np.stack(sizes, 1)), poses, speed
    )


@cache
def compared() -> dict[str, np.ndarray]:
    """Term → (n, 2) ours and the devkit's of some plans of every scene, and their `names` (n,)."""
    official, where = table("pdms_v1"), row_of("pdms_v1")
    found: dict[str, list] = {name: [] for name in (*OFFICIAL, "names")}
    for world in worlds():
        ids, poses = plans()[world.scene_token]
        chosen = [k for k, i in enumerate(ids) if i in PLANS][: len(PLANS)]
        chosen += [k for k in range(len(ids)) if k not in chosen][:: max(1, len(ids) // MORE)]
        if not world.valid or not world.has_v1:
            continue
        states = driven(world, world.reference_v1, poses[chosen], 0.5)[1:]
        around, below = actors(world), ground(world)
        for k, path in zip(chosen, states, strict=True):
            row = where[world.scene_token, ids[k]]
            for name, ours in terms(Drive(path, around, [{}] * 41, below)).items():
                found[name].append((ours, float(official[OFFICIAL[name]][row])))
            found["names"].append(str(ids[k]))
    return {name: np.array(column) for name, column in found.items()}


OFFICIAL = {
    "nc": "no_at_fault_collisions", "dac": "drivable_area_compliance",
    "ttc": "time_to_collision_within_bound", "comfort": "comfort",
}  # fmt: skip
"""Term → its column in the devkit's table."""


def terms(d: Drive) -> dict[str, float]:
    """Closed-loop terms that need no lanes, of 4 s."""
    risky = contacts.careless(d)
    found = contacts.contacts(d, risky)
    return {
        "nc": contacts.no_at_fault_collisions(d, found, 40).value,
        "dac": on_road.drivable_area(on_road.off_road(d), 40).value,
        "ttc": contacts.time_to_collision(contacts.times_to_collision(d, found, risky), 40).value,
        "comfort": comfort.comfort(comfort.uncomfortable(d.states), 40).value,
    }


@needs_golden
def test_faults_and_the_drivable_area_agree_with_the_devkit_on_real_drives():
    rows = compared()
    (nc, official_nc), (dac, official_dac) = rows["nc"].T, rows["dac"].T
    assert len(nc) > 600 and (official_nc < 1).sum() > 30 and (official_dac < 1).sum() > 30
    human = rows["names"] == "human"
    # What touches the ego at the first step is nobody's fault here; the devkit counts it.
    assert (nc == official_nc)[human].mean() >= 0.95
    assert (nc == official_nc).mean() >= 0.95
    assert (nc >= official_nc).mean() >= 0.985
    assert (dac >= official_dac).all()  # the tolerance can only forgive
    assert (dac == official_dac).mean() >= 0.95


@needs_golden
@pytest.mark.parametrize(
    ("term", "least"), [("nc", 0.95), ("dac", 0.98), ("ttc", 0.92), ("comfort", 0.93)]
)
def test_a_human_who_drives_the_log_is_judged_as_by_the_devkit(term: str, least: float):
    """Comfort looks at the sideways acceleration too, which the devkit's tracker leaves at zero."""
    rows = compared()
    ours, theirs = rows[term][rows["names"] == "human"].T
    assert len(ours) > 150 and 0.5 < theirs.mean() < 1.0
    assert (ours == theirs).mean() >= least
    assert abs(ours.mean() - theirs.mean()) < 0.06
