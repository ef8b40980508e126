"""What depends on what, and whether it is still true: the stage graph, fingerprints, and the record
of finished work.

A *fingerprint* is a hash of code version, schema version, the recipe's sections a stage reads, and
the fingerprints of its inputs. It is the data version Dagster sees and the `made_by` of every row;
equal fingerprints mean equal rows, so work whose fingerprint is already recorded is not done again,
whoever did it and however the last run ended.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from latentvla_core.lake.store import Lake
from latentvla_core.tables import TABLES
from latentvla_core.training import FREE

UNPARTITIONED = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One asset: a table of shards, an unpartitioned table, or a model."""

    name: str
    run: Callable[..., Any]
    kind: str
    """shards, table or model."""
    table: str
    deps: tuple[str, ...]
    group: str
    doc: str
    recipe: tuple[str, ...] = ()
    """Sections of the recipe that change the result."""
    code_version: str = "1"
    reads: tuple[str, ...] = ()
    """Splits an unpartitioned stage reads of partitioned inputs; empty = all. What a training is
    only reported on is not among them: a new val log trains nothing anew.
    """
    gates: tuple[str, ...] = ()
    """Stages that must have approved the inputs. They order work and may refuse it, but do not
    change its result, so a moved threshold redoes nothing.
    """
    approve: Callable[[Any], None] | None = None
    """Of a gate: raises, given the engine, when what follows must not run."""
    beside: tuple[str, ...] = ()
    """Tables that are written with its own, since one piece of work makes both."""
    kinds: tuple[str, ...] = ()
    heavy: bool = False
    """True: takes a place in the `gpu` pool."""
    files: tuple[str, ...] = ()
    """Kinds of files it reads beside tables (steps/inputs.py): logs, maps, filter, and pictures as
    front, cameras or sensors. Their contents are part of its fingerprint.
    """
    after: tuple[str, ...] = ()
    """Stages that must be done before, whose result is not part of its fingerprint."""
    prepare: Callable[[Any], None] | None = None
    """Given the engine, before it is asked whether the work is still true: writes what it lists."""
    picture: Callable[[Any, list[str]], bytes | list[bytes]] | None = None
    """Given the engine and the partitions just made: PNGs for the UI."""
    checks: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    """Beside the schema's, by name, given the lake: they report and do not block."""
    figures: Any = None
    """`checks.FigureChecks` of a report whose rows are figures with bounds."""
    family: str = ""
    """Of a model: which room loads it; empty: the stage's own name."""
    late: bool = False
    """True: begins after everything else that is ready, because what it waits for is being made
    beside the line.
    """

    @property
    def partitioned(self) -> bool:
        return self.kind == "shards"


def partition_key(split: str, shard: int) -> str:
    """Name of the partition that is one shard of a split."""
    return f"{split}-{shard:02d}"


def place_of(partition: str) -> dict[str, Any]:
    """`partition_key` backwards, as the condition on split and shard; {} for the whole of an
    unpartitioned table.
    """
    split, _, shard = partition.rpartition("-")
    return {"split": split, "shard": int(shard)} if partition != UNPARTITIONED else {}


def shard_of(log_name: str, shards: int) -> int:
    """Shard of a log: CRC-32, stable over machines and Python releases."""
    return zlib.crc32(log_name.encode()) % shards


def share_of(log_name: str) -> float:
    """Position of a log in [0, 1), for splitting one folder into parts; independent of its shard."""
    return (zlib.crc32(b"part:" + log_name.encode()) % 100_000) / 100_000


def digest(*parts: Any) -> str:
    """Sixteen hex characters over JSON-able parts; dataclasses by their fields, less those that
    change no result.
    """
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in FREE
        }
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


def fingerprint(
    stage: Stage,
    partition: str,
    recipe: Any,
    partitions: Iterable[str],
    stages: Mapping[str, Stage],
    made_by: Callable[[str, str], str],
    files_key: Callable[[str, str], str],
) -> str:
    """Fingerprint of one piece of work, given those of its inputs (`made_by(asset, partition)`)."""
    inputs = [
        (dep, part, made_by(dep, part))
        for dep in stage.deps
        for part in _inputs_of(stage, partition, stages[dep], partitions)
    ]
    sections = {
        name: with_contents(getattr(recipe, name), lambda path: files_key("weights", path))
        for name in stage.recipe
    }
    scope = scope_of(stage, partition, partitions)
    files = {kind: [files_key(kind, part) for part in scope] for kind in stage.files}
    schemas = [TABLES[table].version for table in (stage.table, *stage.beside)]
    version = schemas if stage.beside else schemas[0]
    return digest(stage.name, stage.code_version, version, sections, inputs, files)


WEIGHT_FOLDERS = ("pretrained_path", "backbone_path", "backbone", "image_weights")
"""Fields of configurations that name a local folder or file of weights; its content counts, not its
path.
"""


def with_contents(section: Any, key_of: Callable[[str], str]) -> Any:
    """A section of the recipe as plain values, with the key of each folder of weights in place of
    its path. Names that are no path, such as that of a packaged encoder, stay.
    """
    if dataclasses.is_dataclass(section) and not isinstance(section, type):
        return {
            f.name: key_of(value) if f.name in WEIGHT_FOLDERS and _is_path(value) else
            with_contents(value, key_of)
            for f in dataclasses.fields(section)
            if f.name not in FREE
            for value in (getattr(section, f.name),)
        }  # fmt: skip
    return section


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value != "" and Path(value).expanduser().exists()


def scope_of(stage: Stage, partition: str, partitions: Iterable[str]) -> list[str]:
    """The partitions whose files a piece of work reads: its own; those of the splits it reads."""
    if stage.partitioned or not stage.reads:
        return [partition]
    return [p for p in partitions if place_of(p)["split"] in stage.reads]


def _inputs_of(stage: Stage, partition: str, dep: Stage, partitions: Iterable[str]) -> list[str]:
    if not dep.partitioned:
        return [UNPARTITIONED]
    if stage.partitioned:
        return [partition]
    return [p for p in partitions if not stage.reads or place_of(p)["split"] in stage.reads]


@dataclass(slots=True)
class Ledger:
    """The `materialisations` table: the latest finished work per (asset, partition)."""

    lake: Lake
    latest: dict[tuple[str, str], dict[str, Any]]

    @staticmethod
    def load(lake: Lake) -> Ledger:
        rows = lake.rows("materialisations")
        rows.sort(key=lambda row: row["finished_us"])
        return Ledger(lake, {(row["asset"], row["partition"]): row for row in rows})

    def made_by(self, asset: str, partition: str) -> str:
        row = self.latest.get((asset, partition))
        return row["made_by"] if row else "absent"

    def rows_of(self, asset: str, partition: str) -> int:
        """How many rows the latest finished work wrote."""
        return self.latest[asset, partition]["rows"]

    def seconds_of(self, asset: str) -> dict[str, float]:
        """Partition → how long its latest finished work took."""
        rows = {part: row for (name, part), row in self.latest.items() if name == asset}
        return {part: float(row.get("seconds") or 0.0) for part, row in rows.items()}

    def next_us(self, now_us: int) -> int:
        """When work that ends now is said to have ended: after all other work, also on a clock that
        was set back, so that the latest is the latest.
        """
        last = max((row.get("finished_us", 0) for row in self.latest.values()), default=0)
        return max(now_us, last + 1)

    def record(self, row: dict[str, Any]) -> None:
        self.lake.append("materialisations", [row])
        self.latest[(row["asset"], row["partition"])] = row


def stale_work(
    stages: Mapping[str, Stage],
    recipe: Any,
    partitions: tuple[str, ...],
    ledger: Ledger,
    files_key: Callable[[str, str], str],
    selected: Iterable[str] | None = None,
    is_there: Callable[[Stage, str], bool] = lambda stage, partition: True,
) -> list[tuple[str, str]]:
    """(asset, partition) pairs that a run of the selected assets would do, in order; empty when all
    are up to date.

    Assets that are not selected count as they are: a run does not touch them.
    """
    chosen = set(stages) if selected is None else set(selected)
    expected: dict[tuple[str, str], str] = {}
    stale = []
    for stage in stages.values():  # insertion order is topological
        for part in partitions if stage.partitioned else (UNPARTITIONED,):
            there = ledger.made_by(stage.name, part)
            expected[stage.name, part] = there
            if stage.name in chosen:
                made = fingerprint(
                    stage, part, recipe, partitions, stages, lambda a, p: expected[a, p], files_key
                )
                expected[stage.name, part] = made
                if there != made or not is_there(stage, part):
                    stale.append((stage.name, part))
    return stale


@lru_cache(maxsize=1)
def git_commit() -> str:
    """Commit of the checkout the code runs from, `+` when it has changes; empty outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
