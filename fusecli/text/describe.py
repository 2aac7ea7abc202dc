"""Image pair -> degradation description, by measurement: exact, without a model, some milliseconds per image.

Each measurement below becomes a severity through a table of a few points (RULES). The tables are calibrated so that a
degradation made by fusecli.training.degrade at severity s measures about s, while clean sources measure below
EVENT_THRESHOLD. Streaks, ghosts and bias fields of scanners are not measured: only a vision model can name those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusecli.images.opencv import cv2
from fusecli.text.events import KINDS, MEDICAL_SIDES, Event, event
from fusecli.text.record import Description
from fusecli.text.sentences import sentence, variant_of

EVENT_THRESHOLD = 0.25  # severities below this are not worth an event

_BLOCK = 8  # px, side of the blocks whose noise is ranked
_AIR = 0.04  # luma below which a scan shows air, not tissue
_COUNTED = 50  # px; fewer are too few to measure contrast
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (dy, dx) in which sharpness is measured
_LAPLACE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6  # gain 1 for white noise, 0 for slopes


# side -> measurement -> ((measured value, severity), …) with ascending values; straight lines between the points.
Table = tuple[tuple[float, float], ...]
_PHOTO: dict[str, Table] = {
    "clipped": ((0.06, 0), (0.13, 0.25), (0.235, 0.5), (0.47, 1)),
    "contrast": ((0.08, 1), (0.25, 0.5), (0.35, 0.25), (0.42, 0)),
    "luminance": ((0.03, 1), (0.09, 0.8), (0.2, 0.5), (0.31, 0.25), (0.38, 0)),
    "white": ((0.2, 0.9), (0.58, 0.5), (0.66, 0.25), (0.74, 0)),
    "noise": ((0.004, 0), (0.022, 0.25), (0.047, 0.5), (0.098, 1)),
    "sharpness": ((0.07, 1), (0.083, 0.5), (0.092, 0.25), (0.1, 0)),
    "stripes": ((0.008, 0), (0.02, 0.25), (0.04, 0.5), (0.078, 1)),
}
_EMISSION_SHARPNESS = ((0.064, 1.0), (0.069, 0.5), (0.078, 0.25), (0.084, 0.0))
RULES: dict[str, dict[str, Table]] = {
    "vis": _PHOTO,
    "ir": _PHOTO
    | {
        "clipped": ((0.02, 0), (0.08, 0.25), (0.21, 0.5), (0.45, 1)),
        "contrast": ((0.1, 1), (0.31, 0.5), (0.45, 0.25), (0.52, 0)),
    },
    "ct": {
        "contrast": ((0.07, 1), (0.18, 0.5), (0.28, 0.25), (0.36, 0)),
        "white": ((0.55, 1), (0.7, 0.5), (0.85, 0.25), (0.95, 0)),  # a window for soft tissue always saturates bone
        "noise": ((0.008, 0), (0.0115, 0.25), (0.016, 0.5), (0.03, 1)),
        "sharpness": ((0.068, 1), (0.079, 0.5), (0.095, 0.25), (0.105, 0)),
    },
    "pet": {
        "contrast": ((0.07, 1), (0.11, 0.75), (0.17, 0.5), (0.2, 0.25), (0.24, 0)),
        "noise": ((0.004, 0), (0.009, 0.25), (0.014, 0.5), (0.026, 1)),
        "sharpness": _EMISSION_SHARPNESS,
    },
    "spect": {
        "contrast": ((0.085, 1), (0.135, 0.75), (0.21, 0.5), (0.32, 0.25), (0.4, 0)),
        "noise": ((0.002, 0), (0.006, 0.25), (0.0105, 0.5), (0.0205, 1)),
        "sharpness": _EMISSION_SHARPNESS,
    },
    "mri": {
        "contrast": ((0.1, 1), (0.155, 0.75), (0.24, 0.5), (0.33, 0.25), (0.38, 0)),
        "noise": ((0.014, 0), (0.022, 0.25), (0.039, 0.5), (0.073, 1)),
        "sharpness": ((0.069, 1), (0.081, 0.5), (0.089, 0.25), (0.096, 0)),
    },
}


@dataclass(frozen=True)
class Measurement:
    """What is measured on one image's luma in [0, 1]."""

    luminance: float  # mean
    white: float  # 99th percentile; for scans of the tissue
    contrast: float  # (white − black) / (white + black + 0.05); black: 1st percentile, for scans the 25th
    clipped: float  # share of the area at white, single pixels left out
    noise: float  # sigma, some 14 % low because the quieter part of the image is taken
    sharpness: float  # energy of 1 px differences over 4 px, noise discounted; 1/16 for a ramp, about 0.15 in nature
    stripes: float  # sigma of the offsets between neighbouring columns or rows


def measure(luma: np.ndarray, *, scan: bool = False) -> Measurement:
    """Measure H×W float luma in [0, 1] of any size; ``scan`` leaves the air around a patient out of the contrast."""
    image = np.ascontiguousarray(luma, np.float32)
    noise = _noise(image)
    smooth = cv2.blur(image, (5, 5))  # noise must not pass for contrast
    counted = smooth
    if scan:  # the rim of the tissue, which fades into air in every scan, is left out
        tissue = (smooth > max(_AIR, 2.5 * noise)).astype(np.uint8)
        counted = smooth[cv2.erode(tissue, np.ones((7, 7))) > 0]
    black, white = np.percentile(counted, [25 if scan else 1, 99]) if counted.size >= _COUNTED else (0.0, 1.0)
    return Measurement(
        luminance=float(image.mean()),
        white=float(white),
        contrast=float((white - black) / (white + black + 0.05)),
        clipped=float((cv2.erode(image, np.ones((3, 3))) >= 0.97).mean()),
        noise=noise,
        sharpness=_sharpness(image, noise),
        stripes=max(_stripes(image), _stripes(image.T)),
    )


def severities(found: Measurement, side: str) -> dict[str, float]:
    """Kind -> severity in [0, 1] by RULES, for the kinds that can be measured on ``side``."""

    def rated(measurement: str) -> float:
        values, levels = zip(*RULES[side][measurement], strict=True)
        return float(np.interp(getattr(found, measurement), values, levels))

    faint = rated("contrast")
    result = {"noise": rated("noise"), "blur": rated("sharpness")}
    if side in MEDICAL_SIDES:
        return result | {"low contrast": min(faint, rated("white")) if side == "ct" else faint}

    result |= {"over exposure": rated("clipped"), "artifact": rated("stripes")}
    if side == "ir":  # dark is what cold looks like, and fog hardly scatters heat
        return result | {"low contrast": faint}
    dark = max(rated("luminance") if faint < 0.5 else 0, rated("white") if found.contrast > 0.5 else 0)
    if dark >= faint or result["over exposure"] >= EVENT_THRESHOLD:
        faint = 0.0  # too little light leaves little range, and so does too much: one cause, one event
    # Airlight lifts whites and mean; a flat tone curve pulls both to the middle.
    veiled = found.white + found.luminance > 1.4
    return result | {"low light": dark, "haze": faint * veiled, "low contrast": faint * (not veiled)}


def describe(first: np.ndarray, second: np.ndarray, sides: tuple[str, str], name: str = "") -> Description:
    """Describe a pair of H×W float luma images in [0, 1]; events from EVENT_THRESHOLD on, severities to two decimals.

    The wording is chosen by ``name``, so that equal input gives equal text.
    """
    events: list[Event] = []
    for image, side in zip((first, second), sides, strict=True):
        rated = severities(measure(image, scan=side in MEDICAL_SIDES), side)
        found = {kind: round(rated[kind], 2) for kind in KINDS if rated.get(kind, 0) >= EVENT_THRESHOLD}
        events += [event(kind, side, severity) for kind, severity in found.items()]
    sentences = {side: sentence(events, side, variant_of(name)) for side in sides}
    return Description(sides, tuple(events), sentences)


def _noise(image: np.ndarray) -> float:
    """Noise sigma from the quieter blocks (Immerkær's Laplacian, CVIU 1996), without clipped ones, which hide noise."""
    height, width = ((length - 2) // _BLOCK * _BLOCK for length in image.shape)
    if height <= 0 or width <= 0:
        return 0.0
    response = cv2.filter2D(image, -1, _LAPLACE)

    def blocks(array: np.ndarray) -> np.ndarray:
        inner = array[1 : 1 + height, 1 : 1 + width]
        return inner.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).swapaxes(1, 2).reshape(-1, _BLOCK**2)

    values = blocks(image)
    open_ = (values.min(1) > 0.01) & (values.max(1) < 0.99)
    sigmas = np.sqrt(np.square(blocks(response)).mean(1))
    return float(np.percentile(sigmas[open_] if open_.sum() >= 10 else sigmas, 20))


def _sharpness(image: np.ndarray, noise: float) -> float:
    """The least of the four directions; 1 (sharp) where nothing but noise can be seen."""
    if min(image.shape) <= 8:
        return 1.0

    def energy(dy: int, dx: int) -> float:
        height, width = image.shape
        columns = slice(max(0, dx), width + min(0, dx)), slice(max(0, -dx), width + min(0, -dx))
        return float(np.square(image[dy:, columns[0]] - image[: height - dy, columns[1]]).mean())

    ratios = []
    for dy, dx in _DIRECTIONS:
        near, far = (energy(step * dy, step * dx) - 2 * noise**2 for step in (1, 4))
        # The noise estimate may be off by a third of the noise's energy; that is counted in favour of sharpness.
        ratios.append((max(near, 0) + 0.6 * noise**2) / far if far > 1e-6 + 0.6 * noise**2 else 1.0)
    return min(1.0, *ratios)


def _stripes(image: np.ndarray) -> float:
    """Sigma of column offsets: the median over all rows of each column's difference from its neighbours' mean."""
    if min(image.shape) < 16:
        return 0.0
    offsets = np.median(image[:, 1:-1] - (image[:, :-2] + image[:, 2:]) / 2, axis=0)
    return float(np.median(np.abs(offsets)) / 0.6745 / np.sqrt(1.5))
