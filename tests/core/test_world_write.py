"""The tree on disk: byte for byte the same, read back by our own reader, with routes, lights and
splits that hold.
"""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import shapely

from latentvla_core.data.filters import SceneFilter, load_split, scenes_of_log
from latentvla_core.data.map_files.maps import load_map
from latentvla_core.data.navsim import read_log, read_log_tolerant
from latentvla_core.geometry import to_local
from latentvla_core.pdms import score_trajectories
from latentvla_core.pdms.world import build
from latentvla_core.types import MAP_LOCATIONS, Command, ObjectClass
from latentvla_core.world.log_writer import write_log
from latentvla_core.world.session import ego_corners
from latentvla_core.world.write import WorldConfig, write_world

pytestmark = pytest.mark.slow

CONFIG = WorldConfig(
    seed=3, logs_train=2, logs_val=1, logs_test=1, seconds_per_log=10.0, cameras=(), workers=1
)


def digest(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"), CONFIG)


@pytest.fixture(scope="module")
def logs(tree):
    return {
        name: read_log(tree.log_path(split, name))
        for split, names in tree.logs.items()
        for name in names
    }


@pytest.fixture(scope="module")
def maps(tree):
    return {place: load_map(tree.maps_root, place) for place in MAP_LOCATIONS}


def test_same_seed_same_bytes_whatever_the_number_of_processes(tree, tmp_path):
    from dataclasses import replace

    other = write_world(tmp_path, replace(CONFIG, workers=2))
    assert digest(other.root) == digest(tree.root)


def test_another_seed_gives_other_bytes(tree, tmp_path):
    other = write_world(
        tmp_path,
        WorldConfig(
            seed=4,
            logs_train=1,
            logs_val=0,
            logs_test=0,
            seconds_per_log=7.0,
            cameras=(),
            workers=1,
        ),
    )
    assert not set(digest(other.root / "navsim_logs").values()) & set(
        digest(tree.root / "navsim_logs").values()
    )


def test_pictures_and_sweeps_are_there_and_the_same_again(tmp_path):
    pytest.importorskip("latentvla_core.world.sensors.render")
    lidar = pytest.importorskip("latentvla_core.world.sensors.lidar") is not None
    config = WorldConfig(
        seed=1,
        logs_train=1,
        logs_val=0,
        logs_test=0,
        seconds_per_log=7.0,
        cameras=("CAM_F0",),
        picture_wh=(64, 36),
        lidar=lidar,
        workers=1,
    )
    trees = [write_world(tmp_path / name, config) for name in "ab"]
    assert digest(trees[0].root) == digest(trees[1].root)
    frames = read_log(trees[0].log_path("train", trees[0].logs["train"][0]))
    blobs = trees[0].root / "sensor_blobs" / "trainval"
    assert all((blobs / f.cameras["CAM_F0"].path).is_file() for f in frames)
    assert all((blobs / f.lidar_path).is_file() for f in frames)


def test_a_finished_tree_is_left_alone_and_an_unfinished_one_completed(tree):
    before = digest(tree.root)
    times = {p: p.stat().st_mtime_ns for p in tree.root.rglob("*.pkl")}
    seen = []
    assert (
        write_world(tree.root, CONFIG, lambda done, total: seen.append((done, total))).logs
        == tree.logs
    )
    assert seen == [(4 * 20, 4 * 20)]
    assert {p: p.stat().st_mtime_ns for p in tree.root.rglob("*.pkl")} == times
    tree.log_path("test", tree.logs["test"][0]).unlink()
    (tree.root / "world.json").unlink()  # as after a kill
    write_world(tree.root, CONFIG)
    assert digest(tree.root) == before


def test_the_reader_finds_no_fault_and_every_field(tree, logs):
    for split, names in tree.logs.items():
        for name in names:
            frames, faults = read_log_tolerant(tree.log_path(split, name))
            assert not faults
            assert len(frames) == 20
    for frames in logs.values():
        steps = np.diff([f.timestamp_us for f in frames])
        assert (steps == 500_000).all()
        assert all(
            len(f.cameras) == 8 and f.objects is not None and len(f.token) == 16 for f in frames
        )
        assert len({f.token for f in frames}) == 20


def test_logs_are_pickled_so_that_old_numpy_can_read_them(tree):
    data = next((tree.root / "navsim_logs" / "test").iterdir()).read_bytes()
    assert b"numpy.core.numeric" in data
    assert b"numpy._core" not in data


def test_splits_share_no_log_and_their_files_say_the_same(tree):
    names = [name for split in tree.logs.values() for name in split]
    assert len(names) == len(set(names)) == 4
    for split, listed in tree.logs.items():
        spec = load_split(tree.split_file(split))
        assert spec.data_split == ("test" if split == "test" else "trainval")
        assert spec.filter.log_names == frozenset(listed)
        assert (
            spec.filter.num_history_frames,
            spec.filter.num_future_frames,
            spec.filter.frame_interval,
        ) == (4, 10, 1)


def test_the_route_is_connected_and_starts_where_the_ego_is(logs, maps):
    for frames in logs.values():
        road, route = maps[frames[0].map_location], frames[0].roadblock_ids
        groups = dict(zip(road.lane_groups.ids, road.lane_groups.shapes, strict=True))
        joins = {
            i: (a, b)
            for i, a, b in zip(
                road.group_connectors.ids,
                road.group_connectors.from_group_ids,
                road.group_connectors.to_group_ids,
                strict=True,
            )
        }
        assert len(route) == len(set(route)) >= 3
        for before, connector, after in zip(route[::2], route[1::2], route[2::2], strict=False):
            a, c, b = (before, connector, after) if connector in joins else (None, None, None)
            if c is None:
                continue
            assert joins[c] == (a, b)
        assert all(block in groups or block in joins for block in route)
        first = route[0]
        areas = (
            [groups[first]]
            if first in groups
            else [
                s
                for i, s in zip(
                    road.group_connectors.ids, road.group_connectors.shapes, strict=True
                )
                if i == first
            ]
        )
        assert areas[0].distance(shapely.Point(frames[0].ego_pose[:2])) < 2.0


def test_the_ego_hits_nothing_and_stays_on_drivable_ground(logs, maps):
    for frames in logs.values():
        road = maps[frames[0].map_location]
        area = shapely.unary_union(
            [*road.lane_groups.shapes, *road.intersections.shapes, *road.carparks.shapes]
        ).buffer(1e-3)
        for frame in frames:
            corners = ego_corners(frame.ego_pose)
            assert all(area.contains(shapely.Point(c)) for c in corners)
            local = shapely.Polygon(ego_corners(np.zeros(3)))
            for box in frame.objects.boxes:
                c, s = np.cos(box[6]), np.sin(box[6])
                half = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * box[3:5] / 2
                assert not local.intersects(
                    shapely.Polygon(half @ np.array([[c, s], [-s, c]]) + box[:2])
                )


def test_lights_switch_and_red_is_of_connectors_in_the_map(logs, maps):
    switched = 0
    for frames in logs.values():
        known = set(maps[frames[0].map_location].connectors.ids)
        states = [dict(f.traffic_lights) for f in frames]
        assert all(light in known for state in states for light in state)
        lights = set.intersection(*map(set, states)) if states else set()
        switched += sum(len({state[light] for state in states}) == 2 for light in lights)
    assert switched > 0


def test_motion_and_objects_agree_with_the_poses(logs):
    for frames in logs.values():
        for now, then in zip(frames, frames[1:], strict=False):
            step = to_local(now.ego_pose, then.ego_pose)
            mean = (now.ego_velocity_mps[0] + then.ego_velocity_mps[0]) / 2
            assert np.hypot(*step[:2]) == pytest.approx(0.5 * mean, abs=0.25)
            moved = dict(zip(then.objects.track_tokens, to_global_centers(then), strict=True))
            for token, center, velocity, cls in zip(
                now.objects.track_tokens,
                to_global_centers(now),
                now.objects.velocities_mps,
                now.objects.classes,
                strict=True,
            ):
                if token in moved and cls == ObjectClass.VEHICLE:
                    assert np.linalg.norm(moved[token] - center) == pytest.approx(
                        0.5 * np.hypot(*velocity[:2]), abs=1.3
                    )


def to_global_centers(frame):
    from latentvla_core.geometry import rotate

    return rotate(frame.objects.boxes[:, :2], frame.ego_pose[2]) + frame.ego_pose[:2]


def test_the_command_says_where_the_route_turns(logs):
    commands = {f.command for frames in logs.values() for f in frames}
    assert Command.FORWARD in commands
    assert commands & {Command.LEFT, Command.RIGHT}
    assert Command.UNKNOWN not in commands


def test_the_human_scores_well_and_better_than_constant_velocity(logs, maps):
    scenes = [
        s
        for frames in logs.values()
        for s in scenes_of_log(
            frames, SceneFilter(num_history_frames=4, num_future_frames=10, frame_interval=2), "x"
        )
    ]
    worlds = [build(s, maps[s.current.map_location]) for s in scenes]
    assert all(w.valid for w in worlds), [w.reason for w in worlds if not w.valid]
    human = np.stack([w.human_poses for w in worlds])
    speed = np.array([np.hypot(*s.current.ego_velocity_mps) for s in scenes])
    straight = np.zeros_like(human)
    straight[..., 0] = speed[:, None] * 0.5 * np.arange(1, 9)
    table = score_trajectories(worlds, np.stack([human, straight], axis=1), metric="pdms")
    assert table.valid.all()
    people, constant = table.grid("score").mean(axis=0)
    assert people >= 0.85 and people > constant + 0.05, (people, constant)
    assert table.grid("drivable_area_compliance")[:, 0].mean() > 0.97
    assert table.grid("no_at_fault_collisions")[:, 0].mean() > 0.97


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logs_train": 0}, "at least one"),
        ({"seconds_per_log": 6.0}, "at least 7 s"),
        ({"cameras": ("CAM_X",)}, "CAM_X"),
    ],
)
def test_wrong_configs_are_refused_with_a_remedy(changes, message):
    with pytest.raises(ValueError, match=message):
        WorldConfig(**changes)


@pytest.mark.parametrize(
    ("logs", "counts"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (12, (9, 1, 2))]
)
def test_any_number_of_logs_is_split(logs, counts):
    config = WorldConfig.for_logs(logs, 0)
    assert (config.logs_train, config.logs_val, config.logs_test) == counts


@pytest.mark.parametrize("frozen", [False, True])
def test_a_log_may_have_many_frames_without_objects(tmp_path, frozen):
    """An empty road twice in a log: Python's own pickler stumbles over the second empty array."""
    boxes = [np.zeros((n, 7)) for n in (0, 2, 0, 0)]
    for array in boxes:
        array.setflags(write=not frozen)
    write_log(tmp_path / "log.pkl", [{"anns": {"gt_boxes": array}} for array in boxes])
    found = [
        frame["anns"]["gt_boxes"] for frame in pickle.loads((tmp_path / "log.pkl").read_bytes())
    ]
    assert [a.shape for a in found] == [(0, 7), (2, 7), (0, 7), (0, 7)]
