"""The pictures of README and docs, taken from the running product.

python -m benchmarks.screenshots --home HOME [--out docs/images] [--runs DIR] [--only site]

HOME is the working folder of a demo. Starts Dagster, MLflow and the browser as `make ui` does,
walks through them in Chromium and writes one picture each. Nothing is drawn by hand but the
README's first picture, which puts two of them below each other.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latentvla_core.lake.store import Lake
from latentvla_core.viz.report.worst import worst_plans

TESTS = Path(__file__).resolve().parent.parent / "tests"
MOST_BYTES = 300_000
READY = "document.body && document.body.dataset.ready"
MENUS = (545, 122)  # pixels of Dagster's own, left and above
DARKER = 2.6  # of the lines of the graph
TILE = (340, 191)  # of the world's pictures
DARK, MARGIN = 150, 36  # grey below which a pixel belongs to the graph; pixels left around it
STEPS = ((88, 256, 1.0), (82, 128, 1.0), (76, 64, 1.0), (68, 128, 0.75), (60, 64, 0.75))
"""Quality of a JPEG, colours and scale of a PNG, tried in turn."""


def main() -> int:
    """Write every picture; a page that cannot be opened stops with its name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument(
        "--runs", type=Path, help="folder of latentvla drive, beside the lake's runs"
    )
    parser.add_argument("--only", choices=("site", "servers"), help="one half of the pictures")
    parser.add_argument("--port", type=int, default=3700, help="of Dagster; others as in make ui")
    asked = parser.parse_args()
    asked.home = asked.home.absolute()
    asked.out.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(TESTS))
    from chromium import Browser

    with Browser(1280, 860) as page:
        if asked.only != "servers":
            scene = take_site(page, asked.home, asked.runs, asked.out)
        if asked.only != "site":
            with served(asked.home, asked.port):
                graph = take_servers(page, asked.port, asked.out)
    if not asked.only:
        hero(graph, scene, asked.out / "hero.jpg")
    return 0


def take_site(page: Any, home: Path, runs: Path | None, out: Path) -> Any:
    """The browser, its chapters and the report, from disk; returns the picture of a scene."""
    from latentvla_core.viz.site.command import pages_of
    from latentvla_core.viz.site.export import export_site
    from latentvla_core.viz.site.files import read_data
    from latentvla_core.viz.site.options import ViewOptions

    lake = Lake(str(home / "lake"))
    world(lake, out / "world.png")
    site = home / "pictures_site"
    options = ViewOptions(out=site, where="split = 'test'", runs=runs, run_pictures=4)
    export_site(lake, options, chapters=pages_of(home))
    url = (site / "index.html").as_uri()
    worst = worst_plans(lake, {"split": "test"}, "pdms", 1, with_cameras=False)[0]
    take(page, f"{url}#/", out / "browser_scenes.jpg")
    take(page, f"{url}#/{worst.address.partition('#/')[2]}", out / "browser_moment.jpg")
    page.resize(1280, 1180)
    scene = take(page, f"{url}#/{worst.address.partition('#/')[2]}", out / "scene.png")
    page.resize(1280, 860)
    if runs or lake.version("closed_loop_runs") >= 0:
        found = read_data(site / "data" / "index.js")["runs"]
        seen = next((run["run"] for run in found if run["pictures"]), 0)
        take(page, f"{url}#/run/{seen}?at=lost", out / "browser_run.jpg")
    page.resize(1100, 860)
    for chapter in ("atlas", "quality"):
        take(page, pages_of(home)[chapter].as_uri(), out / f"{chapter}.png", "true")
    page.resize(1180, 1000)
    take(page, (home / "report.html").as_uri(), out / "report.png", "true")
    page.resize(1280, 860)
    return scene


def take_servers(page: Any, port: int, out: Path) -> Any:
    """Dagster's graph and one asset, MLflow's card of a model; returns the graph's picture."""
    dagster, mlflow = f"http://localhost:{port}", f"http://localhost:{port + 2000}"
    page.resize(2400, 1900)  # tall enough for the whole graph
    drawn = "document.querySelectorAll('path').length > 30"  # its edges come last
    shot = take(page, f"{dagster}/asset-groups", out / "lineage.png", drawn, settle_s=9)
    graph = graph_alone(shot)
    save(graph, out / "lineage.png")
    page.resize(1280, 860)
    take(page, f"{dagster}/assets/pdm_summary", out / "asset.png", "true", settle_s=8)
    page.resize(1600, 980)  # MLflow puts an assistant beside the page, which is cut off again
    take(page, f"{mlflow}/#/models/ipad_student/versions/1", out / "mlflow.png", "true", 8)
    cut(out / "mlflow.png", 0.74)
    return graph


def world(lake: Lake, path: Path) -> None:
    """What the front camera saw half-way through six drives, side by side."""
    from PIL import Image

    drives: dict[str, list[dict[str, Any]]] = {}
    for row in lake.rows("scenes"):
        drives.setdefault(row["log_name"], []).append(row)
    tiles = Image.new("RGB", (3 * TILE[0] + 4, 2 * TILE[1] + 2), "white")
    for number, name in enumerate(sorted(drives)[:6]):
        rows = sorted(drives[name], key=lambda row: row["timestamp_us"])
        scene = rows[len(rows) // 2]
        seen = scene["camera_paths"][list(scene["camera_names"]).index("CAM_F0")]
        with Image.open(Path(scene["sensor_root"]) / seen) as picture:
            place = (number % 3 * (TILE[0] + 2), number // 3 * (TILE[1] + 2))
            tiles.paste(picture.convert("RGB").resize(TILE), place)
    save(tiles, path)


def take(page: Any, url: str, path: Path, ready: str = READY, settle_s: float = 1.5) -> Any:
    """One window as a picture of at most MOST_BYTES; returns it as it was before that."""
    from PIL import Image

    page.open(url, ready)
    time.sleep(settle_s)
    shot = path.with_suffix(".shot.png")
    page.picture(shot)
    with Image.open(shot) as image:
        whole = image.convert("RGB")
    save(whole, path)
    shot.unlink()
    print(f"{path}  {path.stat().st_size / 1e3:.0f} kB", flush=True)
    return whole


def save(image: Any, path: Path) -> None:
    """As the suffix says, as good as fits: JPEGs lose quality, PNGs colours and then size."""
    for quality, colours, scale in STEPS:
        buffer = io.BytesIO()
        small = image.resize((round(image.width * scale), round(image.height * scale)))
        if path.suffix == ".jpg":
            image.save(buffer, "JPEG", quality=quality, optimize=True)
        else:
            small.quantize(colours).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    path.write_bytes(buffer.getvalue())


def hero(graph: Any, scene: Any, path: Path) -> None:
    """The graph above a scene with plans: what the project is, in one picture."""
    from PIL import Image

    graph = graph.resize((scene.width, round(scene.width * graph.height / graph.width)))
    whole = Image.new("RGB", (scene.width, graph.height + scene.height), "white")
    whole.paste(graph, (0, 0))
    whole.paste(scene, (0, graph.height))
    save(whole, path)


def cut(path: Path, share: float) -> None:
    """Keep the left part of a picture."""
    from PIL import Image

    with Image.open(path) as image:
        whole = image.convert("RGB")
    save(whole.crop((0, 0, round(share * whole.width), whole.height)), path)


def graph_alone(whole: Any) -> Any:
    """Dagster's menus cut away: the graph with a margin, its pale lines darker."""
    w, h = whole.size
    area = whole.crop((*MENUS, w - 46, h))
    left, top, right, bottom = area.convert("L").point(lambda v: 255 * (v < DARK)).getbbox()
    ends = (min(area.width, right + MARGIN), min(area.height, bottom + MARGIN))
    graph = area.crop((max(0, left - MARGIN), max(0, top - MARGIN), *ends))
    return graph.point(lambda v: max(0, 255 - round(DARKER * max(0, 250 - v))))


@contextmanager
def served(home: Path, port: int) -> Iterator[None]:
    """`make ui` of a working folder until the block ends."""
    env = {**os.environ, "LATENTVLA_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.ui", "--port", str(port)],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for each in (port, port + 2000):
            _wait(f"http://localhost:{each}/", process)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def _wait(url: str, process: subprocess.Popen[bytes], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(1.0)
    raise SystemExit(f"error: {url} never answered; run make ui to see why")


if __name__ == "__main__":
    raise SystemExit(main())
