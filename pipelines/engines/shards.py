"""The shards of an asset, brought up to date by the engine that the settings name."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Sequence

from pipelines.engines.processes import side_by_side
from pipelines.engines.ray_cluster import Needs, on_ray
from pipelines.engines.unit import STAGES_AT, Unit
from pipelines.steps.context import Outcome
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage

START_S = 15.0  # what starting processes costs on a busy machine: imports, models
Told = Callable[[str, Outcome], None]


def execute_shards(
    engine: Engine,
    stage: Stage,
    partitions: Sequence[str],
    *,
    run_id: str = "",
    force: bool = False,
    tell: Told = lambda partition, outcome: None,
    stages: str = STAGES_AT,
) -> dict[str, Outcome]:
    """Outcome by partition, in the order asked for. What is up to date is told at once.

    With processes, shards are done here one after the other until the rest is known to be worth
    starting processes for: from what they took the last time, if they were done before. Then the
    longest begin first. With ray every shard goes to the cluster.
    """
    outcomes: dict[str, Outcome] = {}

    def here(partition: str) -> None:
        outcomes[partition] = engine.execute(stage.name, partition, run_id=run_id, force=force)
        tell(partition, outcomes[partition])

    pending = [p for p in partitions if force or not engine.is_current(stage, p)]
    for partition in partitions:
        if partition not in pending:
            here(partition)
    on_cluster = engine.settings.engine == "ray"
    known = engine.ledger.seconds_of(stage.name)
    seconds = [known[partition] for partition in pending if partition in known]
    while pending and not on_cluster and not _worth(engine, stage, seconds, len(pending)):
        began = time.monotonic()
        here(pending.pop(0))
        seconds.append(time.monotonic() - began)
    if pending:
        batch = uuid.uuid4().hex
        units = [
            Unit(
                settings=engine.settings, stage=stage.name, partition=partition, batch=batch,
                run_id=run_id, force=force, stages=stages,
            )
            for partition in sorted(pending, key=lambda partition: -known.get(partition, math.inf))
        ]  # fmt: skip
        found = (
            on_ray(units, needs_of(engine, stage), engine.say)
            if on_cluster
            else side_by_side(units, engine.settings.workers, engine.say)
        )
        engine.look_again()
        for partition in pending:
            outcomes[partition] = found[partition]
            tell(partition, found[partition])
    return {partition: outcomes[partition] for partition in partitions}


def needs_of(engine: Engine, stage: Stage) -> Needs:
    """A stage with a model takes a GPU where the deployment computes on one."""
    return Needs(gpus=1.0 if stage.heavy and engine.device.startswith("cuda") else 0.0)


def _worth(engine: Engine, stage: Stage, seconds: Sequence[float], pending: int) -> bool:
    """Whether processes side by side save more than they cost to start."""
    workers = min(engine.settings.workers, pending)
    shares_a_gpu = stage.heavy and engine.device.startswith("cuda")
    if workers < 2 or shares_a_gpu or not seconds:
        return False
    alone = pending * sum(seconds) / len(seconds)
    return alone - alone / workers > START_S
