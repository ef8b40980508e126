"""Learning from the score as assets: what is trained from what, and what its table says."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from latentvla_core.lake.store import Lake
from latentvla_core.planner.hosts.registry import MODULES as HOSTS
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.model import build_planner, load, save
from latentvla_core.rl.config import RlConfig
from latentvla_core.tables import TABLES
from latentvla_core.viz.report.reward import learned_from_score
from pipelines.assets.studies import rl
from pipelines.jobs import JOBS
from pipelines.stages import STAGES

sys.path.append(str(Path(__file__).parents[1] / "core"))
from planner_factory import make_records, straight_world

torch.set_num_threads(1)


def context_of(records, models, **more):
    """What the assets ask of a context, over scenes and models in memory."""

    @contextmanager
    def training(name, folder):
        yield None

    return SimpleNamespace(
        recipe=SimpleNamespace(rl=RlConfig.debug()),
        device="cpu",
        records=lambda split: records if split in ("train", "test") else [],
        model=lambda name, loader: models[name],
        track=lambda title, items: items,
        training=training,
        **more,
    )


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    records = make_records(tmp_path / "scenes", 6)
    worlds = [straight_world(record) for record in records]
    worlds[0] = replace(worlds[0], previous_token="")
    monkeypatch.setattr(rl, "worlds_of", lambda context, asked: worlds if asked else [])
    monkeypatch.setattr(rl, "training_records", lambda context, role: records)
    return records


def test_every_host_has_a_twin_that_learned_from_the_score_and_none_is_in_the_whole_line():
    names = {rl.model_name(host) for host in HOSTS}
    assert names < set(STAGES) and names < set(JOBS["rl"][0])
    for host in HOSTS:
        stage = STAGES[rl.model_name(host)]
        assert host in stage.deps and stage.recipe == ("rl", "roles")
        assert "seen the benchmark's scorer" in stage.doc
    for job in ("whole_line", "controls", "closed_loop", "evidence", "labels"):
        assert not names & set(JOBS[job][0]), job


def test_a_host_is_trained_on_and_saved_with_figures_of_before_and_after(scenes, tmp_path):
    start = build_planner("transfuser", TransfuserConfig.debug(), seed=1)
    save(start, tmp_path / "host")
    said: list[str] = []
    context = context_of(scenes, {}, model_dir=lambda name: tmp_path / "host", say=said.append)
    made = rl.trainer_of("transfuser")(context, tmp_path / "learned")
    assert {"before/score", "after/score", "after/reversing", "warnings"} <= set(made.metrics)
    assert made.metrics["warnings"] == len(said)
    learned = load(tmp_path / "learned")
    changed = [
        name
        for (name, one), other in zip(start.named_parameters(), learned.parameters(), strict=True)
        if not torch.equal(one, other)
    ]
    assert changed and all(name.startswith("trajectory_head") for name in changed)


def test_the_report_shows_gains_and_marks_what_is_beyond_its_limit(tmp_path):
    lake = Lake(str(tmp_path))
    assert learned_from_score(lake) == ""
    calm = {f"{name}_{when}": 0.1 for name in rl.FIGURES for when in ("before", "after")}
    row = {
        **calm, "planner": "ipad_rl", "start": "ipad", "split": "test", "scenes": 9, "logs": 3,
        "made_by": "x", "warnings": "reversing is 0.40 <too much>", "reversing_after": 0.4,
        **{f"{n}_{part}": v for n in ("score", "epdms")
           for part, v in (("gain", 0.05), ("low", 0.02), ("high", 0.08))},
    }  # fmt: skip
    lake.replace(
        "rl_summary", [row, {**row, "planner": "calm_rl", "split": "val", "warnings": ""}], {}
    )
    page = learned_from_score(lake)
    assert "+5.0 <small>[+2.0, +8.0]</small>" in page
    assert "<span class=bad-text>10 % → 40 %</span>" in page and "10 % → 10 %" in page
    assert "ipad_rl</b>, test: reversing is 0.40 &lt;too much&gt;" in page
    assert "<b>calm_rl" not in page and page.index("ipad_rl") < page.index("calm_rl")


def test_the_table_says_what_changed_scene_by_scene_and_warns(scenes, monkeypatch):
    fast, backwards = (
        build_planner("transfuser", TransfuserConfig.debug(), seed=1).eval() for _ in range(2)
    )
    path = torch.zeros(8, 3)
    path[:, 0] = torch.arange(1, 9) * 3.0

    def says(planner, poses):
        planner.forward = lambda batch: {"poses": poses.expand(len(batch["status"]), 8, 3)}

    says(fast, path)
    says(backwards, -path)
    monkeypatch.setattr(rl, "HOSTS", ("transfuser",))
    context = context_of(scenes, {"transfuser": fast, "transfuser_rl": backwards})
    made = rl.rl_summary(context)
    (row,) = made.rows
    assert set(row) | {"made_by"} == set(TABLES["rl_summary"].names)
    assert row["split"] == "test" and row["scenes"] == 6 and row["logs"] == 2
    assert row["score_gain"] < -0.2 and row["score_low"] <= row["score_gain"] <= row["score_high"]
    assert row["reversing_before"] == 0.0 and row["reversing_after"] == 1.0
    assert "backwards" in row["warnings"]
    for name in ("dead_groups", "collapsed", "easy_share"):
        assert 0.0 <= row[f"{name}_before"] <= 1.0, name
    assert made.metadata == {"test/transfuser_rl": pytest.approx(row["score_gain"])}
    same = rl.rl_summary(context_of(scenes, {"transfuser": fast, "transfuser_rl": fast})).rows[0]
    assert same["score_gain"] == 0.0 and same["warnings"] == "" and np.isfinite(same["epdms_gain"])
