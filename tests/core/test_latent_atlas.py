"""The atlas: statistics of little drives whose codes are known, and words that follow from them."""

from __future__ import annotations

import base64
import math
import re
from itertools import combinations

import numpy as np
import pytest

from latentvla_core.latent.atlas import (
    HEADING_EDGES_RAD,
    SPEED_EDGES_MPS,
    Transitions,
    atlas,
    derived_name,
    examples,
    speed_bands,
    spread,
    told_by_position,
    typical,
)
from latentvla_core.latent.quality import QualityGate, judge
from latentvla_core.tables import TABLES, to_arrow
from latentvla_core.viz.atlas_page import Atlas, Example, apart, atlas_page
from latentvla_core.viz.quality_page import QualityReport, quality_page

RNG = np.random.default_rng(0)
BRAKE, LEFT, STAND, REST = 0, 1, 2, 3


def little(n: int = 400) -> Transitions:
    """Position 0 tells what happens, position 1 is noise: braking at red, turning left, standing,
    keeping on.
    """
    kind = np.arange(n) % 4
    speed = np.select([kind == STAND, kind == BRAKE], [0.0, 9.0], 6.0)
    change = np.where(kind == BRAKE, -1.6, 0.0) + np.where(kind == STAND, 0.0, 0.05) * RNG.normal(
        size=n
    )
    heading = np.where(kind == LEFT, 0.2, 0.0)
    codes = np.stack([kind, RNG.integers(0, 4, n)], axis=1)
    red = np.where(RNG.random(n) < np.where(kind == BRAKE, 0.9, 0.1), 1.0, 0.0)
    return Transitions(codes, change, heading, speed, {"red light": red} | speed_bands(speed), 1.0)


def test_position_by_position_the_atlas_says_what_a_code_does():
    entries = atlas(little(), np.eye(4))
    assert [e.code for e in entries] == [0, 1, 2, 3]
    np.testing.assert_allclose([e.share for e in entries], 0.25, atol=0.05)
    assert abs(entries[BRAKE].by_position_speed_mps[0] + 1.6) < 0.05
    assert abs(entries[LEFT].by_position_heading_rad[0] - 0.2) < 1e-6
    assert entries[BRAKE].by_position[0] == 0.25
    assert all(len(e.neighbours) == 3 and e.neighbours[0][1] > 0 for e in entries)


def test_neighbours_are_the_other_codes_the_nearest_first():
    entries = atlas(little(), np.array([[0.0], [1.0], [3.0], [7.0]]))
    assert [e.neighbours for e in entries] == [
        ((1, 1.0), (2, 3.0), (3, 7.0)),
        ((0, 1.0), (2, 2.0), (3, 6.0)),
        ((1, 2.0), (0, 3.0), (3, 4.0)),
        ((2, 4.0), (1, 6.0), (0, 7.0)),
    ]


def test_speed_at_the_start_change_of_speed_and_change_of_heading_are_not_mixed_up():
    codes, turn = np.array([[0], [0], [0], [1]]), 0.2
    speed, change, heading = np.array(
        [[6.0, 7.0, 8.0, 2.0], [-2.0, -1.0, -1.0, 0.5], [turn, turn, turn, 0.0]]
    )
    entry = atlas(Transitions(codes, change, heading, speed, {}, 1.0), np.eye(2))[0]
    assert (entry.speed_p50_mps, entry.speed_change.p50, entry.heading_change.p50) == (
        7.0,
        -1.0,
        turn,
    )
    (bin_of_turns,) = np.flatnonzero(entry.heading_change.counts)
    assert HEADING_EDGES_RAD[bin_of_turns] <= turn < HEADING_EDGES_RAD[bin_of_turns + 1]
    slower, least = np.flatnonzero(entry.speed_change.counts)
    assert SPEED_EDGES_MPS[slower] <= -2.0 < SPEED_EDGES_MPS[slower + 1]
    assert SPEED_EDGES_MPS[least] <= -1.0 < SPEED_EDGES_MPS[least + 1]
    assert (entry.heading_change.counts.max(), entry.speed_change.counts[least]) == (3, 2)


def test_each_position_is_credited_with_what_it_tells():
    told = told_by_position(little())
    assert told[0].min() > 0.95
    assert told[1].max() < 0.1


def test_names_follow_from_the_medians():
    def name(speed: float, change: float, turn: float) -> str:
        return derived_name(*(np.full(50, v) for v in (speed, change, turn)))

    assert name(9, -2.5, 0) == "brake hard from 9 m/s"
    assert name(5, -1, 0.05) == "brake from 5 m/s, slight left 3°"
    assert name(5, 0, -0.3) == "keep speed at 5 m/s, turn right 17°"
    assert name(0.1, 1.0, 0) == "accelerate from standing"
    assert name(0, 0, 0) == "stand still"
    assert name(np.nan, np.nan, np.nan) == "motion unknown"
    assert derived_name(*(np.zeros(3),) * 3) == "hardly used"
    half = np.repeat([0.0, 9.0], 50), np.repeat([0.0, -1.0], 50), np.zeros(100)
    assert derived_name(*half) == "stand still, or brake from 9 m/s"


def test_a_car_that_reverses_does_not_stand_and_one_that_stands_does_not_reverse():
    def name(speed: float, change: float) -> str:
        return derived_name(*(np.full(50, v) for v in (speed, change, 0.0)))

    assert (name(-3, 0), name(-3, 1.5), name(-0.01, 0)) == (
        "reverse at 3.0 m/s",
        "reverse at 3.0 m/s",
        "stand still",
    )
    assert (name(-0.3, -2.6), name(0.3, 2.6)) == (
        "reverse from standing",
        "accelerate hard from standing",
    )
    bands = speed_bands(np.array([-3.0, -0.01, 0.0, 2.0, np.nan]))
    np.testing.assert_array_equal(bands["standing"], [0, 1, 1, 0, np.nan])
    np.testing.assert_array_equal(bands["reversing"], [1, 0, 0, 0, np.nan])
    np.testing.assert_array_equal(sum(bands.values()), [1, 1, 1, 1, np.nan])


@pytest.mark.parametrize("gap_s", [0.5, 1.0, 2.0])
def test_words_are_about_changes_per_second_however_long_a_transition_is(gap_s: float):
    changes = np.full(50, -2.5 * gap_s), np.full(50, 0.2 * gap_s)
    name = derived_name(np.full(50, 9.0), *changes, gap_s=gap_s)
    assert name == f"brake hard from 9 m/s, turn left {np.degrees(0.2 * gap_s):.0f}°"


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([-0.2] * 20 + [0.1] * 80, ", slight left 6°"),
        ([-0.2] * 30 + [0.1] * 70, ", turn either way"),
        ([-0.2] * 80 + [0.1] * 20, ", turn right 11°"),
        ([-0.02] * 30 + [0.35] * 70, ", turn left 20°"),  # a quarter hardly turns the other way
        ([-0.02, 0.02] * 50, ""),
        ([-0.2] * 30 + [0.0] * 40 + [0.2] * 30, ", turn either way"),
    ],
)
def test_a_name_takes_a_side_unless_a_quarter_of_the_uses_turn_as_far_to_the_other(
    turns: list[float], words: str
):
    assert (
        derived_name(np.full(100, 9.0), np.zeros(100), np.array(turns))
        == f"keep speed at 9 m/s{words}"
    )


def test_contexts_are_those_that_stand_out_and_unknown_is_not_no():
    data = little()
    weights = (data.codes[:, :1] == BRAKE).sum(axis=1)
    names = [name for name, _, _ in typical(data.contexts, weights)]
    assert set(names) == {"red light", "fast, over 8 m/s"}
    unknown = np.where(np.arange(len(data)) < 390, np.nan, 1.0)
    assert typical({"seldom known": unknown}, weights) == ()


def test_tails_are_counted_and_unknown_motion_is_not_zero():
    values = np.array([np.nan, -9.0, 0.01, 9.0])
    found = spread(values, SPEED_EDGES_MPS)
    assert found.counts.sum() == 3
    assert (found.counts[0], found.counts[-1]) == (1, 1)
    assert np.isnan(spread(np.array([np.nan]), SPEED_EDGES_MPS).mean)


def test_examples_are_of_different_logs_and_clear():
    data = little()
    logs = np.array([f"log-{i % 10}" for i in range(len(data))])
    rows = examples(data, BRAKE, logs, np.ones(data.codes.shape))
    assert len(rows) == 3
    assert len({logs[r] for r in rows}) == 3
    assert all(BRAKE in data.codes[r] for r in rows)
    assert examples(data, 9, logs, np.ones(data.codes.shape)) == []


def test_examples_show_what_the_name_says_not_only_what_the_model_is_sure_of():
    n = 200
    speed = np.where(np.arange(n) < 20, 2.0, np.linspace(8.0, 10.0, n))
    confidence = np.where(np.arange(n) < 20, 1.0, 0.5)[
        :, None
    ]  # the surest uses are at another speed than most
    none = np.zeros(n)
    rows = examples(
        Transitions(np.zeros((n, 1), int), none, none, speed, {}, 1.0),
        0,
        np.arange(n).astype(str),
        confidence,
    )
    assert speed[rows].min() > 8


@pytest.mark.parametrize(("standing", "shown"), [(28, {9.0}), (40, {0.0, 9.0}), (80, {0.0})])
def test_examples_stand_or_drive_as_the_name_says(standing: int, shown: set[float]):
    speed, none = np.where(np.arange(100) < standing, 0.0, 9.0), np.zeros(100)
    name = derived_name(speed, none, none)
    assert ("stand still" in name, "9 m/s" in name) == (0.0 in shown, 9.0 in shown)
    confidence = np.where(speed == 0.0, 0.9, 0.1)[:, None]
    data = Transitions(np.zeros((100, 1), int), none, none, speed, {}, 1.0)
    assert set(speed[examples(data, 0, np.arange(100).astype(str), confidence)]) == shown


def test_rows_fit_the_table_also_when_poses_are_unknown():
    unknown = np.full(30, np.nan)
    blind = Transitions(np.zeros((30, 2), int), unknown, unknown, unknown, {}, 1.0)
    rows = [
        {**e.row(), "model_version": "m", "made_by": "x"}
        for e in [*atlas(little(), np.eye(4)), *atlas(blind, np.eye(2))]
    ]
    assert to_arrow(TABLES["latent_codes"], rows).num_rows == 6


def test_the_page_names_every_code_and_fetches_nothing():
    data = little()
    everything = (
        spread(data.delta_speed_mps, SPEED_EDGES_MPS),
        spread(data.delta_heading_rad, HEADING_EDGES_RAD),
    )
    entries = atlas(data, np.eye(4))
    html = atlas_page(
        Atlas("v1", "400 transitions", entries, everything, told_by_position(data), {}, 1.0)
    )
    for entry in entries:
        assert f"Code {entry.code} — {entry.name}" in html
    assert "(derived)" in html
    assert not any(word in html for word in ("http://", "https://", "<script", "nan"))


def test_shares_in_the_overview_are_as_long_as_they_are_large():
    codes = np.repeat([0, 1, 2, 3], [500, 250, 125, 125])[:, None]
    nothing = np.zeros(len(codes))
    entries = atlas(Transitions(codes, nothing, nothing, nothing, {}, 1.0), np.eye(4))
    everything = spread(nothing, SPEED_EDGES_MPS), spread(nothing, HEADING_EDGES_RAD)
    html = atlas_page(Atlas("v1", "", entries, everything, np.zeros((1, 3)), {}, 1.0))
    overview = html[html.index("<h2>Overview") : html.index("<h2>Positions")]
    lengths = [
        float(x) for x in re.findall(r"width='([\d.]+)' height='10.0' fill='#4e79a7'", overview)
    ]
    assert lengths == [96.0, 48.0, 24.0, 24.0]
    assert "▸" not in overview


def test_numbers_of_bubbles_that_lie_together_can_be_read():
    points = [(100.0, 100.0)] * 5 + [(103.0, 101.0), (300.0, 50.0)]
    places = apart(points)
    gaps = [math.dist(a, b) for a, b in combinations(places, 2)]
    assert min(gaps) > 15
    assert math.dist(places[-1], points[-1]) < 0.1  # who stands alone stays
    assert max(math.dist(a, b) for a, b in zip(points, places, strict=True)) < 40


def test_the_quality_page_shows_verdict_reason_and_remedy():
    rows = judge(
        {"transitions": 10.0, "ego_usage": 3.0, "ego_r2_yaw": float("nan")}, QualityGate.mini()
    )
    codes = {"ego": RNG.integers(0, 16, (10, 4)), "environment": np.zeros((10, 0), int)}
    curves = {"stage2/gain": [(1, 0.1), (2, float("nan")), (3, 0.2)]}
    html = quality_page(
        QualityReport(
            "v1",
            "mini",
            "Judged on <nothing>.",
            rows,
            codes,
            {"ego": 16, "environment": 16},
            curves,
        )
    )
    assert "must not label" in html
    assert "dead codes" in html
    assert "fsq" in html
    assert "&lt;nothing&gt;" in html
    assert not any(word in html for word in ("http://", "https://", "<script"))


def test_the_bounds_of_what_codes_know_are_drawn_whether_required_or_wanted():
    codes = {"ego": RNG.integers(0, 16, (10, 4)), "environment": np.zeros((10, 0), int)}
    for gate in (QualityGate.mini(), QualityGate.long()):
        rows = judge({"ego_r2_longitudinal": 0.8, "ego_r2_lateral": 0.5, "ego_r2_yaw": 0.5}, gate)
        html = quality_page(
            QualityReport("v1", "r", "", rows, codes, {"ego": 16, "environment": 16}, {})
        )
        bars = html[html.index("What the codes know") :].partition("</svg>")[0]
        assert bars.count("stroke-dasharray") == 2  # speed and turning


def test_the_page_shows_the_pictures_of_examples_and_what_their_poses_say():
    data = little()
    everything = (
        spread(data.delta_speed_mps, SPEED_EDGES_MPS),
        spread(data.delta_heading_rad, HEADING_EDGES_RAD),
    )
    shown = {BRAKE: [Example(b"before", b"after", "log-7", 8.0, -3.0, 0.0)]}
    html = atlas_page(
        Atlas("v1", "", atlas(data, np.eye(4)), everything, told_by_position(data), shown, 1.0)
    )
    for part in (
        base64.b64encode(b"before").decode(),
        base64.b64encode(b"after").decode(),
        "8.0 → 5.0 m/s",
        "log-7",
    ):
        assert part in html


def test_the_page_says_left_of_a_turn_to_the_left_and_right_of_one_to_the_right():
    codes, turns = np.array([0, 0, 1, 1])[:, None], np.radians([20.0, 20.0, -10.0, -10.0])
    driven = np.full(4, 5.0)
    entries = atlas(Transitions(codes, np.zeros(4), turns, driven, {}, 1.0), np.eye(2))
    everything = spread(np.zeros(4), SPEED_EDGES_MPS), spread(turns, HEADING_EDGES_RAD)
    shown = {i: [Example(b"", b"", f"log-{i}", 5.0, 0.0, turns[2 * i])] for i in range(2)}
    html = atlas_page(Atlas("v1", "", entries, everything, np.zeros((1, 3)), shown, 1.0))
    assert re.findall(r"<b>Δheading</b> ([\d.]+° \w+)", html) == ["20.0° left", "10.0° right"]
    assert re.findall(r"([\d.]+° \w+) · (log-\d)", html) == [
        ("20.0° left", "log-0"),
        ("10.0° right", "log-1"),
    ]
