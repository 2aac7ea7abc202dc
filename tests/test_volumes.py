import tracemalloc
from pathlib import Path
from threading import Event

import nibabel as nib
import numpy as np
import phantom
import pytest
from conftest import SAMPLES
from nibabel import orientations

from fusecli import registry
from fusecli.errors import UsageError
from fusecli.images import colormap, nifti
from fusecli.images.colour import luma
from fusecli.images.grid import Grid
from fusecli.images.intensity import Range
from fusecli.images.planes import Turn
from fusecli.models import checkpoint
from fusecli.stream import volume_jobs, volume_pairs, volumes
from fusecli.stream.engine import Engine
from fusecli.stream.plan import Naming
from fusecli.stream.settings import VolumeSettings

TASK = registry.TASKS["pet-mri"]
PET = phantom.grid((20, 24, 11), (5, 5, 7), "axial", (4, -3, 2))
MR = phantom.grid((30, 32, 34), (4, 4, 4), "sagittal")


class Accelerator(Engine):
    """A CPU that is driven as an accelerator is."""

    batches = True


@pytest.fixture
def engine(average):
    return lambda kind: kind(checkpoint.load(str(average), TASK.name), "cpu", "fp32")


def jobs_of(root: Path, count: int, **options):
    for index in range(count):
        phantom.nifti(root / "pet" / f"{index}.nii", phantom.head(PET).astype(np.float32), PET)
        phantom.nifti(root / "mri" / f"{index}.nii", np.rint(phantom.head(MR) * 900).astype(np.int16), MR)
    pairs = volume_pairs.find((str(root / "pet"), str(root / "mri")), TASK)
    return volume_jobs.plan(pairs, root / "out", Naming(overwrite=True), **options).jobs


@pytest.mark.parametrize("color", [False, True])
def test_slices_in_batches_give_what_slices_by_threads_give(tmp_path, engine, color):
    results = []
    for kind in (Engine, Accelerator):
        (job,) = jobs_of(tmp_path, 1, color=color)
        settings = VolumeSettings(TASK, "average", colormap="hot" if color else None, batch=3)
        (outcome,) = volumes.run([job], engine(kind), settings, preview=[job.output])
        assert outcome.error is None
        results.append((nifti.read(job.output).voxels, *outcome.preview))
        assert len(outcome.preview) == 3
    for a, b in zip(*results, strict=True):
        assert np.abs(a.astype(float) - b).max() < 1e-5


def test_slices_are_mended_for_a_model_that_wants_it_so(tmp_path):
    where = phantom.grid((96, 120, 3), (1, 1, 3))
    rng = np.random.default_rng(0)
    smooth = np.broadcast_to(np.linspace(60, 160, 120)[:, None], (3, 120, 96))
    striped = np.clip(smooth + rng.normal(0, 12, (3, 1, 96)), 0, 255)
    phantom.nifti(tmp_path / "pet.nii", np.uint8(smooth), where)
    phantom.nifti(tmp_path / "mri.nii", np.uint8(striped), where)
    pairs = volume_pairs.find((str(tmp_path / "pet.nii"), str(tmp_path / "mri.nii")), TASK)
    (job,) = volume_jobs.plan(pairs, tmp_path / "out.nii", Naming()).jobs
    rough = []
    for mend in (False, True):
        engine = Engine(checkpoint.build("nano", {"mend": mend}), "cpu", "fp32")
        (outcome,) = volumes.run([job], engine, VolumeSettings(TASK, "own"))
        assert outcome.error is None
        assert outcome.mended == ({"second": {"stripes"}} if mend else {})
        fused = nifti.read(job.output)
        rough.append(np.abs(np.diff(fused.voxels * fused.slope, axis=2)).mean())
    assert rough[1] < rough[0] / 3


@pytest.mark.parametrize(("side", "reference"), [("ct", "ct"), ("pet", "pet"), ("pet", "mri")])
def test_where_one_volume_ends_the_result_is_the_other_one(tmp_path, fusecli, side, reference):
    """There the network saw the bright end of an image, and drew a dark line beside it."""
    wide, narrow = phantom.grid((96, 96, 3), (1, 1, 3)), phantom.grid((52, 60, 3), (1, 1, 3))
    waves = np.sin(np.arange(96) / 3)[:, None] * np.sin(np.arange(96) / 4)
    first, second = (np.broadcast_to(np.rint(level + 8 * waves), (3, 96, 96)).astype(np.int16) for level in (80, 160))
    inner = (slice(None), slice(18, 78), slice(22, 74))
    first, second = (first, second[inner]) if reference == side else (first[inner], second)
    for name, voxels in ((side, first), ("mri", second)):
        phantom.nifti(tmp_path / f"{name}.nii", voxels, wide if name == reference else narrow)
    arguments = [f"--{side}", tmp_path / f"{side}.nii", "--mri", tmp_path / "mri.nii", "--reference", reference]
    arguments += ["--window", "88,176"] if side == "ct" else ["--color", "gray"]
    code, _, err = fusecli("fuse", *arguments, "-o", tmp_path / "out.nii")
    assert code == 0, err
    alone, fused = (nib.load(tmp_path / f"{name}.nii").get_fdata().T for name in (reference, "out"))
    covered = np.zeros((96, 96), bool)
    covered[inner[1:]] = True
    step = (alone.max() - alone.min()) / 20
    assert np.abs(fused - alone)[:, ~covered].max() < step
    assert np.abs(fused - alone)[:, 40:56, 40:56].mean() > step


def test_a_slab_is_fused_alike_however_far_the_other_volume_goes_on_and_has_no_rims(tmp_path, fusecli):
    """Slices without MRI decided how all were fused, and its first and last faded into black, so that edges shone."""
    slab = phantom.grid((56, 60, 6), (1, 1, 5))
    waves = np.sin(np.arange(60) / 3)[:, None] * np.sin(np.arange(56) / 4)
    phantom.nifti(tmp_path / "mri.nii", np.broadcast_to(500 + 60 * waves, (6, 60, 56)).astype(np.float32), slab)
    found = []
    for slices in (36, 160):
        where = phantom.grid((96, 96, slices), (1, 1, 1))
        tissue = np.random.default_rng(0).normal(60, 3, (96, 96)).astype(np.float32)
        phantom.nifti(tmp_path / "ct.nii", np.broadcast_to(tissue, (slices, 96, 96)), where)
        arguments = ["--ct", tmp_path / "ct.nii", "--mri", tmp_path / "mri.nii", "--window", "60,120"]
        code, _, err = fusecli("fuse", *arguments, "-o", tmp_path / f"{slices}.nii")
        assert code == 0, err
        fused = nib.load(tmp_path / f"{slices}.nii").get_fdata()
        found.append(fused[..., slices // 2 - 18 : slices // 2 + 18])
    few, many = found
    assert np.abs(few - many).mean() < 1
    for values in (few[36:60, 36:60].mean((0, 1)), few[:, 38:57, 12:24].mean((1, 2))):  # across the slices, across x
        inner = values[len(values) // 2 - 4 : len(values) // 2 + 4].mean()
        low, high = sorted((60, inner))
        assert low - 4 < values.min()
        assert values.max() < high + 4


def test_slices_beyond_a_volume_that_covers_most_do_not_steer_the_fusion(tmp_path, fusecli):
    """They did from half covered on, so that the look changed with the length of the CT."""
    rng = np.random.default_rng(0)
    tissue, beyond = rng.normal(60, 9, (20, 64, 64)), rng.choice([0, 120], (16, 64, 64))
    ct, slab = np.concatenate([tissue, beyond]).astype(np.float32), phantom.grid((64, 64, 19), (1, 1, 2))
    phantom.nifti(tmp_path / "mri.nii", rng.normal(500, 90, (19, 64, 64)).astype(np.float32), slab)
    found = []
    for slices in (20, 36):
        phantom.nifti(tmp_path / "ct.nii", ct[:slices], Grid((64, 64, slices), slab.affine))
        arguments = ["--ct", tmp_path / "ct.nii", "--mri", tmp_path / "mri.nii", "--window", "60,120"]
        code, _, err = fusecli("fuse", *arguments, "-o", tmp_path / f"{slices}.nii")
        assert code == 0, err
        found.append(nib.load(tmp_path / f"{slices}.nii").get_fdata()[..., :15])
    np.testing.assert_allclose(*found, atol=0.01)


def test_previews_show_all_levels():
    np.testing.assert_array_equal(volumes._bytes(np.float32([0, 0.5, 1])), np.uint8([0, 128, 255]))
    np.testing.assert_array_equal(volumes._bytes(np.uint16([0, 257, 65535])), np.uint8([0, 1, 255]))


def test_a_large_result_is_converted_without_a_second_one_of_floats():
    fused = np.full((64, 64, 64), 0.5, np.float32)
    tracemalloc.start()
    stored = nifti._as_type(fused, np.dtype(np.int16), Range(0, 1))
    pictures = volumes._bytes(fused)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (stored == 16384).all()
    assert (pictures == 128).all()
    assert peak < stored.nbytes + pictures.nbytes + fused.nbytes / 8


def test_a_stopped_run_begins_no_other_volume(tmp_path, engine):
    jobs, stop, done = jobs_of(tmp_path, 3), Event(), []
    for outcome in volumes.run(jobs, engine(Engine), VolumeSettings(TASK, "average"), stop=stop):
        done.append(outcome.job.name)
        stop.set()
    assert done == ["0"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.nii"]


@pytest.mark.parametrize("name", colormap.NAMES)
def test_colormaps_go_from_black_to_bright(name):
    table = colormap.table(name)
    assert (table.shape, table.dtype) == ((256, 3), np.uint8)
    assert not table[0].any()
    assert len(np.unique(table, axis=0)) > 15
    assert np.ptp(luma(table[None])) > 0.4
    assert np.array_equal(colormap.apply(np.array([[0, 0.5, 1]], np.float32), name)[0], table[[0, 128, 255]])


def test_hot_gets_brighter_with_every_step():
    assert (np.diff(luma(colormap.table("hot")[None])[0]) > -1e-6).all()


@pytest.mark.parametrize("text", ["pet=1,ct=2", "pet=", "=3", "pet=1,", "pet"])
def test_volumes_named_in_a_way_that_makes_no_sense_are_refused(text):
    with pytest.raises(UsageError, match="--volume"):
        volume_pairs.choices("--volume", text, TASK)


def test_a_choice_without_a_side_is_for_the_side_that_has_several():
    both = volume_pairs.choices("--volume", "2", TASK)
    assert [both[side].among(1) for side in TASK.sides] == [None, None]
    assert [both[side].among(3) for side in TASK.sides] == ["2", "2"]
    named = volume_pairs.choices("--volume", "mri=0", TASK)
    assert named["pet"].among(3) is None
    assert named["mri"].among(1) == "0"


@pytest.mark.parametrize("codes", ["LPS", "ASL", "SRP"])
def test_how_a_file_stores_its_voxels_does_not_matter(tmp_path, fusecli, codes):
    """The same head, its axes reversed or in another order: the same result, in each file's own order."""
    turn = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(codes))
    for name, kept in (("plain", None), ("turned", turn)):
        for side in ("pet", "mr"):
            image = nib.as_closest_canonical(nib.load(SAMPLES / side / "head.nii.gz"))
            nib.save(image if kept is None else image.as_reoriented(kept), tmp_path / f"{name}-{side}.nii")
        pet, mri, out = (tmp_path / f"{name}-{part}.nii" for part in ("pet", "mr", "fused"))
        code, _, err = fusecli("fuse", "--pet", pet, "--mri", mri, "-o", out, "--color", "gray")
        assert code == 0, err
    plain, turned = (nib.load(tmp_path / f"{name}-fused.nii") for name in ("plain", "turned"))
    assert nib.aff2axcodes(turned.affine) == tuple(codes)
    canonical = nib.as_closest_canonical(turned)
    np.testing.assert_allclose(canonical.affine, plain.affine, atol=1e-4)
    difference = np.abs(canonical.get_fdata() - plain.get_fdata())
    assert difference.max() < 0.001 * np.ptp(plain.get_fdata())


def test_thick_slices_are_fused_as_they_were_taken():
    """Sagittal ones of 5 mm; those of a millimetre are cut again, into axial ones."""
    thin, thick = (phantom.grid((30, 32, 34), (1, 1, apart), "sagittal") for apart in (1, 5))
    voxels = np.arange(34 * 32 * 30).reshape(34, 32, 30)
    for grid, slices in ((thin, 32), (thick, 34)):
        turn = Turn.upright(grid)
        turned = turn.voxels(voxels)
        assert len(turned) == slices
        np.testing.assert_array_equal(turn.back(turned), voxels)
        k, j, i = np.argwhere(turned == voxels[3, 4, 5])[0]
        np.testing.assert_allclose(turn.grid(grid).points(np.array([i, j, k])), grid.points(np.array([5, 4, 3])))
