import importlib.util
import io
import logging
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import phantom
import pydicom
import pytest
from phantom import edit
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    NuclearMedicineImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
)

from fusecli.errors import InputError, UsageError
from fusecli.images import derived, dicom, dicom_series
from fusecli.images.dicom_planes import Place, Plane, arrange
from fusecli.images.grid import Grid
from fusecli.images.intensity import Range
from fusecli.images.volume import Volume, parse_window, shown_range

WHERE = phantom.grid((9, 8, 6), (2, 1.5, 4), "axial", (5, 10, -7), centre=(3, -4, 60))
TILTED = phantom.grid((9, 8, 6), (2, 1.5, 4), "axial", (5, 10, -7), centre=(3, -4, 60), tilt=20)
VALUES = np.random.default_rng(0).integers(0, 2000, (6, 8, 9)).astype(np.int16)


def open_(path: Path, side: str = "ct", series: str | None = None):
    files = [path] if path.is_file() else [file for file in path.iterdir() if dicom_series.is_dicom(file)]
    return dicom_series.choose(dicom_series.scan(path, files), side, series)


def read(path: Path, side: str = "ct", series: str | None = None):
    return dicom.read(open_(path, side, series), side)


def refused(path: Path, side: str = "ct") -> str:
    with pytest.raises((InputError, UsageError)) as caught:
        read(path, side)
    return str(caught.value)


def quantities(volume) -> np.ndarray:
    return volume.voxels * volume.slope + volume.intercept


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal"])
def test_slices_are_sorted_by_position_and_lie_where_the_header_says(tmp_path, plane):
    where = phantom.grid((9, 8, 6), (2, 1.5, 4), plane, (5, 10, -7), centre=(3, -4, 60))
    phantom.dicom_series(tmp_path / "ct", VALUES, where)  # names and instance numbers in other orders
    volume = read(tmp_path / "ct")
    assert np.array_equal(volume.voxels, VALUES)
    assert volume.grid.affine == pytest.approx(where.affine, abs=1e-6)
    assert (volume.slope, volume.intercept) == (1, -1024)


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path):
    files = phantom.dicom_series(tmp_path / "pt", VALUES, WHERE, "PT")
    for index, path in enumerate(files):
        edit(path, RescaleSlope=index + 0.5, RescaleIntercept=0)
    volume = read(tmp_path / "pt", "pet")
    slopes = np.arange(6)[:, None, None] + 0.5
    assert volume.voxels.dtype == np.float32
    assert quantities(volume) == pytest.approx(VALUES * slopes)


def test_signed_and_unsigned_pixels(tmp_path):
    phantom.dicom_series(tmp_path / "signed", VALUES - 1000, WHERE, "MR")
    phantom.dicom_series(tmp_path / "unsigned", (VALUES.astype(int) + 40000).astype(np.uint16), WHERE, "MR")
    assert np.array_equal(quantities(read(tmp_path / "signed", "mri")), VALUES.astype(int) - 1000)
    assert np.array_equal(quantities(read(tmp_path / "unsigned", "mri")), VALUES.astype(int) + 40000)


@pytest.mark.parametrize(("modality", "side"), [("MR", "mri"), ("CT", "ct"), ("PT", "pet")])
def test_monochrome1_inverts_what_has_no_unit_and_leaves_hounsfield_units_and_uptake(tmp_path, modality, side):
    window = {"WindowCenter": 40, "WindowWidth": 501}
    phantom.dicom_series(tmp_path / "plain", VALUES, WHERE, modality, **window)
    phantom.dicom_series(
        *(tmp_path / "inverted", VALUES, WHERE, modality), PhotometricInterpretation="MONOCHROME1", **window
    )
    a, b = read(tmp_path / "plain", side), read(tmp_path / "inverted", side)
    shown = [volume.stored(shown_range(volume, side)).apply(volume.voxels) for volume in (a, b)]
    assert 0 < shown[0].mean() < 1
    if side == "mri":
        assert shown[1] == pytest.approx(1 - shown[0], abs=1e-5)
        assert b.window == (-a.window[1], -a.window[0])
    else:
        assert np.array_equal(shown[1], shown[0])
        assert np.array_equal(quantities(b), quantities(a))
        assert b.window == a.window


@pytest.mark.parametrize(
    ("modality", "side", "stored", "tags"),
    [
        ("MR", "mri", -32768, {"PixelPaddingValue": -32768}),
        ("MR", "mri", -32768, {"PixelPaddingValue": -32768, "PhotometricInterpretation": "MONOCHROME1"}),
        ("MR", "mri", -5, {"PixelPaddingValue": -3, "PixelPaddingRangeLimit": -8}),
        ("MR", "mri", 32767, {"PixelPaddingValue": 32760, "PixelPaddingRangeLimit": 32767}),
        ("CT", "ct", -2000, {"PixelPaddingValue": -2000}),
        ("CT", "ct", -2000, {"PixelPaddingValue": -2000, "RescaleSlope": -1}),
        ("PT", "pet", -1, {"PixelPaddingValue": -1}),
    ],
)
def test_padding_is_as_dark_as_the_darkest_voxel(tmp_path, modality, side, stored, tags):
    values = VALUES.copy()
    values[4, 4, 4] = 0
    padding = np.zeros(VALUES.shape, bool)
    padding[:, :3, :2] = padding[3] = True  # one slice is nothing else
    values[padding] = stored
    files = phantom.dicom_series(tmp_path / "in", values, WHERE, modality, **tags)
    found = quantities(read(tmp_path / "in", side))
    assert np.unique(found[padding]) == [found[~padding].min()]
    for path in files:  # some files have the tag unsigned, though pixels are signed
        dataset = pydicom.dcmread(path)
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
            if name in dataset:
                dataset[name] = pydicom.DataElement(name, "US", dataset[name].value % 65536)
        dataset.save_as(path)
    assert np.array_equal(quantities(read(tmp_path / "in", side)), found)
    for path in files:
        edit(path, PixelPaddingValue=None)
    assert np.array_equal(quantities(read(tmp_path / "in", side))[~padding], found[~padding])


@pytest.mark.parametrize(("dtype", "kind"), [("i4", "SL"), ("u4", "UL"), ("i4", "SS"), ("u1", "US")])
def test_padding_has_as_many_bits_as_its_tag(tmp_path, dtype, kind):
    padding = {"SL": -200_000, "UL": 4_000_000_000, "SS": -2000, "US": 65535}[kind]
    values = np.clip(VALUES, 1, 255).astype(dtype)
    if dtype != "u1":
        values[:, 3] = padding
    for path, pixels in zip(phantom.dicom_series(tmp_path / "ct", VALUES, WHERE), values, strict=True):
        dataset = pydicom.dcmread(path)
        dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
        dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(dtype == "i4")
        dataset["PixelPaddingValue"] = pydicom.DataElement("PixelPaddingValue", kind, padding)
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(path)
    expected = values.astype(float) - 1024
    if dtype != "u1":
        expected[:, 3] = np.delete(expected, 3, 1).min()
    assert np.array_equal(quantities(read(tmp_path / "ct")), expected)


@pytest.mark.parametrize("scale", [1, 257])
def test_a_palette_of_16_bits_may_hold_entries_of_8(tmp_path, scale):
    path, *_ = phantom.dicom_series(tmp_path / "pet", VALUES[:1] % 200, WHERE, "PT")
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for n, color in enumerate(("Red", "Green", "Blue"), 1):
        dataset.add_new(f"{color}PaletteColorLookupTableDescriptor", "US", [200, 0, 16])
        table = (np.arange(200) // n * scale).astype("<u2")
        dataset.add_new(f"{color}PaletteColorLookupTableData", "OW", table.tobytes())
    dataset.save_as(path)
    assert np.array_equal(read(path, "pet").voxels, np.stack([VALUES[:1] % 200 // n for n in (1, 2, 3)], -1))


def test_frames_of_an_enhanced_file_are_sorted_too(tmp_path):
    order = [3, 1, 5, 0, 2, 4]
    path = phantom.enhanced(tmp_path / "mr.dcm", VALUES.astype(np.uint16), WHERE, order)
    volume = read(path, "mri")
    assert np.array_equal(quantities(volume), VALUES * 2.0 + 5)
    assert volume.grid.affine == pytest.approx(WHERE.affine, abs=1e-6)
    assert volume.origin.frames == [order.index(k) for k in range(6)]


@pytest.mark.parametrize(("name", "bits"), [("FloatPixelData", 32), ("DoubleFloatPixelData", 64)])
def test_parametric_maps_hold_floats(tmp_path, name, bits):
    path = phantom.enhanced(tmp_path / "map.dcm", VALUES.astype(np.uint16), WHERE)
    values = VALUES / 1000.0
    values[2, 3, 4], values[3, 3, 3], values[3, 3, 4] = np.nan, -500, -450
    dataset = pydicom.dcmread(path)
    setattr(dataset, name.replace("Data", "PaddingValue"), -500.0)
    setattr(dataset, name.replace("Data", "PaddingRangeLimit"), -400.0)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ParametricMapStorage
    dataset.BitsAllocated = bits
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.PixelValueTransformationSequence  # which these do not have
    for unknown in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, unknown)
    setattr(dataset, name, values.astype(f"<f{bits // 8}").tobytes())
    dataset.save_as(path)
    volume = read(path, "mri")
    values[2, 3, 4] = values[3, 3, 3:5] = 0  # the darkest
    assert volume.voxels == pytest.approx(values.astype(np.float32))
    assert volume.grid.affine == pytest.approx(WHERE.affine, abs=1e-6)
    fused = write(tmp_path / "out.dcm", volume, volume, side="mri")
    result = pydicom.dcmread(tmp_path / "out.dcm")
    assert not any(element.keyword.startswith(name.removesuffix("Data")) for element in result)
    assert result.pixel_array == pytest.approx(65535 * fused, abs=1)


def test_one_echo_of_an_enhanced_file_is_chosen(tmp_path):
    path = phantom.enhanced(tmp_path / "mr.dcm", VALUES.astype(np.uint16), WHERE, [0, 1, 2, 2, 1, 0])
    edit(path, PixelData=VALUES.astype(np.uint16).tobytes())
    assert "choose one by --volume 0 … 1, in the order of their frame numbers" in refused(path, "mri")
    volume = dicom.read(open_(path, "mri"), "mri", lambda count: "1")
    assert np.array_equal(quantities(volume), VALUES[[5, 4, 3]] * 2.0 + 5)
    fused = write(tmp_path / "out.dcm", volume, volume, side="mri")
    again, result, source = read(tmp_path / "out.dcm", "mri"), *map(pydicom.dcmread, (tmp_path / "out.dcm", path))
    assert again.grid.affine == pytest.approx(volume.grid.affine)
    assert quantities(again) == pytest.approx(shown_range(volume, "mri").invert(fused), abs=0.1)
    assert [item.PlanePositionSequence for item in result.PerFrameFunctionalGroupsSequence] == [
        item.PlanePositionSequence for item in source.PerFrameFunctionalGroupsSequence[3:]
    ]


@pytest.mark.parametrize("slices", [[2], [3, 1, 2]])
@pytest.mark.parametrize("color", [False, True])
def test_enhanced_files_of_one_frame_are_slices(tmp_path, slices, color):
    for k in slices:
        path = phantom.enhanced(tmp_path / "mr" / f"{k}.dcm", VALUES.astype(np.uint16), WHERE, [k])
        edit(path, SOPInstanceUID=f"1.2.3.{k}", NumberOfFrames=None if k == 1 else 1)
    volume = read(tmp_path / "mr", "mri")
    first, count = min(slices), len(slices)
    assert np.array_equal(quantities(volume), VALUES[first : first + count] * 2.0 + 5)
    assert volume.grid.points(np.zeros(3)) == pytest.approx(WHERE.points(np.array([0, 0, first])), abs=1e-6)
    assert volume.grid.affine[:3, :3] == pytest.approx(WHERE.affine[:3, :3], abs=1e-6)
    out = tmp_path / ("out.dcm" if count == 1 else "out")
    fused = write(out, volume, volume, color, side="mri")
    again = read(out, "mri")
    assert again.grid.affine == pytest.approx(volume.grid.affine, abs=1e-6)
    shown = fused if color else shown_range(volume, "mri").invert(fused)
    assert quantities(again) == pytest.approx(shown, abs=0.6 * np.ptp(VALUES) * 2 / 65535)


def spect(path: Path, voxels: np.ndarray, where, **tags) -> Path:
    """Reconstructed SPECT: the place of the first slice is that of the detector."""
    dataset = pydicom.dcmread(phantom.dicom_series(path.parent / "one", voxels[:1], where, "MR")[0])
    detector = Dataset()
    for name in ("ImagePositionPatient", "ImageOrientationPatient"):
        setattr(detector, name, dataset[name].value)
        delattr(dataset, name)
    dataset.DetectorInformationSequence = Sequence([detector])
    dataset.SOPClassUID, dataset.Modality = NuclearMedicineImageStorage, "NM"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    dataset.NumberOfFrames, dataset.PixelData = len(voxels), voxels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return phantom.save(dataset, path)


@pytest.mark.parametrize("step", [4.0, -4.0])
def test_reconstructed_spect_lies_along_or_against_its_normal(tmp_path, step):
    volume = read(spect(tmp_path / "nm.dcm", VALUES, WHERE, SpacingBetweenSlices=step), "spect")
    expected, start = (VALUES, 0) if step > 0 else (VALUES[::-1], -5)
    assert np.array_equal(volume.voxels, expected)
    assert volume.grid.points(np.zeros(3)) == pytest.approx(WHERE.points(np.array([0, 0, start])), abs=1e-6)


def test_projections_are_no_slices_and_lie_aside_of_the_spect_reconstructed_from_them(tmp_path):
    slices = spect(tmp_path / "both" / "recon.dcm", VALUES, WHERE, SpacingBetweenSlices=4.0)
    views = {"ImageType": ["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"], "SeriesInstanceUID": "1.2.3.4"}
    path = spect(tmp_path / "both" / "views.dcm", VALUES[:, ::-1], WHERE, SOPInstanceUID="1.2.3.4.5", **views)
    shutil.rmtree(tmp_path / "both" / "one")
    assert open_(tmp_path / "both", "spect").files == [slices]
    assert "views.dcm: holds the projections of a SPECT" in refused(path, "spect")


def test_phases_of_gated_spect_are_no_further_slices(tmp_path):
    gated = {"SliceVector": [1, 2, 3] * 2, "TimeSlotVector": [1, 1, 1, 2, 2, 2]}
    path = spect(tmp_path / "nm.dcm", VALUES, WHERE, SpacingBetweenSlices=4.0, **gated)
    assert "nm.dcm: holds 2 images at each of 3 positions" in refused(path, "spect")
    volume = dicom.read(open_(path, "spect"), "spect", lambda count: "1")
    assert np.array_equal(volume.voxels, VALUES[3:])
    write(tmp_path / "out.dcm", volume, volume, side="spect")
    result = pydicom.dcmread(tmp_path / "out.dcm")
    assert (result.NumberOfFrames, result.SliceVector, result.TimeSlotVector) == (3, [1, 2, 3], [2, 2, 2])
    assert [item.ReferencedFrameNumber for item in result.SourceImageSequence] == [[4, 5, 6]] * 2
    edit(path, SliceVector=[1, 1, 1, 2, 2, 3])
    assert "nm.dcm frame 1 and nm.dcm frame 2 lie at the same position" in refused(path, "spect")
    edit(path, SliceVector=[6, 5, 4, 3, 2, 1])
    assert np.array_equal(read(path, "spect").voxels, VALUES[::-1])


@pytest.mark.parametrize("slices", [[2], [3, 1, 2]])
def test_reconstructed_spect_of_one_frame_is_a_slice(tmp_path, slices):
    for k in slices:
        lower = phantom.Grid((9, 8, 1), WHERE.affine.copy())
        lower.affine[:3, 3] = WHERE.points(np.array([0, 0, k]))
        spect(tmp_path / "nm" / f"{k}.dcm", VALUES[k : k + 1], lower, SOPInstanceUID=f"1.2.3.{k}")
    shutil.rmtree(tmp_path / "nm" / "one")
    volume = read(tmp_path / "nm", "spect")
    first, count = min(slices), len(slices)
    assert np.array_equal(volume.voxels, VALUES[first : first + count])
    assert volume.grid.points(np.zeros(3)) == pytest.approx(WHERE.points(np.array([0, 0, first])), abs=1e-6)
    assert volume.grid.affine[:3, :3] == pytest.approx(WHERE.affine[:3, :3], abs=1e-6)
    out = tmp_path / ("out.dcm" if count == 1 else "out")
    write(out, volume, volume, side="spect")
    assert read(out, "spect").grid.affine == pytest.approx(volume.grid.affine, abs=1e-6)


def test_a_single_slice_is_as_thick_as_it_says(tmp_path):
    volume = read(phantom.dicom_series(tmp_path / "ct", VALUES[:1], WHERE)[0])
    assert volume.grid.shape == (9, 8, 1)
    assert volume.grid.affine == pytest.approx(WHERE.affine, abs=1e-6)


def test_files_that_are_no_images_and_other_files_are_left_out(tmp_path):
    phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    for name in ("rtstruct.dcm", "test-SR.dcm", "dicomdirtests/DICOMDIR"):
        shutil.copy(bundled_root() / "test_files" / name, tmp_path / "ct")
    (tmp_path / "ct" / "notes.txt").write_text("a note")
    (tmp_path / "ct" / ".hidden.dcm").write_text("not read")
    assert read(tmp_path / "ct").shape == (9, 8, 6)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("meta", [True, False])
def test_files_without_preamble_and_ending_are_recognised_by_their_first_tag(tmp_path, syntax, meta):
    for path in phantom.dicom_series(tmp_path / "ct", VALUES, WHERE):
        dataset = pydicom.dcmread(path)
        if not syntax.is_little_endian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        encoding = {"implicit_vr": syntax.is_implicit_VR, "little_endian": syntax.is_little_endian}
        whole = io.BytesIO()
        pydicom.dcmwrite(whole, dataset, enforce_file_format=True)
        bare = io.BytesIO()
        dataset.file_meta = dataset.file_meta if meta else FileMetaDataset()
        pydicom.dcmwrite(bare, dataset, **({} if meta else encoding))
        data = whole.getvalue()[132:] if meta else bare.getvalue().removeprefix(bytes(128) + b"DICM")
        path.unlink()
        path.with_suffix("").write_bytes(data)
    for number, content in enumerate((b"", b"\x08\0", b"notes", bytes(200), np.arange(8, 99, dtype="<u2").tobytes())):
        (tmp_path / "ct" / f"other{number}").write_bytes(content)
    volume = read(tmp_path / "ct")
    assert np.array_equal(volume.voxels, VALUES)
    assert volume.grid.affine == pytest.approx(WHERE.affine, abs=1e-6)


# Windows and ranges --------------------------------------------------------------------------------------------------


def test_ct_without_negative_values_is_warned_of(tmp_path, caplog):
    for shift, options in ((0, {}), (-1024, {"RescaleIntercept": 0})):
        phantom.dicom_series(tmp_path / str(shift), VALUES + np.int16(shift), WHERE, **options)
        assert shown_range(read(tmp_path / str(shift)), "ct") == Range(0, 80)
    assert not caplog.text
    stored = VALUES.copy()
    stored[0, 0, 0] = 0  # air, which is usually the least that is stored
    phantom.dicom_series(tmp_path / "lost", stored, WHERE, RescaleIntercept=0)
    lost = read(tmp_path / "lost")
    assert shown_range(lost, "ct", parse_window("1064,80")) == Range(1024, 1104)
    assert not caplog.text
    assert shown_range(lost, "ct") == Range(*np.percentile(stored, (0.5, 99.5)))
    assert "are hardly Hounsfield units" in caplog.text


@pytest.mark.parametrize("top", [1.0, 255.0, 4095.0])
def test_ct_on_another_scale_is_neither_black_nor_white(caplog, top):
    """As that of a cone beam, or one that was scaled for a network."""
    scaled = np.float32(VALUES / 2000 * top)
    found = shown_range(Volume(scaled, None, Path("ct.nii"), "nifti", scaled.dtype), "ct")
    assert (found.lo, found.hi) == pytest.approx(tuple(np.percentile(scaled, (0.5, 99.5))))
    assert "are hardly Hounsfield units" in caplog.text


def test_ct_without_its_intercept_is_not_white_where_most_of_it_is_air(caplog):
    stored = np.where(VALUES < 1200, 24 + VALUES % 9, 1040 + VALUES % 99).astype(np.int16)
    found = shown_range(Volume(stored, None, Path("ct.nii"), "nifti", stored.dtype), "ct")
    assert found == Range(*np.percentile(stored, (0.5, 99.5)))
    assert "are hardly Hounsfield units" in caplog.text


def test_ct_without_its_intercept_is_not_white_where_a_wide_field_of_view_is_nearly_all_air(caplog):
    """As of PET/CT: the body, with its lungs, is a tenth of it."""
    stored = np.where(VALUES < 1800, 24 + VALUES % 9, np.where(VALUES < 1840, 200, 940 + VALUES % 159)).astype(np.int16)
    found = shown_range(Volume(stored, None, Path("ct.nii"), "nifti", stored.dtype), "ct")
    assert found == Range(*np.percentile(stored, (0.5, 99.5)))
    assert "are hardly Hounsfield units" in caplog.text


@pytest.mark.parametrize("top", [1000, 1100, 3000])
def test_hounsfield_units_without_air_keep_the_brain_window(caplog, top):
    """As of a CT that was clipped at 0, perhaps its bone, too, or without its skull."""
    units = np.where(VALUES < 1000, 0, np.where(VALUES < 1900, VALUES % 70, VALUES)).clip(max=top).astype(np.int16)
    assert shown_range(Volume(units, None, Path("ct.nii"), "nifti", units.dtype), "ct") == Range(0, 80)
    assert not caplog.text


@pytest.mark.parametrize(("window", "warned"), [("5,10", True), ("1e6,2e6", True), ("500,1000", False)])
def test_a_window_in_another_unit_than_the_file_s_is_warned_of(caplog, window, warned):
    becquerels = np.maximum(VALUES - 400, 0)  # no uptake around the body, so that the window holds the lowest value
    volume = Volume(becquerels, None, Path("pet.nii"), "nifti", becquerels.dtype)
    assert shown_range(volume, "pet", parse_window(window)) == parse_window(window)
    assert ("shows hardly anything" in caplog.text) == warned


def test_ct_is_shown_by_the_option_the_file_or_the_brain_window(tmp_path):
    phantom.dicom_series(tmp_path / "plain", VALUES, WHERE)
    for half in ({"WindowCenter": 60}, {"WindowWidth": 201}):  # which says nothing
        phantom.dicom_series(tmp_path / str(*half), VALUES, WHERE, **half)
        assert shown_range(read(tmp_path / str(*half)), "ct") == Range(0, 80)
    phantom.dicom_series(tmp_path / "windowed", VALUES, WHERE, WindowCenter=[60, 300], WindowWidth=[201, 2000])
    plain, windowed = read(tmp_path / "plain"), read(tmp_path / "windowed")
    assert shown_range(plain, "ct") == Range(0, 80)
    assert shown_range(windowed, "ct") == Range(-40.5, 159.5)  # PS3.3 C.11.2.1.2.1
    assert shown_range(windowed, "ct", parse_window("50,100")) == Range(0, 100)


@pytest.mark.parametrize("text", ["40", "40,80,1", "a,b", "40,0", "40,-1", "nan,3", "inf,3", ""])
def test_windows_that_make_no_sense_are_refused(text):
    with pytest.raises(UsageError, match="--window"):
        parse_window(text)


def test_mri_and_pet_are_shown_by_percentiles_of_the_whole_volume(tmp_path, caplog):
    phantom.dicom_series(tmp_path / "mr", VALUES, WHERE, "MR", WindowCenter=1, WindowWidth=2)
    volume = read(tmp_path / "mr", "mri")
    range_ = shown_range(volume, "mri")
    assert (range_.lo, range_.hi) == pytest.approx(tuple(np.percentile(VALUES, (0.5, 99.5))))
    volume.voxels = volume.voxels - 500
    range_ = shown_range(volume, "pet")
    assert (range_.lo, range_.hi) == (0, pytest.approx(np.percentile(VALUES, 99.5) - 500))
    assert "negative values (down to -" in caplog.text


@pytest.mark.parametrize(("missing", "side"), [(-32768, "mri"), (32767, "mri"), (32767, "pet")])
def test_missing_voxels_do_not_stretch_what_is_shown(tmp_path, caplog, missing, side):
    phantom.dicom_series(tmp_path / "mr", VALUES, WHERE, "MR")
    volume = read(tmp_path / "mr", "mri")
    expected = shown_range(volume, side)
    voxels = volume.voxels
    volume.voxels = np.pad(voxels, ((0, 0), (4, 4), (0, 0)), constant_values=missing)
    found = shown_range(volume, side)
    assert (found.lo, found.hi) == (expected.lo, expected.hi)
    assert f"50 % of the voxels are {missing}, far from the rest" in caplog.text
    caplog.clear()
    found = shown_range(volume, side, None, (slice(None), slice(2, None), slice(None)))  # what the MRI covers
    assert (found.lo, found.hi) == (expected.lo, pytest.approx(expected.hi, rel=0.01))
    assert caplog.text.count("far from the rest") == 1
    caplog.clear()
    volume.voxels = np.pad(voxels // 4 + 800, ((0, 0), (4, 4), (0, 0)))  # air around a brain
    assert shown_range(volume, side).lo == 0
    assert not caplog.text


def test_a_volume_of_one_value_or_without_uptake_is_refused(tmp_path):
    volume = read(phantom.dicom_series(tmp_path / "mr", np.full((1, 8, 9), 7, np.int16), WHERE, "MR")[0], "mri")
    with pytest.raises(InputError, match="every voxel of the mri volume is 7"):
        shown_range(volume, "mri")
    volume.voxels = -VALUES
    with pytest.raises(InputError, match="no value of the pet volume is above 0"):
        shown_range(volume, "pet")


def test_a_volume_that_is_nearly_all_background_is_shown_up_to_its_highest_value(tmp_path):
    sparse = np.zeros((6, 30, 30), np.int16)
    sparse[3, 4, 4] = 500
    phantom.dicom_series(tmp_path / "mr", sparse, phantom.grid((30, 30, 6), (1, 1, 1)), "MR")
    assert shown_range(read(tmp_path / "mr", "mri"), "mri") == Range(0, 500)


def test_a_large_volume_is_judged_by_all_its_columns():
    rows = np.uint8(np.arange(512) // 2)[:, None]
    voxels = np.broadcast_to(rows, (32, 512, 512)).copy()
    voxels[..., ::2] //= 2
    assert shown_range(Volume(voxels, None, Path("mr"), "dicom", voxels.dtype), "mri").hi > 240


@pytest.mark.parametrize(("side", "count", "warned"), [("mri", 45, True), ("mri", 90, False), ("pet", 45, False)])
def test_a_label_map_in_place_of_an_image_is_warned_of(tmp_path, caplog, side, count, warned):
    phantom.dicom_series(tmp_path / "labels", VALUES % count, WHERE, "MR" if side == "mri" else "PT")
    shown_range(read(tmp_path / "labels", side), side)
    assert ("as a mask or a label map does" in caplog.text) == warned


def test_a_parcellation_of_many_labels_is_warned_of(caplog):
    labels = np.random.default_rng(0).integers(1000, 2000, (8, 10, 12)).astype(np.int16)
    labels[:, :4] = 0
    parcels = np.kron(labels, np.ones((4, 6, 8), np.int16))
    shown_range(Volume(parcels, None, Path("aparc.nii"), "nifti", parcels.dtype), "mri")
    assert "as a mask or a label map does" in caplog.text


@pytest.mark.parametrize("times", [2, 3])
def test_an_image_whose_voxels_were_repeated_is_no_label_map(caplog, times):
    """As by nearest-neighbour resampling to a CT's grid."""
    values = np.rint(np.random.default_rng(0).normal(40, 1, (8, 60, 60))).clip(0).astype(np.int16)
    values[:, :20] = np.arange(60)
    repeated = np.kron(values, np.ones((1, times, times), np.int16))
    shown_range(Volume(repeated, None, Path("mr.nii"), "nifti", repeated.dtype), "mri")
    assert "as a mask or a label map does" not in caplog.text


def test_an_image_in_a_wide_margin_is_no_label_map(caplog):
    """Also where voxels that are as far apart as those that are looked at all lie in the margin."""
    voxels = np.zeros((512, 256, 256), np.int16)
    voxels[:, 64:192, 64:192] = np.random.default_rng(0).integers(0, 2000, (128, 128))
    shown_range(Volume(voxels, None, Path("t1.nii"), "nifti", voxels.dtype), "mri")
    assert not caplog.text


# What is refused -----------------------------------------------------------------------------------------------------


def test_several_series_are_listed_and_chosen(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for number, modality in ((3, "MR"), (5, "MR"), (7, "CT")):
        for path in phantom.dicom_series(tmp_path / str(number), VALUES + number, WHERE, modality, number=number):
            (tmp_path / "study").mkdir(exist_ok=True)
            path.rename(tmp_path / "study" / f"{number}-{path.name}")
    message = refused(tmp_path / "study", "mri")
    assert "holds 3 series; choose one" in message
    assert "--series mri=3" in message
    assert re.search(r"5: MR, 6 slices of 9×8, 'MR phantom' \(1\.2\.826", message)
    assert "Doe" not in message
    assert np.array_equal(read(tmp_path / "study", "mri", "5").voxels, VALUES + 5)
    for end in ("498.3", ".3", "1.2.826.0.1.3680043.8.498.3"):
        assert np.array_equal(read(tmp_path / "study", "mri", end).voxels, VALUES + 3)
    assert np.array_equal(read(tmp_path / "study", "ct").voxels, VALUES + 7)
    assert "series 7 is the only one of its modality" in caplog.text
    assert "phantom" not in caplog.text
    for wrong in ("9", "98.3", "8.498", ".", ""):  # whole components alone make the end of a UID
        with pytest.raises(UsageError, match=f"no single series is '{wrong}'"):
            open_(tmp_path / "study", "mri", wrong)
    for path in (tmp_path / "study").glob("3-*"):
        edit(path, Modality=None, SeriesNumber=None)
    assert re.search(r"\(no number\): no modality, 6 slices of 9×8", refused(tmp_path / "study", "pet"))


def test_a_number_that_series_of_two_studies_have_is_that_of_the_side_s_modality(tmp_path):
    for index, modality in enumerate(("CT", "CT", "MR")):
        for path in phantom.dicom_series(tmp_path / str(index), VALUES + index, WHERE, modality, number=index):
            (tmp_path / "both").mkdir(exist_ok=True)
            edit(path.rename(tmp_path / "both" / f"{index}-{path.name}"), SeriesNumber=2 if index else 1)
    assert np.array_equal(read(tmp_path / "both", "ct", "2").voxels, VALUES + 1)
    assert np.array_equal(read(tmp_path / "both", "mri", "2").voxels, VALUES + 2)
    with pytest.raises(UsageError, match="no single series is '2'"):
        open_(tmp_path / "both", "pet", "2")


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("dtype", ["i2", "u2"])
def test_values_in_the_upper_bits_of_their_cells(tmp_path, shift, dtype):
    files = phantom.dicom_series(tmp_path / "ct", VALUES.astype(dtype), WHERE, BitsStored=12, HighBit=15)
    for path, values in zip(files, VALUES, strict=True):
        edit(path, PixelData=(values << shift).astype(dtype).tobytes())  # 0: HighBit is wrong
    assert np.array_equal(read(tmp_path / "ct").voxels, VALUES)


@pytest.mark.parametrize(
    "tags",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"ImageType": ["DERIVED", "SECONDARY"], "SOPClassUID": SecondaryCaptureImageStorage},
    ],
)
def test_localizers_and_captures_are_taken_only_where_nothing_else_is_there(tmp_path, caplog, tags):
    caplog.set_level(logging.INFO)
    for number in (1, 2):
        for path in phantom.dicom_series(tmp_path / str(number), VALUES + number, WHERE, number=number):
            (tmp_path / "study").mkdir(exist_ok=True)
            if number == 1:
                edit(path, **tags)
            shutil.copy(path, tmp_path / "study" / f"{number}-{path.name}")
    assert np.array_equal(read(tmp_path / "study").voxels, VALUES + 2)
    assert "series 2 is the only one of its modality, but for localizers, captures and projections" in caplog.text
    assert np.array_equal(read(tmp_path / "study", series="1").voxels, VALUES + 1)
    assert np.array_equal(read(tmp_path / "1").voxels, VALUES + 1)
    shutil.copytree(tmp_path / "1", tmp_path / "mixed")
    for path in phantom.dicom_series(tmp_path / "mr", VALUES, WHERE, "MR", number=4):
        shutil.copy(path, tmp_path / "mixed" / f"4-{path.name}")
    assert np.array_equal(read(tmp_path / "mixed").voxels, VALUES + 1)  # the only CT
    for path in (tmp_path / "1").iterdir():  # beside its slices, in one series
        edit(path, SeriesInstanceUID="1.2.826.0.1.3680043.8.498.2", SOPInstanceUID=None)
        shutil.copy(path, tmp_path / "2" / f"0-{path.name}")
    assert np.array_equal(read(tmp_path / "2").voxels, VALUES + 2)
    assert "2: left out 6 files of the series: localizers, captures or projections" in caplog.text
    phantom.dicom_series(tmp_path / "study", VALUES, WHERE, number=3)
    assert "as --series ct=2:\n  1: CT" in refused(tmp_path / "study")


def test_another_modality_than_the_option_says_is_warned_of(tmp_path, caplog):
    phantom.dicom_series(tmp_path / "mr", VALUES, WHERE, "MR")
    read(tmp_path / "mr", "ct")
    assert "the file says modality MR; read as --ct" in caplog.text


def test_images_of_two_patients_are_refused_without_naming_them(tmp_path):
    files = phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    edit(files[2], PatientID="ID-0815", PatientName="Roe^Richard")
    message = refused(tmp_path / "ct")
    assert "holds images of 2 patients" in message
    assert not re.search("Doe|Roe|4711|0815", message)


@pytest.mark.parametrize("shared", [0, 1])
def test_a_second_patient_in_the_second_of_two_series_is_refused(tmp_path, shared):
    patients = ["ID-0815", "ID-4711"]
    for file in phantom.dicom_series(tmp_path / "ct" / "1", VALUES, WHERE):
        edit(file, PatientID=patients[shared])
    for index, file in enumerate(phantom.dicom_series(tmp_path / "ct" / "2", VALUES, WHERE, number=2)):
        edit(file, PatientID=patients[index % 2])
    files = (tmp_path / "ct").rglob("*")
    with pytest.raises(InputError, match="holds images of 2 patients"):
        dicom_series.choose(dicom_series.scan(tmp_path, [file for file in files if file.is_file()]), "ct")


@pytest.mark.parametrize("kept", [200, 700])
def test_a_file_cut_off_in_its_header_is_named_with_the_position_it_leaves_empty(tmp_path, kept):
    files = phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    files[3].write_bytes(files[3].read_bytes()[:kept])
    message = refused(tmp_path / "ct")
    assert str(files[3]) in message
    gap = WHERE.points(np.array([0, 0, 3]))
    normal = WHERE.affine[:3, 2] / 4
    assert f"1 slice is missing, at {gap @ normal:.2f} mm" in message


def test_a_file_that_the_system_cannot_read_is_not_called_damaged(tmp_path, monkeypatch):
    files, read = phantom.dicom_series(tmp_path / "ct", VALUES, WHERE), pydicom.dcmread

    def denied(path, **options):
        if path == files[3]:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, **options)

    monkeypatch.setattr(pydicom, "dcmread", denied)
    assert refused(tmp_path / "ct").startswith(f"{files[3]}: cannot be read: Permission denied (")


def test_a_file_cut_off_in_its_pixels_is_named_with_its_position(tmp_path):
    files = phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    position = pydicom.dcmread(files[3]).ImagePositionPatient
    files[3].write_bytes(files[3].read_bytes()[:-40])
    message = refused(tmp_path / "ct")
    assert message.startswith(f"{files[3]}: the pixels cannot be decoded: the file is cut off")
    assert f"slice 4 of 6, at position {', '.join(f'{mm:g}' for mm in position)} mm" in message


def test_missing_slices_are_listed_by_position(tmp_path):
    files = phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    files[2].unlink()
    message = refused(tmp_path / "ct")
    assert "1 slice is missing, at" in message
    assert f"between {files[1].name} and {files[3].name}" in message


def test_a_series_of_every_second_slice_is_told(tmp_path, caplog):
    files = phantom.dicom_series(tmp_path / "ct", VALUES, WHERE, SliceThickness=4)
    read(tmp_path / "ct")
    assert not caplog.messages
    for path in files[1::2]:
        path.unlink()
    assert read(tmp_path / "ct").grid.spacing[2] == pytest.approx(8)
    (message,) = caplog.messages
    assert "slices lie 8 mm apart, where the files state 4 mm, and instance numbers go by 2: perhaps only" in message
    for k, path in enumerate(files[::2]):
        edit(path, InstanceNumber=k + 1)  # a gap that was meant
    caplog.clear()
    read(tmp_path / "ct")
    assert not caplog.messages


def test_two_slices_at_one_position_are_named(tmp_path):
    files = phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    shutil.copy(files[2], tmp_path / "ct" / "copy.dcm")
    edit(tmp_path / "ct" / "copy.dcm", EchoNumbers=2)
    message = refused(tmp_path / "ct")
    assert "lie at the same position" in message
    assert "copy.dcm" in message
    assert files[2].name in message


@pytest.mark.parametrize("name", ["AcquisitionNumber", "FrameReferenceTime"])
def test_time_points_that_each_begin_at_instance_1_are_chosen(tmp_path, name):
    for point in (2, 1):
        for index, path in enumerate(phantom.dicom_series(tmp_path / "one", VALUES + point, WHERE, "MR")):
            edit(path, SOPInstanceUID=f"1.2.{point}.{index}", **{name: point})
            (tmp_path / "mr").mkdir(exist_ok=True)
            path.rename(tmp_path / "mr" / f"{3 - point}-{path.name}")
    assert "holds 2 images at each of 6 positions" in refused(tmp_path / "mr", "mri")
    assert f"by --volume 0 … 1, in the order of their {name}" in refused(tmp_path / "mr", "mri")
    for wanted, point in (("0", 1), ("1", 2)):
        volume = dicom.read(open_(tmp_path / "mr", "mri"), "mri", lambda count, wanted=wanted: wanted)
        assert np.array_equal(volume.voxels, VALUES + point)


@pytest.mark.parametrize("name", ["EchoTime", "DiffusionBValue"])
def test_echoes_are_not_mixed_where_instances_are_numbered_at_random(tmp_path, name):
    for echo in (1, 2):
        for index, path in enumerate(phantom.dicom_series(tmp_path / "one", VALUES + echo, WHERE, "MR")):
            instance = 2 * index + (echo + index) % 2
            edit(path, SOPInstanceUID=f"1.2.{echo}.{index}", InstanceNumber=instance, **{name: echo})
            (tmp_path / "mr").mkdir(exist_ok=True)
            path.rename(tmp_path / "mr" / f"{echo}-{path.name}")
    assert f"by --volume 0 … 1, in the order of their {name}" in refused(tmp_path / "mr", "mri")
    assert np.array_equal(dicom.read(open_(tmp_path / "mr", "mri"), "mri", lambda count: "1").voxels, VALUES + 2)


def test_time_points_are_not_mixed_where_frames_are_in_no_order(tmp_path):
    path = phantom.enhanced(tmp_path / "mr.dcm", VALUES.astype(np.uint16), WHERE, [0, 1, 2, 0, 1, 2])
    frames = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    for frame, point in zip(frames, [1, 2, 1, 2, 1, 2], strict=True):
        content = Dataset()
        content.TemporalPositionIndex = point
        frame.FrameContentSequence = Sequence([content])
    edit(path, PerFrameFunctionalGroupsSequence=frames)
    assert dicom.read(open_(path, "mri"), "mri", lambda count: "0").origin.frames == [0, 4, 2]


def test_a_time_point_that_was_stopped_is_left_out(tmp_path, caplog):
    for point in (1, 2, 3):
        for index, path in enumerate(phantom.dicom_series(tmp_path / "one", VALUES + point, WHERE, "MR")):
            edit(path, SOPInstanceUID=f"1.2.{point}.{index}", AcquisitionNumber=point, InstanceNumber=9 * point + index)
            (tmp_path / "mr").mkdir(exist_ok=True)
            if point != 2 or index < 4:
                path.rename(tmp_path / "mr" / f"{point}-{path.name}")
    assert "holds 2 images at each of 6 positions" in refused(tmp_path / "mr", "mri")
    caplog.clear()
    dicom.check_choice(open_(tmp_path / "mr", "mri"), lambda count: "0")
    assert not caplog.messages  # reading it will tell
    for wanted, point in (("0", 1), ("1", 3)):
        volume = dicom.read(open_(tmp_path / "mr", "mri"), "mri", lambda count, wanted=wanted: wanted)
        assert np.array_equal(volume.voxels, VALUES + point)
    assert "left out 4 images whose AcquisitionNumber lacks some of the 6 positions" in caplog.text
    for path in (tmp_path / "mr").glob("[13]-*"):
        edit(path, AcquisitionNumber=2)  # nothing tells volumes apart
    assert "lie at the same position" in refused(tmp_path / "mr", "mri")


def test_a_time_point_that_was_stopped_in_an_enhanced_file_is_left_out(tmp_path, caplog):
    order = [0, 1, 2, 3, 4, 5, 0, 1]
    path = phantom.enhanced(tmp_path / "mr.dcm", VALUES.astype(np.uint16), WHERE, order)
    assert "lie at the same position" in refused(path, "mri")  # nothing tells time points apart
    frames = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    for frame, point in zip(frames, [1] * 6 + [2] * 2, strict=True):
        content = Dataset()
        content.TemporalPositionIndex = point
        frame.FrameContentSequence = Sequence([content])
    edit(path, PerFrameFunctionalGroupsSequence=frames)
    volume = read(path, "mri")
    assert np.array_equal(quantities(volume), VALUES * 2.0 + 5)
    assert volume.origin.frames == [0, 1, 2, 3, 4, 5]
    assert "left out 2 images whose TemporalPositionIndex lacks some of the 6 positions" in caplog.text


def test_files_exported_twice_are_read_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for path in phantom.dicom_series(tmp_path / "ct", VALUES, WHERE):
        shutil.copy(path, path.with_name(f"{path.stem} (1).dcm"))
    assert np.array_equal(read(tmp_path / "ct").voxels, VALUES)
    assert "left out 6 files, byte for byte like others" in caplog.text


@pytest.mark.parametrize("scale", [1e-5, 1e4])
def test_microscopes_and_elephants_have_slices_of_their_own(tmp_path, scale):
    where = phantom.grid((9, 8, 6), (2 * scale, 1.5 * scale, 4 * scale))
    files = phantom.dicom_series(tmp_path / "ct", VALUES, where)
    assert read(tmp_path / "ct").grid.affine == pytest.approx(where.affine, rel=1e-6)
    position = pydicom.dcmread(files[1]).ImagePositionPatient
    edit(files[2], ImagePositionPatient=position)
    assert "lie at the same position" in refused(tmp_path / "ct")


def test_unequal_spacing_is_refused_and_jitter_is_not(tmp_path):
    files = phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    normal = phantom.flip_lps(WHERE.affine)[:3, 2] / 4
    start = np.array(pydicom.dcmread(files[4]).ImagePositionPatient, float)
    edit(files[4], ImagePositionPatient=list(np.round(start + 0.05 * normal, 6)))
    assert read(tmp_path / "ct").shape == (9, 8, 6)
    edit(files[4], ImagePositionPatient=list(np.round(start + 1.5 * normal, 6)))
    assert "slices are unequally spaced (2.500 to 5.500 mm" in refused(tmp_path / "ct")


def arranged(distances: np.ndarray, unit: float = 1e-6, thickness: float = 5.0) -> np.ndarray:
    axial, pixel, units = np.array([1.0, 0, 0, 0, 1, 0]), np.ones(2), np.array([1e-6, 1e-6, unit])
    places = [Place(np.array([0, 0, distance]), axial, pixel, units) for distance in distances]
    return arrange([Plane(f"{k}.dcm", place, "", thickness) for k, place in enumerate(places)], "ct")[1]


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_a_constant_step_apart():
    rounded = np.round(np.arange(60) * 1.25 - 37.1, 1)  # steps of 1.2 and 1.3
    assert arranged(rounded)[:3, 2] == pytest.approx([0, 0, 1.25], abs=0.1 / 59)
    with pytest.raises(InputError, match=r"3 slices are missing, at -28.3\d mm, 0.3\d mm, 1.6\d mm .*between 6"):
        arranged(np.delete(rounded, [7, 30, 31]))


@pytest.mark.parametrize(("step", "unit"), [(0.45, 0.1), (0.625, 0.1), (4.5, 1.0)])
def test_positions_may_be_off_by_the_decimals_that_the_file_writes(step, unit):
    distances = np.round((np.arange(60) * step - 37.13) / unit) * unit
    assert arranged(distances, unit)[2, 2] == pytest.approx(step, abs=unit / 59)
    with pytest.raises(InputError, match="unequally spaced"):
        arranged(distances)  # written with more decimals
    for alone in (distances[:2], distances[:3], distances):
        with pytest.raises(InputError, match=r"missing|unequally"):
            arranged(np.append(alone, alone[-1] + 2 * np.diff(distances).min()), unit)
    with pytest.raises(InputError, match="unequally spaced"):
        arranged(np.round(np.cumsum(np.repeat([step, 1.2 * step], 30)) / unit) * unit, unit)


def test_positions_rounded_to_a_millimetre_need_the_step_that_the_file_states():
    distances = np.round(np.arange(60) * 1.25 - 37.13)
    assert arranged(distances, 1.0, 1.25)[2, 2] == pytest.approx(1.25, abs=1 / 59)
    for broken, thickness in ((distances, 2.5), (np.delete(distances, 30), 1.25), ([0, 1, 2, 4, 5, 6], 1.0)):
        with pytest.raises(InputError, match=r"missing|unequally"):
            arranged(np.array(broken, float), 1.0, thickness)


def test_oblique_slices_with_positions_in_whole_millimetres_lie_on_a_line():
    rng = np.random.default_rng(0)
    for tilt in np.radians([15, 30, 45] * 100):
        sin, cos = np.sin(tilt), np.cos(tilt)
        directions = np.array([cos, 0, -sin, sin * sin, cos, sin * cos])
        way = np.arange(40)[:, None] * 2.0 * np.cross(directions[:3], directions[3:])
        places = [Place(one, directions, np.ones(2), np.ones(3)) for one in np.round(rng.uniform(-99, 99, 3) + way)]
        affine = arrange([Plane(f"{k}.dcm", place, "", 2.0) for k, place in enumerate(places)], "mr")[1]
        assert np.linalg.norm(affine[:3, 2]) == pytest.approx(2, abs=0.05)


def test_the_decimals_of_a_position_are_those_of_the_file(tmp_path):
    files = phantom.dicom_series(tmp_path / "ct", VALUES, WHERE, ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    for path, z in zip(files, ("0", "0.4", "0.9", "1.3", "1.8", "2.3"), strict=True):
        edit(path, ImagePositionPatient=["1.2345", "2.3456", z])
    assert read(tmp_path / "ct").grid.spacing[2] == pytest.approx(0.46)
    edit(files[1], ImagePositionPatient=["1.2345", "2.3456", "0.401"])
    assert "unequally spaced (0.400 to 0.500 mm" in refused(tmp_path / "ct")


def test_steps_that_differ_little_and_add_up_are_refused():
    steps = np.repeat([1.0, 1.05], 100)  # half-way a slice would lie more than two steps aside
    with pytest.raises(InputError, match=r"unequally spaced \(1.000 to 1.050 mm"):
        arranged(np.cumsum(steps))


def test_a_position_far_away_is_answered_at_once():
    with pytest.raises(InputError, match=r"999999999996 slices are missing, at 4.00 mm, .* 8.00 mm … along"):
        arranged(np.array([0, 1, 2, 3, 1e12]))


def test_with_gantry_tilt_each_slice_lies_where_it_says(tmp_path):
    phantom.dicom_series(tmp_path / "ct", VALUES, TILTED)
    assert read(tmp_path / "ct").grid.affine == pytest.approx(TILTED.affine, abs=1e-6)


def test_slices_aside_are_named(tmp_path):
    files = phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    start = np.array(pydicom.dcmread(files[2]).ImagePositionPatient, float)
    down = phantom.flip_lps(WHERE.affine)[:3, 1]
    edit(files[2], ImagePositionPatient=list(np.round(start + 2 * down, 6)))
    message = refused(tmp_path / "ct")
    assert f"do not lie on one line, from which {files[2].name} is 3.00 mm away" in message


@pytest.mark.parametrize("slices", [2, 4])
def test_stations_of_a_moving_table_are_no_tilt(tmp_path, slices):
    stations = phantom.grid((9, 8, slices), (2, 1.5, 4), tilt=80)
    phantom.dicom_series(tmp_path / "ct", VALUES[:slices], stations)
    assert "each slice is shifted by 22.69 mm against the one before, but only 4.00 mm away" in refused(tmp_path / "ct")


@pytest.mark.parametrize("overlap", [3, 6])
def test_stations_that_overlap_are_called_so(tmp_path, overlap):
    """By some slices, or by all, as coronal stations do."""
    for station in range(2):
        where = phantom.grid((9, 8, 6), (2, 1.5, 4), centre=(0, 0, station * 4 * (6 - overlap)))
        files = phantom.dicom_series(tmp_path / str(station), VALUES, where, "MR", AcquisitionNumber=station)
        for file in files:
            edit(file, SOPInstanceUID=f"1.2.3.{station}.{file.stem[2:].lstrip('0') or 0}")
            file.rename(tmp_path / f"{station}{file.name}")
        (tmp_path / str(station)).rmdir()
    with pytest.raises((InputError, UsageError), match="places of the table"):
        read(tmp_path, "mri")


def test_two_stations_with_rounded_positions_are_no_tilt():
    axial = np.array([1.0, 0, 0, 0, 1, 0])
    places = [Place(np.array([x, 0, z]), axial, np.full(2, 0.5), np.ones(3)) for x, z in ((0.0, 0.0), (100.0, 1.0))]
    with pytest.raises(InputError, match=r"shifted by 100.00 mm .* but only 1.00 mm away"):
        arrange([Plane(f"{k}.dcm", place, "", 1.0) for k, place in enumerate(places)], "ct")


def test_two_thin_slices_with_rounded_positions_are_no_stations():
    places = [
        Place(np.array([0, y, z]), np.array([1.0, 0, 0, 0, 1, 0]), np.full(2, 0.5), np.array([1, 1, 0.1]))
        for y, z in ((3.0, 0.0), (4.0, 0.6))
    ]
    affine = arrange([Plane(f"{k}.dcm", place, "", 0.6) for k, place in enumerate(places)], "ct")[1]
    assert affine[:3, 2] == pytest.approx([0, -1, 0.6])


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
@pytest.mark.parametrize("value", [None, "0,5"])
def test_a_slice_without_a_readable_position_is_named(tmp_path, tag, value):
    files = phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    dataset = pydicom.dcmread(files[3])
    dataset[tag] = pydicom.DataElement(tag, "LO", value)  # a number with a comma, as some exports write
    dataset.save_as(files[3])
    message = refused(tmp_path / "ct")
    assert f"{files[3].name} does not say where it lies ({tag} missing or unreadable)" in message


def test_stacks_of_several_orientations_in_one_file_are_refused_with_a_way_to_one(tmp_path):
    path = phantom.enhanced(tmp_path / "mr.dcm", VALUES.astype(np.uint16), WHERE)
    dataset = pydicom.dcmread(path)
    turned = Dataset()
    turned.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    dataset.PerFrameFunctionalGroupsSequence[-1].PlaneOrientationSequence = [turned]
    dataset.save_as(path)
    message = refused(path, "mri")
    assert "slices are not parallel (mr.dcm frame 1 and mr.dcm frame 6)" in message
    assert message.endswith("where one file holds them all, convert it, for example by dcm2niix, and give one stack")


def test_a_localizer_among_the_slices_is_named(tmp_path):
    files = phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    edit(files[0], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    assert "slices are not parallel" in refused(tmp_path / "ct")
    edit(files[0], ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
    assert "two unit vectors at right angles" in refused(tmp_path / "ct")


def test_a_mosaic_is_no_slice(tmp_path):
    phantom.dicom_series(tmp_path / "mr", VALUES, WHERE, "MR", ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    assert "side by side in one image (MOSAIC)" in refused(tmp_path / "mr", "mri")


def test_slices_of_different_size_are_refused(tmp_path):
    phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    smaller = phantom.grid((5, 4, 1), (2, 1.5, 4), "axial", (5, 10, -7))
    (extra,) = phantom.dicom_series(tmp_path / "extra", VALUES[:1, :4, :5], smaller)
    extra.rename(tmp_path / "ct" / "extra.dcm")
    assert "different sizes" in refused(tmp_path / "ct")


def test_a_missing_codec_is_named_with_the_extra(tmp_path, monkeypatch):
    class Decoder:
        is_available = False

    monkeypatch.setattr(dicom, "get_decoder", lambda syntax: Decoder)
    (path,) = phantom.dicom_series(tmp_path / "ct", VALUES[:1], WHERE)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = pydicom.encaps.encapsulate([dataset.PixelData])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.save_as(path)
    message = refused(path)
    assert "compressed as JPEG-LS Lossless" in message
    assert "fusecli[dicom]" in message


@pytest.mark.parametrize("content", [b"", b"no DICOM file at all" * 50, bytes(128) + b"DICM", bytes(400)])
def test_files_that_only_look_like_dicom_are_refused(tmp_path, content):
    (tmp_path / "a.dcm").write_bytes(content)
    assert f"{tmp_path / 'a.dcm'}: " in refused(tmp_path / "a.dcm")
    assert "holds no DICOM image" not in refused(tmp_path / "a.dcm")


def test_volumes_of_other_patients_and_frames_of_reference_are_told_apart(tmp_path):
    phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    phantom.dicom_series(tmp_path / "mr", VALUES, WHERE, "MR", PatientID="ID-1", FrameOfReferenceUID="1.2.3")
    ct, mr = read(tmp_path / "ct"), read(tmp_path / "mr", "mri")
    assert dicom.differences(ct, ct) == []
    found = " ".join(dicom.differences(ct, mr))
    assert "different patient identifiers" in found
    assert "different frames of reference" in found
    assert "ID-" not in found


# Writing -------------------------------------------------------------------------------------------------------------


def write(path: Path, reference, other, color: bool = False, side: str = "ct") -> np.ndarray:
    """Write random pixels as the result; the pixels."""
    fused = np.random.default_rng(1).random(reference.voxels.shape, np.float32)
    if color:
        fused = np.repeat(np.rint(fused * 255).astype(np.uint8)[..., None], 3, -1)
    folder = len(fused) > 1 and (color or reference.origin.frames is None)
    shown = shown_range(reference, side)
    derived.write(path, fused, reference, other, shown, "Fused CT + MRI (nano)", "how", folder=folder)
    return fused


@pytest.fixture
def ct_and_mr(tmp_path):
    phantom.dicom_series(tmp_path / "ct", VALUES, WHERE, StudyDescription="head", PixelPaddingValue=-2000)
    other = phantom.grid((8, 9, 7), (2, 2, 3.5), "sagittal", centre=(3, -4, 60))
    phantom.dicom_series(tmp_path / "mr", np.abs(VALUES[:, :8, :8]).repeat(2, 0)[:7].repeat(2, 1)[:, :9], other, "MR")
    return read(tmp_path / "ct"), read(tmp_path / "mr", "mri")


def test_a_gray_result_is_derived_from_its_reference(tmp_path, ct_and_mr):
    ct, mr = ct_and_mr
    fused = write(tmp_path / "out", ct, mr)
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == [f"{k + 1:04d}.dcm" for k in range(6)]
    again = read(tmp_path / "out")
    assert again.grid.affine == pytest.approx(ct.grid.affine, abs=1e-12)
    assert again.window == pytest.approx((0, 80))
    assert again.stored(shown_range(again, "ct")).apply(again.voxels) == pytest.approx(fused, abs=1e-5)
    uids = set()
    for path, source in zip(files, ct.origin.datasets, strict=True):
        result = pydicom.dcmread(path)
        assert result.InstanceNumber == int(path.stem)
        for name in ("SOPClassUID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID", "StudyDate"):
            assert result[name].value == source[name].value
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
            assert result[name].value == source[name].value
        assert list(result.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert result.SeriesInstanceUID != source.SeriesInstanceUID
        assert result.SOPInstanceUID != source.SOPInstanceUID
        assert result.SeriesDescription == "Fused CT + MRI (nano)"
        assert result.DerivationDescription == "how"
        assert result.RescaleType == "US"
        assert "PixelPaddingValue" not in result
        references = [item.ReferencedSOPInstanceUID for item in result.SourceImageSequence]
        assert references[0] == source.SOPInstanceUID
        assert set(references[1:]) <= {one.SOPInstanceUID for one in mr.origin.datasets}
        uids |= {result.SOPInstanceUID, result.SeriesInstanceUID}
    assert len(uids) == 7
    assert all(re.fullmatch(r"2\.25\.[1-9]\d{10,38}", uid) for uid in uids)


@pytest.mark.parametrize("tags", [{"BitsStored": 12, "HighBit": 11}, {"RescaleSlope": None}])
def test_all_slices_of_a_result_are_stored_alike(tmp_path, tags):
    for path in phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)[1:3]:
        edit(path, **tags)
    volume = read(tmp_path / "ct")
    fused = write(tmp_path / "out", volume, volume)
    shown = shown_range(volume, "ct").invert(fused)
    assert quantities(read(tmp_path / "out")) == pytest.approx(shown, abs=0.01)


def test_a_slice_names_as_sources_what_lies_about_it(tmp_path):
    """Of the other volume, whose slices are nearer to one another: the one at its place, or those on both sides."""
    for name, count, apart in (("ct", 3, 2.5), ("mr", 6, 1)):
        affine = np.diag([1.0, 1, apart, 1])
        phantom.dicom_series(tmp_path / name, VALUES[:1].repeat(count, 0), Grid((9, 8, count), affine), "CT")
    ct, mr = (read(tmp_path / name) for name in ("ct", "mr"))
    assert derived._neighbours(ct, mr) == [range(0, 1), range(2, 4), range(5, 6)]
    assert derived._neighbours(mr, ct) == [range(0, 1), range(0, 2), range(0, 2), range(1, 3), range(1, 3), range(2, 3)]


def test_a_thick_slice_names_as_source_the_thin_one_that_is_in_it_beside_its_centre(tmp_path):
    for name, apart, start in (("ct", 5, 0), ("mr", 1, 2)):
        affine = np.diag([1.0, 1, apart, 1])
        affine[2, 3] = start
        phantom.dicom_series(tmp_path / name, VALUES[:1].repeat(3, 0), Grid((9, 8, 3), affine), "CT")
    assert derived._neighbours(read(tmp_path / "ct"), read(tmp_path / "mr")) == [range(0, 1), range(2, 3), range(0)]


@pytest.mark.parametrize(("slope", "function", "more"), [(1, None, 1), (1e-4, "LINEAR_EXACT", 0)])
def test_the_window_of_a_result_shows_all_of_it(tmp_path, slope, function, more):
    """The usual function of windows reaches one further, which narrow ones have no room for."""
    for path in phantom.dicom_series(tmp_path / "in", VALUES, WHERE, "PT"):
        edit(path, RescaleSlope=slope)
    volume = read(tmp_path / "in", "pet")
    write(tmp_path / "out", volume, volume, side="pet")
    result, shown = pydicom.dcmread(tmp_path / "out" / "0001.dcm"), shown_range(volume, "pet")
    assert result.get("VOILUTFunction") == function
    assert result.WindowCenter == pytest.approx((shown.lo + shown.hi + more) / 2)
    assert result.WindowWidth == pytest.approx(shown.hi - shown.lo + more)


@pytest.mark.parametrize(("modality", "tags", "expected"), [("CT", {"RescaleType": None}, "US"), ("PT", {}, None)])
def test_a_result_is_never_in_hounsfield_units_as_a_ct_without_a_unit_is(tmp_path, modality, tags, expected):
    for path in phantom.dicom_series(tmp_path / "in", VALUES, WHERE, modality):
        edit(path, **tags)
    volume = read(tmp_path / "in")
    write(tmp_path / "out", volume, volume)
    assert pydicom.dcmread(tmp_path / "out" / "0001.dcm").get("RescaleType") == expected


@pytest.mark.parametrize(("number", "expected"), [(7, 1007), (2**31 - 500, 2**31 - 1), (-3, 997)])
def test_the_number_of_a_series_stays_one_that_dicom_can_hold(tmp_path, number, expected):
    phantom.dicom_series(tmp_path / "ct", VALUES, WHERE, SeriesNumber=number)
    reference = read(tmp_path / "ct")
    write(tmp_path / "out", reference, reference)
    assert pydicom.dcmread(next((tmp_path / "out").iterdir())).SeriesNumber == expected


def test_a_reference_with_an_empty_class_has_a_result(tmp_path):
    for path in phantom.dicom_series(tmp_path / "ct", VALUES, WHERE, "CT"):
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = None
        dataset.save_as(path)
    reference = read(tmp_path / "ct")
    write(tmp_path / "out", reference, reference)
    assert pydicom.dcmread(tmp_path / "out" / "0001.dcm").SOPClassUID == SecondaryCaptureImageStorage


def test_a_gray_result_has_no_mapping_to_real_world_values_and_no_palette(tmp_path):
    mapping = Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 1.0, -1024.0
    tags = {"RealWorldValueMappingSequence": Sequence([mapping]), "PaletteColorLookupTableUID": "1.2.3"}
    tags |= {"ICCProfile": bytes(4), "ColorSpace": "SRGB"}
    for color in ("Red", "Green", "Blue"):
        tags[f"{color}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        tags[f"{color}PaletteColorLookupTableData"] = tags[f"Segmented{color}PaletteColorLookupTableData"] = bytes(4)
    phantom.dicom_series(tmp_path / "ct", VALUES, WHERE, **tags)
    enhanced = pydicom.dcmread(phantom.enhanced(tmp_path / "mr.dcm", VALUES.astype(np.uint16), WHERE))
    for group in (*enhanced.PerFrameFunctionalGroupsSequence, *enhanced.SharedFunctionalGroupsSequence):
        group.RealWorldValueMappingSequence = Sequence([mapping])
    enhanced.save_as(tmp_path / "mr.dcm")
    ct, mr = read(tmp_path / "ct"), read(tmp_path / "mr.dcm", "mri")
    write(tmp_path / "a", ct, mr)
    write(tmp_path / "b.dcm", mr, ct, side="mri")
    for path in (tmp_path / "a" / "0001.dcm", tmp_path / "b.dcm"):
        names = {element.keyword for element in pydicom.dcmread(path).iterall()}
        assert not [name for name in names if re.search("RealWorldValue|Palette|ICCProfile|ColorSpace", name)]


def test_a_slice_refers_to_the_slices_it_was_interpolated_from(tmp_path):
    phantom.dicom_series(tmp_path / "ct", VALUES, WHERE)
    finer = phantom.grid((9, 8, 12), (2, 1.5, 2), "axial", (5, 10, -7), centre=(3, -4, 60))
    phantom.dicom_series(tmp_path / "mr", VALUES.repeat(2, 0), finer, "MR", number=2)
    write(tmp_path / "out", read(tmp_path / "ct"), read(tmp_path / "mr", "mri"))
    for k, path in enumerate(sorted((tmp_path / "out").iterdir())):
        _, *mr = (item.ReferencedSOPInstanceUID for item in pydicom.dcmread(path).SourceImageSequence)
        assert [int(uid.rpartition(".")[2]) for uid in mr] == [2 * k + 1, 2 * k + 2]  # half a step on either side


def test_a_colour_result_is_secondary_capture_with_the_geometry(tmp_path, ct_and_mr, caplog):
    ct, mr = ct_and_mr
    fused = write(tmp_path / "out", ct, mr, color=True)
    assert "Secondary Capture" in caplog.text
    result = pydicom.dcmread(tmp_path / "out" / "0003.dcm")
    assert result.SOPClassUID.name == "Secondary Capture Image Storage"
    assert result.PhotometricInterpretation == "RGB"
    assert result.FrameOfReferenceUID == phantom.FRAME_OF_REFERENCE
    assert result.PatientID == "ID-4711"
    assert result.StudyDescription == "head"
    assert list(result.PatientOrientation) == ["L", "P"]
    shorter = [np.array(direction) for direction in ((-0.4, 0.1, 0), (0, -0.4, 0.3), (0.1, 0.2, 0.4), (0, 0, -0.4))]
    assert [derived._towards(direction) for direction in shorter] == ["R", "A", "H", "F"]
    again = read(tmp_path / "out")
    assert np.array_equal(again.voxels, fused)
    assert again.grid.affine == pytest.approx(ct.grid.affine, abs=1e-12)


@pytest.mark.parametrize("color", [False, True])
def test_a_result_without_a_place_has_pixels_of_a_size(tmp_path, color):
    """As planar images of nuclear medicine have it."""
    (path,) = phantom.dicom_series(tmp_path / "nm", VALUES[:1], WHERE, "PT", PatientOrientation=["L", "F"])
    edit(path, ImagePositionPatient=None, ImageOrientationPatient=None)
    volume = read(tmp_path / "nm", "pet")
    assert volume.grid is None
    write(tmp_path / "out.dcm", volume, volume, color, "pet")
    result = pydicom.dcmread(tmp_path / "out.dcm")
    assert (result.PixelSpacing, result.PatientOrientation) == ([1.5, 2], ["L", "F"])
    assert "ImagePositionPatient" not in result


@pytest.mark.parametrize("color", [False, True])
def test_what_marks_either_source_marks_the_result(tmp_path, color):
    marks = {"BurnedInAnnotation": "YES", "RecognizableVisualFeatures": "YES", "LossyImageCompression": "01"}
    phantom.dicom_series(tmp_path / "ct", VALUES, WHERE, BurnedInAnnotation="NO", LossyImageCompression="00")
    _, file, *_ = phantom.dicom_series(tmp_path / "mr", VALUES, WHERE, "MR", number=2)
    edit(file, **marks, LossyImageCompressionRatio=12, LossyImageCompressionMethod="ISO_10918_1")
    ct, mr = read(tmp_path / "ct"), read(tmp_path / "mr", "mri")
    for name, reference, other, side in (("a", ct, mr, "ct"), ("b", mr, ct, "mri")):
        write(tmp_path / name, reference, other, color, side)
        for result in map(pydicom.dcmread, (tmp_path / name).iterdir()):
            assert {mark: result.get(mark) for mark in marks} == marks
            assert (result.LossyImageCompressionRatio, result.LossyImageCompressionMethod) == (12, "ISO_10918_1")
    write(tmp_path / "c", ct, ct, color)
    result = pydicom.dcmread(tmp_path / "c" / "0001.dcm")
    assert (result.BurnedInAnnotation, result.LossyImageCompression) == ("NO", "00")
    assert "RecognizableVisualFeatures" not in result


@pytest.mark.parametrize("color", [False, True])
def test_a_multi_frame_reference_keeps_its_frames(tmp_path, color):
    path = phantom.enhanced(tmp_path / "mr.dcm", VALUES.astype(np.uint16), WHERE, [3, 1, 5, 0, 2, 4])
    edit(path, WindowCenter=7, WindowWidth=9)  # where they do not belong, and yet are read
    reference = read(path, "mri")
    out = tmp_path / ("out" if color else "out.dcm")
    fused = write(out, reference, reference, color, "mri")
    again = read(out, "mri")
    assert again.grid.affine == pytest.approx(reference.grid.affine, abs=1e-9)
    if color:
        assert np.array_equal(again.voxels, fused)
        return
    assert quantities(again) == pytest.approx(
        shown_range(reference, "mri").invert(fused), abs=0.6 * np.ptp(VALUES) * 2 / 65535
    )
    dataset, source = pydicom.dcmread(out), pydicom.dcmread(path)
    assert dataset.ImageType[:2] == ["DERIVED", "PRIMARY"]  # what enhanced images must be
    assert (dataset.WindowCenter, dataset.WindowWidth) == (2**15, 2**16)
    for mine, theirs in zip(*(one.PerFrameFunctionalGroupsSequence for one in (dataset, source)), strict=True):
        assert mine.PlanePositionSequence == theirs.PlanePositionSequence
        assert mine.MRImageFrameTypeSequence[0].FrameType[0] == "DERIVED"


def test_slices_of_a_coloured_result_are_as_thick_as_they_are_apart_along_the_normal_of_a_tilted_gantry(tmp_path):
    reference = read(phantom.enhanced(tmp_path / "mr.dcm", VALUES.astype(np.uint16), TILTED), "mri")
    write(tmp_path / "out", reference, reference, color=True, side="mri")
    result = pydicom.dcmread(next((tmp_path / "out").iterdir()))
    assert [result.SliceThickness, result.SpacingBetweenSlices] == pytest.approx([4, 4])
    assert read(tmp_path / "out", "mri").grid.affine == pytest.approx(TILTED.affine, abs=1e-6)


def test_the_same_result_has_the_same_bytes_and_another_has_other_uids(tmp_path, ct_and_mr):
    ct, mr = ct_and_mr
    for name in ("a", "b"):
        write(tmp_path / name, ct, mr)
    write(tmp_path / "c", ct, ct)
    a, b, c = (
        {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())} for name in ("a", "b", "c")
    )
    assert a == b
    series = {pydicom.dcmread(tmp_path / name / "0001.dcm").SeriesInstanceUID for name in ("a", "b", "c")}
    assert len(series) == 2
    assert a != c


def test_another_byte_order_and_private_tags_do_not_reach_the_result(tmp_path):
    path = bundled_root() / "test_files" / "MR_small_bigendian.dcm"
    reference = read(path, "mri")
    assert write(tmp_path / "out.dcm", reference, reference, side="mri").shape == (1, 64, 64)
    source, result = pydicom.dcmread(path), pydicom.dcmread(tmp_path / "out.dcm")
    assert result.file_meta.TransferSyntaxUID.is_little_endian
    assert result.EchoTime == source.EchoTime
    reference = read(bundled_root() / "test_files" / "CT_small.dcm")
    write(tmp_path / "ct.dcm", reference, reference)
    assert any(element.tag.is_private for element in pydicom.dcmread(reference.source))
    assert not any(element.tag.is_private for element in reference.origin.datasets[0])  # they may be large
    result = pydicom.dcmread(tmp_path / "ct.dcm")
    assert not any(element.tag.is_private for element in result)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dicom3tools")
@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize(("modality", "side"), [("CT", "ct"), ("MR", "mri"), ("PT", "pet"), ("enhanced", "mri")])
def test_dciodvfy_finds_no_error_that_the_source_did_not_have(tmp_path, modality, side, color):
    if modality == "enhanced":
        source = phantom.enhanced(tmp_path / "mr.dcm", VALUES.astype(np.uint16), WHERE)
        reference = read(source, side)
    else:
        units = {"Units": "BQML", "DecayCorrection": "NONE", "CorrectedImage": ""} if modality == "PT" else {}
        source = phantom.dicom_series(tmp_path / "in", VALUES, WHERE, modality, **units)[0]
        reference = read(tmp_path / "in", side)
    out = tmp_path / ("out.dcm" if modality == "enhanced" and not color else "out")
    write(out, reference, reference, color, side)
    result = out if out.is_file() else out / "0002.dcm"
    assert complaints(result) <= complaints(source)


def complaints(path: Path) -> set[str]:
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, errors="replace", check=False)
    return {line for line in done.stderr.splitlines() if line.startswith("Error")}


# Files that pydicom brings along -------------------------------------------------------------------------------------


def bundled_root() -> Path:
    return Path(pydicom.__file__).parent / "data"


def bundled() -> list[Path]:
    """Every file with rows and columns."""
    found = []
    for path in sorted(bundled_root().rglob("*")):
        if path.is_file() and dicom_series.is_dicom(path):
            try:
                header = pydicom.dcmread(path, force=True, specific_tags=["Rows", "PixelData"])
            except Exception:
                continue
            if "Rows" in header and "PixelData" in header:
                found.append(path)
    return found


def test_an_index_given_for_its_folder_is_told_so():
    message = refused(bundled_root() / "test_files" / "dicomdirtests" / "DICOMDIR")
    assert message.endswith("but Media Storage Directory Storage; give the folder that it lies in")


def test_a_jpeg_of_12_bits_is_not_called_damaged_and_the_codec_for_it_is_named():
    pytest.importorskip("gdcm")
    if importlib.util.find_spec("libjpeg"):
        pytest.skip("pylibjpeg-libjpeg is installed")
    message = refused(bundled_root() / "test_files" / "JPGExtended.dcm", "spect")
    assert message.endswith("with 12 bits, which only one codec reads: pip install pylibjpeg pylibjpeg-libjpeg")


SIDES = {"CT": "ct", "PT": "pet", "NM": "spect"}


@pytest.mark.filterwarnings("ignore:Expected explicit VR")
def test_files_that_pydicom_brings_along_are_fused_or_refused(tmp_path, fusecli, average):
    """With copies of themselves, each as what it says it is. Which are fused depends on the codecs there are."""
    fused, refusals = [], {}
    for index, path in enumerate(bundled()):
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        side = SIDES.get(header.get("Modality"), "ct")
        out = tmp_path / str(index)
        mri = shutil.copy(path, tmp_path / f"{index}-mri.dcm")
        code, _, err = fusecli("fuse", f"--{side}", path, "--mri", mri, "-o", out, "-m", average)
        if code:
            assert code in (1, 2), err
            assert str(path) in err, err
            assert "Traceback" not in err
            assert "Error:" not in err
            refusals[path.name] = err
            continue
        files = sorted(file for file in out.rglob("*") if file.is_file())
        results = [pydicom.dcmread(file) for file in files]
        frames = int(header.get("NumberOfFrames") or 1)
        assert sum(int(one.get("NumberOfFrames") or 1) for one in results) == frames
        assert {(one.Rows, one.Columns) for one in results} == {(header.Rows, header.Columns)}
        fused.append(path.name)
    assert len(fused) >= 55, sorted(refusals)
    assert {"CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "SC_rgb_rle_16bit_2frame.dcm"} <= set(fused)
    for name, reason in {
        "MR_truncated.dcm": "cut off",
        "rtdose.dcm": "holds no DICOM image, but RT Dose Storage",
        "liver_1frame.dcm": "holds no DICOM image, but Segmentation Storage",
    }.items():
        assert reason in refusals[name]
