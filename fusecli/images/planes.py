"""Three orthogonal planes through the centre of a volume, as radiologists look at them."""

from __future__ import annotations

import numpy as np
from nibabel.orientations import io_orientation

from fusecli.images.grid import Grid
from fusecli.images.opencv import cv2

GAP = 4


def planes(voxels: np.ndarray, grid: Grid | None) -> np.ndarray:
    """K×H×W or K×H×W×3 uint8 -> one picture of the axial, coronal and sagittal plane, one above the other.

    The patient's right is on the left, front and head are up, and millimetres are of equal length everywhere. Oblique
    volumes are shown along their own axes, the nearest ones. Without ``grid`` slices are taken for axial ones.
    """
    affine = np.diag([-1.0, -1, 1, 1]) if grid is None else grid.affine
    spacing = (1.0, 1.0, 1.0) if grid is None else grid.spacing
    orientation = io_orientation(affine)  # of i, j, k: the patient's axis, and whether along (1) or against it (-1)
    axes = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in range(3)]  # of x, y, z: which of i, j, k
    index = [size // 2 for size in voxels.shape[2::-1]]
    pictures = []
    for across, down in ((0, 1), (0, 2), (1, 2)):
        cut: list[int | slice] = [slice(None)] * 3
        normal = axes[3 - across - down]
        cut[2 - normal] = index[normal]
        image = voxels[tuple(cut)]  # its axes are those of k, j, i that are left, in this order
        if axes[down] < axes[across]:
            image = image.swapaxes(0, 1)
        # x to the right, y to the front and z to the head all begin at the left or top at their far end.
        image = image[:: -1 if orientation[axes[down], 1] > 0 else 1, :: -1 if orientation[axes[across], 1] > 0 else 1]
        finest = min(spacing)
        size = tuple(
            max(1, round(length * spacing[axes[axis]] / finest))
            for length, axis in zip(image.shape[1::-1], (across, down), strict=True)
        )
        pictures.append(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR))
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([_padded(picture, width) for picture in pictures])


def _padded(picture: np.ndarray, width: int) -> np.ndarray:
    left = (width - picture.shape[1]) // 2
    sides = [(0, GAP), (left, width - picture.shape[1] - left), (0, 0)]
    return np.pad(picture, sides[: picture.ndim])
