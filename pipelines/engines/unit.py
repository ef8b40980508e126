"""The unit of work that every engine does: one stage, one shard, told in what can be pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from pipelines.settings import Settings
from pipelines.steps.context import Outcome
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage

STAGES_AT = "pipelines.stages:STAGES"
_WARM: list[tuple[Settings, str, Engine]] = []  # the deployment and batch that was last worked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One shard of one stage, for a process that knows nothing yet."""

    settings: Settings
    stage: str
    partition: str
    batch: str
    """Units of one batch see the ledger as it was at their process's first unit of the batch."""
    run_id: str = ""
    force: bool = False
    stages: str = STAGES_AT
    """module:name of the stages."""


def do(unit: Unit, say: Callable[[str], None] = print) -> Outcome:
    """Bring the unit up to date; models that this process has loaded before are still there."""
    engine = _engine_for(unit, say)
    return engine.execute(unit.stage, unit.partition, run_id=unit.run_id, force=unit.force)


def stages_at(place: str) -> Mapping[str, Stage]:
    """The stages at module:name."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _engine_for(unit: Unit, say: Callable[[str], None]) -> Engine:
    last = _WARM[0] if _WARM and _WARM[0][0] == unit.settings else None
    engine = (
        last[2]
        if last and last[1] == unit.batch
        else Engine(unit.settings, stages_at(unit.stages), say)
    )
    if last and engine is not last[2]:
        engine.keep_models(last[2])
    _WARM[:] = [(unit.settings, unit.batch, engine)]
    engine.say = say
    return engine
