"""A bad latent action model stops the line, in Dagster and without it; a good one lets it go on;
nothing is lost.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from latentvla_core.errors import SetupError
from latentvla_core.latent.quality import QualityError, QualityGate, judge
from pipelines.assets.latent_quality import approve, row_of, stored_judgements
from pipelines.dagster_assets import asset_of
from pipelines.demo import _stopped_by
from pipelines.registry.tracking import RunSink
from pipelines.resources import LatentVLAResource
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.context import Output
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import UNPARTITIONED, Stage

HEALTHY = {
    "transitions": 228.0,
    "ego_usage": 16.0,
    "ego_perplexity": 14.0,
    "ego_largest_share": 0.14,
    "gain_over_copy": 0.27,
    "shuffle_ego": 0.24,
    "trajectory_use": 0.37,
    "environment_r2_longitudinal": -0.8,
    "environment_r2_lateral": -0.7,
    "environment_r2_yaw": -0.7,
}
NO_TRAJECTORY = {"trajectory_use": 0.0}


class Line:
    """latent_quality with a report of our choice, and labels that note when they are made."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LATENTVLA_HOME", str(home))
        monkeypatch.setenv("LATENTVLA_RECIPE", "mini")
        self.report: dict[str, float] = dict(HEALTHY)
        self.labelled = 0
        common: dict[str, Any] = {"kind": "table", "deps": (), "group": "g", "doc": "toy"}
        quality = Stage(
            name="latent_quality",
            run=self.quality,
            table="latent_quality",
            approve=approve,
            figures=STAGES["latent_quality"].figures,
            **common,
        )
        labels = Stage(
            name="latent_actions",
            run=self.label,
            table="pdm_summary",
            gates=("latent_quality",),
            **common,
        )
        self.stages = {"latent_quality": quality, "latent_actions": labels}

    def quality(self, engine: Engine) -> Output:
        rows = judge(self.report, QualityGate.mini())
        return Output([row_of(row, "absent") for row in rows], groups=("absent",))

    def label(self, engine: Engine) -> Output:
        self.labelled += 1
        return Output([])

    def engine(self) -> Engine:
        engine = Engine(Settings.from_env(), self.stages, lambda text: None)
        engine.__dict__["listing"] = []  # scenes stand in the table, without logs on disk
        return engine

    def run(self, force: bool = True) -> dg.ExecuteInProcessResult:
        settings = Settings.from_env()
        return dg.materialize(
            [
                asset_of(stage, settings, self.stages, pooled=False)
                for stage in self.stages.values()
            ],
            resources={"latentvla": LatentVLAResource()},
            run_config={"ops": {name: {"config": {"force": force}} for name in self.stages}},
            raise_on_error=False,
        )


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(tmp_path / "home", monkeypatch)


@pytest.mark.slow
def test_dagster_stops_before_the_labels_and_goes_on_when_the_model_is_mended(line: Line):
    line.report |= NO_TRAJECTORY
    first = line.run()
    assert not first.success
    assert line.labelled == 0
    told = _stopped_by(first, Settings.from_env())
    for part in (
        "1 required",
        "trajectory_use is 0, must be at least 0.05",
        "Likely:",
        "conditioning 'added'",
        "Report:",
    ):
        assert part in told
    assert len(stored_judgements(line.engine(), "absent")) > 0  # the report is kept
    line.report |= HEALTHY
    assert line.run().success
    assert line.labelled == 1


def test_a_report_that_is_up_to_date_still_stops_the_next_run(line: Line):
    line.report |= NO_TRAJECTORY
    line.run()
    assert not line.run(force=False).success
    assert line.labelled == 0


def test_a_missed_target_is_a_warning_and_stops_nothing(line: Line):
    line.report |= {"transfer_longitudinal": 0.5}
    result = line.run()
    assert result.success
    checks = {c.check_name: c for c in result.get_asset_check_evaluations()}
    assert not checks["transfer_longitudinal"].passed
    assert checks["transfer_longitudinal"].severity == dg.AssetCheckSeverity.WARN
    assert checks["ego_usage"].passed


def test_without_dagster_the_labels_are_refused_with_the_same_reason(line: Line):
    line.report |= NO_TRAJECTORY | {"ego_usage": 3.0}
    assert line.engine().execute("latent_quality").rows > 0
    with pytest.raises(
        QualityError,
        match=r"2 required figure\(s\) missed(.|\n)*ego_usage is 3(.|\n)*trajectory_use is 0",
    ):
        line.engine().execute("latent_actions")
    assert line.labelled == 0
    line.report |= HEALTHY
    line.engine().execute("latent_quality", force=True)
    assert not line.engine().execute("latent_actions").skipped
    assert line.labelled == 1


def test_a_model_without_a_report_does_not_label(line: Line):
    with pytest.raises(SetupError, match="materialise asset latent_quality first"):
        line.engine().execute("latent_actions")


def test_a_moved_threshold_redoes_the_report_and_no_label(line: Line):
    line.engine().execute("latent_quality")
    before = line.engine().fingerprint(line.stages["latent_actions"], UNPARTITIONED)
    line.report |= {"ego_usage": 15.0}
    line.engine().execute("latent_quality", force=True)
    assert line.engine().fingerprint(line.stages["latent_actions"], UNPARTITIONED) == before


def test_labels_are_refused_by_the_bounds_of_today_not_by_those_of_the_report(line: Line):
    line.engine().execute("latent_quality")
    stricter = line.engine()
    stricter.recipe = replace(stricter.recipe, latent_gate=QualityGate.long())
    with pytest.raises(QualityError, match=r"ego_r2_yaw is nan, must be at least 0\.4"):
        stricter.execute("latent_actions")
    assert line.labelled == 0
    line.engine().execute("latent_actions")
    assert line.labelled == 1


def test_in_the_real_line_labels_wait_for_the_report():
    assert STAGES["latent_actions"].gates == ("latent_quality",)
    assert STAGES["latent_quality"].approve is approve
    assert list(STAGES).index("latent_quality") < list(STAGES).index("latent_actions")


def test_numbers_go_to_mlflow_together_and_are_kept_while_it_is_away():
    sent: list[int] = []
    said: list[str] = []
    away = True

    def send(metrics: list[Any]) -> None:
        if away:
            raise ConnectionError("refused")
        sent.append(len(metrics))

    sink = RunSink(send, said.append, seconds_per_call=0.0)
    for step in range(3):
        sink.log(step, {"loss": 1.0, "gain": 0.5})
    assert sent == []
    assert len(said) == 1
    away = False
    sink.flush()
    assert sent == [6]
    sink.flush()
    assert sent == [6]
