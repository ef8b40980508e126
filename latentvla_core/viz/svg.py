"""Small charts as inline SVG: sharp at any zoom, a few hundred bytes, no script, values on hover."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from latentvla_core.types import Array

SHADES = ("#1f4e9c", "#4e79a7", "#76a5d8", "#b5d3ee", "#d9e6f2", "#e8eef5")
GREY, INK, GOOD, BAD, WARN = "#c9ced6", "var(--ink,#39424e)", "#2a9d4a", "#c8382e", "#d98a00"
Point = tuple[float, float]


def svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    """One picture of these elements, that screen readers call `label`."""
    inside = "".join(parts)
    role = "group" if "<a " in inside else "img"  # what can be followed is no mere picture
    head = (
        f"<svg viewBox='0 0 {width:g} {height:g}' width='{width:g}' role='{role}'"
        f" aria-label='{escape(label, True)}'>"
    )
    return f"{head}{inside}</svg>"


def text(
    x: float, y: float, content: str, *, anchor: str = "middle", size: float = 10, colour: str = INK
) -> str:
    style = f"text-anchor='{anchor}' font-size='{size:g}' fill='{colour}'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{escape(content)}</text>"


def rect(x: float, y: float, width: float, height: float, colour: str, title: str = "") -> str:
    told = f"<title>{escape(title)}</title>" if title else ""
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{max(width, 0):.1f}' height='{max(height, 0):.1f}' fill='{colour}'>{told}</rect>"


def line(a: Point, b: Point, colour: str = INK, *, dashed: bool = False, width: float = 1) -> str:
    dash = " stroke-dasharray='3 3'" if dashed else ""
    return (
        f"<line x1='{a[0]:.1f}' y1='{a[1]:.1f}' x2='{b[0]:.1f}' y2='{b[1]:.1f}' stroke='{colour}'"
        f" stroke-width='{width:g}'{dash}/>"
    )


def stacked_bars(
    layers: Sequence[Array],
    names: Sequence[str],
    *,
    layer_names: Sequence[str],
    level: float = math.nan,
) -> str:
    """Columns of stacked shares, one per name, with a dashed line at `level` where given."""
    width, height, left, bottom = 34 * len(names) + 46, 190, 40, 24
    totals = [sum(layer[i] for layer in layers) for i in range(len(names))]
    top = max([*totals, 0.0 if math.isnan(level) else level]) * 1.12 or 1.0
    scale = (height - bottom - 12) / top
    parts = [
        text(left - 6, height - bottom - v * scale + 3, f"{v:.0%}", anchor="end")
        for v in (0, top / 2, top)
    ]
    for i, name in enumerate(names):
        y = height - bottom
        for layer, colour, title in zip(layers, SHADES, layer_names, strict=False):
            y -= layer[i] * scale
            parts.append(
                rect(
                    left + 34 * i + 4,
                    y,
                    26,
                    layer[i] * scale,
                    colour,
                    f"{name}, {title}: {layer[i]:.1%}",
                )
            )
        parts.append(text(left + 34 * i + 17, height - 8, name))
    if not math.isnan(level):
        y = height - bottom - level * scale
        parts.append(line((left, y), (width, y), dashed=True))
    return svg(width, height, parts, "share of each code")


def share_bar(value: float, width: float = 150) -> str:
    """A value on a line from 0 to 1."""
    shown = 0.0 if math.isnan(value) else min(max(value, 0.0), 1.0) * width
    parts = [rect(0, 3, width, 10, "#eef1f5"), rect(0, 3, shown, 10, SHADES[1], f"{value:.4g}")]
    return svg(width, 16, parts, f"{value:.4g}")


def marked_bar(
    value: float,
    at_least: float,
    at_most: float,
    colour: str,
    width: float = 150,
    *,
    scale: float = math.nan,
) -> str:
    """A value on a line from 0 to `scale`, with its bounds as ticks; values beyond the scale end in
    an arrow.

    Without a scale the line ends half above the larger bound; bars that are to be compared need one
    scale for all.
    """
    bounds = [b for b in (at_least, at_most) if not math.isnan(b)]
    top = max([*(abs(b) * 1.5 for b in bounds), min(abs(value), 1e6) if not bounds else 0.0, 1e-9])
    top = top if math.isnan(scale) else max(scale, 1e-9)
    if math.isnan(value):
        return svg(
            width, 16, [text(width / 2, 12, "not measurable", colour=GREY)], "not measurable"
        )
    shown = min(max(value / top, 0.0), 1.0) * (width - 14)
    parts = [rect(0, 3, width - 14, 10, "#eef1f5"), rect(0, 3, shown, 10, colour, f"{value:.4g}")]
    if value > top:
        parts.append(text(width - 6, 12, "▸", size=12, colour=colour))
    parts += [
        line((b / top * (width - 14), 0), (b / top * (width - 14), 16), width=2) for b in bounds
    ]
    return svg(width, 16, parts, f"{value:.4g}")


def grouped_bars(
    groups: Mapping[str, Mapping[str, float]],
    *,
    low: float = -0.2,
    high: float = 1.0,
    levels: Sequence[float] = (),
) -> str:
    """Bars by group and series on one scale; values below the scale are cut and written out."""
    series = list(dict.fromkeys(name for values in groups.values() for name in values))
    step, left, height, bottom = 34, 40, 230, 38
    group_width = step * len(series) + 26
    width = left + group_width * len(groups) + 8
    scale = (height - bottom - 14) / (high - low)

    def y_of(value: float) -> float:
        return height - bottom - (min(max(value, low), high) - low) * scale

    parts = [
        text(left - 6, y_of(v) + 3, f"{v:g}", anchor="end")
        for v in (0.0, 0.5, 1.0)
        if low <= v <= high
    ]
    for i, (group, values) in enumerate(groups.items()):
        x = left + group_width * i + 10
        parts.append(text(x + step * len(series) / 2, height - 6, group, size=11))
        for j, name in enumerate(series):
            parts += _bar(
                values.get(name, math.nan),
                x + step * j,
                y_of,
                SHADES[j * 2 % len(SHADES)],
                name,
                low,
            )
    parts += [line((left, y_of(0)), (width, y_of(0)))]
    parts += [line((left, y_of(v)), (width, y_of(v)), WARN, dashed=True) for v in levels]
    return svg(width, height, parts, "bars by group")


def _bar(
    value: float, x: float, y_of: Callable[[float], float], colour: str, name: str, low: float
) -> list[str]:
    base = y_of(max(low, -0.2)) + 14
    label = text(x + 14, base, name[:5], size=9)
    if math.isnan(value):
        return [text(x + 14, y_of(0) - 4, "–"), label]
    top, zero = y_of(max(value, 0)), y_of(0)
    bar = rect(x, min(top, zero), 28, abs(y_of(value) - zero), colour, f"{name}: {value:.3g}")
    told = f"{value:.2f}" if abs(value) < 10 else f"{value:.0e}"
    return [bar, text(x + 14, top - 3, told, size=9), label]


def curves(
    series: Mapping[str, Sequence[Point]], title: str, *, width: float = 320, height: float = 150
) -> str:
    """Lines over steps below their names; points that are not finite are left out."""
    kept = {n: [p for p in points if math.isfinite(p[1])] for n, points in series.items()}
    points = [p for line_ in kept.values() for p in line_]
    if not points:
        return ""
    below = 11.0 * (len(kept) - 1)  # names stand one under the other, and no curve behind them
    left, right, top, bottom, height = 46.0, 8.0, 20.0 + below, 18.0, height + below
    (x0, x1), (y0, y1) = _range([p[0] for p in points]), _range([p[1] for p in points])

    def place(p: Point) -> Point:
        x = left + (p[0] - x0) / (x1 - x0) * (width - left - right)
        return x, height - bottom - (p[1] - y0) / (y1 - y0) * (height - top - bottom)

    parts = [text(left, 12, title, anchor="start", size=11)]
    parts += [
        text(left - 5, place((x0, y))[1] + 3, f"{y:.3g}", anchor="end", size=9) for y in (y0, y1)
    ]
    ends = ((x0, "middle"), (x1, "end"))  # a centred last step would leave the picture
    parts += [
        text(place((x, y0))[0], height - 5, f"{x:g}", anchor=anchor, size=9) for x, anchor in ends
    ]
    parts.append(line(place((x0, y0)), place((x1, y0)), GREY))
    for (name, line_), colour in zip(
        kept.items(), (SHADES[0], BAD, GOOD, WARN, SHADES[2], INK), strict=False
    ):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, line_))
        parts.append(
            f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.5'/>"
        )
        parts.append(
            text(
                width - right,
                12 + 11 * list(kept).index(name),
                name,
                anchor="end",
                size=9,
                colour=colour,
            )
        )
    return svg(width, height, parts, title)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def histogram(
    counts: Sequence[float],
    behind: Sequence[float],
    edges: Sequence[float],
    unit: str,
    width: float = 250,
) -> str:
    """Shares per bin in front of the shares of everything (outline); a line at zero."""
    height, bottom, total = 104, 18, sum(counts) or 1.0
    front, back = [c / total for c in counts], [b / (sum(behind) or 1.0) for b in behind]
    top, step = max([*front, *back, 1e-9]), width / len(front)
    scale = (height - bottom - 6) / top
    parts = [
        rect(
            i * step, height - bottom - b * scale, step - 0.5, b * scale, "#e3e7ec", f"all: {b:.1%}"
        )
        for i, b in enumerate(back)
    ]
    for i, f in enumerate(front):
        where = f"{edges[i]:+.2f} … {edges[i + 1]:+.2f} {unit}: {f:.1%}"
        parts.append(
            rect(i * step + 1, height - bottom - f * scale, step - 2.5, f * scale, SHADES[1], where)
        )
    zero = (0 - edges[0]) / (edges[-1] - edges[0]) * width
    parts.append(line((zero, 2), (zero, height - bottom), INK, dashed=True))
    parts += [
        text(0, height - 4, f"{edges[0]:+.3g}", anchor="start", size=9),
        text(zero, height - 4, f"0 {unit}", size=9),
        text(width, height - 4, f"{edges[-1]:+.3g}", anchor="end", size=9),
    ]
    return svg(width, height, parts, f"distribution in {unit}")
