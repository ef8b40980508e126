"""Who becomes champion: like compared with like, beyond chance, and no less safe."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pipelines.assets.registry as registry
import pipelines.registry.cards as cards
import pipelines.registry.wheel as wheel
from latentvla_core.closed_loop.config import ClosedLoopGate
from latentvla_core.errors import SetupError
from latentvla_core.pdms.metrics import METRIC_VERSIONS
from latentvla_core.statistics import grouped_error
from latentvla_core.tables import TABLES
from latentvla_core.viz.report.card import spaced
from pipelines.registry.gates import (
    DEPLOYED,
    SAFETY,
    Rules,
    best_champion,
    champion_before,
    compare,
    decide,
)
from pipelines.registry.latency import MEDIAN
from pipelines.registry.rollback import roll_back
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.engine import Engine

METRIC = METRIC_VERSIONS["pdms"]
LOGS, SCENES = 12, 10  # logs, and scenes of each


def scores(offset: float = 0.0, noise: float = 0.0, seed: int = 0, **safety: float) -> list[Any]:
    """Scored scenes: a mean of 0.6, plus an offset, plus noise that the scenes of a log share."""
    of_log = np.random.default_rng(seed).normal(0.0, noise or 1e-12, LOGS)
    return [
        {
            "scene_token": f"{log}-{i}",
            "log_name": f"log{log}",
            "valid": True,
            "score": 0.6 + offset + of_log[log],
            **{name: 1.0 + safety.get(name, 0.0) for name in SAFETY},
        }
        for log in range(LOGS)
        for i in range(SCENES)
    ]


def decision(candidate: list[Any], champion: list[Any] | None, expected: int = 120) -> str:
    return decide(compare(candidate, champion, expected), Rules())[0]


# ---- the rule ----------------------------------------------------------------------------------


def test_the_first_becomes_champion():
    assert decision(scores(), None) == "promoted"


def test_what_is_better_in_every_log_is_promoted_and_what_is_worse_refused():
    assert decision(scores(0.05), scores()) == "promoted"
    assert decision(scores(-0.05), scores()) == "refused"


def test_what_is_equal_is_not_promoted():
    assert decision(scores(), scores()) == "refused"
    assert decide(compare(scores(), scores(), 120), Rules(), same=True)[0] == "kept"


def test_a_gain_that_a_few_logs_explain_is_refused_although_scenes_alone_would_show_it():
    candidate, champion = scores(0.02, noise=0.1, seed=3), scores()
    found = compare(candidate, champion, 120)
    gains = np.array([a["score"] - b["score"] for a, b in zip(candidate, champion, strict=True)])
    by_scene = gains.std(ddof=1) / math.sqrt(len(gains))
    assert found.difference is not None
    wide = (found.difference.high - found.difference.low) / 2 / 1.96
    assert wide > 2 * by_scene
    assert decide(found, Rules())[0] == "refused"


def test_a_higher_score_does_not_buy_less_safety():
    less_safe = scores(0.05, drivable_area_compliance=-0.02)
    result, reason = decide(compare(less_safe, scores(), 120), Rules())
    assert result == "refused"
    assert "DAC -0.020" in reason
    assert decision(scores(0.05, drivable_area_compliance=-0.005), scores()) == "promoted"


def test_a_hole_in_the_split_proves_nothing():
    assert decision(scores(0.1)[:-1], scores()) == "refused"
    assert decision([], None, expected=0) == "refused"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, 1e9, -7.0])
@pytest.mark.parametrize("name", ["score", *SAFETY])
def test_a_number_that_is_none_is_a_hole_and_promotes_nobody(name: str, value: float | None):
    candidate = scores(0.1)
    candidate[7][name] = value
    result, reason = decide(compare(candidate, scores(), 120), Rules())
    assert (result, "119 of 120" in reason) == ("refused", True)
    assert decision(candidate, None) == "refused"
    with pytest.raises(ValueError, match=r"1 scenes \(first 0-7\)"):
        compare(scores(0.1), [*scores()[:7], candidate[7], *scores()[8:]], 120)


def test_a_scene_that_is_scored_twice_fills_no_hole():
    candidate = scores(0.1)
    assert decision([*candidate[:-1], candidate[0]], scores()) == "refused"


def test_one_log_gives_no_interval_and_promotes_nobody():
    one = [row for row in scores(0.05) if row["log_name"] == "log0"]
    before = [row for row in scores() if row["log_name"] == "log0"]
    result, reason = decide(compare(one, before, len(one)), Rules())
    assert result == "refused"
    assert "1 held-out logs give no interval" in reason


def test_different_scenes_are_not_compared():
    other = [{**row, "scene_token": row["scene_token"] + "x"} for row in scores()]
    with pytest.raises(ValueError, match="240 scenes"):
        compare(scores(), other, 120)


def test_the_error_of_a_mean_counts_logs_not_scenes():
    logs = np.repeat(np.arange(6), 20)
    values = np.repeat(np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]), 20)
    alone = grouped_error(np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]), np.arange(6))
    assert grouped_error(values, logs) == pytest.approx(alone)
    assert grouped_error(values, logs) > 4 * values.std(ddof=1) / math.sqrt(len(values))
    assert math.isnan(grouped_error(np.ones(5), np.zeros(5)))


def test_the_best_champion_is_deployed():
    assert best_champion({"a": 0.5, "b": 0.7, "c": math.nan}) == "b"
    assert best_champion({"a": math.nan}) == ""


def test_the_champion_before_is_the_last_that_was_not_rolled_back():
    def row(time: int, version: str, decision: str, champion: str) -> dict[str, Any]:
        return {"decided_us": time, "version": version, "decision": decision, "champion": champion}

    rows = [row(1, "1", "promoted", "1"), row(2, "2", "promoted", "2"), row(3, "2", "kept", "2")]
    assert champion_before(rows, "2") == "1"
    rows += [row(4, "2", "rolled back", "1"), row(5, "3", "promoted", "3")]
    assert champion_before(rows, "3") == "1"
    assert champion_before(rows[:1], "1") == ""


# ---- the asset ---------------------------------------------------------------------------------


class Client:
    """The part of MLflow's client that the gate uses."""

    def __init__(self) -> None:
        self.cards: dict[str, str] = {}
        self.metrics: dict[str, dict[str, float]] = {}
        self.aliases: dict[str, dict[str, str]] = {name: {} for name in registry.GATED}

    def get_registered_model(self, name: str) -> Any:
        return SimpleNamespace(aliases=self.aliases[name])

    def get_model_version(self, name: str, version: str) -> Any:
        return SimpleNamespace(tags={"made_by": f"{name}-{version}"}, run_id=f"{name}-{version}")

    def get_run(self, run_id: str) -> Any:
        data = SimpleNamespace(metrics=self.metrics.get(run_id, {}), tags={})
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id, experiment_id="1"), data=data)

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        name = run_id.rpartition("-")[0]
        assert (
            f"<h1>{name} " in text
            if artifact_file == cards.PAGE
            else spaced(text) == self.cards[name]
        )

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.aliases[name][alias] = version

    def update_model_version(self, name: str, version: str, description: str) -> None:
        assert description.startswith(f"# {name} ") and "## Scores" in description
        self.cards[name] = description

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        del self.aliases[name][alias]


class Line:
    """A lake with models, a test split and scores; planners plan as the test says."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        env = {"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "debug", "LATENTVLA_SHARDS": "1"}
        self.settings = Settings.from_env(env)
        self.client = Client()
        self.replanned: list[str] = []
        self.held: dict[str, list[Any]] = {}
        monkeypatch.setattr(registry, "connect", lambda settings: self.client)
        monkeypatch.setattr(registry, "scores_of_champion", self.plan_again)
        monkeypatch.setattr(registry, "word_scores", self.speak)
        monkeypatch.setattr(cards, "plans_shown", lambda *_: [])  # these worlds are empty
        self.engine = Engine(self.settings, STAGES, lambda text: None)
        tokens = [row["scene_token"] for row in scores()]
        worlds = [stored("scene_worlds", split="test", scene_token=token) for token in tokens]
        self.engine.lake.replace("scene_worlds", worlds, {"split": "test", "shard": 0})

    def plan_again(self, context: Any, client: Any, name: str, champion: str, *rest: Any) -> Any:
        self.replanned.append(name)
        return self.held[f"{name}-{champion}"] if champion else None

    def speak(self, context: Any, name: str, folder: Path, split: str, *, stored: bool) -> Any:
        return [{k: v for k, v in row.items() if k not in SAFETY} for row in self.held[folder.name]]

    def train(self, name: str, version: str, rows: list[Any], weights: str = "") -> None:
        """A finished model and its scores; weights of its own unless told otherwise."""
        made_by = f"{name}-{version}"
        folder = self.settings.models / name / made_by
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"weights_sha256": weights or made_by}))
        (folder / "summary.json").write_text(json.dumps({"parts": {}}))
        self.held[made_by] = rows
        done = stored("materialisations", asset=name, made_by=made_by, finished_us=int(version))
        self.engine.ledger.record(done)
        model = stored("models", name=name, version=made_by, mlflow_uri=f"models:/{name}/{version}")
        self.engine.lake.replace("models", [model], {"name": name, "version": made_by})
        place = {"split": "test", "shard": 0, "trajectory_id": name}
        extra = {**place, "metric_version": METRIC, "model_version": made_by}
        full = [stored("pdm_scores", **{**row, **extra}) for row in rows]
        self.engine.lake.replace("pdm_scores", full, place)

    def release(self) -> dict[str, dict[str, Any]]:
        """Run the gate as the engine does; the latest decision by planner."""
        output = STAGES["releases"].run(self.engine)
        rows = [{**row, "made_by": "r"} for row in output.rows]
        self.engine.lake.replace("releases", rows, {"name": output.groups})
        latest = sorted(rows, key=lambda row: row["decided_us"])
        return {row["name"]: row for row in latest}


def stored(table: str, **values: Any) -> dict[str, Any]:
    """A row of a table in which only the given columns say something."""
    zero = {"string": "", "bool": False}
    row = {
        column.name: zero.get(column.dtype, 0)
        if column.shape is None
        else np.zeros([max(size, 0) for size in column.shape])
        for column in TABLES[table].columns
    }
    return {**row, **values}


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(tmp_path, monkeypatch)


@pytest.mark.slow
def test_nothing_new_but_scenes_keeps_all_of_them(line: Line):
    for i, name in enumerate(registry.GATED):
        line.train(name, "1", scores(0.01 * i))
    assert {row["decision"] for row in line.release().values()} == {"promoted"}
    again = line.release()
    assert [row["decision"] for row in again.values()] == ["kept"] * len(registry.GATED)
    assert line.replanned == list(registry.GATED)  # at the first run alone
    assert line.engine.lake.read("releases").num_rows == 2 * len(registry.GATED)


def test_a_better_version_is_promoted_with_its_interval_and_the_best_is_deployed(line: Line):
    line.train("ipad", "1", scores())
    line.train("transfuser", "1", scores(0.02))
    line.release()
    assert line.client.aliases["transfuser"] == {"champion": "1", DEPLOYED: "1"}
    line.train("ipad", "2", scores(0.05))
    row = line.release()["ipad"]
    assert (row["decision"], row["champion"], row["scenes"]) == ("promoted", "2", 120)
    assert row["difference_low"] <= row["difference"] == pytest.approx(0.05)
    assert row["champion_score"] == pytest.approx(0.6)
    assert line.client.aliases["ipad"] == {"champion": "2", DEPLOYED: "2"}
    assert DEPLOYED not in line.client.aliases["transfuser"]


def test_equal_weights_are_kept_without_planning_again(line: Line):
    line.train("ipad", "1", scores(), weights="same")
    line.release()
    line.replanned.clear()
    line.train("ipad", "2", scores(), weights="same")
    row = line.release()["ipad"]
    assert (row["decision"], row["champion"], row["version"]) == ("kept", "1", "2")
    assert line.replanned == []


def test_a_roll_back_gives_the_alias_back_and_the_gate_does_not_undo_it(line: Line):
    line.train("ipad", "1", scores())
    line.release()
    line.train("ipad", "2", scores(0.05))
    line.release()
    assert roll_back(line.settings, line.client, "ipad") == ("2", "1")
    row = line.release()["ipad"]
    assert (row["decision"], row["champion"]) == ("refused", "1")
    assert "rolled back by hand" in row["reason"]
    history = line.engine.lake.rows("releases", {"name": "ipad"})
    assert [r["decision"] for r in history] == ["promoted", "promoted", "rolled back", "refused"]
    with pytest.raises(SetupError, match="no other version"):
        roll_back(line.settings, line.client, "ipad")


@pytest.mark.parametrize("name", registry.SPEAKERS)
def test_models_that_speak_in_codes_have_champions_and_are_never_deployed(line: Line, name: str):
    line.train(name, "1", scores())
    assert line.release()[name]["decision"] == "promoted"
    line.train(name, "2", scores(-0.05))
    assert line.release()[name]["decision"] == "refused"
    line.train(name, "3", scores(0.05))
    row = line.release()[name]
    assert (row["decision"], row["champion"], row["scenes"]) == ("promoted", "3", 120)
    assert row["metric_version"] == registry.metric_of(name)
    assert line.client.aliases[name] == {"champion": "3"}
    assert roll_back(line.settings, line.client, name) == ("3", "1")


def test_a_model_that_is_too_slow_becomes_no_champion_even_if_it_is_the_first(line: Line):
    line.engine.recipe = replace(line.engine.recipe, latency_budget_ms=100.0)
    line.train("ipad", "1", scores())
    assert "was not measured" in line.release()["ipad"]["reason"]
    line.client.metrics["ipad-1"] = {MEDIAN: 140.0}
    row = line.release()["ipad"]
    assert (row["decision"], row["champion"]) == ("refused", "")
    assert "140 ms a scene; the budget is 100 ms" in row["reason"]
    line.client.metrics["ipad-1"] = {MEDIAN: 99.0}
    assert line.release()["ipad"]["decision"] == "promoted"


def test_a_planner_without_a_model_is_refused_and_holds_no_alias(line: Line):
    row = line.release()["ipad"]
    assert (row["decision"], row["champion"], row["version"]) == ("refused", "", "")
    assert line.client.aliases["ipad"] == {}


def test_decisions_of_the_first_schema_are_kept(line: Line, monkeypatch: pytest.MonkeyPatch):
    later = ("decided_us", "scenes", "difference", "difference_low", "difference_high")
    now = TABLES["releases"]
    first = replace(
        now,
        columns=tuple(column for column in now.columns if column.name not in later),
        key=("name", "version", "split"),
    )
    with monkeypatch.context() as patch:
        patch.setitem(TABLES, "releases", first)
        row = stored("releases", name="ipad", version="1", decision="promoted", champion="1")
        line.engine.lake.replace("releases", [row], {"name": "ipad"})
    line.train("ipad", "1", scores())
    line.client.aliases["ipad"]["champion"] = "1"
    assert line.release()["ipad"]["decision"] == "kept"
    history = line.engine.lake.rows("releases", {"name": "ipad"})
    assert [row["decision"] for row in history] == ["promoted", "kept"]
    assert [row["scenes"] for row in history] == [0, 120]


def test_a_champion_that_this_code_cannot_load_stops_no_line_and_is_not_replaced(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    line.train("ipad", "1", scores())
    line.release()
    line.train("ipad", "2", scores(0.05))

    def fail(*args: Any) -> Any:
        raise SetupError("weights of another version of the code")

    monkeypatch.setattr(registry, "scores_of_champion", fail)
    row = line.release()["ipad"]
    assert (row["decision"], row["champion"]) == ("refused", "1")
    assert "weights of another version" in row["reason"]
    assert "latentvla rollback ipad --to 2" in row["reason"]


# ---- at the wheel ------------------------------------------------------------------------------


def drives(cls: float, ds: float, scenes: int = 12, spread: float = 0.0) -> list[Any]:
    """Scored drives of one version over whole runs and over their first seconds, which say nothing
    here.
    """
    return [
        {
            "scene": f"bend-{i}",
            "traffic": traffic,
            "seed": i,
            "prefix_s": seconds,
            "cls": cls + spread * (i % 2 - 0.5) if seconds == 20.0 else 1.0,
            "ds": ds if seconds == 20.0 else 100.0,
            "ncap": math.nan,
        }
        for i in range(scenes)
        for traffic in ("reactive", "log")
        for seconds in (4.0, 20.0)
    ]


GATE = ClosedLoopGate(required=True)
DRIVEN_SCORES = wheel.driven_scores


def test_what_drives_worse_is_refused_and_what_drives_as_well_is_not():
    before = drives(0.7, 60.0)
    assert wheel.refusal(drives(0.7, 60.0), before, GATE, "") == ""
    assert wheel.refusal(drives(0.69, 59.0), before, GATE, "") == ""  # within the tolerance
    assert wheel.refusal(drives(0.9, 80.0), before, GATE, "") == ""
    assert "CLS 0.600 after 0.700" in wheel.refusal(drives(0.6, 60.0), before, GATE, "")
    assert "DS 55.0 after 60.0" in wheel.refusal(drives(0.7, 55.0), before, GATE, "")
    strict = ClosedLoopGate(required=True, scores=("cls",), tolerance=0.0)
    assert "CLS" in wheel.refusal(drives(0.69, 90.0), before, strict, "")


def test_drives_are_compared_scene_by_scene():
    """Scenes differ much more than versions do: the pair shows the fall exactly."""
    before = drives(0.5, 50.0, spread=0.8)
    fall = wheel.compare_drives(drives(0.4, 50.0, spread=0.8), before, ("cls",))[0]
    assert fall.difference.low == pytest.approx(fall.difference.high) == pytest.approx(-0.1)
    assert fall.difference.groups == 12  # traffic of one scene is no second scene


def test_drives_of_other_scenes_are_not_compared_and_a_score_nobody_has_says_nothing():
    with pytest.raises(ValueError, match="do not match, first"):
        wheel.compare_drives(drives(0.5, 50.0, scenes=11), drives(0.5, 50.0), ("cls",))
    with pytest.raises(ValueError, match="0 and 48 runs|0 and 24 runs|drove 0"):
        wheel.compare_drives([], drives(0.5, 50.0), ("cls",))
    assert wheel.compare_drives(drives(0.5, 1.0), drives(0.5, 1.0), ("ncap",)) == []


@pytest.fixture
def driven(line: Line, monkeypatch: pytest.MonkeyPatch) -> tuple[Line, dict[str, list[Any]]]:
    """A line whose gate asks for closed loop; version 2 plans better, and drives as the test says."""
    at_the_wheel: dict[str, list[Any]] = {"ipad-1": drives(0.7, 60.0)}
    monkeypatch.setattr(
        wheel, "driven_scores", lambda context, seat: at_the_wheel[seat.model_version]
    )
    line.engine.recipe = replace(line.engine.recipe, closed_loop_gate=GATE)
    line.train("ipad", "1", scores())
    line.release()
    line.train("ipad", "2", scores(0.05))
    return line, at_the_wheel


def test_higher_plans_and_a_falling_closed_loop_are_refused_naming_both(driven: Any):
    line, at_the_wheel = driven
    at_the_wheel["ipad-2"] = drives(0.6, 52.0)
    row = line.release()["ipad"]
    assert (row["decision"], row["champion"]) == ("refused", "1")
    assert "pdms 0.6500 after 0.6000" in row["reason"]
    assert "CLS 0.600 after 0.700 (-0.100" in row["reason"]
    assert "DS 52.0 after 60.0 (-8.0" in row["reason"]
    assert line.client.aliases["ipad"]["champion"] == "1"


def test_higher_plans_that_drive_no_worse_are_promoted(driven: Any):
    line, at_the_wheel = driven
    at_the_wheel["ipad-2"] = drives(0.71, 60.0)
    row = line.release()["ipad"]
    assert (row["decision"], row["champion"]) == ("promoted", "2")


def test_who_cannot_be_driven_is_not_promoted_and_the_reason_says_what_to_do(
    driven: Any, monkeypatch: pytest.MonkeyPatch
):
    line, _ = driven
    monkeypatch.setattr(wheel, "driven_scores", DRIVEN_SCORES)
    row = line.release()["ipad"]
    assert (row["decision"], row["champion"]) == ("refused", "1")
    assert "materialise asset closed_loop_scenes" in row["reason"]


def test_without_the_rule_nobody_drives(line: Line, monkeypatch: pytest.MonkeyPatch):
    def drive(*_: Any) -> Any:
        raise AssertionError("nobody asked for it")

    monkeypatch.setattr(wheel, "driven_scores", drive)
    line.train("ipad", "1", scores())
    line.release()
    line.train("ipad", "2", scores(0.05))
    assert line.release()["ipad"]["decision"] == "promoted"
