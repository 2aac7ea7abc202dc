"""Fusion and distillation losses on luma in [0, 1] (arXiv 2504.07029, section on losses)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fusecli.errors import UsageError
from fusecli.metrics.errors import require_size
from fusecli.metrics.structure import SSIM_WINDOW, VIF_SIDE
from fusecli.training.looks import vividness

C1, C2 = 0.01**2, 0.03**2  # SSIM's usual constants for data in [0, 1]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the fusion loss. The first four have the paper's default values; the others are this project's own.

    vif: information kept of both sources (the benchmark's VIF, made differentiable). both: SSIM with both sources, in
    `target_loss` and `restoration_loss`, whose ``ssim`` is that with the target. bright: distance from the per-pixel
    maximum where that is bright (bone, hot spots). gain: factor of the target gradients. excess: extra weight in
    `target_loss` of gradients above the target, since an edge that no source has is worse than a faint one.
    """

    ssim: float = 2.0
    max: float = 24.0
    consist: float = 40.0
    grad: float = 48.0
    vif: float = 0.0
    both: float = 0.0
    bright: float = 0.0
    excess: float = 0.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise UsageError(f"the weight {name} of the loss must be a number of at least 0, not {value!r}")

    def tensor(self) -> Tensor:
        """The nine values in the order of the fields."""
        return torch.tensor(astuple(self))

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of those that are not 0."""
        return tuple(name for name, value in vars(self).items() if value)


COLUMN = {field.name: index for index, field in enumerate(fields(LossWeights))}  # of ``LossWeights.tensor``

# (max, consist, grad) per event type, as the paper's reference values have them; a pair's weights are the mean over its
# events. Types that the paper has no values for keep the default.
EVENT_WEIGHTS: dict[str, tuple[float, float, float]] = {
    "low light": (48, 20, 48),
    "over exposure": (32, 60, 48),
    "infrared low contrast": (40, 40, 48),
    "infrared noise": (32, 60, 48),
    "motion blur": (32, 40, 72),
    "sensor artifact": (24, 80, 96),
    "high noise": (32, 80, 72),
    "contrast enhancement": (40, 60, 96),
    "edge preservation": (48, 80, 72),
    "noise suppression": (32, 100, 72),
    "detail enhancement": (40, 80, 96),
}


def event_weights(types: list[str], default: LossWeights) -> LossWeights:
    """Mean of the weights of these types of event; ``default`` for none and for types without values of their own."""
    rows = [EVENT_WEIGHTS.get(name, (default.max, default.consist, default.grad)) for name in types]
    if not rows:
        return default
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return replace(default, max=mean[0], consist=mean[1], grad=mean[2])


def calmed(weights: LossWeights, calm: float) -> LossWeights:
    """The weights for a look: at the thermal end (calm = 0) target gradients are raised, and ``excess`` is 0."""
    return replace(weights, gain=weights.gain * vividness(calm), excess=weights.excess * calm)


def _gaussian(size: int, sigma: float) -> Tensor:
    x = torch.arange(size) - (size - 1) / 2
    window = torch.exp(-(x**2) / (2 * sigma**2))
    return window / window.sum()


@cache
@torch.inference_mode(False)  # else a loss first computed in that mode could not be differentiated later
def _band(length: int, size: int, sigma: float, device: torch.device) -> Tensor:
    """(length − size + 1)×length: the local Gaussian mean along an axis, as a matrix."""
    rows = torch.zeros(length - size + 1, length)
    for index, row in enumerate(rows):
        row[index : index + size] = _gaussian(size, sigma)
    return rows.to(device)


def _blur(images: Tensor, size: int = 11, sigma: float = 1.5) -> Tensor:
    """Gaussian-weighted local mean of N×C×H×W, valid region.

    Two matrix products: on patches, forward and backward, they take half the time of single-channel convolutions.
    """
    down, along = (_band(length, size, sigma, images.device) for length in images.shape[-2:])
    return down @ (images @ along.mT)


def ssim(fused: Tensor, *sources: Tensor) -> Tensor:
    """Sum of SSIM(source, fused) over the sources per sample; N×1×H×W with H, W ≥ 11 in, N out (at most 1 a source)."""
    require_size(fused.shape, SSIM_WINDOW)
    mu_f, ff, *crosses = _blur(torch.cat([fused, fused * fused, *(fused * each for each in sources)], 1)).split(1, 1)
    var_f = ff - mu_f * mu_f
    total = torch.zeros(len(fused), device=fused.device)
    for source, cross in zip(sources, crosses, strict=True):
        mu, square = _blur(torch.cat([source, source * source], 1)).split(1, 1)
        numerator = (2 * mu_f * mu + C1) * (2 * (cross - mu_f * mu) + C2)
        similar = numerator / ((mu_f * mu_f + mu * mu + C1) * (var_f + square - mu * mu + C2))
        total = total + similar.mean((1, 2, 3))
    return total


def vif(fused: Tensor, *sources: Tensor) -> Tensor:
    """Sum of VIF(source, fused) over the sources per sample, N×1×H×W with H, W ≥ 41 in, N out.

    Pixel-domain visual information fidelity at four scales (Sheikh and Bovik, IEEE TIP 2006), as in the protocol
    ``tang`` except for small constants that keep gradients finite where an image is flat.
    """
    require_size(fused.shape, VIF_SIDE)
    fused, others = fused * 255, torch.cat(sources, 1) * 255
    kept, whole = torch.zeros(2, len(fused), len(sources), device=fused.device)
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        if scale:
            fused, others = (_blur(each, size, size / 5)[..., ::2, ::2] for each in (fused, others))
        mu_f, ff, *crosses = _blur(torch.cat([fused, fused * fused, fused * others], 1), size, size / 5).split(1, 1)
        mu, square = _blur(torch.cat([others, others * others], 1), size, size / 5).chunk(2, 1)
        var_f = (ff - mu_f * mu_f).clamp(min=0)
        var = (square - mu * mu).clamp(min=0)
        covariance = (torch.cat(crosses, 1) - mu_f * mu).clamp(min=0)
        slope = covariance / (var + 1e-2)
        noise = (var_f - slope * covariance).clamp(min=1e-2)
        kept = kept + torch.log1p(slope * slope * var / (noise + 2)).sum((2, 3))
        whole = whole + torch.log1p(var / 2).sum((2, 3))
    return (kept / (whole + 1)).sum(1)


def sobel(images: Tensor) -> Tensor:
    """|Sobel| of N×1×H×W in x and y as two channels; unnormalised (as the field has it), border replicated.

    Sums of slices take a quarter of a convolution's time on a CPU, and GPUs convolve with ten bits of mantissa.
    """
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2, :] + padded[..., 2:, :] + 2 * padded[..., 1:-1, :]
    columns = padded[..., :-2] + padded[..., 2:] + 2 * padded[..., 1:-1]
    return torch.cat([rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]], 1).abs()


def fusion_loss(
    fused: Tensor, first: Tensor, second: Tensor, weights: Tensor, counted: Sequence[str] = tuple(COLUMN)
) -> Tensor:
    """The fusion loss per sample: N×1×H×W luma in [0, 1] with H, W ≥ 41 (11 without ``vif``) in, N out.

    weights: of `LossWeights.tensor`, N×9 or 9 for all samples.
    counted: the weights that are not 0 for all samples; costly terms that are not among them are not computed.
    Colour has no term here: this project fuses luma and puts the first image's Cb and Cr back exactly.
    """
    gain = weights[..., COLUMN["gain"]]
    maximum = torch.maximum(first, second)
    from_maximum = (fused - maximum).abs()
    gradient = gain.view(-1, 1, 1, 1) * torch.maximum(sobel(first), sobel(second))
    terms = {
        "ssim": 2 - ssim(fused, first, second),
        "max": from_maximum.mean((1, 2, 3)),
        "consist": ((fused - first).abs() + (fused - second).abs()).mean((1, 2, 3)) / 2,
        "grad": (sobel(fused) - gradient).abs().mean((1, 2, 3)),
        "bright": (from_maximum * maximum**6).mean((1, 2, 3)),
    }
    if "vif" in counted:
        terms["vif"] = 2 - vif(fused, first, second)
    return _weighted(terms, weights)


def target_loss(
    fused: Tensor,
    target: Tensor,
    first: Tensor,
    second: Tensor,
    calm: Tensor,
    weights: Tensor,
    counted: Sequence[str] = tuple(COLUMN),
) -> Tensor:
    """Distance from an explicit target per sample, in intensity, gradient and structure.

    Of the weights, ``max`` applies to intensity (where the paper has the per-pixel maximum), ``grad``, ``ssim``,
    ``vif`` and ``both`` to the terms of these names, ``gain`` and ``excess`` to gradients; the others are not used.
    weights: as in `fusion_loss`. calm: N in [0, 1] (`looks.calmness`); at 0 the target gradients are the stronger ones
    of the clean sources, as in the paper, at 1 they are no stronger than those of ``target``.
    """
    both = (weights[..., COLUMN[name]] for name in ("gain", "excess"))
    gain, excess, calm = (x.view(-1, 1, 1, 1) for x in (*both, calm))
    stronger = torch.maximum(sobel(first), sobel(second))
    error = sobel(fused) - gain * torch.lerp(stronger, torch.minimum(stronger, sobel(target)), calm)
    terms = {
        "ssim": 2 - 2 * ssim(fused, target),
        "max": (fused - target).abs().mean((1, 2, 3)),
        "grad": (error.abs() + excess * F.relu(error)).mean((1, 2, 3)),
    }
    if "vif" in counted:
        terms["vif"] = 2 - 2 * vif(fused, target)
    if "both" in counted:
        terms["both"] = 2 - ssim(fused, first, second)
    return _weighted(terms, weights)


def restoration_loss(
    fused: Tensor, aim: Tensor, first: Tensor, second: Tensor, weights: Tensor, counted: Sequence[str] = tuple(COLUMN)
) -> Tensor:
    """Distance per sample from ``aim``, the result for undamaged sources: N×1×H×W each in, N out.

    weights: as in `fusion_loss`. ``max``, ``grad`` and ``ssim`` weigh distances from it; ``vif`` and ``both`` (SSIM)
    weigh how much less than ``aim`` the result keeps of the clean sources. Keeping more is no gain: it would be
    contrast that nobody asked for.
    """
    terms = {
        "ssim": 2 - 2 * ssim(fused, aim),
        "max": (fused - aim).abs().mean((1, 2, 3)),
        "grad": (sobel(fused) - sobel(aim)).abs().mean((1, 2, 3)),
    }
    if "vif" in counted:
        terms["vif"] = F.relu(vif(aim, first, second) - vif(fused, first, second))
    if "both" in counted:
        terms["both"] = F.relu(ssim(aim, first, second) - ssim(fused, first, second))
    return _weighted(terms, weights)


def _weighted(terms: dict[str, Tensor], weights: Tensor) -> Tensor:
    """Sum of the terms (N each) by their weights (N×9, or 9 for all)."""
    return sum((term * weights[..., COLUMN[name]] for name, term in terms.items()), start=weights.new_zeros(()))


def feature_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Mean smooth-L1 between channel-normalised features of equal channels (distillation, weight 0.1 in the paper).

    Rows and columns that only one has are left out: each network pads images to sizes of its own.
    """
    losses = []
    for one, other in zip(student, teacher, strict=True):
        height, width = (min(sizes) for sizes in zip(one.shape[2:], other.shape[2:], strict=True))
        one, other = (F.normalize(each[..., :height, :width], dim=1) for each in (one, other))
        losses.append(F.smooth_l1_loss(one, other))
    return torch.stack(losses).mean()
