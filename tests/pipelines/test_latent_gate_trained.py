"""Broken recipes are stopped and a sound one labels: models that were really trained, judged by the
real gate.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gate_margins import engine_of, prepare
from latentvla_core import recipes
from latentvla_core.latent.presets import preset
from latentvla_core.latent.quality import QualityError
from latentvla_core.latent.quality_watch import CollapsedError
from latentvla_core.training.config import with_training
from pipelines.assets.latent_quality import stored_judgements
from pipelines.steps.engine import Engine

pytestmark = pytest.mark.slow

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with the demo's scenes, front camera only, up to the point where a model is trained."""
    folder = tmp_path_factory.mktemp("gate")
    prepare(folder)
    return folder


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


def test_a_learning_rate_a_hundred_times_too_high_is_stopped_while_it_trains(home: Path):
    sound = recipes.mini().latent
    engine = engine_of(home, with_training(sound, learning_rate=100 * sound.training.learning_rate))
    with pytest.raises(
        CollapsedError,
        match=r"training stopped at step (\d+)(.|\n)*Try: learning_rate down tenfold",
    ):
        train_and_label(engine)
    assert engine.ledger.made_by("latent_action_model", "") == "absent"
    assert labels(engine) == 0


def test_a_first_stage_without_trajectory_is_stopped_before_the_second_begins(home: Path):
    engine = engine_of(home, with_training(preset("conditioning_none"), checkpoint_every=20))
    for _ in range(2):  # the second time from step 140, with what was seen at step 100
        with pytest.raises(
            CollapsedError,
            match=r"step 150: stage1/quality/trajectory_use is 0(.|\n)*conditioning 'added'",
        ):
            train_and_label(engine)
    assert labels(engine) == 0


def test_a_first_stage_without_trajectory_that_nobody_watches_is_stopped_by_the_report(
    home: Path,
):
    """Few steps: what is asked is whether the report sees it, whatever else it finds."""
    latent = replace(with_training(preset("conditioning_none"), steps=40), quality_every=0)
    engine = engine_of(home, latent)
    with pytest.raises(QualityError, match=r"trajectory_use is 0, must be at least 0\.05"):
        train_and_label(engine)
    rows = {
        row.name: row
        for row in stored_judgements(engine, engine.ledger.made_by("latent_action_model", ""))
    }
    assert rows["trajectory_use"].blocks
    assert labels(engine) == 0


def test_the_sound_recipe_labels(home: Path):
    engine = engine_of(home, recipes.mini().latent)
    train_and_label(engine)
    assert labels(engine) > 500
