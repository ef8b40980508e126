"""How an asset is declared: one function with its declaration on top.

    @declare.shards(deps=("scenes", "student"), group="distill")
    def student_features(context: StageContext, partition: str) -> Output: ...

The function's name is the asset, its table and the heading of its page; its docstring is what the
UI says. `shards`: a table made shard by shard; `table`: made whole; `model`: weights in a folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pipelines.steps.context import Model, Output, StageContext
from pipelines.steps.lineage import Stage

OfShard = TypeVar("OfShard", bound=Callable[[StageContext, str], Output])
OfTable = TypeVar("OfTable", bound=Callable[[StageContext], Output])
OfModel = TypeVar("OfModel", bound=Callable[[StageContext, Path], Model])
_DECLARED: dict[str, list[Stage]] = defaultdict(list)


def shards(**declaration: Any) -> Callable[[OfShard], OfShard]:
    """An asset of one partition per shard: `run(context, partition)` hands back its rows."""
    return _declared("shards", declaration)


def table(**declaration: Any) -> Callable[[OfTable], OfTable]:
    """An asset without partitions: `run(context)` hands back all rows."""
    return _declared("table", declaration)


def model(**declaration: Any) -> Callable[[OfModel], OfModel]:
    """A training: `run(context, folder)` writes weights into the folder."""
    return _declared("model", {"table": "models", **declaration})


def _declared(kind: str, declaration: dict[str, Any]) -> Callable[[Any], Any]:
    """Fields of `Stage`; name, table and doc come from the function unless they are given."""

    def of(run: Callable[..., Any]) -> Callable[..., Any]:
        name = declaration.get("name", run.__name__)
        given = {"table": name, "deps": (), "doc": run.__doc__ or "", **declaration, "name": name}
        _DECLARED[run.__module__].append(Stage(run=run, kind=kind, **given))
        return run

    return of


def stages_of(module: ModuleType) -> list[Stage]:
    """What a module declares, in its order."""
    return _DECLARED[module.__name__]
