"""The fuzz harness tells apart what it counts, and mutated drives end in typed errors."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import fuzz, fuzz_kinds
from latentvla_core.data.sequences import describe
from latentvla_core.errors import DataError, LatentVLAError


def _raise(error: BaseException):
    raise error


def _busy() -> bool:
    while True:
        time.perf_counter()


READERS = {
    "read": lambda _: True,
    "silent": lambda _: False,
    "typed": lambda _: _raise(DataError("broken", file="f")),
    "untyped": lambda _: _raise(KeyError("x")),
    "crash": lambda _: os.kill(os.getpid(), 9),
    "hang": lambda _: _busy(),
}


@pytest.mark.parametrize("outcome", READERS)
def test_each_outcome_is_told_from_the_others(tmp_path, monkeypatch, outcome):
    monkeypatch.setattr(fuzz, "TIME_S", 0.05)
    kind = fuzz_kinds.Kind("k", b"x", "f", READERS[outcome])
    assert fuzz.run_one(kind, tmp_path, b"y")[0] == outcome


def test_mutations_change_a_file_and_come_again_from_their_seed():
    honest = bytes(range(200))
    made = [fuzz.mutate(honest, np.random.default_rng([0, i])) for i in range(50)]
    again = [fuzz.mutate(honest, np.random.default_rng([0, i])) for i in range(50)]
    assert made == again and sum(m != honest for m in made) > 45


def test_mutated_descriptions_of_drives_are_read_or_refused_by_name(tmp_path):
    honest, refused = fuzz_kinds._YAML, 0
    for i in range(60):
        data = fuzz.mutate(honest, np.random.default_rng([1, i]))
        (tmp_path / "sequence.yaml").write_bytes(data)
        try:
            describe(tmp_path)
        except LatentVLAError as error:
            refused += "sequence.yaml" in str(error)
    assert refused > 30


PARTS = {
    "weights": ("model/model.safetensors", fuzz_kinds._model),
    "model config": ("model/config.json", fuzz_kinds._model),
    "checkpoint": (f"{fuzz_kinds._STEP}/model.safetensors", fuzz_kinds._checkpoint),
    "checkpoint state": (f"{fuzz_kinds._STEP}/optimizer.pt", fuzz_kinds._checkpoint),
    "checkpoint progress": (f"{fuzz_kinds._STEP}/progress.json", fuzz_kinds._checkpoint),
}
TEXTS = {
    "sources": ("sources.yaml", fuzz_kinds._SOURCES, fuzz_kinds._sources),
    "recipe": ("mine.yaml", fuzz_kinds._RECIPE, fuzz_kinds._recipe),
}


def outcomes(folder: Path, place: str, honest: bytes, read, count: int = 25) -> Counter[str]:
    """How mutations are answered, read in this process: any other error than ours fails the test."""
    found: Counter[str] = Counter()
    for i in range(count):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(fuzz.mutate(honest, np.random.default_rng([3, i])))
        try:
            found["read" if read(folder) else "silent"] += 1
        except LatentVLAError:
            found["typed"] += 1
    return found


@pytest.mark.parametrize("name", PARTS)
def test_mutated_models_and_checkpoints_are_read_or_refused_in_our_words(tmp_path, name):
    files = fuzz_kinds._trained(tmp_path / "honest")
    place, reader = PARTS[name]
    read = fuzz_kinds.beside(files, place, reader)
    (tmp_path / "w" / place).parent.mkdir(parents=True)
    (tmp_path / "w" / place).write_bytes(files[place])
    assert read(tmp_path / "w")
    found = outcomes(tmp_path / "w", place, files[place], read)
    assert not found["silent"] and found["typed"] > 10


@pytest.mark.parametrize("name", TEXTS)
def test_mutated_sources_and_recipes_are_read_or_refused_in_our_words(tmp_path, name):
    place, honest, read = TEXTS[name]
    (tmp_path / place).write_bytes(honest)
    assert read(tmp_path)
    found = outcomes(tmp_path, place, honest, read)
    assert not found["silent"] and found["typed"] > 10


def test_plans_that_are_none_are_a_broken_promise():
    good, bad = np.zeros((8, 3)), np.zeros((7, 3))
    assert fuzz_kinds._are_plans(SimpleNamespace(of_scene={"a": {"x": good, "y": "why not"}}))
    for plan in (bad, good.astype(np.float32), ""):
        assert not fuzz_kinds._are_plans(SimpleNamespace(of_scene={"a": {"x": plan}}))


@pytest.mark.parametrize("key", ["step", "settings", "sha256"])
@pytest.mark.parametrize("value", [None, "x", []])
def test_a_checkpoint_whose_progress_lacks_a_part_is_damaged_and_says_so(tmp_path, key, value):
    for name, content in fuzz_kinds._trained(tmp_path / "honest").items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    file = tmp_path / fuzz_kinds._STEP / "progress.json"
    progress = json.loads(file.read_text())
    del progress[key]
    file.write_text(json.dumps(progress if value is None else {**progress, key: value}))
    with pytest.raises(LatentVLAError, match="step_00000007"):
        fuzz_kinds._checkpoint(tmp_path)
