"""Where one source ends within the other: results fade into that other alone."""

from __future__ import annotations

from itertools import product

import numpy as np

from fusecli.images.grid import Grid, mapping, moved
from fusecli.images.opencv import cv2

FEATHER_SHARE = 0.055  # of the side of the part that both cover, over which results fade into one source
FEW = 3  # slices: a shorter fade across the slices of a volume is none
ROUNDING = 1e-4  # of a voxel: what counts for less than this is nothing, exactly
SMALLEST = 33  # px, side of the smallest gap that counts; a dead pixel is none
COARSE = 1024  # px, the longer side at which gaps are looked at: filters as wide as large maps need are slow
AROUND = (5, 17, 65)  # px, sides of the squares whose means fill smaller gaps; the finer, the more of it is there
SQUARE = 256  # px, side of what is filled at once: a map's wide margins and what has no gaps are passed over
STRIP = 64  # rows that are blended at once: the float values of a whole large frame would take hundreds of MB


def faded(inside: np.ndarray, least: int) -> np.ndarray:
    """float32 H×W in [0, 1]: 0 where ``inside`` (float32, 0 or 1) is 0, rising to 1 within it.

    The larger that is, the farther it takes, and at least ``least`` (odd) pixels. The image's own borders are none.
    """
    feather = max(least, round(FEATHER_SHARE * float(np.sqrt(np.count_nonzero(inside)))) | 1)
    inner = cv2.erode(inside, np.ones((feather, feather), np.uint8))
    return cv2.blur(inner, (feather, feather), borderType=cv2.BORDER_REPLICATE)


def shares(grid: Grid, other: Grid, slices: slice = slice(None)) -> np.ndarray | None:
    """`faded` of volumes: float32 K×H×W, how much ``other`` counts at some slices of ``grid``. None: all, everywhere.

    It rises from those faces of ``other`` beyond which ``grid`` goes on, over a part of the length across the face; of
    a stack of few slices all are whole.
    """
    matrix = mapping(grid, other)
    corners = moved(matrix, grid.corners())
    ranges = (range(*slices.indices(grid.shape[2])), range(grid.shape[1]), range(grid.shape[0]))
    k, j, i = np.ix_(*(np.array(one, np.float32) for one in ranges))
    share: np.ndarray | None = None
    for size, row, there in zip(other.shape, matrix.astype(np.float32), corners.T, strict=False):
        # A voxel extends half its size beyond its centre, one of either grid.
        step = np.abs(row[:3]).sum()
        reach, half = max(1, step) / 2, min(1, step) / 2
        width = FEATHER_SHARE * (size - 1)
        if width < FEW and np.abs(row[:2]) @ grid.shape[:2] < 1:
            width = 0  # faces along the slices show in none of them, and all that fades is the first and last slice
        # What rises within less than a voxel would be lost between two: there it counts by how much of it they hold.
        narrow = max(0, half - width / 2)
        index = row[0] * i + row[1] * j + row[2] * k + row[3]
        # Half a voxel more, of the finer grid, makes no edge.
        for depth, low in ((index, there.min()), (size - 1 - index, size - 1 - there.max())):
            if low <= -reach - half:
                rising = np.clip((depth + reach + narrow - ROUNDING) / (width + 2 * (narrow - ROUNDING)), 0, 1)
                share = rising if share is None else share * rising
    return share


def beside_gaps(missing: np.ndarray) -> np.ndarray | None:
    """float32 H×W as of `faded`, for a source that lacks data in ``missing`` (bool); None where no gap is large."""
    height, width = missing.shape
    step = max(1, max(height, width) // COARSE)
    coarse = max(1, width // step), max(1, height // step)
    gaps = cv2.resize(missing.view(np.uint8), coarse, interpolation=cv2.INTER_AREA)  # rounded: where most is missing
    least = max(1, SMALLEST // step) | 1
    # Narrow corners and scan lines that end in a margin are none of it: they are `bridged`.
    large = cv2.morphologyEx(gaps, cv2.MORPH_OPEN, np.ones((least, least), np.uint8))
    if not large.any():
        return None
    share = faded((1 - large).astype(np.float32), least)
    return cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)


def bridged(image: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The image, H×W or H×W×3, with its gaps filled from around them, farther than half of AROUND[-1] with black.

    Small ones, as of clouds and scan lines, do not fade out: being dark, they would leave outlines in results.
    """
    result, halo = image.copy(), AROUND[-1] // 2
    for top, left in product(*(range(0, side, SQUARE) for side in missing.shape)):
        gaps = missing[top : top + SQUARE, left : left + SQUARE]
        near = tuple(slice(max(0, start - halo), start + SQUARE + halo) for start in (top, left))
        if not gaps.any():
            continue
        inside = result[top : top + SQUARE, left : left + SQUARE]
        if missing[near].all():
            inside[:] = 0
            continue
        known: np.ndarray = (~missing[near]).astype(np.float32)
        known = known if image.ndim == 2 else cv2.merge([known] * 3)
        # Of the gaps alone: H×W or H×W×3 values of a square around become N or N×3.
        inner = tuple(slice(start and halo, (start and halo) + SQUARE) for start in (top, left))
        seen, filling, rest = image[near] * known, np.float32(0), np.float32(1)
        for side in AROUND:
            weight, total = (cv2.blur(one, (side, side))[inner][gaps] for one in (known, seen))
            enough = 4 if side < AROUND[-1] else side**2  # of the widest, one pixel: else what is sparse would be dark
            part = rest * np.minimum(enough * weight, 1)
            filling, rest = filling + part * total / np.maximum(weight, 1 / AROUND[-1] ** 2), rest - part
            if not rest.any():
                break
        inside[gaps] = filling if image.dtype.kind == "f" else np.rint(filling)
    return result


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


def within(image: np.ndarray, share: np.ndarray | None) -> np.ndarray:
    """The source that ends, black where results do without it, not its border pixels repeated."""
    if share is None:
        return image
    share = share if image.ndim == share.ndim else share[..., None]
    return np.where(share > 0, image, image.dtype.type(0))
