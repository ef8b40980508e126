"""What search at test time is worth: `python -m benchmarks.rl_search --world DIR --planner IPAD ...`.

DIR holds the world of `benchmarks.rl` (DIR of that command, `world` below it); each IPAD is the
folder of a saved iPad that saw none of its test logs. On every k-th test scene the plan that the
host chose is compared with the one that cross-entropy search finds with the host's own scorer.
Differences are paired by scene, intervals draw whole logs. Printed beside them: what the scorer
expected, and the best of the host's own proposals, the answer known.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rl import Part, read
from latentvla_core.pdms.tensors.torch_score import TorchWorlds
from latentvla_core.planner.model import load
from latentvla_core.planner.plan import make_batches
from latentvla_core.rl.search import SearchConfig, Searching
from latentvla_core.statistics import paired_difference

SETTINGS = {
    "free": SearchConfig(margin=0.0),
    "careful": SearchConfig(),
    "careful and near": SearchConfig(along_m=1.0, across_m=0.3),
}


def thinned(part: Part, every: int) -> Part:
    """Every k-th scene."""
    return Part(part.records[::every], part.worlds[::every])


@torch.no_grad()
def planned(planner: Any, part: Part) -> dict[str, np.ndarray]:
    """Per scene the host's own plan, its proposals, and per setting what was found and its worth."""
    batches, found = make_batches(planner, part.records, None), {}
    for first in range(0, len(part.records), 16):
        batch = batches(np.arange(first, min(first + 16, len(part.records))))
        own = planner(batch)
        chosen = planner.choice(own["scores"]).amax(1)
        said = {"own": own["poses"], "menu": own["proposals"][-1], "expected": chosen}
        for title, config in SETTINGS.items():
            out = Searching(planner, config).eval()(batch)
            said |= {f"found {title}": out["poses"], f"worth {title}": out["worth"]}
        for name, value in said.items():
            found.setdefault(name, []).append(value.double().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def compare(planner: Any, part: Part) -> list[str]:
    """A sentence for the host and one per setting."""
    began, found = time.process_time(), planned(planner, part)
    spent = time.process_time() - began
    table = TorchWorlds.from_worlds(part.worlds, metric="pdms")

    def score(plans: np.ndarray) -> np.ndarray:
        return 100 * table.score(torch.from_numpy(plans))["score"].numpy()

    own, best = score(found["own"]), np.nanmax(score(found["menu"]), 1)
    said = [
        f"host {np.nanmean(own):.1f} points, expected {100 * found['expected'].mean():.1f}, best of "
        f"its proposals {np.nanmean(best):.1f}; {spent:.0f} CPU-s for all"
    ]
    for title in SETTINGS:
        after, plans = score(found[f"found {title}"]), found[f"found {title}"]
        keep = np.isfinite(own) & np.isfinite(after)
        gain = paired_difference(after[keep], own[keep], part.logs[keep])
        moved = (np.abs(plans - found["own"]).max((1, 2)) > 1e-6).mean()
        said.append(
            f"search, {title}: {np.nanmean(after):.1f} points, expected "
            f"{100 * found[f'worth {title}'].mean():.1f}, {moved:.0%} of the plans are others; "
            f"gain {gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
        )
    return said


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--planner", type=Path, nargs="+", required=True)
    parser.add_argument("--every", type=int, default=3, help="only every k-th test scene")
    options = parser.parse_args(arguments)
    part = thinned(read(options.world / "world", "test"), options.every)
    print(f"{len(part.records)} scenes of {len(set(part.logs))} logs", flush=True)
    for folder in options.planner:
        for sentence in compare(load(folder).eval(), part):
            print(f"{folder.name}: {sentence}", flush=True)


if __name__ == "__main__":
    main()
