"""The fuzz harness tells apart what it counts, and mutated drives end in typed errors."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from benchmarks import fuzz
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
    kind = fuzz.Kind("k", b"x", "f", READERS[outcome])
    assert fuzz.run_one(kind, tmp_path, b"y")[0] == outcome


def test_mutations_change_a_file_and_come_again_from_their_seed():
    honest = bytes(range(200))
    made = [fuzz.mutate(honest, np.random.default_rng([0, i])) for i in range(50)]
    again = [fuzz.mutate(honest, np.random.default_rng([0, i])) for i in range(50)]
    assert made == again and sum(m != honest for m in made) > 45


def test_mutated_descriptions_of_drives_are_read_or_refused_by_name(tmp_path):
    honest, refused = fuzz._YAML, 0
    for i in range(60):
        data = fuzz.mutate(honest, np.random.default_rng([1, i]))
        (tmp_path / "sequence.yaml").write_bytes(data)
        try:
            describe(tmp_path)
        except LatentVLAError as error:
            refused += "sequence.yaml" in str(error)
    assert refused > 30
