"""Edges: how strong they are in the fused image, and how well they are carried over. Images are H×W, values 0…255."""

from __future__ import annotations

import numpy as np

from fusecli.images.opencv import cv2
from fusecli.metrics.errors import MetricError, require_size


def spatial_frequency(image: np.ndarray) -> float:
    """SF: √(RF² + CF²), RF and CF the root mean squares of the differences down and across. Range 0…361, ↑.

    Eskicioglu, Fisher: Image quality measures and their performance (IEEE Trans. Commun. 1995); each mean is over its
    own differences, as in Tang's set.
    """
    require_size(image.shape, 2)
    return float(np.sqrt(np.mean(np.diff(image, axis=0) ** 2) + np.mean(np.diff(image, axis=1) ** 2)))


def spatial_frequency_side_by_side(image: np.ndarray) -> float:
    """Spatial_frequency of VIFB: the channels of an H×W×3 image side by side as one H×3W image, both sums / (3 H W)."""
    if image.ndim == 3:
        image = np.hstack([image[..., channel] for channel in range(image.shape[2])])
    return float(np.sqrt((np.sum(np.diff(image, axis=0) ** 2) + np.sum(np.diff(image, axis=1) ** 2)) / image.size))


def average_gradient(image: np.ndarray) -> float:
    """AG: Σ √((gx² + gy²) / 2) / ((M − 1)(N − 1)), central differences inside and one-sided at the border. ↑.

    Cui, Feng, Xu, Li, Chen: Detail preserved fusion of visible and infrared images … (Optics Commun. 2015).
    """
    require_size(image.shape, 2)
    down, across = np.gradient(image)
    return float(np.sum(np.sqrt((down**2 + across**2) / 2)) / ((image.shape[0] - 1) * (image.shape[1] - 1)))


def sobel(image: np.ndarray, border: int) -> tuple[np.ndarray, np.ndarray]:
    """(across, down) Sobel responses, the y axis pointing down."""
    return (
        cv2.Sobel(image, cv2.CV_64F, 1, 0, ksize=3, borderType=border),
        cv2.Sobel(image, cv2.CV_64F, 0, 1, ksize=3, borderType=border),
    )


def edge_intensity(image: np.ndarray) -> float:
    """EI: mean magnitude of the Sobel gradient, border replicated, kernel not normalised. ↑.

    Rajalingam, Priya: Hybrid multimodality medical image fusion … (IJESI 2018), as in VIFB.
    """
    return float(np.mean(np.hypot(*sobel(image, cv2.BORDER_REPLICATE))))


def _sigmoid(x: np.ndarray, top: float, slope: float, middle: float) -> np.ndarray:
    return top / (1 + np.exp(-slope * (x - middle)))


def qabf(first: np.ndarray, second: np.ndarray, fused: np.ndarray) -> float:
    """Qabf: share of both sources' edges, by strength, whose strength and angle the fused image keeps. Range 0…1, ↑.

    Xydeas, Petrović: Objective image fusion performance measure (Electronics Letters 2000), with L = 1 and the
    constants of the field's code. Sobel with a zero border; the angle is arctan(gy / gx) with y up, π/2 where gx = 0;
    where both strengths are equal, that strength stands in place of their ratio (the field's code does so; it matters
    below 1 only). Raises MetricError if no source has an edge.
    """

    def edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across, down = sobel(image, cv2.BORDER_CONSTANT)
        vertical = across == 0
        angle = np.arctan(-down / np.where(vertical, 1, across))
        angle[vertical] = np.pi / 2
        return np.sqrt(across**2 + down**2), angle

    strength_fused, angle_fused = edges(fused)
    kept = total = 0.0
    for source in (first, second):
        strength, angle = edges(source)
        larger = np.maximum(strength, strength_fused)
        ratio = np.minimum(strength, strength_fused) / np.where(larger > 0, larger, 1)
        equal = strength == strength_fused
        ratio[equal] = strength[equal]
        alike = 1 - np.abs(angle - angle_fused) / (np.pi / 2)
        kept += np.vdot(_sigmoid(ratio, 0.9994, 15, 0.5) * _sigmoid(alike, 0.9879, 22, 0.8), strength)
        total += strength.sum()
    if total == 0:
        raise MetricError("has no value: both sources are black, there is no edge to keep")
    return float(kept / total)


def nabf(first: np.ndarray, second: np.ndarray, fused: np.ndarray) -> float:
    """Nabf: strength of fused edges that exceed both sources', relative to the sources' own. Range 0…1, ↓.

    Shreyamsha Kumar: Image fusion based on pixel significance using cross bilateral filter (SIViP 2015) after Petrović
    and Xydeas (2005). Sobel / 8 with a mirrored border; edges below 2 do not count. Raises MetricError if no source has
    an edge of 2 or more.
    """
    require_size(fused.shape, 2)
    gradients = [tuple(part / 8 for part in sobel(x, cv2.BORDER_REFLECT_101)) for x in (fused, first, second)]
    strengths = [np.sqrt(across**2 + down**2) for across, down in gradients]
    total = sum(float(np.sum(strength[strength >= 2] ** 1.5)) for strength in strengths[1:])
    if total == 0:
        raise MetricError("has no value: no source has an edge")
    invented = (strengths[0] > strengths[1]) & (strengths[0] > strengths[2])
    lost = 0.0
    for (across, down), strength in zip(gradients[1:], strengths[1:], strict=True):
        where = invented & (strength >= 2)
        across_fused, down_fused = (part[where] for part in gradients[0])
        across, down, strength = across[where], down[where], strength[where]
        # how parallel two edges are: 1 minus the angle between the lines, in right angles
        along = np.abs(across * across_fused + down * down_fused)
        apart = np.abs(across * down_fused - down * across_fused)
        alike = np.arctan2(along, apart) * 2 / np.pi
        quality = _sigmoid(strength / strengths[0][where], 0.9999, 19, 0.5) * _sigmoid(alike, 0.9995, 22, 0.5)
        lost += np.sum((1 - np.sqrt(quality)) * strength**1.5)
    return float(lost / total)
