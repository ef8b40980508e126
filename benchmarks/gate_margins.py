"""How far recipe `mini` stays from its gate, over seeds and instruction sets of the processor.

    python -m benchmarks.gate_margins --home DIR                      # 5 seeds x 3 instruction sets
    python -m benchmarks.gate_margins --home DIR --seeds 0 --sets default

A demo must not be stopped by rounding. Each training runs in a process of its own, for torch reads
ATEN_CPU_CAPABILITY once; finished ones are not run again. About half a minute of one core each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

SETS = ("default", "avx2", "avx512")
SCENES = ("logs", "frames", "scenes")


def engine_of(home: Path, latent: Any = None) -> Any:
    """The line with the demo's world, front camera only, and this latent model or the recipe's."""
    from latentvla_core import recipes
    from pipelines.settings import Settings
    from pipelines.stages import STAGES
    from pipelines.steps.engine import Engine

    settings = Settings.from_env({"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "mini"})
    engine = Engine(settings, STAGES, lambda text: None)
    mini = recipes.mini()
    world = replace(mini.world, cameras=("CAM_F0",))
    engine.recipe = replace(mini, world=world, latent=latent or mini.latent)
    return engine


def prepare(home: Path) -> None:
    """Logs, frames and scenes; nothing is done twice."""
    from pipelines import sources
    from pipelines.stages import STAGES

    engine = engine_of(home)
    sources.prepare(engine.settings, engine.recipe, lambda text: None)
    for name in SCENES:
        for partition in engine.settings.partitions if STAGES[name].partitioned else [""]:
            engine.execute(name, partition)


def figures(home: Path, seed: int) -> list[dict[str, Any]]:
    """Train, report, and judge: every required figure with its value and bounds."""
    import torch

    from latentvla_core import recipes
    from latentvla_core.training.config import with_training
    from pipelines.assets.latent_quality import stored_judgements

    torch.set_num_threads(1)
    engine = engine_of(home, with_training(recipes.mini().latent, seed=seed))
    engine.execute("latent_action_model")
    engine.execute("latent_quality")
    version = engine.ledger.made_by("latent_action_model", "")
    return [
        {"name": j.name, "value": j.value, "low": j.bound.at_least, "high": j.bound.at_most}
        for j in stored_judgements(engine, version)
        if j.required
    ]


def measure(home: Path, seed: int, instruction_set: str) -> list[dict[str, Any]]:
    """`figures` in a process of that instruction set and a copy of the scenes; kept as a file."""
    kept = home / f"{instruction_set}-{seed}.json"
    if not kept.exists():
        words = [sys.executable, "-m", "benchmarks.gate_margins", "--home", str(home)]
        env = {**os.environ, "ATEN_CPU_CAPABILITY": instruction_set, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*words, "--child", str(kept), "--seeds", str(seed), "--sets", instruction_set],
            env=env, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"seed {seed}, {instruction_set}: stopped, exit {done.returncode}")
    return json.loads(kept.read_text())


def margin(row: dict[str, Any]) -> float:
    """Distance to the nearer bound, as a part of that bound's size (of 1 for a bound at 0)."""
    sides = [
        sign * (row["value"] - bound) / (abs(bound) or 1.0)
        for sign, bound in ((1, row["low"]), (-1, row["high"]))
        if bound is not None and not math.isnan(bound)
    ]
    return min(sides, default=math.inf)


def main() -> int:
    """Number of figures that some run missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--home", type=Path, required=True, help="folder of worlds, models, figures"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        part = asked.home / asked.sets[0]
        prepare(part)
        asked.child.write_text(json.dumps(figures(part, asked.seeds[0])))
        return 0
    asked.home.mkdir(parents=True, exist_ok=True)
    runs = [measure(asked.home, s, i) for s in asked.seeds for i in asked.sets]
    print(
        f"{len(runs)} trainings\n\n| figure | bound | least favourable | margin |\n|---|---|---|---|"
    )
    missed = 0
    for rows in zip(*runs, strict=True):
        worst = min(rows, key=margin)
        bounds = (f"≥ {worst['low']:g}", f"≤ {worst['high']:g}")
        told = " ".join(b for b in bounds if "nan" not in b)
        print(f"| {worst['name']} | {told} | {worst['value']:.3g} | {margin(worst):+.0%} |")
        missed += margin(worst) < 0
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
