"""What Dagster calls stale, partition by partition, is what the project finds different from its
inputs: after thirty changes drawn at random, asked by GraphQL as its pages ask.

Dagster looks one step back. With what lies behind its stale pairs the set is the project's list.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster_graphql.test.utils import execute_dagster_graphql
from label_rows import label

from latentvla_core.lake import identity
from pipelines.dagster_assets import asset_of, partitions_of
from pipelines.resources import LatentVLAResource
from pipelines.settings import Settings
from pipelines.steps.context import Output, StageContext
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage
from pipelines.steps.source_files import changed_files, file_assets
from pipelines.steps.status import stale_reasons

CHANGES = 30
LOGS = ("oak", "elm", "ash")
ONE = '{}: assetNodeOrError(assetKey: {{path: ["{}"]}}) {{ ... on AssetNode {{ staleStatus{} }} }}'
Pairs = set[tuple[str, str]]


def shards(name: str) -> Any:
    def run(context: StageContext, partition: str) -> Output:
        return Output([label(f"{name} {partition}", model_version=name)], groups=(name,))

    return run


def whole(context: StageContext) -> Output:
    return Output([])


class Line:
    """Shards of log files, shards of those, a table of the train split of the second, a gate that
    judges the train split, and shards that wait for the gate.
    """

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch, self.logs = monkeypatch, home / "logs"
        for split in ("train", "val", "test"):
            (self.logs / split).mkdir(parents=True)
            for log in LOGS:
                (self.logs / split / f"{split}.{log}.pkl").write_bytes(log.encode())
        text = "".join(f"  {s}: {{logs: {self.logs / s}}}\n" for s in ("train", "val", "test"))
        (home / "sources.yaml").write_text("splits:\n" + text)
        monkeypatch.setenv("LATENTVLA_HOME", str(home))
        monkeypatch.setenv("LATENTVLA_SOURCES", str(home / "sources.yaml"))
        monkeypatch.setenv("LATENTVLA_RECIPE", "debug")
        monkeypatch.setenv("LATENTVLA_SHARDS", "2")
        (home / "dagster").mkdir()
        self.instance = dg.DagsterInstance.local_temp(str(home / "dagster"))
        common: dict[str, Any] = {"table": "latent_actions", "group": "g", "doc": ""}
        rows = common | {"kind": "shards"}
        table = common | {"kind": "table", "table": "pdm_summary", "run": whole}
        stages = (
            Stage(name="first", run=shards("first"), deps=(), files=("logs",), **rows),
            Stage(name="second", run=shards("second"), deps=("first",), recipe=("latent",), **rows),
            Stage(name="third", deps=("second",), reads=("train",), files=("logs",), **table),
            Stage(name="gate", deps=("first",), reads=("train",), **table),
            Stage(name="behind", run=shards("behind"), deps=("second",), gates=("gate",), **rows),
        )
        self.stages = {stage.name: stage for stage in stages}

    @property
    def settings(self) -> Settings:
        return Settings.from_env()

    def engine(self) -> Engine:
        return Engine(self.settings, self.stages, lambda text: None)

    def definitions(self) -> dg.Definitions:
        return dg.Definitions(
            assets=[
                *(
                    asset_of(stage, self.settings, self.stages, pooled=False)
                    for stage in self.stages.values()
                ),
                *file_assets(self.stages, partitions_of(self.settings)),
            ],
            resources={"latentvla": LatentVLAResource()},
        )

    def run(self, name: str, first: int, last: int) -> None:
        """One run of one asset, over a range of partitions if it has some."""
        parts, tags = self.settings.partitions, {}
        if self.stages[name].partitioned:
            tags = {
                "dagster/asset_partition_range_start": parts[first],
                "dagster/asset_partition_range_end": parts[last],
            }
        definitions = self.definitions()
        done = dg.materialize(
            list(definitions.assets or ()), selection=[name], instance=self.instance, tags=tags,
            resources={"latentvla": LatentVLAResource()},
        )  # fmt: skip
        assert done.success

    def tell_of_files(self) -> None:
        """What sensor `changed_files` does."""
        sensor = changed_files(self.settings, self.stages, self.engine)
        context = dg.build_sensor_context(instance=self.instance, definitions=self.definitions())
        told = sensor.evaluate_tick(context)
        for event in told.asset_events:
            self.instance.report_runless_asset_event(event)

    def told(self) -> Pairs:
        """What the UI shows as stale or missing, and what follows from it."""
        direct = self.asked()
        found: Pairs = set()
        for stage in self.stages.values():
            for part in self.settings.partitions if stage.partitioned else ("",):
                above = {
                    (dep, p)
                    for dep in stage.deps
                    for p in self.settings.partitions
                    if p == part
                    or (not part and (not stage.reads or p.rpartition("-")[0] in stage.reads))
                }
                if (stage.name, part) in direct or above & found:
                    found.add((stage.name, part))
        return found

    def asked(self) -> Pairs:
        """Pairs whose stale status is not FRESH, by GraphQL."""
        Line.now = self
        origin = InProcessCodeLocationOrigin(
            LoadableTargetOrigin(
                executable_path=sys.executable, python_file=__file__, attribute="definitions_now"
            )
        )
        with WorkspaceProcessContext(
            self.instance, InProcessWorkspaceLoadTarget(origin)
        ) as process:
            pairs = dict(zip((f"n{i}" for i in range(99)), self.pairs(), strict=False))
            query = " ".join(
                ONE.format(alias, name, f'(partition: "{part}")' if part else "")
                for alias, (name, part) in pairs.items()
            )
            context = process.create_request_context()
            answer = execute_dagster_graphql(context, f"{{ {query} }}").data
        return {pair for alias, pair in pairs.items() if answer[alias]["staleStatus"] != "FRESH"}

    def ours(self) -> Pairs:
        """What a run of everything would do."""
        return set(stale_reasons(self.engine()))

    def pairs(self) -> list[tuple[str, str]]:
        return [
            (stage.name, part)
            for stage in self.stages.values()
            for part in (self.settings.partitions if stage.partitioned else ("",))
        ]

    def change(self, rng: np.random.Generator) -> str:
        """New code of an asset, another recipe, another log file, or a run of what was drawn."""
        name = str(rng.choice(list(self.stages)))
        match int(rng.integers(0, 8)):
            case 0:
                stage = self.stages[name]
                code = str(int(stage.code_version) + 1)
                self.stages[name] = replace(stage, code_version=code)
                return f"{name} has code {code}"
            case 1:
                recipe = str(rng.choice(["debug", "mini"]))
                self.patch.setenv("LATENTVLA_RECIPE", recipe)
                return f"recipe {recipe}"
            case 2 | 3:
                split, log = str(rng.choice(["train", "val", "test"])), str(rng.choice(LOGS))
                path = self.logs / split / f"{split}.{log}.pkl"
                content = f"{log} {rng.integers(0, 2)}".encode()
                path.write_bytes(content)
                self.tell_of_files()
                return f"{path.name} is {content}"
        first, last = sorted(int(i) for i in rng.integers(0, len(self.settings.partitions), 2))
        self.run(name, first, last)
        return f"{name} ran on partitions {first} to {last}"


def definitions_now() -> dg.RepositoryDefinition:
    """Read by the code location that GraphQL asks."""
    import test_stale_in_dagster  # the module that pytest loaded, not the one loaded by path

    return test_stale_in_dagster.Line.now.definitions().get_repository_def()


@pytest.mark.slow
def test_after_thirty_changes_dagster_and_the_project_call_the_same_pairs_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    line, rng = Line(tmp_path, monkeypatch), np.random.default_rng(0)
    done, sizes = [], set()
    monkeypatch.setattr(identity, "SETTLED_NS", -3_600_000_000_000)
    for name in line.stages:  # Dagster does not see what was first made after what reads it
        line.run(name, 0, len(line.settings.partitions) - 1)
    assert line.told() == line.ours() == set()
    for _ in range(CHANGES):
        done.append(line.change(rng))
        told, ours = line.told(), line.ours()
        sizes.add(len(ours))
        assert told == ours, f"after {done}: Dagster alone {told - ours}, we alone {ours - told}"
    assert len(sizes) > 4
