"""What the released medical weights keep, region by region: of the phantom, and of validation slices if at hand."""

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import SAMPLES, SHARED

from fusecli.images import frames, nifti
from fusecli.images.colour import as_float, luma
from fusecli.images.grid import resample
from fusecli.images.opencv import cv2
from fusecli.images.volume import shown_range
from fusecli.stream.work import EngineSpec

MRI = SAMPLES / "mr" / "head.nii.gz"
LEVEL = 1 / 255
needs_slices = pytest.mark.skipif(not (SHARED / "data" / "val").is_dir(), reason="needs the validation slices")


def fuse(fusecli, tmp_path: Path, kind: str, *more: str) -> tuple[np.ndarray, nib.Nifti1Image]:
    """The fused phantom on the grid of ``kind`` as it is shown, in [0, 1]."""
    source, result = SAMPLES / kind / ("" if kind == "ct" else "head.nii.gz"), tmp_path / f"{kind}.nii.gz"
    code, _, err = fusecli("fuse", f"--{kind}", source, "--mri", MRI, "-o", result, "--bit-depth", "8", *more)
    assert code == 0, err
    image = nib.load(result)
    voxels = np.asarray(image.dataobj) if image.get_data_dtype().names else image.dataobj.get_unscaled()
    if voxels.dtype.names:
        voxels = np.stack([voxels[name] for name in "RGB"], -1)
    return voxels / 255, image


def sources() -> tuple[np.ndarray, np.ndarray]:
    """PET and MRI of the phantom on the PET's grid as they are shown, in [0, 1]."""
    pet, mri = nifti.read(SAMPLES / "pet" / "head.nii.gz"), nifti.read(MRI)
    shown = []
    for volume, side in ((pet, "pet"), (mri, "mri")):
        black_white = volume.stored(shown_range(volume, side))
        voxels = volume.voxels if volume is pet else resample(volume.voxels, volume.grid, pet.grid)
        shown.append(np.clip((voxels - black_white.lo) / (black_white.hi - black_white.lo), 0, 1).transpose(2, 1, 0))
    return shown[0], shown[1]


def at(image: nib.Nifti1Image, spot: tuple[float, float, float]) -> tuple[int, ...]:
    """The voxel at a place in the patient."""
    return tuple(np.rint(np.linalg.inv(image.affine) @ [*spot, 1])[:3].astype(int))


def edges(image: np.ndarray) -> np.ndarray:
    """Strength of edges, by Sobel."""
    image = image.astype(np.float32)
    return np.hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))


def test_ct_with_mri_keeps_bone_bright_air_black_and_the_lesion(tmp_path, fusecli, head):
    fused, image = fuse(fusecli, tmp_path, "ct", "--format", "nifti")
    places = head.positions(image.affine, image.shape)
    tissue = {name: share.reshape(image.shape) for name, share in head.tissues(places).items()}
    outside = head.ellipsoid(places, (0, 0, 0), (76, 96, 92)).reshape(image.shape) > 1.15
    assert fused[outside].mean() <= LEVEL
    bone = tissue["bone"] > 0.99
    assert bone.sum() > 1000
    assert np.median(fused[bone]) > 0.9
    for last in (0, -1):  # slices with next to nothing in them are not stretched until it is white
        assert (fused[..., last] > 0.5).mean() < 0.005
    lesion, white = tissue["lesion"] > 0.95, tissue["white"] > 0.95
    assert fused[lesion].mean() > fused[white].mean()  # in the MRI alone it is the brighter one


def test_pet_with_mri_keeps_hot_spots_in_place_and_hue(tmp_path, fusecli, head):
    fused, image = fuse(fusecli, tmp_path, "pet", "--colormap", "hot")
    places = head.positions(image.affine, image.shape[:3])
    outside = head.ellipsoid(places, (0, 0, 0), (76, 96, 92)).reshape(image.shape[:3]) > 1.15
    assert fused[outside].mean() <= np.maximum(*sources())[outside].mean() + LEVEL  # the PET's noise is not raised
    red = fused[..., 0]
    for spot in head.HOT_SPOTS:
        i, j, k = at(image, spot)
        around = np.s_[i - 4 : i + 5, j - 4 : j + 5, k - 3 : k + 4]
        assert red[i, j, k] > 0.9
        assert red[i, j, k] >= red[around].max() - 3 * LEVEL
        assert fused[i, j, k, 0] >= fused[i, j, k, 1] >= fused[i, j, k, 2]  # the colormap's order, not gray or blue


def test_no_slice_loses_what_the_others_show(tmp_path, fusecli):
    """A volume is seen as a whole: seen by itself, a slice with little in it looks otherwise than its neighbours."""
    fused, _ = fuse(fusecli, tmp_path, "pet", "--color", "gray")
    pet, mri = sources()
    assert ((mri > 0.5) & (fused < mri - 0.35)).mean((0, 1)).max() < 0.005
    assert (fused > np.maximum(pet, mri) + 0.15).mean((0, 1)).max() < 0.005


def test_neighbouring_slices_do_not_flicker(tmp_path, fusecli):
    """From slice to slice the result changes no more than the source that changes more there."""
    fused, _ = fuse(fusecli, tmp_path, "pet", "--color", "gray")
    changes = [np.abs(np.diff(volume, axis=2)) for volume in (fused, *sources())]
    assert changes[0].mean() <= np.maximum(changes[1], changes[2]).mean()


def slices(task: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The validation slices: name, both sources."""
    kind = task.partition("-")[0]
    folder = SHARED / "data" / "val" / task
    for path in sorted((folder / kind).iterdir()):
        first, second = (as_float(frames.read(folder / side / path.name)[0].pixels) for side in (kind, "mri"))
        yield path.name, first, second


@needs_slices
@pytest.mark.parametrize(("task", "levels"), [("ct-mri", 3), ("pet-mri", 1.2), ("spect-mri", 1)])
def test_more_black_around_a_head_changes_little(task, levels):
    """A field of view is a matter of the scanner; what is in it shall look the same."""
    engine = EngineSpec("nano", task, device="cpu").build()
    changes = []
    for _, *pair in slices(task):
        wider = [np.pad(image, ((40, 40), (40, 40), (0, 0))[: image.ndim]) for image in pair]
        fused, framed = (luma(engine.fuse(a[None], b[None], None)[0]) for a, b in (pair, wider))
        changes.append(np.abs(framed[40:-40, 40:-40] - fused)[fused > 0.02].mean())
    assert np.mean(changes) <= levels * LEVEL


@needs_slices
@pytest.mark.parametrize("task", ["ct-mri", "pet-mri", "spect-mri"])
def test_validation_slices_keep_black_hot_spots_colour_and_edges(task):
    engine = EngineSpec("nano", task, device="cpu").build()
    kind = task.partition("-")[0]
    for name, first, second in slices(task):
        a, b = luma(first), luma(second)
        result = engine.fuse(first[None], second[None], None)[0]
        fused = luma(result)
        dark = cv2.erode(np.uint8((a == 0) & (b == 0)), np.ones((7, 7), np.uint8)) > 0
        assert fused[dark].mean() <= LEVEL, name
        hot = a > 0.8 if kind == "ct" else a >= np.quantile(a[a > 0.1], 0.98)
        assert fused[hot].mean() > (0.9 if kind == "ct" else 0.75) * a[hot].mean(), name
        if first.ndim == 3:
            shift = (result - fused[..., None]) - (first - a[..., None])
            assert np.abs(shift)[hot].mean() < 0.1, name
        beside_bone = cv2.dilate(np.uint8(a > 0.8), np.ones((7, 7), np.uint8)) > 0  # where the CT is white as it can be
        alone = (edges(b) > np.quantile(edges(b)[b > 0.05], 0.9)) & (edges(a) < 0.2 * edges(b)) & ~beside_bone
        assert edges(fused)[alone].mean() > 0.5 * edges(b)[alone].mean(), name
