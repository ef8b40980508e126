"""One plan from above and what is wrong with it: where, when, with whom, in numbers on the road and
words below it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from latentvla_core.pdms.explain import Explanation, Failure, moments
from latentvla_core.pdms.metrics import METRIC_LABELS, short
from latentvla_core.pdms.state import ego_points
from latentvla_core.pdms.world import World
from latentvla_core.types import Array, ObjectClass
from latentvla_core.viz.birds_eye import OBJECT_COLOURS, ROUTE, draw_objects, draw_roads, to_picture
from latentvla_core.viz.canvas import INK, colour_of, sheet

ALARM = "#d00000"
MARGIN_M, LEAST_M = 9.0, 42.0
WRAP = 96
LABEL_SHARE = 0.055  # of the picture's height, from one label to the next


def failure_view(
    world: World, name: str, poses: Array, why: Explanation, *, alone: bool = True
) -> bytes:
    """PNG of one planner's plan (8, 3) in a scene, the ego looking up, with every failure of
    `explain` marked.

    Args:
        alone: with a title and the causes in words, for a picture that nothing is written beside.
    """
    ego = np.asarray(world.ego_state)[:3]
    path = np.concatenate([np.zeros((1, 2)), np.asarray(poses)[:, :2]])
    planned = np.stack([-path[:, 1], path[:, 0]], axis=-1)
    lines = caption(why) if alone else []
    size = (6.4, 6.5 + 0.17 * len(lines)) if alone else (5.2, 5.9)
    with sheet(*size, dpi=110) as page:
        axes = page.figure.add_subplot()
        draw_roads(axes, world, ego)
        draw_objects(axes, why.world, ego, alpha=0.45)  # where they were, also if they reacted
        _paths(axes, world, ego, planned, why, colour_of(name))
        extent, marked = _extent(ego, planned, why), list(moments(why.failures))
        for _, failure in marked:
            _mark(axes, ego, failure)
        _call_out(axes, extent, ego, marked)
        _frame(axes, extent)
        if alone:
            title = f"{name}: {METRIC_LABELS[why.metric]} {why.score:.3f}"
            axes.set_title(f"{title}\n{world.log_name}  {world.scene_token}", fontsize=8)
        axes.set_xlabel("\n".join(lines), fontsize=7.5, loc="left", linespacing=1.5, color=INK)
        _key(axes, bool(marked))
        style = {"fontsize": 6.5, "ncols": 3} if alone else {"fontsize": 7.5, "ncols": 2}
        page.figure.legend(loc="outside lower left", frameon=False, **style)
    return page.png


def caption(why: Explanation) -> list[str]:
    """One entry per failure: its number in the picture, if it has a place, then what happened."""
    numbers = {id(failure): number for number, failure in moments(why.failures)}
    lines = []
    for failure in sorted(why.failures, key=lambda f: numbers.get(id(f), len(numbers) + 1)):
        number = numbers.get(id(failure))
        mark = f"({number}) " if number else "     "
        lifted = " [forgiven: the human driver fails here too]" if failure.forgiven else ""
        lines.append(
            f"{mark}{short(failure.sub_score)} = {failure.value:.3g}: {failure.text}{lifted}"
        )
    return [
        part for line in lines for part in textwrap.wrap(line, WRAP, subsequent_indent="      ")
    ] or ["no sub-score below 1"]


def _paths(
    axes: Any, world: World, ego: Array, planned: Array, why: Explanation, colour: str
) -> None:
    center = to_picture(np.asarray(world.centerline)[:, :2], ego)
    axes.plot(
        *center.T,
        color="#9a9a9a",
        linewidth=1,
        linestyle=(0, (6, 4)),
        label="centre line of the route",
    )
    reference = world.reference_v1 if why.metric == "pdms" else world.reference_v2
    axes.plot(
        *to_picture(np.asarray(reference)[:41, :2], ego).T,
        color=INK,
        linewidth=1.2,
        linestyle=":",
        label="reference (PDM-Closed), rear axle",
    )
    axes.plot(*planned.T, "o", color=colour, markersize=3.5, zorder=4, label="plan, every 0.5 s")
    driven = to_picture(why.states[:, :2], ego)
    axes.plot(*driven.T, color=colour, linewidth=1.8, zorder=4, label="the plan as driven, 4 s")
    start = to_picture(ego_points(why.states[0])[:4], ego)
    axes.fill(*start.T, facecolor=colour, alpha=0.35, zorder=3, label="ego now")


def _key(axes: Any, failed: bool) -> None:
    """Legend entries of what is drawn many times."""
    axes.fill([], [], color=ROUTE, label="lanes of the route")
    for cls, name in ((ObjectClass.VEHICLE, "vehicle"), (ObjectClass.PEDESTRIAN, "pedestrian")):
        axes.fill([], [], color=OBJECT_COLOURS[cls], alpha=0.45, label=f"{name} now, and its way")
    if failed:
        label = "ego and what it hits, when named"
        axes.fill([], [], facecolor=(0.82, 0, 0, 0.35), edgecolor=ALARM, linewidth=1.4, label=label)


def _mark(axes: Any, ego: Array, failure: Failure) -> None:
    """What was hit or run over, the ego at that moment, and a cross at the place."""
    if len(failure.shape):
        outline = to_picture(failure.shape, ego)
        axes.fill(*outline.T, facecolor=ALARM, alpha=0.35, zorder=5)
        axes.plot(*np.vstack([outline, outline[:1]]).T, color=ALARM, linewidth=1.2, zorder=5)
    for k, box in enumerate(failure.egos):
        outline = to_picture(np.vstack([box, box[:1]]), ego)
        axes.plot(
            *outline.T, color=ALARM, linewidth=1.4, linestyle="-" if k == 0 else "--", zorder=6
        )
    if len(failure.stretch):
        axes.plot(
            *to_picture(failure.stretch, ego).T, color=ALARM, linewidth=5, alpha=0.4, zorder=3
        )
    x, y = to_picture(failure.place[None], ego)[0]
    axes.plot(x, y, "x", color=ALARM, markersize=7, markeredgewidth=1.8, zorder=7)


def _call_out(axes: Any, extent: Array, ego: Array, marked: Sequence[tuple[int, Failure]]) -> None:
    """The failures' numbers in a column at the right edge, in the order of their places: two marks
    of one place never cover each other.
    """
    places = [(n, f, to_picture(f.place[None], ego)[0]) for n, f in marked]
    places.sort(key=lambda entry: (-entry[2][1], entry[0]))
    height, free = extent[3] - extent[2], extent[3] - 0.03 * (extent[3] - extent[2])
    for left, (number, failure, (x, y)) in zip(range(len(places), 0, -1), places, strict=True):
        at = min(free, max(y, extent[2] + LABEL_SHARE * height * left))
        free = at - LABEL_SHARE * height
        axes.annotate(
            f"{number} {short(failure.sub_score)} {failure.time_s:.1f} s",
            (x, y),
            (extent[1] - 0.02 * (extent[1] - extent[0]), at),
            fontsize=7.5,
            color="white",
            ha="right",
            va="center",
            zorder=8,
            bbox={"boxstyle": "round,pad=0.25", "facecolor": ALARM, "edgecolor": "none"},
            arrowprops={"arrowstyle": "-", "color": ALARM, "linewidth": 1},
        )


def _extent(ego: Array, planned: Array, why: Explanation) -> Array:
    """(4,) x_min, x_max, y_min, y_max, metres: everything that matters, square, at least LEAST_M
    wide.
    """
    parts = [planned, to_picture(why.states[:, :2], ego)]
    parts += [to_picture(f.place[None], ego) for _, f in moments(why.failures)]
    parts += [to_picture(f.egos.reshape(-1, 2), ego) for f in why.failures]
    points = np.concatenate(parts)
    low, high = points.min(axis=0), points.max(axis=0)
    middle, half = (low + high) / 2, max(LEAST_M, (high - low).max() + 2 * MARGIN_M) / 2
    return np.array([middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half])


def _frame(axes: Any, extent: Array) -> None:
    axes.set(xlim=extent[:2], ylim=extent[2:], aspect="equal", xticks=[], yticks=[])
    x, y = extent[1] - 0.04 * (extent[1] - extent[0]), extent[2] + 0.04 * (extent[3] - extent[2])
    axes.plot([x - 10, x], [y, y], color=INK, linewidth=2, zorder=8)
    axes.text(x - 5, y + 0.6, "10 m", fontsize=7, ha="center", color=INK, zorder=8)
