"""`report.html` of a deployment and the browser beside it: what a demo run leaves to look at."""

from __future__ import annotations

from pathlib import Path

from latentvla_core.lake.store import Lake
from latentvla_core.recipes import recipe_named
from latentvla_core.viz.report.page import codebooks, write_report_page
from latentvla_core.viz.site.command import pages_of
from latentvla_core.viz.site.export import export_site
from latentvla_core.viz.site.options import ViewOptions
from pipelines.settings import TEST, Settings
from pipelines.steps.lineage import git_commit

MOST_SCENES = 2_000
"""A lake with more held-out scenes gets its browser when `latentvla view` asks for it."""
TITLES = {"atlas": "what each code means", "quality": "is the model fit to label?"}


def write_report(settings: Settings) -> Path:
    """Write `report.html` into the working folder, and beside it `site/` with the held-out scenes
    (`latentvla view` writes all); returns the report's path.
    """
    lake, path = Lake(settings.lake), settings.home / "report.html"
    scenes = lake.read("scenes", {"split": TEST}, ["scene_token"]).num_rows
    site = settings.home / "site"
    has_site = 0 < scenes <= MOST_SCENES
    splits = sorted(settings.splits, key=lambda name: (name != TEST, name))
    recipe = recipe_named(settings.recipe)
    write_report_page(
        lake,
        path,
        recipe=recipe.name,
        metrics=recipe.metrics,
        commit=git_commit() or "",
        links=_links(settings.home),
        figures=codebooks(lake, splits),
        site="site" if has_site or (site / "index.html").is_file() else "",
    )
    if has_site:
        export_site(
            lake, ViewOptions(out=site, where=f"split = '{TEST}'"), chapters=pages_of(settings.home)
        )
    return path


def _links(home: Path) -> dict[str, str]:
    """Pages beside the report, as far as they are written."""
    pages = pages_of(home)
    return {
        title: pages[name].relative_to(home).as_posix()
        for name, title in TITLES.items()
        if pages[name].is_file()
    }
