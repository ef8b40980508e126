"""One thing is changed at a time: what becomes stale is what reads it, and nothing else.

The line is the real one. Nothing is run: a ledger says that everything was finished in the state
before, and the files are little stand-ins, since only their names and contents count.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from latentvla_core.errors import SetupError
from latentvla_core.lake import identity
from latentvla_core.lake.store import Lake
from latentvla_core.planner.hosts.registry import CAMERAS_ONLY, host_of
from latentvla_core.planner.hosts.registry import MODULES as HOSTS
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Ledger, fingerprint, stale_work

SPLITS = {"train": ("oak", "elm"), "val": ("ash",), "test": ("yew",)}
INGEST = {"frames", "scenes", "scene_worlds"}
MODELS = {name for name, stage in STAGES.items() if stage.kind == "model"}
TRAINED_ON_PICTURES = MODELS - {"ego_status_mlp"}


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch):
    """Files count as old at once: tests do not wait two seconds."""
    monkeypatch.setattr(identity, "SETTLED_NS", -3_600_000_000_000)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A NAVSIM tree with two train logs, one val and one test log, maps and a filter; a drive of
    frames and poses in a split of its own; weights.
    """
    root = tmp_path / "there"
    for split, logs in SPLITS.items():
        for log in logs:
            (root / "logs" / split).mkdir(parents=True, exist_ok=True)
            (root / "logs" / split / f"2021.05.{log}.pkl").write_bytes(log.encode())
            for camera in ("CAM_F0", "CAM_L0", "MergedPointCloud"):
                folder = root / "blobs" / split / f"2021.05.{log}" / camera
                folder.mkdir(parents=True)
                for i in range(2):
                    (folder / f"{i}.jpg").write_bytes(f"{log}{camera}{i}".encode())
    (root / "drives" / "fir" / "frames").mkdir(parents=True)
    (root / "drives" / "fir" / "poses.csv").write_text("frame,timestamp_s,x,y,heading\n")
    (root / "drives" / "fir" / "frames" / "0.jpg").write_bytes(b"fir0")
    (root / "maps").mkdir()
    (root / "maps" / "map.gpkg").write_bytes(b"map")
    (root / "filter.yaml").write_text("num_history_frames: 4\n")
    return root


def engine_of(root: Path, home: Path | None = None) -> Engine:
    """The line on this tree, two shards a split."""
    text = "splits:\n" + "".join(
        f"  {split}: {{logs: {root}/logs/{split}, sensors: {root}/blobs/{split}, maps: {root}/maps,"
        f" filter: {root}/filter.yaml}}\n"
        for split in SPLITS
    )
    text += f"  mine: {{format: frames_poses, logs: {root}/drives}}\n"
    place = home or root.parent / "home"
    place.mkdir(exist_ok=True)
    (place / "sources.yaml").write_text(text)
    env = {
        "LATENTVLA_HOME": str(place),
        "LATENTVLA_SOURCES": str(place / "sources.yaml"),
        "LATENTVLA_SHARDS": "2",
        "LATENTVLA_RECIPE": "debug",
    }
    return Engine(Settings.from_env(env), STAGES, lambda text: None)


def finished(engine: Engine) -> Ledger:
    """A ledger in which everything is done as the files are now."""
    ledger = Ledger(Lake("nowhere"), {})
    for stage in STAGES.values():
        for part in engine.settings.partitions if stage.partitioned else ("",):
            made = fingerprint(
                stage, part, engine.recipe, engine.settings.partitions, STAGES,
                ledger.made_by, engine.files_key,
            )  # fmt: skip
            ledger.latest[stage.name, part] = {"made_by": made}
    return ledger


def stale(engine: Engine, ledger: Ledger) -> set[tuple[str, str]]:
    """(asset, split) pairs that are to be done; split "" for what has no partitions."""
    work = stale_work(STAGES, engine.recipe, engine.settings.partitions, ledger, engine.files_key)
    return {(asset, part.rpartition("-")[0]) for asset, part in work}


def changed(root: Path, change: Callable[[Path], object]) -> set[tuple[str, str]]:
    """What one change makes stale."""
    before = finished(engine_of(root))
    assert stale(engine_of(root), before) == set()
    change(root)
    return stale(engine_of(root), before)


def assets(work: set[tuple[str, str]]) -> set[str]:
    return {asset for asset, _ in work}


def rewrite(path: Path, content: bytes | None = None) -> None:
    """Other content of the same size, with the old times."""
    times = path.stat()
    path.write_bytes(content or path.read_bytes()[::-1])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def front(root: Path, split: str, log: str) -> Path:
    return root / "blobs" / split / f"2021.05.{log}" / "CAM_F0" / "0.jpg"


@pytest.mark.parametrize(
    "change", [rewrite, Path.unlink, lambda path: path.with_name("2.jpg").write_bytes(b"new")],
    ids=["replaced", "removed", "added"],
)  # fmt: skip
def test_a_picture_of_a_test_log_redoes_the_labels_and_plans_of_its_shard_and_no_training(
    home: Path, change
):
    work = changed(home, lambda root: change(front(root, "test", "yew")))
    assert {split for asset, split in work if STAGES[asset].partitioned} == {"test"}
    assert {"latent_actions", "vlm_features", "student_features", "trajectories"} <= assets(work)
    assert not assets(work) & (MODELS | INGEST | {"logs", "latent_quality"})


def test_a_picture_of_a_train_log_trains_everything_that_looks_at_it(home: Path):
    work = changed(home, lambda root: rewrite(front(root, "train", "oak")))
    assert assets(work) >= TRAINED_ON_PICTURES
    assert not assets(work) & (INGEST | {"logs", "ego_status_mlp"})


def test_what_is_put_back_is_true_again(home: Path, tmp_path: Path):
    before, picture = finished(engine_of(home)), front(home, "test", "yew")
    shutil.move(picture, tmp_path / "kept.jpg")
    assert stale(engine_of(home), before)
    shutil.move(tmp_path / "kept.jpg", picture)
    assert stale(engine_of(home), before) == set()


def test_a_side_camera_leaves_the_labels_which_see_the_front_alone(home: Path):
    side = home / "blobs" / "train" / "2021.05.oak" / "CAM_L0" / "0.jpg"
    work = changed(home, lambda root: rewrite(side))
    assert {"vlm", "student", "transfuser"} <= assets(work)
    assert not assets(work) & {"latent_action_model", "latent_actions", "latent_quality"}


def opens_clouds(host: str) -> bool:
    """Whether the host's own inputs ask for the hits of a point cloud."""
    return hasattr(host_of(host).inputs, "_hits")


def test_hosts_that_open_point_clouds_are_not_listed_as_cameras_only():
    assert {host for host in HOSTS if not opens_clouds(host)} == CAMERAS_ONLY
    assert any(map(opens_clouds, HOSTS))


def test_a_point_cloud_concerns_planners_that_open_it_alone(home: Path):
    readers = [host for host in HOSTS if opens_clouds(host)]
    cloud = home / "blobs" / "train" / "2021.05.oak" / "MergedPointCloud" / "0.jpg"
    work = changed(home, lambda root: rewrite(cloud))
    assert assets(work) & MODELS == {name for name in MODELS if name.startswith(tuple(readers))}


def test_a_val_log_is_reported_on_and_trains_nothing(home: Path):
    work = changed(home, lambda root: rewrite(root / "logs" / "val" / "2021.05.ash.pkl"))
    assert {("frames", "val"), ("scenes", "val"), ("latent_quality", "")} <= work
    assert not assets(work) & MODELS
    assert {split for asset, split in work if asset == "latent_actions"} == {"val"}


def test_a_new_val_log_and_a_new_test_log_train_nothing(home: Path):
    def add(root: Path) -> None:
        for split in ("val", "test"):
            (root / "logs" / split / f"2021.05.new_{split}.pkl").write_bytes(b"new")

    work = changed(home, add)
    assert not assets(work) & MODELS
    assert {split for asset, split in work if asset == "frames"} == {"val", "test"}


def test_a_map_redoes_worlds_and_what_is_trained_with_maps(home: Path):
    work = changed(home, lambda root: rewrite(root / "maps" / "map.gpkg"))
    assert {"scene_worlds", "transfuser", "ipad", "pdm_scores"} <= assets(work)
    assert not assets(work) & {"frames", "scenes", "latent_action_model", "latent_actions", "vlm"}


def test_the_file_of_a_filter_chooses_the_scenes_anew(home: Path):
    work = changed(home, lambda root: (root / "filter.yaml").write_text("num_history_frames: 5\n"))
    assert {("scenes", "train"), ("scene_worlds", "test")} <= work
    assert "frames" not in assets(work)
    assert ("scenes", "mine") not in work


@pytest.mark.parametrize(
    "change",
    [
        lambda drive: rewrite(drive / "frames" / "0.jpg"),
        lambda drive: (drive / "frames" / "0.jpg").unlink(),
        lambda drive: (drive / "sequence.yaml").write_text("pose_ahead_of_rear_axle_m: 5.0\n"),
        lambda drive: rewrite(drive / "poses.csv"),
    ],
    ids=["picture replaced", "picture removed", "sequence.yaml added", "poses corrected"],
)
def test_an_own_drive_is_read_anew_whatever_of_it_changed(home: Path, change):
    work = changed(home, lambda root: change(root / "drives" / "fir"))
    assert {("logs", ""), ("frames", "mine"), ("latent_actions", "mine")} <= work
    assert {split for asset, split in work if STAGES[asset].partitioned} == {"mine"}
    assert not assets(work) & MODELS


def test_times_alone_change_nothing(home: Path):
    def touch(root: Path) -> None:
        for path in root.rglob("*"):
            os.utime(path)

    assert changed(home, touch) == set()


def test_a_data_root_and_a_home_that_were_copied_elsewhere_have_nothing_to_redo(
    home: Path, tmp_path: Path
):
    before = finished(engine_of(home))
    shutil.copytree(home, tmp_path / "elsewhere" / "data", copy_function=shutil.copy)
    moved = engine_of(tmp_path / "elsewhere" / "data", tmp_path / "another home")
    assert stale(moved, before) == set()
    (log,) = {r["sensor_root"] for r in moved.listing if r["log_name"] == "2021.05.yew"}
    assert log.startswith(str(tmp_path / "elsewhere"))


def test_weights_in_a_local_folder_count_by_content_not_by_place(home: Path, tmp_path: Path):
    def with_weights(folder: Path) -> Engine:
        engine = engine_of(home)
        engine.recipe = replace(
            engine.recipe, student=replace(engine.recipe.student, backbone_path=str(folder))
        )
        return engine

    for name in ("here", "there_too"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    before = finished(with_weights(tmp_path / "here"))
    assert stale(with_weights(tmp_path / "there_too"), before) == set()
    (tmp_path / "here" / "model.safetensors").write_bytes(b"others!")
    work = stale(with_weights(tmp_path / "here"), before)
    assert "student" in assets(work)
    assert not assets(work) & {"vlm", "latent_actions", "transfuser"}


def test_two_drives_given_one_name_are_refused_with_both_folders(home: Path):
    shutil.copytree(home / "drives" / "fir", home / "drives" / "pine")
    for name in ("fir", "pine"):
        (home / "drives" / name / "sequence.yaml").write_text("name: mycar\n")
    with pytest.raises(SetupError, match=r"mycar.*fir.*pine"):
        _ = engine_of(home).listing
