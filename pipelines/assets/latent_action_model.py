"""latent action model: the two stages that discover the codes (latentvla.md §2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latentvla_core.errors import SetupError
from latentvla_core.types import SceneRecord
from pipelines.engine import CHECKPOINTS, CURVES, Engine, Model
from pipelines.lineage import Stage
from pipelines.settings import TRAIN

if TYPE_CHECKING:
    from latentvla_core.latent.config import LatentActionConfig
    from latentvla_core.training.images import ImageCache

SHOWN = (
    "loss", "gain", "ego_usage", "ego_perplexity", "environment_usage", "environment_perplexity",
    "action_r2_longitudinal", "action_r2_yaw", "leak",
)  # fmt: skip
"""Numbers of health on the progress line, before others."""
PACE = ("samples_per_s", "progress")
"""What a training logs about the machine and not about the model."""


def training_records(engine: Engine) -> list[SceneRecord]:
    """Scenes of the train split. Raises SetupError when there are none, which no training can mend."""
    records = engine.records(TRAIN)
    if not records:
        raise SetupError(
            f"split {TRAIN} has no scenes in {engine.settings.lake}; materialise logs, frames and scenes, and look at"
            " the counts and at table quarantine"
        )
    return records


def what_it_sees(engine: Engine, config: LatentActionConfig, *, mirror: bool = False) -> ImageCache:
    """Pictures; with DINOv2 the table of its features in the working folder, which training, report and labels share.

    Only training takes mirrored pictures, whose features cost as much again.
    """
    from latentvla_core.latent.feature_table import open_cache

    return open_cache(config.features, engine.settings.home / "features", mirror=mirror, device=engine.device)


def latent_action_model(engine: Engine, folder: Path) -> Model:
    """Two stages of inverse and forward dynamics around a VQ bottleneck: environment codes first, then 16 ego action codes.

    Stopped early when the codebook collapses; whether the model may label is decided by `latent_quality`.
    """
    from latentvla_core.latent.health_watch import HealthWatch
    from latentvla_core.latent.model import save
    from latentvla_core.latent.train import train_latent_action_model
    from latentvla_core.training.sinks import Tee, read_curves

    config = engine.recipe.latent
    with engine.training("latent_action_model", folder, SHOWN) as sink:
        model = train_latent_action_model(
            training_records(engine), config, sink=Tee(sink, HealthWatch()), checkpoint_dir=folder / CHECKPOINTS,
            device=engine.device, cache=what_it_sees(engine, config, mirror=config.mirror),
        )  # fmt: skip
    save(model, folder)
    curves = read_curves(folder / CURVES)  # the file survives a kill, so the figures are those of an undisturbed run
    metrics = {name: points[-1][1] for name, points in curves.items() if not name.endswith(PACE)}
    return Model(sum(p.numel() for p in model.parameters()), metrics)


STAGES = (
    Stage(name="latent_action_model", run=latent_action_model, kind="model", table="models", deps=("scenes",),
          group="latent_actions", doc=latent_action_model.__doc__ or "", recipe=("latent",), reads=(TRAIN,), code_version="2",
          kinds=("pytorch", "mlflow"), heavy=True),
)  # fmt: skip
