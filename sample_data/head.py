"""A head phantom in patient space, seen by three scanners on grids of their own: CT (DICOM), MR and PET (NIfTI).

Every tissue is a function of the patient position (RAS, millimetres), so whatever the grids, the volumes agree in space.
Nothing in it is anybody's: the patient is called PHANTOM.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
from noise import fbm3
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

# Places that tests look for (RAS, mm): a lesion bright in MR, two hot spots of PET, the middle of the left ventricle.
LESION = (24.0, 22.0, 18.0)
HOT_SPOTS = ((-30.0, -20.0, 10.0), (34.0, -38.0, -4.0))
VENTRICLE = (-9.0, 2.0, 16.0)


def ellipsoid(p: np.ndarray, centre: tuple, radii: tuple) -> np.ndarray:
    """Distance from the centre in radii: 1 on the surface."""
    return np.sqrt((((p - np.asarray(centre)) / np.asarray(radii)) ** 2).sum(-1))


def soft(distance: np.ndarray, width: float = 0.02) -> np.ndarray:
    """1 inside, 0 outside, a partial volume between."""
    return np.clip(0.5 - (distance - 1) / (2 * width), 0, 1)


def tissues(p: np.ndarray) -> dict[str, np.ndarray]:
    """Share of each tissue at the positions N×3 (RAS, mm)."""
    scalp = soft(ellipsoid(p, (0, 0, 0), (76, 96, 92)))
    bone = soft(ellipsoid(p, (0, 0, 0), (71, 91, 87)))
    inside = soft(ellipsoid(p, (0, 0, 1), (65, 85, 81)))
    folds = fbm3(p / 9.0 + 5, 2) - 0.5
    shell = ellipsoid(p, (0, -1, 2), (62, 82, 77)) + 0.10 * folds
    gap = 0.7 * np.exp(-((p[:, 0] / 1.3) ** 2)) * np.clip((p[:, 2] - 20) / 12, 0, 1)  # between the hemispheres
    brain = soft(shell) * inside * (1 - gap)
    sulci = np.abs(fbm3(p / 15.0, 2) - 0.5)  # small along winding sheets: where the cortex dips inwards
    white = soft(shell + 0.10 + 0.5 * np.clip(0.10 - sulci, 0, 1) / 0.10 * np.clip(shell, 0, 1), 0.05) * brain
    left, right = VENTRICLE, (-VENTRICLE[0], *VENTRICLE[1:])
    ventricle = np.maximum(soft(ellipsoid(p, left, (5, 24, 8)), 0.08), soft(ellipsoid(p, right, (5, 24, 8)), 0.08))
    lesion = soft(ellipsoid(p, LESION, (8, 9, 8)), 0.1)
    eyes = np.maximum(*(soft(ellipsoid(p, (x, 80, -34), (12, 12, 12)), 0.05) for x in (-32, 32)))
    air = soft(ellipsoid(p, (0, 78, -48), (15, 20, 14)), 0.1)
    white, gray = white * (1 - ventricle), (brain - white).clip(0) * (1 - ventricle)
    return {
        "skin": (scalp - bone).clip(0) * (1 - eyes),
        "bone": (bone - inside).clip(0) * (1 - eyes),
        "fluid": ((inside - brain).clip(0) + ventricle * brain) * (1 - eyes),
        "gray": gray * (1 - lesion),
        "white": white * (1 - lesion),
        "lesion": lesion * brain,
        "eyes": eyes,
        "air": air,
        "folds": folds,
    }


def scan(levels: dict[str, float], p: np.ndarray, outside: float) -> np.ndarray:
    """What a scanner with these levels per tissue sees at N×3 positions."""
    found = tissues(p)
    covered = sum(found[name] for name in levels)
    value = sum(level * found[name] for name, level in levels.items()) + outside * (1 - np.clip(covered, 0, 1))
    return value * (1 - found["air"]) + outside * found["air"]


def positions(affine: np.ndarray, shape: tuple) -> np.ndarray:
    """RAS positions of all voxels, N×3."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    return index @ affine[:3, :3].T + affine[:3, 3]


def grid(shape: tuple, spacing: tuple, degrees: tuple, flips: tuple = (1, 1, 1)) -> np.ndarray:
    """Affine of a grid around the head's middle, turned by degrees about x, y and z."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = [a for a in range(3) if a != axis]
        one = np.eye(3)
        one[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = one @ turn
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.multiply(spacing, flips))
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def uid(*parts: object) -> str:
    """A UID that the parts decide, under the root for such."""
    return f"2.25.{int.from_bytes(hashlib.sha256('/'.join(map(str, parts)).encode()).digest()[:15], 'big')}"


def ct(folder: Path) -> None:
    """24 oblique slices of 128×128, signed Hounsfield units."""
    shape, spacing = (128, 128, 24), (1.7, 1.7, 8.0)
    affine = grid(shape, spacing, (-12, 4, 3), (-1, -1, 1))  # DICOM's columns run to the left, its rows to the back
    levels = {"skin": 40, "bone": 1000, "fluid": 8, "gray": 38, "white": 28, "lesion": 33, "eyes": 15}
    hounsfield = scan(levels, positions(affine, shape), -1000).reshape(shape)
    hounsfield += np.random.default_rng(1).normal(0, 3, shape)
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = uid("phantom", "ct", k)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = uid("phantom")
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "PHANTOM", "PHANTOM", "", ""
        data.StudyInstanceUID, data.SeriesInstanceUID = uid("phantom", "study"), uid("phantom", "ct", "series")
        data.FrameOfReferenceUID, data.PositionReferenceIndicator = uid("phantom", "frame"), ""
        data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20260101", "120000", "1", ""
        data.ReferringPhysicianName, data.Manufacturer = "", "fusecli phantom"
        data.Modality, data.SeriesNumber, data.SeriesDescription = "CT", 1, "head phantom"
        data.ImageType, data.InstanceNumber, data.KVP, data.AcquisitionNumber = (
            ["ORIGINAL", "PRIMARY", "AXIAL"],
            k + 1,
            "120",
            1,
        )
        data.ImagePositionPatient = [f"{v:.6f}" for v in lps[:, 2] * k + lps[:, 3]]
        across, down = (lps[:, axis] / np.linalg.norm(lps[:, axis]) for axis in (0, 1))
        data.ImageOrientationPatient = [f"{v:.9f}" for v in (*across, *down)]
        data.PixelSpacing, data.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        data.Rows, data.Columns = shape[1], shape[0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleIntercept, data.RescaleSlope, data.RescaleType = 0, 1, "HU"
        data.WindowCenter, data.WindowWidth = 40, 80
        data.PixelData = np.rint(hounsfield[:, :, k].T).astype("<i2").tobytes()
        data.save_as(
            folder / f"{(k * 7) % shape[2]:03d}.dcm", enforce_file_format=True
        )  # names tell no order, as in life


def nifti(path: Path, affine: np.ndarray, values: np.ndarray) -> None:
    """int16 NIfTI, compressed without a time stamp."""
    image = nib.Nifti1Image(np.rint(values).astype(np.int16), affine)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(image.to_bytes())


def mr(path: Path) -> None:
    """T1-like, 2.4 mm, another angle than the CT's."""
    shape = (72, 88, 80)
    affine = grid(shape, (2.4, 2.4, 2.4), (6, -3, 10))
    levels = {"skin": 480, "bone": 60, "fluid": 150, "gray": 420, "white": 560, "lesion": 760, "eyes": 180}
    values = scan(levels, positions(affine, shape), 0).reshape(shape)
    nifti(path, affine, np.abs(values + np.random.default_rng(2).normal(0, 6, shape)))


def pet(path: Path) -> None:
    """Uptake on a coarse, upright grid: gray matter more than white, two hot spots."""
    shape = (48, 56, 44)
    affine = grid(shape, (4.0, 4.0, 4.4), (0, 0, 0))
    p = positions(affine, shape)
    values = scan({"skin": 60, "bone": 20, "fluid": 30, "gray": 900, "white": 320, "lesion": 150, "eyes": 40}, p, 0)
    for spot in HOT_SPOTS:
        values += 1500 * np.exp(-(((p - spot) ** 2).sum(-1)) / (2 * 6.0**2))
    nifti(path, affine, np.abs(values.reshape(shape) + np.random.default_rng(3).normal(0, 12, shape)))


def phantom(out: Path) -> None:
    """ct/, mr/head.nii.gz and pet/head.nii.gz."""
    ct(out / "ct")
    mr(out / "mr" / "head.nii.gz")
    pet(out / "pet" / "head.nii.gz")
