"""Links of registered models into the browser, pointed at where it is served now: a card is written
when a model is judged, and `make ui` may serve the pages at another port.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.registry.cards import CARD, PAGE

LINK = re.compile(r"https?://[^\s()<>\"']*?(?=/index\.html#/)")


def moved(text: str, site_url: str) -> str:
    """The text with every link into the browser beginning with `site_url`."""
    return LINK.sub(site_url.rstrip("/"), text)


def point_links(client: Any, site_url: str) -> int:
    """Point the cards and pages of all registered versions there; returns how many were changed."""
    changed = 0
    for version in client.search_model_versions():
        described = version.description or ""
        if moved(described, site_url) == described:
            continue
        client.update_model_version(
            version.name, version.version, description=moved(described, site_url)
        )
        if version.run_id:
            _point_files(client, version.run_id, site_url)
        changed += 1
    return changed


def _point_files(client: Any, run_id: str, site_url: str) -> None:
    there = {item.path for item in client.list_artifacts(run_id)}
    with TemporaryDirectory() as room:
        for name in sorted({CARD, PAGE} & there):
            text = Path(client.download_artifacts(run_id, name, room)).read_text(encoding="utf-8")
            client.log_text(run_id, moved(text, site_url), name)
