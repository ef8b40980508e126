"""One blocking check per asset, generated from the table's declaration: is what was stored what was
declared?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentvla_core.lake.storage import dataset_of
from latentvla_core.lake.store import Lake
from latentvla_core.tables import TABLES, TableSpec
from pipelines.steps.context import Outcome, StageContext
from pipelines.steps.lineage import Stage, place_of

if TYPE_CHECKING:
    import pyarrow as pa

AT_ONCE = 32  # partitions whose keys are in memory together


@dataclass(slots=True)
class Verdict:
    """What a check looked at, and every fault it found."""

    rows: int
    faults: list[str]
    warns: bool = False
    """Its faults are for people to look at; nothing is wrong with the rows."""

    def metadata(self) -> dict[str, Any]:
        return {"rows_checked": self.rows, "faults": "; ".join(self.faults) or "none"}


def verify(lake: Lake, stage: Stage, outcomes: Mapping[str, Outcome]) -> Verdict:
    """Read back what the run is responsible for and compare it with the declaration."""
    spec = TABLES[stage.table]
    tables = (stage.table, *stage.beside)
    faults = [fault for name in tables for fault in schema_faults(lake, TABLES[name])]
    total = 0
    keys = list(outcomes)
    for first in range(0, 0 if faults else len(keys), AT_ONCE):
        part = {key: outcomes[key] for key in keys[first : first + AT_ONCE]}
        rows, found = _faults_of_parts(lake, spec, stage, part)
        total += rows
        faults += found
    return Verdict(total, faults)


def schema_faults(lake: Lake, spec: TableSpec) -> list[str]:
    """Stored columns against declared ones: names, types, partitioning."""
    table = lake.delta(spec.name)
    if table is None:
        return []  # nothing was written: an asset whose shards are all empty
    stored = {f.name: f.type for f in dataset_of(table).schema}
    declared = {f.name: f.type for f in spec.arrow_schema()}
    faults = [f"column {n} is missing" for n in declared if n not in stored]
    faults += [f"column {n} is not declared" for n in stored if n not in declared]
    faults += [
        f"column {n} is stored as {stored[n]}, declared {t}"
        for n, t in declared.items()
        if n in stored and not _same(stored[n], t)
    ]
    if list(table.metadata().partition_columns) != list(spec.partition_by):
        faults.append(
            f"partitioned by {table.metadata().partition_columns}, declared {list(spec.partition_by)}"
        )
    return faults


def _same(stored: Any, declared: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_list(stored) and pa.types.is_list(declared):
        return (
            stored.value_type == declared.value_type
        )  # the item's name differs, which means nothing
    return stored == declared


def complete(lake: Lake) -> Verdict:
    """Was every expected scene scored? One fault per split, planner and metric with a hole, with
    the reasons.
    """
    rows = lake.rows("pdm_summary")
    holes = [row for row in rows if row["num_scored"] < row["num_expected"]]
    faults = [
        f"{row['split']}/{row['trajectory_id']}, {row['metric_version']}: "
        f"scored {row['num_scored']} of {row['num_expected']} ({row['reasons']})"
        for row in holes
    ]
    return Verdict(len(rows), faults)


@dataclass(frozen=True, slots=True)
class FigureVerdict:
    """One figure of a quality report as a check of its own."""

    name: str
    passed: bool
    blocks: bool
    told: str
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FigureChecks:
    """Blocking checks of an asset whose rows are figures with bounds: which there are, and how the
    last report does.
    """

    names: Callable[[], dict[str, str]]
    """Figure → what it says; known without a report."""
    verdicts: Callable[[StageContext], list[FigureVerdict]]


def _faults_of_parts(
    lake: Lake, spec: TableSpec, stage: Stage, outcomes: Mapping[str, Outcome]
) -> tuple[int, list[str]]:
    """Rows and faults of some partitions. One read for all of them: opening a table costs more than
    reading a shard's keys.
    """
    place = ["split", "shard", "made_by"] if stage.partitioned else ["made_by"]
    where: dict[str, Any] = {"made_by": sorted({outcome.made_by for outcome in outcomes.values()})}
    places = [tuple(place_of(key).values()) for key in outcomes]
    wanted = {key: (*at, o.made_by) for at, (key, o) in zip(places, outcomes.items(), strict=True)}
    if stage.partitioned:
        splits, shards = zip(*places, strict=True)
        where |= {"split": sorted(set(splits)), "shard": sorted(set(shards))}
    keys = list(dict.fromkeys([*place, *spec.key]))
    table = lake.read(spec.name, where, keys)
    stored, distinct = _counted(table, place), _counted(table.group_by(keys).aggregate([]), place)
    faults = []
    for key, outcome in outcomes.items():
        rows = stored[wanted[key]]
        if distinct[wanted[key]] < rows:
            faults.append(f"{key or spec.name}: key {spec.key} is not unique")
        if not outcome.skipped and rows != outcome.rows:
            faults.append(
                f"{key or spec.name}: {outcome.rows} rows were written, {rows} are stored"
            )
    return sum(stored[k] for k in wanted.values()), faults


def _counted(table: pa.Table, columns: list[str]) -> Counter[tuple[Any, ...]]:
    """Values of the columns → number of rows."""
    groups = table.group_by(columns).aggregate([([], "count_all")]).to_pylist()
    return Counter({tuple(row[c] for c in columns): row["count_all"] for row in groups})
