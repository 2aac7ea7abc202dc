"""Volumes as radiologists look at them: turned upright, and three orthogonal planes through the centre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import io_orientation

from fusecli.images.grid import Grid
from fusecli.images.opencv import cv2

GAP = 4
LONGEST = 4096  # pixels of a side, where the finest voxels would make a picture larger
THICK = 1.5  # times the spacing of axial slices: along an axis coarser than this the volume was acquired slice by slice


@dataclass(frozen=True)
class Turn:
    """How voxels are reoriented, so that the processing of their slices does not depend on how a file stores them.

    axes: which of k, j and i (0, 1, 2) become slices, rows and columns. steps: 1, or -1 where these are reversed.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    steps: tuple[int, int, int] = (1, 1, 1)

    @classmethod
    def upright(cls, grid: Grid, like: Grid | None = None) -> Turn:
        """The turn to axial slices, or those in which ``like`` (default: ``grid``) was acquired."""
        return cls.along(_normal(like or grid), grid)

    @classmethod
    def along(cls, normal: int, grid: Grid) -> Turn:
        """The turn to slices stacked along an axis of the patient (0, 1, 2: x, y, z); front or head up.

        The patient's right, or front, is on the left.
        """
        axes, directions = _orientation(grid)
        across, down = (axis for axis in range(3) if axis != normal)
        # Pictures have the far ends of x (the patient's right), y (front) and z (head) on the left or at the top.
        rows, columns = (-1 if directions[axis] > 0 else 1 for axis in (down, across))
        slices = 1 if directions[normal] > 0 else -1
        return cls((2 - axes[normal], 2 - axes[down], 2 - axes[across]), (slices, rows, columns))

    def voxels(self, stored: np.ndarray) -> np.ndarray:
        """K×H×W or K×H×W×3 turned; a view."""
        return self._reversed(stored.transpose(*self.axes, *range(3, stored.ndim)))

    def back(self, turned: np.ndarray) -> np.ndarray:
        """Undo ``voxels``."""
        stored = self._reversed(turned).transpose(*np.argsort(self.axes), *range(3, turned.ndim))
        return np.ascontiguousarray(stored)

    def _reversed(self, turned: np.ndarray) -> np.ndarray:
        return turned[tuple(slice(None, None, step) for step in self.steps)]

    def grid(self, stored: Grid) -> Grid:
        """Where the turned voxels lie."""
        affine = stored.affine.copy()
        sources = [2 - axis for axis in self.axes[::-1]]  # of columns, rows and slices: which of i, j, k
        for place, (source, step) in enumerate(zip(sources, self.steps[::-1], strict=True)):
            affine[:3, place] = step * stored.affine[:3, source]
            if step < 0:
                affine[:3, 3] += stored.affine[:3, source] * (stored.shape[source] - 1)
        columns, rows, slices = (stored.shape[source] for source in sources)
        return Grid((columns, rows, slices), affine)


def _orientation(grid: Grid) -> tuple[list[int], list[float]]:
    """For the patient's x, y and z: which of i, j, k runs along it, and whether in its direction (1) or not (-1)."""
    orientation = io_orientation(grid.affine)
    axes = np.argsort(orientation[:, 0])
    return axes.tolist(), orientation[axes, 1].tolist()


def _normal(grid: Grid) -> int:
    """The patient's axis (0, 1, 2: x, y, z) along which the slices are stacked."""
    axes, _ = _orientation(grid)
    single = [axis for axis in (2, 1, 0) if grid.shape[axes[axis]] == 1]
    if single:
        return single[0]
    spacing = [grid.spacing[axis] for axis in axes]
    coarsest = int(np.argmax(spacing))
    return coarsest if spacing[coarsest] > THICK * spacing[2] else 2


def planes(voxels: np.ndarray, grid: Grid | None, part: tuple[slice, ...] | None = None) -> np.ndarray:
    """K×H×W or K×H×W×3 uint8 -> one picture of the axial, coronal and sagittal plane, one above the other.

    They cut the middle of the volume, or of a ``part`` of it (slices, rows, columns). The patient's right is on the
    left, front and head are up, and millimetres are of equal length everywhere. Oblique volumes are cut along their own
    axes, not the patient's. Without ``grid`` slices are taken for axial ones.
    """
    grid = grid or Grid(voxels.shape[2::-1], np.diag([-1.0, -1, 1, 1]))
    turn = Turn.along(2, grid)
    turned, (x, y, z) = turn.voxels(voxels), turn.grid(grid).spacing
    pixel = max(min(grid.spacing), max(np.multiply(grid.shape, grid.spacing)) / LONGEST)  # mm
    # The middle as the file counts it: of an even number of slices, the second of the two in the middle.
    cut = part or (slice(None),) * 3
    middle = [sum(span.indices(size)[:2]) // 2 for span, size in zip(cut, grid.shape[::-1], strict=True)]
    k, j, i = (
        middle[axis] if step > 0 else size - 1 - middle[axis]
        for axis, step, size in zip(turn.axes, turn.steps, turned.shape, strict=False)
    )
    pictures = []
    for image, across, down in ((turned[k], x, y), (turned[::-1, j], x, z), (turned[::-1, :, i], y, z)):
        size = [max(1, round(n * mm / pixel)) for n, mm in zip(image.shape[1::-1], (across, down), strict=True)]
        pictures.append(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR))
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([_padded(picture, width) for picture in pictures])


def _padded(picture: np.ndarray, width: int) -> np.ndarray:
    left = (width - picture.shape[1]) // 2
    sides = [(0, GAP), (left, width - picture.shape[1] - left), (0, 0)]
    return np.pad(picture, sides[: picture.ndim])
