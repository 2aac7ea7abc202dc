"""The error of a metric that has no value for an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusecli.errors import InputError

ROUNDING = 1e-6  # levels: images that vary by less are constant, apart from rounding errors of their luma


class MetricError(InputError):
    """A metric is not defined for these images; the message says why. NaN never leaves this package."""


def is_constant(image: np.ndarray) -> bool:
    """Whether all values (0…255) are equal but for rounding."""
    return bool(np.ptp(image) < ROUNDING)


def require_size(shape: Sequence[int], side: int) -> None:
    """Raise MetricError if images of this shape (…×H×W) are smaller than ``side`` pixels in either direction."""
    height, width = shape[-2:]
    if min(height, width) < side:
        raise MetricError(f"needs at least {side}×{side} pixels, the image has {width}×{height}")
