import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from fusecli.training.losses import EVENT_WEIGHTS, LossWeights, event_weights, feature_loss, fusion_loss, ssim_pair

GENERATOR = torch.Generator().manual_seed(0)


def images(count: int = 3, size: int = 40) -> torch.Tensor:
    return torch.rand(count, 1, size, size, generator=GENERATOR)


def test_ssim_agrees_with_scikit_image():
    fused, first, second = images(), images(), images()
    mine = ssim_pair(fused, first, second).numpy()
    for index in range(3):
        expected = 0.0
        for source in (first, second):
            _, full = structural_similarity(
                source[index, 0].numpy().astype(np.float64),
                fused[index, 0].numpy().astype(np.float64),
                data_range=1.0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                full=True,
            )
            expected += full[5:-5, 5:-5].mean()
        assert mine[index] == pytest.approx(expected, abs=1e-5)


def test_loss_is_zero_only_where_nothing_is_lost():
    same = images()
    weights = LossWeights().tensor().expand(3, -1)
    assert fusion_loss(same, same, same, weights).abs().max() < 1e-4
    assert (fusion_loss(same.roll(3, -1), same, same, weights) > 1).all()


def test_each_weight_acts_on_its_own_term():
    fused, first, second = images(), images(), images()
    full = fusion_loss(fused, first, second, torch.ones(3, 4))
    parts = sum(fusion_loss(fused, first, second, torch.eye(4)[index].expand(3, -1)) for index in range(4))
    torch.testing.assert_close(full, parts)


def test_event_weights_are_the_mean_over_the_events():
    default = LossWeights()
    assert event_weights([], default) == default
    mean = event_weights(["low light", "motion blur"], default)
    assert (mean.max, mean.consist, mean.grad) == (40, 30, 60)
    assert event_weights(["nothing the paper knows"], default) == default
    assert event_weights(["low light"], default).max == EVENT_WEIGHTS["low light"][0]


def test_feature_loss_ignores_the_length_of_features():
    features = [torch.rand(2, 8, 4, 4, generator=GENERATOR), torch.rand(2, 5, 2, 2, generator=GENERATOR)]
    assert feature_loss(features, [3 * feature for feature in features]) < 1e-10
    assert feature_loss(features, [-feature for feature in features]) > 1e-3
