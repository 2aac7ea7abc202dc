import sys

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from phantom import grid as make
from phantom import positions

from fusecli.errors import FusecliError, InputError
from fusecli.images import grid
from fusecli.images.coverage import shares
from fusecli.images.grid import Grid


def test_grid_says_where_voxels_lie():
    where = make((10, 8, 6), (1, 2, 3), "sagittal", (10, 20, 30), centre=(5, -7, 9))
    assert where.spacing == pytest.approx((1, 2, 3))
    assert where.centre == pytest.approx((5, -7, 9))
    assert where.points(np.array([4.5, 3.5, 2.5])) == pytest.approx((5, -7, 9))
    assert len({tuple(corner) for corner in where.corners()}) == 8
    assert (where.corners().min(0).tolist(), where.corners().max(0).tolist()) == ([0, 0, 0], [9, 7, 5])
    assert str(where) == "10×8×6 voxels of 1.00×2.00×3.00 mm"
    assert str(make((10, 8, 6), (0.12, 0.0625, 0.0039))) == "10×8×6 voxels of 0.12×0.062×0.0039 mm"


def test_lps_is_ras_turned_around_the_axis_of_the_body():
    ras = np.array([[0.0, 2, 0, 10], [3, 0, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]])
    lps = grid.flip_lps(ras)
    assert lps @ (1, 1, 1, 1) == pytest.approx((-12, 17, 34, 1))
    assert grid.flip_lps(lps) == pytest.approx(ras)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({(0, 0): np.nan}, "NaN"), ({(0, 0): 0.0}, "zero length"), ({(0, 1): 1.0, (1, 1): 0.0}, "point the same way")],
)
def test_affines_that_place_nothing_are_refused(change, reason):
    affine = np.eye(4)
    for index, value in change.items():
        affine[index] = value
    with pytest.raises(InputError, match=f"head.nii: .*{reason}"):
        grid.check_affine(affine, "head.nii")
    grid.check_affine(np.diag([1e-3, 2e-3, -1e-3, 1]), "head.nii")  # small is not zero


def test_grids_are_the_same_up_to_a_hundredth_of_a_voxel():
    affine = make((20, 20, 20), (2, 2, 2), degrees=(3, 4, 5)).affine
    shifted = affine.copy()
    shifted[0, 3] += 0.01
    assert grid.same(Grid((20, 20, 20), affine), Grid((20, 20, 20), shifted))
    shifted[0, 3] += 0.1
    assert not grid.same(Grid((20, 20, 20), affine), Grid((20, 20, 20), shifted))
    assert not grid.same(Grid((20, 20, 20), affine), Grid((20, 20, 19), affine))


@pytest.mark.parametrize(("shift", "share"), [(0, 1), (20, 0.5), (39, 0.025), (41, 0)])
def test_coverage_is_the_share_of_voxels_inside_the_other_grid(shift, share):
    here = make((40, 10, 10), (1, 1, 1))
    there = make((40, 10, 10), (1, 1, 1), centre=(shift, 0, 0))
    assert grid.coverage(here, there) == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (10, 20, 30)])
def test_what_ends_within_another_grid_counts_less_and_less_towards_each_of_its_faces(degrees):
    here, there = make((60, 50, 30), (1, 1, 2)), make((21, 20, 9), (1.5, 1, 4), degrees=degrees, centre=(3, 1, 0))
    share = shares(here, there)
    assert share.dtype == np.float32
    index = positions(here) @ np.linalg.inv(there.affine)[:3, :3].T + np.linalg.inv(there.affine)[:3, 3]
    beyond = np.maximum(-index, index - np.array(there.shape) + 1)  # of the outermost centres, in voxels
    assert (share[(beyond < -0.055 * np.array(there.shape)).all(-1)] == 1).all()
    assert (share[(beyond > 1.1).any(-1)] == 0).all()
    assert len(np.unique(share.round(3))) > 4
    assert np.array_equal(shares(here, there, slice(4, 7)), share[4:7])
    assert shares(there, here) is None


def test_grids_that_differ_by_part_of_a_voxel_at_their_ends_end_together():
    fine, coarse = make((40, 40, 40), (1, 1, 1)), make((10, 10, 10), (4.1, 4, 3.9), centre=(0.4, 0, 0.4))
    assert shares(fine, coarse) is None
    assert shares(coarse, fine) is None
    voxels = np.full((10, 10, 10), 9, np.uint8)
    assert (grid.resample(voxels, coarse, fine) == 9).all()  # up to the last slice, not fading into black


@pytest.mark.parametrize("step", [1, 5])
def test_a_single_slice_counts_in_the_slices_that_it_lies_in(step):
    share = shares(make((8, 8, 11), (1, 1, step)), make((8, 8, 1), (1, 1, 3)))
    assert share[:, 4, 4].tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0] if step == 1 else [0] * 5 + [1] + [0] * 5


@pytest.mark.parametrize("step", [1, 5])
def test_a_single_slice_between_two_counts_in_both(step):
    """Neither held its centre, and it was nowhere in the result."""
    share = shares(make((8, 8, 4), (1, 1, step)), make((8, 8, 1), (1, 1, 1)))
    assert share[:, 4, 4] == pytest.approx([0, 0.5, 0.5, 0], abs=1e-6)


@pytest.mark.parametrize("degrees", [0, 10])
def test_the_first_and_last_of_thick_slices_count_as_all_others(degrees):
    """A lesion in them was at two fifths of its brightness. Where slices are cut askew the result still fades."""
    share = shares(make((20, 20, 60), (1, 1, 5)), make((60, 60, 24), (1, 1, 5), degrees=(degrees, 0, 0)))[:, 10, 10]
    assert np.isin(share, (0, 1)).all() == (degrees == 0)
    assert degrees or share.sum() == 24


def test_thick_slices_end_where_they_were_measured():
    """Thin slices beyond showed the last one as if it went on, over up to half its thickness."""
    share = shares(make((8, 8, 40), (1, 1, 1)), make((8, 8, 3), (1, 1, 12)))[:, 4, 4]
    assert (share[:2] == 0).all()
    assert (share[-2:] == 0).all()
    assert (share[3:-3] > 0).all()


def test_the_box_around_another_grid_holds_all_of_it_and_little_more():
    wide, other = Grid((30, 40, 20), np.diag([-2.0, 3, 4, 1])), Grid((5, 6, 7), np.eye(4))
    other.affine[:3, 3] = -41, 60, 20
    k, j, i = grid.around(wide, other)
    assert (i, j, k) == (slice(18, 22), slice(20, 23), slice(5, 8))  # x = -41 … -37, y = 60 … 65, z = 20 … 26 mm
    other.affine[0, 3] = 100
    assert np.zeros(wide.shape[::-1])[grid.around(wide, other)].size == 0


def test_a_single_slice_covers_what_lies_within_half_its_step():
    stack, slice_ = make((10, 10, 20), (1, 1, 5)), make((10, 10, 1), (1, 1, 5), centre=(0, 0, 2.4))
    assert grid.coverage(slice_, stack) == 1
    assert grid.coverage(make((10, 10, 1), (1, 1, 5), centre=(0, 0, 60)), stack) == 0


@pytest.mark.parametrize("degrees", [(0, 0, 0), (7, -4, 12)])
def test_resampling_agrees_with_nibabel(degrees):
    source, target = make((20, 18, 16), (2, 2, 2)), make((24, 22, 15), (1.5, 1.6, 2.1), "coronal", degrees)
    voxels = np.random.default_rng(0).integers(0, 1000, (16, 18, 20)).astype(np.int16)
    expected = resample_from_to(
        nib.Nifti1Image(voxels.T.astype(np.float32), source.affine),
        (target.shape, target.affine),
        order=1,
        mode="nearest",
    )
    found = grid.resample(voxels, source, target)
    assert found.dtype == np.float32
    assert abs(found - expected.get_fdata().T).max() < 0.01


def test_flipped_and_exchanged_axes_keep_every_value():
    source = make((5, 6, 7), (1, 2, 3))
    turned = np.array([[0, 0, 1, 0], [-1, 0, 0, 5], [0, -1, 0, 6], [0, 0, 0, 1]], float)  # i → −j, j → −k, k → i
    target = Grid((6, 7, 5), source.affine @ turned)
    voxels = np.random.default_rng(1).random((7, 6, 5)).astype(np.float32)
    expected = voxels.transpose(2, 0, 1)[:, ::-1, ::-1]
    assert np.array_equal(grid.resample(voxels, source, target), expected)


def test_slices_resampled_alone_equal_those_of_the_whole():
    source, target = make((12, 12, 12), (2, 2, 2)), make((15, 14, 13), (1.7, 1.7, 1.7), degrees=(5, 6, 7))
    voxels = np.random.default_rng(2).random((12, 12, 12)).astype(np.float32)
    whole = grid.resample(voxels, source, target)
    for span in (slice(0, 4), slice(4, 9), slice(9, 13)):
        assert np.allclose(grid.resample(voxels, source, target, span), whole[span], atol=1e-6)


def test_a_coarse_grid_takes_means_and_does_not_alias():
    fine, coarse = make((32, 32, 8), (1, 1, 1)), make((8, 8, 8), (4, 4, 1), centre=(0.5, 0, 0))  # on voxels' centres
    stripes = np.broadcast_to(np.arange(32) % 2, (8, 32, 32)).astype(np.float32)
    assert grid.resample(stripes, fine, coarse)[:, 1:-1, 1:-1] == pytest.approx(0.5)
    turned = make((8, 8, 8), (1, 4, 1), "coronal", centre=(0, 0, 0.5))  # whose rows follow the slices
    layers, tall = np.moveaxis(stripes, 2, 0), make((32, 8, 32), (1, 1, 1))
    assert grid.resample(layers, tall, turned)[1:-1, 1:-1, 1:-1] == pytest.approx(0.5)
    columns = np.broadcast_to(np.repeat(np.arange(8), 4), (8, 32, 32)).astype(np.float32)
    coarse = make((8, 8, 8), (4, 4, 1))
    assert grid.resample(columns, fine, coarse)[4, 4, 1:-1] == pytest.approx(np.arange(1, 7))


def test_colour_is_resampled_by_channel():
    source, target = make((6, 6, 6), (2, 2, 2)), make((9, 9, 9), (1.1, 1.1, 1.1), degrees=(3, 2, 1))
    voxels = np.random.default_rng(3).integers(0, 256, (6, 6, 6, 3)).astype(np.uint8)
    found = grid.resample(voxels, source, target)
    assert found.shape == (9, 9, 9, 3)
    assert np.array_equal(found[..., 1], grid.resample(voxels[..., 1], source, target))


def test_without_scipy_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    where = make((3, 3, 3), (1, 1, 1))
    with pytest.raises(FusecliError, match=r"fusecli\[resample\]"):
        grid.resample(np.zeros((3, 3, 3)), where, where)
