"""What a result shall look like, as an image to aim at: made from whole clean infrared-visible pairs for training.

The per-pixel maximum that the field trains towards washes out scenes whose infrared is bright nearly everywhere. Both
targets here are explicit images, so that a network can be asked for anything between them. All images are H×W float32
luma in [0, 1].
"""

from __future__ import annotations

import numpy as np

from fusecli.images.opencv import cv2

BRIGHT = 0.45  # mean luma above which a result looks washed out
FAINT = 0.004  # local detail, in luma, that is not worth taking over from the infrared


def thermal(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Bright is what is bright in either, detail is the stronger one's, contrast that of the more contrasted source.

    The spread of intensities is brought to the greater of the sources' (at most doubled), around a mean that is drawn
    half-way down to BRIGHT where it lies above: so nothing drowns in white.
    """
    details, shares, means = _details(visible, infrared, 1e-4)
    fused = np.maximum(*means)
    for share, (a, b) in zip(shares, details, strict=True):
        fused = fused + share * a + (1 - share) * b
    gain = np.clip(max(visible.std(), infrared.std()) / max(fused.std(), 1e-3), 1, 2)
    mean = fused.mean()
    level = mean + 0.5 * (min(mean, BRIGHT) - mean)
    return np.clip(level + gain * (fused - mean), 0, 1)


def natural(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """The visible image, with what is hot in the infrared and with infrared detail where the visible has little.

    Hot is what is well above the infrared's mean (by 0.8 to 2 of its spreads) and warmer than what surrounds it.
    """
    high = np.clip(((infrared - infrared.mean()) / (infrared.std() + 1e-3) - 0.8) / 1.2, 0, 1)
    warmer = np.clip((infrared - blur(infrared, 25)) / 0.15, 0, 1)
    hot = blur(high * warmer, 1)
    details, shares, _ = _details(visible, infrared, FAINT)
    fused = visible + hot * np.maximum(infrared - visible, 0)
    for share, (a, b) in zip(shares, details, strict=True):
        fused = fused + 0.8 * (1 - hot) * (1 - share) * (b - a)
    return np.clip(fused, 0, 1)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean."""
    return cv2.GaussianBlur(image, (0, 0), sigma)


def _details(
    first: np.ndarray, second: np.ndarray, faint: float
) -> tuple[list[list[np.ndarray]], list[np.ndarray], list[np.ndarray]]:
    """Details of both at three scales, what part the first gets of each (nearly all to the stronger), what remains.

    ``faint`` is added to both strengths: details well below it are shared.
    """
    sides, details, shares = [first, second], [], []
    for scale in (1, 2, 4):
        means = [blur(side, scale) for side in sides]
        details.append([side - mean for side, mean in zip(sides, means, strict=True)])
        a, b = ((blur(np.abs(detail), scale) + faint) ** 4 for detail in details[-1])
        shares.append(a / (a + b))
        sides = means
    return details, shares, sides
