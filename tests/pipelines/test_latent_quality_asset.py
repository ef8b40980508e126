"""The quality report as an asset: what it judges on, and what it leaves behind: rows, page, JSON,
verdict.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))
from latent_little_world import little_records

import pipelines.assets.latent_quality as latent_quality
import pipelines.registry.tracking as tracking
from latentvla_core.data.records import row_from_record
from latentvla_core.errors import SetupError
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.model import LatentActionModel, load, save
from latentvla_core.latent.quality import Bound, QualityGate, judge
from latentvla_core.training.sinks import FileSink
from latentvla_core.types import SceneRecord
from pipelines.assets.latent_quality import MODEL, Judged, read_curves_of, stored_judgements
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.context import CURVES, Outcome
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import UNPARTITIONED, Stage

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
GATE = QualityGate(
    required=(Bound("transitions", at_least=1), Bound("ego_usage", at_least=17)),
    targets=(
        Bound("gain_over_copy", at_least=2),
        Bound("ego_perplexity", at_most=3),
        Bound("shuffle_ego", at_least=-9),
    ),
)
FIGURES = {"transitions": 20.0, "ego_usage": 12.0, "gain_over_copy": 0.25, "transfer_yaw": math.nan}


class Line:
    """A lake with scenes and a model, and the real stage `latent_quality` with a gate of ours."""

    def __init__(self, home: Path, records: list[SceneRecord], gate: QualityGate = GATE) -> None:
        self.settings = Settings.from_env(
            {"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "debug", "LATENTVLA_SHARDS": "1"}
        )
        common: dict[str, Any] = {"run": lambda *a: None, "deps": (), "group": "g", "doc": ""}
        stages = [Stage(name="scenes", kind="shards", table="scenes", **common),
                  Stage(name=MODEL, kind="model", table="models", **common), STAGES["latent_quality"]]  # fmt: skip
        self.stages, self.gate = {stage.name: stage for stage in stages}, gate
        for split in {r.split for r in records}:
            rows = [
                {**row_from_record(r), "shard": 0, "made_by": "d"}
                for r in records
                if r.split == split
            ]
            self.engine().lake.replace("scenes", rows, {"split": split, "shard": 0})
        self.finish("model-1")

    def engine(self) -> Engine:
        engine = Engine(self.settings, self.stages, say=lambda text: None)
        engine.__dict__["listing"] = []  # scenes stand in the table, without logs on disk
        engine.recipe = replace(engine.recipe, latent_gate=self.gate)
        return engine

    def finish(self, version: str) -> None:
        """An untrained model becomes the latest."""
        torch.manual_seed(1)
        save(LatentActionModel(LatentActionConfig.debug()), self.folder(version))
        self.engine().ledger.record(
            {
                "asset": MODEL,
                "partition": UNPARTITIONED,
                "made_by": version,
                "table_name": "models",
                "delta_version": 0,
                "rows": 1,
                "quarantined": 0,
                "inputs": "",
                "recipe": "",
                "code_version": "",
                "commit": "",
                "run_id": "",
                "seconds": 0.0,
                "finished_us": int(version[-1]),
            }
        )

    def folder(self, version: str) -> Path:
        return self.settings.models / MODEL / version

    def rows(self, version: str = "model-1") -> list[dict[str, Any]]:
        return self.engine().lake.rows("latent_quality", {"model_version": version})


def blind(split: str, logs: int) -> list[SceneRecord]:
    """A scene without pictures of each of so many logs."""
    pose = np.zeros(3)
    return [
        SceneRecord(
            scene_token=f"{split}-{i}",
            log_name=f"{split}-log-{i}",
            split=split,
            map_location="",
            timestamp_us=i,
            sensor_root="",
            ego_pose=pose,
            ego_velocity_mps=pose[:2],
            ego_acceleration_mps2=pose[:2],
            command=1,
            history_poses=np.zeros((4, 3)),
            history_velocities_mps=np.zeros((4, 2)),
            history_accelerations_mps2=np.zeros((4, 2)),
            future_poses=np.zeros((10, 3)),
            front_paths=("",) * 14,
            camera_names=(),
            camera_paths=(),
            camera_intrinsics_px=np.zeros((0, 3, 3)),
            camera_rotations=np.zeros((0, 3, 3)),
            camera_translations_m=np.zeros((0, 3)),
            lidar_path="",
            object_boxes=np.zeros((0, 7)),
            object_classes=np.zeros(0, np.int8),
            object_velocities_mps=np.zeros((0, 2)),
            roadblock_ids=(),
            has_objects=False,
        )
        for i in range(logs)
    ]


# ---- one real report ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Line, Outcome]:
    """Measured on two val and two train logs."""
    home = tmp_path_factory.mktemp("quality")
    records = little_records(home / "pictures", logs=4, frames=15)
    split = {f"log-{i}": "val" if i < 2 else "train" for i in range(4)}
    line = Line(home, [replace(r, split=split[r.log_name]) for r in records])
    sink = FileSink(line.folder("model-1") / CURVES)
    for step in (1, 2):
        sink.log(step, {"stage1/loss": 1.0 / step, "stage2/loss": 2.0 / step})
    return line, line.engine().execute("latent_quality")


def figures(line: Line) -> dict[str, float]:
    """What the JSON beside the page says."""
    return json.loads(
        line.engine().page("latent_quality", "model-1").with_suffix(".json").read_text()
    )


def test_the_figures_lie_beside_the_page(made: tuple[Line, Outcome]):
    line, outcome = made
    page = outcome.metadata["page"]
    assert page == line.settings.home / "reports" / "latent_quality-model-1.html"
    report = figures(line)
    assert (
        report["transitions"] == 4 * 12
    )  # a scene of 14 frames per log, two frames between those of a transition
    assert report["logs"] == 4
    assert 1 <= report["ego_usage"] <= 16
    assert math.isfinite(report["gain_over_copy"])


def test_the_page_says_what_was_judged_and_why_it_may_not_label(made: tuple[Line, Outcome]):
    line, outcome = made
    html = outcome.metadata["page"].read_text()
    for part in (
        "model-1",
        "debug",
        "must not label",
        "Split val has only 2 of the 6 logs",
        "ego_usage",
    ):
        assert part in html
    assert "No curves are stored" not in html


def test_rows_are_the_figures_against_their_bounds(made: tuple[Line, Outcome]):
    line, outcome = made
    report, rows = figures(line), {(row["name"], row["required"]): row for row in line.rows()}
    assert outcome.rows == len(rows)
    assert set(report) <= {name for name, _ in rows}
    for (name, _), row in rows.items():
        np.testing.assert_equal(row["value"], report.get(name, row["value"]), name)
    usage, gain = rows["ego_usage", True], rows["gain_over_copy", False]
    assert (usage["at_least"], usage["passed"]) == (17, False)
    assert (gain["at_least"], gain["passed"]) == (2, False)
    assert usage["meaning"] and usage["cause"] and usage["remedy"]
    assert {row["made_by"] for row in rows.values()} == {outcome.made_by}
    assert [j.line() for j in stored_judgements(line.engine(), "model-1") if j.blocks] == [
        outcome.metadata["verdict"]
    ]


def test_metadata_holds_the_verdict_and_every_figure_that_is_known(made: tuple[Line, Outcome]):
    line, outcome = made
    report, told = figures(line), outcome.metadata
    assert told["verdict"].startswith(
        f"ego_usage is {report['ego_usage']:.3g}, must be at least 17 ("
    )
    assert "gain_over_copy" in told["targets_missed"].split(", ")
    assert {name for name in report if name in told} == {
        name for name, value in report.items() if value == value
    }
    assert told["transitions"] == report["transitions"]


def test_probes_are_fitted_on_the_other_logs_that_are_given(made: tuple[Line, Outcome]):
    engine = made[0].engine()
    model, val, train = engine.model(MODEL, load), engine.records("val"), engine.records("train")
    report, codes = latent_quality.measure(engine, model, Judged(val, train, ""))
    assert (report["logs"], codes["ego"].shape, codes["environment"].shape) == (2, (24, 4), (24, 4))
    with pytest.raises(ValueError, match="a probe must be judged on other logs"):
        latent_quality.measure(engine, model, Judged(val, [*train, *val], ""))


def test_an_up_to_date_report_is_not_measured_again(
    made: tuple[Line, Outcome], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(latent_quality, "measure", None)
    assert made[0].engine().execute("latent_quality").skipped


def test_curves_are_those_beside_the_current_model(made: tuple[Line, Outcome]):
    curves = {"stage1/loss": [(1, 1.0), (2, 0.5)], "stage2/loss": [(1, 2.0), (2, 1.0)]}
    assert read_curves_of(made[0].engine()) == curves


# ---- the rest with figures of our own ----------------------------------------------------------


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the asset wanted measured; the figures are FIGURES."""
    asked: list[Any] = []

    def measure(
        engine: Engine, model: LatentActionModel, what: Any
    ) -> tuple[dict[str, float], dict[str, Any]]:
        asked.append(what)
        return dict(FIGURES), {
            "ego": np.arange(40).reshape(10, 4) % 16,
            "environment": np.zeros((10, 4), int),
        }

    monkeypatch.setattr(latent_quality, "measure", measure)
    return asked


def logs_of(records: list[SceneRecord]) -> set[str]:
    return {r.log_name for r in records}


@pytest.mark.parametrize("val", [6, 8])
def test_enough_val_logs_are_judged_alone_by_probes_of_the_train_logs(
    tmp_path: Path, judged: list[Any], val: int
):
    line = Line(tmp_path, [*blind("train", 3), *blind("val", val), *blind("test", 2)])
    outcome = line.engine().execute("latent_quality")
    (what,) = judged
    assert logs_of(what.records) == {f"val-log-{i}" for i in range(val)}
    assert logs_of(what.others) == {f"train-log-{i}" for i in range(3)}
    assert (
        outcome.metadata["judged_on"]
        == what.sentence
        == f"Judged on split val: {val} logs that no training saw."
    )


@pytest.mark.parametrize(("val", "train", "joined"), [(5, 3, 1), (2, 9, 4), (1, 2, 2), (0, 7, 6)])
def test_where_val_logs_are_few_train_logs_join_and_it_is_said(
    tmp_path: Path, judged: list[Any], val: int, train: int, joined: int
):
    line = Line(tmp_path, [*blind("train", train), *blind("val", val), *blind("test", 2)])
    told = line.engine().execute("latent_quality").metadata["judged_on"]
    (what,) = judged
    found = logs_of(what.records)
    assert {name for name in found if name.startswith("val")} == {
        f"val-log-{i}" for i in range(val)
    }
    assert len({name for name in found if name.startswith("train")}) == joined
    assert len(found) == val + joined
    assert not found & logs_of(what.others or [])
    assert (
        f"only {val} of the 6 logs" in told
        and f"so {joined} logs that the model was trained on" in told
    )


def test_without_training_scenes_it_is_said_what_to_do(tmp_path: Path, judged: list[Any]):
    with pytest.raises(
        SetupError, match=r"split train has no scenes.*materialise logs, frames and scenes"
    ):
        Line(tmp_path, blind("val", 6)).engine().execute("latent_quality")
    assert judged == []


@pytest.fixture
def line(tmp_path: Path, judged: list[Any]) -> Line:
    return Line(tmp_path, [*blind("train", 1), *blind("val", 6)])


@pytest.mark.slow
def test_a_model_that_holds_every_required_bound_may_label(line: Line):
    line.gate = QualityGate(required=(Bound("ego_usage", at_least=12),))
    told = line.engine().execute("latent_quality").metadata
    assert (told["verdict"], told["targets_missed"]) == ("may label", "none")
    assert "must not label" not in told["page"].read_text()


def test_what_is_required_is_in_the_verdict_and_what_is_wanted_in_the_targets(line: Line):
    told = line.engine().execute("latent_quality").metadata
    assert told["verdict"].startswith("ego_usage is 12, must be at least 17")
    assert (
        told["targets_missed"] == "gain_over_copy, ego_perplexity, shuffle_ego"
    )  # what is missing is missed
    assert "transfer_yaw" not in told
    line.gate = replace(
        GATE, required=(Bound("ego_usage", at_least=17), Bound("gain_over_copy", at_least=1))
    )
    both = line.engine().execute("latent_quality").metadata["verdict"]
    assert (
        both.startswith("ego_usage is 12,")
        and "; gain_over_copy is 0.25, must be at least 1 (" in both
    )


def test_reports_of_two_models_stay_side_by_side(line: Line):
    line.engine().execute("latent_quality")
    first = line.rows("model-1")
    line.finish("model-2")
    line.engine().execute("latent_quality")
    assert len(line.rows("model-2")) == len(first)
    np.testing.assert_equal(line.rows("model-1"), first)
    assert sorted(path.name for path in (line.settings.home / "reports").iterdir()) == [
        f"latent_quality-model-{n}.{kind}" for n in (1, 2) for kind in ("html", "json")
    ]


def test_a_model_without_curves_is_judged_all_the_same(line: Line):
    assert read_curves_of(line.engine()) == {}
    page = line.engine().execute("latent_quality").metadata["page"]
    assert "No curves are stored with this model" in page.read_text()


@pytest.mark.parametrize(("at_least", "verdict"), [(12, "passed"), (13, "failed")])
def test_a_registered_model_is_told_its_figures_and_its_verdict(
    line: Line, monkeypatch: pytest.MonkeyPatch, at_least: int, verdict: str
):
    told: list[tuple[Any, ...]] = []
    note: Callable[..., None] = lambda *args: told.append(args)  # noqa: E731
    monkeypatch.setattr(tracking, "note_quality", note)
    monkeypatch.setattr(tracking, "keep_page", lambda settings, uri, page: f"http://ui/{page.name}")
    line.gate = QualityGate(required=(Bound("ego_usage", at_least=at_least),), targets=GATE.targets)
    for version in ("model-0", "model-1"):
        row = {
            "name": MODEL,
            "version": version,
            "recipe": "",
            "path": "",
            "parameters": 1,
            "metrics": "",
            "inputs": "",
            "commit": "",
            "seconds": 0.0,
            "mlflow_uri": f"models:/{MODEL}/{version[-1]}",
            "made_by": version,
        }
        line.engine().lake.replace("models", [row], {"name": MODEL, "version": version})
    line.engine().execute("latent_quality")
    ((settings, uri, report, said),) = told
    assert (settings, uri, said) == (line.settings, f"models:/{MODEL}/1", verdict)
    np.testing.assert_equal(report, FIGURES)
    assert {row.name for row in judge(report, line.gate)} >= set(FIGURES)
