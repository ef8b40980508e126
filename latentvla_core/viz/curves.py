"""What was logged while a model was trained, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from latentvla_core.viz.canvas import INK, sheet

WIDE = 3
"""Charts side by side."""


def curves_picture(series: Mapping[str, Sequence[tuple[int, float]]]) -> bytes:
    """PNG with a chart of every number over steps; empty where none was logged twice."""
    drawn = {name: points for name, points in sorted(series.items()) if len(points) > 1}
    if not drawn:
        return b""
    wide = min(WIDE, len(drawn))
    high = -(-len(drawn) // wide)
    with sheet(3.1 * wide, 2.0 * high + 0.4) as page:
        for number, (name, points) in enumerate(drawn.items(), 1):
            axes = page.figure.add_subplot(high, wide, number)
            axes.plot(*zip(*points, strict=True), color=INK, linewidth=1.2)
            axes.set_title(name, fontsize=8)
            axes.tick_params(labelsize=7)
    return page.png
