"""Three nights in a minute: logs arrive, one candidate is promoted, one refused, one night dies
half-way and recovers.
"""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import pytest
from compose_services import POSTGRES, ROOT, WITHOUT, Services
from night_line import Nights, instance_of

from benchmarks.soak.line import PLANNER, write_sources
from latentvla_core.world.write import WorldConfig, write_world

pytestmark = pytest.mark.slow

GOOD = {"steps": 800, "learning_rate": 0.003, "hidden": 32, "batch_size": 32}
WILD = {"steps": 3, "learning_rate": 1.5, "hidden": 32, "batch_size": 32}
"""A rate so high that the planner drives off the road: the candidate that must not be promoted."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Four training logs, five of the held-out split, without pictures."""
    folder = tmp_path_factory.mktemp("store")
    config = WorldConfig(
        seed=0, logs_train=4, logs_val=0, logs_test=5, seconds_per_log=8.0, cameras=(), workers=1
    )
    write_world(folder, config)
    return folder


def deployment(folder: Path, store: Path, patch: pytest.MonkeyPatch, **extra: str) -> Nights:
    home = folder / "dagster"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    env = {
        "LATENTVLA_HOME": str(folder / "home"),
        "DAGSTER_HOME": str(home),
        "LATENTVLA_SOURCES": str(write_sources(folder, store, folder / "tree")),
        "LATENTVLA_SHARDS": "2",
        "LATENTVLA_WORKERS": "1",
        "LATENTVLA_RECIPE": str(folder / "recipe.yaml"),
        "LATENTVLA_TELL_FILE": str(folder / "told.jsonl"),
        "LATENTVLA_TELL_URL": "",
        "LATENTVLA_TELL_COMMAND": "",
        **extra,
    }
    for name, value in env.items():
        patch.setenv(name, value)
    return Nights(folder, store, env)


def arrive(nights: Nights, patch: pytest.MonkeyPatch) -> None:
    """The sensor looks every five minutes until the upload is over, and its run is done."""
    at = [nights.now.timestamp()]
    patch.setattr("pipelines.sensors.time.time", lambda: at[0])
    asked = []
    for _ in range(4):
        at[0] += 300
        asked += nights.sensor("new_logs")
    (request,) = asked
    assert nights.run(request)


def decisions(nights: Nights) -> list[tuple[str, str]]:
    rows = nights.lake.rows("releases", {"name": PLANNER})
    return [
        (row["decision"], row["version"]) for row in sorted(rows, key=lambda r: r["decided_us"])
    ]


def scenes_of(nights: Nights) -> set[str]:
    return set(nights.lake.read("scenes", columns=["log_name"])["log_name"].to_pylist())


def three_nights(nights: Nights, patch: pytest.MonkeyPatch) -> None:
    nights.recipe(**WILD)
    nights.upload("trainval", 0, 2)
    nights.upload("test", 0, 5)
    arrive(nights, patch)
    assert len(scenes_of(nights)) == 7, "labels are asked for before any night"
    (first,), _ = nights.night()
    assert {"logs", "frames", "scenes"}.isdisjoint(first["assets"]), "a night does what is stale"
    assert nights.run(first)
    assert decisions(nights) == [("promoted", "1")], "the first has nobody to beat"
    assert nights.night() == ([], "nothing is stale: inputs, recipe and code are unchanged")

    nights.recipe(**GOOD)
    nights.upload("trainval", 2, 3)
    arrive(nights, patch)
    (second,), _ = nights.night()
    assert PLANNER in second["assets"]
    assert nights.run(second)
    assert decisions(nights)[1] == ("promoted", "2"), nights.lake.rows("releases")[-1]["reason"]

    nights.recipe(**WILD)
    nights.upload("trainval", 3, 4)
    arrive(nights, patch)
    (third,), _ = nights.night()
    nights.killed(third, f"models/{PLANNER}/*.partial")
    assert len(decisions(nights)) == 2
    before = nights.lake.version("scenes")
    (again,), _ = nights.night()
    assert PLANNER in again["assets"] and set(again["assets"]) <= set(third["assets"])
    assert nights.run(again)
    assert nights.lake.version("scenes") == before, "what was finished is not done again"
    assert len(scenes_of(nights)) == 9
    assert decisions(nights)[2] == ("refused", "3")


def champion_of() -> str:
    from pipelines.registry.connection import connect
    from pipelines.settings import Settings

    return str(connect(Settings.from_env()).get_registered_model(PLANNER).aliases["champion"])


@pytest.mark.slow
def test_three_nights_on_one_machine(tmp_path, store, monkeypatch):
    nights = deployment(tmp_path, store, monkeypatch)
    three_nights(nights, monkeypatch)
    assert champion_of() == "2"
    nights.failures()
    nights.sensor("tell_decisions")
    nights.sensor("tell_decisions")
    events = [message["event"] for message in nights.told()]
    assert events == ["run_failed", "promoted", "promoted", "refused"], "one message per event"
    assert "its process was killed" in nights.told()[0]["text"]
    assert (
        "falls by more than" in nights.told()[-1]["text"]
        or "not all above" in nights.told()[-1]["text"]
    )


@pytest.mark.skipif(not os.environ.get("LATENTVLA_SOAK"), reason="dear: make soak")
@pytest.mark.skipif(not POSTGRES, reason=WITHOUT)
def test_three_nights_on_s3_and_postgresql(tmp_path, store, monkeypatch):
    """The same nights; lake and weights on S3, Dagster's and MLflow's records in PostgreSQL."""
    services = Services(tmp_path / "services")
    try:
        services.start_stores()
        services.start("mlflow", "mlflow:5000")
        own = services.environment("code")
        names = ("LATENTVLA_LAKE", "MLFLOW_TRACKING_URI", "DAGSTER_PG_URL")
        given = {k: v for k, v in own.items() if k in names or k.startswith("AWS_")}
        nights = deployment(tmp_path / "nights", store, monkeypatch, **given)
        text = (ROOT / "deploy" / "dagster.yaml").read_text()
        Path(nights.env["DAGSTER_HOME"], "dagster.yaml").write_text(services.here(text))
        three_nights(nights, monkeypatch)
        assert champion_of() == "2"
        assert nights.lake.root.startswith("s3://")
        with instance_of(nights.env) as instance:
            assert "postgres" in type(instance.run_storage).__name__.lower()
            failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        assert len(failed) == 1, "the killed one"
    finally:
        services.stop()
