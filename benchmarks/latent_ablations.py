"""What does each choice of the latent action model do? Trains every named preset on one embedded
world; one table.

    python -m benchmarks.latent_ablations --out DIR --recipe long --steps 400 --seeds 0 1 2
    python -m benchmarks.latent_ablations --out DIR --presets default reencode lapo_vq

All presets see the same logs, are judged on the same test logs, and their probes are fitted on the
same training logs. A preset that is finished is not run again: kill it whenever you like, and add
presets or seeds later. DIR holds the world, one report per preset and seed, and the table of all of
them (ablations.md, ablations.json).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # a waiting OpenMP thread must not burn the other core

import numpy as np
import torch

from benchmarks.latent_quality import records_of
from latentvla_core.errors import LatentVLAError
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.physical import PhysicalConfig, fit_physical_tokenizer
from latentvla_core.latent.presets import PHYSICAL, PRESETS, preset
from latentvla_core.latent.probes import Report, evaluate
from latentvla_core.latent.probes.physical import evaluate_physical
from latentvla_core.latent.train import train_latent_action_model
from latentvla_core.training.images import ImageCache
from latentvla_core.training.sinks import ProgressSink
from latentvla_core.types import SceneRecord
from latentvla_core.world.write import WorldConfig, write_world

COLUMNS: dict[str, tuple[str, ...]] = {
    "used": ("ego_usage",),
    "perplexity": ("ego_perplexity",),
    "gain": ("gain_over_copy",),
    "R² long.": ("ego_r2_longitudinal",),
    "R² yaw": ("ego_r2_yaw",),
    "env R² long.": ("environment_r2_longitudinal",),
    "env R² yaw": ("environment_r2_yaw",),
    "env perplexity": ("environment_perplexity",),
    "agents: ego / env R²": ("agent_r2_ego", "agent_r2_environment"),
    "shuffled: ego / env": ("shuffle_ego", "shuffle_environment"),
    "env use": ("environment_use",),
    "transfer: long. / yaw": ("transfer_longitudinal", "transfer_yaw"),
    "CPU s": ("cpu_s",),
}
"""Heading → figures of the report; means over seeds."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all presets share."""

    out: Path
    train: list[SceneRecord]
    test: list[SceneRecord]
    cache: ImageCache
    world: str
    recipe: str
    steps: int

    def run(self, name: str, config: LatentActionConfig | PhysicalConfig) -> dict[str, Any]:
        """The row of a preset and seed; read from its file when it is finished under the same
        settings.
        """
        settings = {
            "preset": name,
            "recipe": self.recipe,
            "world": self.world,
            "config": json.loads(json.dumps(asdict(config))),
        }
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        path = self.out / "runs" / f"{name}-seed{seed_of(config)}-{key}.json"
        if path.exists():
            return json.loads(path.read_text())
        began = time.process_time()
        report, failure = self._report(name, config, path.with_suffix(".partial"))
        report["cpu_s"] = time.process_time() - began
        row = {**settings, "seed": seed_of(config), "report": report, "failure": failure}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(row, indent=1))
        os.replace(unfinished, path)
        shutil.rmtree(path.with_suffix(".partial"), ignore_errors=True)
        return row

    def _report(
        self, name: str, config: LatentActionConfig | PhysicalConfig, folder: Path
    ) -> tuple[Report, str]:
        """Figures, and why there are none if the preset cannot be trained; that is a result too."""
        if isinstance(config, PhysicalConfig):
            tokenizer = fit_physical_tokenizer(self.train, config)
            return evaluate_physical(self.test, tokenizer, self.train, cache=self.cache), ""
        try:
            with ProgressSink(name, seconds_per_line=60) as sink:
                model = train_latent_action_model(
                    self.train, config, sink=sink, cache=self.cache, checkpoint_dir=folder
                )
            return evaluate(self.test, model, cache=self.cache, probe_records=self.train), ""
        except LatentVLAError as error:
            return {}, str(error)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, one line per preset: means over its seeds."""
    lines = [
        " | ".join(["| preset", "seeds", "code bits", *COLUMNS]) + " |",
        "|---" * 2 + "|---:" * (len(COLUMNS) + 1) + "|",
    ]
    for name in dict.fromkeys(row["preset"] for row in rows):
        mine = [row for row in rows if row["preset"] == name]
        cells = [name, str(len(mine)), bits(mine[0]["config"])]
        cells += [
            " / ".join(_mean(mine, figure) for figure in figures) for figures in COLUMNS.values()
        ]
        failures = {row["failure"] for row in mine if row["failure"]}
        lines.append(
            "| " + " | ".join(cells) + " |" + "".join(f" {why}" for why in sorted(failures))
        )
    return "\n".join(lines)


def bits(config: dict[str, Any]) -> str:
    """What the ego codes of a second can say at most."""
    if "radius_m" in config:
        return f"{2 * math.log2(config['size']):.0f}"
    if config["ego"]["kind"] == "continuous":
        return "–"
    per_second = 2 / config["gap_frames"]
    return f"{per_second * config['codes_per_transition'] * math.log2(config['ego']['codebook_size']):.0f}"


def _mean(rows: Sequence[dict[str, Any]], figure: str) -> str:
    if "environment" in figure and rows[0]["config"].get("env_source") == "none":
        return "–"  # no such codes to exchange
    values = [
        row["report"][figure] for row in rows if math.isfinite(row["report"].get(figure, math.nan))
    ]
    return f"{np.mean(values):.3g}" if values else "–"


def seed_of(config: LatentActionConfig | PhysicalConfig) -> int:
    return config.seed if isinstance(config, PhysicalConfig) else config.training.seed


def steps_of(config: dict[str, Any], otherwise: int) -> int:
    """Of a row's configuration; k-means has none, older rows have them beside the other fields."""
    return config.get("training", config).get("steps", otherwise)


def finished(bench: Bench) -> list[dict[str, Any]]:
    """Rows of this world, recipe and length, whichever call made them, in the order of the presets."""
    order = [*PRESETS, *PHYSICAL]
    rows = [json.loads(path.read_text()) for path in sorted((bench.out / "runs").glob("*.json"))]
    rows = [r for r in rows if (r["world"], r.get("recipe")) == (bench.world, bench.recipe)]
    rows = [r for r in rows if steps_of(r["config"], bench.steps) == bench.steps]
    return sorted(rows, key=lambda row: (order.index(row["preset"]), row["seed"]))


def write_table(bench: Bench) -> str:
    """ablations.md and ablations.json of everything finished so far."""
    rows = finished(bench)
    scenes = f"{len(bench.train)} training and {len(bench.test)} test scenes"
    head = f"{bench.world}; {scenes}; {bench.recipe}, {bench.steps} steps per stage\n"
    text = f"{head}\n{table(rows)}\n"
    (bench.out / "ablations.md").write_text(text)
    (bench.out / "ablations.json").write_text(json.dumps(rows, indent=1))
    return text


def config_of(name: str, seed: int, steps: int, recipe: str) -> LatentActionConfig | PhysicalConfig:
    """A preset of a recipe, checkpointed so that a killed one goes on."""
    if name in PHYSICAL:
        return replace(PHYSICAL[name], seed=seed)
    return preset(
        name, getattr(LatentActionConfig, recipe)(steps=steps, seed=seed, checkpoint_every=100)
    )


def arguments() -> argparse.Namespace:
    names = [*PRESETS, *PHYSICAL]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the world, the reports and the table"
    )
    parser.add_argument("--presets", nargs="+", default=names, choices=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recipe", default="mini", choices=("mini", "long"))
    parser.add_argument("--steps", type=int, default=2000, help="per stage")
    parser.add_argument(
        "--logs", type=int, default=60, help="logs of the world, a fifth of them for the test"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a log")
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    name = f"world-{args.logs}-{args.seconds:g}s-seed{args.world_seed}"
    world = WorldConfig.for_logs(
        args.logs,
        seed=args.world_seed,
        seconds_per_log=args.seconds,
        cameras=("CAM_F0",),
        workers=args.threads,
    )
    tree = write_world(args.out / name, world)
    cache = ImageCache(LatentActionConfig.mini().features.image_size_wh, threads=args.threads)
    bench = Bench(
        args.out,
        records_of(tree, "train"),
        records_of(tree, "test"),
        cache,
        name,
        args.recipe,
        args.steps,
    )
    for preset_name in args.presets:
        for seed in args.seeds:
            row = bench.run(preset_name, config_of(preset_name, seed, args.steps, args.recipe))
            print(
                f"{preset_name} seed {seed}: {row['report']['cpu_s']:.0f} CPU s {row['failure']}",
                flush=True,
            )
            write_table(bench)
    print(write_table(bench))


if __name__ == "__main__":
    main()
