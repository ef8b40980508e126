"""What Dagster calls stale, partition by partition, is what the project finds different from its
inputs: after thirty changes drawn at random.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from label_rows import label

from pipelines.dagster_assets import asset_of
from pipelines.resources import LatentVLAResource
from pipelines.settings import Settings
from pipelines.steps.context import Output, StageContext
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage

CHANGES = 30
Pairs = set[tuple[str, str]]


def shards(name: str) -> Any:
    def run(context: StageContext, partition: str) -> Output:
        return Output([label(f"{name} {partition}", model_version=name)], groups=(name,))

    return run


def whole(context: StageContext) -> Output:
    return Output([])


class Line:
    """Two assets of shards, one after the other, and a table of the train split of the second."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        monkeypatch.setenv("LATENTVLA_HOME", str(home))
        monkeypatch.setenv("LATENTVLA_RECIPE", "debug")
        monkeypatch.setenv("LATENTVLA_SHARDS", "2")
        self.instance = dg.DagsterInstance.ephemeral()
        common: dict[str, Any] = {"kind": "shards", "table": "latent_actions", "group": "g"}
        first = Stage(name="first", run=shards("first"), deps=(), doc="", **common)
        second = Stage(
            name="second",
            run=shards("second"),
            deps=("first",),
            doc="",
            recipe=("latent",),
            **common,
        )
        third = Stage(
            name="third", run=whole, kind="table", table="pdm_summary", deps=("second",),
            group="g", doc="", reads=("train",),
        )  # fmt: skip
        self.stages = {stage.name: stage for stage in (first, second, third)}

    @property
    def settings(self) -> Settings:
        return Settings.from_env()

    def assets(self) -> list[dg.AssetsDefinition]:
        return [
            asset_of(stage, self.settings, self.stages, pooled=False)
            for stage in self.stages.values()
        ]

    def run(self, name: str, first: int, last: int) -> None:
        """One run of one asset, over a range of partitions if it has some."""
        parts, tags = self.settings.partitions, {}
        if self.stages[name].partitioned:
            tags = {
                "dagster/asset_partition_range_start": parts[first],
                "dagster/asset_partition_range_end": parts[last],
            }
        done = dg.materialize(
            self.assets(), selection=[name], instance=self.instance, tags=tags,
            resources={"latentvla": LatentVLAResource()},
        )  # fmt: skip
        assert done.success

    def told(self) -> Pairs:
        """What the UI shows as stale or missing: the resolver behind its GraphQL."""
        graph = dg.Definitions(
            assets=self.assets(), resources={"latentvla": LatentVLAResource()}
        ).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(
            self.instance, graph, LoadingContextForTest(self.instance)
        )
        return {
            (name, part)
            for name, part in self.pairs()
            if resolver.get_status(dg.AssetKey(name), part or None) != StaleStatus.FRESH
        }

    def ours(self) -> Pairs:
        """What is not as its inputs are now. Dagster looks one step back, as this does; what a run
        would do besides is what follows from these.
        """
        engine = Engine(self.settings, self.stages, lambda text: None)
        return {
            (name, part)
            for name, part in self.pairs()
            if not engine.is_current(self.stages[name], part)
        }

    def pairs(self) -> list[tuple[str, str]]:
        return [
            (stage.name, part)
            for stage in self.stages.values()
            for part in (self.settings.partitions if stage.partitioned else ("",))
        ]

    def change(self, rng: np.random.Generator) -> str:
        """New code of an asset, another recipe, or a run of what was drawn."""
        name = str(rng.choice(list(self.stages)))
        match int(rng.integers(0, 6)):
            case 0:
                stage = self.stages[name]
                code = str(int(stage.code_version) + 1)
                self.stages[name] = replace(stage, code_version=code)
                return f"{name} has code {code}"
            case 1:
                recipe = str(rng.choice(["debug", "mini"]))
                self.patch.setenv("LATENTVLA_RECIPE", recipe)
                return f"recipe {recipe}"
        first, last = sorted(int(i) for i in rng.integers(0, len(self.settings.partitions), 2))
        self.run(name, first, last)
        return f"{name} ran on partitions {first} to {last}"


@pytest.mark.slow
def test_after_thirty_changes_dagster_and_the_project_call_the_same_pairs_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    line, rng = Line(tmp_path, monkeypatch), np.random.default_rng(0)
    done, sizes = [], set()
    for name in line.stages:  # Dagster does not see what was first made after what reads it
        line.run(name, 0, len(line.settings.partitions) - 1)
    assert line.told() == line.ours() == set()
    for _ in range(CHANGES):
        done.append(line.change(rng))
        told, ours = line.told(), line.ours()
        sizes.add(len(ours))
        assert told == ours, f"after {done}: Dagster alone {told - ours}, we alone {ours - told}"
    assert len(sizes) > 4
