"""Which page of the browser shows what a table or a model holds."""

from __future__ import annotations

from urllib.parse import urlencode

from latentvla_core.viz.report.facts import BASELINES

WORST, DRIVES, CODES, RUNS = "#/", "#/drives", "#/codes", "#/runs"
PAGES = {
    "logs": DRIVES,
    "frames": DRIVES,
    "latent_action_model": "#/chapter/quality",
    "latent_quality": "#/chapter/quality",
    "latent_actions": CODES,
    "latent_codes": "#/chapter/atlas",
    "vlm_samples": CODES,
    "vlm": "#/?sort=teacher",
    "vlm_features": "#/?sort=teacher",
    "student": "#/?sort=student",
    "student_features": "#/?sort=student",
    "baseline_trajectories": "#/?planner=constant_velocity",
    "pdm_summary": "#/chapter/report",
    "releases": "#/chapter/report",
}
FAMILIES = {"closed_loop": RUNS, "evidence": "#/chapter/evidence"}
"""Start of a name → page, of assets that come in numbers."""


def page_of(name: str, *, is_planner: bool = False) -> str:
    """Address within the site: of a planner, its scenes, the worst first; all scenes where nothing
    fits better.
    """
    if is_planner or name in BASELINES:
        return f"#/?{urlencode({'planner': name})}"
    family = next((page for start, page in FAMILIES.items() if name.startswith(start)), WORST)
    return PAGES.get(name, family)


def url_of(site_url: str, name: str, *, is_planner: bool = False) -> str:
    """The same as a whole address; `site_url` is where the folder of the site is served."""
    return f"{site_url.rstrip('/')}/index.html{page_of(name, is_planner=is_planner)}"
