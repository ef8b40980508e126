"""How much of a step of learning from the score is scoring: `python -m benchmarks.rl_share --out DIR`.

DIR holds the world of `benchmarks.rl` (it is written if it is not there). A Transfuser of each size
learns for a few steps on scenes of two logs; printed is the part of that time that scoring took.
The more a network costs, the less the score weighs. What is measured are shares within one run, so
a busy machine changes them little.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.rl import WORLD, Part, read
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.model import build_planner
from latentvla_core.planner.plan import make_batches
from latentvla_core.rl.config import RlConfig
from latentvla_core.rl.train import train_rl
from latentvla_core.rl.watch import Watch
from latentvla_core.training.config import with_training
from latentvla_core.world.write import write_world

TARGET = 0.1


@dataclass(frozen=True, slots=True)
class Setting:
    """One training whose time is shared out."""

    title: str
    network: Any
    trained: str
    batch_size: int
    steps: int


SETTINGS = (
    Setting("mini, backbone's features made once", TransfuserConfig.mini(), "decoder", 32, 12),
    Setting("mini, pictures at each step", TransfuserConfig.mini(), "planner", 32, 6),
    Setting(
        "paper, pictures at each step", replace(TransfuserConfig.paper(), latent=True),
        "planner", 4, 2,
    ),
)  # fmt: skip


def share(setting: Setting, taught: Part) -> float:
    """Part of the training's time that scoring took."""
    planner = build_planner("transfuser", setting.network)
    config = replace(RlConfig.shaped(), trained=setting.trained)
    config = with_training(
        config, steps=setting.steps, batch_size=setting.batch_size, warmup_steps=0
    )
    batches = make_batches(planner, taught.records, None)
    watched = Watch.of(taught.records, taught.worlds, batches, most=2)
    return train_rl(planner, taught.records, taught.worlds, config, watched=watched).reward_share


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--logs", type=int, default=2)
    options = parser.parse_args(arguments)
    root = write_world(options.out / "world", WORLD).root
    taught = read(root, "trainval", options.logs)
    for setting in SETTINGS:
        found = share(setting, taught)
        verdict = "held" if found <= TARGET else "not held"
        print(
            f"Transfuser {setting.title}, {setting.batch_size} scenes x "
            f"{RlConfig.shaped().samples} plans a step: scoring {found:.1%} of the time, "
            f"target {TARGET:.0%} {verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
