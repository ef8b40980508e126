"""VLM, student and both hosts: two processes train as one does, from either's checkpoint."""

from __future__ import annotations

import os

import pytest
import torch
import vlm_worlds
from planner_factory import make_records
from two_process_models import MODELS, STEPS, losses, start_two

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(
    not os.environ.get("LATENTVLA_SOAK"), reason="a minute of two processes: make soak"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With pictures drawn, and a checkpoint of one process after the first step of each model."""
    made = tmp_path_factory.mktemp("models")
    vlm_worlds.scenes(8, made / "vlm")
    make_records(made / "planner", 8)
    for name, train in MODELS.items():
        train(made, checkpoint_dir=made / f"by_one_{name}", until=1)
    return made


@pytest.fixture(scope="module")
def alone(folder):
    return {name: losses(train(folder)) for name, train in MODELS.items()}


@pytest.fixture(scope="module")
def two(folder):
    return start_two(folder)


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_train_as_one_does(two, alone, name):
    assert len(alone[name]) == STEPS and len(set(alone[name])) == STEPS, "it learns nothing"
    assert two[name] == pytest.approx(alone[name], abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_go_on_from_a_checkpoint_of_one(two, alone, name):
    assert two[f"{name} resumed"] == pytest.approx(alone[name][1:], abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_one_process_goes_on_from_a_checkpoint_of_two(folder, two, alone, name):
    resumed = losses(MODELS[name](folder, checkpoint_dir=folder / f"by_two_{name}"))
    assert resumed == pytest.approx(alone[name][1:], abs=1e-6, rel=1e-6)
