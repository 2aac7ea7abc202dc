"""Volume: a stack of slices, where it lies in the patient, and which of its values become black and white."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusecli.errors import InputError, UsageError
from fusecli.images.grid import Grid
from fusecli.images.intensity import Range, set_apart

log = logging.getLogger("fusecli")

BRAIN = (0.0, 80.0)  # Hounsfield units shown of a CT that names no window: centre 40, width 80
_FAT = -100.0  # Hounsfield units: what lies below is air and lung
_WATER = 1000.0  # where water is without the intercept; in Hounsfield units only bone is there
_TISSUE = 150.0  # Hounsfield units: fat and soft tissue differ less from water
_NOISE = 20.0  # Hounsfield units: any CT spans more; one that was scaled to [-1, 1] does not
PERCENTILES = (0.5, 99.5)  # of the voxels of a volume, shown as black and white
_BEYOND = 2  # times as large as all others is what marks missing voxels
_SAMPLE = 2**21  # voxels that decide a percentile
_FEW = {"ct": 50, "mri": 50, "pet": 10, "spect": 10}  # distinct values or fewer suggest labels; counts may be low
_ALIKE = 0.6  # share of an MRI's voxels without noise between them that suggests labels; in 8 bits 0.3 are alike
_LOOKED_AT = 2**17  # voxels examined for labels, and for what a window shows
_DARK = 0.05  # of a window: what never exceeds it looks black. Of what is not black, so much has to be less than white


def unread(error: BaseException, otherwise: str) -> str:
    """Why a file cannot be read: in the system's words, as of a permission or a lost share, or ``otherwise``."""
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) and error.strerror else otherwise


@dataclass
class Volume:
    """voxels: K×H×W (integers, or float32) or K×H×W×3 (uint8 RGB), indexed by slice, row and column.

    The quantity a voxel stands for (Hounsfield units, Bq/ml …) is ``slope`` × voxel + ``intercept``, slope > 0.
    grid: None where the file does not say where its voxels lie. dtype: the file's own sample type.
    window: what the file asks to be shown, as quantities. origin: what only the writer of the same kind needs.
    """

    voxels: np.ndarray
    grid: Grid | None
    source: Path
    kind: str  # nifti or dicom
    dtype: np.dtype
    slope: float = 1.0
    intercept: float = 0.0
    window: tuple[float, float] | None = None
    origin: Any = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        slices, rows, columns = self.voxels.shape[:3]
        return columns, rows, slices

    @property
    def is_color(self) -> bool:
        return self.voxels.ndim == 4

    def stored(self, shown: Range) -> Range:
        """A range of quantities as the range of stored voxels."""
        return Range((shown.lo - self.intercept) / self.slope, (shown.hi - self.intercept) / self.slope)


def by_slice(convert: Callable[[np.ndarray], np.ndarray], stack: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A stack whose slices are converted one by one: a large volume's values between would take gigabytes."""
    converted = np.empty(stack.shape, dtype)
    for index, values in enumerate(stack):
        converted[index] = convert(values)
    return converted


def parse_window(option: str) -> Range:
    """The range of ``--window CENTER,WIDTH``. Raises UsageError where it makes no sense."""
    try:
        centre, width = (float(part) for part in option.split(","))
    except ValueError:
        raise UsageError(f"--window {option}: expected two numbers CENTER,WIDTH such as 40,80") from None
    if not (np.isfinite(centre) and np.isfinite(width) and width > 0):
        raise UsageError(f"--window {option}: WIDTH must be above 0, and both finite")
    return Range(centre - width / 2, centre + width / 2)


def shown_range(
    volume: Volume, side: str, window: Range | None = None, looked_at: tuple[slice, ...] | None = None
) -> Range:
    """The quantities that become black and white: one range for the whole volume, the ``window`` if there is one.

    Else, of CT: see `_ct_window`. PET and SPECT: 0 (there is no negative uptake) to a high percentile of the volume, or
    of the part that is ``looked_at`` where that is higher: a head in the middle of a whole-body field of view would
    otherwise be white all over. Others from a low percentile. Warns of what looks like labels, and of a window in which
    nearly all is black or white. Raises InputError for a volume whose voxels are all equal.
    """
    if volume.is_color:
        if window is not None:
            log.warning("%s: is in colour and shown as it is; --window is for gray volumes", volume.source)
        return Range(0.0, 255.0)
    flat = volume.voxels.reshape(-1)
    low, high = _quantities(volume, float(flat.min()), float(flat.max()))
    if low == high:
        raise InputError(f"{volume.source}: every voxel of the {side} volume is {low:g}; there is nothing to fuse")
    sample = _some(volume.voxels, _LOOKED_AT)
    values, counts = np.unique(sample, return_counts=True)
    patches = side == "mri" and _is_patches(volume, values[counts.argmax()])
    if patches or values.size <= min(_FEW[side], sample.size // 8):
        log.warning(
            "%s: holds hardly more than %d different values, as a mask or a label map does; give the image itself",
            *(volume.source, values.size),
        )
    if side == "ct":
        window = window or _ct_window(volume, low, high)
    if window is not None:
        within = volume.stored(window)
        above = sample[sample > within.lo]
        dark = high - window.lo < _DARK * (window.hi - window.lo)
        if dark or (above.size and np.percentile(above, 100 * _DARK) >= within.hi):
            log.warning(
                "%s: the window %g … %g shows hardly anything of the values %g … %g; choose another by --window, in "
                "the file's unit",
                *(volume.source, window.lo, window.hi, low, high),
            )
        return window
    lo, hi = _spread(volume)
    if side in ("pet", "spect"):
        if high <= 0:
            raise InputError(f"{volume.source}: no value of the {side} volume is above 0; there is no uptake to show")
        if low < 0:
            log.warning("%s: negative values (down to %g) are shown as 0", volume.source, low)
        lo = 0.0
        if looked_at is not None and volume.voxels[looked_at].size:
            hi = max(hi, _spread(replace(volume, voxels=volume.voxels[looked_at]), warns=False)[1])
    # In a volume that is nearly all background both percentiles are background.
    return Range(lo, hi) if hi > lo else Range(min(lo, low) if side == "mri" else lo, high)


def _is_patches(volume: Volume, background: float) -> bool:
    """Whether most voxels in the middle slice are as those beside them, as in a map of however many labels.

    Not their neighbours: these are alike in an image whose voxels were repeated, as by nearest-neighbour resampling.
    """
    middle = volume.voxels[len(volume.voxels) // 2]
    alike = (middle[:, 2:] == middle[:, :-2])[middle[:, 2:] != background]
    return alike.size > 0 and bool(alike.mean() > _ALIKE)


def _spread(volume: Volume, warns: bool = True) -> tuple[float, float]:
    """The PERCENTILES of a volume as quantities, without a value that apparently marks missing voxels, as −32768 may.

    Such a value is also of another size than all others: not near 0, which air has in a scan without its skull.
    """
    sample = _some(volume.voxels, _SAMPLE)
    first, last = (float(value) for value in np.percentile(sample, PERCENTILES))
    apart = set_apart(sample, Range(first, last), PERCENTILES)
    lo, hi = _quantities(volume, first, last)
    if apart is None:
        return lo, hi
    value, low, high = _quantities(volume, apart.value, apart.others.lo, apart.others.hi)
    if abs(value) <= _BEYOND * max(abs(low), abs(high)):
        return lo, hi
    if warns:
        log.warning(
            "%s: %.2g %% of the voxels are %.10g, far from the rest (%g to %g), which is taken for missing values and "
            "left out of the range that is shown",
            *(volume.source, 100 * apart.share, value, low, high),
        )
    return low, high


def _quantities(volume: Volume, *voxels: float) -> list[float]:
    return [voxel * volume.slope + volume.intercept for voxel in voxels]


def _some(voxels: np.ndarray, count: int) -> np.ndarray:
    """About ``count`` of the voxels, evenly spread."""
    step = max(1, voxels.size // count)
    while math.gcd(step, voxels.shape[-1]) > 1:  # else only some columns would be sampled, perhaps of background
        step += 1
    return voxels.reshape(-1)[::step]


def _ct_window(volume: Volume, low: float, high: float) -> Range:
    """Where the user names none: the file's, all of 8 bits, or BRAIN. low, high: the volume's extremes.

    Values that are hardly Hounsfield units, as of a cone beam CT or of one that was scaled for a network, would be all
    black or all white in BRAIN: they are shown by their percentiles.
    """
    if volume.window is not None:
        return Range(*volume.window)
    if volume.dtype == np.uint8 and (volume.slope, volume.intercept) == (1.0, 0.0):
        log.info("%s: 8-bit values are no Hounsfield units; shown as they are (--window changes it)", volume.source)
        return Range(0.0, 255.0)
    lo, hi = _spread(volume, warns=False)
    units = volume.slope * _some(volume.voxels, _LOOKED_AT).astype(np.float32) + volume.intercept
    beyond = np.count_nonzero(units > BRAIN[1])
    # In Hounsfield units most of what is above 0 is soft tissue; without the intercept it is near _WATER, where bone,
    # too, may have been clipped to one value.
    near = np.count_nonzero((np.abs(units - _WATER) < _TISSUE) & (units < units.max()))
    shifted = lo > _FAT and (2 * beyond > np.count_nonzero(units > BRAIN[0]) or 2 * near > beyond)
    if high - low > _NOISE and not shifted:
        return Range(*BRAIN)
    found = Range(lo, hi) if hi > lo else Range(low, high)
    log.warning(
        "%s: the values %g … %g are hardly Hounsfield units, in which air is -1000 and water 0; shown from %g to %g "
        "(--window changes it)",
        *(volume.source, low, high, found.lo, found.hi),
    )
    return found
