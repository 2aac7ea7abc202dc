"""Nano: the convolutional student that does the daily work. Three scales, no text, some eighty thousand parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusecli.models import phases
from fusecli.models.borders import extend, fill
from fusecli.models.network import FusionNetwork
from fusecli.models.statistics import SIZE, pair_statistics


class Conv(nn.Sequential):
    """Convolution with replicated border, so that a constant pair gives a constant result, and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, kernel, stride))
        self.border = (kernel - stride + 1) // 2

    def forward(self, features: Tensor) -> Tensor:
        return F.relu_(super().forward(extend(features, self.border)))


class Nano(FusionNetwork):
    """Fuse N×1×H×W luma pairs in [0, 1] by maps that the network predicts at half and quarter resolution.

    With a and b the sources at their normal exposure (g·x + o), L their 2×2 means, M and E their 4×4 and 8×8 means, U
    the way to twice the size (bilinear), w, r, p, q, s, t maps at half resolution and u, v at quarter resolution::

        a'' = U(E(a)) + u·(M(a) − U(E(a)))     b'' likewise, with v
        a' = U(a'') + s·(L(a) − U(a''))        b' likewise, with t
        fused = U(w·a' + (1 − w)·b' + r − p·L(a) − q·L(b)) + U(p)·a + U(q)·b

    so detail is always a source's own, weighted, and never drawn by the network: no pattern from the change of scale
    can appear, a constant pair gives a constant result, noise is left out by small gains and blur mended by large ones.

    The maps come from a stem at half resolution (pixel-unshuffle by 2 and a 3×3 convolution, written as one 6×6
    convolution of stride 2) and from convolutions at quarter and eighth resolution that see what surrounds a pixel;
    most of the work is done at quarter resolution, where a feature costs a quarter as much.
    What is wrong with a source as a whole (too dark, flat, noisy, blurred) cannot be seen around a pixel: it is read
    from ``pair_statistics``, which steer the exposures g and o and the features of every scale (feature-wise affine).
    They take the place of the teacher's text.

    ``look``: for weights trained with looks, what the result shall look like where the caller does not say: from 0
    (thermal: bright is what is bright in either) to 1 (natural: the visible, and what is hot). None: one look only.
    ``mend``: for weights trained on sources that `mending.mend` has seen; whoever calls the network mends them first.

    Any H, W ≥ 1. ``halo`` is how far a pixel of the result sees (but for the statistics, see ``context``); ``align`` is
    the size of one cell of the coarsest scale.
    """

    align = 8
    recordable = True
    halo = 40  # reach: stem 2, deeper 4, two 3×3 at eighth resolution 16, 3×3 at quarter 4, three bilinear steps 14

    def __init__(
        self,
        fine: int = 16,
        middle: int = 32,
        coarse: int = 32,
        steer: int = 96,
        look: float | None = None,
        mend: bool = False,
    ) -> None:
        super().__init__()
        self.look, self.mends = look, mend
        self.widths = (fine, middle, coarse)
        self.stem = Conv(2, fine, kernel=6, stride=2)
        self.down = Conv(fine, middle, kernel=2, stride=2)
        self.deeper = Conv(middle, coarse, kernel=4, stride=2)
        self.far = nn.Sequential(Conv(coarse, coarse), Conv(coarse, coarse))
        self.rise = nn.Conv2d(coarse, middle, 1)
        self.joint = Conv(middle, middle)
        self.up = nn.Conv2d(middle, fine, 1)
        self.smooth = nn.Conv2d(middle, 2, 1)
        self.head = nn.Conv2d(fine, 6, 1)
        last = nn.Linear(steer, 4 + 2 * sum(self.widths))
        self.steer = nn.Sequential(nn.Linear(SIZE + 1, steer), nn.ReLU(), nn.Linear(steer, steer), nn.ReLU(), last)
        for parameter in (*self.head.parameters(), *self.smooth.parameters(), *last.parameters()):
            nn.init.zeros_(parameter)  # starts as the average of both sources, unsteered

    def forward(self, first: Tensor, second: Tensor, context: Tensor | None = None) -> Tensor:
        return self.with_features(first, second, context)[0]

    @property
    def feature_channels(self) -> dict[int, int]:
        return dict(zip((2, 4, 8), self.widths, strict=True))

    def context(self, first: Tensor, second: Tensor, look: Tensor | None = None) -> Tensor:
        """N×(SIZE + 1): what tiles need to know of the whole N×1×H×W pair, and the look (N, in [0, 1])."""
        found = pair_statistics(first, second)
        wanted = found.new_full((len(found),), self.look or 0.0) if look is None else look.to(found)
        return torch.cat([found, wanted[:, None]], 1)

    def with_features(
        self, first: Tensor, second: Tensor, guide: Tensor | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """(fused, features by scale, the finest before they are steered).

        ``guide``: the ``context``, where it is not that of these very images.
        """
        with torch.autocast(first.device.type, enabled=False):  # few numbers, on which all depends
            steering = self.steer(self.context(first, second) if guide is None else guide)[..., None, None]
        gain, offset, *affine = steering.split([2, 2, *(width for width in self.widths for _ in range(2))], 1)
        gain = gain.clamp(max=3).exp()

        height, width = first.shape[-2:]
        pair = fill(torch.cat([first, second], 1), self.align)
        fine = self.stem(pair)
        middle = self.down(fine)
        coarse = _affine(self.far(self.deeper(middle)), *affine[4:])
        middle = _affine(self.joint(middle + _double(self.rise(coarse))), *affine[2:4])
        fine = F.relu_(_double(self.up(middle).float()).add_(fine))  # float32: what follows is as exact, and quicker

        maps = self._maps(fine, *affine[:2])
        blend, shift, gains, shares = maps.split([1, 1, 2, 2], 1)
        details = phases.split(pair)
        low = details.mean(2)
        quarter = _halve(low)
        eighth = _double(_halve(quarter))
        means = _double(eighth + (1 + self.smooth(middle).float()) * (quarter - eighth))
        sources = (means + (1 + shares) * (low - means)) * gain + offset
        base = torch.lerp(sources[:, 1:], sources[:, :1], blend.sigmoid()) + shift
        weights = (gains + 0.5) * gain
        ground = base - (weights * low).sum(1, keepdim=True)
        fused = []
        for pixels, doubled in zip(details.unbind(2), phases.double(torch.cat([ground, weights], 1)), strict=True):
            fused.append(doubled[:, :1] + (doubled[:, 1:] * pixels).sum(1, keepdim=True))
        features = {2: fine, 4: middle, 8: coarse}
        return phases.join(fused)[..., :height, :width].clamp(0, 1), features

    def _maps(self, features: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """The head's maps, as planes (few channels: all that follows is faster on them than in channels_last).

        The steering goes into the head's weights, which are fewer than the features.
        """
        with torch.autocast(features.device.type, enabled=False):  # as planes, without a copy
            weight = self.head.weight.flatten(1)
            weights = weight * (1 + gain).flatten(2).mT  # N×6×features
            biases = weight @ shift.flatten(2) + self.head.bias.unsqueeze(1)  # type: ignore[union-attr]  # there is one
            maps = torch.baddbmm(biases, weights, features.flatten(2))
            return maps.unflatten(2, features.shape[2:])


def _affine(features: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, features, 1 + gain)


def _halve(images: Tensor) -> Tensor:
    """2×2 means of even sizes; three times as fast as ``avg_pool2d`` on few channels."""
    rows = images[..., ::2, :] + images[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def _double(maps: Tensor) -> Tensor:
    """Twice the size, bilinear."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
