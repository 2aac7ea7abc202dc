"""Positions and order of the slices of DICOM files; slices that are no constant step apart are refused.

The step need not be along the normal: with gantry tilt each slice of a CT is also shifted against the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import NuclearMedicineImageStorage

from fusecli.errors import InputError
from fusecli.images.grid import flip_lps

_DUPLICATE = 0.01  # of a pixel: slices closer than this lie at the same position
_ASIDE = 0.1  # share of the step by which a slice may be off its position
_BELOW_A_GAP = 0.24  # the same, where positions are rounded: one missing slice moves others by a quarter at least
_PARALLEL = 1e-3  # by how much direction cosines of one series may differ


class Place(NamedTuple):
    """LPS mm of the first pixel's centre; row and column direction; mm from row to row and from column to column.

    unit: mm that the last decimal of each coordinate of the position stands for, as the file writes it.
    """

    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray
    unit: np.ndarray


@dataclass
class Plane:
    """One slice. label: its name in messages. place: None if tags are ``missing``. thickness: mm, for a lone slice."""

    label: str
    place: Place | None
    missing: str
    thickness: float


def number(dataset: Dataset, name: str, default: float) -> float:
    """An attribute's number, the first of several, or ``default`` where there is none."""
    try:
        value = dataset.get(name)
        return float(value[0] if isinstance(value, MultiValue) else value)
    except (TypeError, ValueError, IndexError):
        return default


def _numbers(dataset: Dataset, name: str, count: int) -> np.ndarray | None:
    """``count`` finite numbers, or None."""
    try:
        numbers = np.array([float(part) for part in dataset.get(name)], np.float64)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.size == count and np.isfinite(numbers).all() else None


def group(dataset: Dataset, frame: int, name: str, default: Dataset) -> Dataset:
    """A functional group of a frame, as enhanced images have them: its own, else the shared one, else ``default``."""
    per_frame, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    levels = [*(per_frame[frame : frame + 1] if per_frame else ()), *(shared or ())]
    return next((level[name].value[0] for level in levels if level.get(name)), default)


def frame_count(dataset: Dataset) -> int:
    """The number of frames: 1 unless the file says more."""
    return max(1, int(number(dataset, "NumberOfFrames", 1)))


def planes_of(path: Path, dataset: Dataset) -> list[Plane]:
    """The planes of all frames of a file; a geometry stated for the file as a whole counts only for a single frame."""
    count = frame_count(dataset)
    labels = [f"{path.name} frame {frame + 1}" for frame in range(count)] if count > 1 else [path.name]
    default = Dataset() if count > 1 else dataset
    planes = [frame_plane(label, dataset, frame, default) for frame, label in enumerate(labels)]
    detectors = dataset.get("DetectorInformationSequence")
    if detectors and not any(plane.place for plane in planes):
        return _nuclear(labels, dataset, detectors[0]) or planes
    return planes


def frame_plane(label: str, dataset: Dataset, frame: int, default: Dataset) -> Plane:
    """The plane of a frame, by its functional groups, else by ``default``."""
    names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    return _plane(label, *(group(dataset, frame, name, default) for name in names))


def _plane(label: str, position: Dataset, orientation: Dataset, measures: Dataset) -> Plane:
    found: dict[str, Any] = {
        "ImagePositionPatient": _numbers(position, "ImagePositionPatient", 3),
        "ImageOrientationPatient": _numbers(orientation, "ImageOrientationPatient", 6),
        "PixelSpacing": _numbers(measures, "PixelSpacing", 2),
    }
    missing = [name for name, value in found.items() if value is None]
    place = None if missing else Place(*(*found.values(), _units(position.ImagePositionPatient)))
    return Plane(label, place, ", ".join(missing), between(measures) or 1.0)


def _units(position: Sequence[object]) -> np.ndarray:
    """What the last decimal of each coordinate stands for: 0.01 in 12.50, and 1 in -120."""
    return np.array([10.0 ** min(0, int(Decimal(str(one)).as_tuple().exponent)) for one in position])


def _nuclear(labels: Sequence[str], dataset: Dataset, detector: Dataset) -> list[Plane]:
    """Planes of reconstructed SPECT: the file places the first; the others follow by a step along its normal.

    The step may be negative. In gated images every slice has one frame per phase. Empty for other images.
    """
    first = _plane(labels[0], detector, detector, dataset)
    apart = between(dataset) or (first.thickness if len(labels) == 1 else 0)
    if first.place is None or not apart or "RECON" not in _image_type(dataset):
        return []
    step = np.cross(first.place.orientation[:3], first.place.orientation[3:]) * apart
    slices = _numbers(dataset, "SliceVector", len(labels))
    slices = np.arange(len(labels)) if slices is None else slices - 1
    return [
        Plane(label, first.place._replace(position=first.place.position + n * step), "", apart)
        for n, label in zip(slices, labels, strict=True)
    ]


def is_projections(dataset: Dataset) -> bool:
    """Whether it is SPECT that is yet to be reconstructed: its frames are views from around, and no slices."""
    kind = _image_type(dataset)
    return dataset.get("SOPClassUID") == NuclearMedicineImageStorage and "TOMO" in kind and "RECON" not in kind


def _image_type(dataset: Dataset) -> str:
    return " ".join(dataset.get("ImageType") or [])


def between(measures: Dataset) -> float:
    """mm from slice to slice; negative (nuclear medicine) where slices run against the normal; 0 if unknown."""
    return number(measures, "SpacingBetweenSlices", 0) or number(measures, "SliceThickness", 0)


def stations(planes: Sequence[Plane]) -> np.ndarray | None:
    """For each plane the rank, from 0, of its position along the normal; None unless all are placed and parallel."""
    places = [plane.place for plane in planes if plane.place]
    if len(places) < len(planes) or np.ptp([place.orientation for place in places], axis=0).max() > _PARALLEL:
        return None
    normal = np.cross(places[0].orientation[:3], places[0].orientation[3:])
    distances = np.array([place.position for place in places]) @ normal
    sorting = np.argsort(distances)
    apart = np.diff(distances[sorting], prepend=distances[sorting[0]]) >= _DUPLICATE * places[0].spacing.min()
    found = np.empty(len(planes), int)
    found[sorting] = np.cumsum(apart)
    return found


def arrange(planes: Sequence[Plane], source: object) -> tuple[list[int], np.ndarray]:
    """(order of the planes along their normal, affine voxel -> RAS mm). Raises InputError where there is none."""
    places = [plane.place for plane in planes if plane.place is not None]
    if len(places) < len(planes):
        lost = next(plane for plane in planes if plane.place is None)
        raise InputError(
            f"{source}: {lost.label} does not say where it lies ({lost.missing} missing or unreadable), so the order "
            f"of the {len(planes)} slices is unknown; export the series again with its geometry, or move this file away"
        )
    first = places[0]
    row, column = first.orientation[:3], first.orientation[3:]
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(row @ column) > 0.01 or not (first.spacing > 0).all():
        raise InputError(
            f"{source}: {planes[0].label} has directions that are not two unit vectors at right angles "
            "(ImageOrientationPatient), or pixels without size (PixelSpacing); mend the header"
        )
    for plane, place in zip(planes, places, strict=True):
        if np.abs(place.orientation - first.orientation).max() > _PARALLEL:
            raise InputError(
                f"{source}: slices are not parallel ({planes[0].label} and {plane.label}): a localizer, or several "
                "stacks in one series; move the slices of the other orientation away, or, where one file holds them "
                "all, convert it, for example by dcm2niix, and give one stack"
            )
        if np.abs(place.spacing / first.spacing - 1).max() > _PARALLEL:
            raise InputError(f"{source}: pixels of {planes[0].label} and {plane.label} have different sizes")
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    positions = np.array([place.position for place in places])
    distances = positions @ normal
    order = [int(index) for index in np.argsort(distances, kind="stable")]
    unit = np.min([place.unit for place in places], axis=0)  # trailing zeros may be left out: the finest is that of all
    rounding = float(np.abs(normal) @ unit)
    _check_steps(distances[order], [planes[index] for index in order], source, first.spacing.min(), rounding)
    step = normal * abs(planes[0].thickness)
    if len(order) > 1:
        step = (positions[order[-1]] - positions[order[0]]) / (len(order) - 1)
        _check_line(positions[order], [planes[index] for index in order], source, normal, first.spacing.min() / 2, unit)
    affine = np.eye(4)
    affine[:3, 0] = row * first.spacing[1]
    affine[:3, 1] = column * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[order[0]]
    return order, flip_lps(affine)


def _check_steps(distances: np.ndarray, planes: list[Plane], source: object, pixel: float, rounding: float) -> None:
    """Raises InputError unless slices, in the order of their ``distances``, are a constant step apart.

    rounding: mm by which the distance between two slices may be off as their positions are rounded.
    """
    steps = np.diff(distances)
    if steps.size == 0:
        return
    double = np.flatnonzero(steps < _DUPLICATE * pixel)
    if double.size:
        a, b = planes[double[0]], planes[double[0] + 1]
        raise InputError(
            f"{source}: {a.label} and {b.label} lie at the same position ({_mm(distances[double[0]])} along the "
            f"normal), {double.size} such pair{'s' if double.size > 1 else ''} in all: copies, or several echoes, "
            "phases, time points or overlapping places of the table in one series; keep one image per position, or "
            "convert the series, for example by dcm2niix, and choose by --volume"
        )
    each = np.arange(len(distances))
    stated = distances - each * abs(planes[0].thickness)
    # Rounded to a millimetre, steps of 1.25 look like gaps; so the step has to be the one that the file states.
    if _are_even(distances, each, rounding) or np.ptp(stated) < 0.999 * rounding:
        return
    gaps = np.maximum(1, np.round(steps / np.median(steps)))
    places = np.concatenate([[0], np.cumsum(gaps)])
    if _are_even(distances, places, rounding):
        count = int(places[-1]) - len(steps)
        wide = np.flatnonzero(gaps > 1)
        step = (distances[-1] - distances[0]) / places[-1]
        missing = (distances[index] + step * n for index in wide for n in range(1, int(gaps[index])))
        raise InputError(
            f"{source}: {count} slice{'s are' if count > 1 else ' is'} missing, at "
            f"{', '.join(map(_mm, islice(missing, 5)))}{' …' if count > 5 else ''} along the normal "
            f"(between {planes[wide[0]].label} and {planes[wide[0] + 1].label})"
        )
    raise InputError(
        f"{source}: slices are unequally spaced ({steps.min():.3f} to {steps.max():.3f} mm; the widest step is after "
        f"{planes[int(np.argmax(steps))].label}); resample the series to a constant step first"
    )


def _check_line(
    positions: np.ndarray, planes: list[Plane], source: object, normal: np.ndarray, half: float, unit: np.ndarray
) -> None:
    """Raises InputError unless slices, in order, lie on one line that a tilted gantry may have followed.

    half: half a pixel in mm, by which a slice may lie beside it, or by what rounding to ``unit`` explains if that is
    more: what a coordinate is off also moves the point of the line that lies across from it.
    """
    way = positions - positions[0]
    along = way[-1] / (way[-1] @ normal)  # the way for each mm along the normal
    aside = way - np.outer(way @ normal, along)
    tolerated = np.maximum(half, np.abs(np.eye(3) - np.outer(along, normal)) @ unit + 1e-9)
    if (np.abs(aside) > tolerated).any():
        far = np.linalg.norm(aside, axis=1)
        raise InputError(
            f"{source}: slices do not lie on one line, from which {planes[int(far.argmax())].label} is "
            f"{_mm(far.max())} away: several stacks in one series, or a wrong ImagePositionPatient; move such files "
            "away"
        )
    apart = way[-1] @ normal / (len(way) - 1)
    shift = apart * float(np.linalg.norm(along - normal))
    if shift > max(apart, max(half, unit.max()) / (len(way) - 1)):  # stations of a moving table, for example
        raise InputError(
            f"{source}: each slice is shifted by {_mm(shift)} against the one before, but only {_mm(apart)} away from "
            "it, and no gantry is tilted by more than 45°: several stacks in one series, or a wrong "
            "ImagePositionPatient; give one stack"
        )


def _are_even(distances: np.ndarray, places: np.ndarray, rounding: float) -> bool:
    """Whether slices lie at these multiples of one step, which the first and the last slice determine."""
    step = (distances[-1] - distances[0]) / places[-1]
    aside = max(_ASIDE * step, min(rounding, _BELOW_A_GAP * step))
    return bool(np.abs(distances - distances[0] - step * places).max() <= aside)


def _mm(value: float) -> str:
    return f"{value:.2f} mm"
