"""The data doctor: a healthy tree is healthy, and each illness is found, placed and given a remedy."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from navsim_files import log_frames, shared, write_gpkg, write_pickle
from PIL import Image
from rich.console import Console

from latentvla_core.data.checks.doctor import Level, Report, check
from latentvla_core.data.filters import SceneFilter
from latentvla_core.data.layout import DataRoot
from latentvla_core.data.lidar import write_pcd
from latentvla_core.errors import SetupError

CITIES = {
    "sg-one-north": "9.17.1964",
    "us-ma-boston": "9.12.1817",
    "us-nv-las-vegas-strip": "9.15.1915",
    "us-pa-pittsburgh-hazelwood": "9.17.1937",
}
LOG = "2021.05.25_veh-1"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One log of 14 frames, all pictures and sweeps, four maps."""
    root = tmp_path_factory.mktemp("tree")
    frames = log_frames(14)
    write_pickle(root / f"navsim_logs/mini/{LOG}.pkl", frames)
    blobs = root / "sensor_blobs/mini"
    for frame in frames:
        for camera in frame["cams"].values():
            path = blobs / camera["data_path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 36), (90, 120, 60)).save(path)
        write_pcd(blobs / frame["lidar_path"], np.ones((6, 20)))
    for city, version in CITIES.items():
        write_gpkg(
            root / f"maps/{city}/{version}/map.gpkg", _layers() if city == "us-ma-boston" else {}
        )
    index = {city: {"version": version, "layers": {}} for city, version in CITIES.items()}
    (root / "maps/nuplan-maps-v1.0.json").write_text(json.dumps(index))
    return root


def _layers() -> dict:
    x, y = 330_990.0, 4_689_990.0
    road, line = (
        shapely.box(x, y, x + 80, y + 30),
        shapely.LineString([(x, y), (x + 20, y), (x + 40, y)]),
    )
    return {
        "lanes_polygons": [(11, road, (11, 101, 0, 13.4))],
        "lane_connectors": [(i, line, (11, 11, 201, None, "")) for i in (301, 302)],
        "gen_lane_connectors_scaled_width_polygons": [(i, road, (i,)) for i in (301, 302)],
        "lane_groups_polygons": [(101, road, ()), (102, road, ())],
        "lane_group_connectors": [(201, road, (101, 102))],
        "baseline_paths": [(1, line, (11, None)), (2, line, (None, 301)), (3, line, (None, 302))],
    }


@pytest.fixture
def tree(healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "tree"
    shutil.copytree(healthy, root)
    monkeypatch.setenv("OPENSCENE_DATA_ROOT", str(root))
    monkeypatch.setenv("NUPLAN_MAPS_ROOT", str(root / "maps"))
    return root


def _said(report: Report, level: Level) -> str:
    return "\n".join(
        f"[{f.check}] {f.message} @ {'; '.join(f.places)} -> {f.remedy}"
        for f in report.findings
        if f.level is level
    )


def test_a_healthy_tree_has_nothing_to_report(tree: Path) -> None:
    report = check(tree, "mini")
    assert report.findings == ()
    assert (report.level, report.exit_code) == (Level.OK, 0)
    assert report.counts == {
        "logs": 1,
        "frames": 14,
        "quarantined frames": 0,
        "frames without objects": 0,
        "scenes": 1,
        "scenes with all pictures of their label": 1,
        "pictures": 14 + 7,
        "point clouds": 1,
    }
    assert check(None, "mini").level is Level.OK  # the root from the environment


def _rewrite(root: Path, edit: Callable[[list[dict]], object]) -> None:
    frames = log_frames(14)
    edit(frames)
    write_pickle(root / f"navsim_logs/mini/{LOG}.pkl", frames)


def _set(index: int, **values: object) -> Callable[[Path], None]:
    return lambda root: _rewrite(root, lambda frames: frames[index].update(values))


def _unlink(pattern: str) -> Callable[[Path], None]:
    return lambda root: [path.unlink() for path in root.glob(pattern)] and None  # type: ignore[func-returns-value]


def _truncate(pattern: str) -> Callable[[Path], None]:
    return lambda root: (
        [path.write_bytes(path.read_bytes()[:-30]) for path in root.glob(pattern)] and None
    )  # type: ignore[func-returns-value]


ILLNESSES: list[tuple[Callable[[Path], object], Level, str]] = [
    (
        _truncate("navsim_logs/mini/*.pkl"),
        Level.FAIL,
        r"\[logs\] log files cannot be read.*ends early",
    ),
    (
        _set(2, ego_dynamic_state=[1.0]),
        Level.FAIL,
        r"\[frames\] frames break the format.*#2 .*field ego_dynamic_state",
    ),
    (_set(5, timestamp=1_621_944_000_000_000), Level.FAIL, r"\[time\] time goes backwards.*#5"),
    (
        _set(13, timestamp=1_621_944_009_000_000),
        Level.WARN,
        r"\[time\] steps differ.*#13.*3\.000 s",
    ),
    (_set(4, token="f" * 17), Level.WARN, r"17 characters"),
    (
        _set(3, roadblock_ids=["101", "999"]),
        Level.FAIL,
        r"\[route\] route ids are not in the map.*'999'.*right city",
    ),
    (
        _set(3, traffic_lights=[(999, True)]),
        Level.WARN,
        r"\[route\] traffic lights are not in the map.*'999'",
    ),
    (
        _set(3, ego2global_translation=np.array([0.0, 0.0, 0.0])),
        Level.FAIL,
        r"\[maps\] the ego is outside its map",
    ),
    (_set(3, roadblock_ids=[]), Level.WARN, r"\[scenes\] logs give no scene.*has_route"),
    (_set(3, map_location=""), Level.WARN, r"\[maps\] scenes have no map"),
    (_set(0, log_name="other"), Level.WARN, r"log_name differs from the file name"),
    (
        _unlink("sensor_blobs/mini/*/CAM_F0/*3.jpg"),
        Level.WARN,
        r"\[sensors\] pictures are missing.*CAM_F0.*download",
    ),
    (_unlink("sensor_blobs/mini/*/MergedPointCloud/*"), Level.WARN, r"point clouds are missing"),
    (_truncate("sensor_blobs/mini/*/*/*.jpg"), Level.FAIL, r"\[sensors\] pictures are damaged"),
    (_truncate("sensor_blobs/mini/*/*/*.pcd"), Level.FAIL, r"point clouds are damaged.*ends early"),
    (
        _unlink("maps/sg-one-north/*/map.gpkg"),
        Level.WARN,
        r"\[maps\] maps of cities are missing.*sg-one-north",
    ),
    (
        _unlink("maps/us-ma-boston/*/map.gpkg"),
        Level.FAIL,
        r"\[maps\] the map does not exist.*us-ma-boston",
    ),
    (_unlink("navsim_logs/mini/*"), Level.FAIL, r"holds no \.pkl file.*download"),
    (
        lambda root: (root / "navsim_logs/mini/notes.txt").touch(),
        Level.WARN,
        r"no log; the devkit.*notes\.txt",
    ),
    (
        lambda root: shutil.copytree(root / "navsim_logs/mini", root / "navsim_logs/test"),
        Level.WARN,
        "both mini and test",
    ),
]


@pytest.mark.parametrize(
    ("illness", "level", "says"), ILLNESSES, ids=[says for *_, says in ILLNESSES]
)
def test_each_illness_is_found(
    tree: Path, illness: Callable[[Path], object], level: Level, says: str
) -> None:
    import re

    illness(tree)
    report = check(tree, "mini")
    assert re.search(says, _said(report, level)), _said(report, level)
    assert report.level is level  # and nothing worse
    assert report.exit_code == (1 if level is Level.FAIL else 0)


def test_a_token_twice_and_logs_shared_with_the_test_split_fail(tree: Path) -> None:
    def edit(frames: list[dict]) -> None:
        frames[1]["token"] = frames[2]["token"]

    _rewrite(tree, edit)
    assert "tokens occur more than once" in _said(check(tree, "mini"), Level.FAIL)
    shutil.copytree(tree / "navsim_logs/mini", tree / "navsim_logs/trainval")
    shutil.copytree(tree / "navsim_logs/mini", tree / "navsim_logs/test")
    assert "both trainval and test" in _said(check(tree, "trainval"), Level.FAIL)


def test_maps_with_weak_spots_are_described(tree: Path) -> None:
    layers = _layers()
    line = shapely.LineString([(330_990, 4_689_990), (331_000, 4_689_990)])
    layers["baseline_paths"] = [
        (1, line, (11, None)),
        (2, line, (None, 301)),
        (3, line, (None, 302)),
    ]
    layers["gen_lane_connectors_scaled_width_polygons"].pop()
    layers["lane_connectors"].append((11, line, (11, 11, 201, None, "")))
    write_gpkg(tree / "maps/us-ma-boston/9.12.1817/map.gpkg", layers)
    report = check(tree, "mini")
    assert "lanes with fewer than 3 baseline vertices" in _said(report, Level.WARN)
    assert "without exactly one polygon" in _said(report, Level.WARN)
    assert "ids are used by lanes and by connectors" in _said(report, Level.FAIL)


def test_scenes_and_logs_a_filter_names_are_expected(tree: Path, tmp_path: Path) -> None:
    known = log_frames(14)[3]["token"]
    path = tmp_path / "ours.yaml"
    path.write_text(
        f"num_future_frames: 10\ntokens: ['{known}', 'ffff']\nlog_names: ['{LOG}', 'gone']\n"
    )
    report = check(tree, "mini", filter=str(path))
    said = _said(report, Level.FAIL)
    assert "scenes of the filter are not found (1 of 2 are) @ ffff" in said
    assert "logs of the filter are not on disk @ gone" in said
    assert check(tree, "mini", filter=SceneFilter(tokens=frozenset([known]))).level is Level.OK


def test_setup_mistakes_are_findings_too(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "did you mean 'mini'" in _said(check(tree, "minni"), Level.FAIL)
    assert "navsim_logs does not exist" in _said(check(tree / "maps", "mini"), Level.FAIL)
    assert "NAVSIM_DEVKIT_ROOT" in _said(check(tree, "mini", filter="navtest"), Level.FAIL)
    monkeypatch.delenv("OPENSCENE_DATA_ROOT")
    assert "no data root given" in _said(check(None, "mini"), Level.FAIL)
    assert "OPENSCENE_DATA_ROOT is not set" in _said(check(tree, "mini"), Level.OK)
    monkeypatch.setenv("NUPLAN_MAPS_ROOT", "/elsewhere")
    assert "NUPLAN_MAPS_ROOT is /elsewhere, but" in _said(check(tree, "mini"), Level.WARN)


def test_the_report_prints_counts_places_and_remedies(tree: Path) -> None:
    for path in (tree / "sensor_blobs/mini" / LOG / "CAM_F0").iterdir():
        path.unlink()
    out = io.StringIO()
    check(tree, "mini").print(Console(file=out, width=120))
    text = out.getvalue()
    assert "pictures are missing (14 x)" in text
    assert "result: WARN" in text
    assert "→ download the sensor blobs" in text
    assert "frames" in text


def test_data_roots_are_found_and_near_misses_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataRoot.find(tree)
    assert data.splits() == ["mini"]
    assert [Path(path).name for path in data.logs("mini")] == [f"{LOG}.pkl"]
    assert data.synthetic_scenes("navhard_two_stage") == []
    for wrong, says in (
        (tree / "navsim_logs", "parent folder"),
        (tree.parent / "tre", "did you mean 'tree'"),
    ):
        with pytest.raises(SetupError, match=says):
            DataRoot.find(wrong)
    shutil.rmtree(tree / "maps")
    monkeypatch.setenv("NUPLAN_MAPS_ROOT", "/maps")
    assert data.maps_root() == "/maps"
    monkeypatch.delenv("NUPLAN_MAPS_ROOT")
    assert data.maps_root() == str(tree / "maps")


def test_the_golden_tree_is_sound() -> None:
    report = check(shared("golden/data"), "golden", filter=SceneFilter(frame_interval=1))
    assert (report.counts["logs"], report.counts["frames"], report.counts["scenes"]) == (
        100,
        1471,
        171,
    )
    assert report.exit_code == 0
    assert {f.check for f in report.findings if f.level is Level.WARN} <= {
        "sensors",
        "labels",
        "environment",
    }


def test_full_sentences_are_counted_since_navtrain_comes_without_future_pictures(
    tree: Path,
) -> None:
    whole = check(tree, "mini")
    scenes = whole.counts["scenes"]
    assert scenes and whole.counts["scenes with all pictures of their label"] == scenes
    assert not any(f.check == "labels" for f in whole.findings)
    pictures = sorted((tree / "sensor_blobs/mini" / LOG / "CAM_F0").iterdir())
    pictures[-1].unlink()  # of the last future frame
    found = next(f for f in check(tree, "mini").findings if f.check == "labels")
    assert found.level is Level.WARN and "navtrain" in found.remedy
    assert found.message == f"full sentences possible for {scenes - 1} of {scenes} scenes"
