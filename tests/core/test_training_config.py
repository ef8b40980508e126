"""The knobs of a training: epochs become steps, and what older versions wrote is still read."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentvla_core.distill.config import StudentConfig
from latentvla_core.errors import SetupError
from latentvla_core.evidence.menu import MenuConfig
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.planner.config import PlannerTrainConfig
from latentvla_core.recipes import recipe_named
from latentvla_core.rl.config import RlConfig
from latentvla_core.training import without_free
from latentvla_core.training.artifacts import from_dict
from latentvla_core.training.config import KNOBS, FitConfig, nested, with_training
from latentvla_core.vlm.config import VlmConfig


@pytest.mark.parametrize(
    ("steps", "epochs", "expected"),
    [(7, 0.0, 7), (0, 2.0, 20), (5, 2.0, 5), (100, 2.0, 20), (0, 0.01, 1), (0, 0.0, 0)],
)
def test_epochs_count_passes_and_steps_bound_them(steps: int, epochs: float, expected: int):
    config = FitConfig(steps=steps, epochs=epochs, batch_size=5, accumulate=2)
    assert config.steps_for(100) == expected


def test_a_part_of_a_batch_is_a_step_too():
    assert FitConfig(steps=0, epochs=1, batch_size=32).steps_for(33) == 2


def test_counted_steps_have_no_epochs_and_no_fractions_left():
    config = FitConfig(steps=0, epochs=4, batch_size=10, warmup_fraction=0.25, warmup_steps=9)
    counted = config.for_samples(100)
    assert (counted.steps, counted.warmup_steps) == (40, 10)
    assert counted.for_samples(3) == counted
    assert FitConfig(steps=8, warmup_steps=3).for_samples(100).warmup_steps == 3


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"steps": -1}, "steps -1"),
        ({"steps": 0, "epochs": -2.0}, r"epochs -2\.0"),
        ({"steps": 1, "learning_rate": 0.0}, r"learning_rate 0\.0"),
        ({"steps": 1, "accumulate": 0}, "accumulate is 0; needs at least 1"),
        ({"steps": 1, "precision": "fp16"}, "precision 'fp16'"),
    ],
)
def test_a_knob_that_cannot_be_is_refused_with_its_value(knobs: dict, told: str):
    with pytest.raises(ValueError, match=told):
        FitConfig(**knobs)


@pytest.mark.parametrize(
    "config",
    [LatentActionConfig.mini(), VlmConfig.mini(), StudentConfig.paper(), PlannerTrainConfig.mini()],
    ids=lambda c: type(c).__name__,
)
def test_every_trained_stage_has_its_knobs_in_one_place(config):
    assert not set(asdict(config)) & set(KNOBS)
    changed = with_training(config, seed=9, batch_size=3)
    assert (changed.training.seed, changed.training.batch_size) == (9, 3)
    assert replace(changed, training=config.training) == config


def test_a_model_saved_with_its_knobs_beside_the_other_fields_is_still_read():
    config = with_training(StudentConfig.debug(), steps=11, seed=4, learning_rate=0.5)
    saved = asdict(config)
    flat = saved | {"max_steps": 11} | {k: saved["training"][k] for k in ("seed", "learning_rate")}
    del flat["training"]
    read = from_dict(StudentConfig, flat)
    assert (read.training.steps, read.training.seed, read.training.learning_rate) == (11, 4, 0.5)
    assert read.width == config.width
    assert nested(saved) == saved
    with pytest.raises(SetupError, match="no field 'colour'"):
        from_dict(StudentConfig, flat | {"colour": 1})


def test_what_changes_no_result_is_left_out_at_any_depth():
    config = with_training(LatentActionConfig.debug(), checkpoint_every=5, log_every=3)
    assert without_free(asdict(config)) == without_free(asdict(LatentActionConfig.debug()))
    assert "seed" in without_free(asdict(config))["training"]


def test_the_two_stages_of_the_latent_model_draw_from_different_seeds():
    config = LatentActionConfig.debug(seed=3)
    assert [config.training_of(stage).seed for stage in (1, 2)] == [3, 4]


def test_fine_tuning_has_its_own_length_and_rate_and_shares_the_rest():
    config = PlannerTrainConfig.mini()
    scratch, tuned = config.training_of(False), config.training_of(True)
    assert (tuned.steps, tuned.learning_rate) == (30, 1e-3)
    assert replace(tuned, steps=scratch.steps, learning_rate=scratch.learning_rate) == scratch


COUNTS = (st.integers(1, 1000), st.integers(0, 500), st.integers(1, 64), st.integers(1, 8))


@settings(max_examples=50, deadline=None)
@given(*COUNTS, st.floats(0.01, 20))
def test_a_run_sees_every_sample_as_often_as_it_says_unless_it_is_bounded(
    samples, most, batch, accumulate, epochs
):
    config = FitConfig(steps=most, epochs=epochs, batch_size=batch, accumulate=accumulate)
    steps, a_step = config.steps_for(samples), batch * accumulate
    assert steps * a_step < epochs * samples + a_step + 1e-6
    if steps != most:
        assert steps * a_step >= epochs * samples - 1e-6


def test_where_a_knob_stands_in_both_places_the_nested_one_counts():
    both = {"seed": 1, "training": {"seed": 2, "epochs": 3.0}}
    assert nested(both) == {"training": {"seed": 2, "epochs": 3.0}}


LOOP = {"steps", "batch_size", "learning_rate", "weight_decay", "warmup_steps", "checkpoint_every"}


def test_knobs_of_the_loop_are_fields_of_one_class():
    """Every other configuration nests it, so there is nothing to convert and nothing to forget."""
    recipe, seen = recipe_named("mini"), []
    todo = [(name, getattr(recipe, name)) for name in (f.name for f in fields(recipe))]
    while todo:
        name, value = todo.pop()
        if not is_dataclass(value) or isinstance(value, FitConfig):
            continue
        seen.append(type(value))
        inner = [f.name for f in fields(value)]
        assert not LOOP & set(inner), f"{name}: {type(value).__name__} has {LOOP & set(inner)}"
        todo += [(f"{name}.{each}", getattr(value, each)) for each in inner]
    assert {StudentConfig, VlmConfig, LatentActionConfig, RlConfig, MenuConfig} <= set(seen)
