import math

import numpy as np
import pytest
import torch
from conftest import FRAMES, frame

from fusecli.models import noise
from fusecli.models.mending import mend, samples
from fusecli.models.nano import Nano
from fusecli.models.noise import measure_noise, shrink
from fusecli.stream.engine import Engine
from fusecli.training import degrade


def noisy(image: torch.Tensor, severity: float, seed: int = 0) -> torch.Tensor:
    return degrade.apply(image, "vis", {"noise": torch.tensor([severity])}, torch.Generator().manual_seed(seed))


def measured(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return measure_noise(*(images[(slice(None), 0, *part)] for part in samples(*images.shape[2:])[:2]))


def psnr(result: torch.Tensor, image: torch.Tensor) -> float:
    return -10 * math.log10((result - image).square().mean().item())


@pytest.mark.parametrize("sigma", [4, 10, 25])
def test_read_noise_is_measured(sigma):
    image = 0.3 + 0.4 * torch.linspace(0, 1, 640).expand(1, 1, 480, 640)
    worse = image + sigma / 255 * torch.randn(image.shape, generator=torch.Generator().manual_seed(sigma))
    found, _ = measured(worse)
    assert ((found[0, 0] + 0.5 * found[0, 1]).sqrt() * 255).item() == pytest.approx(sigma, rel=0.15)


def test_shot_noise_is_told_from_read_noise():
    image = torch.linspace(0.1, 0.9, 640).expand(1, 1, 480, 640)
    grain = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    (read, rise), (start, slope) = (
        measured(image + 0.05 * grain * spread)[0][0] / 0.05**2 for spread in (1, image.sqrt())
    )
    assert rise < 0.3 < 0.8 < read < 1.2
    assert start < 0.2 < 0.8 < slope < 1.2


@pytest.mark.parametrize("path", FRAMES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_strong_noise_is_taken_out_and_no_frame_in_order_is_touched(path):
    image = frame(path)
    _, share = measured(image)
    if share == 0:
        assert mend(image) is image
    worse = noisy(image, 0.6)
    assert psnr(mend(worse), image) > psnr(worse, image) + 5


def test_frames_of_the_day_and_infrared_ones_are_in_order():
    night = {"corridor", "forest_edge", "snow_night"}
    for path in FRAMES:
        assert (measured(frame(path))[1] > 0) == (path.parent.name == "vis" and path.stem in night), path


def test_noise_that_a_scene_of_contrast_bears_is_taken_out_of_a_flat_one():
    scene = torch.linspace(-1, 1, 640).expand(1, 1, 480, 640)
    grain = 3 / 255 * torch.randn(scene.shape, generator=torch.Generator().manual_seed(0))
    shares = [measured(0.5 + contrast * scene + grain)[1].item() for contrast in (0.4, 0.15, 0.03)]
    assert shares[0] == shares[1] == 0
    assert shares[2] == 1


def test_shrinking_keeps_edges_and_constants():
    image = torch.full((1, 1, 90, 101), 0.2)
    strength = torch.tensor([[(10 / 255) ** 2, 0.0]])
    torch.testing.assert_close(shrink(image, strength), image)
    image[..., 40:] = 0.8
    assert (shrink(image, strength) - image).abs().max() < 0.5 / 255


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (7, 5), (64, 31), (130, 67)])
def test_any_size_is_taken(size):
    image = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    strength = torch.full((2, 2), 0.002)
    assert shrink(image, strength).shape == image.shape
    assert torch.isfinite(mend(image)).all()


def test_a_pixel_without_value_spoils_no_other():
    image = torch.full((1, 1, 64, 64), 0.5)
    image[..., 0, 5] = torch.nan
    assert mend(image).isnan().sum() == 1


def test_strips_do_not_show(monkeypatch):
    image, strength = torch.rand(1, 1, 200, 60), torch.full((1, 2), 0.004)
    cut = shrink(image, strength)
    monkeypatch.setattr(noise, "STRIP", 1024)
    torch.testing.assert_close(cut, shrink(image, strength))


def test_each_image_of_a_batch_has_its_own_noise():
    image = frame(FRAMES[0])[..., :192, :256]
    both = torch.cat([image, noisy(image, 0.6)])
    mended = mend(both)
    torch.testing.assert_close(mended[:1], image)
    torch.testing.assert_close(mended[1:], mend(both[1:]))


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_the_engine_takes_noise_out_of_colour_frames(kind):
    torch.manual_seed(0)
    engine = Engine(Nano(mend=True).eval(), "cpu", "fp32")
    scene = np.full((1, 192, 256, 3), (0.5, 0.4, 0.35), np.float32)
    scene[:, 50:120, 80:200] = (0.35, 0.6, 0.5)
    worse = np.clip(scene + np.random.default_rng(0).normal(0, 0.05, (1, 192, 256, 1)), 0, 1)
    if kind == np.uint8:
        scene, worse = (np.rint(each * 255).astype(kind) for each in (scene, worse))
    scene, worse = scene.astype(kind), worse.astype(kind)
    levels, scale = (255, 255) if kind == np.uint8 else (None, 1)
    expected, found = (engine.fuse(each, scene[..., 0], levels).astype(np.float64) / scale for each in (scene, worse))
    assert (found - expected).std() < 0.05 / 2 / 4  # half of the result is the visible; a quarter of its noise is left
    np.testing.assert_allclose(found - found[..., :1], expected - expected[..., :1], atol=1.5 / 255)
