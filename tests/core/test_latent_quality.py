"""The gate of the latent action model: what it lets through, what it stops, what it says; and the
watch in training.
"""

from __future__ import annotations

import contextlib
import math

import pytest

from latentvla_core.latent.quality import (
    FIGURES,
    NOT_FINITE,
    Bound,
    QualityError,
    QualityGate,
    blocking,
    complaint,
    judge,
    require,
)
from latentvla_core.latent.quality_watch import Alarm, CollapsedError, QualityWatch
from latentvla_core.training.sinks import FileSink, read_curves

AXES = ("longitudinal", "lateral", "yaw")


def report(**changes: float) -> dict[str, float]:
    """A mini model as measured: fit to label, short of the design's targets."""
    healthy = {
        "transitions": 228.0,
        "ego_usage": 16.0,
        "ego_perplexity": 14.0,
        "ego_largest_share": 0.14,
        "gain_over_copy": 0.27,
        "shuffle_ego": 0.24,
        "environment_perplexity": 12.0,
        "shuffle_environment": 0.03,
        "trajectory_use": 0.37,
        "environment_use": 0.4,
        "transfer_longitudinal": 0.56,
        "transfer_yaw": 0.8,
    }
    r2 = {
        f"{kind}_r2_{axis}": value
        for kind, value in (("ego", 0.7), ("environment", -0.5))
        for axis in AXES
    }
    return healthy | r2 | changes


def stopped(gate: QualityGate, **changes: float) -> list[str]:
    return [row.name for row in blocking(judge(report(**changes), gate))]


def test_a_healthy_small_model_may_label_and_its_missed_targets_are_told():
    rows = judge(report(), QualityGate.mini())
    assert blocking(rows) == []
    assert [row.name for row in rows if not row.passed] == [
        "shuffle_environment",
        "transfer_longitudinal",
    ]


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("ego_usage", 4.0), ("ego_perplexity", 1.8), ("ego_largest_share", 0.77), ("gain_over_copy", -0.001),
        ("shuffle_ego", 0.0), ("trajectory_use", 0.0), ("environment_r2_longitudinal", 0.8), ("environment_r2_yaw", math.nan),
    ],
)  # fmt: skip
def test_each_way_to_fail_is_named_with_value_bound_reason_and_remedy(figure: str, value: float):
    assert stopped(QualityGate.mini(), **{figure: value}) == [figure]
    (line,) = [row.line() for row in blocking(judge(report(**{figure: value}), QualityGate.mini()))]
    assert figure in line
    assert f"{value:.3g}" in line
    assert "must be at" in line
    assert "Likely:" in line
    assert "Try:" in line


def test_two_steps_must_only_be_finite():
    dead = {
        "ego_usage": 1.0,
        "ego_perplexity": 1.0,
        "gain_over_copy": -3.0,
        "trajectory_use": 0.0,
        "ego_r2_yaw": math.nan,
    }
    assert stopped(QualityGate.debug(), **dead) == []
    assert stopped(QualityGate.debug(), gain_over_copy=math.nan) == [NOT_FINITE]
    assert stopped(QualityGate.debug(), ego_r2_yaw=-math.inf) == [NOT_FINITE]


def test_a_figure_that_is_missing_cannot_slip_through():
    without = {k: v for k, v in report().items() if k != "ego_usage"}
    assert [row.name for row in blocking(judge(without, QualityGate.mini()))] == ["ego_usage"]


def test_a_model_of_one_stage_is_not_asked_for_its_environment_codes():
    single = {k: v for k, v in report().items() if "environment" not in k and k != "trajectory_use"}
    assert blocking(judge(single, QualityGate.mini())) == []
    assert [
        row.name for row in blocking(judge(single | {"ego_usage": 2.0}, QualityGate.mini()))
    ] == ["ego_usage"]


def test_paper_asks_for_more_than_the_embedded_world_does():
    assert stopped(QualityGate.paper()) == [
        "gain_over_copy",
        "shuffle_environment",
        "transfer_longitudinal",
    ]
    assert stopped(QualityGate.long()) == ["transfer_longitudinal"]
    assert stopped(QualityGate.long(), transfer_longitudinal=0.9) == []
    bad = {
        "ego_r2_longitudinal": 0.5,
        "environment_use": 0.1,
        "transfer_yaw": 0.7,
        "environment_r2_yaw": 0.3,
    }
    assert set(stopped(QualityGate.long(), transfer_longitudinal=0.9, **bad)) == set(bad)
    assert QualityGate.single_gpu() == QualityGate.paper()


def test_a_model_that_predicts_no_change_is_not_asked_for_what_only_that_tells():
    plain = {k: v for k, v in report(transfer_longitudinal=0.9).items() if k != "environment_use"}
    assert blocking(judge(plain, QualityGate.long())) == []
    assert "environment_use" not in {row.name for row in judge(plain, QualityGate.long())}
    assert [
        row.name
        for row in blocking(judge(plain | {"environment_perplexity": 2.0}, QualityGate.long()))
    ] == ["environment_perplexity"]


def test_what_needs_boxes_is_never_required():
    for gate in (QualityGate.long(), QualityGate.paper()):
        assert "agent_advantage" not in {bound.name for bound in gate.required}
        assert "agent_advantage" in {bound.name for bound in gate.targets}


def test_every_bound_is_on_a_figure_with_a_cause_and_a_remedy():
    for gate in (QualityGate.debug(), QualityGate.mini(), QualityGate.long(), QualityGate.paper()):
        for bound in (*gate.required, *gate.targets):
            assert FIGURES[bound.name].cause
            assert FIGURES[bound.name].remedy


def test_require_names_every_bound_missed():
    require(report(), QualityGate.mini())
    bad = report(ego_usage=9, environment_r2_yaw=0.6, ego_r2_yaw=math.nan)
    with pytest.raises(QualityError, match="ego_usage is 9.*\n.*environment_r2_yaw is 0.6"):
        require(bad, QualityGate.mini())


def test_bounds_hold_on_their_side_and_never_for_nan():
    assert Bound("x", at_least=1).holds(1)
    assert not Bound("x", at_most=1).holds(1.1)
    assert not Bound("x", at_least=-math.inf).holds(math.nan)


def test_one_message_for_all_that_is_wrong():
    lines = [
        row.line()
        for row in blocking(judge(report(ego_usage=3, gain_over_copy=-1), QualityGate.mini()))
    ]
    told = complaint("abc", lines, "reports/abc.html")
    for part in (
        "abc must not label",
        "2 required",
        "ego_usage is 3, must be at least 10",
        "reports/abc.html",
        "latent_gate",
    ):
        assert part in told


def lines(key: str, values: list[float]) -> list[dict[str, float]]:
    stage = key.partition("/")[0]
    return [{key: v, f"{stage}/progress": (i + 1) / len(values)} for i, v in enumerate(values)]


def watch(rows: list[dict[str, float]]) -> int:
    """Lines until it raises; all of them if it does not."""
    guard, seen = QualityWatch(), 0
    with contextlib.suppress(CollapsedError):
        for row in rows:
            seen += 1
            guard.log(seen, row)
    return seen


def test_what_stops_a_training_says_why_and_what_to_try():
    guard = QualityWatch(alarms=(Alarm("stage2/ego_usage", 3.0, "ego_usage", patience=1),))
    with pytest.raises(
        CollapsedError,
        match=r"step 40: stage2/ego_usage is 1.*Likely: dead codes.*Try: lower ego\.decay",
    ):
        guard.log(40, {"stage2/ego_usage": 1.0, "stage2/progress": 0.5})


def test_a_collapsed_codebook_is_seen_in_training():
    assert watch(lines("stage2/ego_perplexity", [9.0, 5.0] + [1.2] * 18)) == 5
    assert watch(lines("stage2/ego_usage", [16.0] * 10 + [2.0] * 10)) == 13
    assert (
        watch(lines("stage2/ego_perplexity", [1.0] * 3 + [9.0] * 17)) == 20
    )  # before it has settled
    assert (
        watch(lines("stage2/ego_perplexity", [9.0, 9.0, 9.0, 1.0, 1.0, 9.0, 1.0, 1.0] + [9.0] * 8))
        == 16
    )


def test_a_trajectory_that_stays_unused_on_held_out_logs_is_seen_in_training():
    never, slowly = [0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.001, 0.002, 0.03, 0.1]
    assert watch(lines("stage1/quality/trajectory_use", never)) == 4
    assert watch(lines("stage1/quality/trajectory_use", slowly)) == 5
    assert (
        watch(lines("stage1/quality/trajectory_use", never[:3])) == 3
    )  # stopped before stage 2, by its last line


def test_a_diverging_forward_model_is_seen_as_measured_at_a_hundredfold_rate():
    measured = [-0.59, -1.23, -0.35, -0.11, -0.04, -0.02, 0, 0, 0, 0, 0, 0, 0, 0, 0.01]
    assert watch(lines("stage1/gain", measured)) == 5
    assert watch(lines("stage1/gain", [0.02, 0.07, 0.11, 0.14, 0.18, 0.18, 0.23, 0.25])) == 8


def test_a_long_run_is_not_watched_by_its_share_alone():
    assert watch(lines("stage2/ego_perplexity", [1.0] * 2000)) == 22


def test_what_was_logged_before_the_checkpoint_counts():
    used, progress = "stage1/quality/trajectory_use", "stage1/progress"

    def after(*values: float) -> QualityWatch:
        steps = range(6, 6 + len(values))
        return QualityWatch(
            before={
                used: list(zip(steps, values, strict=True)),
                progress: [(s, s / 10) for s in steps],
            }
        )

    bad = {used: 0.0, progress: 0.9}
    with pytest.raises(CollapsedError, match=f"step 9: {used} is 0"):
        after(0.1, 0.0).log(9, bad)
    for quiet in (after(), after(0.0, 0.1)):
        quiet.log(9, bad)
    settled = QualityWatch(
        before={used: [(4, 0.0)], progress: [(4, 0.4)]}
    )  # before half of the stage nothing counts
    settled.log(9, bad)


def test_curves_are_kept_beside_the_model_and_a_resumed_step_counts_once(tmp_path):
    sink = FileSink(tmp_path / "curves.jsonl")
    sink.log(1, {"loss": 3.0})
    sink.log(2, {"loss": 2.0, "gain": 0.1})
    sink.log(2, {"loss": 1.5})
    assert read_curves(tmp_path / "curves.jsonl") == {
        "loss": [(1, 3.0), (2, 1.5)],
        "gain": [(2, 0.1)],
    }
    assert read_curves(tmp_path / "curves.jsonl", until=1) == {"loss": [(1, 3.0)]}
    assert read_curves(tmp_path / "absent") == {}


def test_a_line_cut_off_by_a_kill_costs_only_itself(tmp_path):
    path = tmp_path / "curves.jsonl"
    FileSink(path).log(1, {"loss": 3.0})
    with path.open("a") as file:
        file.write('\n[2, {"lo')
    FileSink(path).log(2, {"loss": 2.0})
    assert read_curves(path) == {"loss": [(1, 3.0), (2, 2.0)]}
