"""latent action model: the two stages that discover the codes (latentvla.md §2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latentvla_core.errors import DataError
from latentvla_core.types import SceneRecord
from pipelines.settings import TRAIN, VAL
from pipelines.steps import declare
from pipelines.steps.context import CHECKPOINTS, CURVES, Model, StageContext
from pipelines.steps.reading import training_records

if TYPE_CHECKING:
    from latentvla_core.latent.config import LatentActionConfig
    from latentvla_core.latent.train import Measure
    from latentvla_core.training.images import ImageCache

SHOWN = (
    "loss",
    "gain",
    "ego_usage",
    "ego_perplexity",
    "environment_usage",
    "environment_perplexity",
    "action_r2_longitudinal",
    "action_r2_yaw",
    "leak",
    *(
        f"quality/{name}"
        for name in (
            "gain_over_copy",
            "ego_usage",
            "ego_perplexity",
            "ego_r2_longitudinal",
            "ego_r2_yaw",
            "mutual_information_longitudinal",
            "environment_r2_longitudinal",
            "environment_r2_yaw",
            "environment_perplexity",
            "trajectory_use",
            "environment_use",
            "shuffle_ego",
            "shuffle_environment",
            "transfer_longitudinal",
            "transfer_yaw",
            "agent_advantage",
        )
    ),
)
"""Figures of quality on the progress line, before others; those of held-out logs have a line of
their own.
"""
ENOUGH_LOGS = 6  # fewer say nothing about probes: a single log may hold no turn at all
PACE = ("samples_per_s", "progress")
"""What a training logs about the machine and not about the model."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a model is judged on."""

    records: Sequence[SceneRecord]
    others: Sequence[SceneRecord] | None
    """Scenes of other logs to fit the probes on; None: cross-validation over the logs of `records`."""
    sentence: str


def what_it_sees(
    context: StageContext, config: LatentActionConfig, *, mirror: bool = False
) -> ImageCache:
    """Pictures; with DINOv2 the table of its features in the working folder, which training, report
    and labels share.

    Only training takes mirrored pictures, whose features cost as much again.
    """
    from latentvla_core.latent.feature_table import open_cache

    return open_cache(
        config.features, context.settings.home / "features", mirror=mirror, device=context.device
    )


def judged_scenes(train: Sequence[SceneRecord], val: Sequence[SceneRecord]) -> Judged:
    """The val split if it has enough logs, else its logs with as many of the train split as are
    missing.
    """
    held_out = sorted({r.log_name for r in val})
    if len(held_out) >= ENOUGH_LOGS:
        return Judged(
            val, train, f"Judged on split {VAL}: {len(held_out)} logs that no training saw."
        )
    seen = sorted({r.log_name for r in train})[: ENOUGH_LOGS - len(held_out)]
    sentence = (
        f"Split {VAL} has only {len(held_out)} of the {ENOUGH_LOGS} logs that probes need, so {len(seen)} logs that the model was"
        " trained on are judged with it; every probe is judged on logs it was not fitted on."
    )
    return Judged([*val, *(r for r in train if r.log_name in set(seen))], None, sentence)


def looking_at(
    context: StageContext, train: Sequence[SceneRecord], cache: ImageCache
) -> Measure | None:
    """The quality report's figures on a sample of what it will be made of, for while it trains;
    None, and why, without pictures.
    """
    from latentvla_core.latent.probes import HeldOut

    config = context.recipe.latent
    if not config.quality_every:
        return None
    judged = judged_scenes(train, context.records(VAL))
    try:
        sample = HeldOut.of(judged.records, judged.others, config.gap_frames, cache)
    except DataError as error:
        context.say(f"no quality figures during training: {error}")
        return None
    context.say(
        f"quality figures during training are of a sample of {len(sample.judged)} transitions. {judged.sentence}"
    )
    return sample.report


@declare.model(
    deps=("scenes",),
    group="latent_actions",
    recipe=("latent", "roles"),
    reads=(TRAIN,),
    files=("front",),
    code_version="3",
    kinds=("pytorch", "mlflow"),
    heavy=True,
)
def latent_action_model(context: StageContext, folder: Path) -> Model:
    """Two stages of inverse and forward dynamics around a VQ bottleneck: environment codes first,
    then 16 ego action codes.

    Stopped early when the codebook collapses; whether the model may label is decided by
    `latent_quality`.
    """
    from latentvla_core.latent.model import save
    from latentvla_core.latent.quality_watch import QualityWatch
    from latentvla_core.latent.train import finished_steps, train_latent_action_model
    from latentvla_core.training.sinks import Tee, read_curves

    config = context.recipe.latent
    records, cache = (
        training_records(context, "unlabelled"),
        what_it_sees(context, config, mirror=config.mirror),
    )
    measure = looking_at(context, records, cache)
    began_at = finished_steps(folder / CHECKPOINTS, config)
    watch = QualityWatch(before=read_curves(folder / CURVES, until=began_at))
    with context.training("latent_action_model", folder, SHOWN) as sink:
        model = train_latent_action_model(
            records,
            config,
            sink=Tee(sink, watch),
            checkpoint_dir=folder / CHECKPOINTS,
            device=context.device,
            cache=cache,
            measure=measure,
        )
    save(model, folder)
    curves = read_curves(
        folder / CURVES
    )  # the file survives a kill, so the figures are those of an undisturbed run
    metrics = {name: points[-1][1] for name, points in curves.items() if not name.endswith(PACE)}
    return Model(sum(p.numel() for p in model.parameters()), metrics)
