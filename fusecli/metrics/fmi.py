"""Feature mutual information in 3×3 windows. Images are H×W, values 0…255."""

from __future__ import annotations

import numpy as np

from fusecli.images.opencv import cv2
from fusecli.metrics.errors import require_size

WINDOW = 3
CELLS = WINDOW * WINDOW
POSITION = np.arange(CELLS, dtype=np.float32) - CELLS // 2
UP_TO = np.tri(CELLS, dtype=np.float32)  # sums a distribution up to each position; faster than cumsum over columns
BAND = 1400  # windows at a time: their 9×9 joint distributions stay in the cache
TINY = np.float32(1e-18)  # stands for 0 where a logarithm is taken; its square is still a normal number


def fmi(first: np.ndarray, second: np.ndarray, fused: np.ndarray) -> float:
    """FMI_pixel: mean over both sources and all 3×3 windows of 2 I(source, fused) / (H(source) + H(fused)). 0…1, ↑.

    Haghighat, Aghagolzadeh, Seyedarabi: A non-reference image fusion metric based on mutual information of image
    features (Comput. Electr. Eng. 2011), in the form of the authors' fast version (2014). The feature is the
    pixel's own luma. Published codes disagree, so here is what is done in each window:

    - its nine values, read row by row, are stretched to 0…1 (all 1 if they are equal) and divided by their sum: a
      distribution over the positions 1…9;
    - the joint distribution of the two is φ · (the Fréchet bound of the sign of their correlation) + (1 − φ) · (their
      product), φ the ratio of the correlation of the nine values to the correlation of positions under that bound, kept
      within 0…1;
    - identical windows count 1; entropies are in bits, the ratio has no unit.

    Single precision, good to five digits. Raises MetricError below 3×3 pixels.
    """
    require_size(fused.shape, WINDOW)
    images = [image.astype(np.float32) for image in (first, second, fused)]
    height, width = fused.shape[0] - WINDOW + 1, fused.shape[1] - WINDOW + 1
    rows = max(1, BAND // width)
    total = 0.0
    for top in range(0, height, rows):
        *sources, shared = (_windows(image[top : top + rows + WINDOW - 1]) for image in images)
        p_shared = _distribution(shared)
        for source in sources:
            same = (source == shared).all(0)
            total += np.where(same, 1, _similarity(_distribution(source), p_shared)).sum(dtype=np.float64)
    return total / (2 * height * width)


def _windows(image: np.ndarray) -> np.ndarray:
    """The 3×3 windows of a band of rows: 9×N."""
    height, width = image.shape[0] - WINDOW + 1, image.shape[1] - WINDOW + 1
    shifted = (image[y : y + height, x : x + width].ravel() for y in range(WINDOW) for x in range(WINDOW))
    return np.stack(list(shifted))


def _distribution(windows: np.ndarray) -> np.ndarray:
    """Windows stretched to 0…1 (all 1 if equal) and divided by their sum; 9×N, nowhere exactly 0."""
    lo, hi = windows.min(0), windows.max(0)
    flat = hi == lo
    p = windows - (lo - flat)
    p /= p.sum(0)
    return p + TINY


def _spread(p: np.ndarray) -> np.ndarray:
    """Standard deviation of the position under each distribution."""
    return np.sqrt(np.maximum(POSITION**2 @ p - (POSITION @ p) ** 2, 0))


def _entropy(p: np.ndarray) -> np.ndarray:
    """Entropy in nats over the first axis of positive float32 values; cv2.log is four times as fast as np.log."""
    logarithm = cv2.log(p)
    logarithm *= p
    return -logarithm.sum(0)


def _similarity(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """2 I / (H + H) of the distributions in the columns of p and q."""
    entropies = _entropy(p) + _entropy(q)
    centred_p, centred_q = p - np.float32(1 / CELLS), q - np.float32(1 / CELLS)
    power = (centred_p * centred_p).sum(0) * (centred_q * centred_q).sum(0)
    correlation = (centred_p * centred_q).sum(0) / np.sqrt(np.where(power > 0, power, 1))
    # the lower Fréchet bound is the upper one with one distribution read backwards
    q = np.where(correlation < 0, q[::-1], q)
    cdf_p, cdf_q = UP_TO @ p, UP_TO @ q
    joint = np.minimum(cdf_p[:, None], cdf_q).reshape(CELLS * CELLS, -1)
    covariance = joint.sum(0) - cdf_p.sum(0) * cdf_q.sum(0)
    phi = np.abs(correlation) * _spread(p) * _spread(q) / np.where(covariance > 1e-7, covariance, 1)
    phi = np.where(covariance > 1e-7, np.minimum(phi, 1), 0)
    # the bound gives a cell the overlap of its two intervals of cumulative probability
    other = np.maximum((cdf_p - p)[:, None], cdf_q - q).reshape(CELLS * CELLS, -1)
    np.maximum(joint, other, out=joint)
    joint -= other
    joint *= phi
    np.multiply((p * (1 - phi) + TINY)[:, None], q, out=other.reshape(CELLS, CELLS, -1))
    joint += other
    information = entropies - _entropy(joint)
    return np.clip(2 * information / np.where(entropies > 0, entropies, 1), 0, 1)
