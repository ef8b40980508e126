"""What lies with a registered model: every parameter, its latency, how it was trained, where it
fails.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentvla_core.recipes import recipe_named
from latentvla_core.viz.report.card import Latency, spaced
from pipelines.registry import cards, latency
from pipelines.registry.artifacts import PICTURES, TRAINING, keep_training, parameters_of
from pipelines.services.links import moved, point_links


def test_every_field_of_the_sections_a_stage_reads_is_a_parameter():
    recipe = recipe_named("debug")
    found = parameters_of(recipe, ("planner", "metrics"))
    assert found["planner.train.training.steps"] == str(recipe.planner.train.training.steps)
    assert found["metrics"] == str(recipe.metrics)
    assert not any(name.startswith("vlm") for name in found)
    long = SimpleNamespace(note="x" * 9_000)
    assert len(parameters_of(long, ("note",))["note"]) == 500


def test_the_training_lies_beside_its_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    rows = [[1, {"loss": 2.0}], [2, {"loss": 1.0}]]
    (tmp_path / "curves.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    kept: dict[str, str] = {}
    keep_training(tmp_path, lambda file, folder: kept.update({Path(file).name: folder}))
    assert kept == {"config.json": TRAINING, "curves.jsonl": TRAINING, "training.png": PICTURES}
    bare: list[str] = []
    (tmp_path / "bare").mkdir()
    keep_training(tmp_path / "bare", lambda file, folder: bare.append(file))
    assert bare == []


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Scenes that a model was asked for; it answers at once."""
    asked: list[Any] = []
    monkeypatch.setattr(latency, "_answering", lambda folder, parts: asked.append)
    return asked


def test_the_first_answer_is_not_timed_and_scenes_take_turns(answers, tmp_path):
    told = latency.latency_of(tmp_path, {}, ["a", "b"])
    assert answers == ["a", *"abababababab"] and told.runs == latency.RUNS
    assert 0 <= told.median_ms <= told.slowest_ms and "thread" in told.machine


def test_a_slow_model_is_asked_fewer_times(answers, tmp_path, monkeypatch):
    ticks = iter(range(0, 1000, 3))  # every look at the clock is three seconds later
    monkeypatch.setattr(latency.time, "perf_counter", lambda: float(next(ticks)))
    told = latency.latency_of(tmp_path, {}, ["a"])
    assert told.runs == 2 and told.median_ms == 3000.0


def test_a_latency_goes_through_a_run_and_back():
    there = Latency(2.0, 3.0, 12, "Some CPU")
    back = latency.recalled(latency.figures_of(there), {latency.MACHINE: there.machine})
    assert back == there and latency.recalled({}, {}) is None


def test_a_processor_without_a_name_is_a_cpu(tmp_path):
    (tmp_path / "cpuinfo").write_text("model name\t: Some CPU\nmodel name\t: Some CPU\n")
    assert latency.cpu_name(tmp_path / "cpuinfo") == "Some CPU"
    (tmp_path / "cpuinfo").write_text("flags\t: fpu\n")
    assert latency.cpu_name(tmp_path / "cpuinfo") == latency.cpu_name(tmp_path / "none") == "CPU"


def test_weights_of_the_models_it_needs_count_too(tmp_path):
    for name, config, parts in (
        ("student", {"backbone_path": "/x/resnet"}, {}),
        ("planner", {"image_weights": ""}, {"features": str(tmp_path / "student")}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps({"parts": parts}))
        (tmp_path / name / "config.json").write_text(json.dumps({"config": config}))
    assert [weights for weights, _ in cards.weights_of(tmp_path / "planner")] == ["ResNet (resnet)"]


@dataclass
class Registry:
    """The calls of an MLflow client that `describe` makes."""

    described: str = ""
    texts: dict[str, str] = None  # type: ignore[assignment]

    def get_model_version(self, name: str, version: str) -> Any:
        return SimpleNamespace(run_id=f"run of {name} {version}")

    def get_run(self, run_id: str) -> Any:
        data = SimpleNamespace(metrics={latency.MEDIAN: 7.0, latency.SLOWEST: 9.0}, tags={})
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id, experiment_id="1"), data=data)

    def update_model_version(self, name: str, version: str, description: str) -> None:
        self.described = description

    def log_text(self, run_id: str, text: str, name: str) -> None:
        self.texts = {**(self.texts or {}), name: text}

    def log_image(self, run_id: str, image: Any, artifact_file: str) -> None:
        raise AssertionError("a plan without a world cannot be drawn")


def test_a_scored_model_is_described_anew_with_its_latency(tmp_path):
    from benchmarks.site_lake import write_lake

    lake = write_lake(tmp_path / "lake", 75)
    row = {
        "name": "ipad", "version": "v1", "recipe": "mini", "path": "", "parameters": 5,
        "metrics": '{"val/ade_m": 1.0}', "inputs": '{"scenes": 3}', "commit": "abc",
        "seconds": 1.0, "mlflow_uri": "models:/ipad/4", "made_by": "v1",
    }  # fmt: skip
    lake.replace("models", [row], {"name": "ipad", "version": "v1"})
    (tmp_path / "summary.json").write_text('{"parts": {}}')
    stage = SimpleNamespace(name="ipad", family="planner", reads=("train",), recipe=("metrics",))
    context: Any = SimpleNamespace(
        lake=lake,
        settings=SimpleNamespace(site_url="http://s"),
        recipe=SimpleNamespace(metrics=("pdms",)),
        ledger=SimpleNamespace(made_by=lambda name, partition: "v1"),
        stages={"ipad": stage},
        model_dir=lambda name: tmp_path,
    )
    registry = Registry()
    cards.describe(context, registry, ["ipad", "never_trained"])
    assert (
        "7 ms a scene" in registry.described
        and "| test&emsp; | pdms-v1.1&emsp; |" in registry.described
    )
    assert "http://s/index.html#/?planner=ipad" in registry.described
    page = registry.texts.pop(cards.PAGE)
    assert "<code>(&#x27;pdms&#x27;,)</code>" in page and "7 ms a scene" in page
    assert "](#/experiments/1/runs/run of ipad 4/artifacts/model_page.html)" in registry.described
    assert {name: spaced(text) for name, text in registry.texts.items()} == {
        cards.CARD: registry.described
    }


class Moved:
    """An MLflow client with one card of an older port, one of today's and one without a link."""

    def __init__(self) -> None:
        old = "[it](http://localhost:8000/index.html#/?planner=ipad) http://else/index.html"
        told = {"1": old, "2": old.replace("8000", "8200"), "3": None}
        self.versions = [
            SimpleNamespace(name="ipad", version=v, description=text, run_id=f"run {v}")
            for v, text in told.items()
        ]
        self.files = {cards.CARD: old, cards.PAGE: f"<a href='{old[5:54]}'>", "other.txt": old}
        self.written: dict[str, str] = {}

    def search_model_versions(self) -> list[Any]:
        return self.versions

    def update_model_version(self, name: str, version: str, description: str) -> None:
        self.written[version] = description

    def list_artifacts(self, run_id: str) -> list[Any]:
        return [SimpleNamespace(path=name) for name in self.files]

    def download_artifacts(self, run_id: str, name: str, room: str) -> str:
        path = Path(room) / name
        path.write_text(self.files[name])
        return str(path)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        self.written[f"{run_id} {name}"] = text


def test_links_of_cards_and_pages_follow_the_port_at_which_the_browser_is_served():
    client = Moved()
    assert point_links(client, "http://localhost:8200/") == 1
    assert set(client.written) == {"1", f"run 1 {cards.CARD}", f"run 1 {cards.PAGE}"}
    assert all("localhost:8200/index.html#/?planner=ipad" in t for t in client.written.values())
    assert "http://else/index.html" in client.written["1"]  # no page of the browser
    assert moved(client.written["1"], "http://localhost:8000") == client.files[cards.CARD]
