"""Transfuser: what it sees (panorama, lidar histogram), what it is asked (boxes, semantic map), how
it is matched.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planner_factory import make_records
from shapely import Polygon

from latentvla_core.data.lidar import write_pcd
from latentvla_core.planner import features
from latentvla_core.planner.hosts import raster
from latentvla_core.planner.hosts.raster import MapLayers, semantic_map
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.hosts.transfuser_loss import agent_losses, match, semantic_loss
from latentvla_core.planner.inputs import TransfuserInputs
from latentvla_core.planner.model import build_planner
from latentvla_core.planner.plan import plan
from latentvla_core.types import (
    Command,
    GroupConnectors,
    LaneConnectors,
    Lanes,
    ObjectClass,
    Polygons,
    RoadMap,
)

torch.set_num_threads(1)
NONE = np.zeros(0, object)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("scenes"), 4)


def test_ego_vectors_have_the_published_order(records):
    record = replace(
        records[0], command=int(Command.RIGHT), ego_velocity_mps=np.array([3.0, 0.5]),
        ego_acceleration_mps2=np.array([-1.0, 0.25]),
    )  # fmt: skip
    assert features.ego_status([record])[0].tolist() == [0, 0, 1, 0, 3.0, 0.5, -1.0, 0.25]
    assert features.ipad_ego([record])[0].tolist() == [0, 0, 0, 3.0, 0.5, -1.0, 0.25, 0, 0, 1, 0]


def test_lidar_histogram_counts_high_points_per_cell():
    points = np.array([
        [10.1, 10.2, 10.1, -40.0, 0.6, 5.0],
        [-3.1, -3.2, -3.1, 0.0, 0.6, 5.0],
        # the third is on the ground, the last one above everything
        [1.0, 1.0, 0.1, 1.0, 1.0, 200.0],
    ])  # fmt: skip
    hits = features.lidar_histogram(points, cells=64)[0]
    assert hits.shape == (64, 64)
    assert hits[42, 28] == pytest.approx(2 / 5)  # row x = 10 m, column y = -4 … -3 m
    assert hits[32, 32] == pytest.approx(1 / 5)
    assert hits.sum() == pytest.approx(3 / 5)
    crowd = np.tile([[4.5], [4.5], [1.0]], (1, 9))
    assert features.lidar_histogram(crowd, cells=64).max() == 1.0


def test_lidar_reaches_the_planner(records, tmp_path):
    config = replace(TransfuserConfig.debug(), latent=False)
    write_pcd(
        tmp_path / "sweep.pcd",
        np.tile(np.array([[9.0], [2.0], [1.0], [0], [0], [0]], np.float32), (1, 20)),
    )
    seen = replace(
        records[0], sensor_root=str(tmp_path), lidar_path="sweep.pcd", camera_paths=("", "", "")
    )
    empty = replace(seen, lidar_path="")
    batch = TransfuserInputs(config, [seen, empty]).batch(np.arange(2))
    assert batch["lidar"].amax(dim=(1, 2, 3)).tolist() == [1.0, 0.0]
    plans = plan(build_planner("transfuser", config), [seen, empty])
    assert not np.allclose(plans[0], plans[1])


def test_panorama_lies_left_front_right(records):
    """Each camera painted with one grey level, then found at its place."""
    from PIL import Image

    levels = {"CAM_L0": 40, "CAM_F0": 120, "CAM_R0": 220}
    root = records[0].sensor_root
    for name, level in levels.items():
        Image.new("RGB", (192, 108), (level,) * 3).save(f"{root}/{name}.png")
    flat = replace(
        records[0], camera_paths=tuple(f"{name}.png" for name in records[0].camera_names)
    )
    strip = (
        TransfuserInputs(TransfuserConfig(), [flat]).batch(np.zeros(1, int))["camera"][0].numpy()
    )
    assert strip.shape == (64, 256, 3)
    assert [int(strip[32, column, 0]) for column in (5, 60, 75, 128, 180, 195, 250)] == [
        40,
        40,
        120,
        120,
        120,
        220,
        220,
    ]


def test_agent_boxes_are_the_nearest_vehicles(records):
    boxes = np.zeros((5, 7))
    boxes[:, 0] = (30.0, 5.0, 40.0, 10.0, 1.0)
    boxes[:, 3:5] = (4.0, 2.0)
    boxes[3, 6] = 2 * np.pi + 0.5
    classes = np.array([0, 0, 0, 0, int(ObjectClass.PEDESTRIAN)], np.int8)
    record = replace(records[0], object_boxes=boxes, object_classes=classes)
    chosen, real = features.agent_boxes(record, 2, 32.0)
    assert chosen[:, 0].tolist() == [5.0, 10.0]
    assert chosen[1, 2] == pytest.approx(0.5)
    chosen, real = features.agent_boxes(record, 6, 32.0)
    assert real.tolist() == [True, True, True, False, False, False]


def test_matching_does_not_care_for_the_order_of_boxes():
    torch.manual_seed(0)
    config = TransfuserConfig()
    boxes, logits = torch.randn(3, 6, 5), torch.randn(3, 6)
    real = torch.tensor([[1, 1, 0, 0, 0, 0], [0] * 6, [1] * 6]).bool()
    targets = {
        "boxes": torch.randn(3, 6, 5),
        "is_agent": real,
        "has_boxes": torch.tensor([True, True, True]),
    }
    losses = agent_losses(config, boxes, logits, targets)
    order = torch.stack([torch.randperm(6) for _ in range(3)])
    shuffled = {
        "boxes": targets["boxes"].gather(1, order[..., None].expand(-1, -1, 5)),
        "is_agent": real.gather(1, order),
        "has_boxes": targets["has_boxes"],
    }
    again = agent_losses(config, boxes, logits, shuffled)
    assert torch.allclose(torch.stack(losses), torch.stack(again))
    perfect = agent_losses(config, targets["boxes"], torch.where(real, 20.0, -20.0), shuffled)
    assert torch.allclose(torch.stack(perfect), torch.zeros(2), atol=1e-6)


def test_match_finds_the_cheapest_assignment():
    cost = torch.tensor([[[1.0, 2.0, 9.0], [1.0, 9.0, 9.0], [9.0, 9.0, 0.0]]])
    assert match(cost).tolist() == [[1, 0, 2]]


def test_unknown_targets_cost_nothing():
    config = TransfuserConfig()
    targets = {
        "boxes": torch.zeros(2, 6, 5),
        "is_agent": torch.zeros(2, 6).bool(),
        "has_boxes": torch.zeros(2).bool(),
    }
    assert [
        float(x) for x in agent_losses(config, torch.randn(2, 6, 5), torch.randn(2, 6), targets)
    ] == [0.0, 0.0]
    nothing = torch.full((2, 4, 8), raster.UNKNOWN)
    assert float(semantic_loss(torch.randn(2, 7, 4, 8), nothing)) == 0.0
    nothing[0, 0, 0] = raster.ROAD
    assert float(semantic_loss(torch.zeros(2, 7, 4, 8), nothing)) == pytest.approx(
        np.log(7), abs=1e-5
    )


def little_map(shift: np.ndarray) -> RoadMap:
    """A road 8 m wide along x with its centreline, and a walkway left of it, from y = 6 to 10 m."""

    def strip(low: float, high: float) -> Polygon:
        return Polygon(np.array([[-10, low], [60, low], [60, high], [-10, high]]) + shift)

    none = Polygons((), NONE)
    road, walk = np.array([strip(-4, 4)]), np.array([strip(6, 10)])
    line = np.array([[-10.0, 0.0], [60.0, 0.0]]) + shift
    return RoadMap(
        location="here",
        lanes=Lanes(("1",), road, ("1",), np.zeros(1, int), np.array([10.0]), (line,)),
        connectors=LaneConnectors((), NONE, (), (), (), np.zeros(0), (), ()),
        lane_groups=none,
        group_connectors=GroupConnectors((), NONE, (), ()),
        intersections=none, carparks=none, crosswalks=none, stop_polygons=none,
        walkways=Polygons(("2",), walk), generic_drivable=none,
    )  # fmt: skip


@pytest.mark.parametrize("yaw_rad", [0.0, np.pi / 2])
def test_semantic_map_shows_road_line_walkway_and_boxes(records, yaw_rad):
    origin = np.array([4.5e5, 1.4e5])
    boxes = np.zeros((3, 7))
    boxes[:, :2] = (20.0, 1.0), (10.0, -8.0), (15.0, 8.0)
    boxes[:, 3:5] = (6.0, 3.0), (2.0, 2.0), (2.0, 2.0)
    classes = np.array([ObjectClass.VEHICLE, ObjectClass.PEDESTRIAN, ObjectClass.BARRIER], np.int8)
    record = replace(
        records[0],
        ego_pose=np.array([*origin, yaw_rad]),
        object_boxes=boxes,
        object_classes=classes,
    )
    picture = semantic_map(record, MapLayers(little_map(origin)), width_px=128, range_m=32.0)
    assert picture.shape == (64, 128)

    def at(x_m: float, y_m: float) -> int:
        return int(picture[int(x_m * 2), int(y_m * 2 + 64)])

    assert (at(20, 1), at(10, -8), at(15, 8)) == (raster.VEHICLE, raster.PEDESTRIAN, raster.STATIC)
    if yaw_rad == 0.0:
        assert (at(5, 2), at(5, 0), at(30, 8), at(5, -12)) == (
            raster.ROAD, raster.CENTERLINE, raster.WALKWAY, raster.BACKGROUND,
        )  # fmt: skip
    else:  # the ego looks across: the walkway is 6 to 10 m ahead, the road ends 4 m ahead
        assert (at(2, -20), at(8, -20), at(14, -20)) == (
            raster.ROAD,
            raster.WALKWAY,
            raster.BACKGROUND,
        )


def test_semantic_map_without_a_map_is_unknown(records):
    assert (semantic_map(records[0], None, 64, 32.0) == raster.UNKNOWN).all()
