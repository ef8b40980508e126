"""From runs to rows to sentences: what is counted, what is left out, and what may be said of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latentvla_core.errors import SetupError
from latentvla_core.evidence.menu import SUB_SCORES, MenuConfig
from latentvla_core.evidence.scenes import Scenes
from latentvla_core.evidence.scores import V2_COLUMNS, MenuScores
from latentvla_core.evidence.study import Menu, living, quality_rows, rows_of, run_variant
from latentvla_core.evidence.summary import (
    FIGURES,
    Cells,
    Difference,
    by_situation,
    cells,
    chains,
    comparisons,
    difference,
    mean_of,
    needs_eyes,
    paragraph,
    positive_controls,
    present,
    table,
)
from latentvla_core.evidence.teacher import TeacherConfig
from latentvla_core.evidence.told import Quality, Sights, Told, tell
from latentvla_core.evidence.variants import COMPARISONS, VARIANTS
from latentvla_core.statistics import Interval
from latentvla_core.training.config import with_training

NONE = Told({}, {}, {})


def little_menu(scenes: Scenes, pdms: list[list[float]]) -> Menu:
    """Plans of two proposals, then blind, constant velocity and human; plan k ends k metres aside."""
    count, width = len(scenes), len(pdms[0])
    plans = np.repeat(scenes.path[:, None], width, 1)
    plans[..., 1] += np.arange(width)[None, :, None]
    grid = np.array(pdms, np.float32)
    scores = MenuScores(
        np.repeat(grid[..., None], len(SUB_SCORES), -1),
        grid,
        np.ones((count, width, len(V2_COLUMNS)), np.float32),
        np.full((count, width, width), -1, np.int8),
        np.full(count, -1),
    )
    return Menu(7, np.zeros(0, np.int64), plans, scores)


def little_scenes(*rows: tuple[str, str, str]) -> Scenes:
    """(log, role, situation) of each scene; everybody stands."""
    logs, roles, situations = (np.array(column) for column in zip(*rows, strict=True))
    count = len(rows)
    return Scenes(
        np.array([f"s{k}" for k in range(count)]),
        logs,
        roles,
        np.zeros((count, 17), np.float32),
        np.zeros((count, 8, 3), np.float32),
        np.full((count, 2), ""),
        situations,
    )


SCENES = little_scenes(
    ("a", "test", "start"),
    ("a", "test", "start"),
    ("a", "test", "turn"),
    ("b", "val", "turn"),
    ("c", "labelled", "turn"),
)
MENU = little_menu(
    SCENES,
    [[0.2, 0.8, 0.5, 0.5, 1.0], [0.4, 0.6, 0.5, 0.5, 1.0], [0.9, 0.1, 0.5, 0.5, 1.0],
     [0.3, 0.7, 0.5, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]],
)  # fmt: skip


def found(chosen: list[int], scenes: Scenes = SCENES, menu: Menu = MENU):
    return {(r["log_name"], r["situation"]): r for r in rows_of(scenes, menu, np.array(chosen))}


def test_rows_are_means_over_the_scenes_of_a_log_and_situation():
    rows = found([0, 0, 0, 0, 0])
    assert set(rows) == {("a", "start"), ("a", "turn"), ("b", "turn")}  # labelled is not judged
    start = rows["a", "start"]
    assert (start["scenes"], start["role"]) == (2, "test")
    assert start["pdms"] == pytest.approx(0.3) and start["comfort"] == pytest.approx(0.3)
    assert start["best_pdms"] == pytest.approx(0.7)
    assert start["ade_m"] == 0.0


def test_distances_are_of_the_plan_that_was_chosen_and_of_the_nearest():
    start = found([1, 1, 0, 0, 0])["a", "start"]
    assert start["ade_m"] == pytest.approx(1.0) and start["min_ade_m"] == pytest.approx(0.0)


def test_a_scene_that_cannot_be_scored_is_counted_out():
    menu = little_menu(SCENES, np.where(np.eye(5, 5), np.nan, 0.5).tolist())
    start = found([0, 0, 0, 0, 0], menu=menu)["a", "start"]
    assert start["scenes"] == 1 and start["pdms"] == pytest.approx(0.5)
    start = found([1, 0, 0, 0, 0], menu=menu)["a", "start"]
    assert start["scenes"] == 2 and start["best_pdms"] == pytest.approx(0.5)  # of those that can


@pytest.mark.parametrize(("name", "pdms"), [("best_of_menu", 0.7), ("human", 1.0), ("blind", 0.5)])
def test_floors_and_the_ceiling_need_no_training(name: str, pdms: float):
    rows = run_variant(name, SCENES, MENU, NONE, with_training(MenuConfig(), seed=3))
    start = next(r for r in rows if r["situation"] == "start")
    assert start["pdms"] == pytest.approx(pdms)
    assert (start["variant"], start["seed"], start["labelled"]) == (name, 3, 7)


def test_an_arm_whose_source_was_refused_gives_no_rows():
    told = Told({}, {}, {"teacher": "blind was as good"})
    assert run_variant("menu+teacher", SCENES, MENU, told, MenuConfig()) == []


@pytest.mark.parametrize("refused", ["teacher", "student"])
def test_an_arm_that_is_driven_with_a_refused_source_gives_no_rows_either(refused: str):
    told = Told({}, {}, {refused: "blind was as good"})
    assert run_variant("menu+swapped", SCENES, MENU, told, MenuConfig()) == []


def test_a_swapped_arm_learns_from_one_source_and_is_judged_with_the_other():
    """Wrong words in the place of right ones change the choice; the same words do not."""
    count = len(SCENES)
    right = np.where(np.arange(count)[:, None] % 2, 1.0, -1.0) * np.ones((count, 24), np.float32)
    scores = np.full((count, 5), 0.5)
    scores[:, 0], scores[:, 1] = np.arange(count) % 2, 1 - np.arange(count) % 2
    menu = replace(little_menu(SCENES, scores.tolist()), rows=np.arange(count))
    menu.plans[:, 1] += 5.0  # the scorer tells proposals apart by where they go
    few = with_training(
        MenuConfig(width=32), steps=150, weight_decay=0.0, learning_rate=1e-2, warmup_steps=15
    )

    def driven(student):
        told = Told({"teacher": right.astype(np.float32), "student": student.astype(np.float32)},
                    {}, {})  # fmt: skip
        return run_variant("menu+swapped", SCENES, menu, told, few)

    taught = run_variant("menu+teacher", SCENES, menu, Told({"teacher": right}, {}, {}), few)
    pdms = [[row["pdms"] for row in rows] for rows in (taught, driven(right), driven(-right))]
    assert pdms[0] == pdms[1]
    assert np.mean(pdms[2]) < np.mean(pdms[1])


def test_a_proposal_lives_that_is_nearest_somewhere():
    assert living(MENU, SCENES) == 1
    plans = MENU.plans.copy()
    plans[0, 0] += 9.0
    assert living(replace(MENU, plans=plans), SCENES) == 2


def test_what_teachers_know_is_a_row_each_with_the_reason_of_a_refusal():
    gain = Interval(0.1, 0.05, 0.2, 4, 2)
    one = Quality("words", 1.0, 0.9, 2.0, 0.5, 0.4, 0.3, gain=gain)
    (row,) = quality_rows(4, Told({}, {"words": one}, {"words": "no better"}))
    assert (row["seed"], row["teacher"], row["is_handed_on"]) == (4, "words", False)
    assert (row["gain"], row["gain_low"], row["gain_high"]) == (0.1, 0.05, 0.2)
    assert row["refused"] == "no better"


@pytest.mark.parametrize("role", ["unlabelled", "val"])
def test_a_study_without_scenes_to_train_or_judge_on_says_which_role(role: str):
    scenes = little_scenes(*((f"log {r}", r, "turn") for r in ("unlabelled", "val") if r != role))
    sights = Sights(*(np.zeros((1, 2), np.float32),) * 3, np.zeros((1, 12), np.int64))
    with pytest.raises(SetupError, match=f"no scene of role {role}; teachers are trained on"):
        tell(scenes, sights, TeacherConfig())


# ---- rows of runs


def row(variant: str, log: str, situation: str, pdms: float, **change):
    base = {"variant": variant, "seed": 0, "labelled": 20, "role": "test", "scenes": 1}
    base |= {"log_name": log, "situation": situation} | dict.fromkeys(FIGURES, 0.5)
    return base | {"pdms": pdms} | change


def test_cells_are_points_and_metres_stay_metres():
    rows = [row("menu", "b", "turn", 0.25, ade_m=3.0), row("menu", "a", "stop", 0.75, scenes=4)]
    part = cells(rows, "menu", 20, "test")
    assert part.keys.tolist() == ["a|stop", "b|turn"] and part.logs.tolist() == ["a", "b"]
    assert part.scenes.tolist() == [4, 1] and part.values.tolist() == [[75.0, 25.0]]
    assert cells(rows, "menu", 20, "test", "ade_m").values.tolist() == [[0.5, 3.0]]


def test_a_log_with_a_bar_in_its_name_keeps_it():
    part = cells([row("menu", "a|b", "turn", 0.5)], "menu", 20, "test")
    assert part.logs.tolist() == ["a|b"]
    assert by_situation(part) == {"turn": (50.0, 1)}


def test_an_arm_that_was_not_run_or_not_whole_is_told():
    rows = [row("menu", "a", "turn", 0.5), row("menu", "b", "turn", 0.5)]
    with pytest.raises(SetupError, match="no rows of menu with 7 labelled logs on test; run it"):
        cells(rows, "menu", 7, "test")
    with pytest.raises(SetupError, match="no rows of seeing with 20"):
        cells(rows, "seeing", 20, "test")
    uneven = [*rows, row("menu", "a", "turn", 0.5, seed=1)]
    with pytest.raises(SetupError, match=r"seeds of menu \(20, test\) have different scenes"):
        cells(uneven, "menu", 20, "test")


def test_means_weigh_scenes_and_leave_out_what_has_no_value():
    part = Cells(
        np.array(["a|turn", "b|turn", "c|turn"]),
        np.array([3, 1, 5]),
        np.array([[10.0, 50.0, np.nan]]),
        (0,),
    )
    found = mean_of(part)
    assert found.mean == pytest.approx(20.0) and (found.count, found.groups) == (4, 2)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 1.0, "holds"), (-1.0, -0.1, "against"), (-0.1, 0.1, "open"), (0.0, 1.0, "open")],
)
def test_a_difference_holds_only_with_its_whole_interval(low: float, high: float, verdict: str):
    interval = Interval((low + high) / 2, low, high, 4, 2)
    assert Difference("a", "b", "", 20, "test", interval, ()).verdict == verdict


def arms(**gains: float):
    """Arms of two seeds on four logs; an arm scores 0.5 + gain."""
    names = {name.replace("__", "+"): gain for name, gain in gains.items()}
    return [
        row(name, f"log{k}", ("start", "cruise")[k % 2], 0.5 + gain + 0.01 * k, seed=seed)
        for name, gain in names.items()
        for seed in (0, 1)
        for k in range(4)
    ]


def test_arms_that_differ_by_a_constant_differ_by_it_for_certain():
    rows = arms(menu=0.0, menu__teacher=0.03)
    found = difference(rows, "menu+teacher", "menu", 20, "test", "the teacher")
    assert found.interval.mean == pytest.approx(3.0)
    assert found.interval.low == pytest.approx(found.interval.high)
    assert found.verdict == "holds" and found.meaning == "the teacher"
    back = difference(rows, "menu", "menu+teacher", 20, "test")
    assert back.verdict == "against" and back.by_seed == pytest.approx((-3.0, -3.0))


def test_arms_on_other_logs_are_not_compared():
    rows = arms(menu=0.0) + [
        row("menu+teacher", f"other{k}", "start", 0.5, seed=seed)
        for k in range(4)
        for seed in (0, 1)
    ]
    with pytest.raises(SetupError, match="menu.teacher and menu were not run on the same seeds"):
        difference(rows, "menu+teacher", "menu", 20, "test")


def test_only_comparisons_whose_arms_were_run_are_made_smallest_set_first():
    rows = arms(menu=0.0, menu__teacher=0.01, seeing=0.02)
    rows += [r | {"labelled": 5} for r in arms(menu=0.0, menu__noise=0.0, menu__teacher=0.0)]
    made = [(d.labelled, d.a, d.b) for d in comparisons(rows, "test")]
    assert made == [
        (5, "menu+teacher", "menu"),
        (5, "menu+teacher", "menu+noise"),
        (20, "seeing", "menu"),
        (20, "menu+teacher", "menu"),
    ]
    assert len(made) < len(COMPARISONS)


def test_arms_are_listed_by_size_then_in_their_own_order():
    rows = arms(menu__teacher=0.0, menu=0.0) + [r | {"labelled": 5} for r in arms(seeing=0.0)]
    assert present(rows, "test") == [("seeing", 5), ("menu", 20), ("menu+teacher", 20)]
    order = list(VARIANTS)
    assert order.index("menu") < order.index("menu+teacher")


def test_an_arm_that_was_judged_on_one_role_only_is_left_out_of_the_others():
    rows = arms(menu=0.0, menu__teacher=0.01)
    rows += [r | {"role": "test_towns"} for r in arms(menu=0.0)]
    assert present(rows, "test_towns") == [("menu", 20)] and present(rows, "val") == []
    assert [row["variant"] for row in table(rows, "test_towns")] == ["menu"]
    assert comparisons(rows, "test_towns") == [] and len(comparisons(rows, "test")) == 1
    assert positive_controls(rows + arms(menu__oracle=0.02), "test_towns") == []


def test_a_table_has_every_figure_with_its_scenes_logs_and_seeds():
    (found,) = table(arms(menu=0.0), "test")
    assert (found["scenes"], found["logs"], found["seeds"]) == (4, 4, 2)
    assert found["pdms"] == pytest.approx(51.5) and found["ade_m"] == 0.5
    assert found["epdms"] == pytest.approx(50.0) and found["seed_spread"] == pytest.approx(0.0)
    assert found["pdms_low"] <= found["pdms"] <= found["pdms_high"]
    assert found["pdms_start"] == pytest.approx(51.0) and np.isnan(found["pdms_turn"])
    assert found["eyes_pdms"] == pytest.approx(51.0)


def test_where_nobody_needs_eyes_there_is_no_such_score():
    part = cells([row("menu", "a", "cruise", 0.5)], "menu", 20, "test")
    assert np.isnan(needs_eyes(part))


def test_spread_between_seeds_is_that_of_their_means():
    rows = [row("menu", "a", "turn", 0.4, seed=0), row("menu", "a", "turn", 0.6, seed=1)]
    assert table(rows, "test")[0]["seed_spread"] == pytest.approx(10.0)


# ---- sentences


def test_the_chain_of_a_host_is_told_for_every_size_and_failures_first():
    good = arms(menu=0.0, menu__student=0.01, menu__teacher=0.02)
    bad = [r | {"labelled": 5} for r in arms(menu=0.0, menu__student=-0.01, menu__teacher=0.02)]
    found = chains(good + bad, "test")
    assert [held for held, _ in found] == [False, True]
    assert "does NOT hold for the blind host with 5 labelled logs" in found[0][1]
    assert chains(arms(menu=0.0), "test") == []


def test_a_student_that_beats_its_teacher_breaks_the_chain():
    ((held, text),) = chains(arms(menu=0.0, menu__student=0.05, menu__teacher=0.02), "test")
    assert not held and "teacher − student -3.00" in text


def test_a_paragraph_says_what_holds_what_is_against_it_and_what_is_open():
    rng = np.random.default_rng(0)
    rows = arms(menu=0.0, menu__teacher=0.03, menu__noise=0.05)
    rows += [
        r | {"variant": "menu+shuffled", "pdms": r["pdms"] + rng.normal() * 0.2}
        for r in arms(menu=0.03)
    ]
    text = paragraph(rows, [])
    assert "Above 0 with the interval: the teacher, against the blind host (20: +3.00" in text
    assert "Below 0 with it: the teacher, against noise (20: -2.00" in text
    assert "1 of 3 comparisons are open; none of them is corrected" in text
    assert "Above 0 with the interval: nothing." in paragraph(arms(menu=0.0), [])


def test_a_paragraph_tells_what_the_teacher_knows_and_who_was_not_handed_on():
    known = {"accuracy": 0.5, "blind_accuracy": 0.25, "marginal_accuracy": 0.125, "gain": 0.75}
    rows = [
        {"teacher": "teacher", "is_handed_on": True, **known},
        {"teacher": "teacher", "is_handed_on": True, **(known | {"accuracy": 0.7})},
        {"teacher": "words", "is_handed_on": False, **known},
    ]
    text = paragraph(arms(menu=0.0), rows)
    assert "The teacher answers 0.600 of the latent actions of unseen logs right" in text
    assert "without pictures 0.250, the marginal 0.125; pictures are worth 0.7500 nats" in text
    assert text.endswith("Not handed on in every seed, since blind was as good: words.")
    assert "Not handed on" not in paragraph(arms(menu=0.0), rows[:2])
    assert "The teacher answers" not in paragraph(arms(menu=0.0), rows[2:])
