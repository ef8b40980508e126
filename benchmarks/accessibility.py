"""axe-core over every page of a demo: the browser, its chapters and the report, light and dark, wide
and narrow.

npm pack axe-core@4.11.1 && tar xzf axe-core-4.11.1.tgz
python -m benchmarks.accessibility --axe package/axe.min.js --home .latentvla

Prints every finding; ends with 1 when one is serious or critical. axe-core is not part of this
project and nothing of it is kept here.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latentvla_core.viz.site.files import read_data

TESTS = Path(__file__).resolve().parent.parent / "tests"
READY = "document.body && document.body.dataset.ready"
ASK = """axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations.map((v) =>
  [v.impact, v.id, v.nodes.length, v.nodes[0].html.slice(0, 120)]))"""
STOPS = ("serious", "critical")
SIZES = ((1280, False), (1280, True), (400, False), (400, True))


def main() -> int:
    """Findings of every page at every size and in both themes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--axe", type=Path, required=True, help="axe.min.js")
    parser.add_argument("--home", type=Path, required=True, help="working folder of a demo")
    parser.add_argument("--site", type=Path, help="default: site in HOME")
    asked = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    from chromium import Browser

    axe, worst, looks = asked.axe.read_text(), 0, 0
    pages = list(pages_of(asked.home.absolute(), (asked.site or asked.home / "site").absolute()))
    for width, dark in SIZES:
        with Browser(width, 900, dark=dark) as page:
            for name, url, ready in pages:
                found = findings(page, axe, url, ready)
                looks += 1
                worst += sum(impact in STOPS for impact, *_ in found)
                for impact, rule, count, first in found:
                    theme = "dark" if dark else "light"
                    print(f"{impact:9} {rule} {count}x  {name} {width} {theme}  {first}")
    print(f"{looks} looks at {len(pages)} pages: {worst} serious or critical findings")
    return int(worst > 0)


def findings(page: Any, axe: str, url: str, ready: str) -> list[list[Any]]:
    """[impact, rule, number of elements, the first of them] of one page."""
    page.open(url, ready)
    time.sleep(0.5)  # pictures and drawings follow the page
    page.js(f"{axe};1")
    return page.js(ASK)


def pages_of(home: Path, site: Path) -> Iterator[tuple[str, str, str]]:
    """(name, address, when it is ready) of every kind of page."""
    index, start = read_data(site / "data" / "index.js"), (site / "index.html").as_uri()
    ways = {"scenes": "", "drives": "drives", "codes": "codes", "code": "code/4"}
    ways |= {"compare": "compare", "runs": "runs", "drive": f"drive/{index['logs'][0]['name']}"}
    ways["scene"] = f"scene/{index['tokens'][0]}?at=lost"
    names = [s["planner"] for s in index["scores"]]
    ways["two plans"] = f"scene/{index['tokens'][0]}?plan={names[0]}&versus={names[-1]}"
    if index["runs"]:
        ways["run"] = "run/0?at=lost"
    for name, way in ways.items():
        yield name, f"{start}#/{way}", READY
    for path in (home / "report.html", *sorted((home / "reports").glob("*.html"))):
        yield path.stem, path.as_uri(), "document.readyState === 'complete'"


if __name__ == "__main__":
    raise SystemExit(main())
