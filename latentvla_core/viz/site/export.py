"""Writes a site: log by log, then the index, the codes and the chapters."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from latentvla_core import __version__
from latentvla_core.errors import SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.pdms.world import World
from latentvla_core.types import CODEBOOK_SIZE
from latentvla_core.viz.runs.pages import write_runs
from latentvla_core.viz.runs.source import RUNS, sources_of
from latentvla_core.viz.site.chapters import write_chapters
from latentvla_core.viz.site.code_pages import CodePages, code_facts
from latentvla_core.viz.site.files import file_name, write_data
from latentvla_core.viz.site.index import Index
from latentvla_core.viz.site.older import add_older, older_versions
from latentvla_core.viz.site.options import ViewOptions
from latentvla_core.viz.site.pictures import camera_sizes, write_pictures
from latentvla_core.viz.site.read import LogRows, chosen_scenes, read_log
from latentvla_core.viz.site.scene_page import drive_data, frame_numbers, scene_data, window_of

MARK = ".latentvla-site"
"""A file that says a folder is a site, so that only sites are overwritten."""
Progress = Callable[[int, int], None]


@dataclass
class Exported:
    """What was written."""

    out: Path
    scenes: int = 0
    logs: int = 0
    seconds: float = 0.0
    refused: list[str] = field(default_factory=list)
    """Pictures that could not be read, with the file and why."""


def export_site(
    lake: Lake,
    options: ViewOptions,
    *,
    chapters: Mapping[str, Path] | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write the site of a lake to `options.out`.

    Args:
        chapters: name of a chapter → the HTML page to take in (atlas, quality, report).
        progress: called with scenes done and scenes in all.
    Raises:
        DataError: no scene fits, and there are no runs alone.
        SetupError: `out` holds something that is no site.
    """
    started = time.monotonic()
    chosen = {} if _has_runs_alone(lake, options) else chosen_scenes(lake, options)
    _make_room(options.out)
    done = Exported(options.out, logs=len(chosen))
    index, codes = Index(), CodePages()
    total = sum(len(tokens) for tokens in chosen.values())
    model, older = "", older_versions(lake, options.also)
    for place in sorted(chosen, key=lambda p: (p[0], p[2])):
        log = read_log(lake, place, chosen[place])
        add_older(log, older)
        model = _write_log(log, options, index, codes, done) or model
        done.scenes += len(log.records)
        if progress:
            progress(done.scenes, total)
    for code in range(CODEBOOK_SIZE):
        write_data(options.out, f"codes/{code}", codes.data(code))
    facts = {
        "codes": code_facts(lake, model),
        "label_model": model,
        "chapters": write_chapters(options.out, chapters or {}),
        "runs": _runs(lake, options),
        **_facts(options),
    }
    write_data(options.out, "index", index.data(facts))
    done.seconds = time.monotonic() - started
    return done


def _has_runs_alone(lake: Lake, options: ViewOptions) -> bool:
    """Whether everything is asked for and there are runs and no scenes: drives of the floors need
    no logs.
    """
    if options.log or options.where or lake.version("scenes") >= 0:
        return False
    return options.runs is not None or lake.version(RUNS) >= 0


def _runs(lake: Lake, options: ViewOptions) -> list[dict[str, Any]]:
    """Closed-loop runs of the lake and of a folder, except where one log alone is asked for."""
    sources = [] if options.log else sources_of(lake, options.runs)
    return write_runs(options.out, sources, options.run_pictures if options.width_px else 0)


def _facts(options: ViewOptions) -> dict[str, Any]:
    """What the page says of itself."""
    return {
        "version": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "where": options.where,
        "cameras": list(options.cameras if options.width_px else ()),
        "pages": options.scenes,
    }


def _make_room(out: Path) -> None:
    """An empty folder with the assets in it. Raises SetupError for a folder that is no site."""
    if out.is_file():
        raise SetupError(f"--out {out} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise SetupError(f"--out {out} holds other files; give a new folder, or one of a site")
    for name in ("data", "pictures", "assets", "chapters"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text("written by latentvla view; overwritten by the next one\n")
    (out / "assets").mkdir()
    for asset in files("latentvla_core.viz.site").joinpath("assets").iterdir():
        target = out / asset.name if asset.name == "index.html" else out / "assets" / asset.name
        target.write_bytes(asset.read_bytes())


def _write_log(
    log: LogRows, options: ViewOptions, index: Index, codes: CodePages, done: Exported
) -> str:
    """Pages and pictures of one log; returns the model that gave its labels."""
    numbers = frame_numbers(log)
    first_scene = len(index.rows)
    index.add_log(log, numbers)
    codes.add_log(log, first_scene)
    shown = {number for record in log.records for number in window_of(record, numbers)}
    done.refused += write_pictures(log, options, shown)
    if options.scenes:
        _write_scenes(log, numbers, options)
    rows = next(iter(log.labels.values()), [])
    return rows[0]["model_version"] if rows else ""


def _write_scenes(log: LogRows, numbers: dict[str, int], options: ViewOptions) -> None:
    sizes = camera_sizes(log)
    rows = {token: row for token, row in log.worlds.items() if row["valid"]}
    worlds = {token: World.from_row(row) for token, row in rows.items()}
    for record in log.records:
        page = scene_data(log, record, numbers, sizes, worlds)
        write_data(options.out, f"scenes/{file_name(record.scene_token)}", page)
    write_data(options.out, f"drives/{file_name(log.name)}", drive_data(log, numbers))
