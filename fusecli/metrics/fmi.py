"""Feature mutual information in 3×3 windows. Images are H×W, values 0…255."""

from __future__ import annotations

import numpy as np

from fusecli.metrics.errors import require_size

WINDOW = 3
CELLS = WINDOW * WINDOW
CHUNK = 2048  # windows at a time: the 9×9 joint distributions of a chunk stay in the cache


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
    require_size(fused, WINDOW)
    shared = _distributions(fused)
    return float(np.mean([_similarity(_distributions(source), shared) for source in (first, second)]))


def _distributions(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(raw windows, distributions), both 9×N float32."""
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(np.float32), (WINDOW, WINDOW))
    raw = np.ascontiguousarray(windows.reshape(-1, CELLS).T)
    lo, hi = raw.min(0), raw.max(0)
    flat = hi == lo
    p = (raw - lo) / np.where(flat, 1, hi - lo)
    p[:, flat] = 1
    return raw, p / p.sum(0)


def _spread(p: np.ndarray) -> np.ndarray:
    """Standard deviation of the position under each distribution of 9×n."""
    position = np.arange(CELLS, dtype=np.float32) - CELLS // 2
    mean = position @ p
    return np.sqrt(np.maximum((position**2) @ p - mean**2, 0))


def _entropy(p: np.ndarray) -> np.ndarray:
    """Entropy in nats over the first axis; 0 ln 0 = 0."""
    return -np.einsum("i...,i...->...", p, np.log(p + np.float32(1e-30)))


def _similarity(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """Mean over windows of 2 I / (H + H)."""
    count = a[0].shape[1]
    total = 0.0
    for start in range(0, count, CHUNK):
        chunk = slice(start, start + CHUNK)
        same = (a[0][:, chunk] == b[0][:, chunk]).all(0)
        total += np.where(same, 1, _chunk(a[1][:, chunk], b[1][:, chunk])).sum(dtype=np.float64)
    return total / count


def _chunk(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    entropies = _entropy(p) + _entropy(q)
    centred_p, centred_q = p - np.float32(1 / CELLS), q - np.float32(1 / CELLS)
    power = (centred_p**2).sum(0) * (centred_q**2).sum(0)
    correlation = (centred_p * centred_q).sum(0) / np.sqrt(np.where(power > 0, power, 1))
    # the lower Fréchet bound is the upper one with one distribution read backwards
    q = np.where(correlation < 0, q[::-1], q)
    cdf_p, cdf_q = p.cumsum(0), q.cumsum(0)
    least = np.minimum(cdf_p[:, None], cdf_q[None])
    bound = least.sum((0, 1)) - cdf_p.sum(0) * cdf_q.sum(0)
    phi = np.abs(correlation) * _spread(p) * _spread(q) / np.where(bound > 1e-7, bound, 1)
    phi = np.where(bound > 1e-7, np.minimum(phi, 1), 0)
    least -= np.maximum((cdf_p - p)[:, None], (cdf_q - q)[None])
    joint = np.maximum(least, 0, out=least)
    joint *= phi
    joint += (p * (1 - phi))[:, None] * q[None]
    information = entropies - _entropy(joint.reshape(CELLS * CELLS, -1))
    return np.clip(2 * information / np.where(entropies > 0, entropies, 1), 0, 1)
