from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fusecli.errors import UsageError
from fusecli.models import checkpoint, phases
from fusecli.models.borders import extend, extended, fill
from fusecli.models.nano import Nano
from fusecli.models.statistics import SIZE, pair_statistics


def test_phases_and_borders_are_what_torch_makes_of_them():
    images = torch.rand(2, 3, 6, 10)
    halves = phases.split(images).unbind(2)
    torch.testing.assert_close(halves[2], images[..., 1::2, 0::2])
    torch.testing.assert_close(phases.join(list(halves)), images)
    torch.testing.assert_close(
        phases.join(phases.double(images)), F.interpolate(images, scale_factor=2, mode="bilinear")
    )
    torch.testing.assert_close(extend(images, 2), F.pad(images, (2, 2, 2, 2), mode="replicate"))
    torch.testing.assert_close(fill(images, 4), F.pad(images, (0, 2, 0, 2), mode="replicate"))
    assert fill(images, 2) is images


@pytest.fixture(scope="module")
def nano() -> Nano:
    """Random weights, the head's too: properties of the structure must not depend on training."""
    torch.manual_seed(0)
    network = Nano()
    for parameter in (network.head.weight, network.smooth.weight, *network.steer[-1].parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 33), (299, 511), (480, 640)])
def test_constant_pair_gives_constant_result_of_the_same_size(nano, size):
    with torch.inference_mode():
        fused = nano(torch.full((1, 1, *size), 0.3), torch.full((1, 1, *size), 0.7))
    assert fused.shape[-2:] == size
    assert fused.max() - fused.min() < 1e-5


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70))
def test_any_size_goes_in_and_comes_out(height, width):
    network = Nano(fine=4, middle=4, coarse=4).eval()
    pair = torch.rand(2, 2, 1, height, width)
    with torch.inference_mode():
        fused = network(*pair)
    assert fused.shape == pair[0].shape
    assert torch.isfinite(fused).all()


def test_nothing_beyond_the_halo_is_seen(nano):
    first, second = torch.rand(2, 1, 1, 160, 160, generator=torch.Generator().manual_seed(1))
    start = 96 - nano.halo
    assert start % nano.align == 0
    with torch.inference_mode():
        context = nano.context(first, second)
        whole = nano(first, second)
        part = nano(first[..., start:, start:], second[..., start:, start:], context)
    torch.testing.assert_close(part[..., nano.halo :, nano.halo :], whole[..., 96:, 96:], atol=1e-5, rtol=0)


def test_noise_is_left_out_when_the_gains_are_zero():
    """The finest detail is the sources' own times a gain: without gain no pixel pattern can appear."""
    quiet = Nano()
    quiet.head.bias.data[2:4] = 0
    noise = torch.rand(2, 1, 1, 32, 32)
    with torch.inference_mode():
        fused = quiet(*noise)
    assert fused.var() < noise[0].var() / 4


def test_features_match_their_description(nano):
    pair = torch.rand(2, 1, 1, 32, 48)
    fused, features = nano.with_features(*pair)
    torch.testing.assert_close(fused, nano(*pair))
    for scale, channels in nano.feature_channels.items():
        assert features[scale].shape == (1, channels, 32 // scale, 48 // scale)


def test_look_and_exposure_of_the_whole_image_matter():
    torch.manual_seed(0)
    network = Nano(look=0.5)
    torch.nn.init.normal_(network.steer[-1].weight, std=0.1)
    pair = torch.rand(2, 1, 1, 48, 48)
    fused = network(*pair)
    torch.testing.assert_close(fused, network(*pair, network.context(*pair, torch.tensor([0.5]))))
    network.look = 1.0
    assert (network(*pair) - fused).abs().max() > 1e-3
    of_a_darker_image = network.context(pair[0] * 0.3, pair[1], torch.tensor([0.5]))
    assert (network(*pair, of_a_darker_image) - fused).abs().max() > 1e-3


@pytest.mark.parametrize("look", [-0.1, 7, float("nan"), "natural"])
def test_a_look_outside_of_0_and_1_is_refused(look):
    with pytest.raises(UsageError, match="look must be a number from 0 to 1"):
        checkpoint.load("nano", "ir-vis", look)


def test_statistics_once_known_vary_alike_and_independently():
    """Two causes and some noise in all the numbers, and one number that never changes."""
    generator = torch.Generator().manual_seed(0)
    causes, ways = (torch.randn(*size, generator=generator) for size in ((500, 2), (2, SIZE + 1)))
    contexts = 0.3 + 0.1 * causes @ ways.sign() + 0.01 * torch.randn(500, SIZE + 1, generator=generator)
    contexts[:, 7] = 0.5
    network = Nano()
    network.fit_whitening(contexts)
    known = network.whiten(contexts[:, :SIZE])
    covariance = torch.cov(known.mT)
    assert torch.isfinite(known).all()
    assert known.mean(0).abs().max() < 1e-3
    assert (covariance - covariance.diagonal().diag()).abs().max() < 1e-3
    strongest = covariance.diagonal().sort(descending=True).values[:3]
    torch.testing.assert_close(strongest[:2], torch.ones(2), atol=0.05, rtol=0)
    assert strongest[2] < 0.5  # noise is not made as strong as what matters
    far, farther = (network.perceived(contexts + distance) for distance in (1e3, 1e4))
    torch.testing.assert_close(far, farther)  # what no training showed counts no more than what hardly ever came


def test_nothing_is_written_into_a_part_of_a_tensor_on_mps():
    """Older versions do not heed the strides of such a part."""
    image, there = torch.rand(1, 1, 3, 4), SimpleNamespace(device=torch.device("mps"))
    with torch.inference_mode():
        assert torch.equal(extended(lambda: image, 2, there, 1), extend(image, 2))


def test_statistics_tell_noise_blur_and_stripes_apart():
    def of(image):
        return pair_statistics(image[None, None], image[None, None])[0]

    generator = torch.Generator().manual_seed(0)
    steps = torch.linspace(0.2, 0.8, 8).repeat_interleave(16).expand(128, 128)
    noisy = of(steps + 0.05 * torch.randn(128, 128, generator=generator))
    striped = of(steps + 0.05 * torch.randn(1, 128, generator=generator))
    dark = of(0.3 * steps)
    clean = of(steps)
    assert len(clean) == SIZE
    median, along, across, columns = 3, 19, 25, 36  # places in the vector, of the first side
    assert dark[median] < clean[median]
    for place in (along, across):
        assert noisy[place] > clean[place] + 0.3
    assert striped[across] < noisy[across] - 0.3
    assert striped[columns] > noisy[columns] + 0.1
    grain = steps.mT + 0.004 * torch.randn(128, 128, generator=generator)
    edge = (torch.arange(128) == 50).float() * 0.4
    assert of(grain + edge)[columns] < of(grain + 0.006 * torch.randn(1, 128, generator=generator))[columns] - 0.1


def test_jitter_moves_all_that_is_known_alike_and_leaves_the_look():
    generator = torch.Generator().manual_seed(0)
    contexts = 0.3 + 0.1 * torch.randn(500, SIZE + 1, generator=generator)
    network = Nano()
    network.fit_whitening(contexts)
    moved = network.jittered(contexts, 0.2, generator)
    assert torch.equal(moved[:, SIZE:], contexts[:, SIZE:])
    distance = network.whiten(moved[:, :SIZE]) - network.whiten(contexts[:, :SIZE])
    torch.testing.assert_close(distance.std(0), torch.full((SIZE,), 0.2), atol=0.03, rtol=0)
    assert distance.mean(0).abs().max() < 0.04


SHARES = slice(40, 44)  # of white and of black, in the vector


def scene_and_other(generator):
    return 0.2 + 0.6 * torch.rand(1, 1, 320, 240, generator=generator), torch.rand(1, 1, 320, 240, generator=generator)


@pytest.mark.parametrize("level", [0.0, 1.0])
@pytest.mark.parametrize("slope", [0.0, 0.5, -20.0])
def test_a_blown_out_or_blank_part_of_any_size_changes_nothing_but_its_share(level, slope):
    """Quantiles of all jump where its share passes them: a frame with a quarter of white came out half as bright."""
    scene, other = scene_and_other(torch.Generator().manual_seed(0))
    whole = pair_statistics(scene, other)[0]
    place = torch.arange(320)[:, None] + slope * torch.arange(240)
    for share in (0.05, 0.2, 0.25, 0.3, 0.5, 0.6):
        inside = place < place.flatten().quantile(share)
        found = pair_statistics(torch.where(inside, level, scene), other)[0]
        assert found[40 if level else 42] == pytest.approx(share, abs=0.03)
        found[SHARES] = whole[SHARES]
        torch.testing.assert_close(found, whole, atol=0.12, rtol=0)


def test_of_scans_the_background_counts():
    generator = torch.Generator().manual_seed(0)
    scene, other = scene_and_other(generator)
    scene[..., :200, :] = 0
    noisy = (scene + 0.01 * torch.randn(scene.shape, generator=generator)).clamp(0, 1)
    lowest = 18  # of the details along rows: of the background, for it is more than a tenth
    (plain, faint), (of_rest, of_noisy_rest) = (
        [pair_statistics(image, other, whole)[0, lowest] for image in (scene, noisy)] for whole in (True, False)
    )
    assert faint > plain + 0.1
    assert of_noisy_rest == pytest.approx(of_rest.item(), abs=0.02)


@pytest.mark.parametrize("whitest", [True, False])
def test_statistics_do_not_jump_with_the_level_of_a_sky_or_a_margin(whitest):
    """Or a film would flicker with its noise. In the end they count it in."""
    scene, other = scene_and_other(torch.Generator().manual_seed(0))
    levels, found = range(0, 24), []
    for step in levels:
        part = scene.clone()
        part[..., :100, :] = (255 - step if whitest else step) / 255
        found.append(pair_statistics(part, other)[0])
    moves = torch.stack(found).diff(dim=0).abs()
    assert moves[:, :18].max() < 0.3  # brightness; a flat part also has no noise at all, which is told in its turn
    assert (found[0] - found[-1])[SHARES].abs().max() > 0.28


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (100, 16)])
def test_statistics_are_numbers_for_any_image(size, level):
    found = pair_statistics(torch.full((1, 1, *size), level), torch.rand(1, 1, *size))
    assert found.shape == (1, SIZE)
    assert torch.isfinite(found).all()


def test_equal_weights_make_equal_files(tmp_path):
    torch.manual_seed(0)
    network = Nano()
    for index in range(4):
        checkpoint.save(tmp_path / f"{index}.safetensors", network, "nano", {}, ["ir-vis", "ct-mri"])
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert checkpoint.load(str(tmp_path / "0.safetensors"), "ct-mri").state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("architecture", "config", "said"),
    [
        ("nan", {}, "unknown architecture 'nan'; did you mean nano"),
        ("nano", {"widht": 3}, "unknown value of a nano model 'widht'; known: fine"),
        ("paper", {"widt": 3}, "did you mean width"),
        ("nano", {"middle": 0}, "every width must be at least 1"),
        ("teacher", {"width": 0}, "width must be at least 2"),
    ],
)
def test_models_that_cannot_be_are_refused(architecture, config, said):
    with pytest.raises(UsageError, match=said):
        checkpoint.build(architecture, config)
