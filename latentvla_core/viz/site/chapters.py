"""Pages that others wrote (code atlas, quality report, scores) as chapters of the site."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

TITLES = {
    "report": "Report",
    "atlas": "What each code means",
    "quality": "Is the latent model fit to label?",
}


def write_chapters(site: Path, chapters: Mapping[str, Path]) -> list[dict[str, str]]:
    """Copy pages that exist; returns name, title and path of each, relative to the site."""
    found = []
    for name, source in chapters.items():
        if source.is_file():
            target = site / "chapters" / f"{name}.html"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            path = target.relative_to(site).as_posix()
            found.append({"name": name, "title": TITLES.get(name, name), "path": path})
    return found
