"""Closed loop as PNGs, for where a page cannot be shown."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentvla_core.closed_loop.steps import Run
from latentvla_core.viz.canvas import INK, sheet
from latentvla_core.viz.drives.picture import frames

AROUND = (-20, -10, 0, 10)
"""Steps of 0.1 s around what went wrong."""


def scores_chart(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows of `closed_loop_summary` of one set and length → CLS and DS of every driver, with 95 %
    intervals; reactive traffic above log replay.
    """
    drivers = sorted({row["driver"] for row in rows}, key=lambda d: -_best(rows, d))
    kinds = [kind for kind in ("reactive", "log") if any(r["traffic"] == kind for r in rows)]
    with sheet(8.0, 1.0 + 0.28 * len(drivers) * len(kinds)) as page:
        for column, (name, most) in enumerate((("cls", 1.0), ("ds", 100.0)), 1):
            axes = page.figure.add_subplot(1, 2, column)
            for offset, kind in enumerate(kinds):
                _bars(axes, rows, drivers, kind, name, offset / (len(kinds) + 0.5))
            axes.set(xlim=(0, most), title=name.upper())
            axes.set_yticks(np.arange(len(drivers)) + 0.2, drivers if column == 1 else [])
            axes.invert_yaxis()
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(fontsize=8, frameon=False)
    return page.png


def _best(rows: Sequence[Mapping[str, Any]], driver: str) -> float:
    return max((row["cls"] for row in rows if row["driver"] == driver), default=0.0)


def _bars(
    axes: Any,
    rows: Sequence[Mapping[str, Any]],
    drivers: Sequence[str],
    kind: str,
    name: str,
    offset: float,
) -> None:
    own = {row["driver"]: row for row in rows if row["traffic"] == kind}
    known = [(place, own[d]) for place, d in enumerate(drivers) if d in own]
    at = np.array([place + offset for place, _ in known])
    mean = np.array([row[name] for _, row in known])
    low = mean - np.array([row[f"{name}_low"] for _, row in known])
    high = np.array([row[f"{name}_high"] for _, row in known]) - mean
    spread = np.maximum(np.nan_to_num([low, high]), 0.0)
    colour = "#1f4e9c" if kind == "reactive" else "#9db7dd"
    axes.barh(at, mean, 0.36, xerr=spread, color=colour, ecolor=INK, label=kind)


def drive_strip(run: Run, first: int) -> bytes:
    """The front camera around step `first` of a run, side by side, as PNG."""
    from PIL import Image

    steps = [max(0, min(run.steps, first + offset)) for offset in AROUND]
    pictures = [Image.open(io.BytesIO(jpeg)) for jpeg in frames(run, steps)]
    width, height = pictures[0].size
    strip = Image.new("RGB", (width * len(pictures), height))
    for place, picture in enumerate(pictures):
        strip.paste(picture, (place * width, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
