"""The protocols: which luma, which formula and which scale stand behind a metric's name.

``tang`` is the one of the DTPF paper (Tang's set and its ports), ``vifb`` the one of the VIFB benchmark (Zhang, Ye,
Xiao, CVPRW 2020), ``standard`` what the names mean outside this field. Names and directions are in
``fusecli.registry``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

from fusecli import registry
from fusecli.errors import UsageError
from fusecli.metrics import fmi, gradients, information, perception, statistics, structure
from fusecli.metrics.errors import MetricError

VERSION = 2  # part of every cache key: raise it when any value changes

Image = np.ndarray
OVER = 1e-3  # how far floats may exceed [0, 1], by what rounding adds; less than half a level


class Trio(NamedTuple):
    """Two sources and a fused image as a protocol sees them: float64, values 0…255, all of one size.

    H×W under tang and standard; under vifb each is H×W or H×W×3 as it came.
    """

    first: Image
    second: Image
    fused: Image


def to_levels(image: Image) -> Image:
    """float64, 0…255 for the full range of the type: uint8 as it is, uint16 / 257, floats in [0, 1] and bool · 255.

    Raises MetricError for other types, floats beyond [0, 1] and values that are not finite.
    """
    if image.dtype == np.uint8:
        return image.astype(np.float64)
    if image.dtype == np.uint16:
        return image.astype(np.float64) / 257
    if image.dtype == bool:
        return image * 255.0
    if np.issubdtype(image.dtype, np.floating):
        if not np.isfinite(image).all():
            raise MetricError("holds NaN or infinite values; no metric is defined for it")
        if image.min() < -OVER or image.max() > 1 + OVER:
            raise MetricError(f"has float values from {image.min():g} to {image.max():g}; scale them to [0, 1]")
        return image.astype(np.float64) * 255
    raise MetricError(f"has samples of type {image.dtype}; use uint8, uint16 or floats in [0, 1]")


def _one_channel(image: Image) -> Image:
    """Three equal channels count as one."""
    return image[..., 0] if image.ndim == 3 and bool((image[..., :1] == image).all()) else image


def truncated_luma(image: Image) -> Image:
    """Luma of protocol tang: 0.2989 R + 0.5870 G + 0.1140 B cut to an integer; one channel is rounded to integers."""
    if image.ndim == 2:
        return np.rint(image)
    return np.floor((image @ [2989.0, 5870.0, 1140.0]) / 10000)


def plain_luma(image: Image) -> Image:
    """Luma of protocol standard: the same weights, not truncated; three equal channels count as one."""
    image = _one_channel(image)
    return image if image.ndim == 2 else image @ [0.2989, 0.5870, 0.1140]


def _tang(first: Image, second: Image, fused: Image) -> Trio:
    return Trio(truncated_luma(first), truncated_luma(_one_channel(second)), truncated_luma(fused))


def _standard(first: Image, second: Image, fused: Image) -> Trio:
    return Trio(plain_luma(first), plain_luma(second), plain_luma(fused))


def _vifb(first: Image, second: Image, fused: Image) -> Trio:
    return Trio(np.rint(first), np.rint(second), np.rint(fused))


def _sum(metric: Callable[[Image, Image], float]) -> Callable[[Trio], float]:
    return lambda trio: metric(trio.first, trio.fused) + metric(trio.second, trio.fused)


def _mean(metric: Callable[[Image, Image], float]) -> Callable[[Trio], float]:
    return lambda trio: (metric(trio.first, trio.fused) + metric(trio.second, trio.fused)) / 2


def _of_fused(metric: Callable[[Image], float]) -> Callable[[Trio], float]:
    return lambda trio: metric(trio.fused)


def _of_all(metric: Callable[[Image, Image, Image], float]) -> Callable[[Trio], float]:
    return lambda trio: metric(*trio)


def _per_channel(metric: Callable[[Trio], float]) -> Callable[[Trio], float]:
    """Mean over the channels; where one image is gray and another is not, gray stands for each of its channels."""

    def mean(trio: Trio) -> float:
        channels = range(3 if any(image.ndim == 3 for image in trio) else 1)
        values = [
            metric(Trio(*(x if x.ndim == 2 else np.ascontiguousarray(x[..., channel]) for x in trio)))
            for channel in channels
        ]
        return float(np.mean(values))

    return mean


def _bits(a: Image, b: Image) -> float:
    return information.mutual_information(a, b) / np.log(2)


def _stretched_nats(a: Image, b: Image) -> float:
    return information.mutual_information(information.stretch(a), information.stretch(b))


_mse = _mean(statistics.mean_squared_error)
_rmse = _mean(statistics.root_squared_sum)

TANG: dict[str, Callable[[Trio], float]] = {
    "EN": _of_fused(lambda fused: information.entropy(fused, offset=1e-7)),
    "SD": _of_fused(statistics.standard_deviation),
    "SF": _of_fused(gradients.spatial_frequency),
    "AG": _of_fused(gradients.average_gradient),
    "MI": _sum(_bits),
    "SCD": _of_all(statistics.correlation_of_differences),
    "VIF": _sum(structure.vif),
    "Qabf": _of_all(gradients.qabf),
    "Nabf": _of_all(gradients.nabf),
    "FMI": _of_all(fmi.fmi),
    "SSIM": _sum(structure.ssim),
    "MS-SSIM": _sum(structure.ms_ssim),
    "CC": _mean(statistics.correlation),
    # images scaled to 0…1 while the peak stays 255: 48.13 dB above the ordinary value
    "PSNR": lambda trio: statistics.psnr(_mse(trio) / 255**2),
    "MSE": lambda trio: _mse(trio) / 255**2,
}

STANDARD = TANG | {
    "VIF": _mean(structure.vif),
    "SSIM": _mean(structure.ssim),
    "MS-SSIM": _mean(structure.ms_ssim),
    "PSNR": lambda trio: statistics.psnr(_mse(trio)),
    "MSE": _mse,
}

VIFB: dict[str, Callable[[Trio], float]] = {
    "Cross_entropy": _per_channel(_mean(information.cross_entropy)),
    "Entropy": _per_channel(_of_fused(information.entropy)),
    "Mutinf": _per_channel(_sum(_stretched_nats)),
    "Psnr": _per_channel(lambda trio: statistics.psnr(_rmse(trio))),
    "Avg_gradient": _per_channel(_of_fused(gradients.average_gradient)),
    "Edge_intensity": _per_channel(_of_fused(gradients.edge_intensity)),
    "Qabf": _per_channel(_of_all(gradients.qabf)),
    "Variance": _per_channel(_of_fused(statistics.standard_deviation)),
    "Spatial_frequency": _of_fused(gradients.spatial_frequency_side_by_side),
    "Rmse": _per_channel(_rmse),
    "Ssim": _per_channel(_sum(structure.ssim)),
    "Qcb": _per_channel(_of_all(perception.qcb)),
    "Qcv": _per_channel(_of_all(perception.qcv)),
}

_PROTOCOLS = {"tang": (_tang, TANG), "standard": (_standard, STANDARD), "vifb": (_vifb, VIFB)}


def prepare(
    protocol: str, first: Image, second: Image, fused: Image, labels: Sequence[str] = ("first", "second", "fused")
) -> Trio:
    """Check three images and turn them into what ``protocol`` measures.

    Images are H×W or H×W×3 RGB of one size, arrays or tensors on the CPU: uint8, uint16 or floats in [0, 1].
    ``second`` is the infrared or MRI side.
    Raises MetricError, which names the image by its label, for other shapes, unequal sizes, floats beyond [0, 1] and
    values that are not finite.
    """
    convert, _ = _protocol(protocol)
    images = []
    first, second, fused = map(np.asarray, (first, second, fused))
    for image, label in zip((first, second, fused), labels, strict=True):
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
            raise MetricError(f"{label}: has shape {image.shape}; a metric needs H×W or H×W×3")
    for image, label in zip((first, second, fused), labels, strict=True):
        if image.shape[:2] != fused.shape[:2]:
            sizes = " and ".join(f"{x.shape[1]}×{x.shape[0]}" for x in (image, fused))
            raise MetricError(f"{label}: {labels[2]} has another size ({sizes}); metrics need equal sizes")
        try:
            images.append(to_levels(image))
        except MetricError as error:
            raise MetricError(f"{label}: {error}") from None
    return convert(*images)


def measure(protocol: str, name: str, trio: Trio) -> float:
    """One metric of prepared images. Raises MetricError, which names the metric, where it has no value."""
    try:
        value = _protocol(protocol)[1][name](trio)
    except KeyError:
        raise UsageError(registry.unknown("metric", name, registry.METRICS[protocol])) from None
    except MetricError as error:
        raise MetricError(f"{name} ({protocol}) {error}") from None
    if not np.isfinite(value):
        raise MetricError(f"{name} ({protocol}) is not finite for these images")
    return float(value)


def evaluate(
    protocol: str, first: Image, second: Image, fused: Image, names: Collection[str] | None = None
) -> dict[str, float]:
    """Metric values of one fused image under ``protocol`` (tang, vifb or standard); all of its metrics by default.

    Images as in `prepare`. Raises MetricError (see prepare and measure), UsageError for an unknown protocol or metric.
    """
    trio = prepare(protocol, first, second, fused)
    try:
        return {name: measure(protocol, name, trio) for name in (names or _protocol(protocol)[1])}
    except MetricError as error:
        if names:
            raise
        raise MetricError(f"{error}; names= takes the metrics that are wanted, without it") from None


def _protocol(name: str) -> tuple[Callable[[Image, Image, Image], Trio], dict[str, Callable[[Trio], float]]]:
    try:
        return _PROTOCOLS[name]
    except KeyError:
        raise UsageError(registry.unknown("protocol", name, _PROTOCOLS)) from None
