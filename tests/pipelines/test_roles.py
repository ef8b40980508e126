"""Which logs teach whom: roles of a recipe share no log when they are apart, and every training
says which role it reads.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentvla_core.errors import SetupError
from latentvla_core.recipes import Roles, recipe_named
from pipelines.assets.planners import _saw
from pipelines.settings import TRAIN, Settings
from pipelines.stages import STAGES
from pipelines.steps.lineage import fingerprint
from pipelines.steps.reading import training_records

LOGS = [f"2021.05.25.14.{i:02d}_veh-{i}" for i in range(40)]


def context(roles: Roles, logs: list[str] = LOGS) -> Any:
    """Two scenes a log in split train; a fast sequence has its phases in logs of their own."""
    records = [
        SimpleNamespace(log_name=name, scene_token=f"{name}-{i}") for name in logs for i in range(2)
    ]
    home = Path(tempfile.gettempdir())  # of nameless files
    return SimpleNamespace(
        records=lambda split, shard=0: records if split == TRAIN else [],
        recipe=SimpleNamespace(roles=roles),
        settings=SimpleNamespace(lake="a lake", home=home, partitions=("train-00", "test-00")),
    )


def logs_of(records: list[Any]) -> set[str]:
    return {record.log_name for record in records}


def test_everybody_learns_from_every_log_unless_the_recipe_says_otherwise():
    for role in ("unlabelled", "labelled"):
        assert logs_of(training_records(context(Roles()), role)) == set(LOGS)
    assert not Roles().are_apart


def test_roles_that_are_apart_share_no_log_and_lose_none():
    apart = Roles(unlabelled=(0.0, 0.5), labelled=(0.5, 1.0))
    free, scored = (
        logs_of(training_records(context(apart), role)) for role in ("unlabelled", "labelled")
    )
    assert apart.are_apart
    assert free | scored == set(LOGS)
    assert not free & scored
    assert min(len(free), len(scored)) > 8
    assert not Roles(unlabelled=(0.0, 0.6), labelled=(0.5, 1.0)).are_apart


def test_the_phases_of_one_drive_play_one_role():
    """Else a planner's scenes would be 50 ms from those that its teacher saw."""
    phases = [f"{name}@{phase}" for name in LOGS for phase in range(3)]
    apart = Roles(unlabelled=(0.0, 0.5), labelled=(0.5, 1.0))
    found = [
        {name.partition("@")[0] for name in logs_of(training_records(context(apart, phases), role))}
        for role in ("unlabelled", "labelled")
    ]
    assert not found[0] & found[1]


def test_a_role_that_nobody_plays_is_named():
    few = context(Roles(unlabelled=(0.0, 1e-6)), LOGS[:3])
    with pytest.raises(SetupError, match=r"roles.unlabelled is 0.0 to 1e-06: not one of 3 logs"):
        training_records(few, "unlabelled")
    with pytest.raises(SetupError, match="split train has no scenes"):
        training_records(context(Roles(), []), "labelled")
    with pytest.raises(ValueError, match=r"roles.labelled is 0.5 to 0.5; needs"):
        Roles(labelled=(0.5, 0.5))


def test_every_training_on_the_train_split_reads_the_roles(tmp_path: Path):
    """Moved roles train anew; a training that ignored them would keep an old model."""
    trainings = [s for s in STAGES.values() if s.kind == "model" and TRAIN in s.reads]
    assert {"latent_action_model", "vlm", "student", "ipad", "ipad_noise"} <= {
        s.name for s in trainings
    }
    settings = Settings.from_env({"LATENTVLA_HOME": str(tmp_path)})
    file = tmp_path / "apart.yaml"
    file.write_text("base: debug\nroles: {unlabelled: [0.0, 0.5], labelled: [0.5, 1.0]}\n")
    recipes = recipe_named("debug"), recipe_named(str(file))
    assert recipes[1].roles.are_apart
    for stage in trainings:
        keys = {
            fingerprint(
                stage, "", recipe, settings.partitions, STAGES, lambda *_: "x", lambda *_: ""
            )
            for recipe in recipes
        }
        assert len(keys) == 2, f"{stage.name} does not read the recipe's roles"


def test_a_fused_planner_says_what_its_teacher_had_seen():
    apart = Roles(unlabelled=(0.0, 0.5), labelled=(0.5, 1.0))
    assert _saw(context(apart)) == "no log of these scenes"
    assert "better here" in _saw(context(Roles()))


def test_the_example_keeps_them_apart():
    recipe = recipe_named(str(Path(__file__).parents[2] / "examples" / "roles.yaml"))
    assert recipe.roles.are_apart
