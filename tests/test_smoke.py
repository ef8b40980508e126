"""The whole line at recipe `debug`, as a user runs it: killed in the middle, run again, run once
more, then used.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from printed import Printed, printed_commands
from typer.testing import CliRunner

from latentvla_core.cli import app
from latentvla_core.lake.store import Lake
from latentvla_core.planner.hosts.registry import MODULES as HOSTS
from latentvla_core.recipes import RECIPES
from latentvla_core.tables import TABLES
from latentvla_core.tables.sentences import sentences
from pipelines.jobs import JOBS
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import UNPARTITIONED

pytestmark = pytest.mark.smoke
PLANNERS = (
    "transfuser",
    "transfuser_latent",
    "transfuser_student",
    "ipad",
    "ipad_latent",
    "ipad_student",
    "flow",
    "flow_latent",
    "flow_student",
    "ego_status_mlp",
)


def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "LATENTVLA_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "LATENTVLA_RECIPE": "debug",
    }


COMMAND = [sys.executable, "-m", "latentvla_core", "demo"]


def demo(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        COMMAND, env=environment(home), capture_output=True, text=True, check=False, timeout=1500
    )


def kill_once(home: Path, sign: str) -> None:
    """Start the demo and kill it hard as soon as something in its home matches the pattern."""
    with (home.parent / "killed.log").open("a") as log:
        process = subprocess.Popen(COMMAND, env=environment(home), stdout=log, stderr=log)
    try:
        while process.poll() is None and not any(home.glob(sign)):
            time.sleep(0.1)
        assert process.poll() is None, (
            f"the demo ended before {sign}; {(home.parent / 'killed.log').read_text()[-2000:]}"
        )
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A line killed among its scenes and again inside a training, then finished; and one that
    nobody disturbed.
    """
    root = tmp_path_factory.mktemp("smoke")
    home, calm = root / "home", root / "calm"
    with (root / "calm.log").open("w") as log:
        undisturbed = subprocess.Popen(COMMAND, env=environment(calm), stdout=log, stderr=log)
    try:
        kill_once(home, "lake/scenes/split=*/*/*.parquet")
        kill_once(home, "models/vlm/*.partial")
        interrupted = Lake(str(home / "lake")).read("materialisations").num_rows
        done = demo(home)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        assert interrupted > 0
        assert "up to date" in done.stderr, (
            "the last start should have kept what the killed ones finished"
        )
        assert undisturbed.wait(timeout=1500) == 0, (root / "calm.log").read_text()[-4000:]
        yield home, calm
    finally:
        undisturbed.kill()


@pytest.fixture(scope="module")
def home(homes: tuple[Path, Path]) -> Path:
    return homes[0]


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings.from_env({"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "debug"})


def test_every_asset_is_finished_once_per_partition(settings: Settings):
    ledger = Engine(settings, STAGES).ledger
    for stage in (STAGES[name] for name in JOBS["whole_line"][0]):
        for partition in settings.partitions if stage.partitioned else (UNPARTITIONED,):
            assert ledger.made_by(stage.name, partition) != "absent", f"{stage.name} {partition}"


OF_THE_LINE = {STAGES[name].table for name in JOBS["whole_line"][0]} | {"materialisations"}


@pytest.mark.parametrize("name", sorted(OF_THE_LINE))
def test_every_table_has_rows_with_unique_keys_and_provenance(settings: Settings, name: str):
    spec, table = TABLES[name], Lake(settings.lake).read(name)
    assert table.num_rows > 0
    assert table.group_by(list(spec.key)).aggregate([]).num_rows == table.num_rows
    known = set(
        Lake(settings.lake).read("materialisations", columns=["made_by"])["made_by"].to_pylist()
    )
    assert set(table["made_by"].to_pylist()) <= known


# Where a run lies and when it ran; fingerprints contain the folders of the logs.
OWN = {
    "made_by",
    "model_version",
    "data_version",
    "path",
    "sensor_root",
    "maps_root",
    "version",
    "inputs",
    "commit",
    "seconds",
    "mlflow_uri",
    "champion",
    "decided_us",
}


@pytest.mark.parametrize("name", sorted(OF_THE_LINE - {"materialisations"}))
def test_killed_twice_it_ends_in_the_same_tables(homes: tuple[Path, Path], name: str):
    columns = [c.name for c in TABLES[name].columns if c.name not in OWN]
    key = [(c, "ascending") for c in TABLES[name].key if c not in OWN]
    killed, calm = (
        Lake(str(home / "lake")).read(name, columns=columns).sort_by(key) for home in homes
    )
    for column in columns:
        assert killed[column].to_pylist() == calm[column].to_pylist() or both_nan(
            killed[column], calm[column]
        ), column


def both_nan(a: Any, b: Any) -> bool:
    """Equal values, NaN counting as equal to NaN."""
    import json

    return json.dumps(a.to_pylist()) == json.dumps(b.to_pylist())


def test_every_planner_was_scored_on_every_scene(settings: Settings):
    rows = {
        (r["trajectory_id"], r["metric_version"]): r
        for r in Lake(settings.lake).rows("pdm_summary", {"split": "test"})
    }
    everybody = {*PLANNERS, "human", "constant_velocity"}
    assert set(rows) == {
        (name, version) for name in everybody for version in ("pdms-v1.1", "epdms-v2.2")
    }
    for row in rows.values():
        assert row["num_scored"] == row["num_expected"] > 0, row["reasons"]
        assert 0.0 <= row["score"] <= 1.0


def test_twelve_codes_in_range_for_every_scene(settings: Settings):
    lake = Lake(settings.lake)
    scenes = lake.read("scenes").num_rows
    labelled = sentences(
        lake.read("latent_actions", columns=["scene_token", "step", "valid", "ego_codes"])
    )
    predicted = {
        table: {row["scene_token"]: row["codes"] for row in lake.rows(table, {"valid": True})}
        for table in ("vlm_features", "student_features")
    }
    for codes in (labelled, *predicted.values()):
        assert len(codes) == scenes
        for row in codes.values():
            assert row.shape == (12,)
            assert ((row >= 0) & (row < 16)).all()


def test_running_again_does_nothing_and_says_so(home: Path):
    before = Lake(str(home / "lake")).version("materialisations")
    again = demo(home)
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout
    assert Lake(str(home / "lake")).version("materialisations") == before


def test_sql_answers_from_the_command_line(home: Path):
    query = "select ego_codes from latent_actions limit 5"
    done = subprocess.run(
        [sys.executable, "-m", "latentvla_core", "sql", query, "--format", "csv"],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6


PLAN_A_SCENE = """
import os, mlflow, pandas as pd
from latentvla_core.lake.places import lake_root
from latentvla_core.lake.store import Lake
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
        [sys.executable, "-c", PLAN_A_SCENE],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[-2] == "(1, 8, 3) float32 True"


def test_registered_models_say_what_made_them(settings: Settings):
    from pipelines.registry.connection import connect

    client = connect(settings)
    for name in (*PLANNERS, "latent_action_model", "vlm", "student"):
        version = client.get_model_version_by_alias(name, "challenger")
        assert version.tags["recipe"] == "debug"
        assert version.tags["delta.scenes"].isdigit()
        assert version.tags["made_by"] == Engine(settings, STAGES).ledger.made_by(
            name, UNPARTITIONED
        )


def test_figures_of_held_out_logs_streamed_to_the_run_of_the_latent_action_model(
    settings: Settings,
):
    from pipelines.registry.connection import connect

    client = connect(settings)
    run = client.get_model_version_by_alias("latent_action_model", "challenger").run_id
    steps = RECIPES["debug"]().latent.training.steps
    for name, step in (
        ("stage1/quality/trajectory_use", steps),
        ("stage2/quality/gain_over_copy", 2 * steps),
    ):
        assert step in {point.step for point in client.get_metric_history(run, name)}


def test_the_report_shows_pictures_and_scores(home: Path):
    page = (home / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 6
    assert "ipad_student" in page


NOT_HERE = {
    "docs/results": "measures for minutes to hours",
    "navtest": "needs the devkit's filters",
    "navhard_two_stage": "needs the devkit's filters",
    "sizes": "builds networks of the paper's size; tests/core/test_vlm_sizes.py",
    "drive": "episodes; tests/core/test_closed_loop_sets.py",
    "serve": "runs until it is stopped; tests/core/test_doors.py",
    "demo": "is what made this home",
    "world": "tests/core/test_world_write.py",
    "rollback": "changes the home; tests/pipelines/test_gates.py",
    "--runs": "shows runs that `drive` made",
    "--rrd": "needs the extra `rerun`",
    "submission": "is of two-stage scenes",
    "DRIVES": "are a user's",
    "quarantine": "is no table before something was refused",
    "student/974e68f26e8b5b95": "is a version of another home",
}
"""Word or page → why a command is not run again here."""


def commands_to_run() -> list[Printed]:
    """Those of the pages that ask for nothing but a home with a finished line."""
    return [
        c
        for c in printed_commands()
        if c.words[0] == "latentvla"
        and not c.is_shortened
        and not any(word in str(c) for word in NOT_HERE)
    ]


@pytest.mark.parametrize("printed", commands_to_run(), ids=str)
def test_a_printed_command_does_what_the_page_says(
    printed: Printed, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As printed, with the words in capitals filled in as a reader would."""
    lake = Lake(str(home / "lake"))
    version = lake.rows("models", {"name": "ipad"})[-1]["version"]
    world = str(next((home / "world").rglob("navsim_logs")).parent)
    plans = tmp_path / "plans.parquet"
    filled = {
        "$OPENSCENE_DATA_ROOT": world,
        "ROOT": world,
        "TREE": world,
        "T.parquet": str(plans),
        "TABLE": "latent_actions",
        "2021.05.25.23.42.33_veh-39_00638_00658": lake.rows("logs")[0]["log_name"],
        "ipad@3f9a": f"ipad@{version[:4]}",
    }
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    query = "select scene_token, trajectory_id, poses from trajectories where split = 'test'"
    words = ["sql", query, "--format", "parquet", "--out", str(plans)]
    for asked in (words, [filled.get(word, word) for word in printed.words[1:]]):
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0, f"{asked}: {done.output} {done.exception}"


def test_planners_that_learned_from_the_score_are_made_and_compared(homes: tuple[Path, Path]):
    """Job rl, end to end, over a finished line: every host has its twin and its figures."""
    home = homes[1]
    done = subprocess.run(
        [*COMMAND, "--job", "rl"],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rows = Lake(str(home / "lake")).read("rl_summary").to_pylist()
    assert {row["start"] for row in rows} == set(HOSTS)
    assert all(row["score_low"] <= row["score_gain"] <= row["score_high"] for row in rows)
