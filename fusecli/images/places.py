"""Whether two maps cover the same ground: where they do not, equal pixels show different points."""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fusecli.images.headers import Unreadable
from fusecli.images.intensity import evenly
from fusecli.images.metadata import POINT, RASTER_TYPE, SCALE, TIES, TRANSFORMATION, Tag, map_keys
from fusecli.images.pair import Pair

log = logging.getLogger("fusecli")

_SYSTEMS = (3072, 2048)  # GeoTIFF keys: the projection, or else the geographic system, by EPSG code
_CUSTOM = 32767  # a system without a code


@np.errstate(over="ignore", invalid="ignore")  # of damaged tags
def warn_of_places(pairs: Sequence[Pair]) -> None:
    """Warn, once, if one of three pairs of a sequence are maps of which one lies over a pixel beside the other."""
    for pair in evenly(pairs, 3):
        one, other = (_place_of(path) for path in pair.files)
        if one is None or other is None:
            continue
        (first, pixel, system), (second, coarse, another) = one, other
        if system != another and system and another:
            what = f"are in different coordinate systems (EPSG:{system} and EPSG:{another})"
        elif np.abs(first - second).max() > max(pixel, coarse):
            what = f"cover different ground ({_extent(first)}; {_extent(second)})"
        else:
            continue
        log.warning(
            "%s and %s %s, but are fused pixel by pixel; bring one onto the other's grid, as with gdalwarp",
            *(*pair.files, what),
        )
        return


def _place_of(path: Path) -> tuple[np.ndarray, float, int] | None:
    """Corners of a map, 3×2 in its coordinates, the size of its pixels and its system; None of what is no map."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    from fusecli.images import tiff

    try:
        tags, height, width = tiff.place(path)
        keys = map_keys(tags)
        matrix = _matrix(tags)
    except (Unreadable, OSError, struct.error, ValueError):
        return None
    if matrix is None:
        return None
    start = -0.5 if keys.get(RASTER_TYPE) == POINT else 0.0
    ends = np.array([(0, 0), (width, 0), (0, height)]) + start
    system = next((code for code in map(keys.get, _SYSTEMS) if code and code != _CUSTOM), 0)
    return ends @ matrix[:, :2].T + matrix[:, 2], float(np.abs(matrix[:, :2]).sum(1).max()), system


def _extent(corners: np.ndarray) -> str:
    """In the coordinates of the map, across and along it."""
    return ", ".join(f"{low:.10g} to {high:.10g}" for low, high in zip(corners.min(0), corners.max(0), strict=True))


def _matrix(tags: Sequence[Tag]) -> np.ndarray | None:
    """2×3, from pixels (column, row, 1) to map coordinates; None without one."""
    values = {code: np.frombuffer(data, "<f8") for code, _, _, data, _ in tags if code in (SCALE, TIES, TRANSFORMATION)}
    if TRANSFORMATION in values:
        return values[TRANSFORMATION].reshape(4, 4)[:2, [0, 1, 3]]
    if SCALE not in values or values.get(TIES, np.empty(0)).size != 6:
        return None
    (across, down), (column, row, _, x, y, _) = values[SCALE][:2], values[TIES]
    return np.array([[across, 0, x - across * column], [0, -down, y + down * row]])
