"""choices: what planners with several proposals chose, beside the best and the nearest of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.steps import declare
from pipelines.steps.context import Output, StageContext
from pipelines.steps.lineage import place_of
from pipelines.steps.reading import worlds_of


@declare.shards(
    deps=("scenes", "scene_worlds", "trajectories"), group="scores", kinds=("numpy", "deltalake")
)
def choices(context: StageContext, partition: str) -> Output:
    """Every proposal of every planner that has several, scored (PDMS v1.1) and measured against the
    logged drive: chosen, oracle, min-over-K, and how many proposals live.
    """
    from latentvla_core.planner.menus import choice_of, menus

    place = place_of(partition)
    records = context.records(**place)
    worlds = dict(zip([r.scene_token for r in records], worlds_of(context, records), strict=True))
    futures = {r.scene_token: r.future_poses for r in records}
    plans = [
        row
        for row in context.lake.rows("trajectories", {**place, "valid": True})
        if row["chosen"] >= 0
    ]
    rows: list[dict[str, Any]] = []
    for plan in context.track(f"choices {partition} (plans)", plans):
        token = plan["scene_token"]
        proposals = np.asarray(plan["proposals"], np.float64)
        found = choice_of(worlds.get(token), proposals, int(plan["chosen"]), futures[token])
        kept = ("trajectory_id", "scene_token", "log_name", "model_version")
        rows.append({**{name: plan[name] for name in kept}, **found})
    told = {
        f"{menu.planner}/{name}": value
        for menu in menus([{**row, "split": place["split"]} for row in rows])
        for name, value in (("regret", menu.regret.mean), ("living", menu.living))
    }
    names = sorted({row["trajectory_id"] for row in rows})
    return Output(rows, groups=tuple(names), metadata={"plans": len(rows), **told})
