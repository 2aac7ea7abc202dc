"""The layers of teacher and base student: channel attention, window attention, gated feed-forward; all residual.

Inside these networks a feature map is N×H×W×C. A 1×1 convolution is then one matrix product, layer norm runs over
adjacent values, windows are strided views, and the same memory is a ``channels_last`` image for the 3×3 convolutions.

A constant map stays constant through every layer, at the border too: 3×3 convolutions see a replicated border, and
windows leave out what lies beyond it.

On a CPU, inference walks through a map in strips of rows: what a layer widens then stays in the cache and needs no
fresh memory, which saves up to two thirds of the time (page faults; it depends on the allocator) and of the memory.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Windows = tuple[int, int, int, float]  # what `WindowAttention` takes besides channels: heads, head_dim, window, overlap

# Values in the widest map of a strip: 8 MB in float32, a part of the cache.
STRIP = 2**21


def strips(features: Tensor, channels: int, step: int = 1) -> list[slice]:
    """Split the rows of N×H×W×C into strips, multiples of ``step``, for a layer that widens them to ``channels``.

    There is only one strip where gradients are recorded, and on devices other than the CPU.
    """
    samples, height, width, _ = features.shape
    whole = rows = -(-height // step) * step
    if features.device.type == "cpu" and not torch.is_grad_enabled():
        rows = max(STRIP // (samples * width * channels * step), 1) * step
    return [slice(start, min(start + rows, whole)) for start in range(0, height, rows)]


def with_border(features: Tensor, rows: slice) -> Tensor:
    """The given rows of N×H×W×C and one pixel around them, replicated where the image ends."""
    height = features.shape[1]
    strip = features[:, max(rows.start - 1, 0) : rows.stop + 1].permute(0, 3, 1, 2)
    padding = (1, 1, int(rows.start == 0), int(rows.stop >= height))
    return F.pad(strip, padding, mode="replicate").permute(0, 2, 3, 1)


def add(features: Tensor, cuts: list[slice], changes: Iterable[Tensor]) -> Tensor:
    """The features plus the residual that a layer computes from them, strip by strip."""
    if len(cuts) == 1:
        return features + next(iter(changes))
    result = torch.empty_like(features)
    for rows, change in zip(cuts, changes, strict=True):
        torch.add(features[:, rows], change, out=result[:, rows])
    return result


class Conv3x3(nn.Conv2d):
    """3×3 convolution with replicated border, N×H×W×C in and out."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, padding_mode="replicate")

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Depthwise3x3(nn.Module):
    """Depth-wise 3×3 convolution, valid region only: N×(H+2)×(W+2)×C in, N×H×W×C out.

    The border is added before the 1×1 convolution that comes first and widens the map: a replicated border passes
    through layers that see single pixels, and there it has a fraction of the channels to copy.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, 3, 3).uniform_(-1 / 3, 1 / 3))

    def forward(self, features: Tensor) -> Tensor:
        image = features.permute(0, 3, 1, 2)
        return F.conv2d(image, self.weight, groups=self.weight.shape[0]).permute(0, 2, 3, 1)


class ChannelAttention(nn.Module):
    """Transposed self-attention, MDTA of Restormer (arXiv 2111.09881, eq. 1): channels attend to channels.

    Its weights come from the whole image, which is why a tile of an image is not fused exactly as the whole would be.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.local = Depthwise3x3(3 * channels)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.project = nn.Linear(channels, channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """N×H×W×C -> N×H×W×C."""
        _, height, width, channels = features.shape
        cuts = strips(features, 3 * channels)
        products, squares, values = [], [], []
        for rows in cuts:
            qkv = self.local(self.qkv(self.norm(with_border(features, rows)))).flatten(1, 2)
            query, key, value = qkv.chunk(3, -1)
            # alpha divides before the products are rounded, so that half precision does not overflow
            scale = 1 / (height * width)
            products.append(torch.baddbmm(qkv.new_zeros(1), query.mT, key, beta=0, alpha=scale).float())
            squares.append(qkv[..., : 2 * channels].float().square().sum(1) * scale)
            values.append(value)
        query_norm, key_norm = (torch.stack(squares).sum(0) + 1e-8).sqrt().chunk(2, -1)
        cosines = torch.stack(products).sum(0) / (query_norm[:, :, None] * key_norm[:, None, :])
        attention = (self._heads(cosines) * self.temperature).softmax(-1)
        # Attention and projection are both products along the channels: multiply the two small matrices first.
        weight = self.project.weight.unflatten(1, (self.heads, -1))
        weight = torch.einsum("ohi,nhij->nhjo", weight, attention.to(weight.dtype)).flatten(1, 2).to(qkv.dtype)
        return add(features, cuts, ((value @ weight).unflatten(1, (-1, width)) for value in values))

    def _heads(self, matrix: Tensor) -> Tensor:
        """The diagonal blocks of N×C×C, one per head: N×heads×C/heads×C/heads."""
        blocks = matrix.unflatten(2, (self.heads, -1)).unflatten(1, (self.heads, -1))
        return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


class WindowAttention(nn.Module):
    """Spatial self-attention over overlapping windows, OCAB of X-Restormer (arXiv 2310.11881).

    The queries of a ``window``×``window`` square attend to the keys of a square that is larger by the factor
    1 + ``overlap``. Positions beyond the image get no attention. Instead of relative position tables, queries and keys
    get learned vectors for their place in the window: these are as expressive, and attention needs no bias with a
    gradient, so that fused kernels can be used in training too.
    """

    def __init__(self, channels: int, heads: int, head_dim: int = 16, window: int = 8, overlap: float = 0.5) -> None:
        super().__init__()
        self.heads, self.window, self.margin = heads, window, round(window * overlap / 2)
        inner = heads * head_dim
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * inner, bias=False)
        self.query_place = nn.Parameter(torch.randn(window**2, inner) * 0.02)
        self.key_place = nn.Parameter(torch.randn((window + 2 * self.margin) ** 2, inner) * 0.02)
        self.project = nn.Linear(inner, channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """N×H×W×C -> N×H×W×C. Any H, W ≥ 1."""
        cuts = strips(features, 3 * self.qkv.out_features, self.window)
        mask = self._mask(features)
        return add(features, cuts, (self._strip(features, rows, mask) for rows in cuts))

    def _strip(self, features: Tensor, rows: slice, mask: Tensor) -> Tensor:
        """What is added to the given rows, a multiple of the window that may end beyond the image."""
        _, height, width, _ = features.shape
        window, margin = self.window, self.margin
        top, bottom = max(rows.start - margin, 0), min(rows.stop + margin, height)
        beyond = (margin, margin + -width % window, top - rows.start + margin, rows.stop + margin - bottom)
        padded = F.pad(self.norm(features[:, top:bottom]), (0, 0, *beyond))
        mixed = self._attend(padded, mask[rows.start // window : rows.stop // window])
        return mixed[:, : height - rows.start, :width]

    def _attend(self, padded: Tensor, mask: Tensor) -> Tensor:
        """Attention in whole rows of windows, given with their margins and their mask (rows×columns×keys)."""
        samples, (rows, columns), window, margin = padded.shape[0], mask.shape[:2], self.window, self.margin
        query, key, value = self.qkv(padded).chunk(3, -1)
        inside = slice(margin, -margin or None)
        query = self._windows(query[:, inside, inside], window) + self.query_place
        key = self._windows(key, window + 2 * margin) + self.key_place
        value = self._windows(value, window + 2 * margin)
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        mask = mask.flatten(0, 1).repeat(samples, 1)[:, None, None, :].expand(-1, self.heads, window**2, -1)
        mixed = F.scaled_dot_product_attention(query, key.to(value.dtype), value, attn_mask=mask.to(value.dtype))
        squares = self.project(mixed.transpose(1, 2).flatten(2)).view(samples, rows, columns, window, window, -1)
        return squares.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _windows(self, features: Tensor, size: int) -> Tensor:
        """Squares of ``size``, one every ``window`` pixels: (N·rows·columns)×size²×C, one copy in contiguous runs."""
        squares = features.unfold(1, size, self.window).unfold(2, size, self.window).permute(0, 1, 2, 4, 5, 3)
        return squares.reshape(-1, size**2, features.shape[-1])

    def _mask(self, features: Tensor) -> Tensor:
        """Rows×columns×keys of the windows: 0 where a window's key lies inside the image, else -∞.

        In floats, one row per window: a boolean mask would be expanded to every query before it is used.
        """

        def outside(length: int) -> Tensor:
            start = torch.arange(0, length, self.window, device=features.device)[:, None] - self.margin
            place = start + torch.arange(self.window + 2 * self.margin, device=features.device)
            return (place < 0) | (place >= length)

        rows, columns = (outside(length) for length in features.shape[1:3])
        hidden = rows[:, None, :, None] | columns[None, :, None, :]
        return torch.zeros(hidden.shape, device=features.device).masked_fill(hidden, -torch.inf).flatten(2)


class FeedForward(nn.Module):
    """Gated depth-wise feed-forward, GDFN of Restormer (arXiv 2111.09881, eq. 2)."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 2 * hidden, bias=False)
        self.local = Depthwise3x3(2 * hidden)
        self.project = nn.Linear(hidden, channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """N×H×W×C -> N×H×W×C."""
        cuts = strips(features, self.expand.out_features)
        return add(features, cuts, (self._strip(with_border(features, rows)) for rows in cuts))

    def _strip(self, bordered: Tensor) -> Tensor:
        gate, content = self.local(self.expand(self.norm(bordered))).chunk(2, -1)
        return self.project(F.gelu(gate) * content)


class Block(nn.Sequential):
    """Channel attention and window attention, each followed by a feed-forward.

    recompute: for gradients everything within is computed once more instead of being kept, in a tenth of the memory.
    """

    recompute = False

    def __init__(self, channels: int, heads: int, windows: Windows, expansion: float) -> None:
        super().__init__(
            ChannelAttention(channels, heads),
            FeedForward(channels, expansion),
            WindowAttention(channels, *windows),
            FeedForward(channels, expansion),
        )

    def forward(self, features: Tensor) -> Tensor:
        """N×H×W×C -> N×H×W×C."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(super().forward, features, use_reentrant=False, preserve_rng_state=False)
        return super().forward(features)
