"""Luma and colour, without torch. ITU-R BT.601, full range."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

log = logging.getLogger("fusecli")

LUMA = (0.299, 0.587, 0.114)  # shares of R, G and B
SPREAD = 0.08  # share of the scale by which channels of a coloured pixel differ; in gray JPEGs they differ by less
COLORED = 0.1  # share of coloured pixels that makes an image coloured: more than a printed logo or colour bar covers
LOOKED_AT = 2**16  # pixels sampled, about


def luma(image: np.ndarray) -> np.ndarray:
    """H×W or H×W×3, uint8 or float in [0, 1] -> H×W float32 in [0, 1]; gray passes through."""
    values = as_float(image)
    return values @ np.array(LUMA, np.float32) if values.ndim == 3 else values


def recolour(first_rgb: np.ndarray, first_luma: np.ndarray, fused_luma: np.ndarray) -> np.ndarray:
    """The image with its Y replaced and its Cb and Cr kept: H×W×3 float32 in [0, 1].

    In Y'CbCr, R, G and B are Y plus terms of Cb and Cr alone; so a change of Y moves all three by the same amount.
    """
    return np.clip(as_float(first_rgb) + (fused_luma - first_luma)[..., None], 0, 1)


def is_colored(image: np.ndarray) -> bool:
    """Whether an image is in colour to the eye; gray stored as RGB is not."""
    if image.ndim == 2:
        return False
    step = math.isqrt(image.shape[0] * image.shape[1] // LOOKED_AT) + 1
    seen = image[::step, ::step]
    scale = 255 if image.dtype == np.uint8 else seen.max()
    return bool((seen.max(-1) - seen.min(-1) > SPREAD * scale).mean() > COLORED)


def warn_of_colored(infrared: Iterable[tuple[Path, np.ndarray]]) -> None:
    """Warn, once, if one of these infrared frames is coloured."""
    path = next((path for path, image in infrared if is_colored(image)), None)
    if path is not None:
        log.warning(
            "%s is coloured: a false-colour rendering, or are infrared and visible swapped? Only its brightness is "
            "used, which need not follow the temperature; export infrared in gray",
            path,
        )


def as_float(image: np.ndarray) -> np.ndarray:
    """float32 in [0, 1] of uint8, or of floats in [0, 1]."""
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(255)
    return image.astype(np.float32, copy=False)
