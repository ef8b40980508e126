"""One HTML page of pictures and scores, self-contained: what a demo run leaves to look at."""

from __future__ import annotations

import base64
import html
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.pdms.metrics import METRIC_LABELS, METRIC_VERSIONS, SUB_SCORES, short
from latentvla_core.types import FRONT_CAMERA
from pipelines.assets.latent_actions import sentences_of
from pipelines.engine import Engine
from pipelines.lineage import git_commit
from pipelines.pictures import (
    SHOWN_PLANS,
    SHOWN_WORST,
    draw_world,
    plans_of,
    scores_of,
    worst_plans,
)
from pipelines.settings import TEST, Settings

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem} h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;font-size:13px} td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #eee}
td:first-child,th:first-child{text-align:left} img{max-width:100%;border-radius:4px} figure{margin:1rem 0}
figcaption{color:#666;font-size:12px} .pair{display:grid;grid-template-columns:3fr 2fr;gap:1rem;align-items:start}
"""


def write_report(settings: Settings) -> Path:
    """Write `report.html` into the working folder and return its path."""
    from pipelines.stages import STAGES

    engine = Engine(settings, STAGES)
    parts = [
        _head(engine),
        _scores(engine),
        _models(engine),
        _codes(engine),
        _scenes(engine),
        _failures(engine),
        _quarantine(engine),
        _work(engine),
    ]
    path = settings.home / "report.html"
    page = f"<!doctype html><meta charset=utf-8><title>LatentVLA report</title><style>{STYLE}</style>{''.join(parts)}"
    path.write_text(page)
    return path


def _head(engine: Engine) -> str:
    facts = {
        "recipe": engine.recipe.name,
        "lake": engine.settings.lake,
        "commit": git_commit() or "unknown",
    }
    return (
        "<h1>LatentVLA</h1><p>"
        + " · ".join(f"{k} <b>{html.escape(v)}</b>" for k, v in facts.items())
        + "</p>"
    )


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    cells = "".join(f"<tr>{''.join(f'<td>{_text(v)}</td>' for v in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(h)}</th>' for h in header)}</tr>{cells}</table>"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3f}"
    return html.escape(str(value))


def _figure(png: bytes, caption: str) -> str:
    if not png:
        return ""
    data = base64.b64encode(png).decode()
    return f"<figure><img src='data:image/png;base64,{data}'><figcaption>{html.escape(caption)}</figcaption></figure>"


def _scores(engine: Engine) -> str:
    rows = sorted(
        engine.lake.rows("pdm_summary"),
        key=lambda r: (r["split"] != TEST, r["split"], -_low(r["score"])),
    )
    if not rows:
        return "<h2>scores</h2><p>No scores yet.</p>"
    note = "<p>A mean is shown only when every expected scene of the split was scored.</p>"
    return (
        "<h2>scores</h2>"
        + note
        + "".join(_scores_of(metric, rows) for metric in engine.recipe.metrics)
    )


def _scores_of(metric: str, rows: list[dict[str, Any]]) -> str:
    """Table of one metric: a row per split and planner."""
    version = METRIC_VERSIONS[metric]
    table = [
        (
            f"{r['split']} / {r['trajectory_id']}",
            r["score"],
            *(r[name] for name in SUB_SCORES[metric]),
            r["score_stderr"],
            f"{r['num_scored']} of {r['num_expected']}",
        )
        for r in rows
        if r["metric_version"] == version
    ]
    shorts = (short(name) for name in SUB_SCORES[metric])
    header = ("split / planner", METRIC_LABELS[metric], *shorts, "± stderr", "scored")
    return f"<h3>{METRIC_LABELS[metric]} ({version})</h3>" + _table(header, table)


def _low(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def _models(engine: Engine) -> str:
    rows = engine.lake.rows(
        "models", columns=["name", "version", "parameters", "seconds", "metrics", "mlflow_uri"]
    )
    latest = [r for r in rows if r["version"] == engine.ledger.made_by(r["name"], "")]
    table = [
        (
            r["name"],
            f"{r['parameters']:,}",
            f"{r['seconds']:.0f} s",
            r["mlflow_uri"],
            _metrics(r["metrics"]),
        )
        for r in latest
    ]
    return "<h2>models</h2>" + _table(
        ("model", "weights", "trained in", "registered", "figures"), table
    )


def _metrics(text: str) -> str:
    return ", ".join(f"{k} {v:.3g}" for k, v in list(json.loads(text).items())[:6])


def _codes(engine: Engine) -> str:
    from latentvla_core.viz.codes import codebook_histogram

    figures = []
    for split in sorted(engine.settings.splits):
        codes = list(sentences_of(engine, [split]).values())
        if not codes:
            continue
        picture = codebook_histogram(np.stack(codes), engine.recipe.latent.num_transitions)
        figures.append(_figure(picture, f"split {split}: {len(codes)} scenes"))
    return "<h2>latent actions</h2>" + _pages(engine) + "".join(figures) if figures else ""


def _pages(engine: Engine) -> str:
    """Links to the quality report and the code atlas of the current model, as far as they are
    written.
    """
    version = engine.ledger.made_by("latent_action_model", "")
    named = {"is the model fit to label?": "latent_quality", "what each code means": "latent_codes"}
    found = {title: engine.page(name, version) for title, name in named.items()}
    links = [
        f"<a href='{p.parent.name}/{p.name}'>{title}</a>"
        for title, p in found.items()
        if p.is_file()
    ]
    return f"<p>{' · '.join(links)}</p>" if links else ""


def _scenes(engine: Engine) -> str:
    """The best, a middling and the worst scene of the held-out split, by the mean score of the
    shown planners.
    """
    from latentvla_core.viz.cameras import camera_strip

    version = METRIC_VERSIONS[engine.recipe.metrics[0]]
    scores = engine.lake.rows(
        "pdm_scores", {"split": TEST, "valid": True, "metric_version": version}
    )
    if not scores:
        return ""
    shown: dict[str, list[float]] = {}
    for row in scores:
        if row["trajectory_id"] in SHOWN_PLANS:
            shown.setdefault(row["scene_token"], []).append(row["score"])
    means = {token: float(np.mean(values)) for token, values in shown.items()}
    order = sorted(means, key=lambda token: (means[token], token))
    records = {r.scene_token: r for r in engine.records(TEST)}
    parts = []
    for title, token in zip(
        ("worst", "middling", "best"), (order[0], order[len(order) // 2], order[-1]), strict=True
    ):
        world = engine.lake.rows("scene_worlds", {"split": TEST, "scene_token": token})[0]
        plans, record = plans_of(engine, token), records[token]
        seen = camera_strip(record, plans) if FRONT_CAMERA in record.camera_names else b""
        above = draw_world(world, plans, scores_of(scores, token))
        parts.append(
            f"<h3>{title}</h3><div class=pair>{_figure(seen, record.log_name)}{_figure(above, token)}</div>"
        )
    return "<h2>scenes of the held-out split</h2>" + "".join(parts)


def _failures(engine: Engine) -> str:
    """The worst plans of the held-out split, with what they do wrong."""
    found = worst_plans(engine, {"split": TEST}, SHOWN_WORST)
    if not found:
        return ""
    return "<h2>where plans fail</h2>" + "".join(_figure(png, text) for png, text in found)


def _quarantine(engine: Engine) -> str:
    rows = engine.lake.rows("quarantine")
    if not rows:
        return "<h2>quarantine</h2><p>Nothing was refused.</p>"
    table = [
        (f"{r['stage']} {r['split']}", r["file"], r["frame"], r["field"], r["reason"])
        for r in rows[:30]
    ]
    return f"<h2>quarantine ({len(rows)})</h2>" + _table(
        ("stage", "file", "frame", "field", "reason"), table
    )


def _work(engine: Engine) -> str:
    totals: dict[str, list[float]] = {}
    for (asset, _), row in engine.ledger.latest.items():
        entry = totals.setdefault(asset, [0.0, 0.0])
        entry[0] += row["seconds"]
        entry[1] += row["rows"]
    table = [(asset, int(n), f"{seconds:.1f} s") for asset, (seconds, n) in totals.items()]
    return "<h2>work</h2>" + _table(("asset", "rows", "time"), table)
