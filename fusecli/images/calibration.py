"""A calibration of frames that do not line up: one transform for a rigid pair of cameras, applied to every pair.

A transform maps pixel centres of the infrared frame, (x, y) from (0, 0), to those of the visible one;
fusecli.images.registration estimates it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from fusecli.errors import InputError, UsageError
from fusecli.images.colour import luma
from fusecli.images.coverage import faded
from fusecli.images.opencv import cv2

log = logging.getLogger("fusecli")

FEATHER = 33  # px, the least over which results fade into the visible where the infrared ends
SHRINKS = 0.7  # scale below which the infrared is downsized before warping: else pixels are skipped, and edges jagged

Size = tuple[int, int]  # width, height


@dataclass(frozen=True, eq=False)
class Calibration:
    """matrix: 3×3. ir_size, vis_size: (width, height) it was made for; None where not known."""

    matrix: np.ndarray
    ir_size: Size | None = None
    vis_size: Size | None = None

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """From JSON: "matrix" (3 rows of 3), or "scale" and "shift" ([x, y] in visible pixels). Raises UsageError.

        Warns where `fusecli align` rated its own estimate as doubtful or poor.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"))
            if "matrix" in values:
                matrix = np.array(values["matrix"], np.float64)
            else:
                scale, (x, y) = float(values["scale"]), values["shift"]
                matrix = np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]], np.float64)
            sizes = [values.get(key) and (int(values[key][0]), int(values[key][1])) for key in ("ir_size", "vis_size")]
            if any(size and min(size) < 1 for size in sizes):
                raise ValueError("a size without pixels")
        except OSError as error:
            raise UsageError(f"--align {path}: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise UsageError(
                f'--align {path}: not a calibration ({type(error).__name__}: {error}); it needs "matrix", '
                'or "scale" and "shift"'
            ) from error
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
            raise UsageError(f"--align {path}: the matrix must have 3 rows of 3 numbers and an inverse")
        if values.get("trust") in ("doubtful", "poor"):
            log.warning("--align %s: its estimate is %s: %s", path, values["trust"], values.get("reason"))
        return cls(matrix, *sizes)

    def between(self, ir_size: Size, vis_size: Size) -> np.ndarray:
        """The matrix for frames of these sizes, rescaled where they differ from the calibrated sizes.

        Raises InputError for frames of another aspect ratio.
        """
        matrix = self.matrix
        for side, known, size in (("infrared", self.ir_size, ir_size), ("visible", self.vis_size, vis_size)):
            if known is None or known == size:
                continue
            across, down = size[0] / known[0], size[1] / known[1]
            if abs(across - down) > 0.01 * across:
                raise InputError(
                    f"{side} frame of {size[0]}×{size[1]} pixels: the calibration was made for {known[0]}×{known[1]}"
                )
            scaling = resizing(known, size)
            matrix = matrix @ np.linalg.inv(scaling) if side == "infrared" else scaling @ matrix
        return matrix


def resizing(before: Size, after: Size) -> np.ndarray:
    """3×3 of an image resize, which maps edges onto edges; so pixel centres shift by half a pixel's growth."""
    x, y = after[0] / before[0], after[1] / before[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def warp(infrared: np.ndarray, visible: tuple[int, int], calibration: Calibration) -> np.ndarray:
    """The infrared frame on the grid of visible frames of H×W, its border pixels repeated beyond its edges.

    infrared: H×W or H×W×3, uint8 or float32 in [0, 1]; the result is of that type, H×W.
    """
    size, before = visible[::-1], infrared.shape[1::-1]
    matrix = calibration.between(before, size)
    moving = luma(infrared)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2])))) / max(abs(matrix[2, 2]), 1e-9)
    if scale < SHRINKS:
        small = max(1, round(scale * before[0])), max(1, round(scale * before[1]))
        moving = cv2.resize(moving, small, interpolation=cv2.INTER_AREA)
        matrix = matrix @ np.linalg.inv(resizing(before, small))
    here = cv2.warpPerspective(moving, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.rint(here * 255).astype(np.uint8) if infrared.dtype == np.uint8 else here


def reach(infrared: tuple[int, int], visible: tuple[int, int], calibration: Calibration | None) -> np.ndarray | None:
    """H×W in [0, 1] for frames of these heights and widths: 0 where no infrared is, 1 well inside it.

    In between results fade into the visible, so that the infrared's border does not show in them. The larger the
    infrared is there, the wider they do: in a frame of 12 megapixels 33 px are a hard line. None where the infrared
    covers the whole frame, as it is taken to do without a calibration.
    """
    if calibration is None:
        return None
    with _reaching:  # else two threads would both compute it, and both warn
        return _reach(infrared, visible, calibration)


_reaching = Lock()


@lru_cache(8)  # the same for all frames of a rig
def _reach(infrared: tuple[int, int], visible: tuple[int, int], calibration: Calibration) -> np.ndarray | None:
    size = visible[::-1]
    whole = np.ones(infrared, np.float32)
    # To the nearest: pixels reach half a pixel beyond their centres, which of a small infrared are many visible ones.
    inside = cv2.warpPerspective(whole, calibration.between(infrared[::-1], size), size, flags=cv2.INTER_NEAREST)
    if inside.min() >= 1:
        return None
    if (covered := inside.mean()) < 0.05:
        log.warning("--align: the infrared reaches %.0f %% of the visible frame; is it that rig's?", 100 * covered)
    return faded(inside, FEATHER)
