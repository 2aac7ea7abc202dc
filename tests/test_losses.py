import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from fusecli import metrics
from fusecli.training.losses import (
    EVENT_WEIGHTS,
    LossWeights,
    calmed,
    event_weights,
    feature_loss,
    fusion_loss,
    restoration_loss,
    sobel,
    ssim,
    target_loss,
    vif,
)

GENERATOR = torch.Generator().manual_seed(0)


def images(count: int = 3, size: int = 48) -> torch.Tensor:
    return torch.rand(count, 1, size, size, generator=GENERATOR)


def test_ssim_agrees_with_scikit_image():
    fused, first, second = images(), images(), images()
    mine = ssim(fused, first, second).numpy()
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


def test_gradients_agree_with_opencv():
    image = images(1)
    both = [
        cv2.Sobel(image[0, 0].numpy(), cv2.CV_32F, *way, borderType=cv2.BORDER_REPLICATE) for way in ((1, 0), (0, 1))
    ]
    torch.testing.assert_close(sobel(image)[0], torch.from_numpy(np.abs(both)))


def test_loss_is_zero_only_where_nothing_is_lost():
    same = images()
    weights = LossWeights().tensor().expand(3, -1)
    assert fusion_loss(same, same, same, weights).abs().max() < 1e-4
    assert (fusion_loss(same.roll(3, -1), same, same, weights) > 1).all()


def test_one_row_of_weights_is_for_all_samples():
    fused, first, second, aim = (images(size=48) for _ in range(4))
    weights = LossWeights(vif=1, both=1, bright=1, excess=1).tensor()
    for loss, inputs in (
        (fusion_loss, (fused, first, second)),
        (restoration_loss, (fused, aim, first, second)),
        (target_loss, (fused, aim, first, second, torch.tensor([0.0, 0.5, 1.0]))),
    ):
        assert torch.equal(loss(*inputs, weights), loss(*inputs, weights.expand(3, -1)))


def test_images_that_are_too_small_are_told_so():
    for loss, side in ((ssim, 11), (vif, 41)):
        assert loss(images(size=side), images(size=side)).isfinite().all()
        with pytest.raises(metrics.MetricError, match=f"at least {side}×{side} pixels, .* has {side - 1}×{side - 1}"):
            loss(images(size=side - 1), images(size=side - 1))


def test_each_weight_acts_on_its_own_term():
    fused, first, second = (torch.rand(3, 1, 96, 96, generator=GENERATOR) for _ in range(3))
    names = ("ssim", "max", "consist", "grad", "vif", "bright")
    none = dict.fromkeys(names, 0.0) | {"gain": 1.5}
    full, *each = (
        LossWeights(**{**none, **dict.fromkeys(some, 1.0)}).tensor().expand(3, -1)
        for some in (names, *((name,) for name in names))
    )
    full = fusion_loss(fused, first, second, full)
    parts = [fusion_loss(fused, first, second, weights) for weights in each]
    torch.testing.assert_close(full, sum(parts))
    assert (torch.stack(parts).mean(1) > 0.01).all()


def test_flat_images_are_as_far_apart_as_their_levels():
    fused, first, second = (torch.full((1, 1, 96, 96), level) for level in (0.5, 0.2, 0.9))
    none = dict.fromkeys(("ssim", "max", "consist", "grad"), 0.0)
    for term, distance in (("max", 0.4), ("consist", 0.35)):
        weights = LossWeights(**{**none, term: 1.0}).tensor()[None]
        assert fusion_loss(fused, first, second, weights).item() == pytest.approx(distance)


def test_what_is_bright_counts_the_more_the_brighter_it_is():
    weights = LossWeights(ssim=0, max=0, consist=0, grad=0, bright=1).tensor().expand(2, -1)
    sources = torch.tensor([0.5, 1]).view(2, 1, 1, 1).expand(2, 1, 96, 96)
    lost = fusion_loss(sources - 0.1, sources, sources / 2, weights)
    torch.testing.assert_close(lost, torch.tensor([0.1 / 64, 0.1]))


def test_a_target_is_reached_where_nothing_else_is_wanted():
    first, second = (torch.rand(3, 1, 96, 96, generator=GENERATOR) for _ in range(2))
    target = 0.3 + 0.5 * first
    calm = torch.tensor([0.0, 0.5, 1.0])
    plain, torn = (LossWeights(vif=1, both=both).tensor().expand(3, -1) for both in (0.0, 3.0))
    loss = target_loss(target, target, first, second, calm, plain)
    assert loss[2].abs() < 1e-2  # the gradients aimed at are the target's own
    assert loss[0] > loss[1] > loss[2]  # … more and more the sources'
    away = 2 - ssim(target, first, second)
    torch.testing.assert_close(target_loss(target, target, first, second, calm, torn), loss + 3 * away)


def test_to_show_more_of_the_sources_than_the_aim_is_no_gain():
    first, second = (torch.rand(2, 1, 96, 96, generator=GENERATOR) for _ in range(2))
    aim = (first + second) / 2
    none = dict.fromkeys(("ssim", "max", "consist", "grad"), 0.0)
    losses = {}
    for term in ("ssim", "max", "grad", "vif", "both"):
        weights = LossWeights(**{**none, term: 1.0}).tensor().expand(2, -1)
        results = (aim, 0.25 + aim / 2, 1.5 * aim)  # as wanted, fainter, with more contrast
        losses[term] = [restoration_loss(each, aim, first, second, weights).mean().item() for each in results]
    assert all(kept == pytest.approx(0, abs=1e-5) and faint > 0.005 for kept, faint, _ in losses.values())
    assert losses["vif"][2] == 0
    assert losses["max"][2] > 0.1


def test_gradients_above_those_aimed_at_count_more_by_the_excess():
    source = images()
    plain, wary = (LossWeights(ssim=0, max=0, grad=1, excess=excess).tensor().expand(3, -1) for excess in (0.0, 0.7))
    for factor, ratio in ((1.2, 1.7), (0.8, 1.0)):
        losses = [target_loss(factor * source, source, source, source, torch.zeros(3), w) for w in (plain, wary)]
        torch.testing.assert_close(losses[1], ratio * losses[0])


def test_vif_agrees_with_the_benchmark():
    rng = np.random.default_rng(0)
    images = [cv2.GaussianBlur(rng.random((200, 180)), (0, 0), 3) for _ in range(2)]
    first, second = (np.rint(255 * (image - image.min()) / np.ptp(image)) for image in images)
    fused = np.rint(np.maximum(first, second) * 0.9)
    mine = vif(*(torch.from_numpy(x)[None, None].float() / 255 for x in (fused, first, second))).item()
    theirs = metrics.evaluate("tang", *(x.astype(np.uint8) for x in (first, second, fused)), ["VIF"])["VIF"]
    assert mine == pytest.approx(theirs, rel=0.01)


def test_event_weights_are_the_mean_over_the_events():
    default = LossWeights()
    assert event_weights([], default) == default
    mean = event_weights(["low light", "motion blur"], default)
    assert (mean.max, mean.consist, mean.grad) == (40, 30, 60)
    assert event_weights(["nothing the paper knows"], default) == default
    assert event_weights(["low light"], default).max == EVENT_WEIGHTS["low light"][0]


def test_the_thermal_end_wants_stronger_gradients_and_minds_none_that_exceed_them():
    weights = LossWeights(gain=1.5, excess=0.8)
    assert calmed(weights, 1.0) == weights
    assert (calmed(weights, 0.0).gain, calmed(weights, 0.0).excess) == (pytest.approx(1.8), 0)


def test_feature_loss_leaves_out_what_one_network_has_filled():
    features, other = torch.rand(2, 1, 4, 6, 7, generator=GENERATOR)
    wider = torch.nn.functional.pad(features, (0, 2, 0, 1), mode="replicate")
    torch.testing.assert_close(feature_loss([wider], [other]), feature_loss([features], [other]))


def test_feature_loss_ignores_the_length_of_features():
    features = [torch.rand(2, 8, 4, 4, generator=GENERATOR), torch.rand(2, 5, 2, 2, generator=GENERATOR)]
    lengths = [3 + torch.rand(2, 1, *feature.shape[2:], generator=GENERATOR) for feature in features]  # of each pixel
    longer = [length * feature for length, feature in zip(lengths, features, strict=True)]
    assert feature_loss(features, longer) < 1e-10
    assert feature_loss(features, [-feature for feature in features]) > 1e-3
