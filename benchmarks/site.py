"""How long the browser's first page takes, how large it is, how fast it filters, and whether what it
finds is what the lake holds: on a made-up lake of 10 000 scenes, and on a real one.

python -m benchmarks.site [--scenes 10000] [--lake FOLDER] [--keep DIR]

`--lake` is the lake of a demo (LATENTVLA_HOME/lake); its site is written without pictures. Needs
Chromium (apt-get install chromium). The page is opened from disk; "first view" is from the start of
the navigation until the list of scenes is drawn, by the page's own clock, best of five; a filter is
timed from its event until the list is drawn anew, best of five.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.site_lake import write_lake
from latentvla_core.lake.store import Lake
from latentvla_core.pdms.metrics import METRIC_VERSIONS, SUB_SCORES, metric_of
from latentvla_core.viz.site.export import Exported, export_site
from latentvla_core.viz.site.index import stored
from latentvla_core.viz.site.options import ViewOptions

TESTS = Path(__file__).resolve().parent.parent / "tests"
MOST_S, MOST_MB, ROUNDS = 1.0, 2.0, 5


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter of the first page: which field gets which value, and which scenes fit."""

    name: str
    value: str
    fits: Callable[[dict[str, Any]], bool]
    """Given a scene of `scenes_of`."""


def main() -> int:
    """Exit code 1 when a figure misses its target, or a filter finds other scenes than the lake."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--lake", type=Path, help="a lake of your own, e.g. the demo's")
    parser.add_argument("--keep", type=Path, help="folder for the sites; default: a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = asked.keep or Path(folder)
        failed = measure(write_lake(Path(folder) / "lake", asked.scenes), site / "made_up")
        if asked.lake:
            failed += measure(Lake(str(asked.lake)), site / "given")
    return int(failed > 0)


def measure(lake: Lake, site: Path) -> int:
    """Write a lake's site, open it, print the figures; returns how many missed their target."""
    done = export_site(lake, ViewOptions(out=site, width_px=0))
    first = sum(p.stat().st_size for p in [site / "index.html", site / "data" / "index.js"])
    first += sum(p.stat().st_size for p in (site / "assets").iterdir())
    seconds, filters = timings(site, filters_of(lake))
    wrong = _tell(done, first / 1e6, seconds, filters)
    missed = int(seconds > MOST_S) + int(first / 1e6 > MOST_MB)
    return wrong + missed


def _tell(
    done: Exported, megabytes: float, seconds: float, filters: list[tuple[str, float, int, int]]
) -> int:
    """Print; returns how many filters found other scenes than the lake."""
    speed = done.scenes / done.seconds
    print(f"\nscenes                  {done.scenes:,} of {done.logs:,} logs")
    print(f"export                  {done.seconds:.0f} s, {speed:,.0f} scenes/s")
    print(f"first view, size        {megabytes:.2f} MB (at most {MOST_MB:g})")
    print(f"first view, time        {seconds:.2f} s (at most {MOST_S:g})")
    for name, took, found, wanted in filters:
        said = f"{found:,} scenes" if found == wanted else f"{found:,} SCENES, LAKE HAS {wanted:,}"
        print(f"filter {name:<16} {1e3 * took:4.0f} ms, {said}")
    return sum(found != wanted for _, _, found, wanted in filters)


def scenes_of(lake: Lake) -> list[dict[str, Any]]:
    """What the filters ask of each scene, read from the lake's own tables."""
    columns = ("scene_token", "split", "map_location", "command", "ego_velocity_mps", "log_name")
    scenes = {row["scene_token"]: dict(row) for row in lake.rows("scenes", None, columns)}
    for row in scenes.values():
        row |= {"codes": [], "scores": {}, "lost": {}}
    for row in lake.rows("latent_actions"):
        if row["valid"] and row["scene_token"] in scenes:
            scenes[row["scene_token"]]["codes"].append((row["step"], list(row["ego_codes"])))
    for row in lake.rows("pdm_scores"):
        scene = scenes.get(row["scene_token"])
        if scene and row["valid"] and np.isfinite(row["score"]):
            key = (row["trajectory_id"], row["metric_version"])
            scene["scores"][key] = stored(row["score"]) / 200
            names = SUB_SCORES[metric_of(row["metric_version"])]
            scene["lost"][key] = {name for name in names if row[name] < 1}
    return list(scenes.values())


def filters_of(lake: Lake) -> list[tuple[Filter, int]]:
    """Each filter with how many scenes the lake says fit."""
    scenes = scenes_of(lake)
    split, city = scenes[0]["split"], scenes[0]["map_location"]
    codes = [code for scene in scenes for _, four in scene["codes"] for code in four]
    code = int(codes[0]) if codes else 0
    found = [
        Filter("split", split, lambda s: s["split"] == split),
        Filter("city", city, lambda s: s["map_location"] == city),
        Filter("command", "0", lambda s: int(s["command"]) == 0),
        Filter("code", str(code), lambda s: any(code in four for _, four in s["codes"])),
        Filter("sentence", f"{code} *", lambda s: _says(s, code)),
        Filter("slow", "8", lambda s: _speed(s) >= 8.0),
        Filter("text", scenes[0]["log_name"], lambda s: s["log_name"] == scenes[0]["log_name"]),
    ]
    planners = sorted({name for s in scenes for name, _ in s["scores"]})
    if planners:
        key = (planners[-1], next(iter(METRIC_VERSIONS.values())))
        found += [
            Filter("planner", key[0], lambda s: True),
            Filter("high", "0.5", lambda s: s["scores"].get(key, 9) <= 0.5),
        ]
    return [(each, sum(map(each.fits, scenes))) for each in found]


def _says(scene: dict[str, Any], code: int) -> bool:
    """Whether the code stands anywhere but last in the sentence."""
    said = {4 * step + k: c for step, four in scene["codes"] for k, c in enumerate(four)}
    return any(c == code and position < 11 for position, c in said.items())


def _speed(scene: dict[str, Any]) -> float:
    return round(float(np.hypot(*scene["ego_velocity_mps"])) * 100) / 100


def timings(
    site: Path, filters: list[tuple[Filter, int]]
) -> tuple[float, list[tuple[str, float, int, int]]]:
    """Seconds until the list is drawn; of each filter its name, seconds, scenes found and wanted.
    `planner` stays chosen for `high`, which follows it.
    """
    sys.path.insert(0, str(TESTS))
    from chromium import Browser, chromium_path

    if not chromium_path():
        raise SystemExit("error: no Chromium; install it (apt-get install chromium)")
    firsts, told = [], []
    with Browser() as page:
        for _ in range(ROUNDS):
            page.open((site / "index.html").as_uri(), "typeof LV !== 'undefined' && LV.drawn")
            firsts.append(page.js("LV.drawn") / 1e3)
        for each, wanted in filters:
            took = min(page.js(SET % (each.name, each.value)) / 1e3 for _ in range(ROUNDS))
            found = int(page.js("document.querySelector('#count b').textContent").replace(",", ""))
            told.append((each.name, took, found, wanted))
            if each.name != "planner":
                page.js(SET % (each.name, ""))
        if page.errors:
            raise SystemExit(f"error: the page complains: {page.errors}")
    return min(firsts), told


SET = """(() => { const e = document.querySelector('[data-filter=%s]'); e.value = '%s';
const t = performance.now();
e.dispatchEvent(new Event(e.tagName === 'SELECT' ? 'change' : 'input'));
return performance.now() - t; })()
"""

if __name__ == "__main__":
    raise SystemExit(main())
