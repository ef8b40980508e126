"""The label table through the assets: versions side by side, replaced alone, read by lineage, made
anew from an old schema.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))
from latent_little_world import little_records

from latentvla_core.data.records import row_from_record
from latentvla_core.errors import SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.model import LatentActionModel, save
from latentvla_core.latent.rows.labels import whole_logs
from pipelines.checks import verify
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage, stale_work
from pipelines.steps.reading import labels_of, sentences_of

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
PART = "train-00"


def toy(name: str, kind: str = "shards", table: str = "", deps: tuple[str, ...] = ()) -> Stage:
    return Stage(
        name=name, run=lambda *a: None, kind=kind, table=table or name, deps=deps, group="g", doc=""
    )


class Line:
    """A lake with frames, scenes and trained models in it, and the real stage `latent_actions`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.settings = Settings.from_env(
            {"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "debug", "LATENTVLA_SHARDS": "1"}
        )
        labels = STAGES["latent_actions"]
        stages = [
            toy("frames"),
            toy("scenes", deps=("frames",)),
            toy("latent_action_model", "model", "models"),
            toy("latent_quality", "table"),
            labels,
        ]
        self.stages = {stage.name: stage for stage in stages}
        self.records = little_records(home / "pictures", logs=2, frames=17)
        lake = Lake(self.settings.lake)
        rows = [{**row_from_record(r), "shard": 0, "made_by": "data-1"} for r in self.records]
        lake.replace("scenes", rows, {"split": "train", "shard": 0})
        for name, made_by in (("frames", "f-1"), ("scenes", "data-1")):
            self.finish(name, PART, made_by, len(rows) if name == "scenes" else 0)
        self.train("model-1", seed=1)

    def engine(self) -> Engine:
        engine = Engine(self.settings, self.stages, say=lambda text: None)
        engine.__dict__["listing"] = []  # scenes stand in the table, without logs on disk
        return engine

    def finish(self, asset: str, partition: str, made_by: str, rows: int = 1) -> None:
        engine = self.engine()
        values: dict[str, Any] = dict.fromkeys(
            ("table_name", "inputs", "recipe", "code_version", "commit", "run_id"), ""
        )
        values |= {
            "asset": asset,
            "partition": partition,
            "made_by": made_by,
            "delta_version": 0,
            "rows": rows,
        }
        last = max([row["finished_us"] for row in engine.ledger.latest.values()], default=0)
        engine.ledger.record({**values, "quarantined": 0, "seconds": 0.0, "finished_us": last + 1})

    def train(self, version: str, seed: int) -> None:
        torch.manual_seed(seed)
        save(
            LatentActionModel(LatentActionConfig.debug()),
            self.settings.models / "latent_action_model" / version,
        )
        self.finish("latent_action_model", "", version)

    def stale(self) -> list[tuple[str, str]]:
        engine = self.engine()
        return stale_work(
            self.stages,
            engine.recipe,
            (PART,),
            engine.ledger,
            engine.files_key,
            ("latent_actions",),
            engine.is_there,
        )


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def versions(line: Line) -> dict[str, int]:
    column = Lake(line.settings.lake).read("latent_actions", columns=["model_version"])[
        "model_version"
    ]
    return {entry["values"]: entry["counts"] for entry in column.value_counts().to_pylist()}


def test_one_row_per_scene_and_step(line: Line):
    outcome = line.engine().execute("latent_actions", PART)
    rows = Lake(line.settings.lake).rows("latent_actions")
    assert outcome.rows == len(rows) == 3 * len(line.records)
    assert {row["data_version"] for row in rows} == {"data-1"}
    assert all(len(row["ego_codes"]) == 4 and len(row["environment_codes"]) == 4 for row in rows)
    first = [row for row in rows if row["scene_token"] == line.records[0].scene_token]
    assert [row["step"] for row in first] == [0, 1, 2]
    assert [row["timestamp_us"] - line.records[0].timestamp_us for row in first] == [
        0,
        1_000_000,
        2_000_000,
    ]


def test_two_model_versions_live_side_by_side_and_readers_take_the_current(line: Line):
    line.engine().execute("latent_actions", PART)
    first = sentences_of(line.engine(), ["train"])
    line.train("model-2", seed=2)
    line.engine().execute("latent_actions", PART)
    count = 3 * len(line.records)
    assert versions(line) == {"model-1": count, "model-2": count}
    second = sentences_of(line.engine(), ["train"])
    assert set(first) == set(second) == {r.scene_token for r in line.records}
    assert any((first[token] != second[token]).any() for token in first)
    codes = labels_of(line.engine(), line.records)
    np.testing.assert_array_equal(codes, [second[r.scene_token] for r in line.records])


def test_doing_one_version_again_replaces_only_its_rows(line: Line):
    line.engine().execute("latent_actions", PART)
    old = Lake(line.settings.lake).rows("latent_actions")
    line.train("model-2", seed=2)
    for _ in range(2):
        line.engine().execute("latent_actions", PART, force=True)
    count = 3 * len(line.records)
    assert versions(line) == {"model-1": count, "model-2": count}
    kept = Lake(line.settings.lake).rows("latent_actions", {"model_version": "model-1"})
    assert [{k: str(v) for k, v in row.items()} for row in kept] == [
        {k: str(v) for k, v in r.items()} for r in old
    ]


def test_counts_stay_right_with_several_versions(line: Line):
    assert line.stale() == [("latent_actions", PART)]
    line.engine().execute("latent_actions", PART)
    assert line.stale() == []
    line.train("model-2", seed=2)
    assert line.stale() == [("latent_actions", PART)]
    engine = line.engine()
    outcome = engine.execute("latent_actions", PART)
    assert line.stale() == []
    verdict = verify(engine.lake, line.stages["latent_actions"], {PART: outcome})
    assert verdict.faults == []
    assert verdict.rows == outcome.rows == 3 * len(line.records)
    # Rows of the current version are lost, those of the other one are still there: that is not
    # "there".
    engine.lake.replace(
        "latent_actions", [], {"split": "train", "shard": 0, "model_version": "model-2"}
    )
    assert line.stale() == [("latent_actions", PART)]
    assert (
        "0 are stored"
        in verify(engine.lake, line.stages["latent_actions"], {PART: outcome}).faults[0]
    )


def test_going_back_to_an_old_model_finds_its_labels_again(line: Line):
    line.engine().execute("latent_actions", PART)
    first = sentences_of(line.engine(), ["train"])
    line.train("model-2", seed=2)
    line.engine().execute("latent_actions", PART)
    line.finish("latent_action_model", "", "model-1")
    line.engine().execute("latent_actions", PART)
    again = sentences_of(line.engine(), ["train"])
    assert all((first[token] == again[token]).all() for token in first)
    assert len(versions(line)) == 2


def test_killed_between_rows_and_ledger_gives_the_same_table(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.steps.lineage.Ledger.record", killed)
        with pytest.raises(KeyboardInterrupt):
            line.engine().execute("latent_actions", PART)
    before = Lake(line.settings.lake).read("latent_actions")
    assert sentences_of(line.engine(), ["train"]) == {}, (
        "labels that the ledger does not know are nobody's labels"
    )
    assert line.stale() == [("latent_actions", PART)]
    line.engine().execute("latent_actions", PART)
    after = Lake(line.settings.lake).read("latent_actions")
    assert str(after.to_pylist()) == str(before.to_pylist())  # NaN is NaN


def test_a_scene_with_a_hole_keeps_its_good_transitions_and_has_no_sentence(line: Line):
    lake = Lake(line.settings.lake)
    rows = lake.rows("scenes")
    rows[0]["front_paths"] = (
        *rows[0]["front_paths"][:9],
        "",
        *rows[0]["front_paths"][10:],
    )  # frame +6
    lake.replace("scenes", rows, {"split": "train", "shard": 0})
    line.engine().execute("latent_actions", PART)
    token = rows[0]["scene_token"]
    stored = lake.rows("latent_actions", {"scene_token": token})
    assert [row["valid"] for row in stored] == [True, True, False]
    assert stored[2]["reason"] == "no front picture at frame +6"
    assert len(stored[2]["ego_codes"]) == 0
    assert token not in sentences_of(line.engine(), ["train"])


def test_no_part_cuts_a_log(line: Line, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("latentvla_core.latent.rows.labels.CHUNK", 3)
    records = [replace(r, log_name=f"log-{i // 5}") for i, r in enumerate(line.records * 4)]
    parts = whole_logs(records)
    assert [r for part in parts for r in part] == records
    assert len(parts) > 1
    seen = [name for part in parts for name in {r.log_name for r in part}]
    assert len(seen) == len(set(seen))


def test_a_table_of_the_first_schema_is_made_anew_and_stays_readable_at_its_version(line: Line):
    """Labels of 0.1.0's first days: one row per scene with 12 codes, partitions without
    model_version.
    """
    old = write_first_schema(line.settings.lake)
    with pytest.raises(SetupError, match="older schema.*lacks.*step.*materialise latent_actions"):
        Lake(line.settings.lake).rows("latent_actions")
    line.engine().execute("latent_actions", PART)
    lake = Lake(line.settings.lake)
    assert len(lake.rows("latent_actions")) == 3 * len(line.records)
    table = lake.delta("latent_actions", version=old)
    assert table is not None
    assert table.to_pyarrow_table()["ego_codes"].to_pylist() == [list(range(12))]


def test_records_of_an_old_schema_are_never_dropped(line: Line):
    import pyarrow as pa
    from deltalake import write_deltalake

    uri = Lake(line.settings.lake).uri("models")
    shutil.rmtree(uri, ignore_errors=True)
    write_deltalake(
        uri,
        pa.table({"name": ["m"], "version": ["1"], "recipe": ["mini"]}),
        partition_by=["name", "version"],
    )
    row = {
        "name": "m",
        "version": "2",
        "recipe": "",
        "path": "",
        "parameters": 1,
        "metrics": "",
        "inputs": "",
        "commit": "",
        "seconds": 1.0,
        "mlflow_uri": "",
        "made_by": "",
    }
    with pytest.raises(SetupError, match="cannot be made again"):
        Lake(line.settings.lake).replace("models", [row], {"name": "m", "version": "2"})


def write_first_schema(root: str) -> int:
    """A lake's `latent_actions` as version 1 of the schema had it; returns its Delta version."""
    import pyarrow as pa
    from deltalake import DeltaTable, write_deltalake

    columns = {
        "split": ["train"],
        "shard": pa.array([0], pa.int32()),
        "scene_token": ["a"],
        "log_name": ["log"],
        "timestamp_us": [1],
        "ego_codes": pa.array([list(range(12))], pa.list_(pa.int8())),
        "valid": [True],
        "reason": [""],
        "model_version": ["m"],
        "made_by": ["f"],
    }
    uri = Lake(root).uri("latent_actions")
    write_deltalake(uri, pa.table(columns), partition_by=["split", "shard"])
    return DeltaTable(uri).version()


def test_dinov2_features_are_computed_once_and_shared_by_label_runs(
    line: Line, tmp_path: Path, monkeypatch
):
    from transformers import Dinov2Config, Dinov2Model

    from latentvla_core.latent.features import DinoFeatures, FeatureConfig

    shape = Dinov2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, patch_size=14, image_size=56
    )
    Dinov2Model(shape).save_pretrained(tmp_path / "dino")
    seen = FeatureConfig(
        kind="dinov2", image_size_wh=(56, 28), patch_px=14, dim=24, backbone=str(tmp_path / "dino")
    )
    model = LatentActionModel(LatentActionConfig.debug(features=seen))
    save(model, line.settings.models / "latent_action_model" / "model-2")
    line.finish("latent_action_model", "", "model-2")
    shown: list[int] = []
    original = DinoFeatures.__call__

    def counting(self: DinoFeatures, pictures: torch.Tensor) -> torch.Tensor:
        shown.extend([1] * (pictures.dtype == torch.uint8))
        return original(self, pictures)

    monkeypatch.setattr(DinoFeatures, "__call__", counting)
    line.engine().execute("latent_actions", PART)
    assert shown
    first = line.engine().lake.rows("latent_actions", {"model_version": "model-2"})
    shown.clear()
    line.engine().execute("latent_actions", PART, force=True)
    assert not shown
    again = line.engine().lake.rows("latent_actions", {"model_version": "model-2"})
    assert [row["ego_codes"].tolist() for row in again] == [
        row["ego_codes"].tolist() for row in first
    ]
    assert all(row["valid"] for row in first)
