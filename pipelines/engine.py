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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from latentvla_core.errors import SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.recipes import Recipe, recipe_named
from latentvla_core.tables import TABLES
from latentvla_core.types import SceneRecord
from pipelines import sources
from pipelines.lineage import (
    UNPARTITIONED,
    Ledger,
    Stage,
    digest,
    fingerprint,
    git_commit,
    place_of,
)
from pipelines.settings import TRAIN, Settings

if TYPE_CHECKING:
    from latentvla_core.training.sinks import MetricSink, ProgressSink

QUIET_S = 5.0  # shorter work needs no bar
CHUNK = 512  # scenes between two signs of life of a model that predicts
FORCED_MODEL = "A finished model is registered again, not trained: what it is made of has not changed; another seed would."
Item = TypeVar("Item")
CURVES = "curves.jsonl"  # inside a model's folder: what was logged while it was trained
CHECKPOINTS = "checkpoints"  # inside a model's working folder; gone when the model is complete


def chunks(items: Sequence[Item]) -> list[Sequence[Item]]:
    """Parts of at most CHUNK items, in order."""
    return [items[first : first + CHUNK] for first in range(0, len(items), CHUNK)]


@dataclass(slots=True)
class Output:
    """What a table stage hands back for one shard (or for the whole table)."""

    rows: list[dict[str, Any]]
    quarantine: list[dict[str, str]] = field(default_factory=list)
    """Dicts with file, frame, field, reason."""
    groups: tuple[str, ...] = ()
    """Values of the table's third partition column that this work replaces."""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Model:
    """What a model stage hands back; weights and config.json are already in its folder."""

    parameters: int
    metrics: dict[str, float]
    parts: dict[str, Path] = field(default_factory=dict)
    """Folders of other models that serving needs (a fused planner needs its VLM or student)."""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """What happened to one piece of work."""

    made_by: str
    skipped: bool
    rows: int = 0
    quarantined: int = 0
    delta_version: int = -1
    seconds: float = 0.0
    inputs: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


class Engine:
    """One deployment and recipe: knows every stage, the lake and the ledger."""

    def __init__(
        self, settings: Settings, stages: Mapping[str, Stage], say: Callable[[str], None] = print
    ) -> None:
        self.settings = settings
        self.stages = stages
        self.say = say
        self.recipe: Recipe = recipe_named(settings.recipe, settings.weights)
        self.lake = Lake(settings.lake)
        self._loaded: dict[str, Any] = {}
        self._maps_keys: dict[str, str] = {}
        self._stored: dict[str, Counter[tuple[Any, ...]] | None] = {}

    @cached_property
    def ledger(self) -> Ledger:
        """Finished work. Raises SetupError where the lake has shards that the settings no longer
        have.
        """
        ledger = Ledger.load(self.lake)
        _check_shards(ledger, self.settings)
        return ledger

    @cached_property
    def listing(self) -> list[dict[str, Any]]:
        return sources.checked_logs(self.settings)

    def files_key(self, kind: str, partition: str) -> str:
        """Changes when the logs, or the maps, behind a piece of work do."""
        if kind == "maps":
            split = place_of(partition).get(
                "split", TRAIN
            )  # an unpartitioned stage that reads maps is a training
            if split not in self._maps_keys:
                self._maps_keys[split] = sources.maps_key(self.settings.source(split).maps)
            return self._maps_keys[split]
        key = sources.key_of(self.listing, partition)
        return (
            key if partition else digest(key, self.settings.shards)
        )  # `logs` tells the shard of each

    @cached_property
    def device(self) -> str:
        import torch

        if self.settings.device != "auto":
            return _checked_device(self.settings.device)
        return "cuda" if torch.cuda.is_available() else "cpu"

    def progress(self, title: str, first: Sequence[str] = ()) -> ProgressSink:
        """A bar with a rate; use it as a context manager around anything over five seconds."""
        from latentvla_core.training.sinks import ProgressSink

        return ProgressSink(title, first=first)

    @contextmanager
    def training(self, name: str, folder: Path, first: Sequence[str] = ()) -> Iterator[MetricSink]:
        """Where the numbers of a training go: the progress line (`first` before others), a file
        beside the model, MLflow.
        """
        from latentvla_core.training.sinks import FileSink, Tee
        from pipelines.registry.tracking import tracked

        with self.progress(name, first) as bar, tracked(self, name, folder) as run:
            yield Tee(bar, FileSink(folder / CURVES), run)

    def track(self, title: str, items: Sequence[Item]) -> Iterator[Item]:
        """The items, with a rate shown once they take longer than five seconds."""
        started = time.monotonic()
        with self.progress(title) as sink:
            for done, item in enumerate(items, 1):
                yield item
                seconds = time.monotonic() - started
                if seconds > QUIET_S:
                    sink.log(done, {"progress": done / len(items), "samples_per_s": done / seconds})

    # ---- reading, for stages -------------------------------------------------------------------

    def records(self, split: str | tuple[str, ...], shard: int | None = None) -> list[SceneRecord]:
        """Rows of `scenes` as records, in key order."""
        from latentvla_core.data.records import record_from_row

        where: dict[str, Any] = (
            {"split": split} if shard is None else {"split": split, "shard": shard}
        )
        return [record_from_row(row) for row in self.lake.rows("scenes", where)]

    def model_dir(self, name: str) -> Path:
        """Folder of the latest finished version of a model; fetched from the registry when it is
        not on this machine.
        """
        version = self.ledger.made_by(name, UNPARTITIONED)
        path = self.settings.models / name / version
        if version == "absent":
            raise SetupError(
                f"model {name} has not been trained in {self.settings.home}; materialise asset {name} first"
            )
        if not path.is_dir():
            from pipelines.registry.register import fetch_model

            row = self.lake.rows("models", {"name": name, "version": version})[0]
            fetch_model(self.settings, row["mlflow_uri"], path)
        return path

    def page(self, name: str, version: str) -> Path:
        """Where the HTML page of a model version is written."""
        return self.settings.home / "reports" / f"{name}-{version}.html"

    def model(self, name: str, load: Callable[[Path], Any]) -> Any:
        """The latest finished version of a model, loaded once per run, not once per shard."""
        folder = self.model_dir(name)
        if str(folder) not in self._loaded:
            self._loaded[str(folder)] = load(folder)
        return self._loaded[str(folder)]

    # ---- working -------------------------------------------------------------------------------

    def execute(
        self, name: str, partition: str = UNPARTITIONED, *, run_id: str = "", force: bool = False
    ) -> Outcome:
        """Bring one piece of work up to date."""
        stage, ledger = (
            self.stages[name],
            self.ledger,
        )  # the ledger first: it refuses a lake before anything is written
        if stage.name == "logs":
            sources.prepare(self.settings, self.recipe, self.say)
            self.__dict__.pop("listing", None)
            self._maps_keys.clear()
        made_by = self.fingerprint(stage, partition)
        if (
            not force
            and ledger.made_by(name, partition) == made_by
            and self.is_there(stage, partition)
        ):
            return Outcome(
                made_by,
                skipped=True,
                metadata={"note": "up to date: inputs, recipe and code are unchanged"},
            )
        for gate in stage.gates:
            approve = self.stages[gate].approve
            if approve is not None:
                approve(self)
        started = time.monotonic()
        outcome = Outcome(
            made_by, skipped=False, inputs={dep: self._input_version(dep) for dep in stage.deps}
        )
        work = self._train if stage.kind == "model" else self._fill
        work(stage, partition, outcome)
        outcome.seconds = time.monotonic() - started
        ledger.record(self._ledger_row(stage, partition, outcome, run_id))
        return outcome

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

    def is_there(self, stage: Stage, partition: str) -> bool:
        """Whether what the ledger calls finished still exists: a table or model folder may have
        been moved away.
        """
        if stage.kind == "model":
            return (
                self.settings.models / stage.name / self.ledger.made_by(stage.name, partition)
            ).is_dir()
        place = place_of(partition).values()
        made_by = self.ledger.made_by(stage.name, partition)
        counts = self._counts(stage)
        if counts is None:
            return False
        return counts[*place, made_by] + counts[*place, ""] >= self.ledger.rows_of(
            stage.name, partition
        )

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
        output: Output = stage.run(self, partition) if stage.partitioned else stage.run(self)
        place = place_of(partition)
        note = {"asset": stage.name, "partition": partition, "made_by": outcome.made_by}
        rows = [{**row, **place, "made_by": outcome.made_by} for row in output.rows]
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
        working = final.with_name(final.name + ".partial")
        started = time.monotonic()
        summary = working / "summary.json"
        if not final.is_dir():
            working.mkdir(parents=True, exist_ok=True)
            model: Model = stage.run(self, working)
            content = {"family": stage.family, **_summary_of(model, time.monotonic() - started)}
            summary.write_text(json.dumps(content, default=str))
            shutil.rmtree(working / CHECKPOINTS, ignore_errors=True)
            working.rename(final)
        done = json.loads((final / "summary.json").read_text())
        from pipelines.registry.register import register_model

        uri = register_model(self, stage, final, done, outcome.inputs)
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
            "finished_us": time.time_ns() // 1000,
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


def _checked_device(name: str) -> str:
    """The name itself, if this machine has such a device."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SetupError(
            f"LATENTVLA_DEVICE is {name!r}: {reason}; use cpu, cuda or cuda:N, or unset it"
        ) from error
    return name


def _summary_of(model: Model, seconds: float) -> dict[str, Any]:
    return {
        "parameters": model.parameters,
        "metrics": {k: float(v) for k, v in model.metrics.items()},
        "parts": {k: str(v) for k, v in model.parts.items()},
        "metadata": model.metadata,
        "seconds": seconds,
    }
