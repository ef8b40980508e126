"""Ten million labels: how long one log, a histogram over everything, and keeping the table compact
take.

    python -m benchmarks.label_table --rows 10_000_000

Rows are random and written shard after shard into a temporary folder that is removed at the end.
Seconds are wall time of the median of several tries and CPU seconds, since the machine may do other
work.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import write_deltalake

from latentvla_core.lake.layout import file_layout
from latentvla_core.lake.maintenance import compact
from latentvla_core.lake.store import Lake
from latentvla_core.tables import TABLES
from pipelines.steps.lineage import shard_of

SPEC = TABLES["latent_actions"]
SPLITS, SHARDS, MODEL = ("train", "val", "test"), 64, "91a92d5ebb700ce8"
LOG_ROWS = 1440  # four minutes at 2 Hz, three transitions a scene
HISTOGRAM = "select code, count(*) as times from (select unnest(ego_codes) as code from latent_actions) group by code"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--writes", type=int, default=2, help="files per shard before compaction")
    args = parser.parse_args()
    os.nice(10)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a stopped run also removes its folder
    with tempfile.TemporaryDirectory(prefix="labels-") as folder:
        lake = Lake(folder)
        began, cpu = time.perf_counter(), time.process_time()
        logs = fill(lake, args.rows, args.writes)
        stored = size_of(folder)
        rows = sum(lake.counts("latent_actions", ("split",)).values())
        print(
            f"wrote {rows:,} rows of {len(logs):,} logs, {stored / 1e6:,.0f} MB", *took(began, cpu)
        )
        report(lake, logs, "small files")
        compacted(lake)
        report(lake, logs, "compacted")
        compacted(lake)


def compacted(lake: Lake) -> None:
    """Compact the table; a second time nothing is left to do. Peaks of memory are those of the
    process so far.
    """
    peak, version = peak_gb(), lake.version("latent_actions")
    began, cpu = time.perf_counter(), time.process_time()
    print(compact(lake, ["latent_actions"])[0], *took(began, cpu))
    print(
        f"  {lake.version('latent_actions') - version} transactions, peak memory {peak:.2f} → {peak_gb():.2f} GB"
    )


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def took(began: float, cpu: float) -> tuple[str, str]:
    return f"in {time.perf_counter() - began:.1f} s", f"({time.process_time() - cpu:.1f} CPU-s)"


def size_of(folder: str) -> int:
    return sum(
        os.path.getsize(os.path.join(at, name))
        for at, _, names in os.walk(folder)
        for name in names
    )


def fill(lake: Lake, rows: int, writes: int) -> dict[str, tuple[str, int]]:
    """Write the table; returns log → (split, shard)."""
    lake.replace("latent_actions", [], {"split": "train", "shard": 0, "model_version": MODEL})
    logs: dict[str, tuple[str, int]] = {}
    by_shard: dict[tuple[str, int], list[str]] = {}
    for i in range(-(-rows // LOG_ROWS)):
        name, split = (
            f"2021.{i % 12 + 1:02d}.{i % 28 + 1:02d}.12.00.00_veh-{i % 60}_{i:06d}",
            SPLITS[i % 10 // 8 + i % 10 // 9],
        )
        logs[name] = (split, shard_of(name, SHARDS))
        by_shard.setdefault(logs[name], []).append(name)
    unsaid = {
        **dict.fromkeys(
            ("format", "path", "sensor_root", "maps_root", "content_key", "made_by"), ""
        ),
        "size_bytes": 0,
    }
    places = [
        {"log_name": name, "split": split, "shard": shard, **unsaid}
        for name, (split, shard) in logs.items()
    ]
    lake.replace("logs", places, {})
    rng, table = np.random.default_rng(0), lake.delta("latent_actions")
    assert table is not None
    for (split, shard), names in sorted(by_shard.items()):
        for part in np.array_split(sorted(names), writes):
            if len(part):
                rows_of_part = shard_rows(rng, split, shard, list(part))
                write_deltalake(table, rows_of_part, mode="append", writer_properties=file_layout())
    return logs


def shard_rows(rng: np.random.Generator, split: str, shard: int, names: list[str]) -> pa.Table:
    """Random labels of some logs, in order of log and time as the line writes them."""
    n = LOG_ROWS * len(names)
    at = np.arange(n)
    fours = (np.arange(n + 1) * 4).astype(np.int32)

    def lists(values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(fours), pa.array(values))

    def same(text: str) -> pa.Array:
        return pa.repeat(pa.scalar(text), n)

    scenes = [f"{v:016x}" for v in rng.integers(0, 2**63, -(-n // 3))]
    columns: dict[str, Any] = {
        "split": same(split),
        "shard": pa.array(np.full(n, shard, np.int32)),
        "scene_token": pa.array(scenes).take(pa.array(at // 3)),
        "log_name": pa.array(names).take(pa.array(at // LOG_ROWS)),
        "timestamp_us": 1_620_000_000_000_000 + at // 3 * 500_000 + at % 3 * 1_000_000,
        "step": (at % 3).astype(np.int8),
        "gap_s": np.ones(n),
        "ego_codes": lists(rng.integers(0, 16, 4 * n, np.int8)),
        "environment_codes": lists(rng.integers(0, 16, 4 * n, np.int8)),
        "ego_distances": lists(rng.random(4 * n, np.float32)),
        "ego_confidence": lists(rng.random(4 * n, np.float32)),
        "training_distance": rng.random(n, np.float32),
        **{
            name: rng.standard_normal(n, np.float32)
            for name in ("speed_mps", "delta_speed_mps", "forward_m", "delta_heading_rad")
        },
        "valid": np.ones(n, bool),
        "reason": same(""),
        "model_version": same(MODEL),
        "data_version": same("data"),
        "made_by": same("made"),
    }
    return pa.table([pa.array(columns[name]) for name in SPEC.names], schema=SPEC.arrow_schema())


def report(lake: Lake, logs: dict[str, tuple[str, int]], state: str) -> None:
    """What a person waits for."""
    name = sorted(logs)[len(logs) // 2]
    split, shard = logs[name]
    place = {"split": split, "shard": shard, "log_name": name}
    print(f"-- {state}")
    for title, where in (
        ("one log, shard known", place),
        ("one log, by name alone", {"log_name": name}),
    ):
        rows = lake.read("latent_actions", where).num_rows
        wall, cpu = timed(lambda where=where: lake.read("latent_actions", where), 7)
        touched, every = files_touched(lake, where)
        print(
            f"{title}: {rows} rows, {wall * 1e3:.0f} ms ({cpu * 1e3:.0f} CPU-ms), {touched} of {every} files"
        )
    wall, cpu = timed(lambda: lake.read("latent_actions", lake.place_of_log(name)), 7)
    print(f"one log, its shard looked up in `logs`: {wall * 1e3:.0f} ms ({cpu * 1e3:.0f} CPU-ms)")
    wall, cpu = timed(lambda: lake.delta("latent_actions"), 7)
    print(f"of that, opening the table: {wall * 1e3:.0f} ms ({cpu * 1e3:.0f} CPU-ms)")
    wall, cpu = timed(lambda: lake.rows("latent_actions", place), 7)
    print(
        f"one log, shard known, as rows with arrays: {wall * 1e3:.0f} ms ({cpu * 1e3:.0f} CPU-ms)"
    )
    codes = lake.read("latent_actions", place, ["ego_codes"])
    wall, cpu = timed(lambda: lake.read("latent_actions", place, ["ego_codes"]), 7)
    print(
        f"one log, codes alone: {codes.num_rows} rows, {wall * 1e3:.0f} ms ({cpu * 1e3:.0f} CPU-ms)"
    )
    query = f"select ego_codes from latent_actions where split = '{split}' and shard = {shard} and log_name = '{name}'"
    wall, cpu = timed(lambda: lake.sql(query), 5)
    print(f"one log, SQL: {wall * 1e3:.0f} ms ({cpu * 1e3:.0f} CPU-ms)")
    wall, cpu = timed(lambda: lake.sql(HISTOGRAM), 1)
    print(f"histogram of all codes, SQL: {wall:.1f} s ({cpu:.1f} CPU-s)")
    wall, cpu = timed(lambda: lake.counts("latent_actions", ("split", "shard")), 3)
    print(f"rows per shard, from the log alone: {wall * 1e3:.0f} ms ({cpu * 1e3:.0f} CPU-ms)")


def timed(work: Callable[[], Any], tries: int) -> tuple[float, float]:
    """Median wall and CPU seconds."""
    walls, cpus = [], []
    for _ in range(tries):
        began, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - began)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def files_touched(lake: Lake, where: dict[str, Any]) -> tuple[int, int]:
    """Files that can hold such rows, by partition and statistics; and all."""
    table = lake.delta("latent_actions")
    assert table is not None
    data = table.to_pyarrow_dataset()
    terms = [ds.field(column) == value for column, value in where.items()]
    condition = terms[0]
    for term in terms[1:]:
        condition = condition & term
    return len(list(data.get_fragments(condition))), len(list(data.get_fragments()))


if __name__ == "__main__":
    main()
