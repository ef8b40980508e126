"""What can be launched: the whole line, or a part of it that makes sense alone. Same graph, same
recipe.
"""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from latentvla_core.planner.hosts.registry import MODULES as HOSTS
from pipelines.assets import closed_loop
from pipelines.dagster_assets import partitions_of
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.lineage import Stage, digest

# forkserver: importing torch and polars once per run instead of once per step, without forking
# their threads (stack.md §3.1)
EXECUTOR = dg.multiprocess_executor.configured(
    {
        "max_concurrent": 2,
        "start_method": {"forkserver": {"preload_modules": ["dagster", "deltalake"]}},
    }
)

STUDY = tuple(name for name, stage in STAGES.items() if stage.group == "evidence")
AT_THE_WHEEL = tuple(name for name, stage in STAGES.items() if stage.group == "closed_loop")
CONTROLS = tuple(name for name, stage in STAGES.items() if stage.group == "controls")
REWARDED = tuple(name for name, stage in STAGES.items() if stage.group == "rl")
ASIDE = (*STUDY, *CONTROLS, *AT_THE_WHEEL, *REWARDED)
LINE = tuple(name for name in STAGES if name not in ASIDE)
JOBS = {
    "whole_line": (LINE, "Everything, from logs to released models."),
    "closed_loop": (
        tuple(name for name in STAGES if name in (*LINE, *AT_THE_WHEEL)),
        "The whole line, and then every planner and every floor at the wheel: runs, scores, page.",
    ),
    "closed_loop_floors": (
        (
            "closed_loop_scenes",
            *map(closed_loop.asset_name, closed_loop.FLOORS),
            "closed_loop_scores",
            "closed_loop_summary",
        ),
        "What the floors are worth at the wheel: needs no logs, no model and no pictures.",
    ),
    "controls": (
        tuple(name for name in STAGES if name in (*LINE, *CONTROLS) and name != "releases"),
        "The fused planners beside their controls: equal compute, black pictures, noise, E_v, E_a, "
        "refinement without a VLM, missing, and the codes of the future as positive control.",
    ),
    "rl": (
        ("logs", "frames", "scenes", "scene_worlds", *HOSTS, *REWARDED),
        "The hosts, and the same after they learned from the PDM score, with figures of both on "
        "held-out logs and the detectors of what goes wrong.",
    ),
    "evidence": (
        ("logs", "frames", "scenes", "scene_worlds", *STUDY),
        "What pictures and latent actions are worth: every arm of the study by name, and its page. "
        "Needs hundreds of logs (examples/evidence.yaml) to say anything.",
    ),
    "labels": (
        (
            "logs",
            "frames",
            "scenes",
            "latent_action_model",
            "latent_quality",
            "latent_actions",
            "latent_codes",
        ),
        "Latent action labels for new logs, with the model's quality report and the atlas of its codes.",
    ),
    "ingest_and_label": (
        ("logs", "frames", "scenes", "latent_actions"),
        "Labels of new logs by the latent model there is; trains nothing. What `new_logs` asks for.",
    ),
    "baseline_scores": (
        (
            "logs",
            "frames",
            "scenes",
            "scene_worlds",
            "baseline_trajectories",
            "pdm_scores",
            "pdm_summary",
        ),
        "PDM scores of constant velocity and the human: needs no model and no pictures.",
    ),
}


def jobs_of(
    settings: Settings, stages: Mapping[str, Stage] = STAGES
) -> dict[str, dg.UnresolvedAssetJobDefinition]:
    """The jobs by name, each of those of its assets that are among the stages."""
    chosen = {name: [a for a in assets if a in stages] for name, (assets, _) in JOBS.items()}
    return {
        name: dg.define_asset_job(
            name,
            selection=dg.AssetSelection.assets(*assets),
            description=JOBS[name][1],
            partitions_def=partitions_of(settings),
            tags=writes_to(settings),
        )
        for name, assets in chosen.items()
        if assets
    }


def writes_to(settings: Settings) -> dict[str, str]:
    """Tag of every run that writes to this lake; dagster.yaml lets one of them run at a time."""
    return {"latentvla/writes": digest(settings.lake, str(settings.home))}


def all_partitions(settings: Settings) -> dict[str, str]:
    """Run tags that make one run cover every partition."""
    return {
        "dagster/asset_partition_range_start": settings.partitions[0],
        "dagster/asset_partition_range_end": settings.partitions[-1],
    }
