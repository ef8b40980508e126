"""The report as one file: nothing fetched, no path of this machine; light, dark and on paper."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from latentvla_core.lake.store import Lake
from latentvla_core.pdms.metrics import METRIC_LABELS, METRIC_VERSIONS
from latentvla_core.viz.html import cells, number, page, table, write_page
from latentvla_core.viz.report.board import board
from latentvla_core.viz.report.choices import choices
from latentvla_core.viz.report.closed import closed_loop
from latentvla_core.viz.report.evidence import evidence
from latentvla_core.viz.report.facts import Facts, read_facts
from latentvla_core.viz.report.lineage import lineage, read_work
from latentvla_core.viz.report.reward import learned_from_score
from latentvla_core.viz.report.worst import Worst, worst_plans

SHOWN_WORST = 4
REFUSED_SHOWN = 30
STYLE = """
<style>
:root{--track:#e3e8ee;--bar:#2f6ab8;--badtext:#a3231b}
@media (prefers-color-scheme:dark){:root{--track:#2b3641;--bar:#5f9bea;--badtext:#ff8a80}}
.wide{overflow-x:auto}.bad-text,.low{color:var(--badtext)}.small{font-size:12.5px}
.lead td,.lead th{white-space:nowrap;padding:.28rem .4rem}.lead td svg{display:block}
.lead .score{display:inline-grid;grid-template-columns:auto auto;column-gap:.5rem;align-items:center}
.lead .score svg{width:clamp(90px,11vw,135px);height:16px;max-width:none}.lead .score small{grid-column:1/-1;
line-height:1.1}
th.trained{color:var(--ink)}th[scope=row]{text-align:left}.reads{min-width:15rem;white-space:normal}
.worst{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:1rem}
.worst img{width:100%;height:auto;border-radius:8px;display:block;margin-bottom:4px}
.curves{max-width:100%;background:#fff;border-radius:8px;margin-top:.8rem}
.worst ul{margin:.3rem 0 0;padding-left:1.1rem;font-size:13px}
section.board h3{margin-top:1.1rem}section.board h4{margin:.7rem 0 .1rem;font-size:13.5px}
ul.plain{list-style:none;padding:0}.forest th[scope=row]{color:var(--ink);width:44%}.forest th small{font-weight:400}
.forest td,.forest th{padding:.2rem .45rem}.forest td svg,td.num svg{vertical-align:middle;max-width:none}
.lead tr.begins>*{border-top:2px solid var(--line)}.line{white-space:nowrap}
details{margin-top:1rem}summary{cursor:pointer;font-weight:600}
@media (max-width:720px){.lead thead,.forest thead{display:none}
.lead tr,.forest tr{display:flex;flex-wrap:wrap;gap:.1rem .8rem;padding:.5rem 0;border-bottom:1px solid var(--line)}
.lead td,.lead th,.forest td,.forest th{border:0;padding:0}.lead th,.lead td:nth-child(2),.forest th[scope=row],
.lead td[data-name^='closed']{flex:1 0 100%;width:auto}.lead td[data-name]::before{content:attr(data-name)" ";
color:var(--soft);font-size:12px}.lead .score svg{width:130px}.forest td:nth-child(4){display:none}}
@media print{details::details-content{content-visibility:visible;display:block}
body{background:#fff}.worst{grid-template-columns:1fr 1fr}main{max-width:none;padding:0}section,.worst figure,tr{break-inside:avoid}
.card{border:0;padding:0}a{color:inherit}.wide{overflow:visible}table{font-size:10px}}
</style>
"""


def write_report_page(
    lake: Lake,
    path: Path,
    *,
    recipe: str,
    metrics: Sequence[str],
    commit: str = "",
    closed: Sequence[Mapping[str, Any]] = (),
    links: Mapping[str, str] | None = None,
    figures: Sequence[tuple[bytes, str]] = (),
    site: str = "",
) -> Path:
    """Write the report of a lake.

    Args:
        closed: rows as those of `closed_loop_scores`, beside the lake's.
        links: title → address relative to the report, of pages beside it.
        figures: more pictures (PNG, caption) of the codes.
        site: folder of the browser relative to the report, "" where there is none.
    """
    facts = read_facts(lake, [dict(row) for row in closed])
    split = facts.standings[0].split if facts.standings else ""
    worst = worst_plans(lake, {"split": split}, metrics[0], SHOWN_WORST) if split else []
    parts = [
        STYLE,
        _head(facts, recipe, commit, links or {}, site),
        _scores(facts),
        closed_loop(facts, site),
        choices(lake),
        learned_from_score(lake),
        "<h2>What is evidence here, and what is not</h2><div class=card>"
        + evidence(facts, recipe)
        + "</div>",
        _worst(worst, split, metrics[0], site),
        _codes(figures),
        "<h2>From a score back to logs, and what it cost</h2><div class=card>"
        + lineage(read_work(lake))
        + "</div>",
        _models(lake),
        _refused(lake),
    ]
    return write_page(path, page("LatentVLA report", parts))


def _head(facts: Facts, recipe: str, commit: str, links: Mapping[str, str], site: str) -> str:
    said = {
        "recipe": recipe,
        "commit": commit or "unknown",
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "logs": ", ".join(f"{n} {split}" for split, n in sorted(facts.logs.items())) or "none",
    }
    told = " · ".join(f"{escape(k)} <b>{escape(v)}</b>" for k, v in said.items())
    pages = dict(links) | ({"browse every scene": f"{site}/index.html"} if site else {})
    found = " · ".join(f"<a href='{escape(to, True)}'>{escape(t)}</a>" for t, to in pages.items())
    beside = f"<p>{found} <small>(pages beside this file)</small></p>" if found else ""
    return f"<h1>LatentVLA report</h1><p>{told}</p>{beside}"


def _scores(facts: Facts) -> str:
    if not facts.standings:
        return "<h2>Scores</h2><p>No scores yet: materialise pdm_scores.</p>"
    note = (
        "<p class=soft>Bars run from 0 to 1; whiskers are 95 % intervals over whole logs. The"
        " order of rows is fixed and says nothing. Splits never share a log; train is what planners"
        " have seen.</p>"
    )
    return f"<h2>Scores</h2>{note}<div class=card>{board(facts)}</div>"


def _worst(worst: Sequence[Worst], split: str, metric: str, site: str) -> str:
    if not worst:
        return ""
    shown = "".join(failure(each, site) for each in worst)
    return (
        f"<h2>Where plans fail</h2><p class=soft>The least {METRIC_LABELS[metric]} of trained"
        f" planners on {escape(split)}, each failing differently. Red marks what went wrong.</p>"
        f"<div class=worst>{shown}</div>"
    )


def failure(each: Worst, site: str) -> str:
    """A figure: cameras, view from above, causes; a link into the browser where there is one."""
    label = f"{each.planner} in scene {each.scene_token}: {'; '.join(each.causes)}"
    seen = _image(each.seen, "jpeg", f"cameras: {label}") if each.seen else ""
    above = _image(each.above, "png", f"from above: {label}")
    pictures = seen + above
    if site:
        pictures = f"<a href='{escape(f'{site}/{each.address}', True)}'>{pictures}</a>"
    causes = "".join(f"<li>{escape(cause.strip())}</li>" for cause in each.causes)
    head = f"<b>{escape(each.planner)} {each.score:.3f}</b> · {escape(each.scene_token)}"
    told = "" if each.tells_itself else f"<ul>{causes}</ul>"
    return (
        f"<figure class=card>{pictures}<figcaption>{head} · {escape(each.log_name)}"
        f"{told}</figcaption></figure>"
    )


def _image(data: bytes, kind: str, label: str) -> str:
    coded = base64.b64encode(data).decode()
    return f"<img src='data:image/{kind};base64,{coded}' alt='{escape(label, True)}'>"


def _codes(figures: Sequence[tuple[bytes, str]]) -> str:
    if not figures:
        return ""
    shown = "".join(
        f"<figure class=card>{_image(png, 'png', f'use of each code, {text}')}"
        f"<figcaption>{escape(text)}</figcaption></figure>"
        for png, text in figures
    )
    return f"<h2>Latent actions</h2><div class=worst>{shown}</div>"


def _models(lake: Lake) -> str:
    """The last version of every model."""
    done = lake.read("materialisations", columns=["asset", "made_by", "finished_us"]).to_pylist()
    last: dict[str, str] = {}
    for row in sorted(done, key=lambda r: r["finished_us"]):
        last[row["asset"]] = row["made_by"]
    rows = [
        cells(
            f"<b>{escape(r['name'])}</b> <code>{escape(r['version'][:8])}</code>",
            f"{r['parameters']:,}",
            f"{r['seconds']:,.0f} s",
            escape(r["mlflow_uri"]) or "<span class=soft>not registered</span>",
            escape(_metrics(r["metrics"])),
        )
        for r in lake.read("models").to_pylist()
        if last.get(r["name"], r["version"]) == r["version"]
    ]
    if not rows:
        return ""
    head = ("model", "weights", "trained in", "registered", "figures")
    return f"<h2>Models</h2><div class=card>{table(head, rows)}</div>"


def _metrics(text: str) -> str:
    """Six figures, those of the last stage first: they are what the finished model is."""
    told = json.loads(text or "{}")
    last = sorted(told, key=lambda key: (key.startswith("stage1/"), "/quality/" not in key))
    shown = {key.rpartition("/quality/")[2]: float(told[key]) for key in last[:6]}
    return ", ".join(f"{key} {number(value)}" for key, value in shown.items())


def _refused(lake: Lake) -> str:
    """Quarantine, without paths of this machine: a file's name is enough to find it."""
    rows = lake.read("quarantine").to_pylist()
    if not rows:
        return "<h2>Refused</h2><p>Nothing was refused.</p>"
    shown = [
        cells(
            escape(f"{r['stage']} {r['split']}"),
            escape(Path(r["file"]).name),
            escape(r["frame"]),
            escape(r["field"]),
            escape(without_folders(r["reason"], r["file"])),
        )
        for r in rows[:REFUSED_SHOWN]
    ]
    head = ("stage", "file", "frame", "field", "reason")
    return (
        f"<h2>Refused ({len(rows):,})</h2><p class=soft>Rows that could not be used, never counted"
        f" as zeros.</p><div class=card>{table(head, shown)}</div>"
    )


def without_folders(text: str, file: str) -> str:
    """A message without the folders of the file it names."""
    folder = str(Path(file).parent)
    return text.replace(f"{folder}/", "") if len(folder) > 1 else text


def codebooks(lake: Lake, splits: Sequence[str]) -> list[tuple[bytes, str]]:
    """How often each code is used, a picture per split that has labels."""
    import numpy as np

    from latentvla_core.tables.sentences import sentences
    from latentvla_core.viz.codes import codebook_histogram

    columns = ["scene_token", "step", "valid", "ego_codes", "model_version"]
    found = []
    for split in splits:
        labels = lake.read("latent_actions", {"split": split}, columns)
        codes = list(sentences(labels).values())
        if codes:
            picture = codebook_histogram(np.stack(codes), len(codes[0]) // 4)
            found.append((picture, f"{split}: {len(codes)} scenes"))
    return found


assert set(METRIC_LABELS) == set(METRIC_VERSIONS)
