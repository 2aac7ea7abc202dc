"""Structure in Gaussian windows: SSIM, MS-SSIM, visual information fidelity. Images are H×W float64, values 0…255."""

from __future__ import annotations

import numpy as np

from fusecli.images.opencv import cv2
from fusecli.metrics.errors import MetricError, is_constant, require_size

SSIM_WINDOW = 11
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_SIDE = (SSIM_WINDOW - 1) * 2 ** (len(MS_SSIM_WEIGHTS) - 1) + 1
VIF_NOISE = 2.0
VIF_SIDE = 41


def _gaussian(size: int, sigma: float) -> np.ndarray:
    x = np.arange(size) - (size - 1) / 2
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def _blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Separable filtering, valid region only."""
    half = len(kernel) // 2
    return cv2.sepFilter2D(image, cv2.CV_64F, kernel, kernel)[
        half : image.shape[0] - half, half : image.shape[1] - half
    ]


def _moments(a: np.ndarray, b: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, ...]:
    """Local (mean a, mean b, variance a, variance b, covariance)."""
    mean_a, mean_b = _blur(a, kernel), _blur(b, kernel)
    return (
        mean_a,
        mean_b,
        _blur(a * a, kernel) - mean_a**2,
        _blur(b * b, kernel) - mean_b**2,
        _blur(a * b, kernel) - mean_a * mean_b,
    )


def _ssim_terms(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(mean of luminance · contrast · structure, mean of contrast · structure)."""
    mean_a, mean_b, var_a, var_b, cov = _moments(a, b, _gaussian(SSIM_WINDOW, 1.5))
    contrast = (2 * cov + C2) / (var_a + var_b + C2)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return float(np.mean(luminance * contrast)), float(np.mean(contrast))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM with 11×11 Gaussian windows (σ 1.5), K1 0.01, K2 0.03, L 255, valid region. Range −1…1, ↑.

    Wang, Bovik, Sheikh, Simoncelli: Image quality assessment (IEEE TIP 2004). Raises MetricError below 11×11 pixels.
    """
    require_size(a.shape, SSIM_WINDOW)
    return _ssim_terms(a, b)[0]


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """MS-SSIM over five scales, each the 2×2 mean of the one before (an odd last line is repeated). Range 0…1, ↑.

    Wang, Simoncelli, Bovik: Multiscale structural similarity (Asilomar 2003), with the weights published there, and
    what the authors' ``msssim.m`` gives, save that a negative factor, complex there, counts as 0, as in other ports.
    torchmetrics (1.9) differs, by a quarter on some pairs: at the last scale it counts reflections beyond the border as
    well, and it drops odd last lines. Raises MetricError below 161×161 pixels, where no window fits.
    """
    require_size(a.shape, MS_SSIM_SIDE)
    result = 1.0
    for weight in MS_SSIM_WEIGHTS[:-1]:
        result *= max(_ssim_terms(a, b)[1], 0.0) ** weight
        a, b = _halve(a), _halve(b)
    return result * max(_ssim_terms(a, b)[0], 0.0) ** MS_SSIM_WEIGHTS[-1]


def _halve(image: np.ndarray) -> np.ndarray:
    image = np.pad(image, [(0, size % 2) for size in image.shape], mode="edge")
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4


def vif(source: np.ndarray, fused: np.ndarray) -> float:
    """Pixel-domain visual information fidelity of the fused image against one source, four scales. Range 0…, ↑.

    Sheikh, Bovik: Image information and visual quality (IEEE TIP 2006), the authors' ``vifp_mscale``; above 1 where the
    fused image has more contrast than the source. Raises MetricError below 41×41 pixels (no window fits at the fourth
    scale) and for a constant source, which holds no information to keep.
    """
    require_size(source.shape, VIF_SIDE)
    if is_constant(source):
        raise MetricError("has no value: a source is one constant, it holds no information to keep")
    tiny = 1e-10
    kept = total = 0.0
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        kernel = _gaussian(size, size / 5)
        if scale:
            source, fused = (np.ascontiguousarray(_blur(x, kernel)[::2, ::2]) for x in (source, fused))
        _, _, var_source, var_fused, cov = _moments(source, fused, kernel)
        # the reference treats flat and inverted windows one by one; in all of them nothing is kept, whatever the noise
        seen = (var_source >= tiny) & (var_fused >= tiny)
        gain = np.where(seen, np.maximum(cov, 0), 0) / (np.maximum(var_source, 0) + tiny)
        noise = np.maximum(var_fused - gain * cov, 0)
        kept += np.sum(np.log(1 + gain * gain * var_source / (noise + VIF_NOISE)))
        total += np.sum(np.log(1 + np.maximum(var_source, 0) / VIF_NOISE))
    return float(kept / total)
