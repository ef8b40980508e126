"""Batches for the hosts: inputs (what a planner sees, also on the road) and targets (training only)
are apart.

Legend: N records, B batch, C cameras. Everything is made from records once and kept, as far as
memory is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from latentvla_core.data.projections import projections
from latentvla_core.errors import DataError
from latentvla_core.planner import features
from latentvla_core.planner.fusion import VlmTokens
from latentvla_core.planner.hosts.raster import MapLayers, semantic_map
from latentvla_core.types import (
    CODEBOOK_SIZE,
    NUM_ACTION_TOKENS,
    PLAN_STEPS,
    Array,
    RoadMap,
    SceneRecord,
)
from latentvla_core.vlm.features import KINDS, VlmFeatures

KEEP_ROWS = (
    20_000  # rows of derived arrays kept in memory; 20 000 lidar histograms of 256² are 1.3 GB
)


class Maps(Protocol):
    """A MapStore, or a dict by location."""

    def get(self, location: str, /) -> RoadMap | None: ...


class LazyRows:
    """Arrays made on first use, one per record; the first `KEEP_ROWS` asked for stay in memory."""

    def __init__(self, make: Callable[[int], Array]) -> None:
        self.make = make
        self._kept: dict[int, Array] = {}

    def take(self, indices: Array) -> Array:
        """(B,) → (B, ...)"""
        return np.stack([self._row(int(i)) for i in indices])

    def _row(self, index: int) -> Array:
        if index in self._kept:
            return self._kept[index]
        row = self.make(index)
        if len(self._kept) < KEEP_ROWS:
            self._kept[index] = row
        return row


class Inputs(Protocol):
    """Input batches of one host."""

    faults: list[str]
    """Per record: what of its input cannot be read and why, or "". A point cloud is read, and found
    broken, in `batch`.
    """

    def batch(self, indices: Array) -> dict[str, Any]: ...


class TransfuserInputs:
    """camera (B, H, W, 3) uint8, lidar (B, 1, R, R), status (B, 8)."""

    def __init__(
        self, config: Any, records: Sequence[SceneRecord], scratch: Path | None = None
    ) -> None:
        self.config = config
        size = (config.camera_width_px, config.camera_height_px)
        self.pictures = features.Panoramas(records, size, _file(scratch, "panorama"))
        self.status = torch.from_numpy(features.ego_status(records))
        self.records = records
        self.lidar = LazyRows(self._hits)
        lidar = [""] * len(records) if config.latent else map(features.lidar_fault, records)
        self.faults = [a or b for a, b in zip(self.pictures.faults, lidar, strict=True)]

    def _hits(self, index: int) -> Array:
        """uint8 counts; zeros and a fault where the file is damaged."""
        config, cells = self.config, self.config.lidar_cells
        try:
            hits = features.lidar_of(
                self.records[index], cells, config.lidar_range_m, config.lidar_max_hits
            )
        except DataError as error:
            self.faults[index] = self.faults[index] or str(error)
            hits = np.zeros((1, cells, cells), np.float32)
        return np.rint(hits * config.lidar_max_hits).astype(np.uint8)

    def batch(self, indices: Array) -> dict[str, Any]:
        batch = {
            "camera": torch.from_numpy(self.pictures.take(indices)),
            "status": self.status[indices],
        }
        if not self.config.latent:
            hits = torch.from_numpy(self.lidar.take(indices))
            batch["lidar"] = hits.float() / self.config.lidar_max_hits
        return batch


class IpadInputs:
    """images (B, C, H, W, 3) uint8, has_image (B, C), projection (B, C, 3, 4), ego (B, 11)."""

    def __init__(
        self, config: Any, records: Sequence[SceneRecord], scratch: Path | None = None
    ) -> None:
        size = (config.camera_width_px, config.camera_height_px)
        self.pictures = features.Pictures(records, config.cameras, size, _file(scratch, "ipad"))
        self.faults = list(self.pictures.faults)
        self.ego = torch.from_numpy(features.ipad_ego(records))
        projection = projections(records, config.cameras)
        self.projection = torch.from_numpy(np.nan_to_num(projection).astype(np.float32))

    def batch(self, indices: Array) -> dict[str, Any]:
        return {
            "images": torch.from_numpy(self.pictures.take(indices)),
            "has_image": torch.from_numpy(self.pictures.present(indices)),
            "projection": self.projection[indices],
            "ego": self.ego[indices],
        }


class VlmInputs:
    """VlmTokens per batch; a scene whose VLM row is not valid, or all without features, has no VLM
    tokens.
    """

    def __init__(
        self, vlm: VlmFeatures | None, records: Sequence[SceneRecord], feature_dim: int
    ) -> None:
        count = len(records)
        if vlm is not None:
            _check_features(vlm, records, feature_dim)
        self.visual = np.zeros((count, 1, feature_dim), np.float32) if vlm is None else vlm.visual
        self.action = (
            np.zeros((count, NUM_ACTION_TOKENS, feature_dim), np.float32)
            if vlm is None
            else vlm.action
        )
        self.has_visual, self.has_action = (
            torch.from_numpy(np.zeros(count, bool) if vlm is None else vlm.has(kind))
            for kind in KINDS
        )
        self.answer = _answers(vlm, self.has_action)

    def batch(self, indices: Array) -> VlmTokens:
        visual = torch.from_numpy(np.asarray(self.visual[indices], np.float32))
        action = torch.from_numpy(np.asarray(self.action[indices], np.float32))
        answer = self.answer[indices]
        return VlmTokens(visual, action, self.has_visual[indices], self.has_action[indices], answer)


def _answers(vlm: VlmFeatures | None, has_action: torch.Tensor) -> torch.Tensor:
    """(N, 12 · 16) probabilities of the codes; zeros where there is no answer."""
    if vlm is None:
        return torch.zeros(len(has_action), NUM_ACTION_TOKENS * CODEBOOK_SIZE)
    likely = torch.from_numpy(np.asarray(vlm.logits, np.float32)).softmax(-1).flatten(1)
    answered = has_action & torch.from_numpy((np.asarray(vlm.codes) >= 0).all(-1))
    return torch.where(answered[:, None], likely, torch.zeros_like(likely))


def _check_features(vlm: VlmFeatures, records: Sequence[SceneRecord], feature_dim: int) -> None:
    if len(vlm.visual) != len(records):
        raise ValueError(
            f"{len(vlm.visual)} rows of VLM features for {len(records)} records; select the same scenes first"
        )
    if vlm.visual.shape[-1] != feature_dim:
        raise ValueError(
            f"VLM features are {vlm.visual.shape[-1]} wide, the fusion was built for {feature_dim}; "
            "build the planner with feature_dim of the features it gets"
        )
    for have, record in zip(vlm.scene_tokens, records, strict=True):
        if have != record.scene_token:
            raise ValueError(
                f"VLM features of scene {have} meet record {record.scene_token}; bring both in one order"
            )


class TrajectoryTargets:
    """trajectory (B, 8, 3): the logged future."""

    def __init__(self, records: Sequence[SceneRecord]) -> None:
        short = [r.scene_token for r in records if r.num_future < PLAN_STEPS]
        if short:
            raise ValueError(
                f"scene {short[0]} (and {len(short) - 1} more) has fewer than {PLAN_STEPS} future poses; "
                "train on scenes with a whole future"
            )
        self.trajectory = torch.tensor(
            np.array([r.future_poses[:PLAN_STEPS] for r in records], np.float32)
        )

    def batch(self, indices: Array) -> dict[str, Any]:
        return {"trajectory": self.trajectory[indices]}


class TransfuserTargets(TrajectoryTargets):
    """Adds boxes (B, A, 5), is_agent (B, A), has_boxes (B,), semantic (B, h, w) int64 with 255 =
    unknown.
    """

    def __init__(self, config: Any, records: Sequence[SceneRecord], maps: Maps | None) -> None:
        super().__init__(records)
        agents = [features.agent_boxes(r, config.agents, config.lidar_range_m) for r in records]
        self.boxes = torch.from_numpy(np.array([a[0] for a in agents]))
        self.is_agent = torch.from_numpy(np.array([a[1] for a in agents]))
        self.has_boxes = torch.tensor([r.has_objects for r in records])
        locations = (
            {r.map_location for r in records if r.map_location} if maps is not None else set()
        )
        found = {name: maps.get(name) for name in locations} if maps is not None else {}
        layers = {
            name: MapLayers(road_map) for name, road_map in found.items() if road_map is not None
        }
        self.semantic = LazyRows(
            lambda i: semantic_map(
                records[i],
                layers.get(records[i].map_location),
                config.semantic_px,
                config.lidar_range_m,
            )
        )

    def batch(self, indices: Array) -> dict[str, Any]:
        return {
            **super().batch(indices),
            "boxes": self.boxes[indices],
            "is_agent": self.is_agent[indices],
            "has_boxes": self.has_boxes[indices],
            "semantic": torch.from_numpy(self.semantic.take(indices)).long(),
        }


def _file(scratch: Path | None, name: str) -> str | None:
    return None if scratch is None else str(scratch / f"{name}.pictures")
