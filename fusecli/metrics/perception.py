"""Models of human vision: Qcb and Qcv as VIFB publishes them. Images are H×W float64, values 0…255."""

from __future__ import annotations

import numpy as np

from fusecli.images.opencv import cv2
from fusecli.metrics.errors import MetricError
from fusecli.metrics.gradients import sobel
from fusecli.metrics.information import stretch

BLOCK = 16


def _cycles(shape: tuple[int, int], unit: float) -> np.ndarray:
    """Radial frequency of each bin of a real image's FFT, in cycles per image divided by ``unit``."""
    down = np.fft.fftfreq(shape[0]) * shape[0] / unit
    across = np.fft.rfftfreq(shape[1]) * shape[1] / unit
    return np.hypot(down[:, None], across[None, :])


def _filter(image: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The image with a real, symmetric frequency response applied."""
    return np.fft.irfft2(np.fft.rfft2(image) * response, image.shape)


def qcb(first: np.ndarray, second: np.ndarray, fused: np.ndarray) -> float:
    """Qcb: local contrast of both sources kept, weighted by its saliency. Range 0…1, ↑.

    Chen, Blum: A new automated quality assessment algorithm for image fusion (Image Vis. Comput. 2009), in the form of
    VIFB: images stretched to 0…255, a difference-of-Gaussians sensitivity over r in cycles / 15, contrast as the ratio
    of two unnormalised 31×31 Gaussians (σ 2 and 4) with zero padding.
    Raises MetricError where an image is one constant.
    """
    radius = _cycles(fused.shape, 15)
    sensitivity = np.exp(-((radius / 15.3870) ** 2)) - 0.7622 * np.exp(-((radius / 1.3456) ** 2))
    x = np.arange(-15, 16)
    kernels = [np.exp(-(x**2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma) for sigma in (2.0, 4.0)]

    def contrast(image: np.ndarray) -> np.ndarray:
        seen = _filter(stretch(image), sensitivity)
        fine, coarse = (
            cv2.sepFilter2D(seen, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT) for kernel in kernels
        )
        if not coarse.all():
            raise MetricError("has no value: an image is one constant, its contrast is 0 / 0")
        local = np.abs(fine / coarse - 1)
        return local**3 / (local**2 + 1e-4)

    first, second, fused = contrast(first), contrast(second), contrast(fused)
    weight_first, weight_second = first**2, second**2
    kept_first, kept_second = (np.minimum(c, fused) / np.maximum(c, fused) for c in (first, second))
    return float(np.mean((weight_first * kept_first + weight_second * kept_second) / (weight_first + weight_second)))


def qcv(first: np.ndarray, second: np.ndarray, fused: np.ndarray) -> float:
    """Qcv: squared error as seen through a contrast sensitivity, in 16×16 blocks weighted by edge saliency. ↓, from 0.

    Chen, Varshney: A human perception inspired quality metric for image fusion … (Information Fusion 2007), in the form
    of VIFB: images stretched to 0…255, Mannos-Sakrison filter over r in cycles / 4, saliency Σ |Sobel|⁵, blocks at the
    right and lower edge padded with zeros. Raises MetricError if no source has an edge.
    """
    first, second, fused = stretch(first), stretch(second), stretch(fused)
    radius = 0.144 * _cycles(fused.shape, 4)
    sensitivity = 2.6 * (0.0192 + radius) * np.exp(-(radius**1.1))
    error = total = 0.0
    for source in (first, second):
        saliency = _block_sums(np.hypot(*sobel(source, cv2.BORDER_CONSTANT)) ** 5)
        error += np.vdot(saliency, _block_sums(_filter(source - fused, sensitivity) ** 2) / BLOCK**2)
        total += saliency.sum()
    if total == 0:
        raise MetricError("has no value: no source has an edge")
    return float(error / total)


def _block_sums(image: np.ndarray) -> np.ndarray:
    image = np.pad(image, [(0, -size % BLOCK) for size in image.shape])
    height, width = image.shape
    return image.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).sum((1, 3))
