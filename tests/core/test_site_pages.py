"""The browser's pages, used as people use them, in Debian's Chromium: load, filter, play, click."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pdms_little_worlds import straight_plan, straight_road, with_object

from benchmarks.site_lake import PLANNERS, write_lake
from latentvla_core.lake.store import Lake
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.viz.report.page import write_report_page
from latentvla_core.viz.report.worst import worst_plans
from latentvla_core.viz.site.export import export_site
from latentvla_core.viz.site.files import read_data, unpacked
from latentvla_core.viz.site.options import ViewOptions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from chromium import Browser, chromium_path
from page_checks import faults_of, unreachable

needs_chromium = pytest.mark.skipif(
    not chromium_path(), reason="Chromium is not installed (apt-get install chromium)"
)
pytestmark = [needs_chromium, pytest.mark.slow]
NC = "no_at_fault_collisions"
READY = "document.body && document.body.dataset.ready"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 scenes, one of which has a road and a plan that hits a standing car."""
    root = tmp_path_factory.mktemp("pages")
    lake = write_lake(root / "lake", 30, pictures=root / "pictures")
    scene = lake.rows("scenes", {"split": "val"})[1]
    keys = {name: scene[name] for name in ("split", "shard", "scene_token", "log_name")}
    world = with_object(straight_road(10.0), (18.0, 0.0))
    world = replace(world, scene_token=keys["scene_token"], log_name=keys["log_name"])
    place = {"split": "val", "shard": 0}
    lake.replace("scene_worlds", [world.to_row() | keys | {"made_by": "b"}], place)
    crash = straight_plan(10.0)
    told = score_trajectories([world], [crash[None]], metric="pdms").rows()[0]
    for table, change in (("trajectories", {"poses": crash}), ("pdm_scores", told)):
        rows = lake.rows(table, {**place, "trajectory_id": "ipad"})
        for row in rows:
            if row["scene_token"] == keys["scene_token"] and (
                table == "trajectories" or row["metric_version"] == told["metric_version"]
            ):
                row.update(change, trajectory_id="ipad")
        lake.replace(table, rows, {**place, "trajectory_id": "ipad"})
    (root / "atlas.html").write_text("<!doctype html><title>atlas</title><p>the atlas")
    export_site(lake, ViewOptions(out=root / "site"), chapters={"atlas": root / "atlas.html"})
    return root / "site"


@pytest.fixture(scope="module")
def page(site: Path):
    with Browser() as browser:
        yield browser
        assert browser.errors == []


def show(page: Browser, site: Path, address: str = "") -> None:
    page.open((site / "index.html").as_uri() + address, READY)


def test_the_first_page_lists_all_scenes_the_worst_first(page, site):
    show(page, site)
    assert "30 of 30 scenes" in page.js("document.querySelector('#count').textContent")
    first = page.js("document.querySelector('.row .score b').textContent")
    assert first == "0"  # the crash
    drawn = page.js("document.querySelectorAll('.row').length")
    assert 5 <= drawn < 30  # only what can be seen is drawn


def test_scrolling_draws_the_rows_that_come_into_sight(page, site):
    show(page, site)
    page.js("scrollTo(0, document.body.scrollHeight)")
    page.wait("[...document.querySelectorAll('.row')].some(r => parseInt(r.style.top) > 29 * 80)")


def test_filters_agree_with_the_data_and_stay_in_the_address(page, site):
    index = read_data(site / "data" / "index.js")
    label = unpacked(index["columns"]["label"], "u1").reshape(-1, 12)
    show(page, site, "#/?code=5")
    wanted = int((label == 5).any(axis=1).sum())
    assert f"{wanted} of 30" in page.js("document.querySelector('#count').textContent")
    words = [str(code) for code in label[4, 2:5]]
    page.js(
        "{ const e = document.querySelector('[data-filter=code]'); e.value = '';"
        " e.dispatchEvent(new Event('change'));"
        " const s = document.querySelector('[data-filter=sentence]');"
        f" s.value = '{words[0]} * {words[2]}'; s.dispatchEvent(new Event('input')); }}"
    )
    said = [
        any(row[s] == label[4, 2] and row[s + 2] == label[4, 4] for s in range(10)) for row in label
    ]
    assert f"{sum(said)} of 30" in page.js("document.querySelector('#count').textContent")
    address = page.js("location.hash")
    assert "sentence=" in address and "code" not in address
    show(page, site, address)
    assert f"{sum(said)} of 30" in page.js("document.querySelector('#count').textContent")


def test_nothing_found_says_what_to_do(page, site):
    show(page, site, "#/?text=nosuchlog")
    assert "loosen a filter" in page.js("document.body.textContent")


def test_a_click_on_a_score_shows_the_moment_it_was_lost(page, site):
    """Two clicks from the report or the terminal's link: this page, then the score."""
    show(page, site)
    page.click(".row .score")
    page.wait("document.querySelector('#why .mark')")
    token = page.js("location.hash").split("/")[2].split("?")[0]
    scene = read_data(site / "data" / "scenes" / f"{token}.js")
    failures = scene["plans"]["ipad"]["why"]["pdms-v1.1"]
    first = min(f["step"] for f in failures if f["step"] >= 0) / 10
    assert page.js("document.querySelector('.clock output').textContent") == f"{first:.1f} s"
    assert "hits" in page.js("document.querySelector('#why').textContent")
    marks = sum(f["step"] >= 0 for f in failures)
    assert page.js("document.querySelectorAll('[data-mark]').length") == marks
    above = "document.querySelector('[data-cursor]').compareDocumentPosition"
    assert page.js(f"{above}(document.querySelector('[data-mark]')) & 4"), "numbers hide behind"
    assert "as logged" in page.js("document.querySelector('.stage .key').textContent")
    page.click("[data-lost=NC]")
    hit = next(f["step"] for f in failures if f["sub"] == "NC") / 10
    assert page.js("document.querySelector('.clock output').textContent") == f"{hit:.1f} s"


def test_the_place_of_a_crash_is_red_in_the_view_from_above(page, site):
    token = crash_token(site)
    red = (
        "(() => { const c = document.querySelector('canvas.above'), d ="
        " c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
        " for (let i = 0; i < d.length; i += 4) n += d[i] === 179 && d[i + 1] === 38 &&"
        " d[i + 2] === 30; return n; })()"
    )
    show(page, site, f"#/scene/{token}?plan=ipad&at=lost")
    assert page.js(red) > 100
    plans = read_data(site / "data" / "scenes" / f"{token}.js")["plans"]
    safe = next(n for n, plan in plans.items() if not plan["why"].get("pdms-v1.1"))
    show(page, site, f"#/scene/{token}?plan={safe}")
    assert page.js(red) == 0


def test_one_click_leads_from_the_report_to_the_moment_its_worst_plan_fails(page, site):
    """The report of a demo and the site beside it, as `latentvla demo` leaves them."""
    lake = Lake(str(site.parent / "lake"))
    report = write_report_page(
        lake, site.parent / "report.html", recipe="mini", metrics=("pdms",), site="site"
    )
    facts = worst_plans(lake, {"split": "val"}, "pdms", 1)[0]
    page.open(report.as_uri())
    page.click(".worst a")
    page.wait("document.querySelector('#why .mark')")
    assert facts.scene_token in page.js("document.querySelector('h1').textContent")
    scene = read_data(site / "data" / "scenes" / f"{facts.scene_token}.js")
    failed = scene["plans"][facts.planner]["why"]["pdms-v1.1"]
    first = min(f["step"] for f in failed if f["step"] >= 0) / 10
    assert page.js("document.querySelector('.clock output').textContent") == f"{first:.1f} s"


def test_a_lake_without_scores_shows_scenes_and_says_nothing_of_scores(page, tmp_path):
    lake = write_lake(tmp_path / "lake", 5)
    for table in ("pdm_scores", "trajectories"):
        for planner in PLANNERS:
            lake.replace(table, [], {"split": "train", "shard": 0, "trajectory_id": planner})
    export_site(lake, ViewOptions(out=tmp_path / "site", width_px=0))
    show(page, tmp_path / "site")
    text = page.js("document.querySelector('main').textContent")
    assert "5 of 5 scenes" in text and "false" not in text and "score" not in text
    show(page, tmp_path / "site", f"#/scene/{lake.rows('scenes')[0]['scene_token']}")
    assert "No plans of this scene yet" in page.js("document.querySelector('main').textContent")


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ("split=val", lambda s, _: s["split"] == "val"),
        ("command=1", lambda s, _: s["command"] == 1),
        ("city=sg-one-north", lambda s, _: s["map_location"] == "sg-one-north"),
        ("slow=9&fast=12", lambda s, _: 9 <= round(np.hypot(*s["ego_velocity_mps"]), 2) <= 12),
        ("planner=ipad_latent&high=0.7", lambda s, score: score("ipad_latent", s) <= 0.7),
        ("planner=human&lost=NC", lambda s, score: score("human", s, NC) < 1),
    ],
)
def test_each_filter_finds_the_scenes_that_the_lake_would(page, site, query, fits):
    lake = Lake(str(site.parent / "lake"))
    rows = {
        (row["trajectory_id"], row["scene_token"]): row
        for row in lake.rows("pdm_scores")
        if row["metric_version"] == "pdms-v1.1"
    }

    def score(planner: str, scene: dict, name: str = "score") -> float:
        return rows[planner, scene["scene_token"]][name]

    wanted = {scene["scene_token"] for scene in lake.rows("scenes") if fits(scene, score)}
    show(page, site, f"#/?{query}")
    found = page.js("LV.walk.map(i => LV.index.tokens[i])")
    assert set(found) == wanted and len(found) == len(wanted) and 0 < len(wanted) < 30


def crash_token(site: Path) -> str:
    found = (site / "data" / "scenes").glob("*.js")
    return next(p.stem for p in found if '"no_world":""' in p.read_text())


def test_play_moves_the_clock_and_the_picture_and_stops_at_the_end(page, site):
    show(page, site, f"#/scene/{crash_token(site)}?plan=ipad&t=4.8")
    before = page.js("document.querySelector('.view img').src")
    page.press(" ")
    page.wait("document.querySelector('.clock output').textContent === '5.0 s'")
    page.wait("document.querySelector('#play').getAttribute('aria-pressed') === 'false'")
    assert page.js("document.querySelector('.view img').src") != before
    page.press("Home")
    assert page.js("document.querySelector('.clock output').textContent") == "-1.5 s"
    page.press("ArrowRight")
    assert page.js("document.querySelector('.clock output').textContent") == "-1.4 s"
    assert "t=-1.4" in page.js("location.hash")


def test_plans_of_all_planners_are_laid_over_each_other_when_asked_for(page, site):
    """Transfuser's colour is seen beside iPad's plan only then, and the link keeps it."""
    index = read_data(site / "data" / "index.js")
    blue = (
        "(() => { const c = document.querySelector('canvas.above'), d ="
        " c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
        " for (let i = 0; i < d.length; i += 4) n += d[i] === 78 && d[i + 1] === 121 &&"
        " d[i + 2] === 167; return n; })()"
    )
    show(page, site, f"#/scene/{index['tokens'][0]}?plan=ipad")
    assert page.js(blue) == 0
    page.press("a")
    page.wait("document.querySelector('[data-pick=all]').checked")
    assert page.js(blue) > 20 and "all=1" in page.js("location.hash")
    show(page, site, page.js("location.hash"))
    assert page.js(blue) > 20
    page.click("[data-pick=all]")
    assert page.js(blue) == 0


def test_keys_go_to_the_next_scene_and_compare_two_plans(page, site):
    index = read_data(site / "data" / "index.js")
    show(page, site, f"#/scene/{index['tokens'][2]}?plan=ipad")
    page.press("c")
    page.wait("document.querySelectorAll('canvas.above').length === 2")
    page.press("j")
    page.wait(f"location.hash.includes('{index['tokens'][3]}')")
    page.wait(f"document.querySelector('h1').textContent.includes('{index['tokens'][3]}')")
    assert "versus=" in page.js("location.hash")


def test_a_click_on_a_code_shows_every_moment_nearest_first(page, site):
    index = read_data(site / "data" / "index.js")
    code = int(unpacked(index["columns"]["label"], "u1")[0])
    show(page, site, f"#/scene/{index['tokens'][0]}")
    page.click(f".roll a[href$='/code/{code}'] rect")
    page.wait("document.querySelector('[data-distance]')")
    shown = page.js(
        "[...document.querySelectorAll('[data-distance]')].map(e => +e.dataset.distance)"
    )
    assert shown == sorted(shown) and len(shown) > 1
    page.click("[data-distance]")
    page.wait("document.querySelector('canvas.above')")


def test_drives_codes_compare_and_chapters_open(page, site):
    index = read_data(site / "data" / "index.js")
    for address, text in (
        ("#/drives", "Drives (2)"),
        (f"#/drive/{index['logs'][0]['name']}?t=3", "open scene"),
        ("#/codes", "of the codes here"),
        ("#/compare?a=ipad&b=ipad_latent", "30 scenes of 2 drives"),
        ("#/chapter/atlas", "What each code means"),
    ):
        show(page, site, address)
        page.wait(f"document.querySelector('main').textContent.includes({text!r})")


def test_a_link_to_what_is_not_here_says_so(page, site):
    show(page, site, "#/scene/0000")
    assert "no scene 0000" in page.js("document.querySelector('main').textContent")
    page.errors.clear()  # the page tells it in the console too


PAGES = ("", "#/drives", "#/codes", "#/code/3", "#/compare", "#/runs", "#/chapter/atlas")


def addresses(site: Path) -> list[str]:
    """One of each page."""
    index = read_data(site / "data" / "index.js")
    drive, scene = index["logs"][0]["name"], index["tokens"][0]
    failed = f"#/scene/{crash_token(site)}?plan=ipad&at=lost"
    two = f"#/scene/{scene}?plan=ipad&versus=ipad_latent"
    return [*PAGES, f"#/drive/{drive}", f"#/scene/{scene}", failed, two]


@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (1280, True), (400, False), (400, True)]
)
def test_every_page_can_be_read_by_everybody(page, site, width, dark):
    """Contrast of all text, names of everything, nothing wider than the window."""
    page.resize(width, 900, dark=dark)
    found = {}
    for address in addresses(site):
        show(page, site, address)
        found[address] = faults_of(page)
    page.resize(1280, 900)
    assert {address: faults for address, faults in found.items() if faults} == {}


def test_every_link_button_and_field_is_reached_by_tab_and_seen_when_it_is(page, site):
    for address in ("", "#/compare", f"#/scene/{crash_token(site)}?plan=ipad"):
        show(page, site, address)
        assert unreachable(page, most=80) == [], address


def test_the_checks_find_what_is_wrong(page, tmp_path):
    """A page with one fault of each kind."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><html><head><title></title></head><body style='background:#fff'>"
        "<p style='color:#bbb'>pale</p><img src='x.png'><canvas></canvas><button></button>"
        "<input><h1>a</h1><h1>b</h1><div style='width:3000px'>wide</div>"
        "<a href='#a' style='outline:none'>plain</a><div class=wide>x</div><table><th></th></table>"
        "<svg role=img aria-label=a><a href='#b'>b</a></svg>"
        "<p>a <a href='#c' style='text-decoration:none'>c</a></p></body></html>"
    )
    page.open(bad.as_uri())
    found = "; ".join(faults_of(page))
    page.errors.clear()
    for wanted in (
        "contrast", "without alt", "drawing without a name", "<BUTTON> without a name",
        "field without a label", "2 headings", "no language", "no title", "px wider",
        "role=img around", "cannot be reached", "without words", "only its colour",
    ):  # fmt: skip
        assert wanted in found, wanted
    assert any("focus is not seen" in fault for fault in unreachable(page))
