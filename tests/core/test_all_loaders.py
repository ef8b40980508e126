"""Every loader of weights has one refusal: which tensors lack, which are others, which have other
shapes; and what is no model of that kind at all is refused by file. Nothing is drawn at random.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from shutil import copytree
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from latentvla_core.distill.config import StudentConfig
from latentvla_core.distill.model import Student, load_student
from latentvla_core.distill.network import StudentNetwork
from latentvla_core.distill.train import build_network
from latentvla_core.encoders.encoder import _Dino, _ResNet
from latentvla_core.errors import SetupError
from latentvla_core.latent import model as latent
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.features import DinoFeatures, FeatureConfig
from latentvla_core.planner import model as planners
from latentvla_core.planner.baselines import EgoStatusConfig, EgoStatusMlp
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.training.artifacts import CONFIG_FILE, WEIGHTS_FILE, file_sha256

OURS: dict[str, Callable[[Path], Any]] = {
    "latent": lambda folder: latent.load(folder),
    "student": lambda folder: load_student(folder),
    "planner": lambda folder: planners.load(folder),
    "baseline": lambda folder: planners.load(folder),
}
FOREIGN: dict[str, Callable[[Path], Any]] = {
    "dino encoder": lambda folder: _Dino(str(folder)),
    "dino features": lambda folder: DinoFeatures(_dino_config(folder)).backbone,
    "resnet encoder": lambda folder: _ResNet(str(folder), (1,)),
    "student's backbone": lambda folder: build_network(_student(folder)),
}


def _dino_config(folder: Path) -> FeatureConfig:
    return FeatureConfig(
        kind="dinov2", image_size_wh=(56, 28), patch_px=14, dim=16, backbone=str(folder)
    )


def _student(folder: Path) -> StudentConfig:
    return replace(StudentConfig.debug(), backbone_path=str(folder))


@cache
def whole(name: str) -> Path:
    """A complete folder of a tiny model."""
    folder = Path(mkdtemp()) / "model"
    if name == "latent":
        latent.save(latent.LatentActionModel(LatentActionConfig.debug()), folder)
    elif name == "student":
        config = StudentConfig.debug()
        Student(config, StudentNetwork(config), np.ones((12, 16)) / 16).save(folder)
    elif name == "planner":
        planners.save(planners.build_planner("transfuser", TransfuserConfig.debug()), folder)
    elif name == "baseline":
        planners.save(EgoStatusMlp(EgoStatusConfig.debug()), folder)
    else:
        _published(name).save_pretrained(folder)
    return folder


def _published(name: str) -> Any:
    from transformers import Dinov2Config, Dinov2Model, ResNetConfig, ResNetModel

    torch.manual_seed(0)
    if name.startswith("dino"):
        shape = Dinov2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=14
        )
        return Dinov2Model(shape)
    widths = [8, 8, 8, 8] if "student" in name else [8]
    return ResNetModel(ResNetConfig(
        layer_type="basic", embedding_size=8, hidden_sizes=widths, depths=[1] * len(widths)
    ))  # fmt: skip


def with_weights(
    source: Path, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> Path:
    """A copy whose weights are changed; ours keep their checksum right."""
    copytree(source, folder)
    save_file(change(load_file(source / WEIGHTS_FILE)), folder / WEIGHTS_FILE, {"format": "pt"})
    content = json.loads((folder / CONFIG_FILE).read_text())
    if "weights_sha256" in content:
        content["weights_sha256"] = file_sha256(folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(content))
    return folder


def _first(weights: dict[str, Any]) -> str:
    """A tensor of more than one row."""
    return next(n for n, t in sorted(weights.items()) if t.ndim > 1 and len(t) > 1)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "lacks": (lambda w: {n: t for n, t in w.items() if n != _first(w)}, "lacks 1 tensor"),
    "others": (
        lambda w: w | {"a.foreign.weight": torch.zeros(3)},
        "has others 1 tensor.*a.foreign",
    ),
    "shape": (lambda w: w | {_first(w): w[_first(w)][:-1].clone()}, "has other shapes of 1 tensor"),
    "adapter": (lambda w: {"base_model.model." + n: t for n, t in w.items()}, "adapter of peft"),
    "empty": (lambda w: {}, "lacks"),
}
ALL = OURS | FOREIGN


@pytest.mark.parametrize("name", ALL)
def test_a_whole_folder_loads(name: str):
    try:
        ALL[name](whole(name))
    except SetupError as error:
        raise AssertionError(f"{name} refuses what is its own") from error


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ALL)
def test_weights_that_are_not_the_models_are_refused_by_name(
    tmp_path: Path, name: str, change: str
):
    alter, told = CHANGES[change]
    folder = with_weights(whole(name), tmp_path / "model", alter)
    with pytest.raises(SetupError, match=f"the checkpoint {told}" if "peft" not in told else told):
        ALL[name](folder)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("other", OURS)
def test_the_folder_of_another_model_is_refused(name: str, other: str):
    if {name, other} <= {"planner", "baseline"} or name == other:
        return  # one loader reads both
    with pytest.raises(SetupError, match="not a|no readable"):
        OURS[name](whole(other))


@pytest.mark.parametrize("content", ["{", "[]", "3", "{}", "null", "[" * 5000])
@pytest.mark.parametrize("name", OURS)
def test_a_configuration_that_is_none_is_refused_with_its_file(
    tmp_path: Path, name: str, content: str
):
    copytree(whole(name), tmp_path / "model")
    (tmp_path / "model" / CONFIG_FILE).write_text(content)
    with pytest.raises(SetupError, match=r"config\.json"):
        OURS[name](tmp_path / "model")


@pytest.mark.parametrize("value", [None, 3, [], {"no": "field"}, {"name": 5, "host": 7}])
@pytest.mark.parametrize("name", OURS)
def test_fields_that_are_none_of_the_models_are_refused(tmp_path: Path, name: str, value: Any):
    copytree(whole(name), tmp_path / "model")
    file = tmp_path / "model" / CONFIG_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"config": value}))
    with pytest.raises(SetupError):
        OURS[name](tmp_path / "model")


def test_the_head_of_a_published_classifier_is_left_aside(tmp_path: Path):
    with_head = with_weights(
        whole("resnet encoder"),
        tmp_path / "model",
        lambda w: w | {"classifier.1.weight": torch.zeros(3)},
    )
    FOREIGN["resnet encoder"](with_head)
