"""ingest: which logs there are, and their frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentvla_core.data import format_of
from latentvla_core.errors import DataError, DataFaults
from latentvla_core.types import Frame
from pipelines.steps import declare
from pipelines.steps.context import Output, StageContext
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import partition_key


@declare.table(
    prepare=Engine.write_sources,
    files=("logs",),
    deps=(),
    group="ingest",
    recipe=(),
    kinds=("deltalake",),
)
def logs(context: StageContext) -> Output:
    """Every driving log the sources offer, with the split it belongs to. Writes the embedded world
    first, if that is the source.

    Train, val and test never share a log: the listing refuses to.
    """
    counts = {s: sum(row["split"] == s for row in context.listing) for s in context.settings.splits}
    return Output(context.listing, metadata={f"logs/{split}": n for split, n in counts.items()})


@declare.shards(files=("logs",), after=("logs",), group="ingest", kinds=("deltalake",))
def frames(context: StageContext, partition: str) -> Output:
    """Key frames of the shard's logs: ego, route, lights, objects, and references to pictures and
    lidar (never copies).

    A frame that breaks the format goes to `quarantine` with file, frame and field; the rest of its
    log is kept.
    """
    from latentvla_core.data.frame_rows import row_from_frame

    rows: list[dict[str, Any]] = []
    refused: list[DataError] = []
    names = {log["log_name"] for log in context.listing}
    for log in context.listing:
        if partition_key(log["split"], log["shard"]) == partition:
            found, faults = without_copies(log, *read_frames(log), names)
            refused += faults
            for slots in found:
                rows += [
                    row_from_frame(f, i, log["sensor_root"])
                    for i, f in enumerate(slots)
                    if f is not None
                ]
    return Output(
        rows,
        [fault_row(fault) for fault in refused],
        metadata={"logs": len({r["log_name"] for r in rows})},
    )


def read_frames(log: dict[str, Any]) -> tuple[list[list[Frame | None]], list[DataError]]:
    """Frames of one row of `logs` with None for each refused one, and why. An unreadable log is one
    fault.

    A sequence recorded faster than 2 Hz holds several logs, one per phase.
    """
    try:
        return format_of(log["format"]).read(Path(log["path"]), log["log_name"])
    except DataError as error:
        return [], [error]
    except DataFaults as errors:
        return [], list(errors.faults)


def without_copies(
    log: dict[str, Any], logs: list[list[Frame | None]], faults: list[DataError], names: set[str]
) -> tuple[list[list[Frame | None]], list[DataError]]:
    """Refuse a log file that holds another file's log: twice the same scenes, perhaps once in train
    and once in test.
    """
    inside = {frame.log_name for slots in logs for frame in slots if frame is not None}
    if not format_of(log["format"]).name_inside or not (
        others := inside & names - {log["log_name"]}
    ):
        return logs, faults
    rule = f"holds log {min(others)!r}, which has a file of its own; remove this copy"
    return [], [*faults, DataError(rule, file=log["path"], field="log_name")]


def fault_row(fault: DataError) -> dict[str, str]:
    """A row of `quarantine` without the columns the context adds."""
    path = Path(fault.file)
    file = (
        "/".join(path.parts[-2:]) if path.suffix == ".csv" else path.name
    )  # every sequence has a poses.csv
    return {"file": file, "frame": fault.frame, "field": fault.field, "reason": fault.reason}
