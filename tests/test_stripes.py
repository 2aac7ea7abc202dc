import json

import cv2
import numpy as np
import pytest
import torch
from conftest import FRAMES, SAMPLES, frame

from fusecli.models.mending import examine, mend, samples
from fusecli.models.nano import Nano
from fusecli.models.stripes import LEAST, find_stripes, may_have_stripes
from fusecli.stream.engine import Engine
from fusecli.training.degrade import stripes


def striped(image: torch.Tensor, severity: float, seed: int = 0) -> torch.Tensor:
    worse = stripes(image, torch.full((1, 1, 1, 1), severity), torch.Generator().manual_seed(seed))
    return (worse.clamp(0, 1) * 255).round() / 255


def without_stripes(images: torch.Tensor) -> torch.Tensor:
    columns, rows = find_stripes(images)
    return (images - columns - rows).clamp(0, 1)


@pytest.mark.parametrize("path", FRAMES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_frames_in_order_are_left_alone(path):
    image = frame(path)
    assert all((found == 0).all() for found in find_stripes(image))


@pytest.mark.parametrize("severity", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("path", FRAMES[::3], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_stripes_are_taken_out(path, severity):
    image = frame(path)
    worse = striped(image, severity)
    assert examine(*(worse[(slice(None), 0, *part)] for part in samples(*worse.shape[2:])))[0]
    mended = without_stripes(worse)

    def error(result: torch.Tensor) -> float:
        """Spread of what differs between neighbouring lines."""
        return max((result - image).diff(dim=axis).std().item() for axis in (2, 3))

    assert error(mended) < error(worse) / 3


def test_scenes_of_lines_are_no_stripes():
    scene = torch.full((1, 1, 240, 320), 0.2)
    scene[..., 30:150, 20:300:6] = 0.8  # a fence
    scene[..., 120:, 200:] = 0.6  # a wall
    torch.testing.assert_close(without_stripes(scene), scene)
    for period in (3, 4, 5):
        grating = torch.full((1, 1, 240, 320), 0.2)
        grating[..., ::period] = 0.8
        torch.testing.assert_close(without_stripes(grating), grating)
    ramp = torch.linspace(0, 1, 320).expand(1, 1, 240, 320)
    torch.testing.assert_close(without_stripes(ramp), ramp)


@pytest.mark.parametrize("levels", [(0.3, 0.6), (0.0, 0.6)])
def test_edges_from_top_to_bottom_get_no_halo(levels):
    scene = torch.full((1, 1, 240, 320), levels[0])
    scene[..., 90:] = levels[1]
    worse = (scene + 5 / 255 * torch.randn(1, 1, 1, 320, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    mended = without_stripes(worse)
    assert (mended - scene).abs().mean() < (worse - scene).abs().mean() / 2
    assert (mended - scene).abs().max() < 12 / 255


def test_noise_is_no_stripes():
    noise = (0.5 + 0.12 * torch.randn(1, 1, 480, 640, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    torch.testing.assert_close(without_stripes(noise), noise)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (LEAST - 1, 300), (300, LEAST - 1)])
def test_images_too_small_to_tell_are_left_alone(size):
    image = torch.rand(2, 1, *size)
    torch.testing.assert_close(without_stripes(image), image)


def test_each_image_of_a_batch_is_judged_by_itself():
    image = frame(FRAMES[0])[..., :200, :240]
    both = torch.cat([image, striped(image, 0.8)])
    assert may_have_stripes(both[:, 0], both[:, 0]).tolist() == [False, True]
    torch.testing.assert_close(mend(both)[:1], image)


@pytest.fixture(scope="module")
def network() -> Nano:
    torch.manual_seed(0)
    network = Nano(mend=True)
    torch.nn.init.normal_(network.head.weight, std=0.05)  # more would leave [0, 1], where colours are clipped
    return network.eval()


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_the_engine_takes_stripes_out_and_keeps_colour(network, kind):
    scene = np.full((1, 200, 260, 3), (0.5, 0.4, 0.3), np.float32)
    scene[:, 50:120, 80:200] = (0.2, 0.6, 0.5)
    lines = np.random.default_rng(0).normal(0, 0.06, (1, 1, 260, 1)).astype(np.float32)
    scale = 255 if kind == np.uint8 else 1
    clean, worse = (np.rint(np.clip(each, 0, 1) * 255) * scale / 255 for each in (scene, scene + lines))
    clean, worse = clean.astype(kind), worse.astype(kind)
    levels = 255 if kind == np.uint8 else None
    engine = Engine(network, "cpu", "fp32")
    expected, found = (engine.fuse(each, clean[..., 0], levels).astype(np.float32) / scale for each in (clean, worse))
    assert np.abs(np.diff(found - expected, axis=2)).mean() < np.abs(np.diff(lines, axis=2)).mean() / 5
    spread = found - found[..., :1], expected - expected[..., :1]
    np.testing.assert_allclose(*spread, atol=1.5 / 255)


def test_the_engine_does_what_training_does(network):
    """Uint8 frames differ by their rounding."""
    first, second = striped(frame(FRAMES[0]), 0.6), striped(frame(FRAMES[0]), 0.3, seed=1)
    arrays = [np.rint(side[0, 0].numpy() * 255).astype(np.uint8) for side in (first, second)]
    *sides, mended = Engine(network, "cpu", "fp32").mend(*arrays)
    assert {side: "stripes" in names for side, names in mended.items()} == {"first": True, "second": True}
    for found, side in zip(sides, (first, second), strict=True):
        expected = mend(side)[0, 0].numpy() * 255
        assert np.abs(found - expected).max() < 1
        assert np.abs(found - expected).mean() < 0.3
        assert np.abs(found - side[0, 0].numpy() * 255).mean() > 1


def test_what_is_mended_needs_no_more_mending(network):
    pair = [np.rint(striped(frame(path), 0.6)[0, 0].numpy() * 255).astype(np.uint8) for path in FRAMES[:1] * 2]
    *once, _ = Engine(network, "cpu", "fp32").mend(*pair)
    *twice, _ = Engine(network, "cpu", "fp32").mend(*once)
    for side, again in zip(once, twice, strict=True):
        assert np.abs(side.astype(int) - again).mean() < 0.2


def test_stripes_leave_no_seams_between_tiles(network):
    rng = np.random.default_rng(1)
    image = np.clip(0.4 + rng.normal(0, 0.05, (1, 1, 300)) + np.zeros((1, 250, 1)), 0, 1)
    image = np.rint(image * 255).astype(np.uint8)
    whole, cut = (Engine(network, "cpu", "fp32", tile=tile).fuse(image, image) for tile in (0, 64))
    np.testing.assert_array_equal(whole, cut)
    assert np.abs(np.diff(whole.astype(int), axis=2)).mean() < np.abs(np.diff(image.astype(int), axis=2)).mean() / 3


def test_what_was_suspected_and_not_found_is_not_named(network):
    """The quick look at this frame asks for a closer one, which finds no stripe."""
    path = SAMPLES / "vis" / "forest_edge.png"
    image = np.rint(frame(path)[0, 0].numpy() * 255).astype(np.uint8)
    assert examine(*(frame(path)[(slice(None), 0, *part)] for part in samples(*image.shape))).stripes
    assert Engine(network, "cpu", "fp32").mend(image, image)[2] == {"first": {"noise"}, "second": {"noise"}}


def test_the_report_names_what_was_mended(fusecli, tmp_path):
    scene = frame(SAMPLES / "vis" / "day_street.png")
    for name, side, image in (
        *(("a", "vis", scene), ("a", "ir", striped(scene, 0.8))),
        *(("b", "vis", scene), ("b", "ir", scene)),
    ):
        path = tmp_path / side / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), (image[0, 0].numpy() * 255).astype(np.uint8))
    given = ("--ir", tmp_path / "ir", "--vis", tmp_path / "vis", "-o", tmp_path / "out")
    code, out, err = fusecli("fuse", *given, "--report", "-", "--range", "full")
    assert code == 0, err
    mended, left = json.loads(out)["pairs"]
    assert mended["mended"] == {"second": ["stripes"]}
    assert "mended" not in left
    assert "stripes taken out of the ir side of 1 pair" in err
