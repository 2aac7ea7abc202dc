import cv2
import numpy as np
import pytest

from fusecli.training import looks


@pytest.fixture(scope="module")
def disc():
    """A hot disc, dark to the eye, before a cold background: visible, infrared, distance from its middle."""
    rows, columns = np.mgrid[:96, :96]
    distance = np.hypot(rows - 48, columns - 48)
    sides = (np.where(distance < 16, *values).astype(np.float32) for values in ((0.35, 0.55), (0.8, 0.2)))
    visible, infrared = (cv2.GaussianBlur(side, (0, 0), 0.7) for side in sides)
    return visible, infrared, distance


@pytest.mark.parametrize("look", [0.0, 0.1, 0.5, 1.0])
def test_hot_is_bright(disc, look):
    visible, infrared, distance = disc
    target = looks.between(visible, infrared, look)
    background = target[distance > 44].mean()
    assert target[distance < 12].min() > background + 0.2


def test_natural_is_the_visible_image_where_nothing_is_hot(disc):
    visible, infrared, distance = disc
    target = looks.natural(visible, infrared)
    assert np.abs(target - visible)[distance > 32].max() < 0.01


def test_what_lies_between_is_a_mixture(disc):
    visible, infrared, _ = disc
    ends = [looks.between(visible, infrared, look) for look in (0, 1)]
    np.testing.assert_allclose(looks.between(visible, infrared, 0.25), 0.75 * ends[0] + 0.25 * ends[1], atol=1e-6)


def test_infrared_detail_is_taken_where_the_visible_has_none():
    visible = np.full((64, 64), 0.5, np.float32)
    infrared = 0.3 + 0.05 * np.tile(np.float32([0, 0, 1, 1]), (64, 16))
    for look in (0, 1):
        assert looks.between(visible, infrared, look).std() > 0.5 * infrared.std()
