"""Decisions of the gate and late labels are told once each."""

from __future__ import annotations

import dagster as dg
import pytest

from pipelines.nights import hooks
from pipelines.nights.messages import Message
from pipelines.nights.news import LATE_S, Waiting, decisions_since, late
from pipelines.settings import Settings


def decision(at: int, what: str, version: str, champion: str, name: str = "ipad") -> dict:
    return {
        "decided_us": at, "decision": what, "version": version, "champion": champion,
        "name": name, "reason": f"because {at}", "scenes": 7, "split": "test",
    }  # fmt: skip


def events(rows: list[dict], since_us: int = 0) -> list[str]:
    return [f"{m.event} {m.title.split()[-2]}" for m in decisions_since(rows, since_us)]


def test_every_decision_is_one_message_and_the_same_one_again_is_none():
    rows = [
        decision(1, "promoted", "1", "1"),
        decision(2, "kept", "1", "1"),
        decision(3, "refused", "2", "1"),
        decision(4, "refused", "2", "1"),
        decision(5, "promoted", "3", "3"),
        decision(6, "rolled back", "3", "1"),
    ]
    assert events(rows) == ["promoted 1", "refused 2", "promoted 3", "rolled_back rolled"]
    assert events(rows, since_us=3) == ["promoted 3", "rolled_back rolled"]
    assert events(rows, since_us=6) == []


def test_planners_do_not_hide_each_other_and_one_without_a_model_is_no_news():
    rows = [
        decision(1, "refused", "2", "1"),
        decision(2, "refused", "2", "1", name="transfuser"),
        decision(3, "refused", "", "", name="ipad_latent"),
    ]
    told = decisions_since(rows, 0)
    assert [m.title for m in told] == [
        "LatentVLA: ipad version 2 refused",
        "LatentVLA: transfuser version 2 refused",
    ]
    assert told[0].text == "because 1; champion is version 1; 7 scenes of split test"
    assert len({m.key for m in told}) == 2


STALE = [("latent_actions", "train-00"), ("frames", "train-00")]


def test_labels_are_late_after_a_day_and_that_is_said_once():
    waiting, message = late(Waiting(), STALE, now_s=0.0)
    assert message is None
    waiting, message = late(waiting, STALE, now_s=LATE_S - 1)
    assert message is None
    waiting, message = late(Waiting.read(waiting.written()), STALE, now_s=LATE_S)
    assert message is not None and message.event == "stale"
    assert "2 pieces of work are late, frames train-00 first" in message.title
    assert "stale for up to 24 h" in message.text
    waiting, message = late(waiting, STALE, now_s=2 * LATE_S)
    assert message is None, "the same work is not told again"
    waiting, message = late(waiting, [*STALE, ("logs", "")], now_s=2 * LATE_S)
    assert message is None, "what is stale since now is not late"
    waiting, message = late(waiting, [("logs", "")], now_s=3 * LATE_S)
    assert message is not None and "logs" in message.title


def test_work_that_was_done_meanwhile_starts_to_wait_anew():
    waiting, _ = late(Waiting(), STALE, now_s=0.0)
    waiting, _ = late(waiting, [], now_s=LATE_S / 2)
    _, message = late(waiting, STALE, now_s=LATE_S)
    assert message is None


@pytest.mark.parametrize("cursor", [None, "", "[1]", '{"since_s": 3, "told": ""}', "{}"])
def test_a_cursor_of_another_version_begins_anew(cursor):
    assert Waiting.read(cursor) == Waiting()


@pytest.fixture
def told(monkeypatch) -> list[Message]:
    found: list[Message] = []
    monkeypatch.setattr(hooks, "tell", lambda message: found.append(message) or [])
    return found


def tick(sensor: dg.SensorDefinition, cursor: str | None) -> str | None:
    with dg.build_sensor_context(cursor=cursor) as context:
        return sensor.evaluate_tick(context).cursor


def test_the_sensor_of_late_work_keeps_what_it_saw_in_its_cursor(tmp_path, monkeypatch, told):
    made = Settings.from_env({"LATENTVLA_HOME": str(tmp_path)})
    monkeypatch.setattr(hooks, "stale_of", lambda settings, stages: STALE)
    now_s = [1000.0]
    monkeypatch.setattr(hooks.time, "time", lambda: now_s[0])
    sensor = hooks.freshness(made)
    cursor = tick(sensor, None)
    now_s[0] += LATE_S
    cursor = tick(sensor, cursor)
    tick(sensor, cursor)
    assert [message.event for message in told] == ["stale"]


def test_nobody_waits_for_labels_before_there_is_a_model(tmp_path):
    from pipelines.stages import STAGES

    made = Settings.from_env({"LATENTVLA_HOME": str(tmp_path)})
    assert hooks.stale_of(made, STAGES) == []


def test_a_lake_that_cannot_be_read_skips_the_tick_and_says_why(tmp_path, monkeypatch, told):
    from latentvla_core.errors import SetupError

    def refuse(settings, stages):
        raise SetupError("log folders are missing")

    monkeypatch.setattr(hooks, "stale_of", refuse)
    made = Settings.from_env({"LATENTVLA_HOME": str(tmp_path)})
    with dg.build_sensor_context() as context:
        result = hooks.freshness(made).evaluate_tick(context)
    assert result.skip_message == "log folders are missing" and told == []
