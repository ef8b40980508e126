"""Do latent actions mean ego motion? Writes an embedded world, trains both stages per seed, prints the quality table.

    python benchmarks/latent_quality.py --out DIR --seeds 0 1 2 --steps 2000

Training uses the world's training logs, the numbers come from its test logs,
the probes being fitted on the training logs. Every argument but --out, --seeds, --logs,
--seconds and --threads is a field of LatentActionConfig, given as NAME=VALUE (nested: ego.kind=fsq).
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a waiting OpenMP thread must not burn the other core

import torch

from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.records import scene_record
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.probes import AXES, QualityGate, Report, evaluate
from latentvla_core.latent.train import train_latent_action_model
from latentvla_core.training.images import ImageCache
from latentvla_core.training.sinks import ProgressSink
from latentvla_core.types import SceneRecord
from latentvla_core.world.write import WorldConfig, WorldTree, data_split, write_world

ROWS = (
    *("ego_usage", "ego_perplexity", "environment_usage", "environment_perplexity", "gain_over_copy"),
    *(f"{codes}_r2_{axis}" for codes in ("ego", "environment", "joint") for axis in AXES),
    *("shuffle_ego", "shuffle_environment", "ego_redundancy", "transfer_longitudinal", "transfer_yaw", "train_cpu_s"),
)


def records_of(tree: WorldTree, split: str) -> list[SceneRecord]:
    """Scenes of a split, one per frame that has a whole window."""
    scenes = SceneFilter(num_history_frames=4, num_future_frames=10, frame_interval=1, has_route=False)
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
        config = replace(config, **{head: replace(getattr(config, head), **{rest: value}) if rest else value})
    return config


def table(reports: dict[int, Report]) -> str:
    """Markdown, one column per seed."""
    lines = ["| | " + " | ".join(f"seed {s}" for s in reports) + " |", "|---|" + "---:|" * len(reports)]
    lines += [
        "| " + " | ".join([name, *(f"{r.get(name, float('nan')):.3g}" for r in reports.values())]) + " |"
        for name in ROWS
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the world and the reports")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--logs", type=int, default=60, help="logs of the world, a fifth of them for the test")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a log")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2000, help="per stage")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    world = WorldConfig.for_logs(args.logs, seed=0, seconds_per_log=args.seconds, cameras=("CAM_F0",))
    tree = write_world(args.out / f"world-{args.logs}-{args.seconds:g}s", world)
    config = changed(LatentActionConfig.mini(steps=args.steps), args.set)
    train, test = records_of(tree, "train"), records_of(tree, "test")
    print(f"{len(train)} training and {len(test)} test scenes of {world.logs} logs", flush=True)
    cache = ImageCache(config.features.image_size_wh)
    reports: dict[int, Report] = {}
    for seed in args.seeds:
        began = time.process_time()
        with ProgressSink(f"seed {seed}", seconds_per_line=30) as sink:
            model = train_latent_action_model(train, replace(config, seed=seed), sink=sink, cache=cache)
        seconds = time.process_time() - began
        reports[seed] = evaluate(test, model, cache=cache, probe_records=train) | {"train_cpu_s": seconds}
        print(
            table({seed: reports[seed]}),
            "\n",
            QualityGate.embedded_world().faults(reports[seed]) or "passes",
            flush=True,
        )
    print(table(reports))
    (args.out / "reports.json").write_text(json.dumps(reports, indent=1))


if __name__ == "__main__":
    main()
