"""Do latent actions mean ego motion? Writes an embedded world, trains both stages per seed, prints
the quality table.

    python -m benchmarks.latent_quality --out DIR --seeds 0 1 2

Training and the fit of the probes use one world's training logs; the numbers come from the test
logs of *another* world: other towns, other traffic, never looked at while the recipe was chosen.
Transfer is also judged by the next seed's encoder, which cannot know of any private signal between
a decoder and its own encoder. --set takes fields of LatentActionConfig as NAME=VALUE (nested:
ego.kind=fsq).
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # a waiting OpenMP thread must not burn the other core

import torch

from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.records import scene_record
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.environment.agents import AGENT_AXES
from latentvla_core.latent.model import LatentActionModel, load, save
from latentvla_core.latent.pairs import collect_pairs
from latentvla_core.latent.probes import AXES, Report, all_codes, evaluate, stability, transfer
from latentvla_core.latent.quality import QualityGate, blocking, judge
from latentvla_core.latent.train import train_latent_action_model
from latentvla_core.training.config import with_training
from latentvla_core.training.images import ImageCache
from latentvla_core.training.sinks import ProgressSink
from latentvla_core.types import FRONT_CAMERA, SceneRecord
from latentvla_core.world.write import WorldConfig, WorldTree, data_split, write_world

TRANSFERS = ("transfer", "transfer_judged", "transfer_ceiling")
TRAIN_SEED, TEST_SEED = 101, 1010  # 202 to 909 have been looked at: they judged what came before
ROWS = (
    *(
        "ego_usage",
        "ego_perplexity",
        "environment_usage",
        "environment_perplexity",
        "gain_over_copy",
    ),
    *(f"{codes}_r2_{axis}" for codes in ("ego", "environment", "joint") for axis in AXES),
    *(f"mutual_information_{axis}" for axis in AXES),
    *(f"agent_r2_{codes}" for codes in ("ego", "environment", "joint")),
    *(f"agent_r2_{codes}_{axis}" for axis in AGENT_AXES for codes in ("ego", "environment")),
    "agent_advantage",
    *("shuffle_ego", "shuffle_environment", "ego_redundancy", "trajectory_use", "environment_use"),
    *(f"{name}_{axis}" for name in TRANSFERS for axis in ("longitudinal", "yaw")),
    *("train_cpu_s", "transitions"),
)


def records_of(tree: WorldTree, split: str) -> list[SceneRecord]:
    """Scenes of a split, one per frame that has a whole window."""
    scenes = SceneFilter(
        num_history_frames=4, num_future_frames=10, frame_interval=1, has_route=False
    )
    logs = [tree.log_path(split, name) for name in tree.logs[split]]
    root = str(tree.root / "sensor_blobs" / data_split(split))
    return [scene_record(scene, root) for scene in iter_scenes(logs, scenes, split)]


def changed(config: LatentActionConfig, changes: Iterable[str]) -> LatentActionConfig:
    """NAME=VALUE applied to the config, one dot deep."""
    for change in changes:
        name, _, text = change.partition("=")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        head, _, rest = name.partition(".")
        config = replace(
            config, **{head: replace(getattr(config, head), **{rest: value}) if rest else value}
        )
    return config


def table(reports: dict[int, Report]) -> str:
    """Markdown, one column per seed."""
    lines = [
        "| | " + " | ".join(f"seed {s}" for s in reports) + " |",
        "|---|" + "---:|" * len(reports),
    ]
    lines += [
        "| "
        + " | ".join([name, *(f"{r.get(name, float('nan')):.3g}" for r in reports.values())])
        + " |"
        for name in ROWS
    ]
    return "\n".join(lines)


def worlds(
    out: Path, logs: int, seconds: float, test_seed: int = TEST_SEED
) -> tuple[list[SceneRecord], list[SceneRecord]]:
    """Training scenes of one world, test scenes of another."""
    return training_scenes(out, logs, seconds), scenes_to_judge(out, logs, seconds, test_seed)


def training_scenes(out: Path, logs: int, seconds: float) -> list[SceneRecord]:
    config = WorldConfig.for_logs(
        logs, seed=TRAIN_SEED, seconds_per_log=seconds, cameras=(FRONT_CAMERA,)
    )
    return records_of(write_world(out / f"world-s{TRAIN_SEED}-{logs}", config), "train")


def scenes_to_judge(out: Path, logs: int, seconds: float, seed: int) -> list[SceneRecord]:
    """Of a fifth as many logs as are trained on."""
    number = max(1, logs // 5)
    config = WorldConfig(
        seed=seed,
        logs_train=1,
        logs_val=0,
        logs_test=number,
        seconds_per_log=seconds,
        cameras=(FRONT_CAMERA,),
    )
    return records_of(write_world(out / f"world-s{seed}-test", config), "test")


def judged_by_others(
    models: dict[int, LatentActionModel],
    train: list[SceneRecord],
    test: list[SceneRecord],
    cache: ImageCache,
) -> dict[int, Report]:
    """Transfer of each seed's decoder as another seed's encoder reads it."""
    seeds = list(models)
    if len(seeds) < 2:
        return {seed: {} for seed in seeds}
    given = {"probe_records": train, "cache": cache}
    return {
        s: transfer(models[s], models[seeds[i - 1]], test, **given) for i, s in enumerate(seeds)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the worlds, the models and the reports"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--logs",
        type=int,
        default=200,
        help="logs of the training world; a fifth as many are tested on",
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a log")
    parser.add_argument(
        "--test-seed", type=int, default=TEST_SEED, help="seed of the world that is judged on"
    )
    parser.add_argument(
        "--models",
        type=Path,
        nargs="*",
        help="saved models, one a seed, to judge; nothing is trained",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipe", default="long", choices=("mini", "long"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = changed(getattr(LatentActionConfig, args.recipe)(), args.set)
    train, test = worlds(args.out, args.logs, args.seconds, args.test_seed)
    print(f"{len(train)} training and {len(test)} test scenes", flush=True)
    cache = ImageCache(config.features.image_size_wh)
    reports: dict[int, Report] = {}
    models: dict[int, LatentActionModel] = {}
    for seed, folder in zip(args.seeds, args.models or [None] * len(args.seeds), strict=True):
        models[seed], reports[seed] = one_seed(
            with_training(config, seed=seed), train, test, cache, folder
        )
        if folder is None:
            save(models[seed], args.out / f"model-{seed}")
        print(
            table({seed: reports[seed]}),
            "\n",
            "\n".join(row.line() for row in blocking(judge(reports[seed], QualityGate.long())))
            or "passes",
            flush=True,
        )
        (args.out / "reports.json").write_text(json.dumps(reports, indent=1))
    for seed, judged in judged_by_others(models, train, test, cache).items():
        reports[seed] |= judged
    print(table(reports))
    for a, b in combinations(args.seeds, 2):
        print(f"seeds {a} and {b}:", stability_of(models[a], models[b], test, cache))
    (args.out / "reports.json").write_text(json.dumps(reports, indent=1))


def one_seed(
    config: LatentActionConfig,
    train: list[SceneRecord],
    test: list[SceneRecord],
    cache: ImageCache,
    folder: Path | None,
) -> tuple[LatentActionModel, Report]:
    """A model, trained now or read from its folder, and its report."""
    began = time.process_time()
    if folder is None:
        with ProgressSink(f"seed {config.training.seed}", seconds_per_line=30) as sink:
            model = train_latent_action_model(train, config, sink=sink, cache=cache)
    else:
        model = load(folder)
    seconds = time.process_time() - began
    return model, evaluate(test, model, cache=cache, probe_records=train) | {"train_cpu_s": seconds}


def stability_of(
    a: LatentActionModel, b: LatentActionModel, test: list[SceneRecord], cache: ImageCache
) -> Report:
    """Agreement of two models' ego codes on the test transitions."""
    pairs = collect_pairs(test, a.config.gap_frames, cache)
    found = stability(all_codes(a, pairs)[0], all_codes(b, pairs)[0], a.config.ego.codebook_size)
    return {name: round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    main()
