"""planners: the hosts Transfuser and iPad, the same with latent actions fused in (latentvla.md §4),
and their plans.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.errors import SetupError
from latentvla_core.types import SceneRecord
from pipelines.assets.latent_action_model import training_records
from pipelines.assets.scores import worlds_of
from pipelines.assets.vlm import features_of
from pipelines.engine import CHECKPOINTS, Engine, Model, Output
from pipelines.lineage import Stage, place_of
from pipelines.settings import TRAIN, VAL


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
    for host in ("transfuser", "ipad")
    for variant in (
        Variant(host, host, "", "", ""),
        Variant(f"{host}_latent", host, "vlm_features", "vlm", host),
        Variant(f"{host}_student", host, "student_features", "student", f"{host}_latent"),
    )
)
BASELINES = ("constant_velocity", "human")


def ego_status_mlp(engine: Engine, folder: Path) -> Model:
    """Blind baseline: velocity, acceleration and command through an MLP. What a planner must beat
    to have seen anything.
    """
    from latentvla_core.planner.baselines import train_ego_status
    from latentvla_core.planner.model import save

    records = training_records(engine)
    with engine.training("ego_status_mlp", folder) as sink:
        model, _ = train_ego_status(
            records,
            engine.recipe.ego_status,
            sink=sink,
            checkpoint_dir=folder / CHECKPOINTS,
            device=engine.device,
        )
    save(model, folder)
    return _report(engine, model, records, None, {})


def trainer_of(variant: Variant) -> Callable[[Engine, Path], Model]:
    """The training function of one variant."""

    def train(engine: Engine, folder: Path) -> Model:
        from latentvla_core.planner.model import save
        from latentvla_core.planner.train import train_planner

        records = training_records(engine)
        features = features_of(engine, records, variant.features) if variant.features else None
        model = start_of(engine, variant, features)
        with engine.training(variant.name, folder) as sink:
            train_planner(
                model,
                records,
                engine.recipe.planner.train,
                worlds=worlds_of(engine, records),
                maps=_maps(engine),
                features=features,
                sink=sink,
                checkpoint_dir=folder / CHECKPOINTS,
                device=engine.device,
            )
        save(model, folder)
        parts = {"features": engine.model_dir(variant.features_model)} if variant.features else {}
        return _report(engine, model, records, variant.features or None, parts)

    return train


def start_of(engine: Engine, variant: Variant, features: Any) -> Any:
    """The planner before its training: a fresh host, a host with gates at zero, or a fused planner
    for new features.
    """
    from latentvla_core.planner.model import build_planner, fuse, load, refuse

    recipe = engine.recipe.planner
    if not variant.start:
        return build_planner(variant.host, recipe.host(variant.host))
    if features is None:
        raise SetupError(
            f"table {variant.features} has no rows for split {TRAIN}; materialise {variant.features} first"
        )
    start: Any = load(
        engine.model_dir(variant.start)
    )  # a host or a fused planner: variants never start from the MLP
    if variant.start == variant.host:
        return fuse(start, recipe.fusion, features.width)
    return refuse(start, features.width)


def _maps(engine: Engine) -> Any:
    from latentvla_core.data.map_files.maps import MapStore

    root = engine.settings.source(TRAIN).maps
    return MapStore(root) if root else None


def _report(
    engine: Engine,
    model: Any,
    records: list[SceneRecord],
    table: str | None,
    parts: dict[str, Path],
) -> Model:
    """Displacement error on the val split (train when there is none): a quick look; the verdict is
    the PDM score.
    """
    from latentvla_core.planner.plan import plan

    held_out = engine.records(VAL) or records
    features = features_of(engine, held_out, table) if table else None
    poses = plan(model, held_out, features, device=engine.device)
    truth = np.stack([record.future_poses[:8] for record in held_out])
    error_m = np.linalg.norm(poses[..., :2] - truth[..., :2], axis=-1)
    error_m = error_m[
        np.isfinite(error_m).all(axis=-1)
    ]  # scenes whose pictures cannot be read have no plan
    if not len(error_m):
        return Model(sum(p.numel() for p in model.parameters()), {}, parts)
    metrics = {"val/ade_m": float(error_m.mean()), "val/fde_m": float(error_m[:, -1].mean())}
    return Model(sum(p.numel() for p in model.parameters()), metrics, parts)


def baseline_trajectories(engine: Engine, partition: str) -> Output:
    """Plans that need no training: constant velocity, as the devkit's agent drives, and the human's
    own drive.
    """
    from latentvla_core.planner.baselines import constant_velocity, human

    records = engine.records(**place_of(partition))
    plans = {"constant_velocity": constant_velocity, "human": human}
    short = [
        f"the log has {len(r.future_poses)} of the 8 future poses of a human's plan"
        for r in records
    ]
    faults = {"human": short}
    rows = [
        row
        for name, plan in plans.items()
        for row in _rows(name, records, plan(records), "none", faults.get(name))
    ]
    return Output(rows, groups=BASELINES, metadata={"scenes": len(records)})


def trajectories(engine: Engine, partition: str) -> Output:
    """The plan of every trained planner for every scene of the shard."""
    from latentvla_core.planner.model import load
    from latentvla_core.planner.plan import plan

    records = engine.records(**place_of(partition))
    rows: list[dict[str, Any]] = []
    names = ("ego_status_mlp", *(variant.name for variant in VARIANTS))
    tables = {variant.name: variant.features for variant in VARIANTS}
    for name in engine.track(f"trajectories {partition} (planners)", names if records else ()):
        model = engine.model(name, load)
        features = features_of(engine, records, tables[name]) if tables.get(name) else None
        faults: list[str] = []
        poses = plan(model, records, features, device=engine.device, faults=faults)
        rows += _rows(name, records, poses, engine.ledger.made_by(name, ""), faults)
    return Output(rows, groups=names, metadata={"planners": len(names), "scenes": len(records)})


def _rows(
    name: str,
    records: list[SceneRecord],
    poses: np.ndarray,
    version: str,
    faults: list[str] | None = None,
) -> list[dict[str, Any]]:
    rows = []
    for record, plan, fault in zip(records, poses, faults or [""] * len(records), strict=True):
        usable = bool(np.isfinite(plan).all())
        rows.append({
            "trajectory_id": name, "scene_token": record.scene_token, "log_name": record.log_name,
            "poses": plan if usable else np.zeros((0, 3)), "valid": usable,
            "reason": "" if usable else fault or "the planner gave a pose that is not finite",
            "model_version": version,
        })  # fmt: skip
    return rows


def _stage_of(variant: Variant) -> Stage:
    deps = ["scenes", "scene_worlds", *filter(None, (variant.features, variant.start))]
    return Stage(
        name=variant.name,
        run=trainer_of(variant),
        kind="model",
        table="models",
        deps=tuple(deps),
        group="planners",
        doc=_doc_of(variant),
        recipe=("planner",),
        reads=(TRAIN, VAL),
        files=("maps",),
        kinds=("pytorch", "mlflow"),
        heavy=True,
    )


def _doc_of(variant: Variant) -> str:
    if not variant.features:
        return f"The host {variant.host} alone: the baseline that its fused variants start from and must beat."
    return (
        f"The host {variant.host} with {variant.features_model} features fused into its queries by cross-attention,"
        f" fine-tuned from {variant.start}."
    )


STAGES = (
    Stage(
        name="baseline_trajectories",
        run=baseline_trajectories,
        kind="shards",
        table="trajectories",
        deps=("scenes",),
        group="planners",
        doc=baseline_trajectories.__doc__ or "",
        kinds=("numpy", "deltalake"),
    ),
    Stage(
        name="ego_status_mlp",
        run=ego_status_mlp,
        kind="model",
        table="models",
        deps=("scenes",),
        group="planners",
        doc=ego_status_mlp.__doc__ or "",
        recipe=("ego_status",),
        reads=(TRAIN, VAL),
        kinds=("pytorch", "mlflow"),
        heavy=True,
    ),
    *(_stage_of(variant) for variant in VARIANTS),
    Stage(
        name="trajectories",
        run=trajectories,
        kind="shards",
        table="trajectories",
        deps=(
            "scenes",
            "vlm_features",
            "student_features",
            "ego_status_mlp",
            *(v.name for v in VARIANTS),
        ),
        group="planners",
        doc=trajectories.__doc__ or "",
        kinds=("pytorch", "deltalake"),
        heavy=True,
    ),
)
