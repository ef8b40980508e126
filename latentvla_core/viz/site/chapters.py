"""Pages that others wrote (code atlas, quality report, scores) as chapters of the site."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

TITLES = {
    "report": "Report",
    "atlas": "What each code means",
    "quality": "Is the latent model fit to label?",
    "evidence": "What are pictures and latent actions worth?",
}


def write_chapters(site: Path, chapters: Mapping[str, Path]) -> list[dict[str, str]]:
    """Copy pages that exist; returns name, title and path of each, relative to the site."""
    found = []
    for name, source in chapters.items():
        if source.is_file():
            target = site / "chapters" / f"{name}.html"
            target.parent.mkdir(parents=True, exist_ok=True)
            page = source.read_text(encoding="utf-8")
            target.write_text(inside(page) if name == "report" else page, encoding="utf-8")
            path = target.relative_to(site).as_posix()
            found.append({"name": name, "title": TITLES.get(name, name), "path": path})
    return found


def inside(report: str) -> str:
    """The report as a chapter: its links to pages beside it become links to pages of the site."""
    text = report.replace("href='site/index.html", "target=_top href='../index.html")
    for page, chapter in (("latent_codes", "atlas"), ("latent_quality", "quality")):
        there = f"target=_top href='../index.html#/chapter/{chapter}'"
        text = re.sub(rf"href='reports/{page}-[^']*'", there, text)
    return text
