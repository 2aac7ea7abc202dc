"""sample_data is small, whole and made by its own generator."""

import gzip
import sys

import cv2
import nibabel as nib
import numpy as np
import pydicom
import pytest
import tifffile
from conftest import SAMPLES


def test_it_is_small():
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 5_000_000


def test_both_sides_have_the_same_scenes_in_the_same_size():
    vis = {path.stem: path for path in (SAMPLES / "vis").iterdir()}
    ir = {path.stem: path for path in (SAMPLES / "ir").iterdir()}
    assert vis.keys() == ir.keys()
    assert len(vis) >= 8
    sizes, kinds = set(), set()
    for name, path in vis.items():
        visible = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        infrared = (tifffile.imread if ir[name].suffix == ".tif" else lambda p: cv2.imread(str(p), -1))(ir[name])
        assert visible.shape[:2] == infrared.shape
        assert infrared.std() > 0
        sizes.add(infrared.shape)
        kinds |= {infrared.dtype.name, f"{visible.ndim} axes"}
    assert any(height % 2 and width % 2 for height, width in sizes)
    assert kinds == {"uint8", "uint16", "2 axes", "3 axes"}


@pytest.mark.parametrize("name", ["corridor"])
def test_the_generator_makes_the_same_pixels_again(name, monkeypatch):
    monkeypatch.syspath_prepend(str(SAMPLES))
    for module in ("make", "scenes", "render", "things", "noise"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    import make
    import scenes

    index = [scene.__name__ for scene in scenes.SCENES].index(name)
    visible, infrared = make.picture(index)[1:]
    assert np.array_equal(visible[..., ::-1], cv2.imread(str(SAMPLES / "vis" / f"{name}.png"), -1))
    assert np.array_equal(infrared, cv2.imread(str(SAMPLES / "ir" / f"{name}.png"), -1))


def test_the_phantom_is_made_again(tmp_path, head):
    head.phantom(tmp_path)
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        kept = SAMPLES / path.relative_to(tmp_path)
        if path.suffix == ".gz":  # compressed bytes depend on the zlib at hand
            assert gzip.decompress(path.read_bytes()) == gzip.decompress(kept.read_bytes())
        elif path.suffix == ".dcm":  # the file's preface names the version of pydicom
            assert pydicom.dcmread(path) == pydicom.dcmread(kept)
        else:
            assert path.read_bytes() == kept.read_bytes()


def test_the_phantom_fuses_across_formats_grids_and_angles(tmp_path, fusecli, head):
    """PET hot spots stay where they are in the patient and keep their colour; the PET's grid stays the result's."""
    mri = SAMPLES / "mr" / "head.nii.gz"
    code, _, err = fusecli("fuse", "--ct", SAMPLES / "ct", "--mri", mri, "-o", tmp_path / "ct")
    assert code == 0, err
    assert "resampled" in err
    assert len(list((tmp_path / "ct").rglob("*.dcm"))) == 24
    source, result = SAMPLES / "pet" / "head.nii.gz", tmp_path / "pet.nii.gz"
    assert fusecli("fuse", "--pet", source, "--mri", mri, "-o", result)[0] == 0
    pet, fused = nib.load(source), nib.load(result)
    assert np.array_equal(pet.affine, fused.affine)
    colors = np.asarray(fused.dataobj)
    for spot in head.HOT_SPOTS:
        i, j, k = np.rint(np.linalg.inv(pet.affine) @ [*spot, 1])[:3].astype(int)
        red, blue = int(colors[i, j, k]["R"]), int(colors[i, j, k]["B"])
        assert red > 200
        assert red >= blue


def test_mistakes_are_reported_one_by_one(tmp_path, fusecli):
    folder = SAMPLES / "mistakes"
    arguments = ["fuse", "--ir", folder / "ir", "--vis", folder / "vis", "-o", tmp_path / "out"]
    code, _, err = fusecli(*arguments)
    assert code == 2
    assert "no_partner" in err
    code, _, err = fusecli(*arguments, "--ignore-unmatched")
    assert code == 8
    for name in ("truncated", "wrong_size", "text"):
        assert name in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "good_day_street.png",
        "good_night_street.png",
    ]
