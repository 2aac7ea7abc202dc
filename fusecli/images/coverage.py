"""Where one source ends within the other: results fade into that other alone."""

from __future__ import annotations

import numpy as np

from fusecli.images.opencv import cv2

FEATHER_SHARE = 0.055  # of the side of the part that both cover, over which results fade into one source
SMALLEST = 33  # px, side of the smallest gap that counts; a dead pixel is none
COARSE = 1024  # px, the longer side at which gaps are looked at: filters as wide as large maps need are slow
STRIP = 64  # rows that are blended at once: the float values of a whole large frame would take hundreds of MB


def faded(inside: np.ndarray, least: int = 1) -> np.ndarray:
    """float32 H×W in [0, 1]: 0 where ``inside`` (float32, 0 or 1) is 0, rising to 1 within it.

    The larger that is, the farther it takes, and at least ``least`` (odd) pixels. The image's own borders are none.
    """
    feather = max(least, round(FEATHER_SHARE * float(np.sqrt(np.count_nonzero(inside)))) | 1)
    inner = cv2.erode(inside, np.ones((feather, feather), np.uint8))
    return cv2.blur(inner, (feather, feather), borderType=cv2.BORDER_REPLICATE)


def beside_gaps(missing: np.ndarray) -> np.ndarray | None:
    """float32 H×W as of `faded`, for a source that lacks data in ``missing`` (bool); None where no gap is large."""
    height, width = missing.shape
    step = max(1, max(height, width) // COARSE)
    coarse = max(1, width // step), max(1, height // step)
    gaps = cv2.resize(missing.view(np.uint8), coarse, interpolation=cv2.INTER_NEAREST)
    least = max(1, SMALLEST // step) | 1
    labels = cv2.connectedComponents(gaps)[1]
    cores = cv2.morphologyEx(gaps, cv2.MORPH_OPEN, np.ones((least, least), np.uint8))
    large = np.isin(labels, labels[cores > 0])  # with their narrow corners
    if not large.any():
        return None
    share = faded((~large).astype(np.float32), least)
    return cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)


def completed(fused: np.ndarray, alone: np.ndarray, share: np.ndarray | None) -> np.ndarray:
    """Blend ``fused``, weighted by ``share`` (see `faded`), with the source that is there everywhere.

    Both H×W or H×W×3, uint8, uint16 or float32 in [0, 1]; the result is of fused's shape and type.
    """
    if share is None:
        return fused
    share = share if fused.ndim == 2 else share[..., None]
    white, from_white = (1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max for image in (fused, alone))
    result = np.empty_like(fused)
    for top in range(0, len(fused), STRIP):
        rows = slice(top, top + STRIP)
        mixed = share[rows] * fused[rows] + (1 - share[rows]) * (alone[rows] * np.float32(white / from_white))
        result[rows] = mixed if fused.dtype.kind == "f" else np.rint(mixed, out=mixed)
    return result


def within(infrared: np.ndarray, share: np.ndarray | None) -> np.ndarray:
    """A warped infrared frame, black where results do without it (see `faded`), not its border pixels repeated."""
    return infrared if share is None else np.where(share > 0, infrared, infrared.dtype.type(0))
