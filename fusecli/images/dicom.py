"""DICOM series, single and multi-frame, into a Volume. fusecli.images.derived writes results.

Slices are sorted by position along their normal, never by name or instance number, and lie a constant step apart: what
cannot be laid out so is refused with the reason.
"""

from __future__ import annotations

import filecmp
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, pixel_array
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fusecli.errors import FusecliError, InputError, UsageError
from fusecli.images.grid import Grid, flip_lps
from fusecli.images.volume import Volume

log = logging.getLogger("fusecli")
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # what matters is checked below
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

ENDINGS = (".dcm", ".dicom", ".ima")  # other files are recognised by their first bytes
# How a data set begins that stands in a file by itself: an element of group 2 or 8, with its type in letters or a small
# length.
_BARE = re.compile(rb"[\2\x08]\0.\0(?:[A-Z]{2}|[\0-\x7f]\0\0\0)|\0[\2\x08]\0.[A-Z]{2}", re.DOTALL)
MODALITIES = {"ct": ("CT",), "mri": ("MR",), "pet": ("PT",), "spect": ("NM", "ST")}
_PHYSICAL = {name for side in ("ct", "pet", "spect") for name in MODALITIES[side]}  # their values have a unit

_DUPLICATE = 0.01  # pixels: slices nearer than this lie at one place
_UNEVEN = 0.05  # share of the step by which steps may differ
_PARALLEL = 1e-3  # by how much direction cosines of one series may differ
_LISTED = 12
_EXTRA = "pip install 'fusecli[dicom]'"
_HEADER = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality"),
    *("PatientID", "PatientName", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "InstanceNumber"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("BitsAllocated", "PixelRepresentation", "PhotometricInterpretation", "ImageType"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DetectorInformationSequence"),
]
_LONG = ("SL", "UL")  # types of values of 32 bits
_COUNTS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PixelRepresentation")


@dataclass
class Series:
    """Files of one series, in the order of their names. headers: what `scan` read of each; patients: whose they are."""

    uid: str
    number: str
    modality: str
    description: str
    headers: list[tuple[Path, Dataset]] = field(default_factory=list)
    patients: set[str] = field(default_factory=set)

    @property
    def files(self) -> list[Path]:
        return [path for path, _ in self.headers]

    @property
    def source(self) -> Path:
        """The file, or the folder of several."""
        return self.files[0] if len(self.files) == 1 else self.files[0].parent

    @property
    def is_color(self) -> bool:
        header = self.headers[0][1]
        return int(header.get("SamplesPerPixel") or 1) > 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR"

    @property
    def is_aside(self) -> bool:
        """Whether it is a localizer or secondary capture (such as a dose report), which come with a scan's images."""
        header = self.headers[0][1]
        capture = "Secondary Capture" in UID(str(header.get("SOPClassUID") or "")).name
        return capture or "LOCALIZER" in (header.get("ImageType") or ())

    @property
    def is_multi_frame(self) -> bool:
        return _frames(self.headers[0][1]) > 1

    def ends_in(self, wanted: str) -> bool:
        """Whether ``wanted`` is the UID or its last components: whole ones, since 3 is no part of 1.2.13."""
        return f".{self.uid}".endswith(f".{wanted.lstrip('.')}")

    @property
    def slices(self) -> int:
        return sum(_frames(header) for _, header in self.headers)

    def __str__(self) -> str:
        header = self.headers[0][1]
        name = f", {self.description!r}" if self.description else ""
        return (
            f"{self.number or '(no number)'}: {self.modality or 'no modality'}, {self.slices} "
            f"slice{'s' if self.slices > 1 else ''} of {header.Columns}×{header.Rows}{name} ({self.uid})"
        )


@dataclass
class Scan:
    """What files hold. broken: those that cannot be read, and why. others: kinds of objects that are no images."""

    source: Path
    series: list[Series]
    broken: list[tuple[Path, str]]
    others: set[str]


@dataclass
class Origin:
    """Datasets without pixels: one per slice, or one in all and the frame (from 0) of each slice."""

    datasets: list[Dataset]
    frames: list[int] | None = None


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its name or its first bytes; an index (DICOMDIR) is not taken for one by name."""
    if path.name.startswith("."):
        return False
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or _BARE.match(head) is not None


def scan(source: Path, files: Iterable[Path]) -> Scan:
    """Headers of the DICOM images among ``files``, by series; reports, indices, copies and the like are left out."""
    series: dict[str, Series] = {}
    instances: dict[str, Path] = {}
    copies = 0
    broken: list[tuple[Path, str]] = []
    others: set[str] = set()
    for path in sorted(files):
        try:
            header = _dcmread(path, stop_before_pixels=True, specific_tags=_HEADER)
            kind = UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")).name
            if kind and "Image Storage" not in kind:
                others.add(kind)
                continue
            if not header.get("Rows") or not header.get("Columns"):
                broken.append((path, "the file is cut off before its image, or is no DICOM image"))
                continue
            for name in _COUNTS:
                int(header.get(name) or 0)
            _frame_plane(path.name, header, 0, header)
            original = instances.setdefault(str(header.get("SOPInstanceUID") or path), path)
            if original != path and filecmp.cmp(original, path, shallow=False):
                copies += 1
                continue
        except Exception as error:  # pydicom raises whatever it stumbles over in a damaged file
            broken.append((path, f"cannot be read as DICOM ({_brief(error)})"))
            continue
        uid = str(header.get("SeriesInstanceUID") or "")
        one = series.setdefault(
            uid,
            Series(
                *(uid, str(header.get("SeriesNumber") or ""), str(header.get("Modality") or "")),
                re.sub(r"[^ -~]", "?", str(header.get("SeriesDescription") or ""))[:40],
            ),
        )
        one.headers.append((path, header))
        one.patients.add(str(header.get("PatientID") or "") or str(header.get("PatientName") or ""))
    if copies:  # a series that was exported twice into one folder
        log.info("%s: %d of the files are copies of others, byte for byte; left out", source, copies)
    return Scan(source, sorted(series.values(), key=lambda one: (one.number.zfill(12), one.uid)), broken, others)


def choose(found: Scan, side: str, wanted: str | None = None) -> Series:
    """The series to read: by number or UID (or its end) if ``wanted``, else the only one of the side's modality.

    Localizers and secondary captures are taken only where ``wanted`` says so, or where there is nothing else.

    Raises UsageError, which lists the series, where that leaves none or several; InputError for files of two patients
    and for damaged files, since their slices would be missing.
    """
    if not found.series:
        if found.broken:
            path, reason = found.broken[0]
            raise InputError(f"{path}: {reason}")
        raise InputError(
            f"{found.source}: holds no DICOM image, but {', '.join(sorted(found.others)) or 'other files'}"
        )
    chosen = found.series
    if wanted is not None:
        chosen = [one for one in chosen if wanted == one.number] or [one for one in chosen if one.ends_in(wanted)]
    elif len(chosen) > 1:
        if len(set().union(*(one.patients for one in chosen))) > 1:
            _refuse_patients(found, chosen)
        suited = [one for one in chosen if one.modality in MODALITIES[side]]
        chosen = [one for one in suited if not one.is_aside] or suited
        if len(chosen) == 1:
            # Not its description, in which some write a name: this line is for the logs of every run.
            aside = ", but for localizers and secondary captures" if len(suited) > 1 else ""
            name = chosen[0].number or chosen[0].uid
            log.info("%s: series %s is the only one of its modality%s", found.source, name, aside)
    if len(chosen) != 1:
        listed = "".join(f"\n  {one}" for one in found.series[:_LISTED])
        more = f"\n  … and {len(found.series) - _LISTED} more" if len(found.series) > _LISTED else ""
        how = f"no single series is {wanted!r}" if wanted is not None else f"holds {len(found.series)} series"
        numbers = Counter(one.number for one in found.series if one.number)
        offered = chosen or found.series
        example = next((one.number for one in offered if numbers[one.number] == 1), offered[0].uid)
        raise UsageError(
            f"--{side} {found.source}: {how}; choose one by its number or the end of its UID, "
            f"as --series {side}={example}:{listed}{more}"
        )
    if len(chosen[0].patients) > 1:
        _refuse_patients(found, chosen)
    if found.broken:
        path, reason = found.broken[0]
        raise InputError(f"{path}: {reason}{_hole(chosen[0])}; replace the file, or move it away if it is not needed")
    return chosen[0]


def read(series: Series, side: str, among: Callable[[int], str | None] = lambda count: None) -> Volume:
    """The volume of one series. Raises InputError with file and reason for all that cannot be laid out as one.

    among: which one, from 0, of so many images at every position, if that is said.
    """
    if series.modality and series.modality not in MODALITIES[side]:
        log.warning("%s: the file says modality %s; read as --%s", series.source, series.modality, side)
    if len(series.headers) > 1 and any(_frames(header) > 1 for _, header in series.headers):
        path = next(path for path, header in series.headers if _frames(header) > 1)
        raise InputError(f"{path}: a multi-frame image among {len(series.headers)} of one series; give this file alone")
    try:
        return _read_frames(series) if series.is_multi_frame else _read_slices(series, among)
    except FusecliError:
        raise
    except Exception as error:  # as in `scan`, within sequences for example
        raise InputError(f"{series.source}: a header is damaged ({type(error).__name__}: {_brief(error)})") from error


def differences(a: Volume, b: Volume) -> list[str]:
    """Why two DICOM volumes may not belong together, without saying whose they are."""
    first, second = a.origin.datasets[0], b.origin.datasets[0]
    found = []
    if str(first.get("PatientID") or "") != str(second.get("PatientID") or ""):
        found.append("they carry different patient identifiers")
    frames = [str(one.get("FrameOfReferenceUID") or "") for one in (first, second)]
    if all(frames) and frames[0] != frames[1]:
        found.append("they have different frames of reference, so positions agree only if they were registered before")
    return found


# One plane -----------------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """LPS mm of the first pixel's centre; row and column direction; mm from row to row and from column to column."""

    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray


@dataclass
class _Plane:
    """One slice. label: how messages call it. place: None where tags are ``missing``. thickness: mm, if alone."""

    label: str
    place: _Place | None
    missing: str
    thickness: float


def _numbers(dataset: Dataset, name: str, count: int) -> np.ndarray | None:
    """``count`` finite numbers, or None."""
    try:
        numbers = np.array([float(part) for part in dataset.get(name)], np.float64)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.size == count and np.isfinite(numbers).all() else None


def number(dataset: Dataset, name: str, default: float) -> float:
    """The number, the first of several, or ``default`` where there is none."""
    try:
        value = dataset.get(name)
        return float(value[0] if isinstance(value, MultiValue) else value)
    except (TypeError, ValueError, IndexError):
        return default


def _plane(label: str, position: Dataset, orientation: Dataset, measures: Dataset) -> _Plane:
    found = {
        "ImagePositionPatient": _numbers(position, "ImagePositionPatient", 3),
        "ImageOrientationPatient": _numbers(orientation, "ImageOrientationPatient", 6),
        "PixelSpacing": _numbers(measures, "PixelSpacing", 2),
    }
    missing = [name for name, value in found.items() if value is None]
    place = None if missing else _Place(*(value for value in found.values() if value is not None))
    return _Plane(label, place, ", ".join(missing), _between(measures) or 1.0)


def _frame_plane(label: str, dataset: Dataset, frame: int, default: Dataset) -> _Plane:
    """By the functional groups of a frame, else by ``default``."""
    names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    return _plane(label, *(_group(dataset, frame, name, default) for name in names))


def _planes(path: Path, dataset: Dataset) -> list[_Plane]:
    """Of all frames of a file; of several frames none lies where the file as a whole says."""
    count = _frames(dataset)
    labels = [f"{path.name} frame {frame + 1}" for frame in range(count)] if count > 1 else [path.name]
    default = Dataset() if count > 1 else dataset
    planes = [_frame_plane(label, dataset, frame, default) for frame, label in enumerate(labels)]
    detectors = dataset.get("DetectorInformationSequence")
    if detectors and not any(plane.place for plane in planes):
        return _nuclear(labels, dataset, detectors[0]) or planes
    return planes


def _between(measures: Dataset) -> float:
    """mm from slice to slice; negative (nuclear medicine) where they go against the normal; 0 if not said."""
    return number(measures, "SpacingBetweenSlices", 0) or number(measures, "SliceThickness", 0)


def _arrange(planes: Sequence[_Plane], source: object) -> tuple[list[int], np.ndarray]:
    """(order of the planes along their normal, affine voxel -> RAS mm). Raises InputError where there is none."""
    places = [plane.place for plane in planes if plane.place is not None]
    if len(places) < len(planes):
        lost = next(plane for plane in planes if plane.place is None)
        raise InputError(
            f"{source}: {lost.label} does not say where it lies ({lost.missing} missing), so the order of the "
            f"{len(planes)} slices is unknown; export the series again with its geometry, or move this file away"
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
                "stacks in one series; move the slices of the other orientation away"
            )
        if np.abs(place.spacing / first.spacing - 1).max() > _PARALLEL:
            raise InputError(f"{source}: pixels of {planes[0].label} and {plane.label} have different sizes")
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    positions = np.array([place.position for place in places])
    distances = positions @ normal
    order = [int(index) for index in np.argsort(distances, kind="stable")]
    steps = np.diff(distances[order])
    _check_steps(steps, [planes[index] for index in order], distances[order], source, first.spacing.min())
    step = normal * abs(planes[0].thickness)
    if len(order) > 1:
        step = (positions[order[-1]] - positions[order[0]]) / (len(order) - 1)
        lateral = positions - np.outer(distances, normal)
        if np.abs(lateral - lateral[order[0]]).max() > first.spacing.min() / 2:
            raise InputError(
                f"{source}: slices are shifted against each other (gantry tilt); bring the series to a straight grid "
                "first, for example by dcm2niix, and give its NIfTI file"
            )
    affine = np.eye(4)
    affine[:3, 0] = row * first.spacing[1]
    affine[:3, 1] = column * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[order[0]]
    return order, flip_lps(affine)


def _check_steps(steps: np.ndarray, planes: list[_Plane], distances: np.ndarray, source: object, pixel: float) -> None:
    """Raises InputError unless slices are a constant step apart. ``planes`` are in the order of ``distances``."""
    if steps.size == 0:
        return
    double = np.flatnonzero(steps < _DUPLICATE * pixel)
    if double.size:
        a, b = planes[double[0]], planes[double[0] + 1]
        raise InputError(
            f"{source}: {a.label} and {b.label} lie at the same position ({_mm(distances[double[0]])} along the "
            f"normal), {double.size} such pair{'s' if double.size > 1 else ''} in all: copies, or several echoes, "
            "phases or time points in one series; keep one image per position, or convert the series, for example by "
            "dcm2niix, and choose by --volume"
        )
    usual = float(np.median(steps))
    wrong = np.flatnonzero(np.abs(steps - usual) > _UNEVEN * usual)
    if not wrong.size:
        return
    gaps = np.round(steps / usual)
    if (gaps[wrong] >= 2).all() and (np.abs(steps - gaps * usual) < _UNEVEN * usual * gaps).all():
        at = [distances[index] + usual * n for index in wrong for n in range(1, int(gaps[index]))]
        raise InputError(
            f"{source}: {len(at)} slice{'s are' if len(at) > 1 else ' is'} missing, at "
            f"{', '.join(_mm(place) for place in at[:5])}{' …' if len(at) > 5 else ''} along the normal "
            f"(between {planes[wrong[0]].label} and {planes[wrong[0] + 1].label})"
        )
    raise InputError(
        f"{source}: slices are unequally spaced ({steps.min():.3f} to {steps.max():.3f} mm; the widest step is after "
        f"{planes[int(np.argmax(steps))].label}); resample the series to a constant step first"
    )


def _hole(series: Series) -> str:
    """Which slice a series lacks, by its neighbours; for the message about a file whose header cannot be read."""
    planes = [_planes(path, header)[0] for path, header in series.headers]
    try:
        _arrange(planes, series.files[0].parent)
    except InputError as error:
        return f" ({error})" if "missing" in str(error) else ""
    return f"; the {len(planes)} readable slices leave no gap, so if it belongs to them it is the first or the last"


def _mm(value: float) -> str:
    return f"{value:.2f} mm"


# Reading -------------------------------------------------------------------------------------------------------------


def _read_slices(series: Series, among: Callable[[int], str | None]) -> Volume:
    """A volume of single-frame files, enhanced ones among them."""
    source = series.source
    planes = [_planes(path, header)[0] for path, header in series.headers]
    kept = _one_volume(series, planes, among)
    planes, series = [planes[k] for k in kept], replace(series, headers=[series.headers[k] for k in kept])
    mosaic = next((path for path, header in series.headers if "MOSAIC" in (header.get("ImageType") or [])), None)
    if mosaic:
        raise InputError(
            f"{mosaic}: holds a volume's slices side by side in one image (MOSAIC), which says nothing of where each "
            "lies; convert the series, for example by dcm2niix, and give its NIfTI file"
        )
    sizes = {(int(header.Rows), int(header.Columns)) for _, header in series.headers}
    if len(sizes) > 1:
        raise InputError(f"{source}: slices of one series have different sizes ({', '.join(map(str, sorted(sizes)))})")
    affine = None
    order = [0]
    if len(planes) > 1 or planes[0].place:
        order, affine = _arrange(planes, source)
    headers = [series.headers[index] for index in order]
    scales = {_scaling(header) for _, header in headers}
    plain = len(scales) == 1 and next(iter(scales)).is_plain and not series.is_color
    datasets: list[Dataset] = []
    voxels: np.ndarray | None = None
    for index, (path, _) in enumerate(headers):
        try:
            dataset = _full(path)
            pixels = _pixels(dataset, path)
        except InputError as error:
            place = planes[order[index]].place
            if place is None or len(headers) == 1:
                raise
            at = ", ".join(f"{mm:g}" for mm in place.position)
            raise InputError(
                f"{error}; without it the series lacks slice {index + 1} of {len(headers)}, at position {at} mm"
            ) from error
        if not plain and not series.is_color:
            pixels = _quantities(pixels, dataset, _scaling(dataset))
        if voxels is None:
            voxels = np.empty((len(headers), *pixels.shape), pixels.dtype)
        if pixels.shape != voxels.shape[1:]:
            raise InputError(f"{path}: is not of the size or colour of the others in its series")
        voxels[index] = pixels
        datasets.append(dataset)
    assert voxels is not None
    scale = _scaling(datasets[0])
    window = Counter(_window(dataset) for dataset in datasets).most_common(1)[0][0]
    return _volume(voxels, affine, source, series, scale, window, Origin(datasets), plain)


def _one_volume(series: Series, planes: list[_Plane], among: Callable[[int], str | None]) -> list[int]:
    """Which files are one volume: where every position has as many images (echoes, phases or time points), one of each.

    They are told apart by their instance numbers. Raises InputError where it is not said which volume to take.
    """
    everything = list(range(len(planes)))
    places = [plane.place for plane in planes if plane.place]
    numbers = np.array([number(header, "InstanceNumber", np.nan) for _, header in series.headers])
    if len(places) < len(planes) or np.ptp([place.orientation for place in places], axis=0).max() > _PARALLEL:
        return everything  # which will be refused
    normal = np.cross(places[0].orientation[:3], places[0].orientation[3:])
    distances = np.array([place.position for place in places]) @ normal
    sorting = np.argsort(distances)
    apart = np.diff(distances[sorting], prepend=distances[sorting[0]]) >= _DUPLICATE * places[0].spacing.min()
    stations = np.empty(len(planes), int)
    stations[sorting] = np.cumsum(apart)
    counts = np.bincount(stations)
    count = int(counts[0])
    told_apart = len({*zip(stations, numbers, strict=True)}) == len(planes) and np.isfinite(numbers).all()
    if (counts != count).any() or (count > 1 and not told_apart):
        return everything
    index = among(count)
    if index is None and count > 1:
        raise InputError(
            f"{series.source}: holds {count} images at each of {len(counts)} positions (echoes, phases or time "
            f"points); choose one by --volume 0 … {count - 1}, in the order of their instance numbers"
        )
    if int(index or 0) >= count:
        raise InputError(f"{series.source}: has no volume {index}; it holds {count}, counted from 0")
    return [int(k) for k in np.lexsort((numbers, stations)).reshape(-1, count)[:, int(index or 0)]]


def _read_frames(series: Series) -> Volume:
    """A volume of one multi-frame file: enhanced CT, MR and PET, nuclear medicine, and stacks without geometry."""
    path = series.files[0]
    dataset = _full(path)
    count = _frames(dataset)
    pixels = _pixels(dataset, path)
    planes = _planes(path, dataset)
    order, affine = list(range(count)), None
    if any(plane.place for plane in planes):
        order, affine = _arrange(planes, path)
    pixels = pixels[order] if order != list(range(count)) else pixels
    scales = [_scaling(dataset, frame) for frame in order]
    plain = len(set(scales)) == 1 and scales[0].is_plain and not series.is_color
    if not plain and not series.is_color:
        pixels = np.stack([_quantities(one, dataset, scale) for one, scale in zip(pixels, scales, strict=True)])
    window = Counter(_window(dataset, frame) for frame in range(count)).most_common(1)[0][0]
    return _volume(pixels, affine, path, series, scales[0], window, Origin([dataset], order), plain)


def _group(dataset: Dataset, frame: int, name: str, default: Dataset) -> Dataset:
    """A functional group of a frame, as enhanced images have them: its own, else the shared one, else ``default``."""
    per_frame, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    levels = [*(per_frame[frame : frame + 1] if per_frame else ()), *(shared or ())]
    return next((level[name].value[0] for level in levels if level.get(name)), default)


def _nuclear(labels: Sequence[str], dataset: Dataset, detector: Dataset) -> list[_Plane]:
    """Reconstructed SPECT: the first slice's place; the others follow by a step along the normal, or against it.

    Of gated images every slice has a frame for each phase.
    """
    first = _plane(labels[0], detector, detector, dataset)
    between = _between(dataset) or (first.thickness if len(labels) == 1 else 0)
    if first.place is None or not between or "RECON" not in " ".join(dataset.get("ImageType") or []):
        return []
    step = np.cross(first.place.orientation[:3], first.place.orientation[3:]) * between
    slices = _numbers(dataset, "SliceVector", len(labels))
    slices = np.arange(len(labels)) if slices is None else slices - 1
    return [
        _Plane(label, first.place._replace(position=first.place.position + n * step), "", between)
        for n, label in zip(slices, labels, strict=True)
    ]


@dataclass(frozen=True)
class _Scale:
    """What makes quantities of stored values. padding: from where to where these stand for no voxel at all."""

    slope: float
    intercept: float
    inverted: bool
    table: bool
    bits: int
    signed: bool
    padding: tuple[int, int] | None

    @property
    def is_plain(self) -> bool:
        """Whether voxels can stay as they are stored."""
        return self.slope > 0 and not self.inverted and not self.table and self.bits <= 16


def _scaling(dataset: Dataset, frame: int = 0) -> _Scale:
    rescale = _group(dataset, frame, "PixelValueTransformationSequence", dataset)
    slope = number(rescale, "RescaleSlope", 1.0)
    return _Scale(
        slope if slope and np.isfinite(slope) else 1.0,
        number(rescale, "RescaleIntercept", 0.0),
        _is_inverted(dataset),
        bool(dataset.get("ModalityLUTSequence")),
        int(dataset.get("BitsAllocated") or 16),
        bool(dataset.get("PixelRepresentation")),
        _padding(dataset),
    )


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    """From which to which stored value voxels are padding, around a round field of view for example.

    Signed as pixels are, whatever the tag says: some files write -2000 as 63536. Of as many bits as the tag has, since
    a value that no pixel of fewer bits can have is no padding.
    """
    first = number(dataset, "PixelPaddingValue", np.nan)
    ends = np.array([first, number(dataset, "PixelPaddingRangeLimit", first)])
    if not np.isfinite(ends).all():
        return None
    kind = f"{'i' if dataset.get('PixelRepresentation') else 'u'}{4 if dataset['PixelPaddingValue'].VR in _LONG else 2}"
    low, high = sorted(ends.astype(np.int64).astype(kind))
    return int(low), int(high)


def _padded(pixels: np.ndarray, scale: _Scale) -> np.ndarray:
    """Where stored values are padding."""
    low, high = scale.padding or (0, -1)
    return (low <= pixels) & (pixels <= high)


def _is_inverted(dataset: Dataset) -> bool:
    """Whether low values are to be seen as high ones (MONOCHROME1).

    That says how an image is displayed, not what it holds: Hounsfield units and uptake stay what they are, and only
    values without a unit, such as those of MR, are inverted.
    """
    physical = str(dataset.get("Modality") or "") in _PHYSICAL
    return dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not physical


def _quantities(pixels: np.ndarray, dataset: Dataset, scale: _Scale) -> np.ndarray:
    """float32 quantities of stored values, NaN for padding; their negative where they are inverted."""
    if scale.table:
        values = np.asarray(apply_modality_lut(pixels, dataset), np.float64)
    else:
        values = pixels.astype(np.float64) * scale.slope + scale.intercept
    values[_padded(pixels, scale)] = np.nan
    return (-values if scale.inverted else values).astype(np.float32)


def _window(dataset: Dataset, frame: int = 0) -> tuple[float, float] | None:
    """What the file asks to be shown (PS3.3, C.11.2.1.2), its first window if it has several."""
    voi = _group(dataset, frame, "FrameVOILUTSequence", dataset)
    centre, width = number(voi, "WindowCenter", np.nan), number(voi, "WindowWidth", np.nan)
    if not np.isfinite([centre, width]).all() or width < 1:
        return None
    if voi.get("VOILUTFunction") in (None, "", "LINEAR") and width > 1:
        low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    else:
        low, high = centre - width / 2, centre + width / 2
    return (-high, -low) if _is_inverted(dataset) else (low, high)


def _volume(
    voxels: np.ndarray,
    affine: np.ndarray | None,
    source: Path,
    series: Series,
    scale: _Scale,
    window: tuple[float, float] | None,
    origin: Origin,
    plain: bool,
) -> Volume:
    grid = None if affine is None else Grid((voxels.shape[2], voxels.shape[1], voxels.shape[0]), affine)
    dtype = np.dtype(np.uint8 if voxels.dtype == np.uint8 else np.uint16)
    slope, intercept = (scale.slope, scale.intercept) if plain else (1.0, 0.0)
    if (scale.padding or not plain) and not series.is_color:
        padded = _padded(voxels, scale) if plain else np.isnan(voxels)
        # As dark as the darkest, or 0: its own value would widen the range that is shown and be smeared by resampling.
        voxels[padded] = voxels.min(where=~padded, initial=0)
    return Volume(
        voxels, grid, source, "dicom", dtype, slope, intercept, series.modality or None, window, origin=origin
    )


def _dcmread(path: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=is_dicom(path), **options)
        for elements in (dataset, dataset.file_meta):
            for tag in list(elements.keys()):
                try:
                    elements[tag]
                except Exception as error:  # an unknown type, a length that does not fit it …
                    log.debug("%s: %s cannot be read: %s", path, tag, error)
                    del elements[tag]
        return dataset


def _full(path: Path) -> Dataset:
    try:
        return _dcmread(path)
    except Exception as error:
        raise InputError(f"{path}: cannot be read as DICOM ({_brief(error)})") from error


def _pixels(dataset: Any, path: Path) -> np.ndarray:
    """Stored values, [frames×]H×W, or uint8 RGB [frames×]H×W×3. They leave ``dataset``, which the writer keeps."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    if "PixelData" not in dataset:
        raise InputError(f"{path}: has no pixels; the file is cut off, or holds something else than an image")
    missing = _missing_codecs(UID(syntax), path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = pixel_array(dataset)
            if dataset.PhotometricInterpretation == "PALETTE COLOR":
                entries, lowest, _ = dataset.RedPaletteColorLookupTableDescriptor
                # Some write entries of 8 bits and call them 16.
                deep = apply_color_lut(np.arange(lowest, lowest + (entries or 2**16)), dataset).max() > 255
                pixels = apply_color_lut(pixels, dataset)
                pixels = (pixels >> 8 if deep else pixels).astype(np.uint8)
    except Exception as error:
        extra = f", or needs more codecs: {_EXTRA}" if missing else ""
        raise InputError(
            f"{path}: the pixels cannot be decoded: the file is cut off or damaged ({_brief(error)}){extra}"
        ) from error
    del dataset["PixelData"]
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.shape[-1] == 3 and int(dataset.get("SamplesPerPixel") or 1) == 3 and pixels.dtype != np.uint8:
        top = 2.0 ** int(dataset.get("BitsStored") or 16) - 1
        pixels = np.rint(pixels * (255 / top)).astype(np.uint8)
    frames = _frames(dataset)
    return pixels.reshape(frames, *pixels.shape[-(2 + _has_channels(dataset)) :]) if frames > 1 else pixels


def _missing_codecs(syntax: UID, path: Path) -> bool:
    """Whether codecs that could decode a transfer syntax are not installed. Raises InputError where none is."""
    if not (syntax.is_transfer_syntax and syntax.is_compressed and syntax.is_encapsulated):
        return False
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise InputError(f"{path}: compressed as {syntax.name}, which fusecli does not read") from error
    if not decoder.is_available:
        raise InputError(f"{path}: compressed as {syntax.name}; reading that needs more codecs: {_EXTRA}")
    return bool(decoder.missing_dependencies)


def _has_channels(dataset: Dataset) -> bool:
    return int(dataset.get("SamplesPerPixel") or 1) == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR"


def _frames(dataset: Dataset) -> int:
    return max(1, int(number(dataset, "NumberOfFrames", 1)))


def _refuse_patients(found: Scan, series: Sequence[Series]) -> None:
    files = {next(iter(one.patients)): one.files[0].name for one in series}
    if len(files) < 2:  # within one series
        one = series[0]
        files = {str(header.get("PatientID") or header.get("PatientName")): path.name for path, header in one.headers}
    a, b, *_ = files.values()
    raise InputError(
        f"{found.source}: holds images of {len(files)} patients (such as {a} and {b}); give each a folder of its own"
    )


def _brief(error: BaseException) -> str:
    """A message on one line, not too long."""
    return " ".join(str(error).split())[:200] or type(error).__name__
