"""controls: what the fused planners are compared with, every arm a model by name, and whether the
fusion of a host can be used at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.errors import SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.planner.hosts.registry import MODULES as HOSTS
from latentvla_core.planner.hosts.registry import files_of
from latentvla_core.planner.variants import ARMS, LINE, Arm, compared, positive_control
from latentvla_core.types import SceneRecord
from pipelines.assets.planners import VARIANTS, maps_of
from pipelines.checks import Verdict
from pipelines.settings import TEST, TRAIN, VAL
from pipelines.steps import declare
from pipelines.steps.context import CHECKPOINTS, Model, Output, StageContext
from pipelines.steps.reading import features_of, labels_of, training_records, worlds_of

if TYPE_CHECKING:
    from latentvla_core.planner.plan import View

GROUP = "controls"
TRAINED_BY = {
    "host": "{}",
    "latent": "{}_latent",
    "student": "{}_student",
    "swapped": "{}_latent",
    "missing": "{}_latent",
}
"""Arm of the line → model that plans it."""
FEATURES = {
    "latent": "vlm_features",
    "student": "student_features",
    "swapped": "student_features",
}


def model_name(host: str, arm: str) -> str:
    """Name of the model behind an arm: `ipad_noise`, or the line's own."""
    return TRAINED_BY.get(arm, f"{{}}_{arm}").format(host)


def tokens_of(context: StageContext, arm: Arm, records: Sequence[SceneRecord]) -> Any:
    """What the VLM says in this arm, in the order of the records; None for a host alone."""
    from latentvla_core.planner.controls import control_features, oracle_features

    if arm.tokens == "none":
        return None
    features = features_of(context, records, "vlm_features")
    if features is None:
        raise SetupError(
            "table vlm_features has no rows for these scenes; materialise vlm_features first"
        )
    if arm.tokens == "vlm":
        return control_features(features, arm.control)
    tokens = [record.scene_token for record in records]
    return oracle_features(labels_of(context, records), features.width, tokens)


def view_of(arm: Arm) -> View | None:
    """How this arm sees."""
    from latentvla_core.planner.controls import blacken

    return None if arm.sees else blacken


def trainer_of(host: str, arm: Arm, name: str) -> Callable[[StageContext, Path], Model]:
    """The training function of one arm."""

    def train(context: StageContext, folder: Path) -> Model:
        from latentvla_core.planner.evaluation import displacement_errors
        from latentvla_core.planner.model import save
        from latentvla_core.planner.plan import plan_all
        from latentvla_core.planner.train import train_planner

        records = training_records(context, "labelled")
        features = tokens_of(context, arm, records)
        model = start_of(context, host, arm, features)
        with context.training(name, folder) as sink:
            train_planner(
                model,
                records,
                context.recipe.planner.train,
                worlds=worlds_of(context, records),
                maps=maps_of(context),
                features=features,
                fine_tune=arm.fine_tunes,
                sink=sink,
                checkpoint_dir=folder / CHECKPOINTS,
                device=context.device,
                view=view_of(arm),
            )
        save(model, folder)
        held_out = context.records(VAL) or records
        said = tokens_of(context, arm, held_out)
        plans = plan_all(model, held_out, said, device=context.device, view=view_of(arm))
        errors = displacement_errors(plans.poses, held_out)
        metrics = {f"val/{key}": value for key, value in errors.items()}
        return Model(sum(p.numel() for p in model.parameters()), metrics)

    return train


def start_of(context: StageContext, host: str, arm: Arm, features: Any) -> Any:
    """The planner of an arm before its training."""
    from latentvla_core.planner.model import build_planner, fuse, load

    recipe = context.recipe.planner
    if not arm.fine_tunes:
        return build_planner(host, recipe.host(host))
    start: Any = load(context.model_dir(host))
    return start if features is None else fuse(start, recipe.fusion, _width(features))


def _width(features: Any) -> int:
    return int(features.action.shape[-1])


def _declare(host: str, name: str, arm: Arm) -> None:
    """One asset per host and arm."""
    deps = ["scenes", "scene_worlds"]
    deps += [host] if arm.fine_tunes else []
    deps += {"none": [], "vlm": ["vlm_features"], "codes": ["vlm_features", "latent_actions"]}[
        arm.tokens
    ]
    declare.model(
        name=model_name(host, name), doc=f"Control of {host}_latent. {arm.isolates}.",
        deps=tuple(deps), group=GROUP, recipe=("planner", "roles"), reads=(TRAIN,),
        files=("maps", files_of(host)), kinds=("pytorch", "mlflow"), heavy=True, family="planner",
    )(trainer_of(host, arm, model_name(host, name)))  # fmt: skip


for _host in HOSTS:
    for _name, _arm in ARMS.items():
        _declare(_host, _name, _arm)

EVERY = tuple(dict.fromkeys(model_name(host, arm) for host in HOSTS for arm in (*LINE, *ARMS)))
"""Models that some arm needs."""


def positive_controls(lake: Lake) -> Verdict:
    """One fault per host whose fusion does not use a VLM that is right, on the held-out split."""
    rows = lake.rows("planner_controls")
    found = compared(rows)
    told = [positive_control(found, host, TEST) for host in HOSTS]
    return Verdict(len(rows), [verdict[1] for verdict in told if verdict and not verdict[0]])


def unused_fusion(context: StageContext, planner: str) -> str:
    """Why a fused planner may not be promoted: its host's positive control was run and fails, so its
    score has nothing to do with a VLM. "" for hosts, and where the control was not run.
    """
    host = next((v.host for v in VARIANTS if v.name == planner and v.features), "")
    if not host:
        return ""
    rows = context.lake.rows("planner_controls", {"host": host})
    found = positive_control(compared(rows), host, TEST)
    return "" if found is None or found[0] else found[1]


@declare.table(
    deps=("scenes", "scene_worlds", "vlm_features", "student_features", "latent_actions", *EVERY),
    group=GROUP,
    checks={"positive_control": positive_controls},
    files=("sensors",),
    kinds=("pytorch", "deltalake"),
    heavy=True,
)
def planner_controls(context: StageContext) -> Output:
    """Every arm of every host planned and scored on val and test, scene by scene. Read
    `control_comparisons` for differences with intervals.
    """
    rows: list[dict[str, Any]] = []
    for split in (VAL, TEST):
        records = context.records(split)
        worlds = worlds_of(context, records)
        arms = [(host, arm) for host in HOSTS for arm in (*LINE, *ARMS)] if records else []
        for host, arm in context.track(f"planner_controls {split} (arms)", arms):
            rows += _rows(context, host, arm, records, worlds)
    return Output(rows, metadata={"arms": len(LINE) + len(ARMS), "scenes": len(rows)})


def _rows(
    context: StageContext, host: str, name: str, records: list[SceneRecord], worlds: Any
) -> list[dict[str, Any]]:
    """Plans of one arm, judged."""
    from latentvla_core.planner.menus import choice_of
    from latentvla_core.planner.model import load
    from latentvla_core.planner.plan import plan_all

    model = context.model(model_name(host, name), load)
    arm = ARMS.get(name)
    if arm is not None:
        said, view = tokens_of(context, arm, records), view_of(arm)
    else:
        table, view = FEATURES.get(name, ""), None
        said = features_of(context, records, table) if table else None
    if name == "swapped" and said is not None and _width(said) != model.fusion.feature_dim:
        context.say(
            f"{host}: student and VLM have states of other widths, so they cannot be swapped"
        )
        return []
    plans = plan_all(model, records, said, device=context.device, view=view)
    kept = np.isfinite(plans.poses).all(axis=(1, 2))
    menu = plans.poses[:, None] if plans.proposals is None else plans.proposals
    picked = np.zeros(len(records), int) if plans.chosen is None else plans.chosen
    rows = []
    for i in np.flatnonzero(kept):
        record = records[i]
        found = choice_of(worlds[int(i)], menu[i], int(picked[i]), record.future_poses)
        rows.append({
            "host": host, "arm": name, "split": record.split, "scene_token": record.scene_token,
            "log_name": record.log_name, "score": found["chosen_score"],
            "best_score": found["best_score"], "ade_m": found["chosen_ade_m"],
            "min_ade_m": found["nearest_ade_m"],
        })  # fmt: skip
    return rows


@declare.table(deps=("planner_controls",), group=GROUP, kinds=("deltalake",))
def control_comparisons(context: StageContext) -> Output:
    """Arm against arm, paired scene by scene, intervals over whole logs; first of all whether the
    fusion of each host can be used: where its positive control fails, the other rows of that host
    say nothing about a VLM.
    """
    found = compared(context.lake.rows("planner_controls"))
    rows = [
        {
            "host": c.host, "split": c.split, "a": c.a, "b": c.b, "meaning": c.meaning,
            "figure": c.figure, "difference": c.difference.mean, "low": c.difference.low,
            "high": c.difference.high, "scenes": c.difference.count, "logs": c.difference.groups,
            "verdict": c.verdict,
        }
        for c in found
    ]  # fmt: skip
    told = [positive_control(found, host, TEST) for host in HOSTS]
    said = [verdict[1] for verdict in told if verdict]
    return Output(rows, metadata={"positive_control": "; ".join(said) or "not run"})
