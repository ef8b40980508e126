"""How models that speak in codes are scored, scene by scene, so that two versions can be compared."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from latentvla_core.latent import pairs
from latentvla_core.latent.probes import run
from pipelines.registry import words
from pipelines.registry.words import accuracies, gains, metric_of


def scene(i: int) -> Any:
    return SimpleNamespace(scene_token=f"s{i}", log_name=f"log{i % 2}")


def test_a_scene_scores_the_share_of_its_label_that_was_named_and_needs_a_label():
    labels = np.array([np.arange(12), np.zeros(12), np.full(12, -1)], np.int8)
    codes = np.array([np.arange(12), np.arange(12), np.arange(12)], np.int8)
    said = SimpleNamespace(codes=codes, valid=np.array([True, False, True]))
    rows = accuracies([scene(0), scene(1), scene(2)], labels, said)
    assert [row["scene_token"] for row in rows] == ["s0", "s1"]
    assert [row["score"] for row in rows] == pytest.approx([1.0, 1 / 12])
    assert [row["valid"] for row in rows] == [True, False]
    assert [row["log_name"] for row in rows] == ["log0", "log1"]


def test_a_transition_scores_by_how_much_nearer_than_the_first_picture_its_prediction_is(
    monkeypatch: pytest.MonkeyPatch,
):
    found = SimpleNamespace(logs=np.array(["a", "a", "b"]), rows=np.array([[0, 2], [1, 3], [4, 6]]))
    right, copy = np.array([1.0, 2.0, np.nan]), np.array([4.0, 2.0, 6.0])
    monkeypatch.setattr(words, "what_it_sees", lambda context, config: "cache")
    monkeypatch.setattr(pairs, "collect_pairs", lambda records, gap, cache: found)
    monkeypatch.setattr(run, "errors_of", lambda model, pairs: (right, copy))
    model = SimpleNamespace(config=SimpleNamespace(gap_frames=2))
    rows = gains(None, model, [scene(0)])  # type: ignore[arg-type]
    assert [row["score"] for row in rows[:2]] == [0.75, 0.0]
    assert [row["valid"] for row in rows] == [True, True, False]
    assert len({row["scene_token"] for row in rows}) == 3
    assert gains(None, model, []) == []  # type: ignore[arg-type]


def test_each_score_has_the_name_of_its_definition():
    assert metric_of("latent_action_model") != metric_of("vlm") == metric_of("student")
