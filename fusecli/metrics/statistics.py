"""First and second moments: contrast, correlation, squared differences. Images are H×W, values 0…255."""

from __future__ import annotations

import numpy as np

from fusecli.metrics.errors import MetricError, is_constant


def standard_deviation(image: np.ndarray) -> float:
    """SD: population standard deviation. Range 0…127.5, ↑. VIFB publishes it under the name Variance."""
    return float(image.std())


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation. Range −1…1, ↑. An image of one value correlates with nothing: 0."""
    if is_constant(a) or is_constant(b):
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)))


def correlation_of_differences(first: np.ndarray, second: np.ndarray, fused: np.ndarray) -> float:
    """SCD: r(fused − second, first) + r(fused − first, second). Range −2…2, ↑.

    Aslantas, Bendes: A new image quality metric for image fusion (AEÜ 2015).
    """
    return correlation(fused - second, first) + correlation(fused - first, second)


def mean_squared_error(a: np.ndarray, b: np.ndarray) -> float:
    """MSE of two images, in squared levels of 0…255. ↓."""
    difference = a - b
    return float(np.vdot(difference, difference)) / difference.size


def psnr(error: float) -> float:
    """10 log10(255² / error) in dB, ↑. Raises MetricError where nothing differs: the ratio has no value."""
    if error == 0:
        raise MetricError("has no value where the fused image equals both sources: nothing differs")
    return float(10 * np.log10(255**2 / error))


def root_squared_sum(a: np.ndarray, b: np.ndarray) -> float:
    """√Σd² / (M N), which VIFB publishes as Rmse: √(M N) times smaller than a root mean square. ↓."""
    difference = a - b
    return float(np.sqrt(np.vdot(difference, difference))) / difference.size
