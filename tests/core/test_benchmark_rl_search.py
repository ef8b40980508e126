"""The benchmark of search at test time, on three scenes and an untrained iPad."""

from __future__ import annotations

import re

import pytest
import torch
from planner_factory import make_records, straight_world

from benchmarks import rl_search
from benchmarks.rl import Part
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.model import build_planner, save
from latentvla_core.rl.search import SearchConfig

torch.set_num_threads(1)


@pytest.fixture
def part(tmp_path, monkeypatch) -> Part:
    """Three scenes on a straight road; a search that may go anywhere, and one that may not move."""
    records = make_records(tmp_path / "scenes", 3)
    short = {"rounds": 1, "plans": 16, "best": 4}
    monkeypatch.setattr(
        rl_search,
        "SETTINGS",
        {
            "free": SearchConfig(margin=0.0, **short),
            "held": SearchConfig(margin=9.0, **short),
        },
    )
    return Part(records, [straight_world(record) for record in records])


def test_it_says_what_was_expected_and_what_came(part, tmp_path, monkeypatch, capsys):
    save(build_planner("ipad", IpadConfig.debug(), seed=1), tmp_path / "ipad")
    monkeypatch.setattr(rl_search, "read", lambda root, split: part)
    rl_search.main(["--world", str(tmp_path), "--planner", str(tmp_path / "ipad"), "--every", "1"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("3 scenes") and said[1].startswith("ipad: host ")
    assert "search, free" in said[2] and "expected" in said[2]
    assert re.search(r" 0% of the plans are others; gain [+-]0.0 ", said[3])


def test_only_every_kth_scene_is_planned(part):
    assert [r.scene_token for r in rl_search.thinned(part, 2).records] == [
        part.records[i].scene_token for i in (0, 2)
    ]
