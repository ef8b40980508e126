"""The physical action tokenizer: 2 048 short ego motions, found by K-disk clustering as in AutoVLA;
a comparator.

Where latent codes are discovered in pictures, these are cut out of the trajectories themselves. A
motion is (Δx_m, Δy_m, Δyaw_rad) over 0.5 s in the ego frame of its start. The distance of two
motions is the mean distance between the four corners of the ego's box after each, so that metres
and radians need no exchange rate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from latentvla_core import geometry
from latentvla_core.errors import DataError, SetupError
from latentvla_core.latent.label import Labels
from latentvla_core.latent.pairs import driven_poses
from latentvla_core.types import FRAME_INTERVAL_S, Array, Pose, SceneRecord, Vehicle

FILE = "physical_tokens.json"
MOST_TOKENS = 1 << 15
_CHUNK = 256  # rows at a time: 2 048 distances of four corners each


@dataclass(frozen=True, kw_only=True, slots=True)
class PhysicalConfig:
    """AutoVLA's vocabulary [paper of AutoVLA]."""

    size: int = 2048
    """Most tokens; fewer when the data are covered sooner."""
    radius_m: float = 0.05
    """Radius of a disk: motions nearer than this to a token are covered by it."""
    horizon_frames: int = 6
    """Motions labelled per scene, one per key frame of 0.5 s: 6 cover the 3 s of the latent codes."""
    seed: int = 0
    """Of the order in which uncovered motions are drawn."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MOST_TOKENS or self.radius_m <= 0:
            raise ValueError(
                f"size {self.size}, radius_m {self.radius_m}; need 1 to {MOST_TOKENS} tokens, which int16 holds, and a radius > 0"
            )


@dataclass(frozen=True, slots=True)
class PhysicalTokenizer:
    """A vocabulary of motions: encode to the nearest, decode to the motion of the cluster."""

    config: PhysicalConfig
    motions: Array
    """(K, 3) float32, columns `Pose`; token 0 is standing still."""

    def __len__(self) -> int:
        return len(self.motions)

    def encode(self, motions: Array) -> Array:
        """(..., 3) motions → (...) int16 tokens 0 … K-1, -1 where a motion is not finite."""
        return self._nearest(motions)[0]

    def _nearest(self, motions: Array) -> tuple[Array, Array]:
        """(..., 3) → (...) int16 tokens, and (..., 2) distances in metres to the nearest and the
        second.
        """
        flat = np.asarray(motions, np.float64).reshape(-1, 3)
        tokens, distances = np.full(len(flat), -1, np.int16), np.full((len(flat), 2), np.nan)
        known = np.flatnonzero(np.isfinite(flat).all(1))
        vocabulary = corners(self.motions)
        for rows in np.array_split(known, max(1, -(-len(known) // _CHUNK))):
            every = _distances(corners(flat[rows])[:, None], vocabulary)
            tokens[rows] = every.argmin(1)
            distances[rows] = (
                np.sort(np.partition(every, 1, axis=1)[:, :2])
                if len(self) > 1
                else every.min(1)[:, None]
            )
        lead = np.shape(motions)[:-1]
        return tokens.reshape(lead), distances.reshape(*lead, 2)

    def label(self, records: Sequence[SceneRecord]) -> Labels:
        """One token per 0.5 s of each scene from its current frame on, as `label_scenes` gives
        codes; pictures are not read.

        Distances are squared metres between corners. There are no environment codes, and none are
        needed.
        """
        count = self.config.horizon_frames
        poses = np.full(
            (len(records), count + 2, 3), np.nan
        )  # one frame before the current one tells the speed
        for row, record in zip(poses, records, strict=True):
            known = np.concatenate([record.history_poses[-2:], record.future_poses[:count]])
            start = 2 - min(2, len(record.history_poses))
            row[start : start + len(known)] = known
        steps = (
            np.stack([steps_of(row) for row in poses])
            if len(poses)
            else np.zeros((0, count + 1, 3))
        )
        motions, valid = steps[:, 1:], np.all(np.isfinite(steps[:, 1:]), axis=-1)
        tokens, distances = self._nearest(motions)
        speed = steps[..., Pose.X] / FRAME_INTERVAL_S
        told = (speed[:, :-1], np.diff(speed, axis=1), motions[..., Pose.X], motions[..., Pose.YAW])
        return Labels(
            ego_codes=np.where(valid, tokens, 0).astype(np.int16)[..., None],
            ego_distances=np.square(distances[..., :1]).astype(np.float32),
            ego_confidence=(
                1 - np.square(distances[..., :1] / np.maximum(distances[..., 1:], 1e-9))
            ).astype(np.float32),
            training_distance=np.full(valid.shape, np.nan, np.float32),
            environment_codes=np.zeros((*valid.shape, 0), np.int8),
            has_environment=np.ones(valid.shape, bool),
            motion=np.stack(told, axis=-1).astype(np.float32),
            valid=valid,
            reason=tuple(tuple("" if ok else "a pose is not known" for ok in row) for row in valid),
        )

    def decode(self, tokens: Array) -> Array:
        """(...) tokens → (..., 3) float32 motions."""
        tokens = np.asarray(tokens)
        if tokens.size and (tokens.min() < 0 or tokens.max() >= len(self)):
            raise DataError(
                f"tokens {tokens.min()} … {tokens.max()} of a vocabulary of {len(self)}; encode again"
            )
        return self.motions[tokens]

    def decode_path(self, tokens: Array) -> Array:
        """(..., S) tokens → (..., S, 3) float64 poses in the ego frame of the start, one motion
        after the other.
        """
        steps = self.decode(tokens).astype(np.float64)
        poses, pose = [], np.zeros_like(steps[..., 0, :])
        for step in np.moveaxis(steps, -2, 0):
            pose = geometry.to_global(pose, step)
            poses.append(pose)
        return np.stack(poses, axis=-2)

    def save(self, folder: Path | str) -> Path:
        """Config and motions as one JSON file in the folder."""
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"config": asdict(self.config), "motions": self.motions.tolist()})
        )
        return path

    @classmethod
    def load(cls, folder: Path | str) -> PhysicalTokenizer:
        """What `save` wrote. Raises SetupError when the folder holds no vocabulary."""
        path = Path(folder) / FILE
        try:
            content = json.loads(path.read_text())
            return cls(
                PhysicalConfig(**content["config"]), np.array(content["motions"], np.float32)
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SetupError(
                f"{path}: no readable vocabulary ({error}); fit one and save it here"
            ) from error


def fit_physical_tokenizer(
    records: Sequence[SceneRecord], config: PhysicalConfig
) -> PhysicalTokenizer:
    """A vocabulary from the 0.5 s motions of all scenes. Raises DataError when there are none."""
    windows = [steps_of(driven_poses(r)) for r in records]
    motions = np.concatenate([np.zeros((0, 3)), *windows])
    motions = np.unique(motions[np.isfinite(motions).all(1)].round(6), axis=0)  # scenes overlap
    if len(motions) == 0:
        raise DataError(
            f"none of {len(records)} scenes has two finite poses; there is no motion to cut tokens from"
        )
    return PhysicalTokenizer(config, cluster_by_disks(motions, config))


def cluster_by_disks(motions: Array, config: PhysicalConfig) -> Array:
    """(n, 3) motions → (K, 3) float32, K ≤ config.size.

    Draw an uncovered motion, take the mean of what its disk covers as a token, remove that; until
    all is covered or the vocabulary is full. The first draw is standing still, in the data or not.
    """
    rng = np.random.default_rng(config.seed)
    left, found = np.concatenate([np.zeros((1, 3)), motions]), []
    outlines = corners(left)
    while len(left) and len(found) < config.size:
        drawn = rng.integers(len(left)) if found else 0
        covered = _distances(outlines, outlines[drawn]) <= config.radius_m
        found.append(left[covered].mean(0) if found else left[0])
        left, outlines = left[~covered], outlines[~covered]
    return np.array(found, np.float32)


def steps_of(poses: Array) -> Array:
    """(T, 3) poses → (T - 1, 3) motions, each in the ego frame of its start."""
    if len(poses) < 2:
        return np.zeros((0, 3))
    return geometry.to_local(np.asarray(poses[:-1], np.float64), np.asarray(poses[1:], np.float64))


def corners(motions: Array) -> Array:
    """(..., 3) motions → (..., 4) complex128 x + iy of the ego box's corners after the motion, in
    metres.
    """
    to_center = np.array([Vehicle.REAR_AXLE_TO_CENTER_M, 0.0, 0.0])
    centers = geometry.to_global(np.asarray(motions, np.float64), to_center)
    outline = geometry.box_corners(centers, Vehicle.LENGTH_M, Vehicle.WIDTH_M)
    return np.ascontiguousarray(outline).view(np.complex128)[..., 0]


def _distances(a: Array, b: Array) -> Array:
    """Mean distance of corresponding corners over the last axis."""
    return np.abs(a - b).mean(-1)
