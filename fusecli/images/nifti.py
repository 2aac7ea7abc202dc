"""Read NIfTI volumes (.nii, .nii.gz, .img beside .hdr) into a Volume, and write results with the reference's header."""

from __future__ import annotations

import gzip
import logging
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from fusecli.errors import InputError, UsageError, counted, first_line
from fusecli.images.atomic import replacing
from fusecli.images.grid import Grid, check_affine, same
from fusecli.images.intensity import Range
from fusecli.images.volume import Volume, by_slice, unread

log = logging.getLogger("fusecli")
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what matters of its remarks is said below

PAIR = ".img"  # its header is in a second file, .hdr
ENDINGS = (".nii", ".nii.gz", PAIR)
RGB24 = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
_MILLIMETRES = {1: 1000.0, 3: 0.001}  # by the header's code of units: metres, micrometres
_SPACES = {3: "Talairach", 4: "MNI 152", 5: "another template"}  # by sform or qform code; others mean the scanner
_DAMAGED = (ImageFileError, HeaderDataError, EOFError, OSError, ValueError, zlib.error, OverflowError)


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file; DICOM files may be called .img too."""
    name = path.name.lower()
    if name.endswith(PAIR):
        return path.with_suffix(".HDR" if path.suffix.isupper() else ".hdr").exists()
    return name.endswith(ENDINGS)


def peek(path: Path) -> tuple[tuple[int, int, int], int, bool]:
    """((columns, rows, slices), number of volumes, whether in colour) of the header. Raises InputError as ``read``."""
    image = _open(path)
    return _size(image), int(np.prod(image.shape[3:])), image.get_data_dtype().names is not None


def read(path: Path, index: int | None = None) -> Volume:
    """The volume, slices along its third axis. index: which one of a 4D file, from 0.

    Raises InputError with file and reason: no NIfTI, cut off, complex numbers, an affine that is not finite or cannot
    be inverted; UsageError as `check_choice`.
    """
    image = _open(path)
    header: Any = image.header
    proxy: Any = image.dataobj
    count = int(np.prod(image.shape[3:]))
    check_choice(path, count, index)
    try:
        if count > 1:
            data, slope, intercept = np.asanyarray(proxy[..., index]), 1.0, 0.0  # scaled already
        else:
            data = np.asanyarray(proxy.get_unscaled())
            slope, intercept = float(proxy.slope), float(proxy.inter)
        if _is_zipped(path):
            _check_sum(path)
    except _DAMAGED as error:
        damaged = f"the voxels cannot be read: the file is cut off or damaged ({first_line(error)})"
        raise InputError(f"{path}: {unread(error, damaged)}") from error
    data = data.reshape(_size(image), order="F").T
    dtype = image.get_data_dtype().newbyteorder("=")
    if data.dtype.names:  # RGB or RGBA, whose fourth channel is dropped
        channels = data.view(np.uint8).reshape(*data.shape, len(data.dtype.names))[..., :3]
        voxels = np.require(channels, requirements=("C", "W"))  # one volume of several is read-only
        slope, intercept, dtype = 1.0, 0.0, np.dtype(np.uint8)
    else:
        voxels, slope, intercept = _plain(data, slope, intercept, path)
    low, high = float(header["cal_min"]), float(header["cal_max"])
    window = (low, high) if np.isfinite([low, high]).all() and low < high else None
    grid = _grid(image, path)
    if _contradicts_itself(image):
        log.warning(
            "%s: sform and qform are for one space and place voxels differently in it; the sform is taken, and if that "
            "is the wrong one, the result is misplaced or mirrored",
            path,
        )
    return Volume(voxels, grid, path, "nifti", dtype, slope, intercept, window, image)


def check_choice(path: Path, count: int, index: int | None) -> None:
    """Raises UsageError where a file holds ``count`` volumes and none is chosen, or the chosen one does not exist."""
    if index is not None and not 0 <= index < count:
        raise UsageError(f"{path}: has no volume {index}; it holds {count}, counted from 0")
    if count > 1 and index is None:
        raise UsageError(f"{path}: holds {count} volumes; choose one by --volume 0 … {count - 1}")


def space(volume: Volume) -> str:
    """What the voxels' positions refer to, as the header says: the scanner, or an atlas."""
    if volume.kind != "nifti":
        return "scanner"
    header = volume.origin.header
    return _SPACES.get(int(header["sform_code"]) or int(header["qform_code"]), "scanner")


def write(path: Path, fused: np.ndarray, reference: Volume, shown: Range, title: str) -> None:
    """Write a result: K×H×W float32 in [0, 1], K×H×W uint8 or uint16, or K×H×W×3 uint8 (stored as RGB24).

    Where ``reference`` is a NIfTI volume its header is kept: affine, codes, units, number of axes. Gray floats in
    [0, 1] are stored in the reference's sample type: as floats from ``shown.lo`` to ``shown.hi``, or as integers from 0
    to the type's largest (at most 65535), which the header's scale factor and offset map to ``shown``. Texts and
    extensions of the header, which may name the patient, are not kept; ``title`` is the description. Same input, same
    bytes.
    """
    if fused.ndim == 4:
        stored = np.ascontiguousarray(fused).view(RGB24)[..., 0]
    elif fused.dtype == np.float32:
        stored = _as_type(fused, reference.dtype, shown)
    else:
        stored = fused
    data = stored.T
    if reference.kind == "nifti":
        source = reference.origin
        header = source.header.copy()
        header.extensions.clear()
        for text in ("data_type", "db_name", "aux_file", "intent_name"):
            if text in header:
                header[text] = b""
        kind = type(source) if header.is_single else nib.Nifti1Image
        # The result of a 4D file is a single volume; that of a file with two axes keeps two.
        data = data.reshape(data.shape[: max(2, min(3, len(source.shape)))]) if data.shape[2] == 1 else data
        affine = source.affine
    else:
        header, kind = nib.Nifti1Header(), nib.Nifti1Image
        affine = None if reference.grid is None else reference.grid.affine  # None: both codes are 0
        header.set_xyzt_units("mm")
    header.set_data_dtype(stored.dtype)
    image = kind(data, affine, header)
    if reference.kind != "nifti" and reference.grid is not None:
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        if not same(Grid(reference.shape, image.get_qform()), reference.grid, within=0.5):
            image.set_qform(None, 0)  # it cannot hold the shear of a tilted gantry
            log.warning(
                "%s: its slices are sheared, as a tilted gantry took them; some programs (of ITK) refuse such NIfTI: "
                "write DICOM, or take the other volume's grid by --reference",
                path,
            )
    image.header["intent_code"] = 0  # a result holds no labels and no statistic
    for parameter in ("intent_p1", "intent_p2", "intent_p3"):
        image.header[parameter] = 0
    if stored.dtype.kind in "iu":
        image.header.set_slope_inter((shown.hi - shown.lo) / _levels(stored.dtype), shown.lo)
    else:
        image.header.set_slope_inter(1.0, 0.0)
    image.header["descrip"] = title.encode()[:79]
    colored = stored.dtype == RGB24
    image.header["cal_min"], image.header["cal_max"] = (0, 0) if colored else (shown.lo, shown.hi)
    with replacing(path) as partial:
        nib.save(image, partial)


def _as_type(fused: np.ndarray, dtype: np.dtype, shown: Range) -> np.ndarray:
    if dtype.kind == "f":
        return by_slice(shown.invert, fused, dtype if dtype.itemsize in (4, 8) else np.dtype(np.float32))
    return by_slice(lambda values: np.rint(values * np.float32(_levels(dtype))), fused, dtype)


def _levels(dtype: np.dtype) -> int:
    """The stored integer that stands for white."""
    return min(np.iinfo(dtype.name).max, 65535)


def _open(path: Path) -> Any:
    try:
        image: Any = _load(path)
        if image.get_data_dtype().kind == "c":
            raise InputError(f"{path}: holds complex numbers; take their magnitude first")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except _DAMAGED as error:
        damaged = f"cannot be read as NIfTI: it is cut off, damaged or no NIfTI ({first_line(error)})"
        raise InputError(f"{path}: {unread(error, damaged)}") from error
    if not isinstance(image, nib.Nifti1Pair):  # NIfTI-2 is a subclass
        if isinstance(image, nib.AnalyzeImage):  # with a .mat of SPM beside it or not
            raise InputError(
                f"{path}: is Analyze 7.5, which does not say which side of the patient is left; convert it to NIfTI by "
                "the program that wrote it"
            )
        raise InputError(f"{path}: holds {type(image).__name__}; a NIfTI volume is needed")
    proxy: Any = image.dataobj
    first = image.header.single_vox_offset if image.header.is_single else 0
    if proxy.offset < first:  # nibabel would take the header for voxels
        raise InputError(
            f"{path}: the voxels would begin within the header (vox_offset {proxy.offset}); mend it "
            f"there, where {first} is usual, or write the file again"
        )
    if 0 in image.shape or len(image.shape) < 2:
        raise InputError(f"{path}: has no voxels (shape {image.shape})")
    if np.prod(image.shape[4:]) > 1:
        raise InputError(f"{path}: has {len(image.shape)} dimensions ({image.shape}); three, or four, are needed")
    return image


def _load(path: Path) -> Any:
    """Load a file, recognising gzip by its first bytes: its name, by which nibabel goes, may be wrong."""
    zipped = _is_zipped(path)
    if zipped == (path.suffix.lower() == ".gz"):
        return nib.load(path, mmap=False)  # a mapped file that shrinks meanwhile would end the process
    stream: Any = gzip.open(path) if zipped else path.open("rb")  # noqa: SIM115 - the image reads its voxels from it
    start = stream.read(nib.Nifti2Header.sizeof_hdr)
    kinds = (nib.Nifti1Image, nib.Nifti2Image)
    kind = next((one for one in kinds if one.header_class.may_contain_header(start)), None)
    if kind is None:
        raise ImageFileError("no NIfTI header at its beginning")
    return kind.from_file_map(kind.make_file_map({"image": stream}), mmap=False)


def _size(image: Any) -> tuple[int, int, int]:
    """Columns, rows and slices; of an image with two axes, one slice."""
    columns, rows, slices = (*image.shape, 1)[:3]
    return columns, rows, slices


def _is_zipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _check_sum(path: Path) -> None:
    """Read to the end, where gzip verifies the checksum; nibabel stops at the last voxel."""
    with gzip.open(path) as file:
        while file.read(2**20):
            pass


def _contradicts_itself(image: Any) -> bool:
    """Whether sform and qform place a corner more than a voxel apart, although both are for the same space."""
    header = image.header
    if not header["sform_code"] == header["qform_code"] > 0:  # else one may lead to an atlas, the other to the scanner
        return False
    try:
        forms = [Grid(_size(image), form) for form in (header.get_sform(), header.get_qform())]
    except _DAMAGED:  # only the sform is used, and `check_affine` checks it
        return False
    a, b = (form.points(forms[0].corners()) for form in forms)
    return bool(np.linalg.norm(a - b, axis=1).max() > max(forms[0].spacing))


def _grid(image: Any, path: Path) -> Grid | None:
    """Where the voxels lie, None where the header does not say. Raises InputError for an affine that is none."""
    header = image.header
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        return None
    check_affine(image.affine, path)
    millimetres = _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    affine = np.diag([millimetres, millimetres, millimetres, 1.0]) @ np.asarray(image.affine, np.float64)
    return Grid(_size(image), affine)


def _plain(data: np.ndarray, slope: float, intercept: float, path: Path) -> tuple[np.ndarray, float, float]:
    """Native voxels with a positive slope: 8 and 16-bit integers as they are, others as finite float32."""
    data = data.astype(data.dtype.newbyteorder("="), copy=False)
    if data.dtype.kind in "iu" and data.dtype.itemsize <= 2 and slope > 0:
        return np.ascontiguousarray(data), slope, intercept
    with np.errstate(over="ignore"):  # values beyond float32 become infinite
        values = (data * slope + intercept if (slope, intercept) != (1.0, 0.0) else data).astype(np.float32)
    finite = np.isfinite(values)
    if not finite.any():
        raise InputError(f"{path}: no voxel is a finite number")
    if not finite.all():
        log.info("%s: background instead of NaN or infinity in %s", path, counted(int((~finite).sum()), "voxel"))
        values[~finite] = values.min(where=finite, initial=0)  # at most 0: the least uptake in a brain is no background
    return np.ascontiguousarray(values), 1.0, 0.0
