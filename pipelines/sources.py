"""Which logs there are: listing the sources of every split, and writing the embedded world when it
is the source.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentvla_core.data import format_of
from latentvla_core.errors import SetupError
from latentvla_core.lake.identity import Looks
from latentvla_core.lake.locks import held
from latentvla_core.recipes import Recipe
from pipelines.settings import Settings, Source
from pipelines.steps.lineage import digest, shard_of, share_of

if TYPE_CHECKING:
    from latentvla_core.data.filters import SceneFilter

MARKER = "made_by.json"  # in the embedded world's folder: which configuration wrote it
LOOKS = "looks"  # in the working folder: what files held when they were last read


def list_logs(settings: Settings) -> list[dict[str, Any]]:
    """Rows of table `logs` (without made_by) for everything the sources offer now, sorted.

    Raises SetupError when one log would be in two of train, val and test, or when two drives have
    one name; it names the folders.
    """
    looks = looks_of(settings)
    rows = [row for source in settings.sources for row in _logs_of(source, settings.shards, looks)]
    places: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        places[row["log_name"]].append(row)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    if twice:
        told = "; ".join(_told_twice(name, found) for name, found in list(twice.items())[:5])
        raise SetupError(
            f"{told}. Splits must not share a log, nor two drives a name: give the sources disjoint"
            " `part`s, remove one of the logs, or give one another `name` in sequence.yaml"
        )
    return sorted(rows, key=lambda row: (row["split"], row["log_name"]))


def _told_twice(name: str, rows: list[dict[str, Any]]) -> str:
    where = sorted({f"{row['path']} (split {row['split']})" for row in rows})
    splits = {row["split"] for row in rows}
    what = f"are in two splits ({', '.join(sorted(splits))})" if len(splits) > 1 else "are two logs"
    return f"logs called {name!r} {what}: {' and '.join(where)}"


def looks_of(settings: Settings) -> Looks:
    """Keys of files, with the notes of this working folder."""
    return Looks(settings.home / LOOKS)


def _logs_of(source: Source, shards: int, looks: Looks) -> list[dict[str, Any]]:
    there = _offered(source)
    named = filter_of(source).log_names if source.filter and there else None
    return [
        _row(source, name, path, shards, looks)
        for name, path in there
        if named is None or name in named
        if source.part[0] <= share_of(name) < source.part[1]
    ]


def _offered(source: Source) -> list[tuple[str, Path]]:
    """(log name, path) of every log a source holds."""
    folder = Path(source.logs)
    if not folder.is_dir():
        return []
    return format_of(source.format).find(folder)


def checked_logs(settings: Settings) -> list[dict[str, Any]]:
    """`list_logs`, when every split has some: what `frames` replaces its rows by.

    A disk that is not mounted must not pass for one without logs. Raises SetupError naming folder
    and remedy.
    """
    _check_folders(settings)
    rows = list_logs(settings)
    filled = {row["split"] for row in rows}
    faults = [_why_empty(source) for source in settings.sources if source.split not in filled]
    if any(faults):
        raise SetupError("; ".join(filter(None, faults)))
    return rows


def _why_empty(source: Source) -> str:
    """Why a split has no logs; "" when only its part of the log names is empty, as that of a small
    val split is.
    """
    there = _offered(source)
    if not there:
        what = f"no {format_of(source.format).what}"
        return f"split {source.split}: {source.logs} holds {what}; download its logs, or leave the split out"
    named = filter_of(source).log_names if source.filter else None
    if named is None or any(name in named for name, _ in there):
        return ""
    return (
        f"split {source.split}: not one of the {len(named)} log_names of filter {source.filter} is among the"
        f" {len(there)} logs in {source.logs} (the first is {there[0][0]}); download them, or name another filter"
    )


def _check_folders(settings: Settings) -> None:
    missing = [f"{s.split}: {s.logs}" for s in settings.sources if not Path(s.logs).is_dir()]
    if missing and settings.embedded and not (settings.home / "world" / MARKER).is_file():
        raise SetupError(
            f"the embedded world is not in {settings.home} yet; materialise asset logs, which writes it"
        )
    if missing:
        raise SetupError(
            f"log folders are missing: {'; '.join(missing)}. Set OPENSCENE_DATA_ROOT (with navsim_logs/trainval and"
            " navsim_logs/test inside) or LATENTVLA_SOURCES, or unset both for the embedded world"
        )


def filter_of(source: Source) -> SceneFilter:
    """The scene filter a source names: a devkit split name, a YAML, or fields."""
    from latentvla_core.data.filters import SceneFilter, load_filter

    if isinstance(source.filter, str):
        return load_filter(source.filter)
    try:
        return SceneFilter(**dict(source.filter))
    except (TypeError, ValueError) as error:
        raise SetupError(
            f"source {source.split}: filter: {error}; use the devkit's scene filter fields"
        ) from error


def _row(source: Source, name: str, path: Path, shards: int, looks: Looks) -> dict[str, Any]:
    kind = format_of(source.format)
    file, own = kind.file(path), source.format == "frames_poses"
    key = looks.tree(path, is_of_sequence if own else bool) if path.is_dir() else looks.file(path)
    return {
        "split": source.split,
        "shard": shard_of(name, shards),
        "log_name": name,
        "format": source.format,
        "path": str(path),
        "sensor_root": source.sensors or str(kind.sensors(path)),
        "maps_root": source.maps,
        "size_bytes": file.stat().st_size if file.is_file() else 0,
        "content_key": key,
    }


def is_of_sequence(name: str) -> bool:
    """Whether a file below a sequence's folder, by its relative name, is the sequence's own: its
    tables and settings, and its pictures. Folders beside frames/ may be other sequences.
    """
    return "/" not in name or name.startswith("frames/")


def prepare(settings: Settings, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Make sure there is something to list: write the embedded world, or say which folder of the
    user's is missing.
    """
    if settings.embedded:
        _write_world(settings, recipe, say)
    filled = {row["split"] for row in checked_logs(settings)}
    for source in settings.sources:
        if source.split not in filled:
            say(
                f"split {source.split} has no logs: no log name in {source.logs} falls into its part {source.part}"
            )


def world_is_current(settings: Settings, recipe: Recipe) -> bool:
    """True when the embedded world on disk is complete and is the one this recipe describes."""
    note = settings.home / "world" / MARKER
    return note.is_file() and json.loads(note.read_text())["made_by"] == digest(recipe.world)


def _write_world(settings: Settings, recipe: Recipe, say: Callable[[str], None]) -> None:
    final = settings.home / "world"
    if world_is_current(settings, recipe):
        return
    with held(final, say):
        if not world_is_current(settings, recipe):  # another process may have written it meanwhile
            _write_world_to(final, recipe, say)


def _write_world_to(final: Path, recipe: Recipe, say: Callable[[str], None]) -> None:
    from latentvla_core.training.sinks import ProgressSink
    from latentvla_core.world.write import write_world

    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    say(f"writing the embedded world to {final}")
    started = time.monotonic()
    with ProgressSink("world (frames)") as sink:

        def show(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-3)
            sink.log(done, {"progress": done / total, "samples_per_s": rate})

        write_world(partial, recipe.world, show)
    (partial / MARKER).write_text(
        json.dumps({"made_by": digest(recipe.world), "recipe": recipe.name})
    )
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
