"""What Dagster is told: a version per shard, also in range runs; nothing new of a run that does
nothing.
"""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from label_rows import label
from PIL import Image

from pipelines.dagster_assets import asset_of, place_of_work
from pipelines.resources import LatentVLAResource
from pipelines.settings import Settings
from pipelines.steps.context import Model, Output, StageContext
from pipelines.steps.lineage import Stage, place_of
from pipelines.versions import DATA_VERSION, code_version_of, deps_of, version_told

_BUFFER = io.BytesIO()
Image.new("RGB", (8, 8)).save(_BUFFER, "png")
PNG = _BUFFER.getvalue()


class Line:
    """An asset of shards whose content a test decides, and one that follows it."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LATENTVLA_HOME", str(home))
        monkeypatch.setenv("LATENTVLA_RECIPE", "debug")
        monkeypatch.setenv("LATENTVLA_SHARDS", "2")
        self.settings = Settings.from_env()
        self.codes = {"latent_actions": "1", "after": "1"}
        self.done: list[str] = []
        self.instance = dg.DagsterInstance.ephemeral()

    @property
    def stages(self) -> dict[str, Stage]:
        common: dict[str, Any] = {"kind": "shards", "table": "latent_actions", "group": "g"}
        made = Stage(
            name="latent_actions", run=self.make, deps=(), doc="", picture=lambda *_: PNG,
            code_version=self.codes["latent_actions"], **common,
        )  # fmt: skip
        return {made.name: made}

    def make(self, context: StageContext, partition: str) -> Output:
        self.done.append(partition)
        shard = place_of(partition)["shard"]
        rows = [label(f"{partition}-{i}") for i in range(1 + shard)]
        return Output(rows, groups=("m",), metadata={"note": f"of {partition}"})

    def run(self, force: bool = False) -> None:
        parts = self.settings.partitions
        asset = asset_of(self.stages["latent_actions"], self.settings, self.stages, pooled=False)
        done = dg.materialize(
            [asset],
            instance=self.instance,
            resources={"latentvla": LatentVLAResource()},
            tags={
                "dagster/asset_partition_range_start": parts[0],
                "dagster/asset_partition_range_end": parts[-1],
            },
            run_config={"ops": {asset.op.name: {"config": {"force": force}}}},
        )
        assert done.success

    def told(self) -> dict[str, dg.AssetMaterialization]:
        """Latest event per partition."""
        key = dg.AssetKey("latent_actions")
        found = {}
        for part in self.settings.partitions:
            records = self.instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=key, asset_partitions=[part]), limit=1
            ).records
            found[part] = records[0].asset_materialization
        return found

    def versions(self) -> dict[str, str]:
        return {part: event.tags[DATA_VERSION] for part, event in self.told().items()}


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(tmp_path, monkeypatch)


def test_a_range_run_tells_one_version_per_shard_that_of_its_rows(line: Line) -> None:
    line.run()
    from latentvla_core.lake.store import Lake

    rows = Lake(line.settings.lake).rows("latent_actions", columns=["split", "shard", "made_by"])
    stored = {f"{row['split']}-{row['shard']:02d}": row["made_by"] for row in rows}
    assert line.versions() == stored
    assert len(line.done) == len(stored)


def test_a_run_with_nothing_to_do_changes_no_version_and_leaves_no_page_empty(line: Line) -> None:
    line.run()
    before, first, done = line.versions(), line.told(), list(line.done)
    line.run()
    assert line.done == done
    assert line.versions() == before
    for part, event in line.told().items():
        shard = place_of(part)["shard"]
        assert event.metadata["dagster/partition_row_count"].value == 1 + shard
        assert event.metadata["note"].value == f"of {part}"
        assert event.metadata["picture"] == first[part].metadata["picture"]
        assert event.metadata["partitions_done"].value == 0


def test_the_code_version_tells_code_schema_and_the_sections_that_are_read(line: Line) -> None:
    stage = replace(line.stages["latent_actions"], recipe=("latent",))
    told = code_version_of(stage, line.settings)
    other = replace(line.settings, recipe="mini")
    assert told.startswith("1 · schema ")
    assert code_version_of(stage, other) != told
    assert code_version_of(replace(stage, code_version="2"), line.settings) != told
    alone = replace(stage, recipe=())
    assert code_version_of(alone, other) == code_version_of(alone, line.settings)


def test_a_model_depends_on_the_partitions_of_the_splits_it_reads(line: Line) -> None:
    def train(context: StageContext, folder: Path) -> Model:
        return Model(0, {})

    model = Stage(
        name="m", run=train, kind="model", table="models", deps=("latent_actions",), group="g",
        doc="", reads=("train",),
    )  # fmt: skip
    (dep,) = deps_of(model, {**line.stages, "m": model}, line.settings)
    assert isinstance(dep.partition_mapping, dg.SpecificPartitionsPartitionMapping)
    assert list(dep.partition_mapping.partition_keys) == ["train-00", "train-01"]
    (whole,) = deps_of(replace(model, reads=()), line.stages, line.settings)
    assert whole.partition_mapping is None


HOLD = """
import sys
from pathlib import Path
from latentvla_core.lake.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_of_an_asset_that_another_process_works_on_waits_and_says_for_whom(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    stage = line.stages["latent_actions"]
    place = place_of_work(line.settings, stage)
    place.parent.mkdir(parents=True)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdin and other.stdout and other.stdout.readline() == "held\n"
    told: list[str] = []
    write = dg.DagsterLogManager.info

    def listen(log: Any, text: str) -> None:
        told.append(text)
        write(log, text)
        if "waiting for it" in text:
            assert line.done == []
            other.stdin.close()  # type: ignore[union-attr]

    monkeypatch.setattr(dg.DagsterLogManager, "info", listen)
    line.run()
    other.wait()
    assert f"process {other.pid} on" in told[0] and "works at" in told[0]
    assert len(line.done) == len(line.settings.partitions)


def test_what_is_only_waited_for_tells_no_version_that_makes_others_stale(line: Line):
    common: dict[str, Any] = {"kind": "table", "table": "pdm_summary", "group": "g", "doc": ""}
    gate = Stage(name="gate", run=line.make, deps=(), **common)
    behind = Stage(name="behind", run=line.make, deps=(), gates=("gate",), **common)
    reader = Stage(name="reader", run=line.make, deps=("gate",), **common)
    stages = {"gate": gate, "behind": behind}
    assert version_told(gate, stages, "abc") == "done"
    assert version_told(behind, stages, "abc") == "abc"
    assert version_told(gate, stages | {"reader": reader}, "abc") == "abc"
