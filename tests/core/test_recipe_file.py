"""A recipe file says what is different; what it gets wrong is told all at once, by place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from latentvla_core.errors import SetupError
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.presets import preset
from latentvla_core.latent.quality import Bound, QualityGate
from latentvla_core.recipes import RECIPES, Weights, recipe_named
from latentvla_core.training.config import with_training


def recipe(folder: Path, text: str, name: str = "mine.yaml"):
    (folder / name).write_text(text)
    return recipe_named(str(folder / name))


def test_what_is_not_named_stays_as_the_base_has_it(tmp_path: Path):
    assert recipe(tmp_path, "base: debug\n") == replace(RECIPES["debug"](), name="mine")
    assert recipe(tmp_path, "latent: {}\n") == replace(RECIPES["mini"](), name="mine")


def test_fields_change_at_any_depth_and_sizes_are_a_start(tmp_path: Path):
    text = """
        base: mini
        latent:
          size: long
          training: {seed: 3, learning_rate: 1e-3}
          features: {image_size_wh: [128, 64]}
        latent_gate: {size: long, targets: [{name: ego_usage, at_least: 16}]}
        planner: {train: {training: {steps: 7}}}
        metrics: [epdms]
    """
    found, mini = recipe(tmp_path, text), RECIPES["mini"]()
    long = LatentActionConfig.long(seed=3, learning_rate=1e-3)
    assert found.latent == replace(long, features=replace(long.features, image_size_wh=(128, 64)))
    assert found.latent_gate == replace(
        QualityGate.long(), targets=(Bound("ego_usage", at_least=16),)
    )
    assert found.planner == replace(mini.planner, train=with_training(mini.planner.train, steps=7))
    assert found.metrics == ("epdms",)
    assert found.vlm == mini.vlm


def test_a_preset_comes_after_the_size_and_before_the_fields(tmp_path: Path):
    found = recipe(tmp_path, "latent: {size: long, preset: faithful, action_weight: 0.3}")
    assert found.latent == replace(preset("faithful", LatentActionConfig.long()), action_weight=0.3)
    for text, told in (
        (
            "latent: {preset: fast}",
            r"latent\.preset: preset 'fast' is unknown; use one of default, faithful, ",
        ),
        ("latent: {preset: codebook_64}", "64 of them; the VLM has words for 16"),
        ("student: {preset: faithful}", r"student\.preset is no field"),
    ):
        with pytest.raises(SetupError, match=told):
            recipe(tmp_path, text)


def test_a_knob_beside_its_training_is_told_where_it_belongs(tmp_path: Path):
    """As recipes of earlier versions have it."""
    with pytest.raises(SetupError) as error:
        recipe(tmp_path, "latent: {learning_rate: 1e-3}")
    assert "latent.learning_rate is no field; known are features" in str(error.value)
    assert str(error.value).endswith("did you mean latent.training.learning_rate?")


def test_every_fault_is_told_with_its_place(tmp_path: Path):
    text = """
        latnt: {}
        latent: {training: {steps: many}, dynamics: {stem: recurrent, depth: 3}, ego: 16}
        student: {size: huge}
        world: {logs_train: 0}
        label_batch: 3.5
    """
    with pytest.raises(SetupError) as error:
        recipe(tmp_path, text)
    told = str(error.value)
    for part in (
        "mine.yaml: 8 fault(s)",
        "latnt is no field; known are name, world, ",
        "latent.training.steps is 'many'; Input should be a valid integer",
        "latent.dynamics.stem is 'recurrent'; Input should be 'linear' or 'convolution'",
        "latent.dynamics.depth is no field; known are width, heads",
        "latent.ego is 16; needs fields of kind, ",
        "student.size is 'huge'; known are debug, mini, ",
        "world: 0 train, ",
        "label_batch is 3.5; ",
    ):
        assert part in told


def test_rules_between_sections_hold_as_in_any_recipe(tmp_path: Path):
    with pytest.raises(SetupError, match="make 24 tokens, the VLM answers 12"):
        recipe(tmp_path, "latent: {codes_per_transition: 8}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a list", "needs a mapping of sections"),
        ("base: papper", "recipe 'papper' is unknown; use one of debug, mini"),
        ("latent: [", "give a readable YAML file"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, told: str):
    with pytest.raises(SetupError, match=told):
        recipe(tmp_path, text)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(SetupError, match=r"absent\.yaml.*give a readable YAML file"):
        recipe_named("absent.yaml")


def test_published_weights_go_into_a_file_s_recipe_too(tmp_path: Path):
    (tmp_path / "own.yaml").write_text("base: paper")
    assert recipe_named(str(tmp_path / "own.yaml"), Weights(qwen="/q")).vlm.pretrained_path == "/q"


def test_the_example_is_a_recipe():
    long = recipe_named(str(Path(__file__).parents[2] / "examples" / "long.yaml"))
    assert (long.name, long.latent, long.latent_gate) == (
        "long",
        LatentActionConfig.long(),
        QualityGate.long(),
    )
    assert long.world.logs == 200
