"""Every asset links to a page of the browser, and the pages that `make ui` serves open there."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.site_lake import write_lake
from latentvla_core.viz.addresses import page_of
from latentvla_core.viz.site.chapters import TITLES
from latentvla_core.viz.site.export import export_site
from latentvla_core.viz.site.options import ViewOptions
from pipelines import ui
from pipelines.dagster_assets import asset_of, run_metadata
from pipelines.settings import LOCAL_SITE, Settings
from pipelines.stages import STAGES

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from chromium import Browser, chromium_path

pytestmark = pytest.mark.slow


def settings_of(home: Path, **env: str) -> Settings:
    return Settings.from_env({"LATENTVLA_HOME": str(home)} | env)


def links_of(settings: Settings) -> dict[str, str]:
    """Asset → the address its page in Dagster links to."""
    found = {}
    for stage in STAGES.values():
        metadata = asset_of(stage, settings, STAGES).metadata_by_key
        (entry,) = [told["browser"] for told in metadata.values()]
        found[stage.name] = entry.url
    return found


def test_every_asset_links_to_the_browser_where_it_is_served(tmp_path):
    links = links_of(settings_of(tmp_path))
    assert set(links) == set(STAGES)
    assert all(link.startswith(f"{LOCAL_SITE}/index.html#/") for link in links.values())
    assert links["latent_codes"].endswith("#/chapter/atlas")
    assert links["ipad_student"].endswith("#/?planner=ipad_student")
    moved = links_of(settings_of(tmp_path, LATENTVLA_SITE_URL="https://bucket.example/site/"))
    assert moved["frames"] == "https://bucket.example/site/index.html#/drives"


def test_a_run_writes_no_address_of_the_browser_because_it_would_stay_when_the_pages_move():
    stage: Any = SimpleNamespace(table="frames", deps=(), picture=None)
    lake = SimpleNamespace(version=lambda table: -1)
    engine: Any = SimpleNamespace(lake=lake, recipe=SimpleNamespace(name="debug"))
    told = run_metadata(engine, stage, {})
    assert told["recipe"] == "debug" and "browser" not in told


def test_a_name_that_nobody_has_heard_of_opens_all_scenes():
    assert page_of("brand_new") == "#/" and page_of("closed_loop_runs") == "#/runs"
    assert page_of("a&b", is_planner=True) == "#/?planner=a%26b"


def test_the_pages_are_written_before_they_are_served_for_the_first_time(tmp_path):
    settings = settings_of(tmp_path)
    ui.write_first_site(settings)
    assert not (tmp_path / "site").exists()  # no scenes yet
    write_lake(tmp_path / "lake", 75)
    ui.write_first_site(settings)
    page = tmp_path / "site" / "index.html"
    assert page.is_file() and (tmp_path / "report.html").is_file()
    page.write_text("mine")
    ui.write_first_site(settings)
    assert page.read_text() == "mine"  # what is there stays


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Address of a site with every chapter, served by the command that `make ui` runs."""
    lake = write_lake(tmp_path / "lake", 30)
    chapter = tmp_path / "page.html"
    chapter.write_text("<!doctype html><title>page</title><p>a chapter")
    pages = dict.fromkeys(TITLES, chapter)
    export_site(lake, ViewOptions(out=tmp_path / "site", width_px=0), chapters=pages)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = ui.commands_of(settings_of(tmp_path), ui.Ports(browser=port))
    (command,) = [c for c in commands.values() if c[0] == "http.server"]
    process = subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.DEVNULL)
    try:
        yield _answering(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(timeout=10)


def _answering(url: str) -> str:
    for _ in range(200):
        try:
            with urllib.request.urlopen(f"{url}/index.html"):
                return url
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{url} never answered")


@pytest.mark.skipif(
    not chromium_path(), reason="Chromium is not installed (apt-get install chromium)"
)
def test_the_link_of_every_asset_opens_its_page(served, tmp_path):
    links = sorted(set(links_of(settings_of(tmp_path, LATENTVLA_SITE_URL=served)).values()))
    assert len(links) > 8
    with Browser() as page:
        for link in links:
            page.open(link, "document.body && document.body.dataset.ready")
            title = page.js("document.querySelector('h1').textContent")
            assert title != "Not here", link
        assert page.errors == []
