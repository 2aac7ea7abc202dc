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
    ends = [looks.thermal(visible, infrared, calm=1), looks.natural(visible, infrared)]
    np.testing.assert_allclose(looks.between(visible, infrared, 0.4), 0.6 * ends[0] + 0.4 * ends[1], atol=1e-6)


def test_the_thermal_end_has_more_contrast(disc):
    visible, infrared, _ = disc
    spreads = [looks.thermal(visible, infrared, calm=calm).std() for calm in (1, 0.5, 0)]
    assert spreads[0] * 1.1 < spreads[2]
    assert spreads == sorted(spreads)


def test_no_dark_rims_in_bright_skies_but_at_the_thermal_end():
    """A warm roof below a cold sky: the infrared's edge is soft, so its detail lies on the sky's side too."""
    visible, infrared = (np.full((96, 96), value, np.float32) for value in (0.7, 0.1))
    visible[48:], infrared[48:] = 0.4, 0.9
    infrared = cv2.GaussianBlur(infrared, (0, 0), 3)
    vivid, plain = (looks.between(visible, infrared, look) for look in (0.0, looks.PLAIN))
    dips = [target[10].mean() - target[36:47].min() for target in (vivid, plain)]
    assert dips[1] < 0.1 < 0.3 < dips[0]


def test_what_is_written_on_something_hot_stays():
    """A sign of equal temperature throughout, hotter than what surrounds it."""
    rows, columns = np.mgrid[:96, :96]
    sign = (abs(rows - 48) < 20) & (abs(columns - 48) < 20)
    infrared = np.where(sign, 0.9, 0.2).astype(np.float32)
    visible = np.where(sign & (columns % 8 < 4), 0.5, 0.3).astype(np.float32)
    inner = np.s_[36:60, 36:60]
    target = looks.natural(visible, infrared)[inner]
    assert target.mean() > 0.7
    shown, written = target - target.mean(), visible[inner] - visible[inner].mean()
    assert (shown * written).sum() > 0.3 * (written * written).sum()


def test_infrared_detail_is_taken_where_the_visible_has_none():
    visible = np.full((64, 64), 0.5, np.float32)
    infrared = 0.3 + 0.05 * np.tile(np.float32([0, 0, 1, 1]), (64, 16))
    for look in (0, 1):
        assert looks.between(visible, infrared, look).std() > 0.5 * infrared.std()
