"""Degradations of known kind and severity on batches of luma, for degradation-aware training.

Every degradation is a function of N×1×H×W float luma in [0, 1] and one severity per sample in [0, 1], as N×1×1×1;
severity 0 leaves a sample as it is, 1 is as bad as the sensors and scanners of the field get. Results may leave [0, 1];
`apply` and `degrade` clip them. Random numbers come from the given ``torch.Generator`` alone, so that equal seeds make
equal batches.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from fusecli import registry
from fusecli.errors import UsageError
from fusecli.images.colour import luma
from fusecli.text.events import KINDS, Event, event

KERNEL = 21  # px, holds the longest motion and the widest Gaussian
Degradation = Callable[[Tensor, Tensor, Generator], Tensor]


def low_light(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Under-exposure: less light (down to a fifth) through a steeper tone curve (gamma up to 2.5)."""
    return (1 - 0.8 * severity) * images ** (1 + 1.5 * severity)


def over_exposure(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Blown highlights: the brightest half (at severity 1) of the pixels clips, gain at most four."""
    return brightened(images, 0.5 * severity, 1 + 3 * severity)


def brightened(images: Tensor, share: Tensor, most: Tensor) -> Tensor:
    """Multiply by what brings the brightest ``share`` of pixels to 1 or above, by ``most`` at most (both N×1×1×1)."""
    ranked = images.flatten(1).sort(1).values
    rank = ((1 - share.flatten(1)) * (ranked.shape[1] - 1)).long()
    white = ranked.gather(1, rank)[..., None, None]
    return images * torch.minimum(1 / white.clamp(min=1e-3), most).clamp(min=1)


def low_contrast(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Contrast times exp(−2·severity), down to 14 %, around a level between the mean and mid-grey."""
    mean = images.mean((1, 2, 3), keepdim=True)
    level = mean + severity * _uniform(images, generator) * (0.5 - mean)
    return level + torch.exp(-2 * severity) * (images - mean)


def low_contrast_tissue(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """As low_contrast, around the mean of the tissue; the black background stays black."""
    tissue = (_convolve(images, _gaussian(images, torch.full_like(severity, 2.0))) / 0.1).clamp(max=1)
    mean = (images * tissue).sum((1, 2, 3), keepdim=True) / tissue.sum((1, 2, 3), keepdim=True).clamp(min=1)
    return images + (1 - torch.exp(-2 * severity)) * tissue * (mean - images)


def haze(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Scattering, x·t + A·(1 − t) with t = exp(−2·severity·depth) over a smooth random depth, more above than below."""
    h = images.shape[-2]
    rise = torch.linspace(1, 0, h, device=images.device).view(1, 1, h, 1)
    depth = 0.4 + 0.3 * rise + 0.5 * smooth_field(images, generator)
    transmission = torch.exp(-2 * severity * depth)
    airlight = 0.75 + 0.25 * _uniform(images, generator)
    return images * transmission + airlight * (1 - transmission)


def noise(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Read noise (Gaussian) and shot noise (variance ∝ light), randomly mixed; sigma 0.12 at severity 1, mid-grey."""
    shot = _uniform(images, generator)
    sigma = 0.12 * severity * ((1 - shot) + shot * images / 0.5).sqrt()
    return images + sigma * _normal(images, generator)


def noise_poisson(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Low counts (PET, SPECT): Poisson, sigma 0.12 at severity 1 and mid-grey, correlated by the reconstruction."""
    counts = 0.5 / (0.12 * severity.clamp(min=1e-3)) ** 2
    rate = (images * counts).to(generator.device)
    grain = torch.poisson(rate, generator=generator).to(images) / counts - images
    return torch.where(severity > 0, images + _correlate(grain), images)


def noise_quantum(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Low dose (CT): Gaussian, slightly correlated, invisible where air and bone lie beyond the window."""
    grain = _correlate(_normal(images, generator))
    seen = ((images > 0.02) & (images < 0.98)).to(images)
    return images + 0.12 * severity * grain * seen


def noise_rician(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Thermal noise of MRI: the magnitude of a complex Gaussian signal, sigma 0.12 at severity 1."""
    real = images + 0.12 * severity * _normal(images, generator)
    return torch.hypot(real, 0.12 * severity * _normal(images, generator))


def blur(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Defocus (Gaussian, sigma up to 2.6 px) or motion (a line of up to 16 px), each in half of the samples."""
    angle = math.pi * _uniform(images, generator)
    moves = (_uniform(images, generator) < 0.5) & (severity > 0)
    kernels = torch.where(moves, _line(images, 16 * severity, angle), _gaussian(images, 2.6 * severity))
    return _convolve(images, kernels)


def stripes(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Fixed pattern of a line sensor: every column (or row) has its own offset, sigma 0.08 at severity 1."""
    n, _, h, w = images.shape
    columns = _normal(images.new_empty(n, 1, 1, w), generator)
    rows = _normal(images.new_empty(n, 1, h, 1), generator)
    upright = _uniform(images, generator) < 0.7
    return images + 0.08 * severity * torch.where(upright, columns, rows)


def streaks(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Bright and dark rays from one dense point (metal or bone in CT, few projections in emission tomography)."""
    n, _, h, w = images.shape
    y, x = _grid(h, w, images)
    centre_y, centre_x = ((0.3 + 0.4 * _uniform(images, generator)) * length for length in (h, w))
    pattern = torch.zeros_like(images)
    for _ in range(8):
        angle = math.pi * _uniform(images, generator)
        across = (x - centre_x) * angle.sin() - (y - centre_y) * angle.cos()
        height = _normal(images.new_empty(n, 1, 1, 1), generator)
        pattern += height * torch.exp(-(across**2) / (2 * 1.5**2))
    body = (images / 0.05).clamp(max=1)  # air lies below the window, so nothing shows in it
    return images + 0.25 * severity * pattern * body


def ghosts(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Motion in MRI: fainter copies of the slice, shifted along the phase direction, both ways."""
    shift = round(images.shape[-2] * (0.15 + 0.25 * torch.rand((), generator=generator).item()))
    copies = (torch.roll(images, shift, -2) + torch.roll(images, -shift, -2)) / 2
    return images + 0.35 * severity * (copies - images)


def bias_field(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Uneven coil sensitivity in MRI: a smooth gain that falls to a quarter at severity 1."""
    return images * (1 - 0.75 * severity * smooth_field(images, generator))


def smooth_field(images: Tensor, generator: Generator) -> Tensor:
    """A random field of low frequency, N×1×H×W, stretched to [0, 1] in every sample."""
    coarse = _normal(images.new_empty(len(images), 1, 3, 3), generator)
    field = F.interpolate(coarse, size=images.shape[-2:], mode="bicubic", align_corners=True)
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    return (field - low) / (high - low).clamp(min=1e-6)


_PHOTO: dict[str, Degradation] = {
    "low light": low_light,
    "over exposure": over_exposure,
    "low contrast": low_contrast,
    "haze": haze,
    "noise": noise,
    "blur": blur,
    "artifact": stripes,
}
_EMISSION: dict[str, Degradation] = {
    "low contrast": low_contrast_tissue,
    "noise": noise_poisson,
    "blur": blur,
    "artifact": streaks,
}
# What can be made on each side, by kind (fusecli.text.events.KINDS).
DEGRADATIONS: dict[str, dict[str, Degradation]] = {
    "vis": _PHOTO,
    "ir": {kind: _PHOTO[kind] for kind in ("over exposure", "low contrast", "noise", "blur", "artifact")},
    "ct": _EMISSION | {"noise": noise_quantum},
    "pet": _EMISSION,
    "spect": _EMISSION,
    "mri": _EMISSION | {"noise": noise_rician, "artifact": ghosts, "uneven": bias_field},
}

# What occurs together, and how often: (weight, kinds).
Combination = tuple[float, tuple[str, ...]]
_SCANNER: tuple[Combination, ...] = (
    (3, ("noise",)),
    (2, ("low contrast",)),
    (2, ("blur",)),
    (1, ("artifact",)),
    (1.5, ("blur", "noise")),
    (1, ("low contrast", "noise")),
)
COMBINATIONS: dict[str, tuple[Combination, ...]] = {
    "vis": (
        (3, ("low light",)),
        (3, ("low light", "noise")),
        (2, ("over exposure",)),
        (2, ("haze",)),
        (2, ("noise",)),
        (2, ("blur",)),
        (1, ("low contrast",)),
        (1, ("low light", "blur")),
        (0.5, ("haze", "noise")),
        (0.5, ("artifact",)),
    ),
    "ir": (
        (3, ("low contrast",)),
        (3, ("noise",)),
        (2, ("artifact",)),
        (2, ("blur",)),
        (1.5, ("low contrast", "noise")),
        (1, ("low contrast", "artifact")),
        (1, ("noise", "artifact")),
        (0.5, ("over exposure",)),
    ),
    "ct": _SCANNER,
    "pet": _SCANNER,
    "spect": _SCANNER,
    "mri": (*_SCANNER, (2, ("uneven",)), (1, ("uneven", "noise"))),
}

# The order in which light meets scene, lens and sensor.
_ORDER = ("haze", "blur", "over exposure", "low light", "low contrast", "uneven", "noise", "artifact")
assert set(_ORDER) == set(KINDS)


def apply(images: Tensor, side: str, severities: dict[str, Tensor], generator: Generator) -> Tensor:
    """Degrade N×1×H×W luma in [0, 1] by kind -> N severities; samples whose severities are all 0 stay untouched.

    Degraded samples are clipped to [0, 1] and rounded to 8 bits, as sensors deliver them.
    Raises UsageError for a side that does not exist, or a kind that it does not have (see DEGRADATIONS), ValueError for
    other images.
    """
    _check_side(side)
    if images.ndim != 4 or images.shape[1] != 1 or not images.is_floating_point():
        raise ValueError(f"images must be float luma of N×1×H×W, not {images.dtype} of {tuple(images.shape)}")
    for kind in severities:
        if kind not in DEGRADATIONS[side]:
            raise UsageError(registry.unknown(f"degradation of {side}", kind, DEGRADATIONS[side]))
    result = images.clone()
    for kind in _ORDER:
        if kind not in severities:
            continue
        chosen = severities[kind].nonzero().flatten().to(images.device)
        if len(chosen):
            severity = severities[kind].to(images)[chosen].view(-1, 1, 1, 1)
            degraded = DEGRADATIONS[side][kind](result[chosen], severity, generator)
            result[chosen] = (degraded.clamp(0, 1) * 255).round() / 255
    return result


def degrade(
    batch: Tensor,
    side: str,
    generator: Generator,
    *,
    clean_share: float = 0.25,
    severity: tuple[float, float] = (0.2, 1.0),
) -> tuple[Tensor, list[list[Event]]]:
    """Degrade every sample by a combination that is typical of ``side``, at random severities.

    batch: N×1×H×W float luma in [0, 1]. side: vis, ir, ct, pet, spect or mri. clean_share: probability that a sample
    stays as it is. severity: range drawn from, uniformly, for every event.
    Returns the degraded batch and each sample's events (none for a clean one), in the order of KINDS. Raises
    UsageError for a side that does not exist, ValueError for other batches.
    """
    _check_side(side)
    choices = COMBINATIONS[side]
    weights = torch.tensor([weight for weight, _ in choices], dtype=torch.float64)
    n, device = len(batch), generator.device
    picked = torch.multinomial(weights.to(device), n, replacement=True, generator=generator).tolist()
    clean = (torch.rand(n, generator=generator, device=device) < clean_share).tolist()
    low, high = severity
    drawn = (low + (high - low) * torch.rand(n, len(KINDS), generator=generator, device=device)).cpu()

    severities: dict[str, Tensor] = {}
    events: list[list[Event]] = []
    for index, (pick, is_clean) in enumerate(zip(picked, clean, strict=True)):
        kinds = () if is_clean else choices[pick][1]
        chosen = [(kind, drawn[index, KINDS.index(kind)]) for kind in KINDS if kind in kinds]
        for kind, value in chosen:
            severities.setdefault(kind, torch.zeros(n))[index] = value
        events.append([event(kind, side, float(value)) for kind, value in chosen])
    return apply(batch, side, severities, generator), events


def degrade_pair(
    first: np.ndarray, second: np.ndarray, sides: tuple[str, str], name: str
) -> tuple[np.ndarray, np.ndarray, list[Event]]:
    """Both sources as uint8 H×W luma, one or both damaged, and what was done; that depends on ``name`` alone.

    first, second: H×W or H×W×3, uint8 or float in [0, 1]. The first, the second or both sources are damaged, each in a
    third of all pairs. Training draws from other seeds.
    """
    told = f"held out {name}".encode("utf-8", "surrogateescape")  # a file's name, so perhaps no UTF-8
    seed = int.from_bytes(hashlib.sha256(told).digest()[:7], "big")
    generator = torch.Generator().manual_seed(seed)
    which = int(torch.randint(3, (), generator=generator))
    damaged, events = [], []
    for index, (side, pixels) in enumerate(zip(sides, (first, second), strict=True)):
        tensor = torch.from_numpy(np.ascontiguousarray(luma(pixels)))[None, None]
        result, found = degrade(tensor, side, generator, clean_share=1.0 if which == 1 - index else 0.0)
        damaged.append(np.rint(result[0, 0].numpy() * 255).astype(np.uint8))
        events += found[0]
    return damaged[0], damaged[1], events


def _check_side(side: str) -> None:
    if side not in DEGRADATIONS:
        raise UsageError(registry.unknown("side", side, DEGRADATIONS))


def _uniform(like: Tensor, generator: Generator) -> Tensor:
    """N×1×1×1 in [0, 1)."""
    return torch.rand(len(like), 1, 1, 1, generator=generator, device=generator.device).to(like)


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)


def _grid(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.arange(height, device=like.device, dtype=like.dtype).view(1, 1, height, 1)
    return y, torch.arange(width, device=like.device, dtype=like.dtype).view(1, 1, 1, width)


def _gaussian(like: Tensor, sigma: Tensor) -> Tensor:
    """N×1×K×K kernels of unit sum; sigma 0 is the identity."""
    y, x = (axis - KERNEL // 2 for axis in _grid(KERNEL, KERNEL, like))
    kernels = torch.exp(-(x * x + y * y) / (2 * sigma * sigma).clamp(min=1e-3))
    return kernels / kernels.sum((2, 3), keepdim=True)


def _line(like: Tensor, length: Tensor, angle: Tensor) -> Tensor:
    """N×1×K×K kernels of unit sum: an antialiased line through the centre."""
    y, x = (axis - KERNEL // 2 for axis in _grid(KERNEL, KERNEL, like))
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    kernels = (1 - across.abs()).clamp(min=0) * (0.5 + length / 2 - along.abs()).clamp(0, 1)
    return kernels / kernels.sum((2, 3), keepdim=True)


def _correlate(grain: Tensor) -> Tensor:
    """White noise as a reconstruction filter leaves it: correlated over 0.7 px, of the same sigma."""
    kernel = _gaussian(grain, grain.new_full((1, 1, 1, 1), 0.7))
    return _convolve(grain, (kernel / kernel.norm()).expand(len(grain), 1, KERNEL, KERNEL))


def _convolve(images: Tensor, kernels: Tensor) -> Tensor:
    """Each sample with its own kernel, border replicated; in the frequency domain, ten times as fast on a CPU."""
    reach = KERNEL // 2
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    size = padded.shape[-2:]
    product = torch.fft.rfft2(padded) * torch.fft.rfft2(kernels.flip(2, 3), s=size)
    return torch.fft.irfft2(product, s=size)[..., 2 * reach :, 2 * reach :]
