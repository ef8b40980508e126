"""`latentvla status` says what is to be done and why, as the engine will do it."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_engine import Line

from latentvla_core.lake.store import Lake
from latentvla_core.tables import TABLES
from pipelines.steps import status
from pipelines.steps.lineage import stale_work


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(tmp_path, monkeypatch)


def toy_lines(line: Line) -> list[str]:
    """What is said of stage `toy`, all of whose partitions but those of train are empty."""
    return [text for text in status.stale_lines(line.engine()) if text.startswith("toy")]


def finish(line: Line) -> None:
    engine = line.engine()
    line.rows |= {part: [] for part in engine.settings.partitions if "train" not in part}
    for part in engine.settings.partitions:
        engine.execute("toy", part)
    engine.execute("whole")


def test_what_was_never_done_is_stale_and_what_is_done_is_not(line: Line):
    assert toy_lines(line) == ["toy train-00, train-01, val-00, val-01 and 2 more: never done"]
    finish(line)
    assert status.stale_lines(line.engine()) == ["nothing: everything is up to date"]


def test_a_group_that_nobody_asked_for_is_one_line_aside(line: Line):
    finish(line)
    engine = line.engine()
    study = [replace(stage, name=f"study_{stage.name}", group="study", deps=())
             for stage in engine.stages.values()]  # fmt: skip
    engine.stages = {**engine.stages, **{stage.name: stage for stage in study}}
    assert status.stale_lines(engine) == [
        "nothing: everything is up to date", f"study: never begun ({len(study)} assets)"
    ]  # fmt: skip


def test_another_recipe_and_lost_rows_are_told_apart(line: Line):
    finish(line)
    engine = line.engine()
    engine.lake.replace("latent_actions", [], {"split": "train", "shard": 1, "model_version": "m"})
    (lost,) = toy_lines(line)
    assert lost == "toy train-01: table latent_actions has 0 of its 1 rows"
    line.steps = 11
    (changed,) = toy_lines(line)
    assert changed.endswith("recipe section latent or what it was made from changed")


def test_the_pairs_are_those_that_the_engine_would_do(line: Line):
    finish(line)
    line.steps = 11
    engine = line.engine()
    work = stale_work(
        engine.stages, engine.recipe, engine.settings.partitions, engine.ledger,
        engine.files_key, None, engine.is_there,
    )  # fmt: skip
    assert list(status.stale_reasons(engine)) == work != []


def test_looking_changes_nothing(line: Line):
    finish(line)
    before = {path: path.stat().st_mtime_ns for path in Path(line.engine().lake.root).rglob("*")}
    status.stale_lines(line.engine())
    status.change_lines(line.engine().lake, time.time_ns() // 1000)
    after = {path: path.stat().st_mtime_ns for path in Path(line.engine().lake.root).rglob("*")}
    assert after == before


def test_since_yesterday_counts_the_work_of_the_last_day(line: Line):
    finish(line)
    now_us = time.time_ns() // 1000
    assert status.change_lines(line.engine().lake, now_us)[0].startswith("toy: 6 pieces, 3 rows, 0")
    assert status.change_lines(line.engine().lake, now_us + 2 * status.DAY_US) == [
        "nothing was made"
    ]


def release(lake: Lake, at: int, **values: Any) -> None:
    plain = {"string": "", "float64": np.nan, "int64": 0, "bool": True}
    for name, row in (
        ("materialisations", {"asset": "releases", "made_by": f"gate-{at}", "finished_us": at}),
        ("releases", {"made_by": f"gate-{at}", **values}),
    ):
        empty = {c.name: plain.get(c.dtype, 0) for c in TABLES[name].columns}
        lake.append(
            name,
            [{**empty, "inputs": "{}", **row} if name == "materialisations" else {**empty, **row}],
        )


def test_a_champion_is_told_with_its_time_and_its_gain(tmp_path: Path):
    lake = Lake(str(tmp_path))
    assert status.champion_lines(lake) == ["none yet: nothing was released"]
    day = 1_600_000_000_000_000
    common = {"name": "ipad", "split": "test", "metric_version": "pdms-v1.1"}
    release(lake, day, **common, version="1", decision="promoted", challenger_score=0.5)
    (first,) = status.champion_lines(lake)
    assert "ipad 1: since 2020-09-1" in first
    assert first.endswith("pdms-v1.1 0.5000 on test, the first")
    release(
        lake, day + status.DAY_US, **common, version="2", decision="promoted",
        challenger_score=0.75, champion_score=0.5,
    )  # fmt: skip
    release(lake, day + 2 * status.DAY_US, **common, version="3", decision="refused")
    (second,) = status.champion_lines(lake)
    assert "ipad 2:" in second
    assert second.endswith("+0.2500 over the one before")


def test_after_a_roll_back_the_version_that_has_the_alias_is_told_and_not_the_bad_one(
    tmp_path: Path,
):
    lake, day = Lake(str(tmp_path)), 1_600_000_000_000_000
    common = {"name": "ipad", "split": "test", "metric_version": "pdms-v1.1"}
    for number, decision, champion in ((1, "promoted", "1"), (2, "promoted", "2"),
                                       (2, "rolled back", "1")):  # fmt: skip
        day += status.DAY_US
        release(
            lake, day, **common, version=str(number), decision=decision, champion=champion,
            challenger_score=0.5, decided_us=day,
        )  # fmt: skip
    (told,) = status.champion_lines(lake)
    assert told.startswith("ipad 1: since 2020-09-1") and "given back by hand" in told
    assert told.endswith("version 2 was rolled back")
    release(
        lake, day + 1, **common, version="3", decision="refused", champion="1", decided_us=day + 1
    )
    assert status.champion_lines(lake) == [told]


def test_a_failed_run_is_told_with_its_error_and_its_command_until_one_succeeds():
    import dagster as dg

    @dg.op
    def read_frames(context) -> None:
        if not context.run.tags.get("mended"):
            raise ValueError("disk full; free some space")

    @dg.job
    def labels() -> None:
        read_frames()

    with dg.DagsterInstance.ephemeral() as instance:
        assert list(status._failures(instance)) == []
        labels.execute_in_process(instance=instance, raise_on_error=False)
        said, command = status._failures(instance)
        assert "asset read_frames: " in said
        assert "disk full; free some space" in said
        assert command.endswith("latentvla demo --job labels")
        labels.execute_in_process(instance=instance, tags={"mended": "yes"})
        assert list(status._failures(instance)) == []
