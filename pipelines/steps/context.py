"""What a stage may ask for: scenes, models, a device, progress; and what it hands back.

Tables that a stage declares as inputs are read at the versions which its lineage records, whatever
is written beside it meanwhile.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from latentvla_core.errors import SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.recipes import Recipe, recipe_named
from latentvla_core.types import SceneRecord
from pipelines import sources
from pipelines.settings import Settings
from pipelines.steps.lineage import UNPARTITIONED, Ledger, Stage

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from latentvla_core.training.sinks import MetricSink, ProgressSink

QUIET_S = 5.0  # shorter work needs no bar
CHUNK = 512  # scenes between two signs of life of a model that predicts
CURVES = "curves.jsonl"  # inside a model's folder: what was logged while it was trained
CHECKPOINTS = "checkpoints"  # inside a model's working folder; gone when the model is complete
Item = TypeVar("Item")


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
    beside: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of other tables by their names (`Stage.beside`), which are replaced at the same place."""
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


@dataclass(frozen=True, slots=True)
class PinnedLake(Lake):
    """A lake some of whose tables stand still at a version."""

    pins: Mapping[str, int] = field(default_factory=dict)

    def delta(self, name: str, version: int | None = None) -> DeltaTable | None:
        return Lake.delta(self, name, self.pins.get(name) if version is None else version)


class StageContext:
    """One deployment and recipe, as a stage sees it."""

    def __init__(
        self,
        settings: Settings,
        stages: Mapping[str, Stage],
        say: Callable[[str], None] = print,
        pins: Mapping[str, int] | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        self.settings = settings
        self.stages = stages
        self.say = say
        self.recipe: Recipe = recipe or recipe_named(settings.recipe, settings.weights)
        self.lake: Lake = PinnedLake(settings.lake, pins) if pins else Lake(settings.lake)
        self._loaded: dict[str, Any] = {}
        self.sinks: Sequence[MetricSink] | None = ()
        """Where else the numbers of a training go; None: nowhere at all, since another process of
        the same training tells them.
        """

    @cached_property
    def ledger(self) -> Ledger:
        """Finished work."""
        return Ledger.load(self.lake)

    @cached_property
    def listing(self) -> list[dict[str, Any]]:
        """Rows of table `logs`: what the sources offer now."""
        return sources.checked_logs(self.settings)

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
        from latentvla_core.training.sinks import FileSink, NullSink, Tee
        from pipelines.registry.tracking import tracked

        if self.sinks is None:
            yield NullSink()
            return
        with self.progress(name, first) as bar, tracked(self, name, folder) as run:
            yield Tee(bar, FileSink(folder / CURVES), run, *self.sinks)

    def track(self, title: str, items: Sequence[Item]) -> Iterator[Item]:
        """The items, with a rate shown once they take longer than five seconds."""
        started = time.monotonic()
        with self.progress(title) as sink:
            for done, item in enumerate(items, 1):
                yield item
                seconds = time.monotonic() - started
                if seconds > QUIET_S:
                    sink.log(done, {"progress": done / len(items), "samples_per_s": done / seconds})

    def records(self, split: str | tuple[str, ...], shard: int | None = None) -> list[SceneRecord]:
        """Rows of `scenes` as records, in key order."""
        from latentvla_core.data.records import record_from_row

        where: dict[str, Any] = (
            {"split": split} if shard is None else {"split": split, "shard": shard}
        )
        roots = self._sensor_roots
        return [
            record_from_row(
                {**row, "sensor_root": roots.get(base_log(row["log_name"]), row["sensor_root"])}
            )
            for row in self.lake.rows("scenes", where)
        ]

    @cached_property
    def _sensor_roots(self) -> dict[str, str]:
        """Log → where its pictures lie now: rows tell where they lay when they were made, and a
        data root that was copied elsewhere has nothing to redo.
        """
        return {row["log_name"]: row["sensor_root"] for row in self.listing}

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
            from pipelines.registry.fetch import fetch_model

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


def base_log(log_name: str) -> str:
    """The name of the log in table `logs`: a fast sequence has its phases in rows of their own,
    `oak@1` of `oak`.
    """
    return re.sub(r"@\d+$", "", log_name)


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
