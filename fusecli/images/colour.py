"""Luma and colour, without torch: for previews and classical baselines. ITU-R BT.601, full range."""

from __future__ import annotations

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def luma(image: np.ndarray) -> np.ndarray:
    """H×W or H×W×3, uint8 or float in [0, 1] -> H×W float32 in [0, 1]; gray passes through."""
    values = _as_float(image)
    return values @ LUMA if values.ndim == 3 else values


def recolour(first_rgb: np.ndarray, first_luma: np.ndarray, fused_luma: np.ndarray) -> np.ndarray:
    """Y replaced, Cb and Cr put back: H×W×3 float32 in [0, 1].

    In Y'CbCr, R, G and B are Y plus terms of Cb and Cr alone; so a change of Y moves all three by the same amount.
    """
    return np.clip(_as_float(first_rgb) + (fused_luma - first_luma)[..., None], 0, 1)


def _as_float(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(255)
    return image.astype(np.float32, copy=False)
