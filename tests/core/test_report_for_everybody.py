"""The report and the pages beside it: light, dark, on a phone, without eyes, and on paper."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from test_report_page import driven, page_of, with_study

from latentvla_core.viz.atlas_page import _shade
from latentvla_core.viz.html import page as html_page
from latentvla_core.viz.html import pill

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from chromium import Browser, chromium_path
from page_checks import faults_of, printed, unreachable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not chromium_path(), reason="Chromium is not installed (apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a study, closed-loop runs, two splits and a refused row."""
    root = tmp_path_factory.mktemp("everybody")
    lake = with_study(root, 0.05)
    runs = [
        driven(driver, f"s{i}", traffic, 20.0, value)
        for driver in ("human", "ipad")
        for traffic in ("reactive", "log")
        for i, value in enumerate((0.2, 1.0))
    ]
    page_of(lake, root, closed=runs, site="site")
    return root / "report.html"


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened
        assert opened.errors == []


@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (1280, True), (400, False), (400, True)]
)
def test_the_report_can_be_read_by_everybody(browser, report, width, dark):
    browser.resize(width, 900, dark=dark)
    browser.open(report.as_uri())
    assert faults_of(browser) == []
    browser.js("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert faults_of(browser) == []


def test_the_report_is_walked_by_keyboard(browser, report):
    browser.resize(1280, 900)
    browser.open(report.as_uri())
    assert unreachable(browser) == []


def test_on_paper_nothing_is_folded_away_or_cut_off(browser, report):
    """Printed from a dark screen: black on white, what is folded on the screen is there, and no
    table is wider than the sheet.
    """
    browser.resize(1280, 900, dark=True)
    browser.open(report.as_uri())
    pages = len(re.findall(rb"/Type\s*/Page[^s]", printed(browser)))
    assert 2 <= pages <= 12
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    browser.call("Emulation.setEmulatedMedia", media="print", features=[scheme])
    told = browser.js(
        "(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor,"
        " [...document.querySelectorAll('details td')].every(e => e.getBoundingClientRect().height"
        " > 0)]; })()"
    )
    assert told == ["rgb(0, 0, 0)", "rgb(255, 255, 255)", True]
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=718, height=1000, deviceScaleFactor=1, mobile=False,
    )  # fmt: skip
    wide = browser.js(
        "[...document.querySelectorAll('table, svg, img')].filter(e => e.checkVisibility() &&"
        " e.getBoundingClientRect().right > 719).map(e => e.className || e.tagName)"
    )
    assert wide == []
    browser.call("Emulation.setEmulatedMedia", media="", features=[])


@pytest.mark.parametrize("dark", [False, True])
def test_marks_and_shades_of_all_pages_can_be_read(browser, tmp_path, dark):
    parts = [pill(kind, kind) for kind in ("good", "bad", "warn", "none")]
    parts += [f"<div class='banner {kind}'>{kind}</div>" for kind in ("good", "bad", "warn")]
    parts += [_shade(share / 40) for share in range(41)]
    path = tmp_path / "marks.html"
    path.write_text(html_page("marks", ["<h1>marks</h1>", *parts]))
    browser.resize(1280, 900, dark=dark)
    browser.open(path.as_uri())
    assert faults_of(browser) == []
