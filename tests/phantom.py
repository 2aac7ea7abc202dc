"""Volumes for tests: a head with a marked voxel, as DICOM series, multi-frame DICOM and NIfTI of any orientation."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)
from scipy.spatial.transform import Rotation

from fusecli.images.grid import Grid, flip_lps

IDENTITY = {"PatientName": "Doe^Jane", "PatientID": "ID-4711", "PatientBirthDate": "19700101"}
SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
FRAME_OF_REFERENCE = "1.2.826.0.1.3680043.8.498.77"
# Columns: where i, j and k of a volume go, in RAS.
PLANES = {
    "axial": np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1]], float),
    "sagittal": np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float),
    "coronal": np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]], float),
}


def grid(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    plane: str = "axial",
    degrees: tuple[float, float, float] = (0, 0, 0),
    centre: tuple[float, float, float] = (0, 0, 0),
    tilt: float = 0,
) -> Grid:
    """A grid of columns, rows and slices around ``centre`` (RAS mm), turned by Euler angles.

    tilt: degrees by which the gantry was tilted, so that each slice is shifted along its columns.
    """
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ PLANES[plane]
    if np.linalg.det(turned) * np.linalg.det(PLANES["axial"]) < 0:
        turned[:, 2] *= -1  # slices of a DICOM series go along the normal of rows and columns
    turned[:, 2] += np.tan(np.radians(tilt)) * turned[:, 1]
    affine[:3, :3] = turned * spacing
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def positions(where: Grid) -> np.ndarray:
    """K×H×W×3: RAS mm of all voxels."""
    columns, rows, slices = where.shape
    k, j, i = np.meshgrid(np.arange(slices), np.arange(rows), np.arange(columns), indexing="ij")
    return where.points(np.stack([i, j, k], -1))


def head(where: Grid, mark: tuple[float, float, float] | None = None, size: float = 60.0) -> np.ndarray:
    """K×H×W in [0, 1]: an ellipsoid with a rim around the origin; or a ball of 6 mm at ``mark`` alone."""
    points = positions(where)
    if mark is not None:
        return np.clip(1.5 - np.linalg.norm(points - mark, axis=-1) / 6, 0, 1)
    radius = np.linalg.norm(points / (size, size * 1.2, size), axis=-1)
    body = np.clip((1 - radius) * 8, 0, 1) * (0.45 + 0.1 * np.cos(points.sum(-1) / 9))
    return np.clip(body + 0.5 * np.exp(-(((radius - 0.9) / 0.05) ** 2)), 0, 1)


SMALL = grid((12, 10, 4), (8, 8, 20))
SMALL_HEAD = np.rint(head(SMALL) * 1000).astype(np.int16)  # for tests that look at names and counts, not at voxels


def dicom_series(
    folder: Path, voxels: np.ndarray, where: Grid, modality: str = "CT", *, number: int = 1, **tags: object
) -> list[Path]:
    """One file per slice of stored values (int16 or uint16), named so that their order is not that of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    affine = flip_lps(where.affine)
    files = []
    for k, pixels in enumerate(voxels):
        dataset = Dataset()
        dataset.SOPClassUID = SOP_CLASSES[modality]
        dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{number}.{k + 1}"
        dataset.SeriesInstanceUID = f"1.2.826.0.1.3680043.8.498.{number}"
        dataset.StudyInstanceUID, dataset.StudyID = "1.2.826.0.1.3680043.8.498.99", "7"
        dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "20240102", "101112", ""
        dataset.ReferringPhysicianName, dataset.PatientSex, dataset.Manufacturer = "", "O", "Phantoms"
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = FRAME_OF_REFERENCE, ""
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = modality, number, len(voxels) - k
        dataset.SeriesDescription = f"{modality} phantom"
        for name, value in IDENTITY.items():
            setattr(dataset, name, value)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "OTHER"]
        dataset.AcquisitionNumber, dataset.PatientPosition = 1, "HFS"
        _geometry(dataset, affine, k)
        dataset.SliceThickness = float(where.spacing[2])
        _pixels(dataset, pixels)
        if modality != "MR":
            dataset.RescaleIntercept, dataset.RescaleSlope = (-1024 if modality == "CT" else 0), 1
        if modality == "CT":
            dataset.KVP, dataset.RescaleType = "120", "HU"
        if modality == "MR":
            dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
            dataset.MRAcquisitionType, dataset.EchoTime, dataset.EchoTrainLength = "2D", 10, 1
            dataset.RepetitionTime = 500
        for name, value in tags.items():
            setattr(dataset, name, value)
        files.append(save(dataset, folder / f"IM{(k * 7919) % 9973:04d}.dcm"))
    return files


def enhanced(path: Path, voxels: np.ndarray, where: Grid, order: list[int] | None = None) -> Path:
    """An enhanced MR file whose frames are the slices in ``order``."""
    order = order or list(range(len(voxels)))
    affine = flip_lps(where.affine)
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = EnhancedMRImageStorage, "1.2.826.0.1.3680043.8.498.5.1"
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.5", "1.2.826.0.1.3680043.8.498.99"
    dataset.FrameOfReferenceUID, dataset.Modality, dataset.SeriesNumber = FRAME_OF_REFERENCE, "MR", 5
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    for name, value in IDENTITY.items():
        setattr(dataset, name, value)
    frames = []
    for k in order:
        frame, place, plane, measures, values = (Dataset() for _ in range(5))
        _geometry(whole := Dataset(), affine, k)
        place.ImagePositionPatient = whole.ImagePositionPatient
        plane.ImageOrientationPatient = whole.ImageOrientationPatient
        measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, float(where.spacing[2])
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 2, 5, "US"
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = Sequence([place]), Sequence([plane])
        frame.PixelMeasuresSequence = Sequence([measures])
        frame.PixelValueTransformationSequence = Sequence([values])
        frame_type = Dataset()
        frame_type.FrameType = dataset.ImageType
        frame.MRImageFrameTypeSequence = Sequence([frame_type])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    dataset.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    dataset.NumberOfFrames = len(order)
    _pixels(dataset, voxels[order])
    return save(dataset, path)


def nifti(path: Path, voxels: np.ndarray, where: Grid, sform: int = 1, qform: int = 1) -> Path:
    """Stored values K×H×W, or K×H×W×3 uint8, as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if voxels.ndim == 4 and voxels.shape[3] == 3 and voxels.dtype == np.uint8:
        voxels = np.ascontiguousarray(voxels).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    image = nib.Nifti1Image(voxels.T, where.affine)
    image.set_sform(where.affine, sform)
    image.set_qform(where.affine, qform)
    image.header["descrip"] = b"Doe^Jane"
    nib.save(image, path)
    return path


def save(dataset: Dataset, path: Path) -> Path:
    """Write a dataset as explicit little endian."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def edit(path: Path, **tags: object) -> None:
    """Change tags of a DICOM file; None removes one."""
    dataset = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path)


def _geometry(dataset: Dataset, affine: np.ndarray, k: int) -> None:
    column, row = np.linalg.norm(affine[:3, 0]), np.linalg.norm(affine[:3, 1])
    dataset.ImagePositionPatient = [f"{mm:.10g}" for mm in affine[:3, 3] + k * affine[:3, 2]]
    directions = np.concatenate([affine[:3, 0] / column, affine[:3, 1] / row])
    dataset.ImageOrientationPatient = [f"{cosine:.10g}" for cosine in directions]
    dataset.PixelSpacing = [f"{row:.10g}", f"{column:.10g}"]


def _pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.astype("<i2" if pixels.dtype.kind == "i" else "<u2").tobytes()
