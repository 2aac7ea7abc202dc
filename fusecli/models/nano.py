"""Nano: the convolutional student that does the daily work. Three scales, no text, 134 thousand parameters."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusecli.models import phases
from fusecli.models.borders import extended, fill, inside
from fusecli.models.network import Features, FusionNetwork
from fusecli.models.statistics import SIZE, pair_statistics
from fusecli.text.events import SEVERITY_DIM

FARTHEST = 3.0  # standard deviations, to which the whitened statistics are clamped
UNDERSTOOD = SIZE + SEVERITY_DIM + 1  # see `Nano.understood`


class Conv(nn.Sequential):
    """Convolution and ReLU, without padding of its own.

    It takes features that are already extended as its kernel needs, so that a constant pair gives a constant result,
    and returns features extended by ``border``, as the next convolution needs.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, border: int = 0) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, kernel, stride))
        self.border = border

    def forward(self, features: Tensor) -> Tensor:
        found = super().forward(features)
        if not self.border:
            return F.relu_(found)
        return extended(partial(torch.clamp_min, found, 0), self.border, found, found.shape[1])


class Nano(FusionNetwork):
    """Fuse N×1×H×W luma pairs in [0, 1] by maps that the network predicts at half and quarter resolution.

    With a and b the sources at their normal exposure (g·x + o), L their 2×2 means, M and E their 4×4 and 8×8 means, U
    bilinear upsampling by 2, w, r, p, q, s, t maps at half resolution and u, v at quarter resolution::

        a'' = U(E(a)) + u·(M(a) − U(E(a)))     b'' likewise, with v
        a' = U(a'') + s·(L(a) − U(a''))        b' likewise, with t
        fused = U(w·a' + (1 − w)·b' + r − p·L(a) − q·L(b)) + U(p)·a + U(q)·b

    so detail is always a source's own, weighted, and never drawn by the network: no pattern from upsampling can appear,
    a constant pair gives a constant result, small gains suppress noise and large ones sharpen blur.

    The maps come from a stem at half resolution (pixel-unshuffle by 2 and a 3×3 convolution, written as one 6×6
    convolution of stride 2) and from convolutions at quarter and eighth resolution that see what surrounds a pixel;
    most of the work is done at quarter resolution, where a feature costs a quarter as much.
    What is wrong with a source as a whole (too dark, flat, noisy, blurred) cannot be seen around a pixel: it is read
    from ``pair_statistics``. ``perceive`` is trained to infer from these what a text would tell a teacher: the severity
    of each kind of degradation on either side. Statistics, severities and the look steer the exposures g and o and the
    features of every scale (feature-wise affine).

    ``look``: for weights trained with looks, the look of the result where the caller names none, from 0 (thermal:
    bright where either source is) to 1 (natural: the visible, and what is hot). None: one look only.
    ``mend``: for weights trained on mended sources; the caller has to mend them first (see `mending.mend`).
    ``whole``: for weights of scans, whose black background belongs to the statistics (see `pair_statistics`).

    Any H, W ≥ 1. ``halo`` is how far a pixel of the result sees (except for the statistics, see ``context``);
    ``align`` is the size of one cell of the coarsest scale.
    """

    align = 8
    sees_statistics = True
    recordable = True
    halo = 40  # reach: stem 2, deeper 4, two 3×3 at eighth resolution 16, 3×3 at quarter 4, three bilinear steps 14

    def __init__(
        self,
        fine: int = 16,
        middle: int = 16,
        coarse: int = 16,
        perceive: int = 192,
        steer: int = 192,
        look: float | None = None,
        mend: bool = False,
        whole: bool = False,
    ) -> None:
        super().__init__()
        if min(fine, middle, coarse, perceive, steer) < 1:
            raise ValueError("every width must be at least 1")
        self.look, self.mends, self.whole = look, mend, whole
        self.widths = (fine, middle, coarse)
        self.stem = Conv(2, fine, kernel=6, stride=2)
        self.down = Conv(fine, middle, kernel=2, stride=2, border=1)
        self.deeper = Conv(middle, coarse, kernel=4, stride=2, border=1)
        self.far = nn.Sequential(Conv(coarse, coarse, border=1), Conv(coarse, coarse))
        self.rise = nn.Conv2d(coarse, middle, 1)
        self.joint = Conv(middle, middle)
        self.up = nn.Conv2d(middle, fine, 1)
        self.smooth = nn.Conv2d(middle, 2, 1)
        self.head = nn.Conv2d(fine, 6, 1)
        self.whiten = nn.Linear(SIZE, SIZE).requires_grad_(False)  # see `fit_whitening`
        self.perceive = perceptron(SIZE, perceive, SEVERITY_DIM)
        self.steer = perceptron(UNDERSTOOD, steer, 4 + 2 * sum(self.widths))
        # Training starts with the average of both sources, unsteered.
        for parameter in (self.head.weight, self.smooth.weight, *self.steer[-1].parameters(), self.whiten.bias):
            nn.init.zeros_(parameter)
        self.head.bias = nn.Parameter(torch.tensor((0, 0, 0.5, 0.5, 1, 1)))  # of w, r, p, q, s, t
        self.smooth.bias = nn.Parameter(torch.ones(2))
        nn.init.eye_(self.whiten.weight)

    @property
    def feature_channels(self) -> dict[int, int]:
        return dict(zip((2, 4, 8), self.widths, strict=True))

    def context(self, first: Tensor, second: Tensor, look: Tensor | None = None) -> Tensor:
        """N×(SIZE + 1): what tiles need to know of the whole N×1×H×W pair, and the look (N, in [0, 1])."""
        found = pair_statistics(first, second, self.whole)
        # A graph for any batch size can read a size from its inputs only, not from results.
        wanted = found.new_full(first.shape[:1], self.look or 0.0) if look is None else look.to(found)
        return torch.cat([found, wanted[:, None]], 1)

    def perceived(self, context: Tensor) -> Tensor:
        """N×SEVERITY_DIM, what seems to be wrong with the pairs (see `text.events.severity_vector`)."""
        with torch.autocast(context.device.type, enabled=False):  # as `with_features` has it
            return self.perceive(self._known(context))

    def understood(self, context: Tensor) -> Tensor:
        """N×UNDERSTOOD, the input of the steering: the statistics, what seems to be wrong, and the look."""
        known = self._known(context)
        return torch.cat([known, self.perceive(known), context[:, SIZE:]], 1)

    def _known(self, context: Tensor) -> Tensor:
        """N×SIZE, the statistics, whitened (see `fit_whitening`) and clamped to the range that training covers."""
        return self.whiten(context[:, :SIZE]).clamp(-FARTHEST, FARTHEST)

    @torch.no_grad()
    def fit_whitening(self, contexts: Tensor) -> None:
        """Fit the whitening of the statistics (PCA): they then vary alike and independently, as far as they vary.

        Many of them nearly agree in most scenes; degradations show in their small differences, which are learnt ten
        times as fast after whitening.
        """
        statistics = contexts[:, :SIZE].cpu().double()  # MPS has no float64
        spread, mean = torch.std_mean(statistics, 0)
        spread = spread.clamp(min=0.02)  # else one that hardly varies in training would dominate elsewhere
        variances, axes = torch.linalg.eigh(torch.cov(((statistics - mean) / spread).mT))
        matrix = (axes / (variances.clamp(min=0) + 0.1).sqrt()).mT / spread
        self.whiten.weight.copy_(matrix)
        self.whiten.bias.copy_(-matrix @ mean)

    def jittered(self, contexts: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        """Contexts with noise of this standard deviation on the whitened statistics (see `fit_whitening`)."""
        noise = strength * torch.randn(SIZE, len(contexts), generator=generator)
        # A pseudo-inverse, as carried-over weights ignore some numbers. On the CPU: faster for so small a matrix.
        back = torch.linalg.pinv(self.whiten.weight.cpu(), rtol=1e-3)
        return contexts + F.pad((back @ noise).mT, (0, contexts.shape[1] - SIZE)).to(contexts)

    def with_features(self, first: Tensor, second: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Features]:
        """(fused, features by scale, the finest before they are steered). Clamped to [0, 1], except in training.

        ``guide``: the ``context``, where it is not that of these very images.
        """
        with torch.autocast(first.device.type, enabled=False):  # float32: few numbers, on which everything depends
            context = self.context(first, second) if guide is None else guide
            steering = self.steer(self.understood(context))[..., None, None]
        gain, offset, *affines = steering.split([2, 2, *(width for width in self.widths for _ in range(2))], 1)
        gain = gain.clamp(max=3).exp()

        height, width = first.shape[-2:]
        first, second = (fill(side, self.align) for side in (first, second))
        wider = extended(partial(torch.cat, [first, second], 1), 2, first, 2)
        fine = self.stem(wider)
        middle = self.down(fine)
        coarse = affine(self.far(self.deeper(middle)), *affines[4:])
        middle = inside(middle, 1)
        both = partial(torch.add, middle, double(self.rise(coarse)))
        middle = affine(self.joint(extended(both, 1, middle, middle.shape[1])), *affines[2:4])
        fine = F.relu_(double(self.up(middle).float()).add_(fine))  # in float32 what follows is exact, and faster

        blend, shift, gains, shares = self._maps(fine, *affines[:2]).split([1, 1, 2, 2], 1)
        details = phases.split(inside(wider, 2))
        low = details.mean(2)
        quarter = _halve(low)
        eighth = double(_halve(quarter))
        means = double(torch.lerp(eighth, quarter, self.smooth(middle).float()))
        sources = torch.addcmul(offset, torch.lerp(means, low, shares), gain)
        base = torch.lerp(sources[:, 1:], sources[:, :1], blend.sigmoid()).add_(shift)
        weights = gains * gain
        ground = _add_products(base, weights, low, -1)
        fused = []
        for pixels, doubled in zip(details.unbind(2), phases.double(torch.cat([ground, weights], 1)), strict=True):
            fused.append(_add_products(doubled[:, :1], doubled[:, 1:], pixels, 1))
        features = {2: fine, 4: middle, 8: coarse}
        result = phases.join(fused)[..., :height, :width]
        return result if self.training else result.clamp(0, 1), features

    def _maps(self, features: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """The head's maps, as planes (few channels: all that follows is faster on them than in channels_last).

        The steering goes into the head's weights, which are fewer than the features.
        """
        with torch.autocast(features.device.type, enabled=False):  # as planes, without a copy
            weight = self.head.weight.flatten(1)
            weights = weight * (1 + gain).flatten(2).transpose(1, 2)  # N×6×features
            biases = weight @ shift.flatten(2) + self.head.bias.unsqueeze(1)  # type: ignore[union-attr]  # there is one
            maps = torch.baddbmm(biases, weights, features.flatten(2))
            return maps.unflatten(2, features.shape[2:])


def perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Three linear layers with ReLUs between them."""
    first, second = nn.Linear(inputs, width), nn.Linear(width, width)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(width, outputs))


def affine(features: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """(1 + gain)·features + shift."""
    return torch.addcmul(shift, features, 1 + gain)


def _add_products(start: Tensor, weights: Tensor, values: Tensor, sign: int) -> Tensor:
    """start ± Σ weights · values over the channels of both, which are two."""
    once = torch.addcmul(start, weights[:, :1], values[:, :1], value=sign)
    return torch.addcmul(once, weights[:, 1:], values[:, 1:], value=sign)


def _halve(images: Tensor) -> Tensor:
    """2×2 means of even sizes; three times as fast as ``avg_pool2d`` on few channels."""
    rows = images[..., ::2, :] + images[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def double(maps: Tensor) -> Tensor:
    """Twice the size, bilinear."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
