"""The graph as Dagster sees it. A changed snapshot is a changed graph: look at the difference, then
write it again with `python tests/pipelines/test_definitions.py`.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from latentvla_core.latent.quality import FIGURES
from pipelines.definitions import build
from pipelines.nights.hooks import failures
from pipelines.sensors import tonight, writes_to
from pipelines.settings import Settings

SNAPSHOT = Path(__file__).resolve().parents[1] / "golden" / "asset_graph.json"


def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"LATENTVLA_HOME": str(tmp_path)})


def graph_of(definitions: dg.Definitions) -> dict[str, dict[str, object]]:
    graph = definitions.resolve_asset_graph()
    nodes = {}
    for key in sorted(graph.get_all_asset_keys(), key=str):
        node = graph.get(key)
        nodes[key.to_user_string()] = {
            "group": node.group_name,
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "kinds": sorted(node.kinds),
            "partitioned": node.is_partitioned,
            "pools": sorted(node.pools or []),
            "code_version": (node.code_version or "").split(" · ")[0],
            "checks": sorted(check.name for check in node.check_keys),
        }
    return nodes


def test_the_graph_is_the_one_we_agreed_on(tmp_path: Path):
    assert graph_of(build(settings(tmp_path))) == json.loads(SNAPSHOT.read_text())


def test_jobs_schedule_and_sensor_are_there_and_off(tmp_path: Path):
    repository = build(settings(tmp_path)).get_repository_def()
    assert {"whole_line", "labels", "baseline_scores"} <= set(repository.job_names)
    assert (
        repository.get_schedule_def("nightly_retraining").default_status
        == dg.DefaultScheduleStatus.STOPPED
    )
    assert repository.get_sensor_def("new_logs").default_status == dg.DefaultSensorStatus.STOPPED


def test_maintenance_is_there_and_off_and_joins_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from label_rows import label

    from latentvla_core.lake.store import Lake

    monkeypatch.setenv("LATENTVLA_LAKE", str(tmp_path / "lake"))
    repository = build(settings(tmp_path)).get_repository_def()
    assert (
        repository.get_schedule_def("weekly_maintenance").default_status
        == dg.DefaultScheduleStatus.STOPPED
    )
    lake = Lake(str(tmp_path / "lake"))
    for token in "abc":
        lake.append("latent_actions", [label(token)])
    assert repository.get_job("lake_maintenance").execute_in_process().success
    table = lake.delta("latent_actions")
    assert table is not None
    assert len(table.file_uris()) == 1
    assert [row["scene_token"] for row in lake.rows("latent_actions")] == ["a", "b", "c"]


def test_every_asset_has_a_blocking_schema_check(tmp_path: Path):
    graph = build(settings(tmp_path)).resolve_asset_graph()
    for key in graph.materializable_asset_keys:
        blocking = [
            check.name
            for check in graph.get(key).check_keys
            if graph.get_check_spec(check).blocking
        ]
        assert f"{key.to_user_string()}_schema" in blocking
        figures = set(FIGURES) if key.to_user_string() == "latent_quality" else set()
        assert set(blocking) == {f"{key.to_user_string()}_schema"} | figures


def test_a_hole_in_a_split_fails_a_check(tmp_path: Path):
    from latentvla_core.lake.store import Lake
    from latentvla_core.tables import TABLES
    from pipelines.checks import complete

    def row(name: str, scored: int) -> dict[str, object]:
        values = {
            c.name: {"string": "", "float64": 0.5}.get(c.dtype, 4)
            for c in TABLES["pdm_summary"].columns
        }
        return values | {
            "split": "test",
            "trajectory_id": name,
            "metric_version": "epdms-v2.2",
            "num_scored": scored,
            "reasons": "1 × no plan",
        }

    lake = Lake(str(tmp_path))
    lake.replace("pdm_summary", [row("whole", 4)], {})
    assert complete(lake).faults == []
    lake.replace("pdm_summary", [row("whole", 4), row("holed", 3)], {})
    assert complete(lake).faults == ["test/holed, epdms-v2.2: scored 3 of 4 (1 × no plan)"]


def test_one_night_asks_for_every_partition(tmp_path: Path):
    schedule = build(settings(tmp_path)).get_repository_def().get_schedule_def("nightly_retraining")
    with dg.instance_for_test() as instance:
        context = dg.build_schedule_context(
            instance, scheduled_execution_time=datetime(2026, 1, 2, 2, 0, tzinfo=UTC)
        )
        tick = schedule.evaluate_tick(context)
    (request,) = tick.run_requests or []
    assert request.run_key == "nightly-2026-01-02"
    assert request.tags["dagster/asset_partition_range_start"] == "train-00"
    assert request.tags["dagster/asset_partition_range_end"] == "test-01"


def test_the_sensor_asks_once_per_new_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "tree" / "navsim_logs"
    (folder / "trainval").mkdir(parents=True)
    (folder / "test").mkdir()
    rules = tmp_path / "all.yaml"
    rules.write_text("num_history_frames: 4\nnum_future_frames: 10\n")
    env = {"OPENSCENE_DATA_ROOT": str(tmp_path / "tree"), "LATENTVLA_HOME": str(tmp_path)}
    env |= {"LATENTVLA_TRAIN_SPLIT": str(rules), "LATENTVLA_TEST_SPLIT": str(rules)}
    sensor = build(Settings.from_env(env)).get_repository_def().get_sensor_def("new_logs")

    now_s = [0.0]
    monkeypatch.setattr("pipelines.sensors.time.time", lambda: now_s[0])

    def tick(cursor: str | None) -> tuple[int, str | None]:
        now_s[0] += 300.0
        with dg.build_sensor_context(cursor=cursor) as context:
            result = sensor.evaluate_tick(context)
            return len(result.run_requests or []), result.cursor or cursor

    assert tick(None) == (0, None)
    (folder / "trainval" / "a.pkl").write_bytes(b"one.")
    asked, cursor = tick(None)
    assert asked == 0, "it may still be on its way"
    asked, cursor = tick(cursor)
    assert asked == 1
    assert tick(cursor) == (0, cursor)
    (folder / "test" / "b.pkl").write_bytes(b"tw")
    asked, later = tick(cursor)
    assert asked == 0 and tick(later)[0] == 0, "half a log"
    (folder / "test" / "b.pkl").write_bytes(b"two.")
    _, later = tick(later)
    asked, later = tick(later)
    assert asked == 1
    assert later != cursor


def test_a_night_says_why_it_skips_while_another_run_writes(tmp_path: Path):
    made = settings(tmp_path)
    assert tonight(made, ["r1"]).reason.startswith("run r1 works on this home")
    assert "pdm_scores" in tonight(made, []).assets
    with dg.instance_for_test() as instance:
        instance.create_run_for_job(
            _idle_job(),
            tags=writes_to(made),
            status=dg.DagsterRunStatus.STARTED,
        )
        schedule = build(made).get_repository_def().get_schedule_def("nightly_retraining")
        context = dg.build_schedule_context(
            instance, scheduled_execution_time=datetime(2026, 1, 2, 2, 0, tzinfo=UTC)
        )
        tick = schedule.evaluate_tick(context)
    assert not tick.run_requests and "works on this home" in (tick.skip_message or "")


def _idle_job() -> dg.JobDefinition:
    @dg.op
    def idle() -> None: ...

    @dg.job
    def busy() -> None:
        idle()

    return busy


@pytest.mark.slow
def test_a_failed_run_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LATENTVLA_TELL_FILE", str(tmp_path / "told"))

    @dg.op
    def breaks() -> None:
        raise ValueError("the disk is full")

    @dg.job
    def night() -> None:
        breaks()

    with dg.instance_for_test() as instance:
        result = night.execute_in_process(instance=instance, raise_on_error=False)
        context = dg.build_run_status_sensor_context(
            sensor_name="tell_failures",
            dagster_event=result.get_run_failure_event(),
            dagster_instance=instance,
            dagster_run=result.dagster_run,
        )
        failures()(context.for_run_failure())
    (line,) = (tmp_path / "told").read_text().splitlines()
    assert "job night failed" in line and "the disk is full" in line


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        SNAPSHOT.write_text(
            json.dumps(graph_of(build(settings(Path(folder)))), indent=1, sort_keys=True) + "\n"
        )
