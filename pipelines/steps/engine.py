"""Doing one piece of work: is it still true? If not: run the stage, write its rows, record it. No
Dagster in here.

Order of effects: rows first, then the `materialisations` row. A run killed between the two does the
piece again and replaces the same rows; a run killed before leaves the old rows. Models are trained
in a folder that keeps its checkpoints and gets its final name only when complete.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from latentvla_core.errors import SetupError
from latentvla_core.lake.locks import held
from latentvla_core.lake.places import without_password
from latentvla_core.tables import TABLES
from pipelines import sources
from pipelines.registry.connection import registered
from pipelines.registry.register import register_model
from pipelines.settings import Settings
from pipelines.steps.context import CHECKPOINTS, Model, Outcome, Output, StageContext
from pipelines.steps.inputs import InputFiles
from pipelines.steps.lineage import (
    UNPARTITIONED,
    Ledger,
    Stage,
    fingerprint,
    git_commit,
    place_of,
)

CLOCK_SLACK_US = 1_000_000  # clocks of two machines that work on one lake differ by as much
FORCED_MODEL = "A finished model is registered again, not trained: what it is made of has not changed; another seed would."


Trainer = Callable[[Stage, Mapping[str, int], Path], Model]


class Engine(StageContext):
    """Remembers: what is done, whether it is still true, and what was written by whom. Reads like a
    stage, of today's tables.
    """

    def __init__(
        self, settings: Settings, stages: Mapping[str, Stage], say: Callable[[str], None] = print
    ) -> None:
        super().__init__(settings, stages, say)
        self._stored: dict[str, Counter[tuple[Any, ...]] | None] = {}
        self._versions: dict[str, int] = {}
        self.trainer: Trainer | None = None
        """What trains a model stage in a folder, in place of this process."""

    @cached_property
    def ledger(self) -> Ledger:
        """Finished work. Raises SetupError where the lake has shards that the settings no longer
        have.
        """
        ledger = Ledger.load(self.lake)
        _check_shards(ledger, self.settings)
        return ledger

    def write_sources(self) -> None:
        """Make sure there is something to list, and forget what was listed before."""
        sources.prepare(self.settings, self.recipe, self.say)
        self.__dict__.pop("listing", None)
        self.__dict__.pop("input_files", None)

    @cached_property
    def input_files(self) -> InputFiles:
        """Keys of the files behind each piece of work."""
        return InputFiles(self.settings, sources.looks_of(self.settings), lambda: self.listing)

    def files_key(self, kind: str, partition: str) -> str:
        """Changes when the files of this kind behind a piece of work do."""
        return self.input_files.key(kind, partition)

    # ---- working -------------------------------------------------------------------------------

    def execute(
        self, name: str, partition: str = UNPARTITIONED, *, run_id: str = "", force: bool = False
    ) -> Outcome:
        """Bring one piece of work up to date."""
        stage, ledger = (
            self.stages[name],
            self.ledger,
        )  # the ledger first: it refuses a lake before anything is written
        if stage.prepare is not None:
            stage.prepare(self)
        made_by = self.fingerprint(stage, partition)
        if not force and self.is_current(stage, partition, made_by):
            return Outcome(
                made_by,
                skipped=True,
                metadata={"note": "up to date: inputs, recipe and code are unchanged"},
            )
        if not force and ledger.made_by(name, partition) == made_by:
            gone = self.why_gone(stage, partition)
            self.say(f"{name} {partition}: done before, but {gone}; done again")
        for gate in stage.gates:
            approve = self.stages[gate].approve
            if approve is not None:
                approve(self)
        started = time.monotonic()
        outcome = Outcome(
            made_by,
            skipped=False,
            inputs={dep: self._input_version(dep) for dep in (*stage.deps, *stage.after)},
        )
        work = self._train if stage.kind == "model" else self._fill
        work(stage, partition, outcome)
        outcome.seconds = time.monotonic() - started
        ledger.record(self._ledger_row(stage, partition, outcome, run_id))
        return outcome

    def as_of(self, stage: Stage, inputs: Mapping[str, int]) -> StageContext:
        """What a stage works with: its inputs at these versions, which its lineage records."""
        pins = {self.stages[dep].table: at for dep, at in inputs.items() if at >= 0}
        context = StageContext(self.settings, self.stages, self.say, pins, self.recipe)
        context._loaded = self._loaded  # a model is loaded once per run, not once per shard
        context.__dict__["ledger"] = self.ledger
        if "listing" in self.__dict__:
            context.__dict__["listing"] = self.listing
        return context

    def fingerprint(self, stage: Stage, partition: str) -> str:
        return fingerprint(
            stage,
            partition,
            self.recipe,
            self.settings.partitions,
            self.stages,
            self.ledger.made_by,
            self.files_key,
        )

    def is_current(self, stage: Stage, partition: str, made_by: str = "") -> bool:
        """Whether nothing is to be done: finished with this fingerprint, and still there."""
        wanted = made_by or self.fingerprint(stage, partition)
        recorded = self.ledger.made_by(stage.name, partition)
        return recorded == wanted and self.is_there(stage, partition)

    def look_again(self) -> None:
        """Others have written: the ledger and what is stored are read anew."""
        for name in ("ledger", "_registered", "_rows_of_models"):
            self.__dict__.pop(name, None)
        self._stored.clear()
        self._versions.clear()

    def keep_models(self, other: Engine) -> None:
        """Take over the models that another engine of this deployment has loaded."""
        self._loaded |= other._loaded

    def is_there(self, stage: Stage, partition: str) -> bool:
        """Whether what the ledger calls finished still exists."""
        return not self.why_gone(stage, partition)

    def why_gone(self, stage: Stage, partition: str) -> str:
        """What is missing of work that the ledger calls finished: a table, its last commits, a model
        folder, a registered version may have vanished. Empty when nothing is.
        """
        made_by = self.ledger.made_by(stage.name, partition)
        if stage.kind == "model":
            return self._model_gone(stage, made_by)
        counts = self._counts(stage)
        if counts is None:
            return f"table {stage.table} is not in {self.settings.lake}"
        wrote, now = self.ledger.latest[stage.name, partition], self._table_version(stage.table)
        if wrote["delta_version"] > now:
            return (
                f"table {stage.table} is at version {now}, its rows were written in version"
                f" {wrote['delta_version']}: a commit vanished"
            )
        for table in stage.beside:
            if self._table_version(table) < 0:
                return f"table {table} is not in {self.settings.lake}"
        place = place_of(partition).values()
        there, wanted = counts[*place, made_by] + counts[*place, ""], wrote["rows"]
        return "" if there >= wanted else f"table {stage.table} has {there} of its {wanted} rows"

    def _model_gone(self, stage: Stage, made_by: str) -> str:
        folder = self.settings.models / stage.name / made_by
        if not folder.is_dir():
            return f"{folder} does not exist"
        if self._registered is not None and (stage.name, made_by) not in self._registered:
            return f"MLflow at {without_password(self.settings.mlflow_uri)} does not know it: it is registered again"
        if (stage.name, made_by) not in self._rows_of_models:
            return f"table models has no row of it in {self.settings.lake}"
        return ""

    @cached_property
    def _rows_of_models(self) -> set[tuple[str, str]]:
        rows = self.lake.read("models", columns=["name", "version"]).to_pydict()
        return set(zip(rows["name"], rows["version"], strict=True))

    @cached_property
    def _registered(self) -> set[tuple[str, str]] | None:
        return registered(self.settings)

    def _table_version(self, table: str) -> int:
        if table not in self._versions:
            self._versions[table] = self.lake.version(table)
        return self._versions[table]

    def _counts(self, stage: Stage) -> Counter[tuple[Any, ...]] | None:
        """Rows stored per partition and fingerprint, read once per table until this engine writes
        to it; None: no table.
        """
        if stage.table not in self._stored:
            exists = self.lake.version(stage.table) >= 0
            columns = ("split", "shard") if stage.partitioned else ()
            self._stored[stage.table] = self.lake.counts(stage.table, columns) if exists else None
        return self._stored[stage.table]

    def _input_version(self, dep: str) -> int:
        return self.lake.version(self.stages[dep].table)

    def _fill(self, stage: Stage, partition: str, outcome: Outcome) -> None:
        context = self.as_of(stage, outcome.inputs)
        output: Output = stage.run(*((context, partition) if stage.partitioned else (context,)))
        place = place_of(partition)
        note = {"asset": stage.name, "partition": partition, "made_by": outcome.made_by}
        made = {**place, "made_by": outcome.made_by}
        rows = [{**row, **made} for row in output.rows]
        for table in stage.beside:  # first, so that what the ledger calls finished has them
            beside = [{**row, **made} for row in output.beside[table]]
            self._replace(table, beside, place, output.groups, note)
        outcome.delta_version = self._replace(stage.table, rows, place, output.groups, note)
        told = {
            tuple(sorted(fault.items())): fault for fault in output.quarantine
        }  # once, however often it was met
        where = {"stage": stage.name, "split": "", "shard": 0, **place}
        refused = [{**fault, **where, "made_by": outcome.made_by} for fault in told.values()]
        self._quarantine(where, refused)
        outcome.rows, outcome.quarantined, outcome.metadata = (
            len(rows),
            len(refused),
            output.metadata,
        )

    def _replace(
        self,
        table: str,
        rows: list[dict[str, Any]],
        place: dict[str, Any],
        groups: tuple[str, ...],
        note: dict[str, str],
    ) -> int:
        self._stored.pop(table, None)
        self._versions.pop(table, None)
        spec = TABLES[table]
        extra = [c for c in spec.partition_by if c not in place]
        if not extra:
            return self.lake.replace(table, rows, place, note)
        if not groups:
            return self.lake.version(table)
        return self.lake.replace(table, rows, {**place, extra[0]: tuple(groups)}, note)

    def _quarantine(self, where: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        if rows or (
            self.lake.version("quarantine") >= 0
            and self.lake.read("quarantine", where, ["file"]).num_rows
        ):
            self.lake.replace("quarantine", rows, where)

    def _train(self, stage: Stage, partition: str, outcome: Outcome) -> None:
        final = self.settings.models / stage.name / outcome.made_by
        with held(final, self.say):  # who waited for another's training finds it done
            if not final.is_dir():
                self._train_into(final, stage, outcome)
            done = json.loads((final / "summary.json").read_text())
            uri = register_model(self, stage, final, done, outcome.inputs)
        for known in ("_registered", "_rows_of_models"):
            self.__dict__.pop(known, None)
        row = {
            "name": stage.name,
            "version": outcome.made_by,
            "recipe": self.recipe.name,
            "path": str(final),
            "parameters": done["parameters"],
            "metrics": json.dumps(done["metrics"]),
            "inputs": json.dumps(outcome.inputs),
            "commit": git_commit(),
            "seconds": done["seconds"],
            "mlflow_uri": uri,
            "made_by": outcome.made_by,
        }
        outcome.delta_version = self.lake.replace(
            "models", [row], {"name": stage.name, "version": outcome.made_by}
        )
        outcome.rows = 1
        outcome.metadata = {
            "parameters": done["parameters"],
            "mlflow/model_uri": uri,
            **done["metrics"],
            **done["metadata"],
        }

    def _train_into(self, final: Path, stage: Stage, outcome: Outcome) -> None:
        """In a folder that keeps its checkpoints and gets its name when it is complete."""
        working, started = final.with_name(final.name + ".partial"), time.monotonic()
        working.mkdir(parents=True, exist_ok=True)
        if self.trainer is None:
            model: Model = stage.run(self.as_of(stage, outcome.inputs), working)
        else:
            model = self.trainer(stage, outcome.inputs, working)
        family = stage.family or stage.name
        content = {"family": family, **_summary_of(model, time.monotonic() - started)}
        (working / "summary.json").write_text(json.dumps(content, default=str))
        shutil.rmtree(working / CHECKPOINTS, ignore_errors=True)
        working.rename(final)

    def _finished_us(self) -> int:
        now_us = time.time_ns() // 1000
        at_us = self.ledger.next_us(now_us)
        if at_us - now_us > CLOCK_SLACK_US:
            self.say(
                f"the clock is {(at_us - now_us) / 1e6:.0f} s behind the last finished work, so it was"
                " set back: times in `materialisations` go on from there"
            )
        return at_us

    def _ledger_row(
        self, stage: Stage, partition: str, outcome: Outcome, run_id: str
    ) -> dict[str, Any]:
        return {
            "asset": stage.name,
            "partition": partition,
            "made_by": outcome.made_by,
            "table_name": stage.table,
            "delta_version": outcome.delta_version,
            "rows": outcome.rows,
            "quarantined": outcome.quarantined,
            "inputs": json.dumps(outcome.inputs),
            "recipe": self.recipe.name,
            "code_version": stage.code_version,
            "commit": git_commit(),
            "run_id": run_id,
            "seconds": outcome.seconds,
            "finished_us": self._finished_us(),
        }


def _check_shards(ledger: Ledger, settings: Settings) -> None:
    """Shards may become more, not fewer: no run replaces the rows of one that is gone, and its logs
    have moved to others.
    """
    places = [place_of(partition) for partition in {p for _, p in ledger.latest} - {UNPARTITIONED}]
    most = max(
        (place["shard"] + 1 for place in places if place["split"] in settings.splits), default=0
    )
    if most > settings.shards:
        raise SetupError(
            f"lake {settings.lake} was written with {most} shards a split, now there are {settings.shards} (LATENTVLA_SHARDS): rows of"
            f" the others would stay, and their logs be counted twice; set LATENTVLA_SHARDS to {most} or more, or start a new lake"
            " (another LATENTVLA_HOME or LATENTVLA_LAKE)"
        )


def _summary_of(model: Model, seconds: float) -> dict[str, Any]:
    return {
        "parameters": model.parameters,
        "metrics": {k: float(v) for k, v in model.metrics.items()},
        "parts": {k: str(v) for k, v in model.parts.items()},
        "metadata": model.metadata,
        "seconds": seconds,
    }
