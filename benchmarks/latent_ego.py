"""What could pictures tell of the ego's own motion? The recipe's encoder, trained to read it and
nothing else: the ceiling for codes.

    python -m benchmarks.latent_ego --out DIR --worlds 1010 1111 [--size 128 64]

When transfer of speed misses its target in a world, is it the codes or the pictures? No codebook,
no decoder; the same convolutions, transformer, transitions and probe metric as `latent_quality`.
Prints R² and, as transfer is judged, the share whose speed differs from the mean to the right side.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # a waiting OpenMP thread must not burn the other core

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.latent_quality import scenes_to_judge, training_scenes
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.features import FeatureConfig, PixelFeatures
from latentvla_core.latent.model import EgoStage, Scales
from latentvla_core.latent.pairs import Pairs, collect_pairs
from latentvla_core.latent.probes import r_squared
from latentvla_core.latent.probes.report import sign_agreement
from latentvla_core.training.images import ImageCache
from latentvla_core.training.loop import fit
from latentvla_core.types import Array

SECONDS = 20.0  # length of a log, as in `latent_quality`


class Reader(nn.Module):
    """Pictures (B, 2, H, W, 3) uint8 → (B, 3) standardised ego motion."""

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        self.features, self.scales = PixelFeatures(config.features), Scales(config.gap_frames)
        self.stage = EgoStage(config)  # its codebook and decoder stay idle

    def forward(self, pictures: Tensor) -> Tensor:
        z = self.stage.encode(self.features(pictures))[0]
        return self.stage.motion(z.flatten(1))


def train(pairs: Pairs, config: LatentActionConfig) -> Reader:
    """On all transitions, mirrored in half of the cases."""
    torch.manual_seed(config.training.seed)
    reader = Reader(config)
    reader.scales.measure(torch.from_numpy(pairs.waypoints), torch.from_numpy(pairs.states))

    def collate(index: Array, rng: np.random.Generator) -> dict[str, Tensor]:
        flip = rng.random(len(index)) < 0.5
        pictures = torch.from_numpy(np.ascontiguousarray(pairs.pictures(index, flip)))
        return {"pictures": pictures, "waypoints": torch.from_numpy(pairs.told(index, flip)[0])}

    def loss(batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        return functional.mse_loss(
            reader(batch["pictures"]), reader.scales.motion(batch["waypoints"])
        ), {}

    fit(reader, num_samples=len(pairs), collate=collate, loss=loss, config=config.training_of(2))
    return reader.eval()


@torch.no_grad()
def judge(reader: Reader, pairs: Pairs) -> list[float]:
    """R² longitudinal and yaw, and agreement of the signs of both."""
    index = np.arange(len(pairs))
    parts = [
        torch.from_numpy(np.ascontiguousarray(pairs.pictures(part)))
        for part in np.array_split(index, 8)
    ]
    scales, read = reader.scales, torch.cat([reader(part) for part in parts])
    moved = (read * scales.pose_std[-1] + scales.pose_mean[-1]).numpy()
    r2, signs = (
        r_squared(pairs.motion, moved),
        sign_agreement("", moved, pairs.motion, pairs.motion.mean(0)),
    )
    return [float(r2[0]), float(r2[2]), *signs.values()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the worlds, as for latent_quality"
    )
    parser.add_argument(
        "--worlds",
        type=int,
        nargs="+",
        default=[1010],
        help="seeds of the worlds that are judged on",
    )
    parser.add_argument("--logs", type=int, default=200)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(64, 32),
        metavar=("W", "H"),
        help="of the pictures; W / 8 is a patch",
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    patch = args.size[0] // 8
    features = FeatureConfig(image_size_wh=tuple(args.size), patch_px=patch, dim=3 * patch**2)
    config = LatentActionConfig.long(features=features, steps=args.steps, seed=args.seed)
    cache = ImageCache(features.image_size_wh)
    began = time.process_time()
    fitted = collect_pairs(training_scenes(args.out, args.logs, SECONDS), config.gap_frames, cache)
    reader = train(fitted, config)
    print(
        "| world | R² longitudinal | R² yaw | sign of speed | sign of turning |\n|---"
        + "|---:" * 4
        + "|"
    )
    for world in args.worlds:
        judged = collect_pairs(
            scenes_to_judge(args.out, args.logs, SECONDS, world), config.gap_frames, cache
        )
        print(
            f"| {world} | " + " | ".join(f"{value:.3f}" for value in judge(reader, judged)) + " |",
            flush=True,
        )
    print(f"{args.steps} steps, {time.process_time() - began:.0f} CPU-s with reading the worlds")


if __name__ == "__main__":
    main()
