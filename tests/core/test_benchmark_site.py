"""The measure of the browser: its filters are counted by the lake, and it notices when they lie."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import site as measured
from benchmarks.site_lake import write_lake
from latentvla_core.lake.store import Lake

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from chromium import chromium_path

pytestmark = pytest.mark.slow

needs_chromium = pytest.mark.skipif(
    not chromium_path(), reason="Chromium is not installed (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return write_lake(tmp_path_factory.mktemp("measured") / "lake", 60)


def test_every_filter_is_counted_by_queries_of_its_own(lake):
    wanted = {each.name: (each.value, count) for each, count in measured.filters_of(lake)}
    one = lambda sql: lake.sql(sql).to_pylist()[0]["n"]  # noqa: E731
    assert wanted["split"][1] == one(
        f"select count(*) as n from scenes where split = '{wanted['split'][0]}'"
    )
    assert wanted["command"][1] == one("select count(*) as n from scenes where command = 0")
    assert wanted["planner"][1] == 60
    low = one(
        "select count(*) as n from pdm_scores where trajectory_id = 'transfuser' and"
        " metric_version = 'pdms-v1.1' and score <= 0.5"
    )
    assert wanted["high"][1] == low


@needs_chromium
def test_a_site_that_shows_what_the_lake_holds_passes(lake, tmp_path, capsys):
    assert measured.measure(lake, tmp_path / "site") == 0
    told = capsys.readouterr().out
    assert "first view, time" in told and "filter sentence" in told and "LAKE HAS" not in told


@needs_chromium
def test_a_filter_that_finds_other_scenes_is_told_and_counted(lake, tmp_path, capsys, monkeypatch):
    right = measured.filters_of
    monkeypatch.setattr(measured, "filters_of", lambda lake: [(f, n + 1) for f, n in right(lake)])
    assert measured.measure(lake, tmp_path / "site") == len(right(lake))
    assert "LAKE HAS" in capsys.readouterr().out
