"""Where voxels lie in the patient, and how one volume is resampled to the grid of another.

Patient space is RAS+ in mm as in NIfTI: x to the patient's right, y to the front, z to the head. DICOM uses LPS+;
``flip_lps`` converts between the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fusecli.errors import InputError
from fusecli.extras import need

SAME = 0.01  # of a voxel: grids whose voxels are nowhere further apart count as one grid
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
_SNAP = 1e-6  # relative rounding error within which a number counts as whole


@dataclass(frozen=True, eq=False)
class Grid:
    """shape: columns, rows, slices (the order of i, j, k). affine: 4×4, voxel centre (i, j, k, 1) -> RAS mm."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm from voxel to voxel along i, j and k."""
        x, y, z = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    @property
    def centre(self) -> np.ndarray:
        """RAS mm of the middle of the volume."""
        return self.points((np.array(self.shape) - 1) / 2)

    def points(self, voxels: np.ndarray) -> np.ndarray:
        """RAS mm of voxel indices …×3 (i, j, k)."""
        return moved(self.affine, voxels)

    def corners(self) -> np.ndarray:
        """Indices 8×3 of the corner voxels."""
        return np.array(np.meshgrid(*((0, size - 1) for size in self.shape))).reshape(3, -1).T

    def __str__(self) -> str:
        sizes = "×".join(f"{mm:.2f}" if mm >= 0.1 else f"{mm:.2g}" for mm in self.spacing)  # few µm are not 0
        return f"{'×'.join(map(str, self.shape))} voxels of {sizes} mm"


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points …×3 transformed by a 4×4 matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def flip_lps(affine: np.ndarray) -> np.ndarray:
    """Convert an affine to LPS into one to RAS, or the reverse."""
    return _FLIP @ affine


def check_affine(affine: np.ndarray, source: object) -> None:
    """Raise InputError unless the affine is finite and invertible: no axis has zero length or lies along another."""
    advice = "mend the header, or convert the volume again from its DICOM files"
    if not np.isfinite(affine).all():
        raise InputError(f"{source}: the affine holds NaN or infinity, so no voxel has a place; {advice}")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths == 0).any():
        raise InputError(f"{source}: the affine has an axis of zero length, so voxels have no place; {advice}")
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise InputError(f"{source}: two axes of the affine point the same way; {advice}")


def mapping(grid: Grid, other: Grid) -> np.ndarray:
    """4×4: voxel indices of ``grid`` -> indices of the same points in ``other``; near-whole entries are made whole."""
    matrix = np.linalg.solve(other.affine, grid.affine)
    nearest = np.round(matrix)
    return np.where(np.abs(matrix - nearest) < _SNAP * np.maximum(1, np.abs(nearest)), nearest, matrix)


def same(grid: Grid, other: Grid, within: float = SAME) -> bool:
    """Whether two grids have the same voxels at the same places, up to ``within`` a voxel."""
    if grid.shape != other.shape:
        return False
    corners = grid.corners()
    return bool(np.abs(moved(mapping(grid, other), corners) - corners).max() < within)


def coverage(grid: Grid, other: Grid) -> float:
    """Share of ``grid``'s voxels that lie inside ``other``, estimated on a lattice of at most 32 points per axis."""
    axes = [np.unique(np.linspace(0, size - 1, min(size, 32))) for size in grid.shape]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    matrix = mapping(grid, other)
    there = moved(matrix, lattice)
    # A voxel extends half its size beyond its centre, so a single slice overlaps another that lies that close.
    reach = np.maximum(0.5, np.abs(matrix[:3, :3]).sum(1) / 2)
    return float(((there >= -reach) & (there <= np.array(other.shape) - 1 + reach)).all(1).mean())


def around(grid: Grid, other: Grid) -> tuple[slice, slice, slice]:
    """Indices (slices, rows, columns) of the smallest box of ``grid``'s voxels that holds all of ``other`` in it."""
    there = moved(mapping(other, grid), other.corners())
    low, high = np.floor(there.min(0)).astype(int), np.ceil(there.max(0)).astype(int) + 1
    i, j, k = (slice(*np.clip(ends, 0, size)) for *ends, size in zip(low, high, grid.shape, strict=True))
    return k, j, i


def resample(voxels: np.ndarray, source: Grid, target: Grid, slices: slice = slice(None)) -> np.ndarray:
    """``voxels`` (K×H×W or K×H×W×3, on ``source``) at the voxels of ``target``, or of some of its slices: float32.

    Linear interpolation; beyond the outermost voxels of ``source`` these are repeated. Where a pixel of ``target``
    spans several voxels of ``source`` it is the mean of as many samples across the pixel (within the slice), so that
    coarse grids do not alias.
    Raises UsageError where scipy is not installed.
    """
    why = "the two volumes have different grids; bringing one to the other needs scipy"
    ndimage = need("scipy.ndimage", why, "fusecli[resample]")
    first, last, _ = slices.indices(target.shape[2])
    if voxels.ndim == 4:
        planes = [resample(voxels[..., channel], source, target, slices) for channel in range(voxels.shape[3])]
        return np.stack(planes, -1)
    matrix = mapping(target, source)
    steps = np.linalg.norm(matrix[:3, :3], axis=0)  # voxels of source from pixel to pixel of target
    columns, rows = (max(1, math.floor(step + 0.25)) for step in steps[:2])
    shape = (last - first, target.shape[1], target.shape[0])
    total: np.ndarray | None = None
    for u in _parts(columns):
        for v in _parts(rows):
            start = matrix[:3, :3] @ (u, v, first) + matrix[:3, 3]
            # Arrays are indexed k, j, i.
            sample = ndimage.affine_transform(
                voxels,
                _diagonal(matrix[2::-1, 2::-1]),
                start[::-1],
                shape,
                np.float32,
                order=1,
                mode="nearest",
                prefilter=False,
            )
            total = sample if total is None else np.add(total, sample, out=total)
    assert total is not None
    return total if columns * rows == 1 else np.multiply(total, np.float32(1 / (columns * rows)), out=total)


def _parts(count: int) -> np.ndarray:
    """Centres of ``count`` equal parts of a pixel, relative to the pixel's centre."""
    return (np.arange(count) + 0.5) / count - 0.5


def _diagonal(matrix: np.ndarray) -> np.ndarray:
    """Only the diagonal where all other entries are 0: scipy is several times faster with it."""
    return np.diag(matrix) if np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0 else matrix
