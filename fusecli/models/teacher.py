"""The text-guided teacher (arXiv 2504.07029): two encoders, cross-fusion, a decoder steered by text, refinement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusecli.models import phases
from fusecli.models.attention import Block, Conv3x3
from fusecli.models.borders import fill
from fusecli.models.cross_fusion import CrossFusion, Merge
from fusecli.models.network import Features, FusionNetwork

LEVELS = 4


class Down(nn.Module):
    """3×3 convolution to half the channels, then pixel-unshuffle: N×H×W×C -> N×H/2×W/2×2C, H and W even."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels // 2)

    def forward(self, features: Tensor) -> Tensor:
        squares = self.conv(features).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        return squares.transpose(2, 3).flatten(3)


class Up(nn.Module):
    """3×3 convolution to twice the channels, then pixel-shuffle: N×H×W×C -> N×2H×2W×C/2.

    The four phases respond alike to a constant (`phases.alike`), and share the bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, 2 * channels, 3)
        self.weight = nn.Parameter(conv.weight.detach())  # 4-D, as channels_last requires
        self.bias = nn.Parameter(torch.zeros(channels // 2))

    def forward(self, features: Tensor) -> Tensor:
        image = F.pad(features.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
        found = F.conv2d(image, phases.alike(self.weight), self.bias.repeat(4)).permute(0, 2, 3, 1)
        return found.unflatten(3, (2, 2, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


class TextAffine(nn.Module):
    """Feature-wise affine: (1 + γ)·x + β with γ and β from the text vector; the identity at the start of training."""

    def __init__(self, text_dim: int, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(text_dim, channels), nn.LayerNorm(channels), nn.GELU(), nn.Linear(channels, 2 * channels)
        )
        for parameter in self.mlp[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """N×H×W×C and N×text_dim -> N×H×W×C."""
        gain, shift = self.mlp(text)[:, None, None, :].chunk(2, -1)
        return torch.addcmul(features + shift, features, gain)


class Encoder(nn.Sequential):
    """Levels applied one after the other: takes N×H×W×1, returns the outputs of all levels."""

    def forward(self, image: Tensor) -> list[Tensor]:
        outputs = [image]
        for level in self:
            outputs.append(level(outputs[-1]))
        return outputs[1:]


class Teacher(FusionNetwork):
    """Fuse N×1×H×W luma pairs in [0, 1], any H, W ≥ 1, guided by a text vector per pair (N×``text_dim``) or by none.

    The design is the paper's, except where noted:

    - Luma alone goes in and comes out, where the paper's first image has three channels: the product puts the first
      image's colour back afterwards, so that colour cannot shift.
    - The output is ``first + w·(second − first) + r`` with maps w and r from the last convolution; w = 0 is the paper's
      residual on the first image. Training starts from the mean of both sources.
    - All of the decoder has the level's width (the paper's first level and refinement have twice that); what this saves
      goes into twice as many blocks at the two upper levels, where fusion is decided. The merge has the level's heads.
    - The text acts on skip connections and upsampled features together, since noise comes through the former.
    - Constant sources give a constant result whatever the weights (see attention.py and ``Up``).

    Channel attention looks at the whole image: a tiled result only approximates that of the whole image, the better the
    larger the tiles. ``halo`` is the overlap that hides the seams, ``align`` keeps the tiles' windows on one grid.
    ``text_dim=0`` leaves the text guidance out, ``cross_fusion=False`` the cross-fusion module. With ``look`` (the
    default look) the affine maps read the look too, as one more number; with ``mend`` sources have to be mended first.

    By default 29 million parameters (the paper's: 40 million). ``text_dim`` then holds two sentence vectors of 384, one
    per side, and a severity vector of 16.
    """

    halo = 64
    align = 64
    graph_of_any_size = False  # the number of strips depends on the size

    def __init__(
        self,
        width: int = 40,
        blocks: Sequence[int] = (4, 4, 2, 2),
        refinement: int = 4,
        expansion: float = 2.66,
        channel_heads: Sequence[int] = (1, 2, 4, 8),
        spatial_heads: Sequence[int] = (2, 2, 3, 4),
        head_dim: int = 16,
        window: int = 8,
        overlap: float = 0.5,
        text_dim: int = 784,
        cross_fusion: bool = True,
        look: float | None = None,
        mend: bool = False,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        if width < 2 or width % 2:
            raise ValueError("width must be at least 2, and even")
        if min(*channel_heads, *spatial_heads, head_dim, window, int(expansion * width)) < 1 or overlap < 0:
            raise ValueError("heads, head_dim, window and expansion times width must be at least 1, overlap at least 0")
        if min(*blocks, refinement, text_dim) < 0:
            raise ValueError("blocks, refinement and text_dim must be at least 0")
        if any(channels % heads for channels, heads in zip(widths, channel_heads, strict=False)):
            raise ValueError("channel_heads must divide the widths, which double from level to level")
        self.look, self.mends = look, mend
        attention = [
            (channels, channel_heads[level], (spatial_heads[level], head_dim, window, overlap))
            for level, channels in enumerate(widths)
        ]

        def stack(level: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(Block(*attention[level], expansion) for _ in range(count)))

        def encoder() -> Encoder:
            entries = [Conv3x3(1, width), *(Down(channels) for channels in widths[:-1])]
            return Encoder(*(nn.Sequential(entries[level], *stack(level, blocks[level])) for level in range(LEVELS)))

        self.widths, self.text_dim = widths, text_dim
        self.describe: Callable[[Tensor, Tensor], Tensor] | None = None  # the text of pairs for which none is given
        self.encoders = nn.ModuleList([encoder(), encoder()])
        self.cross = CrossFusion(*attention[-1]) if cross_fusion else None
        self.merge = nn.ModuleList(Merge(*attention[level]) for level in range(LEVELS))
        self.up = nn.ModuleList(Up(channels) for channels in widths[1:])
        self.skip = nn.ModuleList(nn.Linear(2 * channels, channels) for channels in widths[:-1])
        told = text_dim + (look is not None)
        self.guide = nn.ModuleList(TextAffine(told, channels) for channels in widths) if told else None
        self.decoder = nn.ModuleList(stack(level, blocks[level]) for level in range(LEVELS))
        self.refinement = stack(0, refinement)
        self.head = Conv3x3(width, 2)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    @property
    def feature_channels(self) -> dict[int, int]:
        return {2**level: channels for level, channels in enumerate(self.widths)}

    def context(self, first: Tensor, second: Tensor, look: Tensor | None = None) -> Tensor | None:
        """The pair's description vectors (see fusecli.text.guide), and the look; None where there is neither.

        Where there are looks and nothing describes the pair, the vectors are zeros.
        """
        if self.describe and self.text_dim:
            return self.told(self.describe(first, second), look)
        return None if self.look is None else self.told(first.new_zeros(len(first), self.text_dim), look)

    def save_memory(self) -> bool:
        blocks = [module for module in self.modules() if isinstance(module, Block) and not module.recompute]
        for block in blocks:
            block.recompute = True
        return bool(blocks)

    def with_features(self, first: Tensor, second: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Features]:
        """(fused, output of the decoder's four levels by scale, N×C×⌈H/scale⌉×⌈W/scale⌉).

        ``guide``: the text and the look (`told`); with neither the affine maps are left out.
        """
        text = self.context(first, second) if guide is None else guide
        height, width = first.shape[-2:]
        cell = 2 ** (LEVELS - 1)
        pair = fill(torch.cat([first, second], 1), cell)
        pair = pair.permute(0, 2, 3, 1)
        first, second = pair.split(1, -1)

        sides = [encoder(side) for encoder, side in zip(self.encoders, (first, second), strict=True)]
        levels = [list(level) for level in zip(*sides, strict=True)]
        if self.cross is not None:
            levels[-1] = list(self.cross(*levels[-1]))
        features: Features = {}
        current = None
        for level in reversed(range(LEVELS)):
            merged = self.merge[level](*levels[level])
            if current is not None:
                merged = self.skip[level](torch.cat([self.up[level](current), merged], -1))
            if self.guide is not None and text is not None:
                merged = self.guide[level](merged, text)
            current = self.decoder[level](merged)
            scale = 2**level
            features[scale] = current.permute(0, 3, 1, 2)[..., : -(-height // scale), : -(-width // scale)]

        blend, shift = self.head(self.refinement(current)).split(1, -1)
        fused = (first + blend.sigmoid() * (second - first) + shift).permute(0, 3, 1, 2)[..., :height, :width]
        return (fused if self.training else fused.clamp(0, 1)), features
