"""Scores of menus, situations, and what is derived from stored rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pdms_little_worlds import (
    PERSON,
    half_second_later,
    straight_plan,
    straight_road,
    with_object,
)
from planner_factory import make_record

from latentvla_core.errors import SetupError
from latentvla_core.evidence.eye import MIDDLE_TOP, principal, views
from latentvla_core.evidence.scores import score_menu
from latentvla_core.evidence.situations import situation_of
from latentvla_core.evidence.summary import (
    chain,
    difference,
    paragraph,
    positive_controls,
    table,
)
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.types import Command, ObjectClass
from latentvla_core.viz.evidence_page import evidence_page


def two_scenes():
    first = straight_road()
    return [first, half_second_later(first)]


def test_a_menu_is_scored_as_its_plans_are_alone():
    worlds = two_scenes()
    plans = np.stack([straight_plan(8.0), straight_plan(2.0), straight_plan(8.0, left_m=4.0)])
    menu = score_menu(worlds, np.stack([plans, plans]), np.array([True, True]))
    alone = score_trajectories(worlds, np.stack([plans, plans])).grid("score")
    np.testing.assert_allclose(menu.pdms, alone, atol=1e-6)


def test_epdms_pairs_a_plan_with_the_one_chosen_in_the_scene_before():
    worlds = two_scenes()
    plans = np.stack([straight_plan(8.0), straight_plan(3.0)])
    menu = score_menu(worlds, np.stack([plans, plans]), np.array([True, True]))
    for chosen in ([0, 0], [1, 0], [1, 1]):
        picked = np.array(chosen)
        alone = score_trajectories(worlds, plans[picked], metric="epdms")["score"]
        np.testing.assert_allclose(menu.epdms(picked), alone, atol=1e-6)
    steady, jumping = (menu.epdms(np.array(c))[1] for c in ([0, 0], [1, 0]))
    assert steady > jumping


def test_a_scene_that_cannot_be_scored_is_no_zero():
    broken = replace(straight_road(), valid=False, reason="no map")
    menu = score_menu([broken], straight_plan(8.0)[None, None], np.array([True]))
    assert np.isnan(menu.pdms).all()
    assert np.isnan(menu.epdms(np.array([0]))).all()


def record_of(tmp_path, speed: float, path: np.ndarray, command: Command = Command.FORWARD):
    made = make_record(tmp_path, 1, np.random.default_rng(0))
    return replace(
        made,
        ego_velocity_mps=np.array([speed, 0.0]),
        future_poses=path,
        command=int(command),
        object_boxes=np.zeros((0, 7)),
        object_classes=np.zeros(0, np.int8),
    )


@pytest.mark.parametrize(
    ("speed", "path", "situation"),
    [
        (0.1, straight_plan(3.0), "start"),
        (0.1, straight_plan(0.0), "cruise"),
        (8.0, straight_plan(8.0), "cruise"),
        (8.0, np.pad(np.linspace(3, 12, 6), (0, 2), mode="edge")[:, None] * [1, 0, 0], "stop"),
        (8.0, straight_plan(8.0) + np.linspace(0, 1, 8)[:, None] * [0, 2.0, 0.3], "bend"),
        (8.0, straight_plan(8.0) + np.linspace(0, 1, 8)[:, None] * [0, 9.0, 0.9], "turn"),
    ],
)
def test_situations_are_what_the_driver_did(tmp_path, speed, path, situation):
    assert situation_of(record_of(tmp_path, speed, path), straight_road(speed)) == situation


def test_a_walker_who_steps_onto_the_path_counts_and_one_who_stays_does_not(tmp_path):
    record = record_of(tmp_path, 8.0, straight_plan(8.0))
    at, kind = (30.0, -4.0), ObjectClass.PEDESTRIAN
    crosses = with_object(straight_road(), at, (0.0, 1.6), size=PERSON, kind=kind)
    waits = with_object(straight_road(), at, size=PERSON, kind=kind)
    assert situation_of(record, crosses) == "entering"
    assert situation_of(record, waits) == "cruise"


def test_views_are_the_whole_and_the_upper_middle_at_full_size():
    picture = np.zeros((252, 448, 3), np.uint8)
    top = round(MIDDLE_TOP * 252)
    picture[top + 3, 112 + 5] = 200
    whole, middle = views(picture)
    assert whole.shape == middle.shape == (126, 224, 3)
    assert middle[3, 5].tolist() == [200, 200, 200]
    assert whole.max() == 50


def test_principal_axes_do_not_promise_more_than_rows_can_give():
    import torch

    rows = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    _, axes, first = principal(rows, 6, seed=0)
    assert axes.shape == (10, 6)
    assert axes[:, 3:].abs().max() == 0
    assert first > 0


def rows_of(gain: dict[str, float], logs: int = 12) -> list[dict]:
    """Rows of arms that score 80 + gain, with the same hardness of each log."""
    rng = np.random.default_rng(0)
    hardness = rng.normal(size=logs) * 0.1
    return [
        {
            "variant": name,
            "seed": seed,
            "labelled": 20,
            "role": "test",
            "log_name": f"log{log}",
            "situation": ("start", "cruise")[log % 2],
            "scenes": 5 + log,
            "pdms": 0.8 + points / 100 + hardness[log],
        }
        | dict.fromkeys(("epdms", "best_pdms", "ade_m", "min_ade_m"), 0.5)
        | dict.fromkeys(("no_at_fault_collisions", "drivable_area_compliance"), 1.0)
        | dict.fromkeys(("ego_progress", "time_to_collision_within_bound", "comfort"), 1.0)
        for name, points in gain.items()
        for seed in (0, 1)
        for log in range(logs)
    ]


def test_the_chain_is_said_to_hold_only_when_it_does():
    good = rows_of({"menu": 0.0, "menu+student": 1.0, "menu+teacher": 1.5})
    held, text = chain(good, "test", 20)
    assert held
    assert text.startswith("host < student ≤ teacher holds")
    bad = rows_of({"menu": 0.0, "menu+student": -0.5, "menu+teacher": 1.5})
    held, text = chain(bad, "test", 20)
    assert not held
    assert paragraph(bad, []).startswith("host < student ≤ teacher does NOT hold")
    both = good + rows_of({"seeing": 1.0, "seeing+student": 0.5, "seeing+teacher": 2.0})
    assert paragraph(both, []).startswith(
        "host < student ≤ teacher does NOT hold for a host that sees"
    )


def test_a_failed_positive_control_is_said_before_everything_else():
    """Codes of the future that help nobody: the arms cannot say what latent actions are worth."""
    arms = {"menu": 0.0, "menu+student": 1.0, "menu+teacher": 1.5}
    useless = rows_of(arms | {"menu+oracle": 0.0})
    assert [held for held, _ in positive_controls(useless)] == [False]
    assert paragraph(useless, []).startswith("The positive control of the blind host")
    assert "FAILS" in evidence_page(useless, [])
    good = rows_of(arms | {"menu+oracle": 3.0, "seeing": 0.0, "seeing+oracle": 0.0})
    assert [held for held, _ in positive_controls(good)] == [False, True]  # failures first
    assert "a host that sees" in positive_controls(good)[0][1]
    assert positive_controls(rows_of(arms)) == []  # not run, so nothing is said of it
    assert paragraph(rows_of(arms | {"menu+oracle": 3.0}), []).startswith("host < student")


def test_differences_are_paired_and_refuse_arms_of_other_seeds():
    rows = rows_of({"menu": 0.0, "menu+teacher": 1.5})
    found = difference(rows, "menu+teacher", "menu", 20, "test")
    assert found.interval.mean == pytest.approx(1.5)
    assert found.by_seed == pytest.approx((1.5, 1.5))
    assert found.interval.groups == 12
    one = [r for r in rows if not (r["variant"] == "menu" and r["seed"] == 1)]
    assert len(difference(one, "menu+teacher", "menu", 20, "test").by_seed) == 1
    other = [r for r in rows if (r["variant"] == "menu") == (r["seed"] == 1)]
    with pytest.raises(SetupError, match="same seeds"):
        difference(other, "menu+teacher", "menu", 20, "test")


def test_the_score_where_eyes_are_needed_weighs_situations_alike():
    rows = rows_of({"menu": 0.0})
    for row in rows:
        row["pdms"] = 0.2 if row["situation"] == "start" else 0.9
    (found,) = table(rows, "test")
    assert found["eyes_pdms"] == pytest.approx(20.0)
    assert found["pdms_cruise"] == pytest.approx(90.0)
    assert 20 < found["pdms"] < 90


def test_the_page_says_first_what_did_not_hold_and_fetches_nothing():
    rows = rows_of({"menu": 0.0, "menu+student": -1.0, "menu+teacher": 1.0})
    text = evidence_page(rows, [])
    assert text.index("does NOT hold") < text.index("<table")
    held = rows_of({"menu": 0.0, "menu+student": 1.0, "menu+teacher": 1.5, "menu+oracle": 3.0})
    rows = [*rows, *rows_of({"menu+oracle": 3.0})]
    fails = [{**row, "role": "test_towns"} for row in rows]
    both = evidence_page([*held, *fails], [])  # in other towns it does not hold: before all banners
    banners = both[both.index("banner") :]
    assert banners.index("on test_towns") < banners.index("positive control")
    assert banners.index("does NOT hold") < banners.index("positive control")
    assert "http" not in text.replace("http-equiv", "")
    assert "No ranking" in text
