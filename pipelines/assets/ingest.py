"""ingest: which logs there are, and their frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentvla_core.errors import DataError, DataFaults
from latentvla_core.types import Frame
from pipelines.engine import Engine, Output
from pipelines.lineage import Stage


def logs(engine: Engine) -> Output:
    """Every driving log the sources offer, with the split it belongs to. Writes the embedded world first, if that is the source.

    Train, val and test never share a log: the listing refuses to.
    """
    counts = {s: sum(row["split"] == s for row in engine.listing) for s in engine.settings.splits}
    return Output(engine.listing, metadata={f"logs/{split}": n for split, n in counts.items()})


def frames(engine: Engine, partition: str) -> Output:
    """Key frames of the shard's logs: ego, route, lights, objects, and references to pictures and lidar (never copies).

    A frame that breaks the format goes to `quarantine` with file, frame and field; the rest of its log is kept.
    """
    from latentvla_core.data.frame_rows import row_from_frame

    rows: list[dict[str, Any]] = []
    refused: list[DataError] = []
    for log in engine.listing:
        if f"{log['split']}-{log['shard']:02d}" == partition:
            found, faults = read_frames(log)
            refused += faults
            for slots in found:
                rows += [row_from_frame(f, i, log["sensor_root"]) for i, f in enumerate(slots) if f is not None]
    return Output(rows, [fault_row(fault) for fault in refused], metadata={"logs": len({r["log_name"] for r in rows})})


def read_frames(log: dict[str, Any]) -> tuple[list[list[Frame | None]], list[DataError]]:
    """Frames of one row of `logs` with None for each refused one, and why. An unreadable log is one fault.

    A sequence recorded faster than 2 Hz holds several logs, one per phase.
    """
    from latentvla_core.data.frames_poses import read_logs
    from latentvla_core.data.navsim import read_log_slots

    try:
        if log["format"] == "frames_poses":
            return [list(frames) for frames in read_logs(Path(log["path"])).values()], []
        slots, faults = read_log_slots(Path(log["path"]))
        return [slots], faults
    except DataError as error:
        return [], [error]
    except DataFaults as errors:
        return [], list(errors.faults)


def fault_row(fault: DataError) -> dict[str, str]:
    """A row of `quarantine` without the columns the engine adds."""
    return {"file": Path(fault.file).name, "frame": fault.frame, "field": fault.field, "reason": fault.reason}


STAGES = (
    Stage(name="logs", run=logs, kind="table", table="logs", deps=(), group="ingest", doc=logs.__doc__ or "",
          recipe=(), kinds=("deltalake",)),
    Stage(name="frames", run=frames, kind="shards", table="frames", deps=("logs",), group="ingest",
          doc=frames.__doc__ or "", kinds=("deltalake",)),
)  # fmt: skip
