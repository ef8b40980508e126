"""Size of the flow-matching planner: one schema for every recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from latentvla_core.planner.hosts.resnet import check_widths


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowConfig:
    """Size of the flow-matching planner. Defaults are `mini`."""

    cameras: tuple[str, ...] = ("CAM_F0", "CAM_L0", "CAM_R0")
    """Cameras it looks at; one that a scene lacks is masked."""
    camera_width_px: int = 96
    """Width that each picture is resized to."""
    camera_height_px: int = 48
    """Height that each picture is resized to."""
    stem_width: int = 8
    """Channels of the ResNet's stem."""
    stage_widths: tuple[int, ...] = (16, 32, 64)
    """Channels of its stages."""
    stage_depths: tuple[int, ...] = (1, 1, 1)
    """Basic blocks per stage; (3, 4, 6, 3) is ResNet-34."""
    image_weights: str = ""
    """Folder of pretrained ResNet weights (transformers format); "" = from scratch."""
    width: int = 64
    """D, of scene tokens and of a path's steps."""
    ffn_width: int = 128
    """Hidden width of feed-forward blocks and of the scorer."""
    heads: int = 4
    """Attention heads."""
    layers: int = 2
    """Layers of the velocity field."""
    proposals: int = 8
    """N, paths that are drawn for a scene."""
    integration_steps: int = 6
    """Euler steps from noise to a path."""
    draws: int = 4
    """Noises and times per scene and training step."""
    collision_steps: int = 8
    """Steps at which the simulator names who is hit; nothing is learned from them."""
    choice: Literal["composed", "medoid"] = "composed"
    """What the plan is chosen by: the formula over the five sub-scores that the scorer learned, or
    the path that is nearest to all others, which needs no scorer.
    """

    def __post_init__(self) -> None:
        check_widths((self.stem_width, *self.stage_widths, self.width))
        if len(self.stage_widths) != len(self.stage_depths):
            raise ValueError(
                f"stages {self.stage_widths} x {self.stage_depths}; give one depth per width"
            )
        counts = (self.layers, self.proposals, self.integration_steps, self.draws)
        if min(counts) < 1:
            raise ValueError(
                f"layers, proposals, integration_steps, draws are {counts}; each needs to be at "
                "least 1"
            )

    @classmethod
    def debug(cls) -> FlowConfig:
        return cls(
            camera_width_px=64,
            camera_height_px=32,
            stage_widths=(8, 8, 8),
            width=16,
            ffn_width=16,
            heads=2,
            layers=1,
            proposals=3,
            integration_steps=2,
            draws=2,
            collision_steps=4,
        )

    @classmethod
    def mini(cls) -> FlowConfig:
        return cls()

    @classmethod
    def single_gpu(cls) -> FlowConfig:
        return replace(cls.paper(), choice="composed")

    @classmethod
    def paper(cls) -> FlowConfig:
        """The size of iPad at `paper`; its recipe has no phase for a scorer, hence the medoid."""
        return cls(
            camera_width_px=768,
            camera_height_px=432,
            stem_width=64,
            stage_widths=(64, 128, 256, 512),
            stage_depths=(3, 4, 6, 3),
            width=256,
            ffn_width=1024,
            heads=8,
            layers=6,
            proposals=64,
            integration_steps=10,
            draws=8,
            choice="medoid",
        )
