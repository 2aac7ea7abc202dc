"""Target images for training, made from clean infrared-visible scenes: what a result is to look like.

The per-pixel maximum that the field trains towards washes out scenes whose infrared is bright nearly everywhere. Both
targets here are explicit images, so that a network can be trained for any look between them. All images are H×W float32
luma in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusecli.images.opencv import cv2

BRIGHT = 0.45  # mean luma above which a result looks washed out
FLAT = 0.17  # spread of luma below which a scene looks flat, unless it is dark
DARK = (0.2, 0.3)  # mean luma: below the first a scene is dark, above the second it is not
FAINT = 0.004  # local detail, in luma, that is not worth taking over from the infrared
VIVID = 0.2  # by how much contrast and gradients are raised at the thermal end, less towards PLAIN
PLAIN = 0.15  # look from which on they are not raised; the default of the released weights
DEEPEST = 0.05  # luma by which infrared detail may darken a bright visible; else dark rims run along edges in skies
WHITE = (0.9, 0.98)  # visible luma: from the first on a pixel counts as white in part, from the second on wholly
BRIGHTER = 0.2  # luma by which the visible has to exceed the infrared for that to count in full


def between(visible: np.ndarray, infrared: np.ndarray, look: float) -> np.ndarray:
    """The target of a look in [0, 1]: from ``thermal`` (0) to ``natural`` (1)."""
    bands = split(visible, infrared)
    if look == 1:
        return natural(visible, infrared, bands)
    bright = thermal(visible, infrared, bands, calmness(look))
    return (1 - look) * bright + look * natural(visible, infrared, bands) if look else bright


def calmness(look: float) -> float:
    """Calmness of a look: 0 at the thermal end, for benchmarks and detectors, rising to 1 at PLAIN, for people."""
    return min(1.0, look / PLAIN)


def vividness(calm: float) -> float:
    """Factor of contrast and of gradients, by how calm the result shall be."""
    return 1 + VIVID * (1 - calm)


def thermal(visible: np.ndarray, infrared: np.ndarray, bands: Bands | None = None, calm: float = 0.0) -> np.ndarray:
    """The target that is bright where either source is, with the stronger detail and the higher contrast of the two.

    The spread of intensities is raised to the greater of the sources' (where both are flat: to 1.5 times that, FLAT at
    most), but at most doubled, around a mean that is moved half-way down to BRIGHT where it lies above, so that results
    do not wash out. ``calm`` (`calmness`): at 0 contrast is raised by VIVID as well; at 1 infrared detail darkens
    nothing by more than DEEPEST where the visible is the brighter, and white parts of the visible do not count for the
    mean, so that they can stay white, and a large white sky does not darken the rest.
    """
    bands = bands or split(visible, infrared)
    added = np.zeros_like(visible)
    for share, (a, b) in zip(bands.shares(1e-4), bands.details, strict=True):
        added += (1 - share) * (b - a)
    ahead = np.clip((bands.means[0] - bands.means[1]) / BRIGHTER, 0, 1)
    added += calm * ahead * (shallow(added) - added)
    fused = np.maximum(*bands.means) + sum(a for a, _ in bands.details) + added
    mean = float(np.average(fused, weights=1.001 - calm * np.interp(visible, WHITE, (0, 1))))
    greater = max(visible.std(), infrared.std())
    lively = max(greater, min(FLAT, 1.5 * greater))
    spread = float(np.interp(mean, DARK, (greater, lively)))
    gain = vividness(calm) * min(max(spread / max(float(fused.std()), 1e-3), 1), 2)
    level = mean + 0.5 * (min(mean, BRIGHT) - mean)
    return np.clip(level + gain * (fused - mean), 0, 1)


def natural(visible: np.ndarray, infrared: np.ndarray, bands: Bands | None = None) -> np.ndarray:
    """The visible image, with what is hot in the infrared and with infrared detail where the visible has little.

    Hot is what is well above the infrared's mean (by 0.8 to 2 standard deviations) and warmer than its surroundings.
    Writing and drawings on it, which only the visible shows, are kept.
    """
    high = np.clip(((infrared - infrared.mean()) / (infrared.std() + 1e-3) - 0.8) / 1.2, 0, 1)
    warmer = np.clip((infrared - surroundings(infrared)) / 0.15, 0, 1)
    hot = blur(high * warmer, 1)
    bands = bands or split(visible, infrared)
    detail = np.zeros_like(visible)
    marks = np.zeros_like(visible)
    for share, (a, b) in zip(bands.shares(FAINT), bands.details, strict=True):
        detail += 0.8 * (1 - hot) * (1 - share) * (b - a)
        marks += share * (a - b)
    glow = hot * np.maximum(infrared - visible, 0)
    written = np.minimum(glow / BRIGHTER, 1) * marks
    return np.clip(visible + glow + written + shallow(detail), 0, 1)


def shallow(detail: np.ndarray) -> np.ndarray:
    """Detail that darkens by DEEPEST at most."""
    return np.maximum(detail, DEEPEST * np.tanh(detail / DEEPEST))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean."""
    return cv2.GaussianBlur(image, (0, 0), sigma)


def surroundings(image: np.ndarray) -> np.ndarray:
    """Like ``blur`` with a sigma of 25, but at a quarter of the size, which takes a fortieth of the time."""
    height, width = image.shape
    small = cv2.resize(image, (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA)
    return cv2.resize(blur(small, 25 / 4), (width, height), interpolation=cv2.INTER_LINEAR)


@dataclass
class Bands:
    """Details of both sources at three scales, how strong they are around each pixel, and what remains."""

    details: list[tuple[np.ndarray, np.ndarray]]
    strengths: list[tuple[np.ndarray, np.ndarray]]
    means: tuple[np.ndarray, np.ndarray]

    def shares(self, faint: float) -> list[np.ndarray]:
        """The first source's share at each scale: nearly all where it is stronger, about half where both are faint."""
        powers = [[np.square(np.square(each + faint)) for each in pair] for pair in self.strengths]
        return [a / (a + b) for a, b in powers]


def split(first: np.ndarray, second: np.ndarray) -> Bands:
    """Both sources in bands, by Gaussian means."""
    details, strengths = [], []
    for scale in (1, 2, 4):
        means = blur(first, scale), blur(second, scale)
        a, b = first - means[0], second - means[1]
        details.append((a, b))
        strengths.append((blur(np.abs(a), scale), blur(np.abs(b), scale)))
        first, second = means
    return Bands(details, strengths, (first, second))
