"""A careless user at every face: one message with value, rule and remedy; nothing lost; the next
run carries on.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

sys.path.append(str(Path(__file__).parents[1] / "core"))

from navsim_files import log_frames, write_gpkg, write_pickle
from planner_factory import make_records

from latentvla_core import cli
from latentvla_core.errors import DataError, LatentVLAError, SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.scoring import read_trajectories
from pipelines.demo import run_job
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.engine import Engine

pytestmark = pytest.mark.slow

TRAIN, TEST = "2021.05.25_veh-1", "2021.05.25_veh-9"
PLAN = [[4.0 * k, 0.0, 0.0] for k in range(1, 9)]
FILTER = "num_history_frames: 4\nnum_future_frames: 10\nframe_interval: 1\nhas_route: true\n"


def write_map(root: Path, without: str = "") -> None:
    x, y = 330_990.0, 4_689_990.0
    road, line = (
        shapely.box(x, y, x + 80, y + 30),
        shapely.LineString([(x, y), (x + 20, y), (x + 40, y)]),
    )
    layers: dict[str, Any] = {
        "lanes_polygons": [(11, road, (11, 101, 0, 13.4))],
        "lane_groups_polygons": [(101, road, ())],
        "baseline_paths": [(1, line, (11, None))],
    }
    write_gpkg(
        root / "maps/us-ma-boston/9.12.1817/map.gpkg",
        {**layers, **({without: None} if without else {})},
    )
    index = {"us-ma-boston": {"version": "9.12.1817", "layers": {}}}
    (root / "maps/nuplan-maps-v1.0.json").write_text(json.dumps(index))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A log of 16 frames for training, one for testing, one map; no pictures."""
    root = tmp_path / "tree"
    write_pickle(root / f"navsim_logs/trainval/{TRAIN}.pkl", log_frames(16, log=TRAIN))
    write_pickle(root / f"navsim_logs/test/{TEST}.pkl", log_frames(16, log=TEST))
    write_map(root)
    (tmp_path / "all.yaml").write_text(FILTER)
    return root


def environment(root: Path, **extra: str) -> dict[str, str]:
    """The variables that point at the tree."""
    home = root.parent
    env = {
        "OPENSCENE_DATA_ROOT": str(root),
        "LATENTVLA_HOME": str(home / "home"),
        "LATENTVLA_SHARDS": "1",
    }
    env |= {"LATENTVLA_RECIPE": "debug", "LATENTVLA_TRAIN_SPLIT": str(home / "all.yaml")}
    return env | {"LATENTVLA_TEST_SPLIT": str(home / "all.yaml")} | extra


def settings_of(root: Path, **extra: str) -> Settings:
    return Settings.from_env(environment(root, **extra))


def engine_of(root: Path, **extra: str) -> Engine:
    return Engine(settings_of(root, **extra), STAGES, lambda text: None)


def ingest(root: Path) -> Engine:
    """Logs, frames and scenes of both splits."""
    engine = engine_of(root)
    engine.execute("logs")
    for name in ("frames", "scenes"):
        for split in ("train", "test"):
            engine.execute(name, f"{split}-00")
    return engine


# ---- where the logs are ------------------------------------------------------------------------


def _absent(root: Path) -> None:
    shutil.rmtree(root)


def _emptied(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def _no_test(root: Path) -> None:
    shutil.rmtree(root / "navsim_logs/test")


def _empty_test(root: Path) -> None:
    (root / f"navsim_logs/test/{TEST}.pkl").unlink()


def _other_logs(root: Path) -> None:
    (root.parent / "all.yaml").write_text(FILTER + "log_names: [2000.01.01_veh-0]\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_absent, "log folders are missing: train: .*Set OPENSCENE_DATA_ROOT"),
        (_emptied, "log folders are missing: train: .*Set OPENSCENE_DATA_ROOT"),
        (_no_test, "log folders are missing: test: .*navsim_logs/test. Set"),
        (_empty_test, "split test: .*navsim_logs/test holds no .pkl file; download"),
        (
            _other_logs,
            "split train: not one of the 1 log_names of filter .*all.yaml.*; download them, or name another",
        ),
    ],
)
def test_a_tree_without_logs_says_which_folder_and_what_to_set(
    tree: Path, spoil: Callable[[Path], None], message: str
):
    spoil(tree)
    with pytest.raises(SetupError, match=message):
        engine_of(tree).execute("logs")


def test_an_unknown_split_names_the_variable_that_would_find_it(
    tree: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("NAVSIM_DEVKIT_ROOT", raising=False)
    with pytest.raises(SetupError, match="'navtest' is not built in.*NAVSIM_DEVKIT_ROOT"):
        engine_of(tree, LATENTVLA_TEST_SPLIT="navtest").execute("logs")


def test_a_log_in_train_and_test_is_refused_with_both_names(tree: Path):
    shutil.copy(tree / f"navsim_logs/test/{TEST}.pkl", tree / "navsim_logs/trainval")
    with pytest.raises(SetupError, match=r"two splits \(test, (train|val)\)"):
        engine_of(tree).execute("logs")


def test_an_unmounted_disk_empties_nothing_and_its_return_needs_no_work(tree: Path):
    ingest(tree)
    tree.rename(tree.with_name("elsewhere"))
    with pytest.raises(SetupError, match="log folders are missing"):
        engine_of(tree).execute("frames", "train-00")
    assert Lake(settings_of(tree).lake).read("frames", {"split": "train"}).num_rows == 16
    tree.with_name("elsewhere").rename(tree)
    assert engine_of(tree).execute("frames", "train-00").skipped


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("splits: {a: null}", "split a: is None; needs fields"),
        ("splits: {a: {logs: 5}}", "logs is 5; a text"),
        ("splits: {a: {logs: x, part: 3}}", "part is 3; needs"),
        ("embedded_world: true\nsplits: {train: {logs: x}}", "the embedded world's; rename"),
        ("splits: {a: {logs: ., filter: {nope: 3}}}", "nope.*scene filter fields"),
        ("splits: {a: {logs: x}}", "log folders are missing: a: x"),
    ],
)
def test_a_wrong_sources_file_never_gets_as_far_as_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
):
    path = tmp_path / "sources.yaml"
    path.write_text(text)
    (tmp_path / "a.pkl").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError, match=message):
        engine_of(tmp_path / "tree", LATENTVLA_SOURCES=str(path)).execute("logs")


# ---- what is in the logs -----------------------------------------------------------------------


class _Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def spoil_logs(folder: Path, mark: Path) -> None:
    """Five bad logs beside the good one."""
    whole = (folder / f"{TRAIN}.pkl").read_bytes()
    (folder / "half.pkl").write_bytes(whole[: len(whole) // 2])
    (folder / "copy.pkl").write_bytes(whole)
    (folder / "evil.pkl").write_bytes(pickle.dumps([_Evil(mark)]))
    write_pickle(folder / "five.pkl", log_frames(5, log="five"))
    broken = log_frames(16, log="hole")
    del broken[15]["anns"]["gt_boxes"]
    write_pickle(folder / "hole.pkl", broken)


def test_bad_logs_are_quarantined_with_their_reasons_and_the_good_one_goes_on(
    tree: Path, tmp_path: Path
):
    folder = tree / "navsim_logs/trainval"
    spoil_logs(folder, tmp_path / "executed")
    engine = engine_of(tree)
    engine.execute("logs")
    for name in ("frames", "scenes"):
        for split in ("train", "val"):
            engine.execute(name, f"{split}-00")
    reasons = {row["file"]: row["reason"] for row in engine.lake.rows("quarantine")}
    assert "ends early" in reasons["half.pkl"]
    assert "posix.system" in reasons["evil.pkl"]
    assert f"holds log {TRAIN!r}" in reasons["copy.pkl"]
    assert "missing" in reasons["hole.pkl"]
    assert not (tmp_path / "executed").exists()
    logs = engine.lake.read("scenes")["log_name"].to_pylist()
    assert {name: logs.count(name) for name in set(logs)} == {
        TRAIN: 3,
        "hole": 2,
    }  # five frames make no scene

    for name in ("half", "copy", "evil", "hole"):
        (folder / f"{name}.pkl").unlink()
    again = engine_of(tree)
    again.execute("logs")
    for split in ("train", "val"):
        again.execute("frames", f"{split}-00")
    assert again.lake.rows("quarantine") == []


def test_sequences_without_poses_are_each_refused_with_their_name(tmp_path: Path):
    for name in ("none", "one", "two"):
        (tmp_path / f"drives/{name}/frames").mkdir(parents=True)
    for name in ("one", "two"):
        (tmp_path / f"drives/{name}/poses.csv").write_text("a,b,c\n")
    (tmp_path / "sources.yaml").write_text(
        f"splits: {{a: {{format: frames_poses, logs: {tmp_path}/drives}}}}"
    )
    engine = engine_of(tmp_path / "tree", LATENTVLA_SOURCES=str(tmp_path / "sources.yaml"))
    engine.execute("logs")
    rows = engine.execute("frames", "a-00").quarantined
    files = engine.lake.read("quarantine")["file"].to_pylist()
    assert len(files) == rows
    assert set(files) == {"none", "one/poses.csv", "two/poses.csv"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda maps: (maps / "nuplan-maps-v1.0.json").unlink(),
            "map index does not exist; set NUPLAN_MAPS_ROOT",
        ),
        (lambda maps: next(maps.glob("*/*/map.gpkg")).unlink(), "the map does not exist; download"),
        (
            lambda maps: write_map(maps.parent, without="lane_connectors"),
            "layer 'lane_connectors' is missing; use",
        ),
        (
            lambda maps: next(maps.glob("*/*/map.gpkg")).write_bytes(b"half a map"),
            "not a GeoPackage",
        ),
    ],
    ids=["index", "file", "layer", "garbage"],
)
def test_a_bad_map_stops_scoring_alone_and_a_good_one_carries_on(
    tree: Path, spoil: Callable[[Path], None], message: str
):
    engine = ingest(tree)
    spoil(tree / "maps")
    with pytest.raises(LatentVLAError, match=message):
        engine.execute("scene_worlds", "test-00")
    assert engine.lake.read("scenes").num_rows == 6
    write_map(tree)
    assert engine_of(tree).execute("scene_worlds", "test-00").rows == 3


@pytest.mark.parametrize("host", ["transfuser", "ipad"])
def test_pictures_that_cannot_be_read_cost_their_scene_and_not_the_training(
    tmp_path: Path, host: str
):
    from latentvla_core.planner.model import build_planner
    from latentvla_core.planner.plan import inputs_of, plan
    from latentvla_core.planner.train import readable, train_planner
    from latentvla_core.recipes import debug

    records = make_records(tmp_path, 5)
    front = [Path(record.sensor_root, record.camera_paths[0]) for record in records]
    front[0].unlink()
    front[1].write_bytes(front[1].read_bytes()[: front[1].stat().st_size // 2])
    front[2].write_bytes(b"")
    planner = build_planner(host, debug().planner.host(host))
    faults: list[str] = []
    poses = plan(planner, records, faults=faults)
    assert np.isfinite(poses).all(axis=(1, 2)).tolist() == [False, False, False, True, True]
    assert all(str(path) in fault for path, fault in zip(front[:3], faults[:3], strict=True))
    assert faults[3:] == ["", ""]
    assert "0x" not in faults[2]  # no memory address: equal rows stay equal
    assert readable(inputs_of(planner, records)).tolist() == [3, 4]
    with pytest.raises(DataError, match="not one of 3 scenes has inputs"):
        readable(inputs_of(planner, records[:3]))
    if (
        host == "transfuser"
    ):  # iPad's training differs in its loss only, which needs simulated scenes
        assert train_planner(planner, records, debug().planner.train).step == 2


def test_a_sweep_that_is_missing_or_broken_costs_its_scene(tmp_path: Path):
    from dataclasses import replace

    from latentvla_core.planner.model import build_planner
    from latentvla_core.planner.plan import plan
    from latentvla_core.recipes import debug

    sweeps = ("", "no.pcd", "bad.pcd")
    records = [
        replace(r, lidar_path=name)
        for r, name in zip(make_records(tmp_path, 3), sweeps, strict=True)
    ]
    (tmp_path / "bad.pcd").write_bytes(b"nonsense")
    planner = build_planner("transfuser", replace(debug().planner.transfuser, latent=False))
    faults: list[str] = []
    poses = plan(planner, records, faults=faults)
    assert np.isfinite(poses).all(axis=(1, 2)).tolist() == [True, False, False]
    assert "no.pcd: the file does not exist" in faults[1]
    assert "bad.pcd: no PCD header" in faults[2]


# ---- plans and the command line ----------------------------------------------------------------


def write_plans(path: Path, **columns: Any) -> Path:
    rows = {"scene_token": ["a"], "trajectory_id": ["x"], "poses": [PLAN]} | columns
    pq.write_table(
        pa.table({name: values for name, values in rows.items() if values is not None}), path
    )
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_text("token,poses"), "cannot be read as Parquet"),
        (lambda p: p.touch(), "cannot be read as Parquet"),
        (lambda p: p.mkdir(), "is a folder; give a Parquet file"),
        (lambda p: write_plans(p, trajectory_id=[1]), "must be text"),
        (lambda p: write_plans(p, scene_token=[None]), "must be text"),
        (lambda p: write_plans(p, poses=None), "lacks poses; has scene_token, trajectory_id"),
        (lambda p: write_plans(p, scene_token=[], trajectory_id=[], poses=[]), "has no rows"),
    ],
    ids=["csv", "empty file", "folder", "numbers", "null", "column", "no rows"],
)
def test_a_file_that_holds_no_plans_is_refused(
    tmp_path: Path, make: Callable[[Path], Any], message: str
):
    make(tmp_path / "plans.parquet")
    with pytest.raises(LatentVLAError, match=message):
        read_trajectories(tmp_path / "plans.parquet")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "score --root {tree} --split test --trajectories {plans} --out {tree}",
            "is a folder; give the name of a file",
        ),
        (
            "score --root {tree} --split test --trajectories {plans} --out {plans}/s.parquet",
            "cannot be written",
        ),
        (
            "score --root {tree} --split tset --trajectories {plans} --out s.parquet",
            "did you mean 'test'",
        ),
        (
            "score --root {tree} --split test --trajectories {plans} --out s.parquet --metric pdm",
            "metric is 'pdm'",
        ),
        (
            "score --root {tree} --split test --trajectories none.parquet --out s.parquet",
            "none.parquet does not exist",
        ),
        (
            "score --root {tree}/no --split test --trajectories {plans} --out s.parquet",
            "itself does not exist",
        ),
        ("world write --out {plans} --logs 2", "is a file; give a new folder"),
        ("world write --out {tree} --logs 2", "is not empty; give a new folder"),
        ("sizes minni", "'minni' is unknown; use one of"),
        ("sql logs --format xml", "--format is 'xml'; use"),
        ("sql logs --out x.csv", "add --format csv"),
        ("sql nothing", "names no table of the lake; there are"),
        ("sql logs", "does not exist yet in"),
        ("demo --job whole --force", "--job is 'whole'; use one of"),
        ("demo --recipe minni", "'minni' is unknown; use one of"),
    ],
)
def test_a_wrong_command_ends_in_one_message_and_exit_code_2(
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    message: str,
):
    monkeypatch.chdir(tree.parent)
    monkeypatch.setenv("LATENTVLA_RECIPE", "debug")
    plans = write_plans(tree.parent / "plans.parquet")
    argv = command.format(tree=tree, plans=plans).split()
    monkeypatch.setattr(sys, "argv", ["latentvla", *argv])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert message in said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1


# ---- the lake, and runs that end early ---------------------------------------------------------


def test_a_lake_that_cannot_be_written_is_named(tree: Path):
    (tree.parent / "file").touch()
    with pytest.raises(SetupError, match="file/lake/logs: .*LATENTVLA_LAKE must name a folder"):
        engine_of(tree, LATENTVLA_LAKE=str(tree.parent / "file/lake")).execute("logs")


def test_an_object_store_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def no_credentials(uri: str) -> bool:
        raise OSError(
            "Operation not supported\n     \x1b[31m↳\x1b[0m no credentials\n   0: <unknown>"
        )

    monkeypatch.setattr("deltalake.DeltaTable.is_deltatable", no_credentials)
    with pytest.raises(SetupError) as told:
        Lake("s3://bucket/lake").read("logs")
    assert str(told.value).startswith(
        "s3://bucket/lake/logs: Operation not supported: no credentials; check"
    )
    assert "AWS_ACCESS_KEY_ID" in str(told.value)


def test_a_damaged_table_says_so_and_moving_it_away_makes_every_shard_anew(tree: Path):
    engine = ingest(tree)
    table = Path(engine.lake.root) / "frames"
    next((table / "_delta_log").glob("*01.json")).write_text("garbage")
    with pytest.raises(SetupError, match="frames: .*move its folder away and run again"):
        engine_of(tree).execute("frames", "train-00")
    shutil.rmtree(table)
    again = engine_of(tree)
    assert [again.execute("frames", part).rows for part in ("train-00", "test-00")] == [16, 16]
    assert again.execute("scenes", "train-00").skipped


KILLED = """
import os, signal, sys
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Ledger
from pipelines.settings import Settings
from pipelines.stages import STAGES

record = Ledger.record
def kill(ledger, row):
    if (row["asset"], row["partition"]) == ("scenes", "train-00"):
        os.kill(os.getpid(), signal.SIGKILL)
    record(ledger, row)
Ledger.record = kill
engine = Engine(Settings.from_env(), STAGES)
for name, part in (("logs", ""), ("frames", "train-00"), ("frames", "test-00"), ("scenes", "train-00")):
    engine.execute(name, part)
"""


def test_a_killed_run_is_carried_on_to_the_same_tables(tree: Path):
    env = environment(tree)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", KILLED], env={**os.environ, **env}, cwd=root, check=False
    )
    assert done.returncode == -signal.SIGKILL
    engine = engine_of(tree)
    assert engine.execute("logs").skipped
    assert engine.execute("frames", "train-00").skipped
    assert engine.execute("frames", "test-00").skipped
    assert not engine.execute("scenes", "train-00").skipped
    assert engine.lake.read("scenes")["scene_token"].to_pylist() == sorted(
        f["token"] for f in log_frames(16)[3:6]
    )


def test_a_run_that_fails_names_asset_fault_and_remedy_and_goes_on_once_mended(
    tree: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.rmtree(tree / "maps")
    settings = settings_of(tree)
    with pytest.raises(SetupError, match="differ from the environment"):
        run_job(settings, "baseline_scores")
    for name, value in environment(tree).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        LatentVLAError, match="(?s)asset scene_worlds failed: /.*set NUPLAN_MAPS_ROOT.*run again"
    ):
        run_job(settings, "baseline_scores")
    write_map(tree)
    run_job(settings, "baseline_scores")
    assert Lake(settings.lake).read("scene_worlds").num_rows == 6
    with pytest.raises(SetupError, match="--job is 'typo'; use one of"):
        run_job(settings, "typo")


def test_a_device_this_machine_lacks_is_named(tree: Path):
    with pytest.raises(SetupError, match="LATENTVLA_DEVICE is 'gpu0': .*use cpu, cuda"):
        assert engine_of(tree, LATENTVLA_DEVICE="gpu0").device
