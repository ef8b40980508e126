"""The knobs of a training: how many steps it has, what older configurations called them, and what
cannot be.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentvla_core.distill.config import StudentConfig
from latentvla_core.training.config import FitConfig, is_knob, nested, with_training
from latentvla_core.vlm.config import VlmConfig

BASE = FitConfig(steps=10)


@pytest.mark.parametrize(
    ("knobs", "steps"),
    [
        ({"steps": 7}, 7),
        ({"steps": 0, "epochs": 2.0}, 50),
        ({"steps": 10, "epochs": 2.0}, 10),
        ({"steps": 99, "epochs": 2.0}, 50),
        ({"steps": 0, "epochs": 2.0, "accumulate": 4}, 13),
        ({"steps": 0, "epochs": 0.01}, 1),
        ({"steps": 0}, 0),
    ],
)
def test_steps_are_those_of_the_epochs_rounded_up_and_never_more_than_the_bound(knobs, steps):
    assert replace(BASE, batch_size=4, **knobs).steps_for(100) == steps


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 1000),
    st.floats(0.01, 20),
    st.integers(0, 500),
    st.integers(1, 64),
    st.integers(1, 8),
)
def test_a_run_with_epochs_sees_every_sample_as_often_as_it_says_unless_it_is_bounded(
    samples, epochs, most, batch, accumulate
):
    config = FitConfig(steps=most, epochs=epochs, batch_size=batch, accumulate=accumulate)
    steps = config.steps_for(samples)
    seen = steps * batch * accumulate
    if most and steps == most:
        assert seen <= epochs * samples + batch * accumulate
    else:
        assert epochs * samples - 1e-6 <= seen < epochs * samples + batch * accumulate + 1e-6


def test_a_counted_run_has_no_epochs_and_no_fractions_and_is_counted_once():
    run = replace(BASE, steps=0, epochs=2.0, batch_size=4, warmup_fraction=0.1).for_samples(100)
    assert (run.steps, run.epochs, run.warmup_steps, run.warmup_fraction) == (50, 0.0, 5, 0.0)
    assert run.for_samples(7) == run
    assert replace(BASE, warmup_steps=3).for_samples(9).warmup_steps == 3


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"batch_size": 0}, "batch_size is 0; needs at least 1"),
        ({"accumulate": -1}, "accumulate is -1; needs at least 1"),
        ({"log_every": 0}, "log_every is 0; needs at least 1"),
        ({"steps": -1}, "steps -1, epochs 0.0, learning_rate 0.001; need >= 0"),
        ({"epochs": -0.5}, "epochs -0.5"),
        ({"learning_rate": 0.0}, "learning_rate 0.0; need >= 0, >= 0 and > 0"),
        ({"schedule": "linear"}, "schedule 'linear'"),
        ({"precision": "fp16"}, "precision 'fp16'"),
    ],
)
def test_knobs_that_cannot_be_are_refused_by_value(knobs, told):
    with pytest.raises(ValueError, match=told):
        replace(BASE, **knobs)


def test_fields_of_older_configurations_go_where_they_are_now():
    old = {"width": 8, "max_steps": 5, "batch_size": 4, "seed": 1}
    assert nested(old) == {"width": 8, "training": {"steps": 5, "batch_size": 4, "seed": 1}}
    assert nested({"width": 8}) == {"width": 8}
    both = {"seed": 1, "training": {"seed": 2, "epochs": 3.0}}
    assert nested(both) == {"training": {"seed": 2, "epochs": 3.0}}  # the new name counts
    assert is_knob("max_steps") and is_knob("clip_norm") and not is_knob("width")


@pytest.mark.parametrize("config", [VlmConfig.debug(), StudentConfig.debug()])
def test_a_stage_with_another_knob_is_the_same_stage(config):
    other = with_training(config, seed=7)
    assert other.training.seed == 7
    assert with_training(other, seed=config.training.seed) == config
