"""rl: hosts that learned from the PDM score after imitation, and what that changed. No part of the
line: a planner that trained on the benchmark's own scorer is compared, and does not compete.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.planner.hosts.registry import MODULES as HOSTS
from latentvla_core.planner.hosts.registry import files_of
from pipelines.settings import TEST, TRAIN, VAL
from pipelines.steps import declare
from pipelines.steps.context import CHECKPOINTS, Model, Output, StageContext
from pipelines.steps.reading import training_records, worlds_of

GROUP = "rl"
FIGURES = (
    "score", "epdms", "extended_comfort", "progress", "reversing", "jumping",
    "dead_groups", "collapsed", "easy_share",
)  # fmt: skip


def model_name(host: str) -> str:
    """`ipad` → `ipad_rl`."""
    return f"{host}_rl"


def trainer_of(host: str) -> Callable[[StageContext, Path], Model]:
    """The training of one host after its imitation."""

    def train(context: StageContext, folder: Path) -> Model:
        from latentvla_core.planner.model import load, save
        from latentvla_core.rl.train import train_rl

        records = training_records(context, "labelled")
        planner: Any = load(context.model_dir(host))
        with context.training(model_name(host), folder) as sink:
            result = train_rl(
                planner,
                records,
                worlds_of(context, records),
                context.recipe.rl,
                sink=sink,
                checkpoint_dir=folder / CHECKPOINTS,
                device=context.device,
            )
        for sentence in result.warnings:
            context.say(f"{model_name(host)}: {sentence}")
        save(planner, folder)
        metrics = {f"before/{name}": value for name, value in result.before.items()}
        metrics |= {f"after/{name}": value for name, value in result.after.items()}
        metrics |= {"warnings": float(len(result.warnings)), "reward_share": result.reward_share}
        parameters = sum(p.numel() for p in planner.parameters())
        return Model(parameters, metrics, metadata={"warnings": "; ".join(result.warnings)})

    return train


def _declare(host: str) -> None:
    declare.model(
        name=model_name(host),
        doc=f"{host} after it learned from the PDM score (v1.1): it has seen the benchmark's scorer."
        " Figures before and after, and the detectors of known pitfalls, are its metrics.",
        deps=("scenes", "scene_worlds", host), group=GROUP, recipe=("rl", "roles"), reads=(TRAIN,),
        files=(files_of(host),), kinds=("pytorch", "mlflow"), heavy=True, family="planner",
    )(trainer_of(host))  # fmt: skip


for _host in HOSTS:
    _declare(_host)


@declare.table(
    deps=("scenes", "scene_worlds", *HOSTS, *map(model_name, HOSTS)),
    group=GROUP,
    recipe=("rl",),
    files=("sensors",),
    kinds=("pytorch", "deltalake"),
    heavy=True,
)
def rl_summary(context: StageContext) -> Output:
    """What learning from the score changed on held-out logs: PDMS, which it trained on, and EPDMS,
    extended comfort and the detectors, which it did not. Differences are paired by scene, intervals
    draw whole logs.
    """
    rows = [row for split in (VAL, TEST) for row in _rows(context, split)]
    told = {f"{r['split']}/{r['planner']}": r["score_gain"] for r in rows}
    return Output(rows, metadata=told)


def _rows(context: StageContext, split: str) -> list[dict[str, Any]]:
    """One row per host; none where the split has no scene that can be scored."""
    from latentvla_core.planner.model import load
    from latentvla_core.planner.plan import make_batches
    from latentvla_core.rl.watch import Watch

    records = context.records(split)
    worlds = worlds_of(context, records)
    if not any(world is not None for world in worlds):
        return []
    rows = []
    for host in context.track(f"rl_summary {split} (hosts)", tuple(HOSTS)):
        start, learned = (context.model(name, load) for name in (host, model_name(host)))
        watch = Watch.of(records, worlds, make_batches(start, records, None), most=len(records))
        logs = np.array([records[i].log_name for i in watch.scenes])
        rows.append(_compared(watch, start, learned, logs, context) | {
            "planner": model_name(host), "start": host, "split": split,
        })  # fmt: skip
    return rows


def _compared(
    watch: Any, start: Any, learned: Any, logs: np.ndarray, context: StageContext
) -> dict[str, Any]:
    """Figures before and after, their paired differences, and what the detectors say."""
    from latentvla_core.rl.limits import warnings_of
    from latentvla_core.statistics import paired_difference

    device, config = context.device, context.recipe.rl
    before, after = (
        watch.look(planner, device) | watch.drawn(planner, config, device)
        for planner in (start, learned)
    )
    then = {n: x.numpy() for n, x in watch.scores(watch.plans(start, device)).items()}
    now = {n: x.numpy() for n, x in watch.scores(watch.plans(learned, device)).items()}
    row: dict[str, Any] = {"scenes": len(logs), "logs": len(set(logs.tolist()))}
    for name in ("score", "epdms"):
        keep = np.isfinite(then[name]) & np.isfinite(now[name])
        gain = paired_difference(now[name][keep], then[name][keep], logs[keep])
        row |= {f"{name}_gain": gain.mean, f"{name}_low": gain.low, f"{name}_high": gain.high}
    for name in FIGURES:
        row |= {
            f"{name}_before": before.get(name, np.nan),
            f"{name}_after": after.get(name, np.nan),
        }
    return row | {"warnings": "; ".join(warnings_of(after, before))}
