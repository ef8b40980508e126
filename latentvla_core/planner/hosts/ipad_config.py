"""Size of iPad: one schema for every recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from latentvla_core.planner.hosts.resnet import check_widths


@dataclass(frozen=True, kw_only=True, slots=True)
class IpadConfig:
    """Size of iPad; one schema for every recipe. Defaults are `mini`."""

    cameras: tuple[str, ...] = ("CAM_F0", "CAM_L0", "CAM_R0")
    """Cameras it looks at; one that a scene lacks is masked."""
    camera_width_px: int = 96
    """Width that each picture is resized to."""
    camera_height_px: int = 48
    """Height that each picture is resized to; padded at the bottom to a multiple of the stride."""
    published: bool = False
    """Layers as in iPad's public code: heads of three layers with LayerNorm, self-attention of two
    queues with learned positions, visibility by query and camera. False: lighter ones.
    """
    stem_width: int = 8
    """Channels of the ResNet's stem."""
    stage_widths: tuple[int, ...] = (16, 32, 64)
    """Channels of its stages; the stride of the features is 2 to the power of (stages + 1)."""
    stage_depths: tuple[int, ...] = (1, 1, 1)
    """Basic blocks per stage; (3, 4, 6, 3) is ResNet-34."""
    image_weights: str = ""
    """Folder of pretrained ResNet weights (transformers format); "" = from scratch."""
    grid_mask_probability: float = 0.0
    """GridMask augmentation of training pictures (iPad: 0.7)."""
    proposals: int = 8
    """N."""
    iterations: int = 2
    """K, all with the same weights."""
    width: int = 64
    """D."""
    hidden_width: int = 256
    """Hidden width of the pose MLP and the feed-forward block."""
    heads: int = 4
    """Heads of the deformable attentions."""
    self_points: int = 4
    """Points per head of the self-attention."""
    height_anchors: int = 2
    """Heights at each corner of the ego box, from -2 to 6 m."""
    picture_points: int = 1
    """Points per head and anchor of the picture attention."""
    collision_steps: int = 8
    """Steps at which the boxes of colliding agents are predicted (iPad: 40)."""
    pose_scale_m: float = 10.0
    """The pose head's unit for x and y. iPad's is 1 m; a small head that trains for few steps needs
    a coarser one.
    """
    discount: float = 0.1
    """Weight of an iteration's proposal loss over that of the next."""
    score_weight: float = 1.0
    """Weight of the total score's BCE."""
    sub_score_weight: float = 1.0
    """Weight of the other five scores' BCE (iPad: 0)."""
    area_weight: float = 2.0
    """Weight of the off-road and off-route BCE."""
    collision_box_weight: float = 0.1
    """Weight of the colliding boxes' L1 (iPad's code)."""
    collision_weight: float = 1.0
    """Weight of the colliding boxes' validity BCE (iPad's code)."""
    choice: Literal["composed", "total"] = "composed"
    """What the plan is chosen by: the formula over the five sub-scores, or the total's own logit
    (iPad).
    """
    score_every: int = 1
    """Optimiser steps between simulations of the proposals; the other steps train the proposals
    only.
    """

    def __post_init__(self) -> None:
        check_widths((self.stem_width, *self.stage_widths, self.width))
        if len(self.stage_widths) != len(self.stage_depths):
            raise ValueError(
                f"stages {self.stage_widths} x {self.stage_depths}; give one depth per width"
            )
        if self.iterations < 1 or self.proposals < 1 or self.score_every < 1:
            raise ValueError(
                f"proposals {self.proposals}, iterations {self.iterations}, score_every "
                f"{self.score_every}; each needs to be at least 1"
            )
        if 40 % self.collision_steps:
            raise ValueError(
                f"collision_steps is {self.collision_steps}; it must divide the 40 simulated steps"
            )

    @property
    def stride(self) -> int:
        return 2 ** (len(self.stage_widths) + 1)

    @property
    def padded_wh(self) -> tuple[int, int]:
        """(width, height) of a picture after padding."""
        width, height = (
            -(-side // self.stride) * self.stride
            for side in (self.camera_width_px, self.camera_height_px)
        )
        return width, height

    @classmethod
    def debug(cls) -> IpadConfig:
        return cls(
            camera_width_px=64,
            camera_height_px=32,
            stage_widths=(8, 8, 8),
            proposals=3,
            width=16,
            hidden_width=16,
            heads=2,
            self_points=2,
            collision_steps=4,
        )

    @classmethod
    def mini(cls) -> IpadConfig:
        return cls()

    @classmethod
    def single_gpu(cls) -> IpadConfig:
        return replace(cls.paper(), sub_score_weight=1.0, choice="composed")

    @classmethod
    def paper(cls) -> IpadConfig:
        return cls(
            cameras=("CAM_B0", "CAM_F0", "CAM_L0", "CAM_R0"),
            camera_width_px=768,
            camera_height_px=432,
            published=True,
            stem_width=64,
            stage_widths=(64, 128, 256, 512),
            stage_depths=(3, 4, 6, 3),
            grid_mask_probability=0.7,
            proposals=64,
            iterations=4,
            width=256,
            hidden_width=1024,
            heads=8,
            self_points=4,
            height_anchors=4,
            picture_points=1,
            collision_steps=40,
            pose_scale_m=1.0,
            sub_score_weight=0.0,
            choice="total",
        )
