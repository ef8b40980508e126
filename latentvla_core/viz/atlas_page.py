"""The code atlas as one page: an overview of all codes, then a card per code that says what it does
and shows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from latentvla_core.latent.atlas import HEADING_EDGES_RAD, SPEED_EDGES_MPS, Entry, Spread
from latentvla_core.types import Array
from latentvla_core.viz import svg
from latentvla_core.viz.html import cells, page, picture, table


@dataclass(frozen=True, slots=True)
class Example:
    """A transition to show: its two pictures as JPEG, and what the poses say."""

    before: bytes
    after: bytes
    log_name: str
    speed_mps: float
    delta_speed_mps: float
    delta_heading_rad: float


@dataclass(frozen=True, slots=True)
class Atlas:
    """Everything the page shows."""

    model_version: str
    judged_on: str
    """A sentence: how many transitions of which splits."""
    entries: Sequence[Entry]
    everything: tuple[Spread, Spread]
    """Δspeed and Δheading of all transitions, each counted once."""
    told: Array
    """(N, 3) share of the variance that each position's code explains: of speed, Δspeed and
    Δheading.
    """
    examples: Mapping[int, Sequence[Example]]
    gap_s: float


def atlas_page(atlas: Atlas) -> str:
    """(HTML) the page."""
    parts = [_head(atlas), _map(atlas), _index(atlas), _positions(atlas), "<h2>Code by code</h2>"]
    return page(
        f"Atlas of latent actions {atlas.model_version}",
        [*parts, *(_card(atlas, e) for e in atlas.entries)],
    )


def _head(atlas: Atlas) -> str:
    return (
        f"<h1>Code atlas</h1><p class=soft>model <code>{escape(atlas.model_version)}</code><br>{escape(atlas.judged_on)}</p>"
        f"<p>What goes with each of the {len(atlas.entries)} ego codes over a transition of {atlas.gap_s:g} s. Nobody named these codes:"
        " they are what the inverse model found useful to tell. <b>Names are derived</b> by rule from medians, uses that stand"
        " still counted apart; where the spread is wide, a name says little. "
        "A transition carries one code per position, so a code is judged in company.</p>"
    )


def _map(atlas: Atlas) -> str:
    """All codes in the plane of mean Δheading (left is left) and speed at the start; area = share."""
    known = [
        e
        for e in atlas.entries
        if math.isfinite(e.speed_p50_mps + e.heading_change.mean) and e.uses
    ]
    if not known:
        return ""
    width, height, pad = 620.0, 330.0, 34.0
    reach_x = max([abs(e.heading_change.mean) for e in known] + [0.02]) * 1.15
    reach_y = max([e.speed_p50_mps for e in known] + [1.0]) * 1.1
    middle, ground = width / 2, height - pad

    def place(entry: Entry) -> tuple[float, float]:
        x = middle - entry.heading_change.mean / reach_x * (width / 2 - pad)
        return x, ground - entry.speed_p50_mps / reach_y * (height - 2 * pad)

    parts = [
        svg.line((pad, ground), (width - pad, ground), svg.GREY),
        svg.line((middle, pad), (middle, height - pad), svg.GREY),
    ]
    parts += [
        svg.text(
            pad, ground + 16, f"turns left {math.degrees(reach_x):.0f}°", anchor="start", size=11
        ),
        svg.text(
            width - pad,
            ground + 16,
            f"turns right {math.degrees(reach_x):.0f}°",
            anchor="end",
            size=11,
        ),
        svg.text(middle + 6, pad - 6, f"{reach_y:.0f} m/s", anchor="start", size=11),
        svg.text(middle + 6, ground + 16, "begins standing", anchor="start", size=11),
    ]
    ordered = sorted(known, key=lambda e: -e.share)
    places = [place(entry) for entry in ordered]
    parts += [_bubble(*each) for each in zip(ordered, places, apart(places), strict=True)]
    drawn = svg.svg(width, height, parts, "codes by mean change of heading and speed at the start")
    head = "<h2>All codes by speed and turn</h2><p class=soft>Mean change of heading, median speed at the start; area = share.</p>"
    return f"<div class=card>{head}{drawn}</div>"


def apart(points: Sequence[svg.Point], least: float = 17.0, rounds: int = 200) -> list[svg.Point]:
    """Places for numbers: the points, those nearer than `least` to each other pushed apart until
    each can be read.
    """
    places = np.array(points, float)
    places += 1e-3 * np.stack(
        [np.cos(np.arange(len(places))), np.sin(np.arange(len(places)))], axis=-1
    )  # no two are equal
    for _ in range(rounds):
        way = places[:, None] - places[None]
        distance = np.linalg.norm(way, axis=-1) + np.eye(len(places)) * 1e9
        push = np.maximum(1.05 * least - distance, 0.0) / 2
        if not push.any():
            break
        places += (way / distance[..., None] * push[..., None]).sum(axis=1) / 2
    return [(float(x), float(y)) for x, y in places]


def _bubble(entry: Entry, centre: svg.Point, label: svg.Point) -> str:
    fill = f"fill='{svg.SHADES[1]}' fill-opacity='.32' stroke='{svg.SHADES[0]}'"
    circle = f"<circle cx='{centre[0]:.1f}' cy='{centre[1]:.1f}' r='{6 + 30 * math.sqrt(entry.share):.1f}' {fill}>"
    title = f"<title>{entry.code}: {escape(entry.name)}</title>"
    number = svg.text(label[0], label[1] + 4, str(entry.code), size=12)
    leader = svg.line(centre, label, svg.GREY) if math.dist(centre, label) > 6 else ""
    return f"<a href='#code-{entry.code}'>{circle}{title}</circle>{leader}{number}</a>"


def _index(atlas: Atlas) -> str:
    equal = 1 / len(atlas.entries)
    scale = max(equal, *(e.share for e in atlas.entries))
    rows = [
        cells(
            f"<a href='#code-{e.code}'><b>{e.code}</b></a>",
            f"<a href='#code-{e.code}'>{escape(e.name)}</a>",
            svg.marked_bar(e.share, equal, math.nan, svg.SHADES[1], 110, scale=scale),
            f"{e.share:.1%}",
            _signed(e.speed_change.p50, "m/s", 2),
            _degrees(e.heading_change.p50),
            _plain(e.speed_p50_mps, "m/s"),
        )
        for e in atlas.entries
    ]
    header = (
        "code",
        "name (derived)",
        "share; tick: equal use",
        "",
        "median Δspeed",
        "median Δheading",
        "begins at",
    )
    return f"<h2>Overview</h2><div class=card>{table(header, rows)}</div>"


def _positions(atlas: Atlas) -> str:
    """What each position of a transition tells, and where each code stands."""
    names = [f"position {p + 1}" for p in range(len(atlas.told))]
    rows = [
        cells(name, *map(_share, shares)) for name, shares in zip(names, atlas.told, strict=True)
    ]
    told = table(("", "of speed", "of Δspeed", "of Δheading"), rows)
    shares = np.stack([e.by_position for e in atlas.entries])  # (K, N)
    body = [
        cells(n, *(_shade(v) for v in column)) for n, column in zip(names, shares.T, strict=True)
    ]
    where = table(("", *(str(e.code) for e in atlas.entries)), body)
    left = "<h3>How much the code at each position tells</h3><p class=soft>Share of the variance explained by it alone.</p>"
    right = (
        "<h3>Which codes stand where</h3><p class=soft>Share among the codes of the position.</p>"
    )
    cards = f"<div class=card>{left}{told}</div><div class=card>{right}{where}</div>"
    return f"<h2>Positions</h2><div class=row>{cards}</div>"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{svg.share_bar(value, 90)} {value:.0%}"


def _shade(value: float) -> str:
    """A share on a ground that darkens with it. Ground and ink are fixed together, so that the
    number can be read in light and in dark.
    """
    depth = min(value * 3, 0.9)
    ground = [round(255 + depth * (part - 255)) for part in (31, 78, 156)]
    ink = "#fff" if depth > 0.8 else "#000"
    colour = f"rgb({ground[0]},{ground[1]},{ground[2]})"
    return f"<span class=shade style='background:{colour};color:{ink}'>{value:.0%}</span>"


def _card(atlas: Atlas, entry: Entry) -> str:
    """Everything about one code."""
    title = f"<h3 id='code-{entry.code}'>Code {entry.code} — {escape(entry.name)} <small>(derived)</small></h3>"
    positions = ", ".join(f"{v:.0%}" for v in entry.by_position)
    facts = (
        f"<p class=soft>{entry.share:.1%} of all codes, {entry.uses:,} uses ({positions} of positions"
        f" 1–{len(entry.by_position)}); begins at {_plain(entry.speed_p50_mps, 'm/s')}</p>"
    )
    told = f"<div>{_contexts(entry)}{_by_position(entry)}{_neighbours(atlas, entry)}</div>"
    strip = "".join(_example(e) for e in atlas.examples.get(entry.code, ()))
    head = "<p><b>Examples</b> <small>before, after; clear cases of different logs</small></p>"
    shown = f"{head}<div class=row>{strip}</div>" if strip else ""
    return f"<div class=card>{title}{facts}<div class=row>{_charts(atlas, entry)}{told}</div>{shown}</div>"


def _charts(atlas: Atlas, entry: Entry) -> str:
    """Both distributions in front of those of all transitions; headings mirrored, so that left is
    on the left.
    """
    (all_speeds, all_headings), speed, heading = (
        atlas.everything,
        entry.speed_change,
        entry.heading_change,
    )
    degrees = np.degrees(HEADING_EDGES_RAD).tolist()
    speeds = svg.histogram(
        speed.counts.tolist(), all_speeds.counts.tolist(), SPEED_EDGES_MPS.tolist(), "m/s"
    )
    headings = svg.histogram(
        heading.counts[::-1].tolist(), all_headings.counts[::-1].tolist(), degrees, "°"
    )
    first = f"<b>Δspeed</b> {_signed(speed.p50, 'm/s', 2)} <small>({_span(speed, 1.0, 2)})</small>"
    second = f"<b>Δheading</b> {_degrees(heading.p50)} <small>({_span(heading, -math.degrees(1), 1)}, right positive)</small>"
    return f"<div>{first}<br>{speeds}</div><div>{second}<br>{headings}<br><small>left of the line: turns left</small></div>"


def _contexts(entry: Entry) -> str:
    if not entry.contexts:
        return "<p><b>Typical contexts</b><br><span class=soft>none stands out</span></p>"
    lines = "<br>".join(
        f"{escape(n)}: {there:.0%} <small>(overall {overall:.0%})</small>"
        for n, there, overall in entry.contexts
    )
    return f"<p><b>Typical contexts</b><br>{lines}</p>"


def _by_position(entry: Entry) -> str:
    """The mean change when the code stands at each position: one codebook, but positions may use it
    differently.
    """
    pairs = zip(entry.by_position_speed_mps, entry.by_position_heading_rad, strict=True)
    told = " · ".join(f"{_signed(s, '', 1)}, {_degrees(h)}" for s, h in pairs)
    return f"<p><b>Mean by position</b> <small>Δspeed in m/s, Δheading</small><br>{told}</p>"


def _neighbours(atlas: Atlas, entry: Entry) -> str:
    names = {e.code: e.name for e in atlas.entries}
    lines = "<br>".join(
        f"<a href='#code-{c}'>{c}</a> {escape(names[c])} <small>(distance {d:.2f})</small>"
        for c, d in entry.neighbours[:3]
    )
    return f"<p><b>Nearest in the codebook</b><br>{lines}</p>"


def _example(example: Example) -> str:
    pair = picture(example.before, "before") + picture(example.after, "after")
    end = example.speed_mps + example.delta_speed_mps
    speeds = f"{example.speed_mps:.1f} → {end:.1f} m/s" if math.isfinite(end) else "speed unknown"
    told = f"{speeds}, {_degrees(example.delta_heading_rad)} · {escape(example.log_name[:40])}"
    return f"<figure><div class=pair>{pair}</div><figcaption>{told}</figcaption></figure>"


def _signed(value: float, unit: str, digits: int) -> str:
    return (
        "–" if math.isnan(value) else f"{round(value, digits) + 0.0:+.{digits}f} {unit}".strip()
    )  # never -0.00


def _plain(value: float, unit: str) -> str:
    return "–" if math.isnan(value) else f"{value:.1f} {unit}"


def _degrees(value_rad: float) -> str:
    """Left and right in words: signs of angles are a convention, sides are not."""
    if math.isnan(value_rad):
        return "–"
    degrees = math.degrees(value_rad)
    return (
        "0°" if abs(degrees) < 0.05 else f"{abs(degrees):.1f}° {'left' if degrees > 0 else 'right'}"
    )


def _span(values: Spread, factor: float, digits: int) -> str:
    ends = sorted((values.p10 * factor, values.p90 * factor))
    return (
        "unknown"
        if math.isnan(values.p10)
        else f"80 % within {ends[0]:+.{digits}f} … {ends[1]:+.{digits}f}"
    )
