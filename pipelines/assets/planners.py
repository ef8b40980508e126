"""planners: the hosts Transfuser and iPad, the same with latent actions fused in (latentvla.md §4),
and their plans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.errors import SetupError
from latentvla_core.planner.hosts.registry import MODULES as HOSTS
from latentvla_core.planner.hosts.registry import files_of
from latentvla_core.types import SceneRecord
from pipelines import pictures
from pipelines.settings import TRAIN, VAL
from pipelines.steps import declare
from pipelines.steps.context import CHECKPOINTS, Model, Output, StageContext
from pipelines.steps.lineage import place_of
from pipelines.steps.reading import UNTRAINED, features_of, training_records, worlds_of

if TYPE_CHECKING:
    from latentvla_core.planner.plan import Plans


@dataclass(frozen=True, slots=True)
class Variant:
    """One planner: a host, what is fused into it, and whose weights it starts from."""

    name: str
    host: str
    features: str
    """Table of the features, or "" for the plain host."""
    features_model: str
    """Model that makes them at inference."""
    start: str
    """Model it is fine-tuned from, or ""."""


VARIANTS = tuple(
    variant
    for host in HOSTS
    for variant in (
        Variant(host, host, "", "", ""),
        Variant(f"{host}_latent", host, "vlm_features", "vlm", host),
        Variant(f"{host}_student", host, "student_features", "student", f"{host}_latent"),
    )
)
PLANNERS = ("ego_status_mlp", *(variant.name for variant in VARIANTS))
"""Every trained planner of the line."""


@declare.model(
    deps=("scenes",),
    group="planners",
    recipe=("ego_status", "roles"),
    family="planner",
    reads=(TRAIN,),
    kinds=("pytorch", "mlflow"),
    heavy=True,
)
def ego_status_mlp(context: StageContext, folder: Path) -> Model:
    """Blind baseline: velocity, acceleration and command through an MLP. What a planner must beat
    to have seen anything.
    """
    from latentvla_core.planner.baselines import train_ego_status
    from latentvla_core.planner.model import save

    records = training_records(context, "labelled")
    with context.training("ego_status_mlp", folder) as sink:
        model, _ = train_ego_status(
            records,
            context.recipe.ego_status,
            sink=sink,
            checkpoint_dir=folder / CHECKPOINTS,
            device=context.device,
        )
    save(model, folder)
    return _report(context, model, records, None, {})


def trainer_of(variant: Variant) -> Callable[[StageContext, Path], Model]:
    """The training function of one variant."""

    def train(context: StageContext, folder: Path) -> Model:
        from latentvla_core.planner.model import save
        from latentvla_core.planner.train import train_planner

        records = training_records(context, "labelled")
        features = features_of(context, records, variant.features) if variant.features else None
        model = start_of(context, variant, features)
        with context.training(variant.name, folder) as sink:
            train_planner(
                model,
                records,
                context.recipe.planner.train,
                worlds=worlds_of(context, records),
                maps=maps_of(context),
                features=features,
                sink=sink,
                checkpoint_dir=folder / CHECKPOINTS,
                device=context.device,
            )
        save(model, folder)
        parts = {"features": context.model_dir(variant.features_model)} if variant.features else {}
        return _report(context, model, records, variant.features or None, parts)

    return train


def start_of(context: StageContext, variant: Variant, features: Any) -> Any:
    """The planner before its training: a fresh host, a host with gates at zero, or a fused planner
    for new features.
    """
    from latentvla_core.planner.model import build_planner, fuse, load, refuse

    recipe = context.recipe.planner
    if not variant.start:
        return build_planner(variant.host, recipe.host(variant.host))
    if features is None:
        raise SetupError(
            f"table {variant.features} has no rows for split {TRAIN}; materialise {variant.features} first"
        )
    start: Any = load(
        context.model_dir(variant.start)
    )  # a host or a fused planner: variants never start from the MLP
    if variant.start == variant.host:
        return fuse(start, recipe.fusion, features.width)
    return refuse(start, features.width)


def maps_of(context: StageContext) -> Any:
    """The maps of the training split, None where it has none."""
    from latentvla_core.data.map_files.maps import MapStore

    root = context.settings.source(TRAIN).maps
    return MapStore(root) if root else None


def _report(
    context: StageContext,
    model: Any,
    records: Sequence[SceneRecord],
    table: str | None,
    parts: dict[str, Path],
) -> Model:
    """Displacement error on the val split (train when there is none): a quick look; the verdict is
    the PDM score.
    """
    from latentvla_core.planner.evaluation import displacement_errors
    from latentvla_core.planner.plan import plan

    held_out = context.records(VAL) or records
    features = features_of(context, held_out, table) if table else None
    errors = displacement_errors(plan(model, held_out, features, device=context.device), held_out)
    metrics = {f"val/{name}": value for name, value in errors.items()}
    told = {"teacher_saw": _saw(context)} if table else {}
    return Model(sum(p.numel() for p in model.parameters()), metrics, parts, told)


def _saw(context: StageContext) -> str:
    """Whether what a fused planner was told in training is as good as what it will be told later."""
    if context.recipe.roles.are_apart:
        return "no log of these scenes"
    return (
        "these scenes too: its features are better here than they are on new logs (recipe: roles)"
    )


@declare.shards(
    table="trajectories", deps=("scenes",), group="planners", kinds=("numpy", "deltalake")
)
def baseline_trajectories(context: StageContext, partition: str) -> Output:
    """Plans that need no training: constant velocity, as the devkit's agent drives, and the human's
    own drive.
    """
    from latentvla_core.planner.baselines import constant_velocity, human
    from latentvla_core.planner.plan import Plans

    records = context.records(**place_of(partition))
    plans = {"constant_velocity": constant_velocity, "human": human}
    short = [
        f"the log has {len(r.future_poses)} of the 8 future poses of a human's plan"
        for r in records
    ]
    faults = {"human": short}
    rows = [
        row
        for name, plan in plans.items()
        for row in plan_rows(name, records, Plans(plan(records)), "none", faults.get(name))
    ]
    return Output(rows, groups=UNTRAINED, metadata={"scenes": len(records)})


def plan_rows(
    name: str,
    records: Sequence[SceneRecord],
    plans: Plans,
    version: str,
    faults: list[str] | None = None,
) -> list[dict[str, Any]]:
    rows = []
    for i, (record, fault) in enumerate(zip(records, faults or [""] * len(records), strict=True)):
        plan = plans.poses[i]
        usable = bool(np.isfinite(plan).all())
        rows.append({
            "trajectory_id": name, "scene_token": record.scene_token, "log_name": record.log_name,
            "poses": plan if usable else np.zeros((0, 3)), **_menu(plans, i, usable),
            "valid": usable,
            "reason": "" if usable else fault or "the planner gave a pose that is not finite",
            "model_version": version,
        })  # fmt: skip
    return rows


def _menu(plans: Plans, scene: int, usable: bool) -> dict[str, Any]:
    """What the plan of a scene was chosen from, as columns."""
    if not usable or plans.proposals is None or plans.logits is None or plans.chosen is None:
        return {"proposals": np.zeros((0, 8, 3)), "logits": np.zeros((0, 6)), "chosen": -1}
    found = {"proposals": plans.proposals[scene], "logits": plans.logits[scene]}
    return {**found, "chosen": int(plans.chosen[scene])}


def _doc_of(variant: Variant) -> str:
    if not variant.features:
        return f"The host {variant.host} alone: the baseline that its fused variants start from and must beat."
    return (
        f"The host {variant.host} with {variant.features_model} features fused into its queries by cross-attention,"
        f" fine-tuned from {variant.start}."
    )


def _declare(variant: Variant) -> None:
    """One asset per variant: same training, other host and features."""
    deps = ("scenes", "scene_worlds", *filter(None, (variant.features, variant.start)))
    declare.model(
        name=variant.name, doc=_doc_of(variant), deps=deps, group="planners", recipe=("planner", "roles"),
        reads=(TRAIN,), files=("maps", files_of(variant.host)), kinds=("pytorch", "mlflow"), heavy=True,
        family="planner",
    )(trainer_of(variant))  # fmt: skip


for _variant in VARIANTS:
    _declare(_variant)


@declare.shards(
    picture=pictures.plans_strip,
    deps=(
        "scenes",
        "vlm_features",
        "student_features",
        *PLANNERS,
    ),
    group="planners",
    files=("sensors",),
    kinds=("pytorch", "deltalake"),
    heavy=True,
)
def trajectories(context: StageContext, partition: str) -> Output:
    """The plan of every trained planner for every scene of the shard, with the proposals it was
    chosen from and their logits.
    """
    from latentvla_core.planner.model import load
    from latentvla_core.planner.plan import plan_all

    records = context.records(**place_of(partition))
    rows: list[dict[str, Any]] = []
    names = PLANNERS
    tables = {variant.name: variant.features for variant in VARIANTS}
    for name in context.track(f"trajectories {partition} (planners)", names if records else ()):
        model = context.model(name, load)
        features = features_of(context, records, tables[name]) if tables.get(name) else None
        faults: list[str] = []
        plans = plan_all(model, records, features, device=context.device, faults=faults)
        rows += plan_rows(name, records, plans, context.ledger.made_by(name, ""), faults)
    return Output(rows, groups=names, metadata={"planners": len(names), "scenes": len(records)})
