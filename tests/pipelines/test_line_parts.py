"""Parts of the line by themselves: how an asset is declared, what its fingerprint counts, what a
check finds in a damaged table, and which logs a source offers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_rows import label

from latentvla_core.errors import SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.tables import TABLES
from pipelines.checks import complete, schema_faults, verify
from pipelines.jobs import JOBS, LINE, all_partitions, jobs_of
from pipelines.resources import LatentVLAResource
from pipelines.settings import Settings, Source
from pipelines.sources import MARKER, _why_empty, filter_of, is_of_sequence, list_logs
from pipelines.sources import world_is_current as is_current
from pipelines.stages import STAGES
from pipelines.steps import declare
from pipelines.steps.context import Outcome, base_log, chunks
from pipelines.steps.lineage import (
    Ledger,
    Stage,
    digest,
    fingerprint,
    partition_key,
    place_of,
    shard_of,
    share_of,
    with_contents,
)

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
laws = settings(max_examples=40, deadline=None)
PLACE = {"split": "train", "shard": 0, "model_version": "m"}


# ---- declaring


def test_an_asset_is_its_function_with_what_stands_on_top():
    module = ModuleType("toy_assets")

    def labels(context: Any, partition: str) -> None:
        """What the UI says."""

    def teacher(context: Any, folder: Path) -> None: ...

    for run in (labels, teacher):
        run.__module__ = module.__name__
    assert declare.shards(deps=("scenes",), group="g", heavy=True)(labels) is labels
    declare.model(name="other_name", group="g", doc="given")(teacher)
    one, two = declare.stages_of(module)
    assert (one.name, one.table, one.kind, one.doc) == (
        "labels",
        "labels",
        "shards",
        labels.__doc__,
    )
    assert one.partitioned and one.heavy and one.deps == ("scenes",)
    assert (two.name, two.table, two.kind, two.doc) == ("other_name", "models", "model", "given")
    assert not two.partitioned and two.deps == ()


def test_a_field_that_no_stage_has_is_refused():
    with pytest.raises(TypeError, match="colour"):
        declare.table(group="g", colour="red")(lambda context: None)


# ---- places and fingerprints


@laws
@given(NAMES, st.integers(0, 511))
def test_a_partition_names_its_place_whatever_its_split_is_called(split: str, shard: int):
    assert place_of(partition_key(split, shard)) == {"split": split, "shard": shard}


@laws
@given(st.text(min_size=1, max_size=30), st.integers(1, 512))
def test_every_log_has_one_shard_and_one_share(log: str, shards: int):
    assert 0 <= shard_of(log, shards) < shards
    assert 0.0 <= share_of(log) < 1.0
    assert shard_of(log, shards) == shard_of(log, shards)


def test_logs_are_spread_over_shards_and_shares():
    names = [f"2021.05.{k:02d}_veh" for k in range(400)]
    counts = np.bincount([shard_of(name, 4) for name in names], minlength=4)
    assert counts.min() > 60
    assert 0.4 < np.mean([share_of(name) for name in names]) < 0.6


@dataclass(frozen=True)
class Section:
    """A section of a recipe with weights in it."""

    steps: int = 1
    pretrained_path: str = ""
    deeper: Any = None


def test_weights_count_by_content_at_any_depth_and_names_by_their_text(tmp_path: Path):
    here = str(tmp_path)
    made = with_contents(Section(deeper=Section(pretrained_path=here)), lambda p: f"key of {p}")
    assert made["deeper"]["pretrained_path"] == f"key of {here}"
    named = with_contents(Section(pretrained_path="no-such-package"), lambda path: "key")
    assert named["pretrained_path"] == "no-such-package"
    assert with_contents(7, lambda path: "key") == 7


def stage(name: str, kind: str = "shards", **change: Any) -> Stage:
    plain = {"table": "latent_actions", "deps": (), "group": "g", "doc": "", "run": print}
    return Stage(name=name, kind=kind, **(plain | change))


def made(
    top: Stage,
    partition: str,
    inputs: dict[tuple[str, str], str],
    files: dict[str, str] | None = None,
) -> str:
    stages = {"below": stage("below"), "whole": stage("whole", "table"), top.name: top}
    recipe = SimpleNamespace(latent=Section(), vlm=Section(2))
    return fingerprint(
        top, partition, recipe, ("train-00", "train-01", "val-00"), stages,
        lambda asset, part: inputs.get((asset, part), "x"),
        lambda kind, part: (files or {}).get(f"{kind} {part}", ""),
    )  # fmt: skip


def test_a_shard_depends_on_its_own_shard_below_and_on_all_of_a_whole_table():
    top = stage("top", deps=("below", "whole"))
    base = made(top, "train-00", {})
    assert made(top, "train-00", {("below", "train-00"): "y"}) != base
    assert made(top, "train-00", {("below", "train-01"): "y"}) == base
    assert made(top, "train-00", {("whole", ""): "y"}) != base
    assert made(replace(top, code_version="2"), "train-00", {}) != base


def test_a_model_depends_on_the_splits_it_reads_and_on_their_files():
    top = stage("top", "model", deps=("below",), reads=("train",), files=("front",))
    base = made(top, "", {})
    for part, matters in (("train-00", True), ("train-01", True), ("val-00", False)):
        assert (made(top, "", {("below", part): "y"}) != base) == matters
        assert (made(top, "", {}, {f"front {part}": "y"}) != base) == matters


def test_only_sections_that_a_stage_reads_and_tables_it_writes_count():
    base = made(stage("top"), "train-00", {})
    assert made(stage("top", recipe=("latent",)), "train-00", {}) != base
    assert made(stage("top", beside=("quarantine",)), "train-00", {}) != base
    assert made(stage("top", gates=("whole",), after=("below",)), "train-00", {}) == base


def test_a_digest_is_of_values_not_of_objects():
    assert digest(Path("a"), Section(2)) == digest("a", Section(2)) != digest("a", Section(3))
    assert digest({"b": 1, "a": {2, 1}}) == digest({"a": {1, 2}, "b": 1})
    assert len(digest()) == 16


def test_the_latest_is_the_latest_on_a_clock_that_was_set_back(tmp_path: Path):
    ledger = Ledger(Lake(str(tmp_path)), {})
    assert ledger.next_us(50) == 50
    ledger.latest["a", ""] = {"finished_us": 100, "made_by": "f", "rows": 3}
    assert ledger.next_us(50) == 101 and ledger.next_us(200) == 200
    assert (ledger.made_by("a", ""), ledger.made_by("b", "")) == ("f", "absent")
    assert ledger.rows_of("a", "") == 3


@pytest.mark.parametrize(("log", "base"), [("oak@1", "oak"), ("oak", "oak"), ("a@b@12", "a@b")])
def test_a_phase_belongs_to_its_sequence(log: str, base: str):
    assert base_log(log) == base


def test_chunks_are_whole_and_in_order():
    items = list(range(1025))
    parts = chunks(items)
    assert [len(part) for part in parts] == [512, 512, 1]
    assert [x for part in parts for x in part] == items and chunks([]) == []


# ---- checks


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    lake.replace("latent_actions", [label("a"), label("b")], PLACE)
    return lake


TOY = stage("toy")


def found(lake: Lake, rows: int, made_by: str = "f", skipped: bool = False):
    return verify(lake, TOY, {"train-00": Outcome(made_by, skipped=skipped, rows=rows)})


def test_rows_that_were_written_are_there(lake: Lake):
    verdict = found(lake, 2)
    assert (verdict.rows, verdict.faults) == (2, [])
    assert verdict.metadata() == {"rows_checked": 2, "faults": "none"}


def test_rows_that_are_missing_or_of_other_work_are_told_and_skipped_work_is_not_counted(
    lake: Lake,
):
    assert found(lake, 3).faults == ["train-00: 3 rows were written, 2 are stored"]
    assert found(lake, 2, "other").faults == ["train-00: 2 rows were written, 0 are stored"]
    assert found(lake, 3, skipped=True).faults == []


def test_a_key_that_somebody_wrote_twice_is_a_fault(lake: Lake):
    lake.append("latent_actions", [label("a")])
    assert found(lake, 3).faults == [
        "train-00: key ('scene_token', 'step', 'model_version') is not unique"
    ]


def test_a_table_of_other_columns_is_told_column_by_column(tmp_path: Path):
    from deltalake import write_deltalake

    spec = TABLES["pdm_summary"]
    columns = {c.name: pa.array([], c.arrow_type()) for c in spec.columns if c.name != "reasons"}
    columns |= {"num_scored": pa.array([], pa.string()), "extra": pa.array([], pa.int64())}
    write_deltalake(f"{tmp_path}/pdm_summary", pa.table(columns), partition_by=["split"])
    faults = schema_faults(Lake(str(tmp_path)), spec)
    assert "column reasons is missing" in faults and "column extra is not declared" in faults
    assert "column num_scored is stored as string, declared int64" in faults
    assert "partitioned by ['split'], declared []" in faults and len(faults) == 4
    assert schema_faults(Lake(str(tmp_path)), TABLES["scenes"]) == []


def test_a_hole_is_named_with_its_planner_metric_and_reasons(tmp_path: Path):
    lake = Lake(str(tmp_path))
    numbers = {c.name: 0 for c in TABLES["pdm_summary"].columns if c.dtype != "string"}
    rows = [
        {**numbers, "split": "test", "trajectory_id": name, "metric_version": "pdms-v1.1",
         "num_scored": scored, "num_expected": 4, "reasons": why, "made_by": "f"}
        for name, scored, why in (("ipad", 3, "1 no map"), ("human", 4, ""))
    ]  # fmt: skip
    lake.replace("pdm_summary", rows, {})
    verdict = complete(lake)
    assert verdict.rows == 2
    assert verdict.faults == ["test/ipad, pdms-v1.1: scored 3 of 4 (1 no map)"]


# ---- jobs and resources


def test_every_job_s_assets_exist_and_none_waits_for_what_nobody_makes():
    for name, (assets, told) in JOBS.items():
        assert set(assets) <= set(STAGES) and len(set(assets)) == len(assets), name
        assert told.endswith("."), name
    order = list(STAGES)
    for asset, one in STAGES.items():
        assert all(order.index(need) < order.index(asset) for need in one.deps), asset
        if asset in LINE:  # the rest is asked for by name
            assert set(one.deps) <= set(LINE), asset


def test_a_job_of_none_of_the_stages_there_are_is_no_job(tmp_path: Path):
    here = Settings.from_env({"LATENTVLA_HOME": str(tmp_path)})
    few = {name: STAGES[name] for name in ("logs", "frames")}
    assert "evidence" in jobs_of(here, few) and "closed_loop_floors" not in jobs_of(here, few)
    tags = all_partitions(here)
    assert list(tags.values()) == ["train-00", "test-01"]


def test_fields_of_the_resource_go_before_the_environment(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("LATENTVLA_HOME", str(tmp_path))
    monkeypatch.setenv("LATENTVLA_RECIPE", "paper")
    assert LatentVLAResource().settings().recipe == "paper"
    told = LatentVLAResource(recipe="debug", lake="/lake").settings()
    assert (told.recipe, told.lake, told.home) == ("debug", "/lake", tmp_path)


# ---- sources


def logs(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.pkl").write_bytes(name.encode())
    return folder


def deployed(tmp_path: Path, *sources: Source) -> Settings:
    here = Settings.from_env({"LATENTVLA_HOME": str(tmp_path / "home")})
    return replace(here, sources=sources)


def test_two_parts_of_a_folder_share_no_log_and_lose_none(tmp_path: Path):
    folder = str(logs(tmp_path / "logs", *(f"log{k}" for k in range(20))))
    parts = {"train": (0.0, 0.7), "val": (0.7, 1.0)}
    rows = list_logs(
        deployed(tmp_path, *(Source(split=s, logs=folder, part=p) for s, p in parts.items()))
    )
    assert len(rows) == 20 and {row["split"] for row in rows} == {"train", "val"}
    assert [(r["split"], r["log_name"]) for r in rows] == sorted(
        (r["split"], r["log_name"]) for r in rows
    )
    again = list_logs(deployed(tmp_path, Source(split="train", logs=folder)))
    assert {r["log_name"]: r["content_key"] for r in again} == {
        r["log_name"]: r["content_key"] for r in rows
    }


def test_a_log_of_two_splits_or_two_logs_of_one_name_are_refused_with_their_places(tmp_path: Path):
    one, two = logs(tmp_path / "one", "oak"), logs(tmp_path / "two", "oak")
    with pytest.raises(SetupError, match=r"'oak' are in two splits \(test, train\)") as caught:
        list_logs(deployed(tmp_path, Source(split="train", logs=str(one)),
                           Source(split="test", logs=str(two))))  # fmt: skip
    assert f"{one}/oak.pkl (split train)" in str(caught.value)
    with pytest.raises(SetupError, match="'oak' are two logs"):
        list_logs(deployed(tmp_path, Source(split="train", logs=str(one)),
                           Source(split="train", logs=str(two))))  # fmt: skip


def test_why_a_split_is_empty_is_told_unless_its_part_is_merely_small(tmp_path: Path):
    folder = str(logs(tmp_path / "logs", "oak"))
    here = Source(split="val", logs=folder)
    assert _why_empty(here) == ""
    assert "holds no " in _why_empty(replace(here, logs=str(tmp_path / "nothing")))
    other = replace(here, filter={"log_names": ("elm", "ash")})
    assert "not one of the 2 log_names of filter" in _why_empty(other)
    assert "the first is oak" in _why_empty(other)
    assert _why_empty(replace(here, filter={"log_names": ("oak",)})) == ""


def test_fields_of_a_filter_that_are_none_are_refused(tmp_path: Path):
    assert filter_of(Source(split="a", logs="x", filter={"frame_interval": 2})).frame_interval == 2
    with pytest.raises(SetupError, match="source a: filter: .*'colour'.*; use the devkit's scene"):
        filter_of(Source(split="a", logs="x", filter={"colour": 2}))


@pytest.mark.parametrize(
    ("name", "own"),
    [("sequence.yaml", True), ("frames/1.jpg", True), ("other/poses.csv", False), ("frames", True)],
)
def test_a_folder_beside_the_frames_is_another_sequence(name: str, own: bool):
    assert is_of_sequence(name) == own


def test_a_world_of_another_recipe_is_not_the_current_one(tmp_path: Path):
    here = Settings.from_env({"LATENTVLA_HOME": str(tmp_path)})
    recipe: Any = SimpleNamespace(world={"logs": 8})
    assert not is_current(here, recipe)
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / MARKER).write_text(json.dumps({"made_by": digest({"logs": 8})}))
    assert is_current(here, recipe)
    recipe.world = {"logs": 9}
    assert not is_current(here, recipe)
