"""Parts of the registry without a server: numbers that wait, words of errors, runs that are known,
weights that are fetched, and the gate's rules at their edges.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from latentvla_core.errors import SetupError
from latentvla_core.statistics import Interval
from pipelines.registry import connection, fetch, rollback, tracking
from pipelines.registry.artifacts import MOST_CHARACTERS, parameters_of
from pipelines.registry.connection import answering, impatient, registered, said
from pipelines.registry.database import local_database
from pipelines.registry.gates import (
    KEPT,
    PROMOTED,
    REFUSED,
    ROLLED_BACK,
    Comparison,
    Rules,
    best_champion,
    champion_before,
    compare,
    decide,
)
from pipelines.registry.latency import cpu_name
from pipelines.registry.tracking import RUN_FILE, UNSENT_FILE, RunSink, known_run, send_unsent
from pipelines.settings import Settings

HERE = Settings.from_env({"LATENTVLA_HOME": "/nowhere/here"})


# ---- numbers of a training


class Server:
    """Takes batches while it is there, and fails after so many."""

    def __init__(self, good: int = 10**9) -> None:
        self.good, self.batches = good, list[list[Any]]()

    def __call__(self, metrics: list[Any]) -> None:
        if len(self.batches) >= self.good:
            raise ConnectionError("refused")
        self.batches.append(metrics)


def test_numbers_are_sent_together_in_batches_that_mlflow_takes():
    server = Server()
    sink = RunSink(server, print)
    for step in range(1500):
        sink.log(step, {"loss": 1.0 / (step + 1), "rate": 0.1})
    assert server.batches == []  # ten seconds have not passed
    sink.flush()
    assert [len(batch) for batch in server.batches] == [1000, 1000, 1000]
    first = server.batches[0][0]
    assert (first.key, first.value, first.step) == ("loss", 1.0, 0)
    assert sink.waiting == []


def test_what_was_taken_is_not_sent_again_when_the_rest_is_refused():
    server, told = Server(good=1), list[str]()
    sink = RunSink(server, told.append)
    sink.log(0, {f"m{k}": float(k) for k in range(1500)})
    sink.flush()
    assert [row[0] for row in sink.waiting] == [f"m{k}" for k in range(1000, 1500)]
    sink.flush()
    assert len(told) == 1 and "MLflow takes no numbers now (refused)" in told[0]
    server.good = 9
    sink.flush()
    assert sum(map(len, server.batches)) == 1500 and sink.waiting == []


def test_a_server_that_is_away_is_asked_ever_more_rarely_and_often_again_once_it_answers():
    server = Server(good=0)
    sink = RunSink(server, lambda text: None, seconds_per_call=10.0)
    waits = []
    for _ in range(7):
        sink.log(0, {"loss": 1.0})
        sink.flush()
        waits.append(sink.wait_s)
    assert waits == [20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]
    server.good = 9
    sink.flush()
    assert sink.wait_s == 10.0


def test_numbers_are_sent_when_their_time_has_come():
    server = Server()
    sink = RunSink(server, print, seconds_per_call=0.0)
    sink.log(3, {"loss": 2.0})
    assert [m.step for (m,) in server.batches] == [3]


class Client:
    """Runs by id, and what was logged."""

    def __init__(self, **stages: str) -> None:
        self.stages, self.logged = stages, list[Any]()

    def get_run(self, run_id: str) -> Any:
        if run_id not in self.stages:
            error = MlflowException("no such run")
            error.error_code = "RESOURCE_DOES_NOT_EXIST"
            raise error
        if self.stages[run_id] == "away":
            raise MlflowException("timeout")
        return SimpleNamespace(
            info=SimpleNamespace(run_id=run_id, lifecycle_stage=self.stages[run_id])
        )

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        self.logged += [(run_id, m.key, m.value, m.step) for m in metrics]


def test_a_run_is_known_by_its_note_as_long_as_it_lives(tmp_path: Path):
    client = Client(living="active", gone="deleted", away="away")
    assert known_run(client, tmp_path) is None
    for noted, found in (("living", "living"), ("gone", None), ("never", None)):
        (tmp_path / RUN_FILE).write_text(noted)
        assert known_run(client, tmp_path) == found
    (tmp_path / RUN_FILE).write_text("away")
    with pytest.raises(MlflowException, match="timeout"):
        known_run(client, tmp_path)


def test_what_was_kept_is_sent_once(tmp_path: Path):
    client = Client()
    send_unsent(client, "r", tmp_path)
    rows = [["loss", 0.5, 1, 7], ["loss", 0.25, 2, 8]]
    (tmp_path / UNSENT_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    send_unsent(client, "r", tmp_path)
    send_unsent(client, "r", tmp_path)
    assert client.logged == [("r", "loss", 0.5, 7), ("r", "loss", 0.25, 8)]
    assert not (tmp_path / UNSENT_FILE).exists()


def test_a_page_is_shown_by_the_server_or_by_the_local_one(monkeypatch, tmp_path: Path):
    client = SimpleNamespace(
        get_model_version=lambda name, version: SimpleNamespace(run_id=f"run of {name} {version}"),
        log_artifact=lambda *a: None,
        get_run=lambda run: SimpleNamespace(info=SimpleNamespace(experiment_id="7")),
    )
    monkeypatch.setattr(tracking, "connect", lambda settings: client)
    place = "#/experiments/7/runs/run of vlm 3/artifacts/pages/atlas.html"
    shown = tracking.keep_page(HERE, "models:/vlm/3", tmp_path / "atlas.html")
    assert shown == f"http://localhost:5000/{place}"
    away = replace(HERE, mlflow_uri="http://mlflow:5000/")
    shown = tracking.keep_page(away, "models:/vlm/3", tmp_path / "atlas.html")
    assert shown == f"http://mlflow:5000/{place}"


# ---- words of errors


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (
            OSError(
                "Max retries (Caused by NewConnectionError('<x at 0x7f>: Connection refused'))"
            ),
            "Connection refused",
        ),
        (ValueError("x" * 900), "x" * 300),
        (ValueError("cannot open postgresql://me:secret@db/mlflow"), None),
    ],
)
def test_an_error_is_its_first_line_and_its_cause_and_no_password(error: Exception, told):
    assert "secret" not in said(error)
    if told is not None:
        assert said(error) == told


def test_what_mlflow_raises_names_the_store_and_the_remedy_and_other_errors_pass():
    told = r"MLflow at sqlite:.* failed: gone; start it"
    with pytest.raises(SetupError, match=told), answering(HERE, "start it"):
        raise MlflowException("gone")
    with pytest.raises(ZeroDivisionError), answering(HERE, "start it"):
        raise ZeroDivisionError


def test_impatience_ends_with_the_call_whatever_it_raised(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    seen = {}

    def call() -> None:
        seen.update({name: os.environ[name] for name in connection.IMPATIENT})
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"), impatient():
        call()
    assert seen == connection.IMPATIENT
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "99"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_database_that_was_never_made_holds_no_model(monkeypatch: pytest.MonkeyPatch):
    assert registered(HERE) == set()
    assert local_database(HERE.mlflow_uri) == Path("/nowhere/here/mlflow.db")
    assert local_database("http://mlflow:5000") is None
    monkeypatch.setattr(connection, "is_away", lambda settings: "refused")
    assert registered(replace(HERE, mlflow_uri="http://mlflow:5000")) is None


# ---- weights from elsewhere


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch):
    """MLflow's download of a folder `artifacts/` with these names in it."""

    def holds(*names: str) -> None:
        def download(artifact_uri: str, dst_path: str) -> str:
            for name in names:
                place = Path(dst_path) / "artifacts" / name
                place.mkdir(parents=True)
                (place / "model.safetensors").write_text(artifact_uri)
            return dst_path

        monkeypatch.setattr("mlflow.artifacts.download_artifacts", download)
        monkeypatch.setattr(fetch, "connect", lambda settings: None)

    return holds


def test_weights_come_whole_or_not_at_all(downloads, tmp_path: Path):
    target = tmp_path / "vlm" / "abc"
    downloads("abc", "other")
    fetch.fetch_model(HERE, "models:/vlm/1", target)
    assert (target / "model.safetensors").read_text() == "models:/vlm/1"
    assert not list(target.parent.glob("*.fetching"))
    downloads()  # nothing is asked of MLflow for what is there
    fetch.fetch_model(HERE, "models:/vlm/2", target)
    assert (target / "model.safetensors").read_text() == "models:/vlm/1"


def test_a_registered_model_that_holds_something_else_is_told(downloads, tmp_path: Path):
    downloads("other")
    with pytest.raises(SetupError, match="models:/vlm/1 holds no folder abc; materialise the mod"):
        fetch.fetch_model(HERE, "models:/vlm/1", tmp_path / "abc")


# ---- the gate


def beside(low: float, high: float = 1.0, groups: int = 9, **safety: float) -> Comparison:
    interval = Interval((low + high) / 2, low, high, 90, groups)
    return Comparison(90, 90, 0.9, 0.8, interval, safety)


@pytest.mark.parametrize(
    ("found", "rules", "decision"),
    [
        (beside(0.001), Rules(), PROMOTED),
        (beside(0.0), Rules(), REFUSED),
        (beside(0.02), Rules(margin=0.02), REFUSED),
        (beside(0.021), Rules(margin=0.02), PROMOTED),
        (beside(0.001, groups=2), Rules(), REFUSED),
        (beside(0.001, groups=2), Rules(fewest_logs=2), PROMOTED),
        (beside(0.001, drivable_area_compliance=-0.01), Rules(), PROMOTED),
        (beside(0.001, drivable_area_compliance=-0.011), Rules(), REFUSED),
    ],
)
def test_a_candidate_must_be_above_the_margin_and_as_safe(found, rules, decision):
    assert decide(found, rules)[0] == decision


@pytest.mark.parametrize(
    "change", [{"scored": 89}, {"scored": 91}, {"scored": 0, "expected": 0}, {"score": math.nan}]
)
def test_no_split_that_is_not_whole_decides_anything(change):
    decision, reason = decide(replace(beside(0.5), **change), Rules(), same=True)
    assert decision == REFUSED and "a mean over an incomplete split" in reason


def test_the_same_weights_keep_the_alias_and_the_first_takes_it():
    assert decide(beside(-1.0), Rules(), same=True)[0] == KEPT
    assert decide(replace(beside(0.0), difference=None), Rules())[0] == PROMOTED


def test_a_fall_is_told_by_its_short_name():
    _, reason = decide(beside(0.1, no_at_fault_collisions=-0.5), Rules())
    assert reason.startswith("NC -0.500: falls by more than 0.01; difference +0.5500")


def test_rows_that_are_not_valid_are_no_scenes():
    row = {"scene_token": "a", "log_name": "l", "valid": False, "score": math.nan}
    found = compare([row], None, 1)
    assert (found.scored, found.expected) == (0, 1) and math.isnan(found.score)


names = st.text(min_size=1, max_size=3)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(names, st.floats(0, 1) | st.just(math.nan)))
def test_the_best_champion_has_the_best_score_there_is(scores):
    best = best_champion(scores)
    known = {name: score for name, score in scores.items() if math.isfinite(score)}
    if not known:
        assert best == ""
    else:
        assert known[best] == max(known.values())
        assert best == min(n for n, s in known.items() if s == known[best])


def decided(*rows: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [
        {"version": v, "decision": d, "champion": c, "decided_us": at}
        for at, (v, d, c) in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("rows", "now", "before"),
    [
        ([], "", ""),
        ([("1", PROMOTED, "1")], "1", ""),
        ([("1", PROMOTED, "1"), ("2", PROMOTED, "2")], "2", "1"),
        ([("1", PROMOTED, "1"), ("2", REFUSED, "1"), ("3", PROMOTED, "3")], "3", "1"),
        ([("1", PROMOTED, "1"), ("2", PROMOTED, "2"), ("2", ROLLED_BACK, "1")], "1", ""),
        ([("1", REFUSED, ""), ("2", PROMOTED, "2"), ("3", PROMOTED, "3")], "3", "2"),
    ],
)
def test_the_champion_before_is_found_in_any_order_of_rows(rows, now: str, before: str):
    made = decided(*rows)
    assert champion_before(made, now) == champion_before(made[::-1], now) == before


def test_a_roll_back_to_nowhere_is_refused_and_moves_no_alias(tmp_path: Path):
    moved: list[Any] = []
    client = SimpleNamespace(
        get_registered_model=lambda name: SimpleNamespace(aliases={"champion": "3"}),
        set_registered_model_alias=lambda *a: moved.append(a),
    )
    here = replace(HERE, lake=str(tmp_path))
    for to in ("", "3"):
        with pytest.raises(SetupError, match="ipad has champion 3 and no other version .*--to"):
            rollback.roll_back(here, client, "ipad", to)
    assert moved == []
    assert rollback.roll_back(here, client, "ipad", "2") == ("3", "2")
    assert moved == [("ipad", "champion", "2")]


# ---- parameters and machines


def test_a_long_value_is_cut_to_what_mlflow_takes():
    recipe = SimpleNamespace(latent={"a": {"b": 1}, "long": "x" * 9999}, seed=3)
    found = parameters_of(recipe, ["latent", "seed"])
    assert found["latent.a.b"] == "1" and found["seed"] == "3"
    assert len(found["latent.long"]) == MOST_CHARACTERS


def test_a_machine_without_such_a_file_has_a_cpu_all_the_same(tmp_path: Path):
    assert cpu_name(tmp_path / "absent") == "CPU"
    (tmp_path / "cpuinfo").write_text("processor: 0\nmodel name\t: A  9000\nmodel name\t: B\n")
    assert cpu_name(tmp_path / "cpuinfo") == "A  9000"


def test_intervals_of_the_gate_are_of_logs():
    rows = [
        {"scene_token": f"{log}{k}", "log_name": log, "valid": True, "score": 0.5}
        | dict.fromkeys(("no_at_fault_collisions", "drivable_area_compliance"), 1.0)
        | {"time_to_collision_within_bound": 1.0}
        for log in "ab"
        for k in range(5)
    ]
    better = [row | {"score": 0.75} for row in rows]
    found = compare(better, rows, 10)
    assert found.difference is not None
    assert (found.difference.count, found.difference.groups) == (10, 2)
    assert found.difference.mean == pytest.approx(0.25)
    assert found.champion_score == 0.5 and set(found.safety.values()) == {0.0}
    assert np.isclose(found.score, 0.75)
