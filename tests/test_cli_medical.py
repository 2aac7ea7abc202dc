import json
import re
import shutil
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import phantom
import pydicom
import pytest
from phantom import SMALL, SMALL_HEAD

from fusecli.images import colormap, dicom, dicom_series, nifti

MARK = (11.0, -17.0, 23.0)  # RAS mm
CT = phantom.grid((36, 40, 22), (3, 3, 5), "axial", (4, -3, 2), centre=(2, -3, 4))
MR = phantom.grid((30, 32, 34), (4, 4, 4), "sagittal", (-3, 5, 6), centre=(-2, 3, 6))


def read(path: Path, side: str = "ct"):
    if nifti.is_nifti(path):
        return nifti.read(path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return dicom.read(dicom_series.choose(dicom_series.scan(path, files), side), side)


def put(root: Path, kind: str, side: str, where, values: np.ndarray, **tags) -> Path:
    """A volume of values in [0, 1] as dicom, enhanced or nifti."""
    stored = np.rint(values * 1000).astype(np.int16)
    if kind == "nifti":
        return phantom.nifti(root / f"{side}.nii.gz", stored, where, 2, 1)
    if kind == "enhanced":
        return phantom.enhanced(root / f"{side}.dcm", stored.astype(np.uint16), where)
    modality = {"ct": "CT", "mri": "MR", "pet": "PT"}[side]
    stored = stored + 1024 if side == "ct" else stored
    number = {"ct": 1, "mri": 2, "pet": 3}[side]
    phantom.dicom_series(root / side, stored, where, modality, number=number, **tags)
    return root / side


@pytest.fixture
def heads(tmp_path):
    """CT as DICOM and MR as NIfTI of one head, on different grids."""
    return (
        put(tmp_path, "dicom", "ct", CT, phantom.head(CT) / 10),
        put(tmp_path, "nifti", "mri", MR, phantom.head(MR)),
        tmp_path,
    )


def everything_written(folder: Path, *texts: str) -> bytes:
    """All that a run left outside DICOM files, with the names."""
    parts = [text.encode() for text in texts]
    for path in sorted(folder.rglob("*")):
        parts.append(path.name.encode())
        if path.is_file() and path.suffix != ".dcm":
            data = path.read_bytes()
            parts.append(nib.openers.Opener(str(path)).read() if path.suffix == ".gz" else data)
    return b"\n".join(parts)


# Geometry ------------------------------------------------------------------------------------------------------------


def centroid(volume) -> np.ndarray:
    """RAS mm of the middle of what is bright in a volume."""
    values = volume.voxels.astype(float) * volume.slope + volume.intercept
    weights = np.clip(values - values.min() - 0.3 * np.ptp(values), 0, None)
    points = phantom.positions(volume.grid)
    return (points * weights[..., None]).sum((0, 1, 2)) / weights.sum()


@pytest.mark.parametrize(("first", "second"), [("dicom", "nifti"), ("nifti", "dicom"), ("dicom", "enhanced")])
@pytest.mark.parametrize(
    ("plane", "degrees", "tilt"),
    [("axial", (0, 0, 0), 0), ("sagittal", (0, 0, 0), 0), ("coronal", (9, -14, 21), 0), ("axial", (0, 4, 0), 18)],
)
def test_a_mark_in_both_sources_keeps_its_place(tmp_path, fusecli, average, plane, degrees, tilt, first, second):
    where = {
        "ct": phantom.grid((40, 36, 24), (3, 3.3, 4), plane, degrees, centre=(4, -8, 12), tilt=tilt),
        "mri": phantom.grid((34, 38, 30), (3.5, 3, 3.6), "axial", (-5, 7, 3), centre=(6, -9, 14)),
    }
    paths = {
        side: put(tmp_path, kind, side, where[side], phantom.head(where[side], mark=MARK) * top)
        for side, kind, top in (("ct", first, 0.08), ("mri", second, 1))
    }
    for reference in ("ct", "mri"):
        out = tmp_path / f"as-{reference}"
        code, _, err = fusecli(
            *("fuse", "--ct", paths["ct"], "--mri", paths["mri"], "-o", out, "-m", average, "--reference", reference)
        )
        assert code == 0, err
        (result,) = out.iterdir()
        volume, source = read(result, reference), read(paths[reference], reference)
        assert np.array_equal(volume.grid.affine, source.grid.affine)
        assert volume.shape == source.shape
        off = np.linalg.solve(volume.grid.affine[:3, :3], centroid(volume) - MARK)
        assert np.abs(off).max() < 0.5, off
        assert f"resampled to the grid of {reference}, from" in err


def test_the_log_says_both_spacings_and_what_is_covered(heads, fusecli, average):
    ct, mr, root = heads
    code, out, err = fusecli("fuse", "--ct", ct, "--mri", mr, "-o", root / "out", "-m", average)
    assert (code, out) == (0, "")
    assert "mri resampled to the grid of ct, from 30×32×34 voxels of 4.00×4.00×4.00 mm to" in err
    assert re.search(r"to 36×40×22 voxels of 3\.00×3\.00×5\.00 mm; it covers \d\d % of it", err)


def test_little_that_is_covered_is_a_warning(heads, fusecli, average):
    ct, _, root = heads
    options = ("-m", average, "--overwrite", "--log-format", "json")
    for shape, percent in (((60, 60, 1), r"[1-9]"), ((4, 4, 1), "less than 1"), ((60, 60, 40), None)):
        where = phantom.grid(shape, (4, 4, 4))
        mr = phantom.nifti(root / "few.nii", np.rint(phantom.head(where) * 1000).astype(np.int16), where)
        code, _, err = fusecli("fuse", "--ct", ct, "--mri", mr, "-o", root / "out", *options)
        assert code == 0, err
        entries = [json.loads(line) for line in err.splitlines()]
        warnings = [entry["message"] for entry in entries if entry["level"] == "warning"]
        if percent is None:
            assert not warnings
        else:
            (message,) = warnings
            assert re.search(rf"mri resampled .* covers {percent} % of it; elsewhere .* ct alone", message)


@pytest.mark.parametrize(("codes", "warned"), [((4, 1), "scanner and MNI 152"), ((0, 4), "MNI 152"), ((2, 4), "")])
def test_a_head_in_an_atlas_and_one_in_the_scanner_are_warned_of(heads, fusecli, average, codes, warned):
    """By the code of the affine that counts: the sform's, if it has one."""
    ct, _, folder = heads
    mri = phantom.nifti(folder / "t1.nii.gz", np.rint(phantom.head(MR) * 1000).astype(np.int16), MR, *codes)
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", mri, "-o", folder / "out", "-m", average)
    assert code == 0, err
    assert ("different spaces" in err) == bool(warned)
    assert warned in err


def test_a_head_that_lies_nowhere_is_not_said_to_lie_in_another_space(heads, fusecli, average):
    *_, folder = heads
    ct = phantom.nifti(folder / "ct.nii", np.rint(phantom.head(CT) * 100).astype(np.int16), CT, 0, 0)
    mri = phantom.nifti(folder / "t1.nii", np.rint(phantom.head(MR) * 1000).astype(np.int16), MR, 4, 4)
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", mri, "-o", folder / "out", "-m", average)
    assert code == 1
    assert "does not say where its voxels lie" in err
    assert "different spaces" not in err


def test_equal_grids_are_not_resampled(tmp_path, fusecli, average):
    values = np.random.default_rng(0).random((22, 40, 36))
    ct, mr = put(tmp_path, "nifti", "ct", CT, values * 0.08), put(tmp_path, "dicom", "mri", CT, values)
    code, _, err = fusecli(
        "fuse", "--ct", ct, "--mri", mr, "-o", tmp_path / "out.nii", "-m", average, "--window", "40,80"
    )
    assert code == 0, err
    assert "resampled" not in err
    fused = nib.load(tmp_path / "out.nii").get_fdata().T
    low, high = np.percentile(np.rint(values * 1000), (0.5, 99.5))
    mri = np.clip((np.rint(values * 1000) - low) / (high - low), 0, 1)
    expected = (np.rint(values * 80) + 80 * mri) / 2  # the mean of what is shown of both, in Hounsfield units
    assert abs(fused - expected).max() < 0.8


@pytest.mark.parametrize("degrees", [(0, 45, 0), (0, 0, 45), (45, 45, 0)])
def test_equal_grids_halfway_between_two_axes_are_turned_alike(tmp_path, fusecli, average, degrees):
    """Which axis is the nearest is then decided by what is rounded in each header."""
    where = phantom.grid((20, 20, 20), (4, 4, 4), "axial", degrees)
    values = phantom.head(where, MARK)
    ct = put(tmp_path, "dicom", "ct", where, values, WindowCenter=500, WindowWidth=1000)
    for seed in range(4):
        noise = np.random.default_rng(seed).normal(0, 1e-6, (3, 4))
        close = phantom.Grid(where.shape, where.affine + np.vstack([noise, np.zeros(4)]))
        mri = put(tmp_path, "nifti", "mri", close, values)
        out = tmp_path / f"{seed}.nii.gz"
        code, _, err = fusecli("fuse", "--ct", ct, "--mri", mri, "-o", out, "-m", average)
        assert code == 0, err
        assert "resampled" not in err
        assert np.corrcoef(nib.load(out).get_fdata().T.ravel(), values.ravel())[0, 1] > 0.9


def test_volumes_that_do_not_overlap_are_refused(tmp_path, fusecli, average):
    far = phantom.grid((30, 32, 34), (4, 4, 4), centre=(500, 0, 0))
    ct = put(tmp_path, "nifti", "ct", CT, phantom.head(CT))
    mr = phantom.nifti(tmp_path / "mri.nii", np.arange(30 * 32 * 34, dtype=np.int16).reshape(34, 32, 30), far)
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", mr, "-o", tmp_path / "out", "-m", average)
    assert code == 1
    assert "do not overlap in patient space" in err
    assert "around 500, 0, 0 mm" in err
    assert not (tmp_path / "out").exists()


def test_metres_that_are_called_millimetres_are_refused(tmp_path, fusecli, average):
    small = phantom.Grid(MR.shape, np.diag([1e-3, 1e-3, 1e-3, 1]) @ MR.affine)
    ct, mri = (
        put(tmp_path, "dicom", "ct", CT, phantom.head(CT) / 10),
        put(tmp_path, "nifti", "mri", small, phantom.head(MR)),
    )
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", mri, "-o", tmp_path / "out", "-m", average)
    assert code == 1
    assert "one is 0.14 mm long, the other 120 mm; one header gives its sizes in another unit" in err


def test_a_thin_slab_within_a_long_volume_overlaps_it(tmp_path, fusecli, average):
    slab, long = phantom.grid((20, 20, 2), (4, 4, 2)), phantom.grid((12, 12, 400), (8, 8, 1))
    mri = phantom.nifti(tmp_path / "mri.nii", np.arange(800, dtype=np.int16).reshape(2, 20, 20), slab)
    ct = phantom.nifti(tmp_path / "ct.nii", (np.arange(57600) % 80).astype(np.int16).reshape(400, 12, 12), long)
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", mri, "-o", tmp_path / "out", "-m", average)
    assert code == 0, err
    assert "covers less than 1 %" in err


def test_missing_geometry_is_refused_unless_both_miss_it(tmp_path, fusecli, average):
    values = np.rint(phantom.head(CT) * 1000).astype(np.int16)
    ct = phantom.nifti(tmp_path / "ct.nii", values, CT)
    mr = phantom.nifti(tmp_path / "mr.nii", values, CT, 0, 0)
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", mr, "-o", tmp_path / "out", "-m", average)
    assert code == 1
    assert "mr.nii: does not say where its voxels lie (both sform and qform code are 0)" in err
    phantom.nifti(tmp_path / "ct.nii", values, CT, 0, 0)
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", mr, "-o", tmp_path / "out", "-m", average)
    assert code == 0, err
    assert "taken as registered voxel by voxel" in err
    phantom.nifti(tmp_path / "ct.nii", values[:-1], CT, 0, 0)
    assert fusecli("fuse", "--ct", ct, "--mri", mr, "-o", tmp_path / "out", "-m", average, "--overwrite")[0] == 1


def test_nifti_made_of_dicom_without_geometry_claims_none(tmp_path, fusecli, average):
    for side in ("ct", "mri"):
        for path in phantom.dicom_series(tmp_path / side, np.arange(80, dtype=np.int16).reshape(1, 10, 8), CT, "MR"):
            phantom.edit(path, ImageOrientationPatient=None, WindowCenter=40, WindowWidth=80, SeriesInstanceUID=side)
    out = tmp_path / "out.nii.gz"
    code, _, err = fusecli("fuse", "--ct", tmp_path / "ct", "--mri", tmp_path / "mri", "-o", out, "-m", average)
    assert code == 0, err
    header = nib.load(out).header
    assert (header["sform_code"], header["qform_code"], header.get_data_shape()) == (0, 0, (8, 10, 1))


# Output --------------------------------------------------------------------------------------------------------------


def test_a_dicom_series_gives_a_series_and_nothing_else_knows_the_patient(heads, fusecli, average):
    ct, mr, root = heads
    out = root / "out"
    code, stdout, err = fusecli(
        *("fuse", "--ct", ct, "--mri", mr, "-o", out, "-m", average),
        *("--preview", "--report", out / "report.json", "-v", "--json"),
    )
    assert code == 0, err
    assert sorted(path.name for path in out.iterdir()) == ["ct", "preview.png", "report.json"]
    result = pydicom.dcmread(out / "ct" / "0001.dcm")
    assert result.PatientID == "ID-4711"
    assert result.SeriesDescription == "Fused CT + MRI (average)"
    assert "MRI resampled to the grid of the other (linear)" in result.DerivationDescription
    assert "coloured" not in result.DerivationDescription
    written = everything_written(out, stdout, err)
    assert not re.search(rb"Doe|Jane|4711|19700101|1\.2\.826", written)
    report = json.loads((out / "report.json").read_text())
    assert [pair["status"] for pair in report["pairs"]] == ["done"]
    assert len(report["pairs"][0]["sha256"]) == 64


def test_nifti_and_pictures_made_of_dicom_do_not_know_the_patient(heads, fusecli, average):
    ct, mr, root = heads
    for target, *options in (["a/fused.nii.gz"], ["b/fused.tif"], ["c", "--format", "png"], ["d", "--format", "webp"]):
        code, _, err = fusecli("fuse", "--ct", ct, "--mri", mr, "-o", root / "out" / target, "-m", average, *options)
        assert code == 0, err
    assert not re.search(rb"Doe|Jane|4711|19700101|1\.2\.826", everything_written(root / "out"))
    volume = nifti.read(root / "out" / "a" / "fused.nii.gz")
    header = nib.load(root / "out" / "a" / "fused.nii.gz").header
    assert (header["sform_code"], header["qform_code"]) == (1, 1)  # the scanner's space, as that of DICOM is
    assert volume.grid.affine == pytest.approx(CT.affine, abs=1e-5)
    slices = sorted((root / "out" / "c" / "ct").iterdir())
    assert [path.name for path in slices] == [f"{k + 1:04d}.png" for k in range(22)]
    image = cv2.imread(str(slices[11]), cv2.IMREAD_UNCHANGED)
    assert len(list((root / "out" / "d" / "ct").glob("*.webp"))) == 22
    assert (image.dtype, image.shape) == (np.uint16, (40, 36))
    expected = volume.stored(dicom_range(volume)).apply(volume.voxels[11])
    assert abs(image / 65535 - expected).max() < 1e-3
    assert len(cv2.imreadmulti(str(root / "out" / "b" / "fused.tif"), flags=cv2.IMREAD_UNCHANGED)[1]) == 22


def test_nifti_made_of_a_tilted_series_has_no_qform_that_leaves_the_tilt_out(tmp_path, fusecli, average):
    where = phantom.grid((12, 10, 4), (8, 8, 20), tilt=15)
    ct, mri = (put(tmp_path, "dicom", side, where, phantom.head(where)) for side in ("ct", "mri"))
    out = tmp_path / "out.nii.gz"
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", mri, "-o", out, "-m", average)
    assert code == 0, err
    header = nib.load(out).header
    assert (header["sform_code"], header["qform_code"]) == (1, 0)
    assert f"{out}: its slices are sheared" in err
    assert header.get_best_affine() == pytest.approx(where.affine, abs=1e-4)


def dicom_range(volume):
    from fusecli.images.intensity import Range

    return Range(*volume.window)


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_gray_pet_is_coloured_and_keeps_its_chroma(tmp_path, fusecli, average, kind):
    pet = put(tmp_path, kind, "pet", CT, phantom.head(CT, mark=(2, -3, 4)))
    mr = put(tmp_path, "nifti", "mri", MR, phantom.head(MR))
    code, _, err = fusecli("fuse", "--pet", pet, "--mri", mr, "-o", tmp_path / "out", "-m", average, "--preview")
    assert code == 0, err
    volume = read(tmp_path / "out" / ("pet" if kind == "dicom" else "pet.nii.gz"), "pet")
    assert volume.is_color
    assert volume.grid.affine == pytest.approx(CT.affine, abs=1e-5)
    source = read(pet, "pet")
    from fusecli.images.volume import shown_range

    shown = source.stored(shown_range(source, "pet")).apply(source.voxels)
    colors = colormap.apply(shown, "hot").astype(int)
    fused = volume.voxels.astype(int)
    kept = ((fused > 0) & (fused < 255)).all(-1)
    chroma = (fused - fused[..., 1:2]) - (colors - colors[..., 1:2])
    assert kept.any()
    assert abs(chroma[kept]).max() <= 1
    assert not fused[phantom.head(CT) < 1e-6][(shown == 0)[phantom.head(CT) < 1e-6]].any()  # outside all is black
    preview = cv2.imread(str(tmp_path / "out" / "preview.png"))
    assert np.ptp(preview.astype(int), axis=-1).max() > 60


def test_a_head_in_a_whole_body_field_of_view_is_as_bright_as_without(tmp_path, fusecli, average):
    mr = put(tmp_path, "nifti", "mri", MR, phantom.head(MR))
    fused = {}
    for name, air in (("head", 0), ("body", 90)):
        wide = phantom.grid((46 + air, 54 + air, 28 + air), (3, 3, 5), "axial", (4, -3, 2), centre=(2, -3, 4))
        pet = phantom.nifti(tmp_path / f"{name}.nii", phantom.head(wide).astype(np.float32), wide)
        out = tmp_path / "out" / f"{name}.nii"
        options = ("--reference", "mri", "--color", "gray", "-m", average, "-o", out)
        code, _, err = fusecli("fuse", "--pet", pet, "--mri", mr, *options)
        assert code == 0, err
        fused[name] = nib.load(out).get_fdata()
    assert fused["body"] == pytest.approx(fused["head"], abs=0.1 * fused["head"].max())


def test_gray_or_another_colormap_on_demand(tmp_path, fusecli, average):
    pet = phantom.nifti(tmp_path / "pet.nii", phantom.head(CT, mark=MARK).astype(np.float32) * 7 - 0.5, CT)
    mr = put(tmp_path, "nifti", "mri", MR, phantom.head(MR))
    for name, options in {"gray": ["--color", "gray"], "jet": ["--colormap", "jet"]}.items():
        code, _, err = fusecli(
            "fuse", "--pet", pet, "--mri", mr, "-o", tmp_path / f"{name}.nii", "-m", average, *options
        )
        assert code == 0, err
        assert "negative values (down to -0.5) are shown as 0" in err
    gray, jet = (nib.load(tmp_path / f"{name}.nii") for name in ("gray", "jet"))
    assert gray.get_data_dtype() == np.float32
    assert 3 < gray.get_fdata().max() <= 7
    assert jet.get_data_dtype() == nifti.RGB24
    assert np.array_equal(gray.affine, nib.load(pet).affine)


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_colours_that_a_source_has_are_kept(tmp_path, fusecli, average, kind):
    colors = np.zeros((22, 40, 36, 3), np.uint8)
    colors[..., 0], colors[..., 2] = 120, 40
    if kind == "nifti":
        pet = phantom.nifti(tmp_path / "pet.nii", colors, CT)
    else:  # as a workstation exports what it has coloured
        pet = tmp_path / "pet"
        for path in phantom.dicom_series(pet, np.zeros(colors.shape[:3], np.uint16), CT, "PT"):
            dataset = pydicom.dcmread(path)
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
            dataset.PixelData = colors[0].tobytes()
            dataset.save_as(path)
    mr = put(tmp_path, "nifti", "mri", MR, phantom.head(MR))
    out = tmp_path / ("out.nii" if kind == "nifti" else "out")
    code, _, err = fusecli("fuse", "--pet", pet, "--mri", mr, "-o", out, "-m", average)
    assert code == 0, err
    assert "coloured by" not in err
    volume = nifti.read(out) if kind == "nifti" else read(out / "pet", "pet")
    assert volume.is_color
    fused = volume.voxels.astype(int)
    inside = (fused > 0).all(-1)
    assert inside.any()
    assert abs(fused[inside][:, 0] - fused[inside][:, 2] - 80).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_the_bit_depth_of_nifti_and_slices_is_the_users_choice(tmp_path, fusecli, average, bits):
    ct = put(tmp_path, "nifti", "ct", CT, phantom.head(CT) / 12)
    mr = put(tmp_path, "nifti", "mri", MR, phantom.head(MR))
    for target in ("out.nii", "out"):
        options = ["--format", "tiff"] if target == "out" else []
        code, _, err = fusecli(
            *("fuse", "--ct", ct, "--mri", mr, "-o", tmp_path / target, "-m", average, "--bit-depth", bits), *options
        )
        assert code == 0, err
    assert nib.load(tmp_path / "out.nii").get_data_dtype() == f"uint{bits}"
    assert nib.load(tmp_path / "out.nii").get_fdata().max() == pytest.approx(80, rel=0.2)
    slice_ = cv2.imread(str(tmp_path / "out" / "ct" / "0011.tif"), cv2.IMREAD_UNCHANGED)
    assert slice_.dtype == f"uint{bits}"


def test_the_same_input_gives_the_same_bytes(heads, fusecli, average):
    ct, mr, root = heads
    for name, workers in (("a", 1), ("b", 2)):
        code, _, err = fusecli("fuse", "--ct", ct, "--mri", mr, "-o", root / name, "-m", average, "-j", workers)
        assert code == 0, err
    results = [{path.name: path.read_bytes() for path in (root / name / "ct").iterdir()} for name in ("a", "b")]
    assert results[0] == results[1]
    assert len(results[0]) == 22


def test_the_result_of_a_file_named_by_its_uid_keeps_the_whole_name(tmp_path, fusecli, average):
    mri = phantom.nifti(tmp_path / "mri.nii.gz", SMALL_HEAD, SMALL)
    for index, path in enumerate(phantom.dicom_series(tmp_path / "ct", SMALL_HEAD + 1024, SMALL)[1:3]):
        ct = path.rename(path.with_name(f"1.2.840.{index}"))
        code, _, err = fusecli("fuse", "--ct", ct, "--mri", mri, "-o", tmp_path / "out", "-m", average)
        assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.2.840.0.dcm", "1.2.840.1.dcm"]


def test_existing_results_are_refused_replaced_or_skipped(heads, fusecli, average):
    ct, mr, root = heads
    arguments = ("fuse", "--ct", ct, "--mri", mr, "-o", root / "out", "-m", average)
    assert fusecli(*arguments)[0] == 0
    code, _, err = fusecli(*arguments)
    assert code == 2
    assert "results exist already for 1 of 1 pair (" in err
    assert "1 skipped" in fusecli(*arguments, "--skip-existing")[2]
    (root / "out" / "ct" / "0009.dcm").unlink()
    assert fusecli(*arguments, "--overwrite")[0] == 0
    assert len(list((root / "out" / "ct").iterdir())) == 22
    (root / "out" / "ct" / "notes.txt").write_text("mine")
    code, _, err = fusecli(*arguments, "--overwrite")
    assert code == 1
    assert "not replaced, since it holds more than results (notes.txt)" in err
    assert (root / "out" / "ct" / "notes.txt").read_text() == "mine"
    assert not [path for path in root.rglob("*") if ".partial" in path.name]


def test_slices_of_another_format_are_no_result_that_exists(heads, fusecli, average):
    ct, mr, root = heads
    arguments = ("fuse", "--ct", ct, "--mri", mr, "-o", root / "out", "-m", average)
    assert fusecli(*arguments, "--format", "png")[0] == 0
    code, _, err = fusecli(*arguments, "--skip-existing")
    assert code == 1
    assert "out/ct: not replaced, since it holds more than results (" in err
    assert {path.suffix for path in (root / "out" / "ct").iterdir()} == {".png"}
    assert fusecli(*arguments, "--format", "png", "--skip-existing")[0] == 0


def test_no_file_beside_the_results_replaces_an_input_or_another_program_s(heads, fusecli, average):
    ct, mr, root = heads
    slice_ = sorted(ct.iterdir())[3]
    before = {path: path.read_bytes() for path in (mr, slice_)}
    arguments = ("fuse", "--ct", ct, "--mri", mr, "-m", average)
    for path in before:
        code, _, err = fusecli(*arguments, "-o", root / "out", "--report", path)
        assert code == 2
        assert f"--report {path}: this is an input" in err
    (root / "out").mkdir()
    (root / "out" / "preview.png").write_text("mine")
    code, _, err = fusecli(*arguments, "-o", root / "out", "--preview")
    assert code == 2
    assert "preview.png exists already" in err
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_result_replaces_no_slice_that_is_read(tmp_path, fusecli, average):
    small = phantom.grid((12, 10, 1), (8, 8, 20))
    values = phantom.head(small) * 1000
    phantom.dicom_series(tmp_path / "ct", (values / 10 + 1024).astype(np.int16), small)
    phantom.dicom_series(tmp_path / "mr", values.astype(np.int16), small, "MR", number=2)
    (slice_,) = (tmp_path / "ct").iterdir()
    before = slice_.read_bytes()
    sides = ("--ct", tmp_path / "ct", "--mri", tmp_path / "mr")
    code, _, err = fusecli("fuse", *sides, "-o", slice_, "-m", average, "--overwrite")
    assert code == 2, err
    assert slice_.read_bytes() == before


def test_a_result_takes_no_series_place(tmp_path, fusecli, average):
    """Results are named after the first side, so that -o may hold that very folder."""
    put(tmp_path, "dicom", "ct", CT, phantom.head(CT) / 10)
    put(tmp_path, "dicom", "mri", CT, phantom.head(CT))
    before = sorted((tmp_path / "ct").iterdir())
    for option in ("--overwrite", "--skip-existing"):
        sides = ("--ct", tmp_path / "ct", "--mri", tmp_path / "mri")
        code, _, err = fusecli("fuse", *sides, "-o", tmp_path, "-m", average, option)
        assert (code, "holds inputs" in err) == (2, True)
    assert sorted((tmp_path / "ct").iterdir()) == before


def test_a_volume_is_not_fused_with_itself(heads, fusecli, average):
    ct, mri, root = heads
    for path in (ct, mri):
        code, _, err = fusecli("fuse", "--ct", path, "--mri", path, "-o", root / "out", "-m", average)
        assert (code, "name the same volume" in err) == (2, True)


def test_colour_becomes_gray_on_demand_and_gray_slices_of_colour_are_of_8_bits(tmp_path, fusecli, average):
    colors = np.zeros((22, 40, 36, 3), np.uint8)
    colors[..., 0], colors[..., 2] = 120, 40
    pet = phantom.nifti(tmp_path / "pet.nii", colors, CT)
    mri = put(tmp_path, "nifti", "mri", MR, phantom.head(MR))
    out = tmp_path / "gray.nii"
    code, _, err = fusecli("fuse", "--pet", pet, "--mri", mri, "-o", out, "-m", average, "--color", "gray", "--preview")
    assert code == 0, err
    fused = nifti.read(out)
    assert (fused.voxels.ndim, fused.dtype) == (3, np.uint8)
    assert fused.voxels.max() >= 0.299 * 120 / 2 + 0.114 * 40 / 2


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal"])
def test_slices_as_pictures_are_upright_whatever_the_plane(tmp_path, fusecli, average, plane):
    """A mark at the patient's right and front is at the upper left of an axial slice."""
    where = phantom.grid((40, 40, 40), (4, 4, 4), plane)
    marked = phantom.head(where, mark=(40.0, 50.0, 0.0))
    ct = phantom.nifti(tmp_path / "ct.nii", np.rint(marked * 80).astype(np.int16), where)
    mri = phantom.nifti(tmp_path / "mri.nii", np.rint(marked * 500).astype(np.int16), where)
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", mri, "-o", tmp_path, "-m", average, "--format", "png")
    assert code == 0, err
    middle = cv2.imread(str(tmp_path / "ct" / "0020.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(np.argwhere(middle > 0.8 * middle.max()).mean(0), (7, 9.5), atol=0.6)


# Several volumes -----------------------------------------------------------------------------------------------------


def test_a_cohort_of_folders_is_mirrored(tmp_path, fusecli, average):
    for patient in ("p1", "p2"):
        phantom.dicom_series(tmp_path / "ct" / patient / "thin", SMALL_HEAD // 10 + 1024, SMALL)
        phantom.dicom_series(tmp_path / "mr" / patient / "thin", SMALL_HEAD, SMALL, "MR", number=2)
    (tmp_path / "ct" / "p2" / "thin" / "IM0000.dcm").write_bytes(b"damaged")
    arguments = ("fuse", "--ct", tmp_path / "ct", "--mri", tmp_path / "mr", "-o", tmp_path / "out", "-m", average)
    code, _, err = fusecli(*arguments, "-r")
    assert code == 8
    assert "p2/thin/IM0000.dcm: the file is cut off before its image, or is no DICOM image" in err
    assert len(list((tmp_path / "out" / "p1" / "thin").iterdir())) == 4
    assert not (tmp_path / "out" / "p2" / "thin").exists()
    assert "--recursive" in fusecli(*arguments)[2]


def test_a_glob_of_folders_is_a_cohort_named_by_its_wildcards(tmp_path, fusecli, average):
    for patient in ("p1", "p2"):
        phantom.dicom_series(tmp_path / "dicom" / patient / "CT", SMALL_HEAD + 1024, SMALL)
        phantom.dicom_series(tmp_path / "dicom" / patient / "MR" / "T1", SMALL_HEAD, SMALL, "MR", number=2)
        for side in ("CT", "MR"):
            phantom.nifti(tmp_path / "nifti" / patient / side / "head.nii", SMALL_HEAD, SMALL)
    for kind, results in (("dicom", ["p1/0001.dcm", "p2/0001.dcm"]), ("nifti", ["p1/head.nii", "p2/head.nii"])):
        mri = "*/MR/T1" if kind == "dicom" else "*/MR"
        arguments = ("fuse", "--ct", tmp_path / kind / "*/CT", "--mri", tmp_path / kind / mri, "-m", average)
        code, _, err = fusecli(*arguments, "-o", tmp_path / f"{kind}-out")
        assert code == 0, err
        assert all((tmp_path / f"{kind}-out" / name).exists() for name in results)
        code, _, err = fusecli(*arguments, "-o", tmp_path / kind / "p1" / "CT" / "fused")
        assert (code, "lies in the input folder" in err) == (2, True)


def test_a_glob_of_the_files_of_an_export_gives_all_its_series(tmp_path, fusecli, average):
    for number, modality in ((1, "CT"), (2, "MR")):
        phantom.dicom_series(tmp_path / "disk" / "ST0" / f"SE{number}", SMALL_HEAD, SMALL, modality, number=number)
    files = tmp_path / "disk" / "**" / "*.dcm"
    code, _, err = fusecli("fuse", "--ct", files, "--mri", files, "-o", tmp_path / "out", "-m", average)
    assert code == 0, err
    assert f"{tmp_path / 'disk' / 'ST0'}: series 1 is the only one" in err
    assert len(list((tmp_path / "out" / "ST0").iterdir())) == 4
    disk = tmp_path / "disk"
    code, _, err = fusecli("fuse", "-r", "--ct", disk, "--mri", disk, "-o", tmp_path / "none", "-m", average)
    assert (code, "SE1; name another file or folder for one of them, or choose" in err) == (2, True)
    assert "by globs, as --ct 'patients/*/ct' --mri 'patients/*/mri'" in err


def test_a_series_that_a_patient_has_not_costs_that_patient(tmp_path, fusecli, average):
    for patient, number in (("p1", 1), ("p2", 7)):
        phantom.dicom_series(tmp_path / "ct" / patient, np.ones((3, 8, 8), np.int16), CT, number=number)
        phantom.dicom_series(tmp_path / "mri" / patient, np.ones((3, 8, 8), np.int16), CT, "MR", number=2)
        for side, level in (("ct", 1024), ("mri", 5)):
            for path in (tmp_path / side / patient).iterdir():
                phantom.edit(path, PixelData=(np.arange(64, dtype=np.int16) + level).tobytes())
    given = ("fuse", "-r", "--ct", tmp_path / "ct", "--mri", tmp_path / "mri", "-m", average)
    code, _, err = fusecli(*given, "--series", "7", "-o", tmp_path / "out")
    assert code == 8, err
    assert "p1: --series 7: neither side has a series '7', but:\n  1: CT" in err
    assert len(list((tmp_path / "out" / "p2").iterdir())) == 3
    code, _, err = fusecli(*given, "--series", "8", "-o", tmp_path / "none")
    assert code == 1
    assert err.count("neither side has a series '8'") == 2


def test_what_lies_beside_the_series_of_a_cohort_changes_nothing(tmp_path, fusecli, average):
    """A multi-frame file of another modality, which comes first. What is said of a choice is said once."""
    for patient in ("p1", "p2"):
        phantom.dicom_series(tmp_path / "ct" / patient, SMALL_HEAD // 10 + 1024, SMALL)
        phantom.dicom_series(tmp_path / "mr" / patient, SMALL_HEAD, SMALL, "MR", number=2)
        phantom.enhanced(tmp_path / "ct" / patient / "A.dcm", SMALL_HEAD.astype(np.uint16), SMALL)
    code, _, err = fusecli(
        *("fuse", "--ct", tmp_path / "ct", "--mri", tmp_path / "mr", "-r", "-o", tmp_path / "out", "-m", average)
    )
    assert code == 0, err
    assert len(list((tmp_path / "out" / "p1").iterdir())) == 4
    assert err.count("is the only one of its modality") == 2


def test_folders_that_are_links_are_found(tmp_path, fusecli, average):
    for side in ("pet", "mr"):
        phantom.nifti(tmp_path / "disk" / side / "head.nii.gz", SMALL_HEAD, SMALL)
        (tmp_path / side).mkdir()
        (tmp_path / side / "p1").symlink_to(tmp_path / "disk" / side)
        (tmp_path / side / "p1" / "again").symlink_to(tmp_path / side)  # leads back
    sides = ("--pet", tmp_path / "pet", "--mri", tmp_path / "mr")
    code, _, err = fusecli("fuse", *sides, "-o", tmp_path / "out", "-m", average, "-r")
    assert code == 0, err
    assert (tmp_path / "out" / "p1" / "head.nii.gz").exists()


def test_a_folder_of_both_kinds_is_refused(tmp_path, fusecli, average):
    phantom.dicom_series(tmp_path / "mix", SMALL_HEAD, SMALL)
    for folder in ("mix", "mr"):
        phantom.nifti(tmp_path / folder / "head.nii.gz", SMALL_HEAD, SMALL)
    rest = ("--mri", tmp_path / "mr", "-m", average)
    for ct in (tmp_path / "mix", tmp_path / "mix" / "*"):
        code, _, err = fusecli("fuse", "--ct", ct, *rest, "-o", tmp_path / "out")
        assert code == 2
        assert f"--ct: holds DICOM ({tmp_path / 'mix' / 'IM0000.dcm'}) and NIfTI" in err
    code, _, err = fusecli("fuse", "--ct", tmp_path / "mix" / "*.dcm", *rest, "-o", tmp_path / "out")
    assert code == 0, err
    (tmp_path / "pairs.csv").write_text("ct,mri\nhead.nii.gz,head.nii.gz\n")  # says which
    table = ("--pairs", tmp_path / "pairs.csv")
    assert fusecli("fuse", "--ct", tmp_path / "mix", *rest, "-o", tmp_path / "listed", *table)[0] == 0


def test_a_table_names_volumes_wherever_they_lie(tmp_path, fusecli, average, on_stdin):
    for path in ("ct/a/x.nii.gz", "mri/b/y.nii.gz"):
        phantom.nifti(tmp_path / path, SMALL_HEAD, SMALL)
    (tmp_path / "empty").mkdir()
    table = tmp_path / "pairs.csv"
    table.write_text("ct,mri\nct/a/x.nii.gz,mri/b/y.nii.gz\n")
    arguments = ("fuse", "--pairs", table, "-m", average)
    for index, folder in enumerate(("empty", ".")):
        sides = ("--ct", tmp_path / folder, "--mri", tmp_path / folder)
        code, _, err = fusecli(*arguments, *sides, "-o", tmp_path.with_name(f"{tmp_path.name}-{index}"))
        assert code == 0, err
    sides = ("--ct", tmp_path / "ct", "--mri", tmp_path / "mri")
    table.write_text("ct,mri\na/x.nii.gz,b/y.nii.gz\n")
    assert fusecli(*arguments, *sides, "-o", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "x.nii.gz").exists()
    code, _, err = fusecli(*arguments, *sides, "-o", tmp_path / "other", "--pair-by", "ct=x*,mri=y*")
    assert (code, "--pair-by" in err) == (2, True)
    on_stdin(table.read_text())
    code, _, err = fusecli("fuse", "--pairs", "-", *sides, "-o", tmp_path / "piped")
    assert code == 0, err


def test_a_table_names_folders_of_dicom_too(tmp_path, fusecli, average):
    for patient in ("p1", "p2"):
        phantom.dicom_series(tmp_path / patient / "CT", SMALL_HEAD + 1024, SMALL)
        phantom.dicom_series(tmp_path / patient / "T1", SMALL_HEAD, SMALL, "MR", number=2)
    phantom.enhanced(tmp_path / "p2" / "t1.dcm", SMALL_HEAD.astype(np.uint16), SMALL)
    phantom.nifti(tmp_path / "p2" / "t1.nii.gz", SMALL_HEAD, SMALL)
    table, out = tmp_path / "pairs.csv", tmp_path.with_name(f"{tmp_path.name}-out")
    arguments = ("fuse", "--ct", tmp_path, "--mri", tmp_path, "--pairs", table, "-o", out, "-m", average)
    table.write_text("ct,mri,name\np1/CT,p1/T1,a\np2/CT,p2/t1.dcm,sub/b\np2/CT/,p2/t1.nii.gz,c\n")
    code, _, err = fusecli(*arguments, "--series", "ct=1")
    assert code == 0, err
    assert [len(list((out / name).iterdir())) for name in ("a", "sub/b", "c")] == [4, 4, 4]
    for cells, message in (
        ("p1/CT,p2,x", "name the file"),
        ("p1/CT,..,x", "holds no volumes"),
        ("p1/CT,p3/T1,x", f"no such file or folder:\n  line 2: {tmp_path / 'p3' / 'T1'}"),
        ("p1/CT,p1/T1,p1/CT", "holds inputs"),
    ):
        table.write_text(f"ct,mri,name\n{cells}\n")
        code, _, err = fusecli(*arguments[:-3], tmp_path if "p1/T1" in cells else out, *arguments[-2:])
        assert (code, message in err) == (2, True)


def test_volumes_of_one_name_are_not_taken_for_one(tmp_path, fusecli, average):
    ct = put(tmp_path, "dicom", "ct", CT, phantom.head(CT))
    values = np.rint(phantom.head(MR) * 1000).astype(np.int16)
    for name in ("mri/t1.nii", "mri/t1.nii.gz", "cohort/a/t1.nii.gz", "cohort/b/t1.nii.gz"):
        phantom.nifti(tmp_path / name, values, MR)
    for mri, why in (("mri", "have the same name"), ("cohort/*/t1.nii.gz", "volumes without partner of the same name")):
        arguments = ("fuse", "--ct", ct, "--mri", tmp_path / mri, "-o", tmp_path / "out", "-m", average)
        code, _, err = fusecli(*arguments)
        assert code == 2
        assert why in err


def test_nested_exports_are_answered_with_the_option_that_takes_them(tmp_path, fusecli, average):
    ct = put(tmp_path, "dicom", "ct", CT, phantom.head(CT))
    put(tmp_path / "nested" / "study", "dicom", "mri", MR, phantom.head(MR))
    (tmp_path / "nested" / "notes.txt").write_text("from the scanner")
    arguments = ("fuse", "--ct", ct, "--mri", tmp_path / "nested", "-o", tmp_path / "out", "-m", average)
    code, _, err = fusecli(*arguments)
    assert code == 2
    assert f"--mri {tmp_path / 'nested'}: no volume lies in this folder itself; --recursive takes" in err
    assert fusecli(*arguments, "-r")[0] == 0


def test_a_cohort_of_nifti_files_pairs_by_name(tmp_path, fusecli, average):
    for name in ("p1", "p2"):
        phantom.nifti(tmp_path / "pet" / f"{name}.nii.gz", SMALL_HEAD, SMALL)
        phantom.nifti(tmp_path / "mr" / f"{name}.nii", SMALL_HEAD, SMALL)
    phantom.nifti(tmp_path / "mr" / "p3.nii", SMALL_HEAD, SMALL)
    arguments = ("fuse", "--pet", tmp_path / "pet", "--mri", tmp_path / "mr", "-o", tmp_path / "out", "-m", average)
    code, _, err = fusecli(*arguments)
    assert code == 2
    assert "p3.nii" in err
    assert "--pet: names nothing" in fusecli(*arguments, "--pet", "")[2]
    assert fusecli(*arguments, "--ignore-unmatched")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p1.nii.gz", "p2.nii.gz"]
    (tmp_path / "out" / "p2.nii.gz").unlink()
    assert "1 done, 1 skipped" in fusecli(*arguments, "--ignore-unmatched", "--skip-existing")[2]
    code, _, err = fusecli(*arguments, "--ignore-unmatched", "--name", "{index}", "--skip-existing")
    assert code == 2
    assert "cannot tell what {index} was given to before" in err


def test_files_of_one_name_in_a_folder_per_patient_pair_by_these_folders(tmp_path, fusecli, average):
    for patient in ("p1", "p2"):
        for name in ("ct/0", "mr/0", "ct", "mr", "mask"):
            phantom.nifti(tmp_path / "all" / patient / f"{name}.nii.gz", SMALL_HEAD, SMALL)
        phantom.dicom_series(tmp_path / "all" / patient / "t1", SMALL_HEAD, SMALL, "MR")
    for index, (ct, mri, result) in enumerate(
        (
            ("ct.nii.gz", "mr.nii.gz", "p2.nii.gz"),
            ("ct.nii.gz", "t1", "p2.nii.gz"),  # a DICOM series
            ("ct/0.nii.gz", "mr/0.nii.gz", "p2/0.nii.gz"),
            ("ct", "t1", "p2.nii.gz"),  # the only file of a folder
        )
    ):
        sides = ("--ct", tmp_path / "all" / "*" / ct, "--mri", tmp_path / "all" / "*" / mri)
        code, _, err = fusecli("fuse", *sides, "-o", tmp_path / f"out{index}", "-m", average)
        assert (code, (tmp_path / f"out{index}" / result).exists()) == (0, True), err


def test_a_cohort_of_dicom_series_goes_on_without_those_that_lack_a_partner(tmp_path, fusecli, average):
    for name in ("p1", "p2"):
        put(tmp_path / "all" / name, "dicom", "ct", SMALL, phantom.head(SMALL))
    for name in ("p2", "p3"):
        put(tmp_path / "all" / name, "dicom", "mri", SMALL, phantom.head(SMALL))
    sides = ("--ct", tmp_path / "all" / "*" / "ct", "--mri", tmp_path / "all" / "*" / "mri")
    arguments = ("fuse", *sides, "-o", tmp_path / "out", "-m", average)
    code, _, err = fusecli(*arguments)
    assert (code, "volumes without partner of the same name" in err) == (2, True)
    code, _, err = fusecli(*arguments, "--ignore-unmatched")
    assert (code, "volumes without partner of the same name" in err) == (0, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p2"]
    shutil.rmtree(tmp_path / "all" / "p2" / "mri")  # now none has
    put(tmp_path / "all" / "p4", "dicom", "mri", SMALL, phantom.head(SMALL))
    code, _, err = fusecli(*arguments, "--ignore-unmatched", "--overwrite")
    assert (code, "volumes without partner of the same name" in err) == (2, True)
    assert "by what the wildcards of globs stand for (as */ct and */mri); --pairs" in err
    shutil.rmtree(tmp_path / "all" / "p2")
    shutil.rmtree(tmp_path / "all" / "p4")
    err = fusecli(*arguments, "--overwrite")[2]
    assert "p1/ct and " in err
    assert "p3/mri are a pair as the only ones, though wildcards differ" in err


def test_results_do_not_go_where_a_glob_found_their_sources(tmp_path, fusecli, average):
    values = np.rint(phantom.head(CT) * 1000).astype(np.int16)
    sides = []
    for side in ("ct", "mri"):
        phantom.nifti(tmp_path / "all" / f"{side}1.nii.gz", values, CT)
        sides += [f"--{side}", tmp_path / "all" / f"{side}*.nii.gz"]
    arguments = ("fuse", *sides, "--pair-by", "ct=ct*,mri=mri*", "-m", average)
    code, _, err = fusecli(*arguments, "-o", tmp_path / "all")
    assert code == 2
    assert "ct*.nii.gz would find the results as inputs" in err
    assert fusecli(*arguments, "-o", tmp_path / "all" / "fused")[0] == 0
    deep = ("--ct", tmp_path / "all" / "**" / "ct*.nii.gz", "--mri", tmp_path / "all" / "mri*.nii.gz")
    naming = ("--pair-by", "ct=ct*,mri=mri*", "--name", "ct-{stem}", "-m", average)
    code, _, err = fusecli("fuse", *deep, *naming, "-o", tmp_path / "all" / "more")
    assert (code, "ct*.nii.gz would find the results as inputs" in err) == (2, True)
    assert fusecli("fuse", *deep, *naming, "-o", tmp_path / "out")[0] == 0


def test_slices_do_not_go_where_a_glob_of_files_would_find_them(tmp_path, fusecli, average):
    phantom.dicom_series(tmp_path / "ct" / "p1", SMALL_HEAD + 1024, SMALL)
    phantom.dicom_series(tmp_path / "mri" / "p1", SMALL_HEAD, SMALL, "MR", number=2)
    sides = ("--ct", tmp_path / "ct" / "**" / "*.dcm", "--mri", tmp_path / "mri" / "**" / "*.dcm")
    code, _, err = fusecli("fuse", *sides, "-m", average, "-o", tmp_path / "ct" / "fused")
    assert (code, "would find the results as inputs" in err) == (2, True)
    code, _, err = fusecli("fuse", *sides, "-m", average, "-o", tmp_path / "fused")
    assert code == 0, err


def test_series_are_not_chosen_where_none_is(tmp_path, fusecli, average):
    ct, mri = (put(tmp_path, "nifti", side, CT, phantom.head(CT)) for side in ("ct", "mri"))
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", mri, "-o", tmp_path / "out", "-m", average, "--series", "1")
    assert code == 2
    assert "--series is for DICOM, and neither side is" in err


def test_one_echo_of_several_is_chosen(tmp_path, fusecli, average):
    phantom.nifti(tmp_path / "ct.nii", SMALL_HEAD, SMALL)
    for echo in (1, 0):
        for index, path in enumerate(phantom.dicom_series(tmp_path / "echo", SMALL_HEAD, SMALL, "MR", EchoTime=echo)):
            phantom.edit(path, SOPInstanceUID=f"1.2.{echo}.{index}", InstanceNumber=2 * index + echo)
            (tmp_path / "mr").mkdir(exist_ok=True)
            path.rename(tmp_path / "mr" / f"{echo}-{path.name}")
    arguments = ("fuse", "--ct", tmp_path / "ct.nii", "--mri", tmp_path / "mr", "-m", average, "--reference", "mri")
    code, _, err = fusecli(*arguments, "-o", tmp_path / "none")
    assert (code, "mr: holds 2 images at each of 4 positions" in err) == (2, True)
    assert "choose one by --volume 0 … 1" in err
    for wanted, echo in (("0", 0), ("mri=1", 1)):
        code, _, err = fusecli(*arguments, "-o", tmp_path / wanted, "--volume", wanted)
        assert code == 0, err
        results = [pydicom.dcmread(path) for path in (tmp_path / wanted / "ct").iterdir()]
        assert [one.EchoTime for one in results] == [echo] * 4
    code, _, err = fusecli(*arguments, "-o", tmp_path / "0", "--skip-existing")  # what is there is asked nothing
    assert (code, "1 skipped" in err) == (0, True), err
    code, _, err = fusecli(*arguments, "-o", tmp_path / "none", "--volume", "mri=2")
    assert (code, "has no volume 2; it holds 2" in err) == (2, True)
    phantom.edit(next((tmp_path / "mr").iterdir()), InstanceNumber=None, EchoTime=None)  # which are of one echo?
    assert "lie at the same position" in fusecli(*arguments, "-o", tmp_path / "none", "--volume", "1")[2]


def test_the_report_tells_of_a_series_that_makes_no_volume(tmp_path, fusecli, average):
    phantom.nifti(tmp_path / "ct.nii", SMALL_HEAD, SMALL)
    files = phantom.dicom_series(tmp_path / "mr", SMALL_HEAD, SMALL, "MR")
    stack = phantom.enhanced(tmp_path / "mr" / "stack.dcm", SMALL_HEAD, SMALL)
    phantom.edit(stack, SeriesInstanceUID=pydicom.dcmread(files[0]).SeriesInstanceUID)
    sides = ("--ct", tmp_path / "ct.nii", "--mri", tmp_path / "mr")
    code, out, err = fusecli("fuse", *sides, "-m", average, "-o", tmp_path / "out", "--report", "-")
    assert (code, "stack.dcm: a multi-frame image among 5 of one series" in err) == (1, True), err
    assert json.loads(out)["pairs"][0]["status"] == "failed"


def test_a_disk_is_one_folder_and_its_index_no_volume(tmp_path, fusecli, average):
    for disk in ("disks/p1", "disks/p2"):
        for side, where in (("ct", CT), ("mri", MR)):
            put(tmp_path / disk / "PAT" / f"SE-{side}", "dicom", side, where, phantom.head(where))
        (tmp_path / disk / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    for typed, options, results in (
        ("disks/p1", (), ["PAT"]),
        ("disks/*", (), ["p1", "p2"]),
        ("disks/p1", ("--series", "ct=1,mri=2"), ["PAT"]),
    ):
        out = tmp_path / f"out-{len(options)}-{len(results)}"
        sides = ("--ct", tmp_path / typed, "--mri", tmp_path / typed)
        code, _, err = fusecli("fuse", *sides, "-o", out, "-m", average, *options)
        assert code == 0, err
        assert sorted(path.name for path in out.iterdir()) == results
    sides = ("--ct", tmp_path / "disks" / "p1" / "PAT", "--mri", tmp_path / "disks" / "p1" / "PAT")
    code, _, err = fusecli("fuse", *sides, "-o", tmp_path / "none", "-m", average, "-r")
    assert (code, "glob such as 'export/**', without --recursive" in err) == (2, True)
    sides = ("--ct", tmp_path / "disks" / "p1", "--mri", tmp_path / "disks" / "p2")
    code, _, err = fusecli("fuse", *sides, "-o", tmp_path / "each", "-m", average, "-r", "--ignore-unmatched")
    assert (code, "PAT" in err) == (0, True)


@pytest.mark.parametrize("side", ["pet", "mr"])
def test_a_damaged_nifti_file_of_a_cohort_costs_its_pair(tmp_path, fusecli, average, side):
    for name in ("p1", "p2"):
        for folder in ("pet", "mr"):
            phantom.nifti(tmp_path / folder / f"{name}.nii", SMALL_HEAD, SMALL)
    (tmp_path / side / "p1.nii").write_bytes(b"damaged")
    sides = ("--pet", tmp_path / "pet", "--mri", tmp_path / "mr")
    code, _, err = fusecli("fuse", *sides, "-o", tmp_path / "out", "-m", average)
    assert code == 8, err
    assert f"{side}/p1.nii" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p2.nii"]


def test_series_and_volumes_are_chosen_by_side(tmp_path, fusecli, average):
    for number, modality in ((4, "CT"), (5, "MR"), (6, "MR")):
        for path in phantom.dicom_series(tmp_path / f"{number}", SMALL_HEAD + 1024, SMALL, modality, number=number):
            (tmp_path / "study").mkdir(exist_ok=True)
            path.rename(tmp_path / "study" / f"{number}{path.name}")
    study = tmp_path / "study"
    arguments = ("fuse", "--ct", study, "--mri", study, "-o", tmp_path / "out", "-m", average)
    code, _, err = fusecli(*arguments)
    assert code == 2
    assert "--series mri=" in err
    assert "6: MR, 4 slices" in err
    assert fusecli(*arguments, "--series", "ct=5,pet=6")[0] == 2
    code, _, err = fusecli(*arguments, "--series", "mri=6")
    assert code == 0, err
    references = pydicom.dcmread(tmp_path / "out" / "study" / "0002.dcm").SourceImageSequence
    assert [item.ReferencedSOPInstanceUID.split(".")[-2:] for item in references] == [["4", "2"], ["6", "2"]]
    alone = ("fuse", "--ct", tmp_path / "ct", "--mri", tmp_path / "mr", "-o", tmp_path / "alone", "-m", average)
    for number, modality in ((8, "CT"), (9, "MR")):
        phantom.dicom_series(tmp_path / modality.lower(), SMALL_HEAD + 1024, SMALL, modality, number=number)
    for wrong in ("3", "ct=9"):
        code, _, err = fusecli(*alone, "--series", wrong)
        assert code == 2
        assert "8: CT, 4 slices" in err
    assert fusecli(*alone, "--series", "9")[0] == 0
    uid = pydicom.dcmread(next((tmp_path / "mr").iterdir())).SeriesInstanceUID
    assert fusecli(*alone, "--overwrite", "--series", uid.partition(".")[2])[0] == 0
    series = np.stack([SMALL_HEAD, SMALL_HEAD[::-1]]).astype(np.int16)
    nib.save(nib.Nifti1Image(series.T, SMALL.affine), tmp_path / "pet.nii")
    mr = phantom.nifti(tmp_path / "mr.nii", SMALL_HEAD, SMALL)
    arguments = ("fuse", "--pet", tmp_path / "pet.nii", "--mri", mr, "-o", tmp_path / "fused", "-m", average)
    code, _, err = fusecli(*arguments)
    assert (code, "holds 2 volumes; choose one by --volume 0 … 1" in err) == (2, True)
    assert fusecli(*arguments, "--volume", "x")[0] == 2
    code, _, err = fusecli(*arguments, "--volume", "1", "--overwrite")
    assert code == 0, err
    assert nib.load(tmp_path / "fused" / "pet.nii").shape == (12, 10, 4)


def test_a_lesion_beside_a_hot_bladder_is_shown_by_a_window(tmp_path, fusecli):
    where = phantom.grid((40, 40, 10), (3, 3, 3))
    uptake = phantom.head(where).astype(np.float32)
    uptake[:, :12, :12], uptake[4:6, 28:34, 28:34] = np.linspace(60, 100, 12), 9
    pet, mri = phantom.nifti(tmp_path / "pet.nii", uptake, where), put(tmp_path, "nifti", "mri", where, uptake / 100)
    brightness = []
    for options in ([], ["--window", "5,10"]):
        out = tmp_path / f"{len(options)}.nii"
        code, _, err = fusecli("fuse", "--pet", pet, "--mri", mri, "-o", out, *options, "--color", "gray")
        assert code == 0, err
        header = nib.load(out).header
        low, high = float(header["cal_min"]), float(header["cal_max"])
        brightness.append(nib.load(out).get_fdata()[31, 31, 5] / high)
    assert (low, high) == (0, 10)
    assert brightness[0] < 0.4
    assert brightness[1] > 0.8


def test_a_window_of_a_volume_in_colour_is_said_to_do_nothing(tmp_path, fusecli, average):
    mri = put(tmp_path, "nifti", "mri", CT, phantom.head(CT))
    colors = np.repeat(np.uint8(200 * phantom.head(CT))[..., None], 3, -1)
    pet = phantom.nifti(tmp_path / "pet.nii", colors, CT)
    arguments = ["--pet", pet, "--mri", mri, "-m", average]
    said = [
        fusecli("fuse", *arguments, "-o", tmp_path / f"{len(options)}.nii", *options)[2]
        for options in ([], ["--window", "5,10"])
    ]
    assert ["--window is for gray volumes" in err for err in said] == [False, True]


# Usage ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--resize", "mri"], "--resize is for pictures"),
        (["--steady"], "--steady is for pictures"),
        (["--raw", "3x3"], "--raw 3x3: is for pipes"),
        (["--reference", "pet"], "choose ct or mri"),
        (["--window", "40"], "expected two numbers"),
        (["--colormap", "hot"], "--colormap is for gray PET and SPECT"),
        (["--bit-depth", "8"], "a DICOM result keeps its reference's"),
        (["--bit-depth", "16", "--format", "jpg"], ".jpg files hold 8 bits; choose --format png or tiff"),
        (["-o", "out.dcm"], "the result has 22 files, one per slice; name a folder"),
        (["-o", "out.png"], "the result has 22 files, one per slice; name a folder"),
        (["-o", "out.nrrd"], "name a folder, or a file in .nii, .nii.gz, .dcm"),
        (["-o", "-"], "-o -: is for videos, and the inputs are volumes"),
        (["-o", "out.img"], "name a folder, or a file in .nii, .nii.gz, .dcm"),
        (["-o", "out.dcm", "--reference", "mri"], "a NIfTI volume knows no patient"),
        (["--name", "{patient}"], "unknown {patient}"),
        (["-o", "out.nii.gz", "--reference", "mri", "--format", "png"], "contradicts --format png"),
        (["--series", "mri=2"], "--series is for DICOM, and --mri is none"),
        (["--pair-by", "ct=*_ct,mri=*_mr"], "--pair-by matches names of NIfTI files"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(heads, fusecli, average, options, reason):
    ct, mr, root = heads
    options = [root / option if option.startswith("out.") else option for option in options]
    target = () if "-o" in options else ("-o", root / "out")
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", mr, "-m", average, *target, *options)
    assert code == 2
    assert reason in err
    assert not (root / "out").exists()


def test_a_colormap_that_does_not_exist_is_answered_with_the_nearest(tmp_path, fusecli):
    pet, mri = (put(tmp_path, "nifti", side, CT, phantom.head(CT)) for side in ("pet", "mri"))
    code, _, err = fusecli("fuse", "--pet", pet, "--mri", mri, "-o", tmp_path / "out", "--colormap", "hott")
    assert code == 2
    assert "did you mean hot" in err
    code, _, err = fusecli("fuse", "--pet", pet, "--mri", mri, "-o", tmp_path / "out", "--bit-depth", "16")
    assert (code, "volumes in colour have 8 bits" in err) == (2, True)


@pytest.mark.parametrize("options", [["--series", "3"], ["--reference", "mri"], ["--window", "40,80"]])
def test_options_of_volumes_are_refused_for_pictures(tmp_path, fusecli, average, options):
    for side in ("ct", "mri"):
        (tmp_path / side).mkdir()
        cv2.imwrite(str(tmp_path / side / "a.png"), np.zeros((8, 8), np.uint8))
    arguments = ("fuse", "--ct", tmp_path / "ct", "--mri", tmp_path / "mri", "-o", tmp_path / "out", "-m", average)
    code, _, err = fusecli(*arguments, *options)
    assert code == 2
    assert "both sides are pictures" in err
    code, _, err = fusecli(
        *arguments[:2], tmp_path / "none.nii", "--mri", tmp_path / "none.nii.gz", "-o", "out", *options
    )
    assert (code, "none.nii: no such file or folder" in err) == (2, True)
    assert fusecli(*arguments)[0] == 0
    assert (tmp_path / "out" / "a.png").exists()


def test_a_volume_and_pictures_are_no_pair(heads, fusecli, average):
    ct, _, root = heads
    (root / "png").mkdir()
    cv2.imwrite(str(root / "png" / "a.png"), np.zeros((8, 8), np.uint8))
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", root / "png", "-o", root / "out", "-m", average)
    assert code == 2
    assert "the other side is a volume, this is none (DICOM, or NIfTI as .nii, .nii.gz, or .img beside .hdr)" in err
    (root / "t1.hdr").touch()
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", root / "t1.hdr", "-o", root / "out", "-m", average)
    assert (code, f"name the file of the voxels, {root / 't1.img'}" in err) == (2, True)


def test_too_many_voxels_are_refused_before_they_are_read(heads, fusecli, average):
    ct, mr, root = heads
    code, _, err = fusecli("fuse", "--ct", ct, "--mri", mr, "-o", root / "out", "-m", average, "--max-pixels", 1000)
    assert code == 1
    assert f"{ct}: {36 * 40 * 22:,} voxels are more than the limit of 1,000; --max-pixels or FUSECLI_MAX_PIXELS" in err


# Previews ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal"])
def test_previews_show_three_planes_upright_whatever_the_orientation(plane):
    from fusecli.images.planes import GAP, planes

    where = phantom.grid((60, 50, 40), (2, 2, 3), plane)
    points = phantom.positions(where)
    inside = np.linalg.norm(points, axis=-1) < 45
    bright = [(points[..., axis] > 5) & inside for axis in range(3)]
    for axis, mask in enumerate(bright):
        picture = planes(np.where(mask, 200, 0).astype(np.uint8), where)
        axial, coronal, sagittal = np.split(picture, _begins(where, GAP))
        for view, (across, down) in ((axial, (0, 1)), (coronal, (0, 2)), (sagittal, (1, 2))):
            rows, columns = np.nonzero(view > 100)
            middle = (np.array(view.shape) - 1) / 2
            if axis == across:  # right and front are on the left
                assert columns.mean() < middle[1] - 2
            elif axis == down:  # front and head are up
                assert rows.mean() < middle[0] + GAP
                assert abs(columns.mean() - middle[1]) < 2


@pytest.mark.parametrize("plane", phantom.PLANES)
def test_previews_cut_where_a_small_volume_meets_a_large_one(tmp_path, fusecli, average, plane):
    wide = phantom.grid((40, 44, 48), (4, 4, 4), plane)
    small = phantom.grid((12, 12, 12), (2, 2, 2), centre=(20, -30, 40))
    for side, where, mark in (("ct", wide, (0, 0, 0)), ("mri", small, (20, -30, 40))):
        phantom.nifti(tmp_path / f"{side}.nii", (phantom.head(where, mark) * 900).astype(np.int16), where)
    arguments = ["--ct", tmp_path / "ct.nii", "--mri", tmp_path / "mri.nii", "-o", tmp_path / "out.nii", "-m", average]
    code, _, err = fusecli("fuse", *arguments, "--preview", "--window", "450,900")
    assert code == 0, err
    picture = cv2.imread(str(tmp_path / "out-preview.png"), 0)
    _, mri, _ = np.array_split(picture, 3, axis=1)
    third = len(mri) // 3
    assert all(mri[top : top + third].max() > 200 for top in (0, third, 2 * third))


def test_previews_of_volumes_without_a_place_take_slices_for_axial_ones():
    from fusecli.images.planes import planes

    voxels = np.random.default_rng(0).integers(0, 256, (30, 50, 40)).astype(np.uint8)
    picture = planes(voxels, None)
    where = phantom.grid((40, 50, 30), (1, 1, 1), "axial")
    assert np.array_equal(picture, planes(voxels, where))
    axial = picture[:50, (picture.shape[1] - 40) // 2 :][:, :40]
    assert np.array_equal(axial, voxels[15])


def test_previews_of_very_thin_slices_are_no_larger_than_can_be_looked_at():
    from fusecli.images.planes import LONGEST, planes

    where = phantom.grid((60, 50, 1), (2, 2, 0.001))
    picture = planes(np.zeros((1, 50, 60), np.uint8), where)
    assert picture.shape[1] == LONGEST
    assert picture.shape[0] == pytest.approx(LONGEST * 50 / 60, rel=0.01)


def _begins(where, gap: int) -> list[int]:
    """Where the second and third of three pictures begin."""
    axes = np.abs(where.affine[:3, :3]).argmax(0)
    size = {int(axis): where.shape[k] * where.spacing[k] / 2 for k, axis in enumerate(axes)}
    first = round(size[1]) + gap
    return [first, first + round(size[2]) + gap]
