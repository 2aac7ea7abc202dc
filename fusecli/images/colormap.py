"""Colours for gray PET and SPECT: tables of 256 RGB entries, by name."""

from __future__ import annotations

from functools import cache

import numpy as np

from fusecli.errors import UsageError
from fusecli.registry import unknown

# Name -> OpenCV's constant, or the UID of a standard palette of DICOM (PS3.6, annex B) that pydicom carries.
_OPENCV = ("hot", "jet", "inferno", "magma", "plasma", "viridis", "turbo", "rainbow")
_DICOM = {
    "pet": "1.2.840.10008.1.5.2",
    "hot-iron": "1.2.840.10008.1.5.1",
    "hot-metal-blue": "1.2.840.10008.1.5.3",
    "pet-20-step": "1.2.840.10008.1.5.4",
}
NAMES = (*_OPENCV, *_DICOM)
DEFAULT = "hot"
_FADE = 16  # first entries, faded in from black where a table begins otherwise: zero uptake must have no colour


@cache
def table(name: str) -> np.ndarray:
    """256×3 uint8 RGB. Raises UsageError for a name that does not exist."""
    if name in _OPENCV:
        from fusecli.images.opencv import cv2

        code = getattr(cv2, f"COLORMAP_{name.upper()}")
        colors = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], code)[:, 0, ::-1]
    elif name in _DICOM:
        from pydicom.pixels import apply_color_lut

        colors = apply_color_lut(np.arange(256, dtype=np.uint8), palette=_DICOM[name])
    else:
        raise UsageError(f"--colormap: {unknown('colormap', name, NAMES)}")
    colors = colors.copy()  # since it is changed below
    if colors[0].any():
        colors[:_FADE] = colors[:_FADE] * (np.arange(_FADE) / _FADE)[:, None]
    return colors


def apply(values: np.ndarray, name: str) -> np.ndarray:
    """Gray …, float in [0, 1] -> …×3 uint8 RGB."""
    return table(name)[np.rint(values * np.float32(255)).astype(np.uint8)]
