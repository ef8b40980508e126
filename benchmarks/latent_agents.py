"""What could pictures tell of other agents' motion? A supervised network on the same transitions:
the ceiling for codes.

    python -m benchmarks.latent_agents --out DIR --steps 1200 [--compensate]

Environment codes are asked what others do (`latent/environment/agents.py`). When they do not know,
is it the pictures or the codes? A small convolutional network with pooling is told the ego motion
and trained on the boxes' answers directly. R² on test logs of the training world, over all
transitions, those in which the ego stands, and those in which it drives. With --compensate the
network sees the first frame as stage 1 does: from where the ego is at the second one.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # a waiting OpenMP thread must not burn the other core

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.latent_quality import TRAIN_SEED, records_of
from latentvla_core.latent.environment.agents import AGENT_AXES, MIRRORED, SCALES
from latentvla_core.latent.environment.compensation import compensated
from latentvla_core.latent.features import FeatureConfig, PixelFeatures, to_map
from latentvla_core.latent.pairs import Pairs, collect_pairs
from latentvla_core.latent.probes import r_squared
from latentvla_core.latent.train import known_error
from latentvla_core.training.images import ImageCache
from latentvla_core.types import Array
from latentvla_core.world.write import WorldConfig, write_world

STANDING_M = 0.3  # moved less than this in a second
BATCH = 48


@dataclass(frozen=True)
class Sample:
    """Transitions whose scene has boxes."""

    pairs: Pairs
    compensate: bool
    index: Array
    """(n,) rows of the pairs."""
    motion: Array
    """(n, 3) ego motion in units of its deviation."""
    agents: Array
    """(n, A) in units of `SCALES`, mean 0 in training; NaN where there is no such agent."""

    @property
    def standing(self) -> Array:
        return self.pairs.motion[self.index, 0] < STANDING_M


class Watcher(nn.Module):
    """Both frames and their difference (B, 9, H, W), ego motion (B, 3) → (B, A)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = _layer(9, width, 2, 5)
        self.told = nn.Linear(3, width)
        sizes = ((width, 48, 2), (48, 64, 1), (64, 96, 2), (96, 96, 1), (96, 128, 1))
        self.rest = nn.Sequential(*(_layer(a, b, stride) for a, b, stride in sizes))
        self.read = nn.Sequential(nn.Dropout(0.2), nn.Linear(256, len(AGENT_AXES)))

    def forward(self, x: Tensor, motion: Tensor) -> Tensor:
        h = self.rest(self.first(x) + self.told(motion)[:, :, None, None]).flatten(2)
        return self.read(torch.cat([h.mean(2), h.amax(2)], dim=1))


def _layer(inputs: int, outputs: int, stride: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.GroupNorm(4, outputs), nn.GELU()
    )


def samples(
    out: Path, logs: int, size_wh: tuple[int, int], compensate: bool
) -> tuple[Sample, Sample]:
    """Training and test transitions of the world that `latent_quality` trains on."""
    config = WorldConfig.for_logs(logs, seed=TRAIN_SEED, seconds_per_log=20.0, cameras=("CAM_F0",))
    tree, cache = write_world(out / f"world-s{TRAIN_SEED}-{logs}", config), ImageCache(size_wh)
    train, test = (collect_pairs(records_of(tree, split), 2, cache) for split in ("train", "test"))
    mean, spread = np.nanmean(train.agents, axis=0) * (np.array(MIRRORED) > 0), train.motion.std(0)

    def sample(pairs: Pairs) -> Sample:
        index = np.flatnonzero(np.isfinite(pairs.agents).any(axis=1))
        agents = (pairs.agents[index] - mean) / SCALES
        return Sample(pairs, compensate, index, pairs.motion[index] / spread, agents)

    return sample(train), sample(test)


def batch(sample: Sample, rows: Array, flip: Array) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, motion and agents of some rows; left and right exchanged where flip."""
    index = sample.index[rows]
    features = FeatureConfig(image_size_wh=sample.pairs.cache.size_wh)
    x = PixelFeatures(features)(
        torch.from_numpy(np.ascontiguousarray(sample.pairs.pictures(index, flip)))
    )
    first, second = x[:, 0], x[:, 1]
    if sample.compensate:
        waypoints, _, projections = (torch.from_numpy(a) for a in sample.pairs.told(index, flip))
        first = compensated(first, projections, waypoints[:, -1], features)
    first, second = to_map(first, features), to_map(second, features)
    motion = sample.motion[rows] * np.where(flip[:, None], (1, -1, -1), 1)
    agents = sample.agents[rows] * np.where(flip[:, None], MIRRORED, 1)
    seen = torch.cat([first, second, second - first], dim=1)
    return (
        seen,
        torch.from_numpy(motion.astype(np.float32)),
        torch.from_numpy(agents.astype(np.float32)),
    )


def train(sample: Sample, steps: int, seed: int) -> Watcher:
    """Adam with a cosine, mirrored drives, and brightness and sideways shifts that change no
    answer.
    """
    torch.manual_seed(seed)
    rng, model = np.random.default_rng(seed), Watcher()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=steps, pct_start=min(0.1, 30 / steps)
    )
    for _ in range(steps):
        rows = rng.integers(0, len(sample.index), BATCH)
        x, motion, agents = batch(sample, rows, rng.random(BATCH) < 0.5)
        x = torch.roll(x * (0.8 + 0.4 * torch.rand(BATCH, 1, 1, 1)), int(rng.integers(-6, 7)), -1)
        loss = known_error(model(x, motion), agents)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def guesses(model: Watcher, sample: Sample) -> Array:
    """(n, A)."""
    parts = []
    for first in range(0, len(sample.index), 128):
        rows = np.arange(first, min(first + 128, len(sample.index)))
        x, motion, _ = batch(sample, rows, np.zeros(len(rows), bool))
        parts.append(model(x, motion).numpy())
    return np.concatenate(parts)


def r2(truth: Array, guess: Array, where: Array) -> list[float]:
    """Per figure, over the transitions that have such an agent."""
    found = []
    for column in range(truth.shape[1]):
        use = where & np.isfinite(truth[:, column])
        found.append(float(r_squared(truth[use][:, [column]], guess[use][:, [column]])[0]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the world, as for latent_quality"
    )
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--logs", type=int, default=200)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 72), metavar=("W", "H"))
    parser.add_argument(
        "--compensate", action="store_true", help="the first frame as seen from the second pose"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    fitted, judged = samples(args.out, args.logs, tuple(args.size), args.compensate)
    began = time.process_time()
    model = train(fitted, args.steps, args.seed)
    print(
        f"{len(fitted.index)} transitions, {args.steps} steps, {time.process_time() - began:.0f} CPU-s"
    )
    guess, standing = guesses(model, judged), judged.standing
    print(
        "| | " + " | ".join(AGENT_AXES) + " | mean |\n|---" + "|---:" * (len(AGENT_AXES) + 1) + "|"
    )
    for name, where in (
        ("all", standing | ~standing),
        ("ego stands", standing),
        ("ego drives", ~standing),
    ):
        values = r2(judged.agents, guess, where)
        cells = [f"{value:.2f}" for value in (*values, float(np.mean(values)))]
        print(f"| {name}, {where.sum()} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
