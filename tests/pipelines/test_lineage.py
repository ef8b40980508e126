"""Fingerprints: what must change them, and what must not."""

import sqlite3
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentvla_core.lake.identity import Looks
from latentvla_core.latent.config import LatentActionConfig
from pipelines.settings import Settings, Source
from pipelines.stages import STAGES
from pipelines.steps.inputs import InputFiles
from pipelines.steps.lineage import (
    UNPARTITIONED,
    Ledger,
    Stage,
    digest,
    partition_key,
    place_of,
    shard_of,
    share_of,
    stale_work,
)

PARTITIONS = ("train-00", "train-01", "test-00")


def stage(name: str, deps: tuple[str, ...] = (), kind: str = "shards", **changes: Any) -> Stage:
    table = {"model": "models", "table": "pdm_summary"}.get(kind, "scenes")
    return Stage(
        name=name, run=lambda: None, kind=kind, table=table, deps=deps, group="g", doc="", **changes
    )


def graph(**changes: Any) -> dict[str, Stage]:
    """frames → scenes → model (train only) → labels; what the real line does, small."""
    stages = [
        stage("logs", kind="table", files=("logs",)),
        stage("frames", after=("logs",), files=("logs",)),
        stage("scenes", ("frames",)),
        stage("model", ("scenes",), "model", recipe=("latent",), reads=("train",)),
        stage("labels", ("scenes", "model")),
    ]
    by_name = {s.name: s for s in stages}
    return {name: changes.get(name, s) for name, s in by_name.items()}


def all_done(stages: dict[str, Stage], recipe: Any, keys: dict[str, str]) -> Ledger:
    """A ledger in which everything was finished in this state of the world."""
    ledger = Ledger(None, {})  # type: ignore[arg-type]
    predicted: dict[tuple[str, str], str] = {}
    from pipelines.steps.lineage import fingerprint

    for s in stages.values():
        for part in PARTITIONS if s.partitioned else ("",):
            made = fingerprint(
                s,
                part,
                recipe,
                PARTITIONS,
                stages,
                lambda a, p: predicted[a, p],
                lambda kind, p: keys[p],
            )
            predicted[s.name, part] = made
            ledger.latest[s.name, part] = {"made_by": made}
    return ledger


RECIPE = SimpleNamespace(latent={"steps": 10}, vlm={"steps": 5})
FILES = {"": "all", "train-00": "a", "train-01": "b", "test-00": "c"}


def stale(
    stages: dict[str, Stage], recipe: Any = RECIPE, files: dict[str, str] = FILES
) -> list[tuple[str, str]]:
    return stale_work(
        stages, recipe, PARTITIONS, all_done(graph(), RECIPE, FILES), lambda kind, p: files[p]
    )


def test_nothing_is_stale_when_nothing_changed():
    assert stale(graph()) == []


def test_settings_that_change_no_result_redo_no_model():
    before = SimpleNamespace(latent=LatentActionConfig())
    done = all_done(graph(), before, FILES)

    def redone(**changes: Any) -> list[tuple[str, str]]:
        after = SimpleNamespace(latent=LatentActionConfig.of(changes))
        return stale_work(graph(), after, PARTITIONS, done, lambda kind, p: FILES[p])

    assert redone(log_every=1, checkpoint_every=7, quality_every=3) == []
    assert redone(learning_rate=1e-4)[0] == ("model", "")


def test_a_changed_test_log_redoes_its_shard_and_no_model():
    work = stale(graph(), files={**FILES, "": "all2", "test-00": "c2"})
    assert work == [
        ("logs", ""),
        ("frames", "test-00"),
        ("scenes", "test-00"),
        ("labels", "test-00"),
    ]


def test_a_changed_train_log_redoes_the_model_and_every_label():
    work = stale(graph(), files={**FILES, "": "all2", "train-01": "b2"})
    assert ("model", "") in work
    assert [w for w in work if w[0] == "labels"] == [("labels", p) for p in PARTITIONS]
    assert ("scenes", "train-00") not in work


def test_a_recipe_section_redoes_only_the_stages_that_read_it():
    assert stale(graph(), SimpleNamespace(latent={"steps": 11}, vlm={"steps": 5}))[0] == (
        "model",
        "",
    )
    assert stale(graph(), SimpleNamespace(latent={"steps": 10}, vlm={"steps": 6})) == []


def test_a_code_version_redoes_a_stage_and_what_follows():
    changed = graph(scenes=stage("scenes", ("frames",), code_version="2"))
    assert {name for name, _ in stale(changed)} == {"scenes", "model", "labels"}


def test_digest_does_not_depend_on_the_order_of_sets_and_keys():
    assert digest({"b": 1, "a": frozenset("xyz")}) == digest({"a": frozenset("zyx"), "b": 1})


def test_shards_and_parts_are_stable_and_independent():
    names = [f"2021.05.12.22.00.38_veh-35_{i:05d}" for i in range(2000)]
    assert shard_of(names[0], 64) == shard_of(names[0], 64)
    assert all(0.0 <= share_of(name) < 1.0 for name in names)
    in_val = [name for name in names if share_of(name) >= 0.9]
    assert 120 < len(in_val) < 280
    assert len({shard_of(name, 8) for name in in_val}) == 8


def test_the_line_is_in_topological_order():
    seen: set[str] = set()
    for name, s in STAGES.items():
        assert set(s.deps) <= seen, f"{name} stands before {set(s.deps) - seen}"
        seen.add(name)


@pytest.mark.parametrize("name", list(STAGES))
def test_every_stage_is_described_and_reads_known_recipe_sections(name: str):
    from dataclasses import fields

    from latentvla_core.recipes import Recipe
    from latentvla_core.tables import TABLES

    s = STAGES[name]
    assert len(s.doc) > 20
    assert set(s.recipe) <= {f.name for f in fields(Recipe)}
    assert s.table in TABLES


def test_an_edited_map_is_another_map(tmp_path: Path):
    source = Source(split="train", logs="", maps=str(tmp_path))
    settings = replace(Settings.from_env({"LATENTVLA_HOME": str(tmp_path)}), sources=(source,))

    def key() -> str:
        return InputFiles(settings, Looks(), list).key("maps", "train-00")

    empty = key()
    path = tmp_path / "sg-one-north" / "9.17.1964" / "map.gpkg"
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as db:
        db.execute("create table lanes (id integer, width_m real)")
        db.executemany("insert into lanes values (?, 3.5)", [(i,) for i in range(20_000)])
    before = key()
    assert before == key() != empty
    with sqlite3.connect(path) as db:
        db.execute(
            "update lanes set width_m = 3.4 where id = 10000"
        )  # far from both ends of the file
    assert key() != before


def test_what_reads_the_map_is_redone_when_the_map_changes():
    assert {name for name, stage in STAGES.items() if "maps" in stage.files} >= {
        "scene_worlds",
        "transfuser",
        "ipad",
    }
    changed = graph(scenes=stage("scenes", ("frames",), files=("maps",)))
    done = all_done(changed, RECIPE, FILES)

    def edited(kind: str, partition: str) -> str:
        return "new" if kind == "maps" else FILES[partition]

    work = stale_work(changed, RECIPE, PARTITIONS, done, edited)
    assert {name for name, _ in work} == {"scenes", "model", "labels"}


def test_a_partition_key_names_its_place_and_back():
    for split, shard in (("train", 0), ("val", 7), ("my-own-drives", 63), ("big", 128)):
        assert place_of(partition_key(split, shard)) == {"split": split, "shard": shard}
    assert place_of(UNPARTITIONED) == {}
