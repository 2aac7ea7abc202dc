"""Read a DICOM series, single or multi-frame, into a Volume. fusecli.images.derived writes results.

Slices are sorted by position along their normal, never by name or instance number, and must lie a constant step apart:
a series that cannot be laid out like this is refused with the reason.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, pixel_array
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fusecli.errors import FusecliError, InputError, UsageError, counted
from fusecli.images.dicom_planes import (
    Place,
    Plane,
    arrange,
    between,
    frame_count,
    group,
    is_projections,
    number,
    planes_of,
    stations,
)
from fusecli.images.dicom_series import MODALITIES, TELL_VOLUMES_APART, Series, brief, dcmread, has_color
from fusecli.images.grid import Grid
from fusecli.images.volume import Volume, unread

log = logging.getLogger("fusecli")

_PHYSICAL = {name for side in ("ct", "pet", "spect") for name in MODALITIES[side]}  # their values have a unit
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")  # floats are those of parametric maps
FLOAT_PADDING = {  # first and last value, as `_padding`, of floats
    "FloatPixelPaddingValue": "FloatPixelPaddingRangeLimit",
    "DoubleFloatPixelPaddingValue": "DoubleFloatPixelPaddingRangeLimit",
}
_EXTRA = "pip install 'fusecli[dicom]'"
_LIBJPEG = "pip install pylibjpeg pylibjpeg-libjpeg"  # no part of the extra, since its licence is the GPL
_POINT = "TemporalPositionIndex"  # which time point a frame of an enhanced image belongs to
_LONG = ("SL", "UL")  # value representations (VR) of 32 bits

# Takes the number of images at every position; returns which to take (from 0), or None if none is chosen.
Among = Callable[[int], str | None]


@dataclass
class Origin:
    """Datasets without pixels: one per slice, or one in all and the frame (from 0) of each slice."""

    datasets: list[Dataset]
    frames: list[int] | None = None


def read(series: Series, side: str, among: Among = lambda count: None) -> Volume:
    """The volume of one series. Raises InputError with file and reason where it cannot be laid out as one.

    Raises UsageError where it holds several and none is chosen, or the chosen one does not exist.
    """
    if series.modality and series.modality not in MODALITIES[side]:
        log.warning("%s: the file says modality %s; read as --%s", series.source, series.modality, side)
    with _telling_damage(series):
        return (_read_frames if series.is_multi_frame else _read_slices)(series, among)


def check_choice(series: Series, among: Among) -> None:
    """What `read` raises of the volume to take, from the headers alone."""
    with _telling_damage(series):
        _one_volume(series, among, log.debug)  # `read` will warn


@contextmanager
def _telling_damage(series: Series) -> Iterator[None]:
    try:
        yield
    except FusecliError:
        raise
    except Exception as error:  # as in `dicom_series.scan`: damage within sequences, for example
        raise InputError(f"{series.source}: a header is damaged ({type(error).__name__}: {brief(error)})") from error


def differences(a: Volume, b: Volume) -> list[str]:
    """Reasons why two DICOM volumes may not belong together; the texts do not identify the patients."""
    first, second = a.origin.datasets[0], b.origin.datasets[0]
    found = []
    if str(first.get("PatientID") or "") != str(second.get("PatientID") or ""):
        found.append("they carry different patient identifiers")
    frames = [str(one.get("FrameOfReferenceUID") or "") for one in (first, second)]
    if all(frames) and frames[0] != frames[1]:
        found.append("they have different frames of reference, so positions agree only if they were registered before")
    return found


def _read_slices(series: Series, among: Among) -> Volume:
    """A volume of single-frame files, enhanced ones among them."""
    source = series.source
    kept, planes = _one_volume(series, among)
    series = replace(series, headers=[series.headers[k] for k in kept])
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
        order, affine = arrange(planes, source)
    headers = [series.headers[index] for index in order]
    if affine is not None:
        _tell_thinned(source, [header for _, header in headers], float(np.linalg.norm(affine[:3, 2])))
    scale = _common_scale([_scaling(header) for _, header in headers], series)
    datasets: list[Dataset] = []
    voxels: np.ndarray | None = None
    for index, (path, _) in enumerate(headers):
        dataset, pixels = _slice(path, planes[order[index]].place, index, len(headers))
        if scale is None and not series.is_color:
            pixels = _quantities(pixels, dataset, _scaling(dataset))
        if voxels is None:
            voxels = np.empty((len(headers), *pixels.shape), pixels.dtype)
        if pixels.shape != voxels.shape[1:]:
            raise InputError(f"{path}: is not of the size or colour of the others in its series")
        voxels[index] = pixels
        datasets.append(dataset)
    assert voxels is not None
    window = Counter(_window(dataset) for dataset in datasets).most_common(1)[0][0]
    return _volume(voxels, affine, source, scale, window, Origin(datasets))


def _tell_thinned(source: Path, headers: list[Dataset], step: float) -> None:
    """Warn where only every second slice is there, say, which leaves no gap: by instance numbers and stated step."""
    stated = abs(between(headers[0]))
    skips = np.unique(np.abs(np.diff([number(header, "InstanceNumber", np.nan) for header in headers])))
    if len(headers) > 2 and skips.size == 1 and skips[0] > 1 and step > 0.9 * skips[0] * stated > 0:
        log.warning(
            "%s: slices lie %.4g mm apart, where the files state %.4g mm, and instance numbers go by %d: perhaps only "
            "one slice in so many was exported",
            *(source, step, stated, skips[0]),
        )


def _slice(path: Path, place: Place | None, index: int, count: int) -> tuple[Dataset, np.ndarray]:
    """A file and its pixels. Raises InputError that says which of ``count`` slices would be missing."""
    try:
        dataset = _full(path)
        return dataset, _pixels(dataset, path)
    except InputError as error:
        if place is None or count == 1:
            raise
        at = ", ".join(f"{mm:g}" for mm in place.position)
        raise InputError(
            f"{error}; without it the series lacks slice {index + 1} of {count}, at position {at} mm"
        ) from error


def _one_volume(series: Series, among: Among, warn: Callable[..., None] = log.warning) -> tuple[list[int], list[Plane]]:
    """Indices of one volume's files, or frames of the only file, and their planes. Raises UsageError as `read`."""
    stack = next((path for path, header in series.headers if frame_count(header) > 1), None)
    if stack and len(series.headers) > 1:
        raise InputError(
            f"{stack}: a multi-frame image among {len(series.headers)} of one series; give this file alone"
        )
    if stack:
        header = series.headers[0][1]
        planes = planes_of(stack, header)
        content = (group(header, frame, "FrameContentSequence", Dataset()) for frame in range(len(planes)))
        points = [number(one, _POINT, np.nan) for one in content]
        numbers = {"frame numbers": np.arange(len(planes)), _POINT: np.array(points)}
    else:
        planes = [planes_of(path, header)[0] for path, header in series.headers]
        numbers = {
            name: np.array([number(header, name, np.nan) for _, header in series.headers])
            for name in TELL_VOLUMES_APART
        }
    kept = _of_one_volume(series.source, planes, numbers, among, warn)
    return kept, [planes[k] for k in kept]


def _of_one_volume(
    source: Path, planes: list[Plane], numbers: dict[str, np.ndarray], among: Among, warn: Callable[..., None]
) -> list[int]:
    """Indices of one volume's planes, one per position, where each has equally many (echoes, phases or time points).

    numbers: attributes that may tell the planes of one position apart; the first is used whose values each name a whole
    volume, else the first that does tell them apart.
    """
    everything = list(range(len(planes)))
    at = stations(planes)
    if at is None:
        return everything  # `arrange` refuses them with the reason
    if len(set(np.bincount(at))) > 1:
        everything = _whole(source, at, numbers, warn)
        at, numbers = at[everything], {name: values[everything] for name, values in numbers.items()}
    counts = np.bincount(at)
    count = int(counts[0])
    apart = [name for name, values in numbers.items() if _tell_apart(at, values)]
    telling = min(apart, key=lambda name: np.unique(numbers[name]).size > count, default=None)
    if (counts != count).any() or (count > 1 and telling is None):
        return everything
    index = among(count)
    if index is None and count > 1:
        raise UsageError(
            f"{source}: holds {count} images at each of {len(counts)} positions (echoes, b-values, phases, time "
            f"points or places of the table); choose one by --volume 0 … {count - 1}, in the order of their {telling}"
        )
    if int(index or 0) >= count:
        raise UsageError(f"{source}: has no volume {index}; it holds {count}, counted from 0")
    if telling is None:
        return everything
    order = np.lexsort((numbers[telling], at)).reshape(-1, count)
    return [everything[k] for k in order[:, int(index or 0)]]


def _whole(source: Path, at: np.ndarray, numbers: dict[str, np.ndarray], warn: Callable[..., None]) -> list[int]:
    """Indices of the planes in complete volumes, where some positions have more planes than others.

    A scan that was stopped also holds complete volumes. All planes where no number tells volumes apart, or none of
    these is complete.
    """
    for name, values in numbers.items():
        found = [np.flatnonzero(values == value) for value in np.unique(values)]
        if any(len(set(at[one])) < len(one) for one in found):
            continue
        whole = [one for one in found if len(one) == at.max() + 1]
        if whole:
            left = len(at) - sum(map(len, whole))
            warn(
                "%s: left out %s whose %s lacks some of the %d positions: the scan was stopped, or files are missing",
                *(source, counted(left, "image"), name, at.max() + 1),
            )
            return sorted(int(k) for one in whole for k in one)
    return list(range(len(at)))


def _tell_apart(at: np.ndarray, numbers: np.ndarray) -> bool:
    """Whether no two planes of one position have the same number."""
    return bool(np.isfinite(numbers).all()) and len({*zip(at, numbers, strict=True)}) == len(at)


def _read_frames(series: Series, among: Among) -> Volume:
    """A volume of one multi-frame file: enhanced CT, MR and PET, nuclear medicine, and stacks without geometry."""
    path = series.files[0]
    if is_projections(series.headers[0][1]):
        raise InputError(
            f"{path}: holds the projections of a SPECT, whose slices are yet to be reconstructed; give the "
            "reconstructed series (its ImageType says RECON TOMO)"
        )
    order, planes = _one_volume(series, among)
    affine = None
    if any(plane.place for plane in planes):
        ranks, affine = arrange(planes, path)
        order = [order[k] for k in ranks]
    dataset = _full(path)
    pixels = _pixels(dataset, path)
    pixels = pixels[order] if order != list(range(len(pixels))) else pixels
    scales = [_scaling(dataset, frame) for frame in order]
    scale = _common_scale(scales, series)
    if scale is None and not series.is_color:
        pixels = np.stack([_quantities(one, dataset, its) for one, its in zip(pixels, scales, strict=True)])
    window = Counter(_window(dataset, frame) for frame in order).most_common(1)[0][0]
    return _volume(pixels, affine, path, scale, window, Origin([dataset], order))


@dataclass(frozen=True)
class _Scale:
    """How stored values become physical quantities. padding: first and last stored value that mark no voxel.

    signed only takes part in comparisons, see `_common_scale`.
    """

    slope: float
    intercept: float
    inverted: bool
    table: bool
    bits: int
    signed: bool
    padding: tuple[int, int] | None


def _common_scale(scales: list[_Scale], series: Series) -> _Scale | None:
    """The one scale of voxels that can stay as they are stored; None where they become quantities, and of colours."""
    one = scales[0]
    simple = one.slope > 0 and not one.inverted and not one.table and one.bits <= 16
    return one if simple and len(set(scales)) == 1 and not series.is_color else None


def _scaling(dataset: Dataset, frame: int = 0) -> _Scale:
    rescale = group(dataset, frame, "PixelValueTransformationSequence", dataset)
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
    """First and last stored value that mark padding, such as that around a circular field of view.

    They are signed if the pixels are, whatever the tag says: some files write -2000 as 63536. They keep the number of
    bits of the tag, so that a value which no pixel of fewer bits can have marks no padding.
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
    """Whether low values are to be shown bright and high ones dark (MONOCHROME1).

    This tells how an image is displayed, not what it holds: Hounsfield units and uptake stay what they are, and only
    values without a unit, such as those of MR, are inverted.
    """
    physical = str(dataset.get("Modality") or "") in _PHYSICAL
    return dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not physical


def _quantities(pixels: np.ndarray, dataset: Dataset, scale: _Scale) -> np.ndarray:
    """Stored values as float32 quantities: NaN for padding, negated where they are to be inverted."""
    if scale.table:
        values = np.asarray(apply_modality_lut(pixels, dataset), np.float64)
    else:
        values = pixels.astype(np.float64) * scale.slope + scale.intercept
    values[_padded(pixels, scale) | ~np.isfinite(values)] = np.nan
    for value, limit in FLOAT_PADDING.items():
        if value in dataset:
            first = number(dataset, value, np.nan)
            low, high = sorted([first, number(dataset, limit, first)])
            values[(low <= pixels) & (pixels <= high)] = np.nan
    return (-values if scale.inverted else values).astype(np.float32)


def _window(dataset: Dataset, frame: int = 0) -> tuple[float, float] | None:
    """Ends of the display window that the file asks for (PS3.3, C.11.2.1.2), of the first one if it has several."""
    voi = group(dataset, frame, "FrameVOILUTSequence", dataset)
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
    scale: _Scale | None,
    window: tuple[float, float] | None,
    origin: Origin,
) -> Volume:
    """The volume of stored values with their ``scale``; None: of quantities (NaN: padding) or colours."""
    grid = None if affine is None else Grid((voxels.shape[2], voxels.shape[1], voxels.shape[0]), affine)
    dtype = np.dtype(np.uint8 if voxels.dtype == np.uint8 else np.uint16)
    slope, intercept = (scale.slope, scale.intercept) if scale else (1.0, 0.0)
    if voxels.ndim == 3 and (scale is None or scale.padding):
        padded = _padded(voxels, scale) if scale else np.isnan(voxels)
        # The lowest value, at most 0: padding's own would widen the shown range and bleed into voxels on resampling.
        voxels[padded] = voxels.min(where=~padded, initial=0)
    return Volume(voxels, grid, source, "dicom", dtype, slope, intercept, window, origin)


def _full(path: Path) -> Dataset:
    try:
        return dcmread(path)
    except Exception as error:
        raise InputError(f"{path}: {unread(error, f'cannot be read as DICOM ({brief(error)})')}") from error


def _pixels(dataset: Any, path: Path) -> np.ndarray:
    """Take stored values out of ``dataset``, which the writer keeps: [frames×]H×W, or uint8 RGB [frames×]H×W×3."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    name = next((name for name in _PIXELS if name in dataset), None)
    if name is None:
        raise InputError(f"{path}: has no pixels; the file is cut off, or holds something else than an image")
    missing = _missing_codecs(UID(syntax), path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = _decoded(dataset)
            if dataset.PhotometricInterpretation == "PALETTE COLOR":
                entries, lowest, _ = dataset.RedPaletteColorLookupTableDescriptor
                # Some files hold palette entries of 8 bits, but declare 16.
                deep = apply_color_lut(np.arange(lowest, lowest + (entries or 2**16)), dataset).max() > 255
                pixels = apply_color_lut(pixels, dataset)
                pixels = (pixels >> 8 if deep else pixels).astype(np.uint8)
    except Exception as error:
        if "12-bit" in str(error) and "pylibjpeg-libjpeg" in missing:
            raise InputError(
                f"{path}: compressed as {UID(syntax).name} with 12 bits, which only one codec reads: {_LIBJPEG}"
            ) from error
        extra = f", or needs more codecs: {_EXTRA}" if "gdcm" in missing or "openjpeg" in missing else ""
        raise InputError(
            f"{path}: the pixels cannot be decoded: the file is cut off or damaged ({brief(error)}){extra}"
        ) from error
    del dataset[name]
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    color = has_color(dataset)
    if color and pixels.dtype != np.uint8:
        top = 2.0 ** int(dataset.get("BitsStored") or 16) - 1
        pixels = np.rint(pixels * (255 / top)).astype(np.uint8)
    frames = frame_count(dataset)
    return pixels.reshape(frames, *pixels.shape[-(2 + color) :]) if frames > 1 else pixels


def _decoded(dataset: Any) -> np.ndarray:
    """Like pydicom's `pixel_array`, but also for old files whose values lie in the highest bits, not the lowest."""
    bits, cell = int(dataset.get("BitsStored") or 16), int(dataset.get("BitsAllocated") or 16)
    below = int(dataset.get("HighBit") or 0) + 1 - bits
    if 0 < below <= cell - bits:
        dataset.BitsStored = bits + below
        pixels = pixel_array(dataset)
        dataset.BitsStored = bits
        if not (pixels & (2**below - 1)).any():  # else HighBit is what is wrong
            return np.asarray(pixels >> below)
    return pixel_array(dataset)


def _missing_codecs(syntax: UID, path: Path) -> str:
    """Which codecs for a transfer syntax are not installed, as pydicom says it. Raises InputError where none is."""
    if not (syntax.is_transfer_syntax and syntax.is_compressed and syntax.is_encapsulated):
        return ""
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise InputError(f"{path}: compressed as {syntax.name}, which fusecli does not read") from error
    if not decoder.is_available:
        raise InputError(f"{path}: compressed as {syntax.name}; reading that needs more codecs: {_EXTRA}")
    return ", ".join(decoder.missing_dependencies)
