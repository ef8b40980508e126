"""What many runs say: means with intervals, by driver, traffic, situation and length; pairs of
drivers scene by scene.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentvla_core.statistics import Interval, grouped_mean, paired_difference

Row = Mapping[str, Any]
SHOWN = ("cls", "cls_tlc", "ds", "success", "alpasim", "bridgesim", "ncap")


@dataclass(frozen=True, slots=True)
class Line:
    """One driver in one kind of traffic."""

    driver: str
    traffic: str
    runs: int
    crashed: int
    """Runs whose driver failed; they count zero."""
    values: dict[str, Interval | None]
    """Mean and 95 % interval over scenes; None where nothing could be scored."""


def whole(rows: Iterable[Row]) -> list[Row]:
    """The rows over T of all runs."""
    rows = list(rows)
    longest = max((r["prefix_s"] for r in rows), default=0.0)
    return [r for r in rows if r["prefix_s"] == longest]


def table(rows: Iterable[Row], names: Sequence[str] = SHOWN) -> list[Line]:
    """A line per driver and traffic, in the order in which they first stand in the rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["traffic"], row["driver"]), []).append(row)
    return [
        Line(
            driver,
            traffic,
            len(group),
            sum(not r["valid"] for r in group),
            {name: mean_of(group, name) for name in names},
        )
        for (traffic, driver), group in sorted(groups.items(), key=lambda g: g[0][0] != "reactive")
    ]


def mean_of(rows: Sequence[Row], name: str) -> Interval | None:
    """Mean over runs, interval over scenes: the runs of one scene are drawn together."""
    known = [(float(r[name]), r["scene"]) for r in rows if np.isfinite(float(r[name]))]
    if not known:
        return None
    values, scenes = zip(*known, strict=True)
    return grouped_mean(np.array(values), list(scenes))


def difference(rows: Iterable[Row], one: str, other: str, name: str, traffic: str) -> Interval:
    """Mean of `one` minus `other` over the scenes that both drove, interval over scenes."""
    by = {one: {}, other: {}}
    for r in rows:
        if r["driver"] in by and r["traffic"] == traffic:
            by[r["driver"]][r["scene"], r["seed"]] = float(r[name])
    both = [k for k in by[one] if k in by[other]]
    return paired_difference(
        np.array([by[one][k] for k in both]),
        np.array([by[other][k] for k in both]),
        [scene for scene, _ in both],
    )


def by_situation(rows: Iterable[Row], name: str = "cls") -> dict[str, dict[str, float]]:
    """Situation → driver → mean, in reactive traffic."""
    out: dict[str, dict[str, list[float]]] = {}
    for r in rows:
        if r["traffic"] == "reactive" and np.isfinite(float(r[name])):
            out.setdefault(r["situation"], {}).setdefault(r["driver"], []).append(float(r[name]))
    return {s: {d: float(np.mean(v)) for d, v in drivers.items()} for s, drivers in out.items()}


def by_length(rows: Iterable[Row], name: str = "cls") -> dict[float, dict[str, float]]:
    """Prefix s → driver → mean, in reactive traffic."""
    out: dict[float, dict[str, list[float]]] = {}
    for r in rows:
        if r["traffic"] == "reactive" and np.isfinite(float(r[name])):
            out.setdefault(r["prefix_s"], {}).setdefault(r["driver"], []).append(float(r[name]))
    return {s: {d: float(np.mean(v)) for d, v in ds.items()} for s, ds in sorted(out.items())}


def worst(rows: Iterable[Row], driver: str, count: int) -> list[Row]:
    """The runs of a driver with the lowest DS, then the lowest CLS; reactive traffic first."""
    own = [r for r in rows if r["driver"] == driver]
    return sorted(own, key=lambda r: (r["traffic"] != "reactive", r["ds"], r["cls"], r["scene"]))[
        :count
    ]


def markdown(lines: Sequence[Line], names: Sequence[str] = SHOWN) -> str:
    """The table as Markdown."""
    head = ["traffic", "driver", "runs", *names]
    text = [" | ".join(head), " | ".join(["---"] * len(head))]
    for line in lines:
        values = [_short(line.values[n]) for n in names]
        text.append(" | ".join([line.traffic, line.driver, str(line.runs), *values]))
    return "\n".join(f"| {row} |" for row in text)


def _short(value: Interval | None) -> str:
    if value is None:
        return "–"
    digits = 1 if max(abs(value.low), abs(value.high)) > 5.5 else 2
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def summary(rows: Iterable[Row], dangerous: Collection[str]) -> list[dict[str, Any]]:
    """Rows of `closed_loop_summary`: every driver and traffic over the usual scenes, the dangerous
    ones and each situation, at every length.
    """
    groups: dict[tuple[str, str, str, float], list[Row]] = {}
    for row in rows:
        whole_set = "dangerous" if row["situation"] in dangerous else "usual"
        for scenes_of in (whole_set, row["situation"]):
            key = (row["driver"], row["traffic"], scenes_of, row["prefix_s"])
            groups.setdefault(key, []).append(row)
    return [_summary_row(key, group) for key, group in sorted(groups.items())]


def _summary_row(key: tuple[str, str, str, float], group: Sequence[Row]) -> dict[str, Any]:
    nothing = Interval(np.nan, np.nan, np.nan, 0, 0)
    means = {name: mean_of(group, name) or nothing for name in SHOWN}
    ends = {f"{n}_{end}": getattr(m, end) for n, m in means.items() for end in ("low", "high")}
    return {
        **dict(zip(("driver", "traffic", "scenes_of", "prefix_s"), key, strict=True)),
        "runs": len(group),
        "scenes": len({row["scene"] for row in group}),
        "crashed": sum(not row["valid"] for row in group),
        **{name: mean.mean for name, mean in means.items()},
        **ends,
        "metric_version": group[0]["metric_version"],
        "model_version": group[0].get("model_version", ""),
    }
