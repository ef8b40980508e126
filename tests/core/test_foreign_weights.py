"""Weights that are not what a model expects are refused with the names of their tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copytree
from tempfile import mkdtemp

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentvla_core.errors import SetupError
from latentvla_core.training import artifacts
from latentvla_core.vlm import network as model
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.network import load_network

Weights = dict[str, torch.Tensor]


@cache
def whole() -> Path:
    """A tiny Qwen2.5-VL checkpoint folder."""
    folder = Path(mkdtemp())
    network, _ = model.build(VlmConfig.debug())
    network.save_pretrained(folder)
    return folder


def changed(tmp_path: Path, change: Callable[[Weights], Weights]) -> str:
    folder = tmp_path / "network"
    copytree(whole(), folder)
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: {k: v for k, v in w.items() if ".layers.0." not in k}, r"lacks \d+ tensor.*layers\.0\."),
        (lambda w: {k: v for k, v in w.items() if "visual" not in k}, r"lacks \d+ tensor.*visual"),
        (lambda w: {"base_model.model." + k: v for k, v in w.items()}, "adapter of peft: merge it"),
        (lambda w: w | {"a.foreign.weight": torch.zeros(3)}, r"has others 1 tensor.*a\.foreign\.weight"),
        (lambda w: w | {k: v[:-1].clone() for k, v in w.items() if k.endswith("norm.weight")}, "shapes"),
        (lambda w: {}, "lacks"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_not_whole_is_refused_by_name(tmp_path: Path, change, told: str):
    with pytest.raises(SetupError, match=told):
        load_network(changed(tmp_path, change), torch.float32)


def test_a_whole_checkpoint_loads_to_the_last_bit(tmp_path: Path):
    network = load_network(changed(tmp_path, dict), torch.float32)
    stored = load_file(whole() / "model.safetensors")
    state = network.state_dict()
    found = {k: k if k in state else next(n for n in state if n.endswith(k[6:])) for k in stored}
    assert all(torch.equal(state[name], stored[key]) for key, name in found.items())


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("config.json", '{"model_type": "qwen2_vl"}', "model_type is 'qwen2_vl'; a folder of qwen2_5_vl"),
        ("config.json", "{", "no readable configuration"),
        ("config.json", "[]", "no readable configuration"),
        ("model.safetensors", "not tensors", "not a readable checkpoint"),
    ],
)  # fmt: skip
def test_files_of_something_else_are_refused(tmp_path: Path, file: str, text: str, told: str):
    copytree(whole(), tmp_path / "network")
    (tmp_path / "network" / file).write_text(text)
    with pytest.raises(SetupError, match=told):
        load_network(str(tmp_path / "network"), torch.float32)


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"config": {}}', "[" * 5000])
def test_a_model_folder_whose_config_is_something_else_is_refused(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(SetupError, match=r"no readable model config"):
        artifacts.load_extra(tmp_path)


def test_weights_under_a_config_that_speaks_of_them_but_are_no_tensors_are_refused(tmp_path: Path):
    artifacts.save_model(tmp_path, torch.nn.Linear(2, 2), VlmConfig.debug())
    (tmp_path / "model.safetensors").write_bytes(b"\x08" * 64)
    content = json.loads((tmp_path / "config.json").read_text())
    content["weights_sha256"] = artifacts.file_sha256(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(SetupError, match="not a readable checkpoint"):
        artifacts.load_weights(tmp_path, torch.nn.Linear(2, 2))
