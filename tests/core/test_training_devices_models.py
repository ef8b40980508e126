"""Latent action model, VLM, student and hosts: two processes train as one does, as replicas and in
parts, from either's checkpoint.
"""

from __future__ import annotations

import os
import shutil

import pytest
import torch
import two_processes
import vlm_worlds
from planner_factory import make_records
from two_process_models import MODELS, STEPS, losses, start_two

from latentvla_core.training.devices.group import Launch, launched

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
def test_two_processes_that_hold_parts_train_as_one_does(two, alone, name):
    assert two[f"{name} in parts"] == pytest.approx(alone[name], abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_one_process_goes_on_from_a_checkpoint_of_parts(folder, two, alone, name):
    resumed = losses(MODELS[name](folder, checkpoint_dir=folder / f"by_parts_{name}"))
    assert resumed == pytest.approx(alone[name][1:], abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_go_on_from_a_checkpoint_of_one(two, alone, name):
    assert two[f"{name} resumed"] == pytest.approx(alone[name][1:], abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_one_process_goes_on_from_a_checkpoint_of_two(folder, two, alone, name):
    resumed = losses(MODELS[name](folder, checkpoint_dir=folder / f"by_two_{name}"))
    assert resumed == pytest.approx(alone[name][1:], abs=1e-6, rel=1e-6)


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_loss_drops_the_units_that_an_uncompiled_one_drops():
    plain = two_processes.train(two_processes.Net())
    with launched(Launch(compile=True)):
        assert two_processes.train(two_processes.Net()) == pytest.approx(plain, abs=1e-6)
    kept = two_processes.Net()
    for part in kept.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    assert two_processes.train(kept) != pytest.approx(plain, abs=1e-3), "nothing was dropped"
