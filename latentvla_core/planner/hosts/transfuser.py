"""Host 1: Transfuser as in NAVSIM (latentvla.md §4.2): two ResNet branches with GPT blocks between
their stages, BEV tokens, a decoder with one trajectory query and agent queries.

Legend: B batch, h x w picture cells and g x g BEV cells at stride 32, C stage width, D decoder
width, A agents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentvla_core.planner.attention import Mlp, MultiHeadAttention
from latentvla_core.planner.fusion import Fusion, FusionConfig
from latentvla_core.planner.hosts.raster import NUM_CLASSES
from latentvla_core.planner.hosts.resnet import ResNetSize, check_widths, normalize, resnet
from latentvla_core.training.precision import full_precision
from latentvla_core.types import PLAN_STEPS

STRIDE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class TransfuserConfig:
    """Size of the Transfuser; one schema for every recipe. Defaults are `mini`."""

    camera_width_px: int = 256
    """Panorama of left, front and right camera."""
    camera_height_px: int = 64
    """A quarter of the width."""
    lidar_cells: int = 128
    """Cells per side of the lidar histogram."""
    lidar_range_m: float = 32.0
    """The histogram and the boxes reach ± this."""
    lidar_max_hits: int = 5
    """Hits per cell that count as 1."""
    latent: bool = True
    """True: a learned tensor takes the place of the lidar (camera-only, NAVSIM's LTF). The embedded
    world writes no lidar unless asked to, hence True at small scale.
    """
    published: bool = False
    """As in NAVSIM's code: 1 x 1 convolutions for the lidar branch around each GPT block, whose
    weights start small, and with `latent` no agents behind the cameras in the targets. False:
    none of these.
    """
    stem_width: int = 8
    """Channels of the ResNets' stems."""
    stage_widths: tuple[int, ...] = (8, 16, 32, 64)
    """Channels of the four stages of both ResNets."""
    stage_depths: tuple[int, ...] = (1, 1, 1, 1)
    """Basic blocks per stage; (3, 4, 6, 3) is ResNet-34."""
    image_weights: str = ""
    """Folder of pretrained ResNet weights (transformers format) for the camera branch; "" = from
    scratch.
    """
    gpt_layers: int = 1
    """Transformer layers of the block after each stage."""
    gpt_heads: int = 2
    """Attention heads of those layers."""
    gpt_dropout: float = 0.1
    """Dropout of those layers."""
    width: int = 64
    """D, width of BEV tokens and decoder."""
    ffn_width: int = 128
    """Hidden width of decoder layers and heads."""
    decoder_layers: int = 1
    """Transformer decoder layers."""
    decoder_heads: int = 4
    """Attention heads of the decoder."""
    agents: int = 6
    """A, agent queries."""
    bev_channels: int = 16
    """Channels of the upsampled BEV features that the semantic map is read from."""
    semantic_px: int = 64
    """Width of the semantic map; it covers the front half, so its height is half of that."""
    pose_scale_m: float = 10.0
    """The trajectory head's unit. NAVSIM's is 1 m; a small head that trains for few steps needs a
    coarser one.
    """
    trajectory_weight: float = 10.0
    """Weight of the trajectory's L1."""
    agent_class_weight: float = 1.0
    """Weight of the agents' cross entropy (NAVSIM: 10)."""
    agent_box_weight: float = 0.1
    """Weight of the boxes' L1 (NAVSIM: 1)."""
    semantic_weight: float = 1.0
    """Weight of the semantic map's cross entropy (NAVSIM: 10)."""

    def __post_init__(self) -> None:
        sides = (self.camera_width_px, self.camera_height_px, self.lidar_cells)
        if any(side % STRIDE for side in sides):
            raise ValueError(
                f"picture and lidar sides are {sides}; the ResNets need multiples of {STRIDE}"
            )
        if self.camera_width_px != 4 * self.camera_height_px:
            raise ValueError(
                f"panorama is {self.camera_width_px} x {self.camera_height_px}; its width is 4 heights"
            )
        check_widths((self.stem_width, *self.stage_widths, self.bev_channels))
        if len(self.stage_widths) != 4 or len(self.stage_depths) != 4:
            raise ValueError(f"stages {self.stage_widths} x {self.stage_depths}; a ResNet has four")

    @property
    def bev_side(self) -> int:
        """g, BEV tokens per side."""
        return self.lidar_cells // STRIDE

    @classmethod
    def debug(cls) -> TransfuserConfig:
        return cls(
            camera_width_px=128,
            camera_height_px=32,
            lidar_cells=64,
            width=16,
            ffn_width=16,
            decoder_heads=2,
            stage_widths=(8, 8, 8, 8),
            agents=2,
            bev_channels=8,
            semantic_px=16,
        )

    @classmethod
    def mini(cls) -> TransfuserConfig:
        return cls()

    @classmethod
    def single_gpu(cls) -> TransfuserConfig:
        return cls.paper()

    @classmethod
    def paper(cls) -> TransfuserConfig:
        """NAVSIM's sizes and loss weights."""
        return cls(
            camera_width_px=1024,
            camera_height_px=256,
            lidar_cells=256,
            latent=False,
            published=True,
            stem_width=64,
            stage_widths=(64, 128, 256, 512),
            stage_depths=(3, 4, 6, 3),
            gpt_layers=2,
            gpt_heads=4,
            gpt_dropout=0.1,
            width=256,
            ffn_width=1024,
            decoder_layers=3,
            decoder_heads=8,
            agents=30,
            bev_channels=64,
            semantic_px=256,
            pose_scale_m=1.0,
            agent_class_weight=10.0,
            agent_box_weight=1.0,
            semantic_weight=10.0,
        )


class Transfuser(nn.Module):
    """Camera panorama, lidar histogram and ego status → trajectory, agents and semantic map."""

    name = "transfuser"

    def __init__(
        self, config: TransfuserConfig, fusion: FusionConfig | None = None, feature_dim: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        tokens = config.bev_side**2
        self.backbone = Backbone(config)
        self.to_token = nn.Conv2d(config.stage_widths[-1], config.width, 1)
        self.status = nn.Linear(8, config.width)
        self.key_embedding = nn.Parameter(torch.randn(tokens + 1, config.width))
        self.query_embedding = nn.Parameter(torch.randn(1 + config.agents, config.width))
        layer = nn.TransformerDecoderLayer(
            config.width, config.decoder_heads, config.ffn_width, dropout=0.0, batch_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, config.decoder_layers)
        self.trajectory_head = Mlp(config.width, config.ffn_width, PLAN_STEPS * 3)
        self.agent_head = Mlp(config.width, config.ffn_width, 5)
        self.agent_label = nn.Linear(config.width, 1)
        self.pyramid = TopDown(config.stage_widths[-1], config.bev_channels)
        self.semantic_head = SemanticHead(config)
        self.fusion = None if fusion is None else Fusion(fusion, feature_dim, config.width, 8)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Batch of `inputs.TransfuserInputs` → poses (B, 8, 3), boxes (B, A, 5), box logits (B, A),
        semantic logits.
        """
        bev = batch["bev"] if "bev" in batch else self._bev(batch)
        tokens = self.to_token(bev).flatten(2).transpose(1, 2)  # (B, g², D)
        if self.fusion is not None:
            position = self.key_embedding[: tokens.shape[1]]
            tokens = self.fusion(
                tokens, self.fusion.memory(batch["vlm"], batch["status"]), position
            )
        status = self.status(batch["status"])[:, None]  # (B, 1, D)
        keys = torch.cat([tokens, status], dim=1) + self.key_embedding
        queries = self.query_embedding.expand(len(keys), -1, -1)
        answers = self.decoder(queries, keys).float()  # (B, 1 + A, D)
        with full_precision(answers):  # metres
            boxes, logits = self._agents(answers[:, 1:])
            out = {"poses": self._trajectory(answers[:, 0]), "boxes": boxes, "box_logits": logits}
        return (
            {**out, "semantic_logits": self.semantic_head(self.pyramid(bev))}
            if self.training
            else out
        )

    def _bev(self, batch: dict[str, Any]) -> Tensor:
        return self.backbone(batch["camera"], None if self.config.latent else batch["lidar"])

    @torch.no_grad()
    def seen(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with BEV features (B, C, g, g) in place of what sensors say; `forward` takes
        either. For trainings that leave the backbone as it is.
        """
        rest = {name: value for name, value in batch.items() if name not in ("camera", "lidar")}
        return {**rest, "bev": self._bev(batch)}

    def _trajectory(self, answer: Tensor) -> Tensor:
        raw = self.trajectory_head(answer).unflatten(-1, (PLAN_STEPS, 3))
        return torch.cat(
            [raw[..., :2] * self.config.pose_scale_m, math.pi * torch.tanh(raw[..., 2:])], dim=-1
        )

    def _agents(self, answers: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.agent_head(answers)
        scale = raw.new_tensor([self.config.lidar_range_m, self.config.lidar_range_m, math.pi])
        boxes = torch.cat([torch.tanh(raw[..., :3]) * scale, raw[..., 3:]], dim=-1)
        return boxes, self.agent_label(answers)[..., 0]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Parameters that train at the lower backbone rate: both ResNets."""
        return [*self.backbone.image.parameters(), *self.backbone.lidar.parameters()]


class Backbone(nn.Module):
    """Two ResNets that exchange information through a GPT block after every stage."""

    def __init__(self, config: TransfuserConfig) -> None:
        super().__init__()
        size = ResNetSize(config.stem_width, config.stage_widths, config.stage_depths)
        self.image = resnet(size, channels=3, weights=config.image_weights)
        self.lidar = resnet(size, channels=1)
        grids = (
            (config.camera_height_px // STRIDE, config.camera_width_px // STRIDE),
            (config.bev_side, config.bev_side),
        )
        self.exchanges = nn.ModuleList(
            Exchange(width, grids, config) for width in config.stage_widths
        )
        shape = (1, 1, config.lidar_cells, config.lidar_cells)
        self.latent_lidar = nn.Parameter(torch.randn(shape)) if config.latent else None

    def forward(self, camera: Tensor, lidar: Tensor | None) -> Tensor:
        """uint8 (B, H, W, 3), (B, 1, R, R) → BEV features (B, C, g, g)"""
        image = self.image.embedder(normalize(camera))
        # The learned tensor is the same for every sample: its stem and first stage are computed
        # once.
        bev = self.lidar.embedder(lidar if self.latent_lidar is None else self.latent_lidar)
        stages = zip(
            self.image.encoder.stages, self.lidar.encoder.stages, self.exchanges, strict=True
        )
        for image_stage, lidar_stage, exchange in stages:
            image, bev = exchange(
                image_stage(image), lidar_stage(bev).expand(len(camera), -1, -1, -1)
            )
        return bev


class Exchange(nn.Module):
    """Self-attention over pooled cells of both branches, added back to both."""

    def __init__(
        self, width: int, grids: tuple[tuple[int, int], ...], config: TransfuserConfig
    ) -> None:
        super().__init__()
        self.grids = grids
        dropout = config.gpt_dropout
        cells = sum(rows * columns for rows, columns in grids)
        self.position = nn.Parameter(torch.zeros(cells, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            GptBlock(width, config.gpt_heads, dropout) for _ in range(config.gpt_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.to_exchange, self.to_lidar = (
            nn.Conv2d(width, width, 1) if config.published else nn.Identity() for _ in range(2)
        )
        if config.published:
            self.blocks.apply(_start_small)

    def forward(self, image: Tensor, bev: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, ·, ·) features of both branches → the same with what they told each other added."""
        branches = (image, bev)
        cells = [
            F.adaptive_avg_pool2d(x, grid) for x, grid in zip(branches, self.grids, strict=True)
        ]
        pooled = [x.flatten(2) for x in (cells[0], self.to_exchange(cells[1]))]
        tokens = self.dropout(
            torch.cat(pooled, dim=2).transpose(1, 2) + self.position
        )  # (B, cells, C)
        for block in self.blocks:
            tokens = block(tokens)
        parts = self.norm(tokens).transpose(1, 2).split([p.shape[2] for p in pooled], dim=2)
        grids = [part.unflatten(2, grid) for part, grid in zip(parts, self.grids, strict=True)]
        told = (grids[0], self.to_lidar(grids[1]))
        added = [x + _resize(y, x.shape[2:]) for x, y in zip(branches, told, strict=True)]
        return added[0], added[1]


def _start_small(layer: nn.Module) -> None:
    """GPT's start: normal weights of 0.02, no bias."""
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)


class GptBlock(nn.Module):
    """Pre-norm attention and feed-forward, ratio 4."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.ffn = Mlp(width, 4 * width, width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, normed))
        return x + self.ffn(self.ffn_norm(x))


class TopDown(nn.Module):
    """BEV features from stride 32 up to stride 4 (twice 2, then 2 more), as the FPN of NAVSIM's
    Transfuser.
    """

    def __init__(self, in_width: int, channels: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(in_width, channels, 1)
        self.refine = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, bev: Tensor) -> Tensor:
        """(B, C, g, g) → (B, channels, 8g, 8g)"""
        x, side = F.relu(self.lateral(bev)), bev.shape[-1]
        x = F.relu(self.refine[0](_resize(x, (2 * side, 2 * side))))
        return F.relu(self.refine[1](_resize(x, (8 * side, 8 * side))))


class SemanticHead(nn.Module):
    """Seven-class map of the area ahead: front half of the BEV features, so that every pixel lies
    above its target.
    """

    def __init__(self, config: TransfuserConfig) -> None:
        super().__init__()
        self.shape = (config.semantic_px // 2, config.semantic_px)
        self.conv = nn.Conv2d(config.bev_channels, config.bev_channels, 3, padding=1)
        self.out = nn.Conv2d(config.bev_channels, NUM_CLASSES, 1)

    def forward(self, upsampled: Tensor) -> Tensor:
        """(B, c, 8g, 8g) → logits (B, 7, semantic_px / 2, semantic_px)"""
        ahead = upsampled[:, :, upsampled.shape[2] // 2 :]  # rows are x, rear to front
        return _resize(self.out(F.relu(self.conv(ahead))), self.shape)


def _resize(x: Tensor, shape: Any) -> Tensor:
    return F.interpolate(x, size=tuple(shape), mode="bilinear", align_corners=False)
