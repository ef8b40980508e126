"""registry: which planner holds the alias `champion`, and on what evidence."""

from __future__ import annotations

from pipelines.assets.planners import VARIANTS
from pipelines.registry.gates import judge
from pipelines.settings import TEST
from pipelines.steps import declare
from pipelines.steps.context import Output, StageContext


@declare.table(
    deps=("pdm_summary",), group="registry", recipe=("metrics",), kinds=("mlflow", "deltalake")
)
def releases(context: StageContext) -> Output:
    """The promotion gate: a planner becomes `champion` only if its score on the held-out split is
    not lower.

    Judged by the recipe's first metric, on a complete split only, and against the score that the
    present champion earned on the very same scenes.
    """
    names = ("ego_status_mlp", *(variant.name for variant in VARIANTS))
    rows = [judge(context, name, TEST) for name in names]
    promoted = [row["name"] for row in rows if row["decision"] == "promoted"]
    return Output(rows, groups=names, metadata={"promoted": ", ".join(promoted) or "none"})
