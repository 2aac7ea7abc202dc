"""Nano: the convolutional student that does the daily work. Two scales, no text, a few tens of thousand parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusecli.models.network import FusionNetwork


class Conv(nn.Sequential):
    """3×3 convolution (or another odd kernel) with replicated border and ReLU.

    A zero border would darken the frame of the picture and break "a constant pair gives a constant result".
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        padding = (kernel - stride + 1) // 2
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, padding_mode="replicate"),
            nn.ReLU(inplace=True),
        )


class Nano(FusionNetwork):
    """Fuse N×1×H×W luma pairs in [0, 1] by four maps that the network predicts at half resolution.

    With L(x) the 2×2 mean of a source brought back to full size, and w, r, p, q the maps::

        fused = up(w·L(first) + (1 − w)·L(second) + r) + p·(first − L(first)) + q·(second − L(second))

    so the finest detail is always a source's own, weighted, and never drawn by the network: no pattern from the
    change of scale can appear, a constant pair gives a constant result, and noise is left out by a small gain. The maps
    come from a stem at half resolution (pixel-unshuffle by 2 and a 3×3 convolution, written as one 6×6 convolution of
    stride 2) and ``blocks`` convolutions at quarter resolution that see what surrounds a pixel.

    Any H, W ≥ 1. ``halo`` is how far a pixel of the result sees; ``align`` is the size of one quarter-resolution cell.
    """

    align = 4

    def __init__(self, width: int = 16, deep: int = 24, blocks: int = 3) -> None:
        super().__init__()
        self.stem = Conv(2, width, kernel=6, stride=2)
        self.down = Conv(width, deep, kernel=4, stride=2)
        self.deep = nn.Sequential(*(Conv(deep, deep) for _ in range(blocks)))
        self.up = nn.Conv2d(deep, width, 1)
        self.mix = Conv(width, width)
        self.head = nn.Conv2d(width, 4, 1)
        # reach of stem 3, down 3 half pixels, blocks 4 each, bilinear steps and mix: rounded up to whole cells
        self.halo = 4 * (blocks + 6)
        nn.init.zeros_(self.head.weight)  # starts as the average of both sources: w 1/2, r 0, gains 1/2
        self.head.bias = nn.Parameter(torch.zeros(4))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.with_features(first, second)[0]

    @property
    def feature_channels(self) -> dict[int, int]:
        return {2: self.head.in_channels, 4: self.up.in_channels}

    def with_features(
        self, first: Tensor, second: Tensor, text: Tensor | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """(fused, features by scale). Text is not read: a student sees for itself."""
        height, width = first.shape[-2:]
        pair = F.pad(torch.cat([first, second], 1), (0, -width % 4, 0, -height % 4), mode="replicate")
        low = F.avg_pool2d(pair, 2)
        fine = self.stem(pair)
        coarse = self.deep(self.down(fine))
        fine = self.mix(fine + _double(self.up(coarse)))
        maps = self.head(fine).contiguous()  # few channels: doubling them is faster on planes than channels_last
        blend, shift, gains = maps[:, :1].sigmoid(), maps[:, 1:2], maps[:, 2:] + 0.5
        base = low[:, 1:] + blend * (low[:, :1] - low[:, 1:]) + shift
        base, means, gains = _double(torch.cat([base, low, gains], 1)).split([1, 2, 2], 1)
        fused = base + (gains * (pair - means)).sum(1, keepdim=True)
        return fused[..., :height, :width].clamp(0, 1), {2: fine, 4: coarse}


def _double(maps: Tensor) -> Tensor:
    """Twice the size, bilinear."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
