"""Where the two modalities meet (arXiv 2504.07029): cross-fusion at the deepest level, a merge at every level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusecli.models.attention import ChannelAttention, Conv3x3, WindowAttention, Windows


class CrossFusion(nn.Module):
    """Spatial-channel cross-fusion: both attentions of each modality, exchanged crosswise.

    The window attention's output of one modality is joined with the channel attention's output of the other by a 1×1
    convolution, so that each has seen the other in the other dimension.
    """

    def __init__(self, channels: int, heads: int, windows: Windows) -> None:
        super().__init__()
        self.spatial = nn.ModuleList(WindowAttention(channels, *windows) for _ in range(2))
        self.channel = nn.ModuleList(ChannelAttention(channels, heads) for _ in range(2))
        self.join = nn.ModuleList(nn.Linear(2 * channels, channels, bias=False) for _ in range(2))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Two maps N×H×W×C -> two maps N×H×W×C."""
        sides = (first, second)
        spatial = [attend(side) for attend, side in zip(self.spatial, sides, strict=True)]
        channel = [attend(side) for attend, side in zip(self.channel, sides, strict=True)]
        return (
            self.join[0](torch.cat([spatial[0], channel[1]], -1)),
            self.join[1](torch.cat([spatial[1], channel[0]], -1)),
        )


class Merge(nn.Module):
    """Both attentions on the concatenation of the two modalities, then a 3×3 convolution to the level's width."""

    def __init__(self, channels: int, heads: int, windows: Windows) -> None:
        super().__init__()
        self.channel = ChannelAttention(2 * channels, heads)
        self.spatial = WindowAttention(2 * channels, *windows)
        self.reduce = Conv3x3(2 * channels, channels)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two maps N×H×W×C -> N×H×W×C."""
        return self.reduce(self.spatial(self.channel(torch.cat([first, second], -1))))
