"""Classical fusion rules, the baselines of the benchmark: two H×W float32 lumas in [0, 1] to one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fusecli.images import colour
from fusecli.images.opencv import cv2

LEVELS = 4  # of the pyramid and of the wavelet transform
VERSION = 1  # part of every cache key: raise it when a baseline's result changes

Luma = np.ndarray


def average(first: Luma, second: Luma) -> Luma:
    """Mean of both sources."""
    return (first + second) / 2


def maximum(first: Luma, second: Luma) -> Luma:
    """The brighter source in every pixel. Scores high in MI, VIF and Qabf, but looks harsh."""
    return np.maximum(first, second)


def _larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The value of greater magnitude in every place."""
    return np.where(np.abs(a) >= np.abs(b), a, b)


def laplacian_pyramid(first: Luma, second: Luma) -> Luma:
    """Burt and Adelson's pyramid (IEEE Trans. Commun. 1983): details by magnitude, the coarsest level averaged."""
    details = []
    for _ in range(LEVELS):
        if min(first.shape) < 2:
            break
        size = first.shape[::-1]
        smaller = [cv2.pyrDown(image) for image in (first, second)]
        details.append(
            _larger(
                first - cv2.pyrUp(smaller[0], dstsize=size),
                second - cv2.pyrUp(smaller[1], dstsize=size),
            )
        )
        first, second = smaller
    fused = (first + second) / 2
    for detail in reversed(details):
        fused = cv2.pyrUp(fused, dstsize=detail.shape[::-1]) + detail
    return fused


def _box(image: np.ndarray, radius: int) -> np.ndarray:
    """Mean over (2 radius + 1)² pixels; the border mirrored."""
    return cv2.blur(image, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)


def _guided_filter(guide: np.ndarray, image: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """He, Sun, Tang: Guided image filtering (ECCV 2010), gray guide."""
    mean_guide, mean_image = _box(guide, radius), _box(image, radius)
    slope = (_box(guide * image, radius) - mean_guide * mean_image) / (
        _box(guide * guide, radius) - mean_guide**2 + epsilon
    )
    return _box(slope, radius) * guide + _box(mean_image - slope * mean_guide, radius)


def guided_filter(first: Luma, second: Luma) -> Luma:
    """Two scales weighted by guided-filtered saliency maps, with the constants of the paper.

    Li, Kang, Hu: Image fusion with guided filtering (IEEE TIP 2013).
    """
    sources = (first.astype(np.float64), second.astype(np.float64))  # ε of 1e-6 is below float32's cancellation error
    bases = [_box(source, 15) for source in sources]
    saliency = [cv2.GaussianBlur(np.abs(cv2.Laplacian(source, cv2.CV_64F)), (11, 11), 5) for source in sources]
    chosen = (saliency[0] >= saliency[1]).astype(np.float64)
    fused = np.zeros_like(sources[0])
    for radius, epsilon, layers in (
        (45, 0.3, bases),
        (7, 1e-6, [source - base for source, base in zip(sources, bases, strict=True)]),
    ):
        weights = [
            np.clip(_guided_filter(source, mask, radius, epsilon), 0, 1)
            for source, mask in zip(sources, (chosen, 1 - chosen), strict=True)
        ]
        total = weights[0] + weights[1]
        share = np.where(total > 1e-6, weights[0] / np.maximum(total, 1e-6), 0.5)
        fused += share * layers[0] + (1 - share) * layers[1]
    return fused.astype(np.float32)


def _split(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(smooth, detail) rows: one lifting step of the 5/3 wavelet down the first axis, mirrored, of any length ≥ 2."""
    even, odd = image[::2], image[1::2]
    after = np.concatenate([even[1:], even[-1:]])[: len(odd)]
    detail = odd - (even[: len(odd)] + after) / 2
    before = np.concatenate([detail[:1], detail])[: len(even)]
    following = np.concatenate([detail, detail[-1:]])[: len(even)]
    return even + (before + following) / 4, detail


def _join(smooth: np.ndarray, detail: np.ndarray) -> np.ndarray:
    """The inverse of `_split`."""
    before = np.concatenate([detail[:1], detail])[: len(smooth)]
    following = np.concatenate([detail, detail[-1:]])[: len(smooth)]
    even = smooth - (before + following) / 4
    after = np.concatenate([even[1:], even[-1:]])[: len(detail)]
    image = np.empty((len(smooth) + len(detail), *smooth.shape[1:]), smooth.dtype)
    image[::2], image[1::2] = even, detail + (even[: len(detail)] + after) / 2
    return image


def wavelet(first: Luma, second: Luma, levels: int = LEVELS) -> Luma:
    """Le Gall and Tabatabai's 5/3 wavelet: details by magnitude, the smooth band averaged."""
    if levels == 0 or min(first.shape) < 2:
        return (first + second) / 2
    bands = []
    for source in (first, second):
        smooth, detail = _split(source)
        bands.append([part for half in (smooth, detail) for part in _split(half.T)])
    (low, *details), (other, *others) = bands
    low_fused = wavelet(np.ascontiguousarray(low), np.ascontiguousarray(other), levels - 1)
    chosen = [_larger(a, b) for a, b in zip(details, others, strict=True)]
    return _join(_join(low_fused, chosen[0]).T, _join(chosen[1], chosen[2]).T)


METHODS: dict[str, tuple[str, Callable[[Luma, Luma], Luma]]] = {
    "average": ("average of both sources", average),
    "maximum": ("maximum of both sources", maximum),
    "laplacian": ("Laplacian pyramid, details by magnitude", laplacian_pyramid),
    "guided": ("guided-filter two-scale (Li, Kang, Hu 2013)", guided_filter),
    "wavelet": ("5/3 wavelet, details by magnitude", wavelet),
}


def fuse(name: str, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """uint8 result of ``first``'s shape: luma fused by the named rule, colour put back as `fusecli fuse` does."""
    source = colour.luma(first)
    fused = METHODS[name][1](source, colour.luma(second))
    if first.ndim == 3:
        fused = colour.recolour(first, source, fused)
    # To three decimals first: a value of half a level, give or take float32's error, then rounds alike on any machine.
    return np.rint(np.round(np.clip(fused, 0, 1) * 255, 3)).astype(np.uint8)
