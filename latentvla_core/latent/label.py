"""Latent action codes of scenes: transitions of 1 s from the current frame on, some ego and
environment codes each.

Ego codes need pictures only. Environment codes come from the frozen first stage, which is told the
trajectory; where poses are unknown or jump there are none. Legend: latent/__init__.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from latentvla_core import geometry
from latentvla_core.latent.model import LatentActionModel, Told
from latentvla_core.latent.pairs import driven_poses, ego_states, front_projections, plausible
from latentvla_core.training.images import MISSING, ImageCache
from latentvla_core.types import MOST_INT8_CODES, Array, Pose, SceneRecord

SAME_DECIMALS = 6  # a transition seen from two scenes has equal poses up to rounding


@dataclass(frozen=True, slots=True)
class Labels:
    """N scenes, T transitions each, in the order given. What is not valid or not known holds zeros
    or NaN.
    """

    ego_codes: Array
    """(N, T, C) int8 (int16 for codebooks above 128)."""
    ego_distances: Array
    """(N, T, C) float32: squared distance of z to its code, in the quantiser's own standardised
    space.
    """
    ego_confidence: Array
    """(N, T, C) float32: 1 − nearest / second squared distance; 0 = a coin's toss between two
    codes, 1 = exactly a code.
    """
    training_distance: Array
    """(N, T) float32: how unlike the training's the two pictures are; 1: as far as one in a hundred
    of those. NaN where nobody measured it.
    """
    environment_codes: Array
    """(N, T, E) like ego_codes."""
    has_environment: Array
    """(N, T) bool: the trajectory is known and plausible, or the model needs none."""
    motion: Array
    """(N, T, 4) float32: speed_mps at the start, its change, forward_m, change of heading_rad; NaN
    when not known.
    """
    valid: Array
    """(N, T) bool: both pictures were read."""
    reason: tuple[tuple[str, ...], ...]
    """(N, T), "" where valid."""

    def __len__(self) -> int:
        return len(self.ego_codes)

    @property
    def complete(self) -> Array:
        """(N,) bool: every transition of the scene has codes."""
        return np.all(self.valid, axis=1)

    @property
    def codes(self) -> Array:
        """(N, T · C): the ego codes, time-major; zeros where the scene is not complete."""
        codes = self.ego_codes.reshape(len(self), -1)
        return np.where(self.complete[:, None], codes, np.zeros_like(codes))


@dataclass(frozen=True, slots=True)
class _Transitions:
    """What is to be encoded: (N, T) transitions, or the n distinct ones among them."""

    rows: Array
    """(..., 2) picture rows, MISSING where there is none."""
    waypoints: Array
    """(..., gap, 3) poses from the first frame; zeros where not known."""
    states: Array
    """(..., 3) ego state at the first frame; zeros where not known."""
    projections: Array
    """(..., 3, 4) of the front camera; NaN where it is not calibrated."""
    known: Array
    """(...) bool: waypoints and states can be used."""

    def distinct(self, use: Array) -> tuple[_Transitions, Array]:
        """Those of the mask `use` (N, T), each once and in picture order; and (m,) where each used
        one is among them.
        """
        parts = (
            self.rows,
            self.known[..., None],
            self.waypoints,
            self.states,
            np.nan_to_num(self.projections),
        )
        flat = [np.asarray(p[use], np.float64).reshape(int(use.sum()), -1) for p in parts]
        keys = np.concatenate(flat, axis=1).round(SAME_DECIMALS)
        _, first, where = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        values = (self.rows, self.waypoints, self.states, self.projections, self.known)
        return _Transitions(*(v[use][first] for v in values)), where.reshape(-1)


def label_scenes(
    records: Sequence[SceneRecord],
    model: LatentActionModel,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    cache: ImageCache | None = None,
) -> Labels:
    """Encode what happens after the current frame of each scene.

    Each picture is decoded once and each transition encoded once, however many scenes share it.
    Raises SetupError for a continuous model.
    """
    model.require_codes()
    config = model.config
    cache = cache or ImageCache(config.features.image_size_wh)
    asked, motion, reasons = _asked(records, config.num_transitions, config.gap_frames, cache)
    valid = np.array([[not why for why in row] for row in reasons], bool).reshape(asked.known.shape)
    labels = _empty(model, motion, valid, reasons)
    if valid.any():
        transitions, where = asked.distinct(valid)
        for name, found in encode(model.to(device).eval(), transitions, cache, batch_size).items():
            getattr(labels, name)[valid] = found[where]
    return labels


def _empty(
    model: LatentActionModel, motion: Array, valid: Array, reasons: Sequence[Sequence[str]]
) -> Labels:
    config, shape = model.config, valid.shape
    counts = {"ego": config.codes_per_transition, "environment": config.environment_positions}
    ego, environment = (
        np.zeros((*shape, count), code_type(getattr(config, name).codebook_size))
        for name, count in counts.items()
    )
    distances, confidence = (np.full(ego.shape, np.nan, np.float32) for _ in range(2))
    known, far = np.zeros(shape, bool), np.full(shape, np.nan, np.float32)
    why = tuple(map(tuple, reasons))
    return Labels(ego, distances, confidence, far, environment, known, motion, valid, why)


def code_type(codebook_size: int) -> type[np.signedinteger]:
    """The smallest signed integer that holds every code."""
    return np.int8 if codebook_size <= MOST_INT8_CODES else np.int16


@torch.no_grad()
def encode(
    model: LatentActionModel, asked: _Transitions, cache: ImageCache, batch_size: int
) -> dict[str, Array]:
    """Fields of `Labels` for n transitions. A picture that several transitions of a batch show is
    looked at once.
    """
    parts = []
    for first in range(0, len(asked.rows), batch_size):
        part = slice(first, first + batch_size)
        pictures, where = np.unique(asked.rows[part], return_inverse=True)
        seen = model.features(
            torch.from_numpy(np.ascontiguousarray(cache.take(pictures))).to(model.device)
        )
        x = seen[torch.from_numpy(where.reshape(-1, 2)).to(seen.device)]
        told = asked.waypoints[part], asked.states[part], asked.projections[part]
        parts.append(_encode_batch(model, x, told, asked.known[part]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _encode_batch(
    model: LatentActionModel, x: torch.Tensor, told: Sequence[Array], known: Array
) -> dict:
    ego, *own_environment = model.ego.encode(x)
    quantizer = model.ego.quantizer
    codes, distances = quantizer.nearest(ego), quantizer.distances(ego)
    nearest = distances.gather(-1, codes[..., None])[..., 0]
    second = distances.scatter(-1, codes[..., None], torch.inf).amin(-1)
    if own_environment:  # mode "reencode": the second stage's encoder, which needs no trajectory
        environment, known = (
            model.environment.quantizer.nearest(own_environment[0]),
            np.ones_like(known),
        )
    else:
        environment = codes.new_zeros((len(x), model.config.environment_positions))
        use = torch.from_numpy(known).to(x.device)
        if known.any():
            given = Told(
                *(torch.from_numpy(a[known].astype(np.float32)).to(x.device) for a in told)
            )
            environment[use] = model.environment.codes(x[use], given)
    found = {
        "ego_codes": codes,
        "ego_distances": nearest,
        "ego_confidence": (1 - nearest / second.clamp_min(1e-12)).clamp(0, 1),
        "training_distance": model.distances(x),
        "environment_codes": environment,
    }
    return {name: value.cpu().numpy() for name, value in found.items()} | {"has_environment": known}


def _asked(
    records: Sequence[SceneRecord], count: int, gap: int, cache: ImageCache
) -> tuple[_Transitions, Array, list[list[str]]]:
    """(N, T) transitions, their (N, T, 4) motion, and why each cannot be encoded ("" = it can)."""
    needed = [[needed_pictures(record, step, gap) for step in range(count)] for record in records]
    flat = [
        (r.sensor_root, path)
        for r, row in zip(records, needed, strict=True)
        for paths, _ in row
        for path in paths
    ]
    rows = cache.indices(flat).reshape(len(records), count, 2)
    reasons = [
        [why or _unreadable(rows[i, step], paths, cache) for step, (paths, why) in enumerate(row)]
        for i, row in enumerate(needed)
    ]
    waypoints, states, motion, known = _driven(records, count, gap)
    cameras = np.repeat(front_projections(records)[:, None], count, axis=1)
    return _Transitions(rows, waypoints, states, cameras, known), motion, reasons


def _driven(
    records: Sequence[SceneRecord], count: int, gap: int
) -> tuple[Array, Array, Array, Array]:
    """Waypoints (N, T, gap, 3), states (N, T, 3), motion (N, T, 4) and whether they are known (N,
    T), as `_Transitions` has them.

    Scenes of equal length together: frame by frame this took a tenth of the encoders' time.
    """
    shape = len(records), count
    waypoints, states = np.zeros((*shape, gap, 3)), np.zeros((*shape, 3))
    motion, known = np.full((*shape, 4), np.nan, np.float32), np.zeros(shape, bool)
    lengths = np.array([(r.num_history, len(r.future_poses)) for r in records]).reshape(-1, 2)
    for history, future in np.unique(lengths, axis=0):
        at = np.flatnonzero((lengths == (history, future)).all(axis=1))
        poses = np.stack([driven_poses(records[i]) for i in at.tolist()])
        driven = ego_states(poses)
        for step in range(min(count, future // gap)):
            start = history - 1 + step * gap
            path = geometry.to_local(poses[:, [start]], poses[:, start + 1 : start + 1 + gap])
            good = np.logical_and(*plausible(path, driven[:, start]))
            use, change = at[good], driven[good, start + gap, 0] - driven[good, start, 0]
            waypoints[use, step], states[use, step], known[use, step] = (
                path[good],
                driven[good, start],
                True,
            )
            ends = path[good, -1]
            motion[use, step] = np.stack(
                [driven[good, start, 0], change, ends[:, Pose.X], ends[:, Pose.YAW]], axis=-1
            )
    return waypoints, states, motion, known


def needed_pictures(record: SceneRecord, step: int, gap_frames: int) -> tuple[tuple[str, str], str]:
    """Paths of the first and second picture of a transition, and what is missing ("" = nothing)."""
    current = record.num_history - 1
    wanted = current + step * gap_frames, current + (step + 1) * gap_frames
    have = len(record.front_paths)
    first, second = (record.front_paths[i] if i < have else "" for i in wanted)
    if wanted[-1] >= have:
        return (first, ""), f"{have - 1 - current} future frames, {wanted[-1] - current} needed"
    empty = [i - current for i, path in zip(wanted, (first, second), strict=True) if not path]
    return (first, second), f"no front picture at frame {empty[0]:+d}" if empty else ""


def _unreadable(row: Array, paths: Sequence[str], cache: ImageCache) -> str:
    bad = [path for path, r in zip(paths, row, strict=True) if r == MISSING]
    return f"picture {bad[0]} cannot be read: {cache.faults.get(bad[0], 'unknown')}" if bad else ""
