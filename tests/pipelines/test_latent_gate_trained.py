"""Broken recipes are stopped and a sound one labels: models that were really trained, judged by the
real gate.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from latentvla_core import recipes
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.health import UnhealthyModelError
from latentvla_core.latent.health_watch import CollapsedError
from latentvla_core.latent.presets import preset
from latentvla_core.training.config import with_training
from pipelines import sources
from pipelines.assets.latent_quality import stored_judgements
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.engine import Engine

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
SCENES = ("logs", "frames", "scenes")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A lake with the demo's scenes, front camera only, up to the point where a model is trained."""
    home = tmp_path_factory.mktemp("gate")
    settings = Settings.from_env({"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "mini"})
    engine = line(settings, recipes.mini().latent)
    sources.prepare(settings, engine.recipe, lambda text: None)
    for name in SCENES:
        for partition in settings.partitions if STAGES[name].partitioned else [""]:
            engine.execute(name, partition)
    return settings


def line(settings: Settings, latent: LatentActionConfig) -> Engine:
    engine = Engine(settings, STAGES, lambda text: None)
    recipe = recipes.mini()
    world = replace(recipe.world, cameras=("CAM_F0",))
    engine.recipe = replace(recipe, world=world, latent=latent)
    return engine


def labels(engine: Engine) -> int:
    """Valid labels in the lake, of whatever model."""
    table = (
        engine.lake.read("latent_actions") if engine.lake.version("latent_actions") >= 0 else None
    )
    return 0 if table is None else int(table.column("valid").to_numpy(zero_copy_only=False).sum())


def train_and_label(engine: Engine) -> None:
    """What job `labels` does after the scenes."""
    engine.execute("latent_action_model")
    engine.execute("latent_quality")
    for partition in engine.settings.partitions:
        engine.execute("latent_actions", partition)


def test_a_learning_rate_a_hundred_times_too_high_is_stopped_while_it_trains(settings: Settings):
    sound = recipes.mini().latent
    engine = line(settings, with_training(sound, learning_rate=100 * sound.training.learning_rate))
    with pytest.raises(
        CollapsedError,
        match=r"training stopped at step (\d+)(.|\n)*Try: learning_rate down tenfold",
    ):
        train_and_label(engine)
    assert engine.ledger.made_by("latent_action_model", "") == "absent"
    assert labels(engine) == 0


def test_a_first_stage_without_trajectory_is_stopped_before_the_second_begins(settings: Settings):
    engine = line(settings, with_training(preset("conditioning_none"), checkpoint_every=20))
    for _ in range(2):  # the second time from step 140, with what was seen at step 100
        with pytest.raises(
            CollapsedError,
            match=r"step 150: stage1/quality/trajectory_use is 0(.|\n)*conditioning 'added'",
        ):
            train_and_label(engine)
    assert labels(engine) == 0


def test_a_first_stage_without_trajectory_that_nobody_watches_is_stopped_by_the_report(
    settings: Settings,
):
    """Few steps: what is asked is whether the report sees it, whatever else it finds."""
    engine = line(
        settings, replace(with_training(preset("conditioning_none"), steps=40), quality_every=0)
    )
    with pytest.raises(UnhealthyModelError, match=r"trajectory_use is 0, must be at least 0\.05"):
        train_and_label(engine)
    rows = {
        row.name: row
        for row in stored_judgements(engine, engine.ledger.made_by("latent_action_model", ""))
    }
    assert rows["trajectory_use"].blocks
    assert labels(engine) == 0


def test_the_sound_recipe_labels(settings: Settings):
    engine = line(settings, recipes.mini().latent)
    train_and_label(engine)
    assert labels(engine) > 500
