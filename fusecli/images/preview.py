"""Pictures small enough to look at: single ones, and contact sheets of sources and results side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fusecli.images import frames
from fusecli.images.opencv import cv2

WIDTH, GAP = 360, 6


def encoded(image: np.ndarray, longest: int, ending: str, options: Sequence[int] = ()) -> bytes:
    """A picture file with sides of at most ``longest`` pixels. image: as `row` takes them. options: OpenCV's."""
    small = _eight_bit(image)
    scale = longest / max(small.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in small.shape[1::-1]]
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(ending, small[..., ::-1] if small.ndim == 3 else small, options)
    assert done
    return data.tobytes()


def row(*images: np.ndarray) -> list[np.ndarray]:
    """Images of equal size (gray or RGB; uint8, uint16 or float in [0, 1]) as one line of a sheet, uint8 RGB."""
    height, width = images[0].shape[:2]
    size = WIDTH, min(4 * WIDTH, max(1, round(height * WIDTH / width)))
    return [_cell(image, size) for image in images]


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], path: Path) -> None:
    """Write rows of images, as `row` takes or makes them, one below the other."""
    lines = [np.hstack([np.pad(cell, ((0, GAP), (0, GAP), (0, 0))) for cell in row(*images)]) for images in rows]
    width = max(line.shape[1] for line in lines)
    lines = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0))) for line in lines]
    frames.write(path, [np.vstack(lines)])


def _cell(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    interpolation = cv2.INTER_AREA if image.shape[1] > WIDTH else cv2.INTER_LINEAR
    cell = _eight_bit(cv2.resize(image, size, interpolation=interpolation))
    return np.repeat(cell[..., None], 3, 2) if cell.ndim == 2 else cell


def _eight_bit(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    scale = 1 / 257 if image.dtype == np.uint16 else 255.0
    return np.clip(np.rint(image * scale), 0, 255).astype(np.uint8)
