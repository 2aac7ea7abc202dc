import errno
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pytest

from fusecli.errors import FusecliError, InputError, UsageError
from fusecli.images import nifti
from fusecli.images.intensity import Range
from fusecli.images.volume import shown_range

WHERE = phantom.grid((7, 6, 5), (1.5, 2, 3), "axial", (10, 20, 30), centre=(4, 5, 6))
VALUES = np.random.default_rng(0).integers(0, 120, (5, 6, 7))


def shown(volume, side="mri"):
    range_ = shown_range(volume, side)
    return range_, volume.stored(range_).apply(volume.voxels)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", ">i2", "int32", "float32", "float64"])
def test_a_result_has_the_header_and_the_sample_type_of_its_reference(tmp_path, dtype, ending):
    path = phantom.nifti(tmp_path / f"head{ending}", VALUES.astype(dtype), WHERE, sform=2, qform=3)
    volume = nifti.read(path)
    range_, fused = shown(volume)
    nifti.write(tmp_path / f"out{ending}", fused, volume, range_, "Fused")
    before, after = nib.load(path), nib.load(tmp_path / f"out{ending}")
    assert np.array_equal(before.affine, after.affine)
    for name in ("sform_code", "qform_code", "dim", "pixdim", "xyzt_units", "srow_x", "quatern_b", "qoffset_z"):
        assert np.array_equal(before.header[name], after.header[name]), name
    assert after.get_data_dtype() == np.dtype(dtype).newbyteorder("=")
    levels = {"uint8": 255, "int8": 127}.get(dtype, 32767)
    expected = np.clip(before.get_fdata(), range_.lo, range_.hi)
    assert abs(after.get_fdata() - expected).max() <= 0.51 * (range_.hi - range_.lo) / levels + 1e-5


def test_a_result_is_no_label_map_where_its_reference_says_so_of_itself(tmp_path):
    path = phantom.nifti(tmp_path / "head.nii", VALUES.astype(np.int16), WHERE)
    image = nib.load(path)
    image.header.set_intent("t test", (12,), "Doe^Jane")
    nib.save(image, tmp_path / "labels.nii")
    volume = nifti.read(tmp_path / "labels.nii")
    range_, fused = shown(volume)
    nifti.write(tmp_path / "out.nii", fused, volume, range_, "Fused")
    assert nib.load(tmp_path / "out.nii").header.get_intent() == ("none", (), "")


def test_colour_is_rgb24_and_comes_back(tmp_path):
    volume = nifti.read(phantom.nifti(tmp_path / "pet.nii", VALUES.astype(np.float32), WHERE))
    colors = np.random.default_rng(1).integers(0, 256, (5, 6, 7, 3)).astype(np.uint8)
    nifti.write(tmp_path / "fused.nii", colors, volume, Range(0, 119), "Fused")
    again = nifti.read(tmp_path / "fused.nii")
    assert nib.load(tmp_path / "fused.nii").get_data_dtype() == nifti.RGB24
    assert again.is_color
    assert np.array_equal(again.voxels, colors)
    assert np.array_equal(again.grid.affine, volume.grid.affine)


@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 1), (7, 6, 5, 1)])
def test_files_of_two_axes_or_with_one_slice_are_volumes(tmp_path, shape):
    data = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    nib.save(nib.Nifti1Image(data, WHERE.affine), tmp_path / "one.nii")
    volume = nifti.read(tmp_path / "one.nii")
    assert volume.shape == (*shape, 1)[:3]
    assert np.array_equal(volume.voxels[0], data.reshape(*shape[:2], -1)[..., 0].T)
    nifti.write(tmp_path / "out.nii", shown(volume)[1], volume, Range(0, 1), "Fused")
    assert nib.load(tmp_path / "out.nii").shape == shape[:3]


def test_texts_and_extensions_of_a_header_are_not_carried_over(tmp_path):
    path = phantom.nifti(tmp_path / "head.nii", VALUES.astype(np.int16), WHERE)
    image = nib.load(path)
    for name in ("db_name", "aux_file", "descrip", "intent_name"):
        image.header[name] = b"Doe^Jane"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"ID-4711 Doe^Jane"))
    nib.save(image, path)
    assert b"Doe" in path.read_bytes()
    volume = nifti.read(path)
    nifti.write(tmp_path / "out.nii", shown(volume)[1], volume, Range(0, 119), "Fused CT + MRI")
    written = (tmp_path / "out.nii").read_bytes()
    assert b"Doe" not in written
    assert b"4711" not in written
    assert b"Fused CT + MRI" in written


def test_the_same_result_has_the_same_bytes(tmp_path):
    volume = nifti.read(phantom.nifti(tmp_path / "head.nii.gz", VALUES.astype(np.int16), WHERE))
    for name in ("a.nii.gz", "b.nii.gz"):
        nifti.write(tmp_path / name, shown(volume)[1], volume, Range(0, 119), "Fused")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz", "head.nii.gz"]


def test_scale_factor_and_offset_are_applied_also_when_negative(tmp_path):
    image = nib.Nifti1Image(VALUES.T.astype(np.int16), WHERE.affine)
    image.header.set_slope_inter(2, -50)
    nib.save(image, tmp_path / "a.nii")
    volume = nifti.read(tmp_path / "a.nii")
    assert volume.voxels.dtype == np.int16
    assert (volume.slope, volume.intercept) == (2, -50)
    image.header.set_slope_inter(-2, 10)
    nib.save(image, tmp_path / "b.nii")
    assert np.array_equal(nifti.read(tmp_path / "b.nii").voxels, VALUES * -2 + 10)


def test_voxels_that_are_no_number_count_as_background(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    values = VALUES.astype(np.float32) + 3  # as in a brain, all of which takes up some
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    volume = nifti.read(phantom.nifti(tmp_path / "head.nii", values, WHERE))
    assert list(volume.voxels[0, 0, :3]) == [0, 0, 0]
    assert "3 voxels" in caplog.text


def test_one_volume_of_several_in_colour_may_be_written_to(tmp_path):
    colors = np.zeros((*VALUES.T.shape, 2), nifti.RGB24)
    colors["G"][..., 1] = VALUES.T
    nib.save(nib.Nifti1Image(colors, WHERE.affine), tmp_path / "4d.nii")
    voxels = nifti.read(tmp_path / "4d.nii", 1).voxels
    assert voxels.flags.writeable  # else torch warns
    assert np.array_equal(voxels[..., 1], VALUES)


@pytest.mark.filterwarnings("error")
def test_values_beyond_float32_count_as_background(tmp_path):
    values = VALUES.astype(np.float64)
    values[0, 0, 0] = 1e300
    volume = nifti.read(phantom.nifti(tmp_path / "huge.nii", values, WHERE))
    assert volume.voxels.max() == VALUES.max()


def test_one_volume_of_several_is_chosen_by_its_number(tmp_path):
    series = np.stack([VALUES, VALUES + 1, VALUES + 2], 0).astype(np.int16)
    nib.save(nib.Nifti1Image(series.T, WHERE.affine), tmp_path / "4d.nii.gz")
    assert np.array_equal(nifti.read(tmp_path / "4d.nii.gz", 2).voxels, series[2])
    with pytest.raises(UsageError, match=r"4d.nii.gz: holds 3 volumes; choose one by --volume 0 … 2"):
        nifti.read(tmp_path / "4d.nii.gz")
    with pytest.raises(UsageError, match="no volume 3; it holds 3, counted from 0"):
        nifti.read(tmp_path / "4d.nii.gz", 3)


def test_a_header_without_codes_gives_no_geometry(tmp_path):
    path = phantom.nifti(tmp_path / "head.nii", VALUES.astype(np.int16), WHERE, sform=0, qform=0)
    assert nifti.read(path).grid is None


@pytest.mark.parametrize(("codes", "moved", "warned"), [((1, 1), -1, True), ((1, 1), 1, False), ((4, 1), -1, False)])
def test_two_places_for_the_same_voxels_are_warned_of(tmp_path, caplog, codes, moved, warned):
    where = phantom.grid((9, 8, 6), (2, 1.5, 4), degrees=(5, 10, -7), centre=(30, 0, 0))
    image = nib.Nifti1Image(np.zeros((9, 8, 6), np.int16), where.affine)
    image.set_sform(where.affine, codes[0])
    image.set_qform(np.diag([moved, 1, 1, 1]) @ where.affine, codes[1])
    nib.save(image, tmp_path / "a.nii")
    assert nifti.read(tmp_path / "a.nii").grid.affine == pytest.approx(where.affine, abs=1e-5)
    assert ("place voxels differently" in caplog.text) == warned


def test_units_of_a_header_are_brought_to_millimetres(tmp_path):
    affine = WHERE.affine.copy()
    affine[:3] *= 1000
    image = nib.Nifti1Image(VALUES.T.astype(np.int16), affine)
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "micron.nii")
    assert nifti.read(tmp_path / "micron.nii").grid.affine == pytest.approx(WHERE.affine, rel=1e-5)


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "NaN or infinity"), (0.0, "zero length")])
def test_an_affine_that_places_nothing_is_refused(tmp_path, value, reason):
    path = phantom.nifti(tmp_path / "head.nii", VALUES.astype(np.int16), WHERE)
    image = nib.load(path)
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = ([value] * 4,) * 3
    image.header["vox_offset"] = 352  # which nibabel has forgotten
    path.unlink()
    with path.open("wb") as file:
        file.write(image.header.binaryblock + bytes(4) + VALUES.T.astype(np.int16).tobytes("F"))
    with pytest.raises(InputError, match=rf"head.nii: .*{reason}.*mend the header"):
        nifti.read(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kept", [0, 100, 400, -30])
def test_files_that_are_cut_off_are_refused(tmp_path, ending, kept):
    noise = np.random.default_rng(2).integers(0, 999, (9, 9, 9)).astype(np.int16)
    path = phantom.nifti(tmp_path / f"head{ending}", noise, WHERE)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=f"head{ending}: "):
        nifti.read(path)


@pytest.mark.parametrize("lost", ["_load", "_check_sum"])  # the share, at the header or behind it
def test_a_file_that_the_system_cannot_read_is_not_called_damaged(tmp_path, monkeypatch, lost):
    path = phantom.nifti(tmp_path / "head.nii.gz", VALUES.astype(np.int16), WHERE)

    def stale(path):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(nifti, lost, stale)
    with pytest.raises(InputError, match=r"head.nii.gz: cannot be read: Stale file handle$"):
        nifti.read(path)


def test_a_header_is_not_taken_for_voxels(tmp_path):
    path = phantom.nifti(tmp_path / "a.nii", VALUES.astype(np.int16), WHERE)
    content = bytearray(path.read_bytes())
    content[108:112] = bytes(4)  # vox_offset
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"would begin within the header \(vox_offset 0\)"):
        nifti.read(path)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_gzip_is_told_by_the_first_bytes_whatever_the_name(tmp_path, ending, kind):
    right, wrong = tmp_path / f"right{ending}", tmp_path / f"wrong{'.nii' if ending == '.nii.gz' else '.nii.gz'}"
    nib.save(kind(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([2.0, 3, 4, 1])), right)
    wrong.write_bytes(right.read_bytes())
    a, b = nifti.read(right), nifti.read(wrong)
    assert np.array_equal(a.voxels, b.voxels)
    assert np.array_equal(a.grid.affine, b.grid.affine)
    assert nifti.peek(wrong) == nifti.peek(right)
    nifti.write(out := tmp_path / "out.nii", np.zeros((5, 4, 3), np.float32), b, Range(0, 1), "t")
    assert nib.load(out).shape == (3, 4, 5)
    wrong.write_bytes(right.read_bytes()[:-9])
    with pytest.raises(InputError, match="cut off"):
        nifti.read(wrong)


def test_a_pair_of_header_and_image_is_read_as_one_file_is(tmp_path, fusecli, average):
    ct, one = (phantom.nifti(tmp_path / name / "head.nii.gz", VALUES.astype(np.int16), WHERE) for name in ("ct", "one"))
    found = []
    for folder, kind in (("pair", nib.Nifti1Pair), ("analyze", nib.Spm2AnalyzeImage)):
        (tmp_path / folder).mkdir()
        nib.save(kind(VALUES.T.astype(np.int16), WHERE.affine), tmp_path / folder / "head.img")
    (tmp_path / "caps").mkdir()
    for ending in (".img", ".hdr"):  # as some systems name them
        shutil.copy(tmp_path / "pair" / f"head{ending}", tmp_path / "caps" / f"head{ending.upper()}")
    for mri in (one.parent, tmp_path / "pair", tmp_path / "pair" / "head.img", tmp_path / "caps" / "head.IMG"):
        options = ("--mri", mri, "-o", tmp_path / "out", "-m", average, "--reference", "mri", "--overwrite")
        code, _, err = fusecli("fuse", "--ct", ct if mri.is_file() else ct.parent, *options)
        assert code == 0, err
        found.append(nib.load(tmp_path / "out" / "head.nii.gz"))
        assert np.array_equal(found[-1].get_fdata(), found[0].get_fdata())
        assert found[-1].affine == pytest.approx(WHERE.affine)
    with pytest.raises(InputError, match=r"is Analyze 7\.5, which does not say which side of the patient is left"):
        nifti.read(tmp_path / "analyze" / "head.img")
    shutil.copy(one, tmp_path / "alone.img")
    assert not nifti.is_nifti(tmp_path / "alone.img")  # without a header it may be DICOM


@pytest.mark.parametrize("name", ["text.nii", "text.nii.gz"])
def test_files_that_are_no_nifti_are_refused(tmp_path, name):
    (tmp_path / name).write_text("no image at all" * 100)
    with pytest.raises(InputError, match=f"{name}: cannot be read as NIfTI"):
        nifti.read(tmp_path / name)


def test_complex_and_five_dimensional_files_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.complex64), np.eye(4)), tmp_path / "complex.nii")
    with pytest.raises(InputError, match="complex numbers"):
        nifti.read(tmp_path / "complex.nii")
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3, 2, 2), np.float32), np.eye(4)), tmp_path / "vectors.nii")
    for act in (nifti.peek, nifti.read):  # told before a volume has to be chosen
        with pytest.raises(InputError, match="5 dimensions"):
            act(tmp_path / "vectors.nii")


def bundled():
    folder = Path(nib.__file__).parent / "tests" / "data"
    return sorted(path for path in folder.glob("*") if path.suffix in (".nii", ".gz") and nifti.is_nifti(path))


@pytest.mark.parametrize("path", bundled(), ids=lambda path: path.name)
def test_files_that_nibabel_brings_along_are_fused_or_refused(tmp_path, path, fusecli, average):
    pet, mri = (shutil.copy(path, tmp_path / f"{side}{path.name}") for side in ("", "mri-"))
    several = ("--volume", "0") if len(nib.load(path).shape) > 3 else ()
    code, _, err = fusecli("fuse", "--pet", pet, "--mri", mri, "-o", tmp_path / "out", "-m", average, *several)
    if path.name == "row_major.dconn.nii":
        assert code == 1
        assert "row_major.dconn.nii: holds Cifti2Image; a NIfTI volume is needed" in err
        return
    assert code == 0, err
    (result,) = (tmp_path / "out").glob("*.nii*")
    before, after = nib.load(path), nib.load(result)
    assert after.shape == before.shape[:3]
    assert np.array_equal(after.affine, before.affine)


def test_a_file_whose_check_sum_is_wrong_is_refused(tmp_path):
    path = phantom.nifti(
        tmp_path / "a.nii.gz", VALUES.repeat(9, 0).astype(np.int16), phantom.grid((7, 6, 45), (1, 1, 1))
    )
    whole = path.read_bytes()
    for damaged in (whole[:-8], whole[:-8] + bytes(4) + whole[-4:]):
        path.write_bytes(damaged)
        with pytest.raises(FusecliError, match="cut off or damaged"):
            nifti.read(path)


def test_what_is_no_volume_is_refused_by_name(tmp_path):
    path = Path(nib.__file__).parent / "tests" / "data" / "test.mgz"
    copy = shutil.copy(path, tmp_path / "head.nii.gz")
    with pytest.raises(FusecliError, match=r"head\.nii\.gz"):
        nifti.read(Path(copy))
