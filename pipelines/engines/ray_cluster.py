"""Units on a Ray cluster: actors that keep models loaded, tasks that survive a killed worker.

Ray moves the work only. Rows go from each actor to the lake in one transaction per unit, as
everywhere: Ray's own Delta writers cannot replace a partition.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentvla_core.errors import SetupError
from pipelines.engines.processes import raise_faults
from pipelines.engines.unit import Unit, do
from pipelines.steps.context import Outcome

TRIES = 2  # after the first; then Ray gives a unit up


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one unit takes of a node."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_b: int = 2 << 30

    def options(self) -> dict[str, Any]:
        memory = {"memory": self.memory_b} if self.memory_b else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **memory}


class Doer:
    """Body of the actor: the units of one process, one after the other."""

    def do(self, unit: Unit) -> tuple[Outcome, list[str]]:
        said: list[str] = []
        return do(unit, said.append), said


def connected() -> Any:
    """Ray, joined to the cluster of RAY_ADDRESS, or to one of this machine."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SetupError(
            "LATENTVLA_ENGINE is ray, which is not installed; pip install 'latentvla[ray]', or"
            " unset it to use processes of this machine"
        ) from error
    if not ray.is_initialized():
        ray.init(
            address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, include_dashboard=False
        )
    return ray


def on_ray(
    units: Sequence[Unit], needs: Needs, say: Callable[[str], None] = print
) -> Mapping[str, Outcome]:
    """Outcome by partition; as many actors as the cluster has room for, at most one per unit.

    A dead actor is started again and its unit done again, `TRIES` times.
    """
    ray = connected()
    actor = ray.remote(Doer).options(max_restarts=-1, max_task_retries=TRIES, **needs.options())
    places = room(ray, needs)
    doers = [actor.remote() for _ in range(min(len(units), places))]
    waiting, running = list(units), {}
    done: dict[str, Outcome] = {}
    faults: dict[str, BaseException] = {}
    for doer in doers:
        unit = waiting.pop(0)
        running[doer.do.remote(unit)] = doer, unit
    while running:
        (ready, *_), _ = ray.wait(list(running))
        doer, unit = running.pop(ready)
        try:
            done[unit.partition], said = ray.get(ready)
            for text in said:
                say(text)
        except ray.exceptions.RayError as error:
            faults[unit.partition] = getattr(error, "cause", None) or error
        if waiting:
            unit = waiting.pop(0)
            running[doer.do.remote(unit)] = doer, unit
    for doer in doers:
        ray.kill(doer)
    raise_faults(faults)
    return done


def room(ray: Any, needs: Needs) -> int:
    """How many units the cluster can hold at once. Raises SetupError where it cannot hold one."""
    have = ray.cluster_resources()
    wanted = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": float(needs.memory_b)}
    fits = min(
        (int(have.get(name, 0.0) // amount) for name, amount in wanted.items() if amount), default=1
    )
    if fits < 1:
        raise SetupError(
            f"the Ray cluster has {have}, one unit needs {wanted}; add a node of that kind"
        )
    return fits
