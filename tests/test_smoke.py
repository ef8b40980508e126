"""The whole line at recipe `debug`, as a user runs it: killed in the middle, run again, run once more, then used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latentvla_core.store import Lake
from latentvla_core.tables import TABLES
from pipelines.engine import Engine
from pipelines.lineage import UNPARTITIONED
from pipelines.settings import Settings
from pipelines.stages import STAGES

pytestmark = pytest.mark.smoke
PLANNERS = (
    "transfuser",
    "transfuser_latent",
    "transfuser_student",
    "ipad",
    "ipad_latent",
    "ipad_student",
    "ego_status_mlp",
)


def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "LATENTVLA_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "LATENTVLA_RECIPE": "debug",
    }


def demo(home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "latentvla_core", "demo"]
    return subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False, timeout=1500)


def kill_once_something_is_stored(home: Path) -> None:
    """Start the demo and kill it hard as soon as it has finished work of some shards."""
    command = [sys.executable, "-m", "latentvla_core", "demo"]
    process = subprocess.Popen(command, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not any((home / "lake" / "scenes").glob("split=*/*/*.parquet")):
            time.sleep(0.2)
        assert process.poll() is None, "the demo ended before it could be killed"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("smoke") / "home"
    kill_once_something_is_stored(home)
    interrupted = Lake(str(home / "lake")).read("materialisations").num_rows
    done = demo(home)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert interrupted > 0
    assert "up to date" in done.stderr, "the second start should have kept what the killed one finished"
    return home


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings.from_env({"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "debug"})


def test_every_asset_is_finished_once_per_partition(settings: Settings):
    ledger = Engine(settings, STAGES).ledger
    for stage in STAGES.values():
        for partition in settings.partitions if stage.partitioned else (UNPARTITIONED,):
            assert ledger.made_by(stage.name, partition) != "absent", f"{stage.name} {partition}"


@pytest.mark.parametrize("name", [n for n in TABLES if n != "quarantine"])
def test_every_table_has_rows_with_unique_keys_and_provenance(settings: Settings, name: str):
    spec, table = TABLES[name], Lake(settings.lake).read(name)
    assert table.num_rows > 0
    assert table.group_by(list(spec.key)).aggregate([]).num_rows == table.num_rows
    known = set(Lake(settings.lake).read("materialisations", columns=["made_by"])["made_by"].to_pylist())
    assert set(table["made_by"].to_pylist()) <= known


def test_every_planner_was_scored_on_every_scene(settings: Settings):
    rows = {
        (r["trajectory_id"], r["metric_version"]): r for r in Lake(settings.lake).rows("pdm_summary", {"split": "test"})
    }
    everybody = {*PLANNERS, "human", "constant_velocity"}
    assert set(rows) == {(name, version) for name in everybody for version in ("pdms-v1.1", "epdms-v2.2")}
    for row in rows.values():
        assert row["num_scored"] == row["num_expected"] > 0, row["reasons"]
        assert 0.0 <= row["score"] <= 1.0


def test_twelve_codes_in_range_for_every_scene(settings: Settings):
    lake = Lake(settings.lake)
    for table, column in (("latent_actions", "ego_codes"), ("vlm_features", "codes"), ("student_features", "codes")):
        for row in lake.rows(table, {"valid": True}):
            assert row[column].shape == (12,)
            assert ((row[column] >= 0) & (row[column] < 16)).all()


def test_running_again_does_nothing_and_says_so(home: Path):
    before = Lake(str(home / "lake")).version("materialisations")
    again = demo(home)
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout
    assert Lake(str(home / "lake")).version("materialisations") == before


def test_sql_answers_from_the_command_line(home: Path):
    query = "select ego_codes from latent_actions limit 5"
    done = subprocess.run([sys.executable, "-m", "latentvla_core", "sql", query, "--format", "csv"],
                          env=environment(home), capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6


PLAN_A_SCENE = """
import os, mlflow, pandas as pd
from latentvla_core.store import Lake, lake_root
from latentvla_core.data.records import record_from_row
mlflow.set_tracking_uri("sqlite:///" + os.environ["LATENTVLA_HOME"] + "/mlflow.db")
model = mlflow.pyfunc.load_model("models:/ipad_student@champion")
row = Lake(lake_root()).rows("scenes", {"split": "test"})[0]
from pipelines.registry.register import scene_json
poses = model.predict(pd.DataFrame({"scene": [scene_json(record_from_row(row))]}))
stored = Lake(lake_root()).rows("trajectories", {"scene_token": row["scene_token"], "trajectory_id": "ipad_student"})[0]
print(poses.shape, poses.dtype, abs(poses[0] - stored["poses"]).max() < 1e-3)
"""


def test_a_clean_process_loads_the_champion_and_plans_as_the_line_did(home: Path):
    done = subprocess.run(
        [sys.executable, "-c", PLAN_A_SCENE], env=environment(home), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[-2] == "(1, 8, 3) float32 True"


def test_registered_models_say_what_made_them(settings: Settings):
    from pipelines.registry.register import connect

    client = connect(settings)
    for name in (*PLANNERS, "latent_action_model", "vlm", "student"):
        version = client.get_model_version_by_alias(name, "challenger")
        assert version.tags["recipe"] == "debug"
        assert version.tags["delta.scenes"].isdigit()
        assert version.tags["made_by"] == Engine(settings, STAGES).ledger.made_by(name, UNPARTITIONED)


def test_the_report_shows_pictures_and_scores(home: Path):
    page = (home / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 6
    assert "ipad_student" in page
