"""Results as DICOM derived from the reference: same patient, study and frame of reference, new series and instances.

Gray results keep the reference's SOP class and geometry (ImageType DERIVED). Colour results are Secondary Capture with
that geometry. UIDs are hashes of the sources' UIDs and of the result, so the same result has the same UIDs, and bytes.
"""

from __future__ import annotations

import hashlib
import logging
import math
import uuid
import warnings
from collections.abc import Iterable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRLittleEndian,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import DSfloat

from fusecli import __version__
from fusecli.errors import FusecliError
from fusecli.images.atomic import numbered, replacing
from fusecli.images.dicom import FLOAT_PADDING, Origin
from fusecli.images.dicom_planes import frame_count, number
from fusecli.images.grid import flip_lps, mapping
from fusecli.images.intensity import Range
from fusecli.images.volume import Volume, by_slice

log = logging.getLogger("fusecli")

_COLORS = ("Red", "Green", "Blue", "Alpha")
# Attributes that describe the source's pixels or file and are not true of the result.
_DROPPED = frozenset(
    tag_for_keyword(name)
    for name in (
        *("SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries"),
        *("LargestPixelValueInSeries", "SmallestImagePixelValueInPlane", "LargestImagePixelValueInPlane"),
        *("PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "VOILUTSequence"),
        *("WindowCenterWidthExplanation", "VOILUTFunction", "IconImageSequence", "PlanarConfiguration"),
        *("RealWorldValueMappingSequence", "PaletteColorLookupTableUID", "ICCProfile", "ColorSpace"),
        *(f"{color}PaletteColorLookupTable{part}" for color in _COLORS for part in ("Descriptor", "Data")),
        *(f"Segmented{color}PaletteColorLookupTableData" for color in _COLORS),
        *("DigitalSignaturesSequence", "MACParametersSequence"),
        *("DataSetTrailingPadding", "InstanceCreationDate", "InstanceCreationTime"),
        *FLOAT_PADDING,
        *FLOAT_PADDING.values(),
        *("PixelDataProviderURL", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    )
)
# What a Secondary Capture image takes over: patient, study, series and frame of reference.
_KEPT = (
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC", "PatientName", "PatientID", "IssuerOfPatientID"),
    *("PatientBirthDate", "PatientSex", "OtherPatientIDsSequence", "PatientAge", "PatientSize", "PatientWeight"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
    *("StudyDescription", "Modality", "SeriesDate", "SeriesTime", "BodyPartExamined", "PatientPosition"),
    *("Laterality", "FrameOfReferenceUID", "PositionReferenceIndicator", "AcquisitionDate", "AcquisitionTime"),
    *("ContentDate", "ContentTime", "BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio"),
    "LossyImageCompressionMethod",
)
# Those of them that must be present, even if empty (type 2).
_REQUIRED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
# Marks that a result carries if any slice of either source does: the value that sets one, and its companion attributes.
_MARKS = {
    "BurnedInAnnotation": ("YES", ()),
    "RecognizableVisualFeatures": ("YES", ()),
    "LossyImageCompression": ("01", ("LossyImageCompressionRatio", "LossyImageCompressionMethod")),
}
_GEOMETRY = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("SpacingBetweenSlices", "SliceLocation"),
)
_GRAPHICS = (0x50, 0x60)  # groups of curves and overlays
_SERIES_OFFSET = 1000  # added to the source's series number
_LAST_SERIES = 2**31 - 1  # the largest value of an integer string (VR IS)
_DROPPED_GROUPS = (
    *("PixelValueTransformationSequence", "FrameVOILUTSequence", "DerivationImageSequence"),
    "RealWorldValueMappingSequence",
)
_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")


def write(
    path: Path,
    fused: np.ndarray,
    reference: Volume,
    other: Volume,
    shown: Range,
    title: str,
    how: str,
    *,
    folder: bool,
) -> None:
    """Write a result on the grid of ``reference``, a DICOM volume: a folder with a file per slice, or a single file.

    Only a single slice, or a gray result whose reference is one multi-frame file, fits a single file. fused: K×H×W
    float32 in [0, 1], where 0 and 1 are the ends of ``shown``, or K×H×W×3 uint8 RGB. other: the source that was
    resampled to this grid. title: SeriesDescription, at most 64 characters; how: DerivationDescription. Both ASCII.
    Raises OutputError with file and reason where it cannot be written.
    """
    color = fused.ndim == 4
    result = Result(reference, other, fused, shown, title, how)
    if color:
        log.warning("%s: colour is written as Secondary Capture; some viewers ignore the geometry of these", path)
    datasets = result.captures() if color else result.slices() if result.origin.frames is None else result.frames()
    if folder:
        with replacing(path, folder=True) as partial:
            for file, dataset in zip(numbered(partial, len(fused), ".dcm"), datasets, strict=False):
                _save(file, dataset)
    else:
        with replacing(path) as partial:
            (dataset,) = datasets
            _save(partial, dataset)


class Result:
    """Datasets of one result; for the parameters see `write`."""

    def __init__(self, reference: Volume, other: Volume, fused: np.ndarray, shown: Range, title: str, how: str) -> None:
        self.reference, self.other, self.shown = reference, other, shown
        self.title, self.how = title, how
        self.origin: Origin = reference.origin
        # The same for all slices, even where their sources differ.
        self.bits = _bits(self.origin.datasets)
        self.levels = 2**self.bits - 1
        self.pixels = fused
        if fused.ndim == 3:
            dtype = np.uint8 if all(map(_is_byte, self.origin.datasets)) else np.uint16
            self.pixels = by_slice(lambda values: np.rint(values * np.float32(self.levels)), fused, np.dtype(dtype))
        self.rescaled = any("RescaleSlope" in one for one in self.origin.datasets)
        digest = hashlib.sha256(f"{__version__}\n{title}\n{how}\n{shown}\n".encode())
        for volume in (reference, other):
            if volume.kind == "dicom":
                digest.update("\n".join(str(one.get("SOPInstanceUID")) for one in volume.origin.datasets).encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        self._seed = digest.hexdigest()
        self._series = self._uid("series")
        self._neighbours = _neighbours(reference, other)
        self._marked = {name: one for name in _MARKS if (one := _marked(name, reference, other)) is not None}

    def slices(self) -> Iterator[Dataset]:
        """Gray: one dataset per slice, each like its source."""
        for index, source in enumerate(self.origin.datasets):
            frames = "NumberOfFrames" in source  # an enhanced image says that it has one
            dataset = self._gray(source, self.pixels[index : index + 1] if frames else self.pixels[index])
            dataset.SourceImageSequence = self._sources(index)
            dataset.InstanceNumber = index + 1
            yield self._named(dataset, source, index)

    def frames(self) -> Iterator[Dataset]:
        """Gray: one multi-frame dataset, its frames in the order of the source's."""
        assert self.origin.frames is not None
        source = self.origin.datasets[0]
        dataset = self._gray(source, self.pixels[np.argsort(self.origin.frames)])
        count = frame_count(source)
        if len(self.pixels) < count:  # one echo, phase or time point of several
            for element in dataset:
                if element.keyword.endswith("Vector") and count == element.VM:  # of nuclear medicine
                    element.value = [element.value[k] for k in sorted(self.origin.frames)]
        dataset.SourceImageSequence = self._sources(None)
        yield self._named(dataset, source, 0)

    def captures(self) -> Iterator[Dataset]:
        """Colour: one Secondary Capture per slice."""
        for index, pixels in enumerate(self.pixels):
            source = self.origin.datasets[index if self.origin.frames is None else 0]
            dataset = Dataset()
            _take(dataset, source, _KEPT)
            for name in _REQUIRED:
                dataset.setdefault(name, "")
            dataset.SOPClassUID = SecondaryCaptureImageStorage
            dataset.ConversionType = "WSD"
            dataset.ImageType = ["DERIVED", "SECONDARY"]
            dataset.InstanceNumber = index + 1
            self._place(dataset, source, index)
            dataset.set_pixel_data(pixels, "RGB", 8, generate_instance_uid=False)
            dataset.SourceImageSequence = self._sources(index)
            yield self._named(dataset, source, index)

    def _gray(self, source: Dataset, pixels: np.ndarray) -> Dataset:
        dataset = Dataset()
        for element in _readable(source):
            if element.tag.group > 2 and element.tag.group >> 8 not in _GRAPHICS and element.tag not in _DROPPED:
                dataset.add(copy(element))
        dataset.SOPClassUID = source.get("SOPClassUID") or SecondaryCaptureImageStorage
        dataset.ImageType = _derived(source.get("ImageType"), source)
        if "PresentationLUTShape" in dataset:
            dataset.PresentationLUTShape = "IDENTITY"
        if self.rescaled:
            self._rescale(dataset)
        if "WindowCenter" in source or "PerFrameFunctionalGroupsSequence" not in source:
            self._window(dataset, self.rescaled)
        if "Units" in dataset:  # of PET; no longer an uptake
            dataset.Units = "NONE"
        self._functional_groups(dataset, source)
        dataset.set_pixel_data(pixels, "MONOCHROME2", self.bits, generate_instance_uid=False)
        return dataset

    def _rescale(self, dataset: Dataset) -> None:
        """Map stored values to the reference's scale; after fusion they are no longer Hounsfield units."""
        dataset.RescaleSlope = _decimal((self.shown.hi - self.shown.lo) / self.levels)
        dataset.RescaleIntercept = _decimal(self.shown.lo)
        if "RescaleType" in dataset or dataset.get("Modality") == "CT":
            dataset.RescaleType = "US"

    def _window(self, dataset: Dataset, rescaled: bool) -> None:
        """Set a window that shows 0 as black and the largest stored value as white."""
        low, high = (self.shown.lo, self.shown.hi) if rescaled else (0.0, float(self.levels))
        if high - low > 1:  # PS3.3, C.11.2.1.2.1
            dataset.WindowCenter, dataset.WindowWidth = _decimal((low + high + 1) / 2), _decimal(high - low + 1)
        else:
            dataset.WindowCenter, dataset.WindowWidth = _decimal((low + high) / 2), _decimal(high - low)
            dataset.VOILUTFunction = "LINEAR_EXACT"

    def _functional_groups(self, dataset: Dataset, source: Dataset) -> None:
        """Set one rescaling and one window for all frames, and mark the frames as derived."""
        if "PerFrameFunctionalGroupsSequence" not in source:
            return
        shared = _copy((source.get("SharedFunctionalGroupsSequence") or [Dataset()])[0])
        items = source.PerFrameFunctionalGroupsSequence
        kept = range(len(items)) if self.origin.frames is None else sorted(self.origin.frames)
        per_frame = [_copy(item) for frame in kept for item in items[frame : frame + 1]]
        groups = [shared, *per_frame]
        rescaled = any("PixelValueTransformationSequence" in group for group in groups)
        for group in groups:
            for name in _DROPPED_GROUPS:
                group.pop(name, None)
            for name in _FRAME_TYPES:
                if group.get(name):
                    frame_type = _copy(group[name].value[0])
                    frame_type.FrameType = _derived(frame_type.get("FrameType"), source)
                    setattr(group, name, Sequence([frame_type]))
        if rescaled:
            transformation = Dataset()
            self._rescale(transformation)
            transformation.RescaleType = "US"
            shared.PixelValueTransformationSequence = Sequence([transformation])
        window = Dataset()
        self._window(window, rescaled)
        shared.FrameVOILUTSequence = Sequence([window])
        dataset.SharedFunctionalGroupsSequence = Sequence([shared])
        dataset.PerFrameFunctionalGroupsSequence = Sequence(per_frame)

    def _place(self, dataset: Dataset, source: Dataset, index: int) -> None:
        """Set a slice's geometry: its source's, or the grid's where the source has it in functional groups only."""
        if self.reference.grid is None:
            dataset.PatientOrientation = ""
            _take(dataset, source, ("PatientOrientation", "PixelSpacing", "PixelAspectRatio"))
            return
        affine = flip_lps(self.reference.grid.affine)
        dataset.PatientOrientation = [_towards(affine[:3, 0]), _towards(affine[:3, 1])]
        if self.origin.frames is None and "ImagePositionPatient" in source:
            _take(dataset, source, _GEOMETRY)
        else:
            column, row, _ = self.reference.grid.spacing
            # Along the normal: with gantry tilt the step from slice to slice is longer.
            thickness = round(abs(float(np.linalg.det(affine[:3, :3]))) / (column * row), 6)
            dataset.ImagePositionPatient = [_decimal(mm) for mm in affine[:3, 3] + index * affine[:3, 2]]
            directions = np.concatenate([affine[:3, 0] / column, affine[:3, 1] / row])
            dataset.ImageOrientationPatient = [_decimal(cosine) for cosine in directions]
            dataset.PixelSpacing = [_decimal(row), _decimal(column)]
            dataset.SliceThickness = dataset.SpacingBetweenSlices = _decimal(thickness)

    def _named(self, dataset: Dataset, source: Dataset, index: int) -> Dataset:
        """Set the attributes that identify the instance and its series, and say how it was made."""
        dataset.SOPInstanceUID = self._uid(f"instance {index}")
        dataset.SeriesInstanceUID = self._series
        if not dataset.get("StudyInstanceUID"):
            dataset.StudyInstanceUID = self._uid("study")
        dataset.SeriesNumber = min(int(number(source, "SeriesNumber", 0)) + _SERIES_OFFSET, _LAST_SERIES)
        dataset.SeriesDescription = self.title[:64]
        dataset.DerivationDescription = self.how[:1024]
        for name, marked in self._marked.items():
            value, companions = _MARKS[name]
            if dataset.get(name) != value:
                _take(dataset, marked, (name, *companions))
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta = meta
        return dataset

    def _uid(self, name: str) -> str:
        """A UID made of a UUID (PS3.5, B.2) that is a hash of sources and result."""
        digest = hashlib.sha256(f"{self._seed}\n{name}".encode()).digest()
        return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"

    def _sources(self, index: int | None) -> Sequence:
        """References to the source images of a slice (None: of the whole result)."""
        items = []
        own, others = (range(volume.shape[2]) for volume in (self.reference, self.other))
        if index is not None:
            own, others = range(index, index + 1), self._neighbours[index]
        for volume, span in ((self.reference, own), (self.other, others)):
            if volume.kind != "dicom":
                continue
            origin: Origin = volume.origin
            if origin.frames is None:
                items += [_reference(origin.datasets[k]) for k in span]
            elif span:
                numbers = [origin.frames[k] + 1 for k in span]
                whole = index is None and len(numbers) == frame_count(origin.datasets[0])
                items.append(_reference(origin.datasets[0], None if whole else numbers))
        return Sequence([item for item in items if item is not None])


def _marked(name: str, *volumes: Volume) -> Dataset | None:
    """The first source that carries a mark."""
    datasets = (one for volume in volumes if volume.kind == "dicom" for one in volume.origin.datasets)
    return next((one for one in datasets if one.get(name) == _MARKS[name][0]), None)


def _neighbours(reference: Volume, other: Volume) -> list[range]:
    """For each slice of ``reference``, the range of slices of ``other`` that are in it; its ends are repeated."""
    count = other.shape[2]
    if reference.grid is None or other.grid is None:
        return [range(min(k, count - 1), min(k, count - 1) + 1) for k in range(reference.shape[2])]
    matrix = mapping(reference.grid, other.grid)
    corners = reference.grid.corners()
    there = corners[corners[:, 2] == 0] @ matrix[2, :3] + matrix[2, 3]
    reach = (1 + np.abs(matrix[2, :3]).sum()) / 2  # beyond it voxels of the two do not meet
    spans = []
    for k in range(reference.shape[2]):
        low, high = there.min() + k * matrix[2, 2] + 1e-3, there.max() + k * matrix[2, 2] - 1e-3
        first, last = (min(max(index, 0), count - 1) for index in (math.floor(low), math.ceil(high)))
        spans.append(range(first, last + 1) if -reach < high and low < count - 1 + reach else range(0))
    return spans


def _reference(dataset: Dataset, frames: list[int] | None = None) -> Dataset | None:
    if not dataset.get("SOPClassUID") or not dataset.get("SOPInstanceUID"):
        return None
    item, purpose = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    if frames and dataset.SOPClassUID != SecondaryCaptureImageStorage:  # it has one frame by definition
        item.ReferencedFrameNumber = frames
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    item.PurposeOfReferenceCodeSequence = Sequence([purpose])
    return item


def _towards(direction: np.ndarray) -> str:
    """The letter of the patient's side to which a direction (LPS) mainly points."""
    axis = int(np.abs(direction).argmax())
    return ("LR", "PA", "HF")[axis][int(direction[axis] < 0)]


def _derived(image_type: Any, source: Dataset) -> list[str]:
    """ImageType of the result.

    By the standard derived PET, nuclear medicine and enhanced images stay PRIMARY (PS3.3, C.8.9.4.1, C.8.4.9.1.1,
    C.8.16.1), and enhanced ones say how their contrast was derived.
    """
    rest = [] if isinstance(image_type, str) else [str(value) for value in image_type or []][2:]
    if "PerFrameFunctionalGroupsSequence" in source:
        return ["DERIVED", "PRIMARY", *(rest[:1] or ["VOLUME"]), "FILTERED"]
    primary = source.get("SOPClassUID") in (PositronEmissionTomographyImageStorage, NuclearMedicineImageStorage)
    return ["DERIVED", "PRIMARY" if primary else "SECONDARY", *rest]


def _bits(sources: list[Dataset]) -> int:
    """Bits of a stored value: the most of any source, each of which counts 8 if stored in bytes, else 8 to 16."""
    return max(8 if _is_byte(one) else min(max(int(one.get("BitsStored") or 16), 8), 16) for one in sources)


def _is_byte(source: Dataset) -> bool:
    return int(source.get("BitsAllocated") or 16) <= 8


def _readable(source: Dataset) -> Iterator[Any]:
    """Elements whose values can be read; what cannot be read cannot be written either."""
    for tag in source.keys():  # noqa: SIM118 - iterating the dataset itself stops at the first bad element
        try:
            yield source[tag]
        except Exception as error:
            log.debug("tag %s is not carried over: %s", tag, error)


def _take(dataset: Dataset, source: Dataset, names: Iterable[str]) -> None:
    """Take over elements as copies, since assigning a value to a dataset changes its element in place."""
    for name in names:
        if name in source:
            dataset[name] = copy(source[name])


def _copy(source: Dataset) -> Dataset:
    """A dataset with copies of the public elements, so that these can be replaced."""
    taken = Dataset()
    for element in _readable(source):
        if element.tag.group % 2 == 0:
            taken.add(copy(element))
    return taken


def _decimal(value: float) -> DSfloat:
    return DSfloat(float(value), auto_format=True)


def _save(path: Path, dataset: Dataset) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings quote values, which may identify the patient
            pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    except OSError:
        raise
    except Exception as error:  # an element that could be read and yet breaks a rule of writing
        raise FusecliError(
            f"the header of the reference cannot be carried over to a result ({type(error).__name__})"
        ) from error
