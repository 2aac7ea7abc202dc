"""Contact sheets: sources and results side by side, small enough to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fusecli.images import frames
from fusecli.images.opencv import cv2

WIDTH, GAP = 360, 6


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], path: Path) -> None:
    """Write rows of images (gray or RGB; uint8, uint16 or float in [0, 1]), each scaled to WIDTH pixels across."""
    lines = [np.hstack([_cell(image, _height(row[0])) for image in row]) for row in rows]
    width = max(line.shape[1] for line in lines)
    frames.write(path, [np.vstack([np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0))) for line in lines])])


def _height(image: np.ndarray) -> int:
    return min(4 * WIDTH, max(1, round(image.shape[0] * WIDTH / image.shape[1])))


def _cell(image: np.ndarray, height: int) -> np.ndarray:
    scale = {"uint8": 1.0, "uint16": 1 / 257}.get(image.dtype.name, 255.0)
    color = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image
    shrinking = image.shape[1] > WIDTH
    small = cv2.resize(color, (WIDTH, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    cell = np.clip(np.rint(small.astype(np.float32) * scale), 0, 255).astype(np.uint8)
    return np.pad(cell, ((0, GAP), (0, GAP), (0, 0)))
