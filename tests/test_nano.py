import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusecli.models.nano import Nano


@pytest.fixture(scope="module")
def nano() -> Nano:
    """Random weights, the head's too: properties of the structure must not depend on training."""
    torch.manual_seed(0)
    network = Nano()
    torch.nn.init.normal_(network.head.weight, std=0.3)
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
    network = Nano(width=4, deep=4, blocks=1).eval()
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
        whole = nano(first, second)
        part = nano(first[..., start:, start:], second[..., start:, start:])
    torch.testing.assert_close(part[..., nano.halo :, nano.halo :], whole[..., 96:, 96:], atol=1e-5, rtol=0)


def test_noise_is_left_out_when_the_gains_are_zero(nano):
    """The finest detail is the sources' own times a gain: without gain no pixel pattern can appear."""
    quiet = Nano()
    quiet.head.bias.data[2:] = -0.5
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
