"""The controls as assets: every arm of every host by name, and what the line says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentvla_core.planner.hosts.registry import MODULES as HOSTS
from latentvla_core.planner.variants import ARMS, LINE
from pipelines.assets.controls import EVERY, model_name, positive_controls, unused_fusion
from pipelines.jobs import JOBS
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.engine import Engine


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    env = {"LATENTVLA_HOME": str(tmp_path), "LATENTVLA_SHARDS": "1", "LATENTVLA_RECIPE": "debug"}
    return Engine(Settings.from_env(env), STAGES, say=lambda text: None)


def row(arm: str, log: int, ade_m: float, host: str = "ipad") -> dict[str, object]:
    return {
        "host": host, "arm": arm, "split": "test", "scene_token": f"{log}", "log_name": f"log {log}",
        "score": 0.5, "best_score": 0.9, "ade_m": ade_m + 0.01 * log, "min_ade_m": 0.1,
        "made_by": "x",
    }  # fmt: skip


def stored(engine: Engine, oracle_m: float) -> None:
    rows = [row("oracle", i, oracle_m) for i in range(5)]
    rows += [row("equal_compute", i, 2.0) for i in range(5)]
    engine.lake.replace("planner_controls", rows, {})


def test_every_arm_of_every_host_is_a_model_by_name_and_none_is_in_the_whole_line():
    names = {model_name(host, arm) for host in HOSTS for arm in ARMS}
    assert len(names) == len(HOSTS) * len(ARMS)
    assert names <= set(STAGES)
    assert names <= set(JOBS["controls"][0])
    assert not names & set(JOBS["whole_line"][0])
    assert not set(JOBS["controls"][0]) & set(JOBS["evidence"][0]) - set(JOBS["whole_line"][0])
    for host in HOSTS:
        for name, arm in ARMS.items():
            assert arm.isolates in STAGES[model_name(host, name)].doc


def test_arms_of_the_line_are_planned_by_the_line_s_own_models():
    assert [model_name("ipad", arm) for arm in LINE] == [
        "ipad", "ipad_latent", "ipad_student", "ipad_latent", "ipad_latent",
    ]  # fmt: skip
    assert set(EVERY) <= set(STAGES["planner_controls"].deps)


def test_an_arm_waits_for_what_it_is_told_and_starts_from():
    assert STAGES["ipad_black"].deps == ("scenes", "scene_worlds")
    assert STAGES["ipad_equal_compute"].deps[2:] == ("ipad",)
    assert STAGES["ipad_noise"].deps[2:] == ("ipad", "vlm_features")
    assert "latent_actions" in STAGES["ipad_oracle"].deps


def test_a_fusion_that_cannot_be_used_fails_its_check(engine: Engine):
    stored(engine, oracle_m=1.0)
    assert positive_controls(engine.lake).faults == []
    stored(engine, oracle_m=2.0)
    faults = positive_controls(engine.lake).faults
    assert len(faults) == 1
    assert faults[0].startswith("its fusion is NOT used: ipad told the codes of the future")


def test_comparisons_say_first_whether_the_fusion_can_be_used(engine: Engine):
    stored(engine, oracle_m=1.0)
    done = STAGES["control_comparisons"].run(engine)
    assert done.metadata["positive_control"].startswith("its fusion can be used: ipad")
    found = {r["figure"]: r for r in done.rows}
    assert found["ade_m"]["difference"] == pytest.approx(-1.0)
    assert (found["ade_m"]["verdict"], found["score"]["verdict"]) == ("holds", "open")
    assert found["ade_m"]["logs"] == 5


def test_a_fused_planner_whose_control_fails_is_not_promoted_and_its_host_may_be(engine: Engine):
    assert unused_fusion(engine, "ipad_latent") == ""  # the control was not run
    stored(engine, oracle_m=2.0)
    for fused in ("ipad_latent", "ipad_student"):
        assert unused_fusion(engine, fused).startswith("its fusion is NOT used")
    assert unused_fusion(engine, "ipad") == ""
    assert unused_fusion(engine, "transfuser_latent") == ""  # another host's control
    stored(engine, oracle_m=1.0)
    assert unused_fusion(engine, "ipad_latent") == ""
