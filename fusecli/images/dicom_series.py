"""Group DICOM files by series, and choose the series that is meant."""

from __future__ import annotations

import filecmp
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, MediaStorageDirectoryStorage

from fusecli.errors import InputError, UsageError, counted, itemized
from fusecli.images.dicom_planes import arrange, frame_count, frame_plane, is_projections, planes_of
from fusecli.images.volume import unread

log = logging.getLogger("fusecli")
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # what matters is checked below
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

ENDINGS = (".dcm", ".dicom", ".ima")  # other files are recognised by their first bytes
# Start of a data set in a file without preamble: an element of group 2 or 8, with its VR in letters or a small length.
_BARE = re.compile(rb"[\2\x08]\0.\0(?:[A-Z]{2}|[\0-\x7f]\0\0\0)|\0[\2\x08]\0.[A-Z]{2}", re.DOTALL)
MODALITIES = {"ct": ("CT",), "mri": ("MR",), "pet": ("PT",), "spect": ("NM", "ST")}
# Attributes that tell images of one position apart. Each time point may restart at instance 1, and anonymised PET keeps
# only the time since the series began.
TELL_VOLUMES_APART = (
    *("InstanceNumber", "TemporalPositionIdentifier", "AcquisitionNumber", "EchoTime", "DiffusionBValue"),
    *("TriggerTime", "FrameReferenceTime", "AcquisitionTime"),
)
_IMAGES = re.compile("Image Storage|Parametric Map Storage")  # in names of SOP classes
_HEADER = [
    Tag(name)  # once, and not anew for every file
    for name in (
        *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality"),
        *("PatientID", "PatientName", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", *TELL_VOLUMES_APART),
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
        *("BitsAllocated", "PixelRepresentation", "PhotometricInterpretation", "ImageType"),
        *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit"),
        *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DetectorInformationSequence"),
        "SliceVector",
    )
]
_COUNTS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PixelRepresentation")


@dataclass
class Series:
    """Files of one series, in the order of their names. headers: what `scan` read of each."""

    uid: str
    number: str
    modality: str
    description: str
    headers: list[tuple[Path, Dataset]] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        return [path for path, _ in self.headers]

    @property
    def source(self) -> Path:
        """The file, or the folder of several."""
        return self.files[0] if len(self.files) == 1 else self.files[0].parent

    @property
    def is_color(self) -> bool:
        return has_color(self.headers[0][1])

    @property
    def is_aside(self) -> bool:
        """Whether it holds nothing but localizers, captures and projections."""
        return all(_is_aside(header) for _, header in self.headers)

    @property
    def is_multi_frame(self) -> bool:
        return frame_count(self.headers[0][1]) > 1

    def ends_in(self, wanted: str) -> bool:
        """Whether ``wanted`` is the UID or its last components: whole ones, so 3 does not match 1.2.13."""
        return f".{self.uid}".endswith(f".{wanted.lstrip('.')}")

    @property
    def slices(self) -> int:
        return sum(frame_count(header) for _, header in self.headers)

    def __str__(self) -> str:
        header = self.headers[0][1]
        name = f", {self.description!r}" if self.description else ""
        return (
            f"{self.number or '(no number)'}: {self.modality or 'no modality'}, {counted(self.slices, 'slice')} of "
            f"{header.Columns}×{header.Rows}{name} ({self.uid})"
        )


def has_color(header: Dataset) -> bool:
    """Whether pixels are RGB, or become so by a palette."""
    return int(header.get("SamplesPerPixel") or 1) > 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR"


def _is_aside(header: Dataset) -> bool:
    """Whether it is a localizer, secondary capture (such as a dose report) or projections, beside a scan's images."""
    capture = "Secondary Capture" in UID(str(header.get("SOPClassUID") or "")).name
    return capture or is_projections(header) or "LOCALIZER" in (header.get("ImageType") or ())


@dataclass
class Scan:
    """What files hold. broken: those that cannot be read, and why. others: kinds of objects that are no images."""

    source: Path
    series: list[Series]
    broken: list[tuple[Path, str]]
    others: set[str]


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its ending or its first bytes; a hidden file never is."""
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
            header = dcmread(path, stop_before_pixels=True, specific_tags=_HEADER)
            kind = UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")).name
            if kind and not _IMAGES.search(kind):
                others.add(kind)
                continue
            if not header.get("Rows") or not header.get("Columns"):
                broken.append((path, "the file is cut off before its image, or is no DICOM image"))
                continue
            for name in _COUNTS:
                int(header.get(name) or 0)
            frame_plane(path.name, header, 0, header)
            original = instances.setdefault(str(header.get("SOPInstanceUID") or path), path)
            if original != path and filecmp.cmp(original, path, shallow=False):
                copies += 1
                continue
        except Exception as error:  # pydicom raises whatever it stumbles over in a damaged file
            broken.append((path, unread(error, f"cannot be read as DICOM ({brief(error)})")))
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
    if copies:  # a series that was exported twice into one folder
        log.info("%s: left out %s, byte for byte like others", source, counted(copies, "file"))
    return Scan(source, sorted(series.values(), key=lambda one: (one.number.zfill(12), one.uid)), broken, others)


def choose(found: Scan, side: str, wanted: str | None = None) -> Series:
    """The series to read: by number or UID (or its end) if ``wanted``, else the only one of the side's modality.

    Of several series with the ``wanted`` number, the one of the side's modality.

    Series of localizers, captures and projections are taken only where ``wanted`` says so, or where there is nothing
    else; such images within a series of other images are always left out.

    Raises UsageError, which lists the series, where that leaves none or several; InputError for files of two patients
    and for damaged files, since their slices would be missing.
    """
    if not found.series:
        if found.broken:
            path, reason = found.broken[0]
            raise InputError(f"{path}: {reason}")
        advice = "; give the folder that it lies in" if found.others == {MediaStorageDirectoryStorage.name} else ""
        raise InputError(
            f"{found.source}: holds no DICOM image, but {', '.join(sorted(found.others)) or 'other files'}{advice}"
        )
    chosen = _suited(found, side, wanted)
    if len(chosen) != 1:
        how = f"no single series is {wanted!r}" if wanted is not None else f"holds {len(found.series)} series"
        numbers = Counter(one.number for one in found.series if one.number)
        offered = chosen or found.series
        example = next((one.number for one in offered if numbers[one.number] == 1), offered[0].uid)
        raise UsageError(
            f"--{side} {found.source}: {how}; choose one by its number or the end of its UID, "
            f"as --series {side}={example}:{itemized(found.series)}"
        )
    (series,) = chosen
    _check_patient(found, chosen)
    if not series.is_aside:
        slices = [one for one in series.headers if not _is_aside(one[1])]
        fewer = len(series.headers) - len(slices)
        if fewer:
            what = "localizers, captures or projections"
            log.info("%s: left out %s of the series: %s", series.source, counted(fewer, "file"), what)
            series = replace(series, headers=slices)
    if found.broken:
        path, reason = found.broken[0]
        raise InputError(f"{path}: {reason}{_hole(series)}; replace the file, or move it away if it is not needed")
    return series


def _suited(found: Scan, side: str, wanted: str | None) -> list[Series]:
    """The series that may be meant, see `choose`."""
    if wanted is not None:
        named = [one for one in found.series if wanted == one.number]
        named = named or [one for one in found.series if one.ends_in(wanted)]
        # Series are numbered within a study, so a CT and an MR of two studies may have one number.
        return [one for one in named if one.modality in MODALITIES[side]] or named
    if len(found.series) == 1:
        return found.series
    _check_patient(found, found.series)
    suited = [one for one in found.series if one.modality in MODALITIES[side]]
    chosen = [one for one in suited if not one.is_aside] or suited
    if len(chosen) == 1:
        # Not its description, in which some write a name: this line is for the logs of every run.
        aside = ", but for localizers, captures and projections" if len(suited) > 1 else ""
        name = chosen[0].number or chosen[0].uid
        log.info("%s: series %s is the only one of its modality%s", found.source, name, aside)
    return chosen


def _hole(series: Series) -> str:
    """Which slice a series lacks, by its neighbours; for the message about a file whose header cannot be read."""
    planes = [planes_of(path, header)[0] for path, header in series.headers]
    try:
        arrange(planes, series.files[0].parent)
    except InputError as error:
        return f" ({error})" if "missing" in str(error) else ""
    return f"; the {len(planes)} readable slices leave no gap, so if it belongs to them it is the first or the last"


def _check_patient(found: Scan, chosen: Sequence[Series]) -> None:
    """Raise InputError for images of several patients, without naming these: the message gets into the logs."""
    files: dict[str, str] = {}  # patient -> the first file
    for one in chosen:
        for path, header in one.headers:
            files.setdefault(str(header.get("PatientID") or header.get("PatientName") or ""), path.name)
    if len(files) > 1:
        a, b, *_ = files.values()
        raise InputError(
            f"{found.source}: holds images of {len(files)} patients (such as {a} and {b}); give each a folder of its "
            "own"
        )


def dcmread(path: Path, **options: Any) -> Any:
    """pydicom's dcmread, without private elements (often most of a header) and elements that cannot be read.

    Raises whatever pydicom stumbles over in a damaged file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True, **options)
        for tag in list(dataset.keys()):
            if tag.is_private:
                dataset.pop(tag)
                continue
            try:
                dataset[tag]
            except Exception as error:  # an unknown type, a length that does not fit it …
                log.debug("%s: %s cannot be read: %s", path, tag, error)
                del dataset[tag]
        return dataset


def brief(error: BaseException) -> str:
    """An error's message on one line, at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
