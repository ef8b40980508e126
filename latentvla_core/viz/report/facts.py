"""What the report tells, read from the lake: scores with intervals over logs, and who made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from latentvla_core.closed_loop.report import Line, table, whole
from latentvla_core.closed_loop.scenes.situations import DANGEROUS
from latentvla_core.lake.store import Lake
from latentvla_core.pdms.metrics import METRIC_VERSIONS, SUB_SCORES, metric_of
from latentvla_core.statistics import Interval, grouped_mean, paired_difference
from latentvla_core.viz.report.study import Rows, Study, read_study, rows_of

BASELINES = (
    "human",
    "pdm_closed",
    "stand_still",
    "constant_velocity",
    "blind",
    "ego_status_mlp",
)
SPLIT_ORDER = ("test", "val", "train")
FUSED = ("_latent", "_student")
FEW_LOGS = 30
"""With fewer, intervals over logs are too narrow."""
DRIVEN = ("cls", "ds", "success", "alpasim", "ncap")
"""Closed-loop figures that are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One planner on one split under one metric."""

    planner: str
    split: str
    metric: str
    score: Interval | None
    """None: no scene has a valid score."""
    sub: dict[str, float]
    """Mean of each sub-score by devkit name, over the scenes that have one."""
    expected: int
    scored: int
    reasons: str

    @property
    def is_whole(self) -> bool:
        """Whether every expected scene was scored: only then the mean stands for the split."""
        return self.score is not None and self.scored == self.expected


@dataclass(frozen=True, kw_only=True, slots=True)
class Versus:
    """A fused planner against its host on the same scenes."""

    split: str
    metric: str
    fused: str
    host: str
    difference: Interval


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything the page shows but pictures."""

    standings: list[Standing]
    versus: list[Versus]
    drives: dict[str, list[Line]] = field(default_factory=dict)
    """`usual` and `dangerous` → closed-loop means by driver and traffic; intervals over scenes."""
    study: Study | None = None
    """The comparisons that have their controls, where the study was run."""
    logs: dict[str, int] = field(default_factory=dict)
    """Split → number of logs."""

    @property
    def closed(self) -> dict[str, Interval]:
        """Driver → CLS of whole runs in the usual scenes with traffic that reacts."""
        lines = [line for line in self.drives.get("usual", []) if line.traffic == "reactive"]
        found = {line.driver: line.values["cls"] for line in lines}
        return {driver: value for driver, value in found.items() if value is not None}


def read_facts(lake: Lake, closed: Rows = ()) -> Facts:  # type: ignore[assignment]
    """Everything from the lake; `closed` are more rows as those of `closed_loop_scores`."""
    scores = lake.read(
        "pdm_scores",
        columns=[
            "split",
            "trajectory_id",
            "log_name",
            "metric_version",
            "score",
            "valid",
            *dict.fromkeys(name for names in SUB_SCORES.values() for name in names),
        ],
    ).to_pylist()
    summary = lake.read("pdm_summary").to_pylist()
    groups: dict[tuple[str, str, str], Rows] = {}
    for row in scores:
        key = (row["split"], row["metric_version"], row["trajectory_id"])
        groups.setdefault(key, []).append(row)
    standings = [_standing(key, rows, summary) for key, rows in groups.items()]
    logs: dict[str, set[str]] = {}
    for row in lake.read("scenes", columns=["split", "log_name"]).to_pylist():
        logs.setdefault(row["split"], set()).add(row["log_name"])
    return Facts(
        standings=sorted(standings, key=_order),
        versus=_versus(groups),
        drives=_drives([*rows_of(lake, "closed_loop_scores"), *closed]),
        study=read_study(lake),
        logs={split: len(names) for split, names in logs.items()},
    )


def _standing(key: tuple[str, str, str], rows: Rows, summary: Rows) -> Standing:
    split, metric, planner = key
    counted = [r for r in rows if r["valid"] and np.isfinite(r["score"])]
    told = next(
        (r for r in summary if (r["split"], r["metric_version"], r["trajectory_id"]) == key),
        {},
    )
    names = SUB_SCORES[metric_of(metric)]
    return Standing(
        planner=planner,
        split=split,
        metric=metric,
        score=_interval(counted) if counted else None,
        sub={name: _mean([r[name] for r in counted]) for name in names},
        expected=told.get("num_expected", len(rows)),
        scored=len(counted),
        reasons=told.get("reasons", ""),
    )


def _interval(rows: Rows) -> Interval:
    return grouped_mean(
        np.array([r["score"] for r in rows]), np.array([r["log_name"] for r in rows])
    )


def _mean(values: Sequence[float]) -> float:
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else float("nan")


def _order(standing: Standing) -> tuple[int, str, int, str, int, str]:
    """Splits apart, the held-out one first; planners by kind and name, never by score."""
    split, metric, versions = standing.split, standing.metric, list(METRIC_VERSIONS.values())
    place = SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER)
    known = versions.index(metric) if metric in versions else len(versions)
    return (place, split, known, metric, kind_of(standing.planner), standing.planner)


def kind_of(planner: str) -> int:
    """Position in the fixed order: baselines in their own order, then hosts and what is fused."""
    name = planner.split("@")[0]
    return BASELINES.index(name) if name in BASELINES else len(BASELINES)


def _versus(groups: dict[tuple[str, str, str], Rows]) -> list[Versus]:
    """Every fused planner against its host, scene by scene, where there are both."""
    found = []
    for (split, metric, planner), rows in sorted(groups.items()):
        host = next((planner.removesuffix(end) for end in FUSED if planner.endswith(end)), "")
        others = groups.get((split, metric, host))
        if not host or not others or len(others) != len(rows):
            continue
        pairs = [
            (a, b)
            for a, b in zip(rows, others, strict=True)
            if a["valid"] and b["valid"] and a["log_name"] == b["log_name"]
        ]
        if pairs:
            difference = paired_difference(
                np.array([a["score"] for a, _ in pairs]),
                np.array([b["score"] for _, b in pairs]),
                np.array([a["log_name"] for a, _ in pairs]),
            )
            found.append(
                Versus(split=split, metric=metric, fused=planner, host=host, difference=difference)
            )
    return found


def _drives(rows: Rows) -> dict[str, list[Line]]:
    """Means over whole runs, of the usual scenes and of the staged dangers. A driver that fails
    counts zero.
    """
    last = whole(rows)
    parts = {
        "usual": [row for row in last if row["situation"] not in DANGEROUS],
        "dangerous": [row for row in last if row["situation"] in DANGEROUS],
    }
    order = {
        name: sorted(part, key=lambda r: (kind_of(r["driver"]), r["driver"]))
        for name, part in parts.items()
    }
    return {name: table(part, DRIVEN) for name, part in order.items() if part}
