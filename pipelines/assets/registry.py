"""registry: which planner holds the alias `champion`, and on what evidence."""

from __future__ import annotations

from pipelines.assets.planners import VARIANTS
from pipelines.engine import Engine, Output
from pipelines.lineage import Stage
from pipelines.registry.gates import judge
from pipelines.settings import TEST


def releases(engine: Engine) -> Output:
    """The promotion gate: a planner becomes `champion` only if its score on the held-out split is
    not lower.

    Judged by the recipe's first metric, on a complete split only, and against the score that the
    present champion earned on the very same scenes.
    """
    names = ("ego_status_mlp", *(variant.name for variant in VARIANTS))
    rows = [judge(engine, name, TEST) for name in names]
    promoted = [row["name"] for row in rows if row["decision"] == "promoted"]
    return Output(rows, groups=names, metadata={"promoted": ", ".join(promoted) or "none"})


STAGES = (
    Stage(
        name="releases",
        run=releases,
        kind="table",
        table="releases",
        deps=("pdm_summary",),
        group="registry",
        doc=releases.__doc__ or "",
        recipe=("metrics",),
        kinds=("mlflow", "deltalake"),
    ),
)
