"""How long the browser's first page takes with 10 000 scenes, and how large it is.

python -m benchmarks.site [--scenes 10000] [--keep DIR]

Needs Chromium (apt-get install chromium). The page is opened from disk; "first view" is from the
start of the navigation until the list of scenes is drawn, by the page's own clock, best of five.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.site_lake import write_lake

TESTS = Path(__file__).resolve().parent.parent / "tests"
MOST_S, MOST_MB = 1.0, 2.0


def main() -> int:
    """Exit code 1 when a figure misses its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="folder for the site; default: a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = asked.keep or Path(folder) / "site"
        return measure(Path(folder), site, asked.scenes)


def measure(folder: Path, site: Path, num_scenes: int) -> int:
    """Write a lake and its site, open it, and print the figures."""
    from latentvla_core.viz.site.export import export_site
    from latentvla_core.viz.site.options import ViewOptions

    lake = write_lake(folder / "lake", num_scenes)
    done = export_site(lake, ViewOptions(out=site, width_px=0))
    first = sum(p.stat().st_size for p in [site / "index.html", site / "data" / "index.js"])
    first += sum(p.stat().st_size for p in (site / "assets").iterdir())
    print(f"scenes                  {done.scenes:,} of {done.logs:,} logs")
    print(
        f"export                  {done.seconds:.0f} s, {done.scenes / done.seconds:,.0f} scenes/s"
    )
    print(f"first view, size        {first / 1e6:.2f} MB (at most {MOST_MB:g})")
    seconds, filtered = timings(site)
    print(f"first view, time        {seconds:.2f} s (at most {MOST_S:g})")
    print(f"one filter              {filtered:.3f} s")
    return int(seconds > MOST_S or first / 1e6 > MOST_MB)


def timings(site: Path) -> tuple[float, float]:
    """Seconds until the list is drawn, and seconds of one change of a filter; the best of five."""
    sys.path.insert(0, str(TESTS))
    from chromium import Browser, chromium_path

    if not chromium_path():
        raise SystemExit("error: no Chromium; install it (apt-get install chromium)")
    firsts, filters = [], []
    with Browser() as page:
        for _ in range(5):
            page.open((site / "index.html").as_uri(), "typeof LV !== 'undefined' && LV.drawn")
            firsts.append(page.js("LV.drawn") / 1e3)
            filters.append(page.js(FILTER) / 1e3)
        if page.errors:
            raise SystemExit(f"error: the page complains: {page.errors}")
    return min(firsts), min(filters)


FILTER = """(() => { const e = document.querySelector('[data-filter=sentence]'); e.value = '4 *';
const t = performance.now(); e.dispatchEvent(new Event('input')); return performance.now() - t; })()
"""

if __name__ == "__main__":
    raise SystemExit(main())
