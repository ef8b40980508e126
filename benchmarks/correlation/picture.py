"""The study in one picture: correlation by length of the drive, and who stands where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.correlation.checkpoints import HOSTS
from benchmarks.correlation.figures import Values, figure_of, means
from benchmarks.correlation.rows import CLOSED, OPEN, Rows
from latentvla_core.types import Array

COLOURS = {
    "imitation": "#3b6fb6", "rl": "#c8442d", "fused": "#2f8f6b", "blind": "#8a8a8a",
    "floor": "#8a8a8a",
}  # fmt: skip
SHAPES: dict[str, str] = dict(zip(HOSTS, ("o", "s", "^"), strict=True))
PLAN_S = 4.0


def draw(rows: Rows, values: Values, path: Path) -> None:
    """A PNG of three panels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12.5, 4.2), layout="constrained")
    _lengths(axes[0], rows, values)
    found = means(rows, False, 1)
    for axis, at in zip(axes[1:], (0, -1), strict=True):
        _places(axis, rows, found.open_loop["pdms"][0], found.closed_loop["ds"][0, :, at], at)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _lengths(axis: Any, rows: Rows, values: Values) -> None:
    """Spearman by length, its interval as a band."""
    styles = zip(((a, b) for a in OPEN for b in CLOSED), ("-", "-", "--", "--"), strict=True)
    for ((opened, closed), line), colour in zip(
        styles, ("#3b6fb6", "#c8442d", "#3b6fb6", "#c8442d"), strict=True
    ):
        column = values["Spearman", opened, closed]
        figures = [figure_of(column[:, t]) for t in range(column.shape[1])]
        axis.plot(
            rows.lengths_s, [f.value for f in figures], line, color=colour, marker=".",
            label=f"{opened.upper()} with {closed.upper()}",
        )  # fmt: skip
        if opened == "pdms":
            low, high = [f.low for f in figures], [f.high for f in figures]
            axis.fill_between(rows.lengths_s, low, high, color=colour, alpha=0.12, linewidth=0)
    axis.axvline(PLAN_S, color="#666666", linewidth=0.8, linestyle=":")
    axis.axhline(0.0, color="#666666", linewidth=0.8)
    axis.set(
        xlabel="length of the drive, s", ylabel="Spearman over checkpoints", ylim=(-1, 1),
        xticks=rows.lengths_s, title="does open loop order the drivers?",
    )  # fmt: skip
    axis.legend(fontsize=8, loc="lower left")


def _places(axis: Any, rows: Rows, x: Array, y: Array, at: int) -> None:
    """Every checkpoint; a line leads from a planner to what learned from the score."""
    places = {c.name: i for i, c in enumerate(rows.checkpoints)}
    for i, one in enumerate(rows.checkpoints):
        if one.kind == "rl" and one.parent in places:
            j = places[one.parent]
            axis.plot(100 * x[[j, i]], y[[j, i]], color=COLOURS["rl"], linewidth=0.8, alpha=0.6)
        axis.scatter(
            100 * x[i], y[i], s=30, color=COLOURS[one.kind], marker=SHAPES.get(one.host, "x"),
            zorder=3,
        )  # fmt: skip
        if one.is_floor:
            axis.annotate(
                one.name, (100 * x[i], y[i]), fontsize=7, xytext=(3, 3), textcoords="offset points"
            )
    axis.set(xlabel="PDMS, points", ylabel=f"DS after {rows.lengths_s[at]:g} s")
    for kind in ("imitation", "rl", "fused"):
        axis.scatter([], [], color=COLOURS[kind], label=kind)
    for host, shape in SHAPES.items():
        axis.scatter([], [], color="#444444", marker=shape, label=host)
    axis.legend(fontsize=7, loc="best")
    axis.set_title(f"drives of {rows.lengths_s[at]:g} s")
