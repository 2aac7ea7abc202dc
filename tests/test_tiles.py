import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fusecli.stream.tiles import fuse_tiled, spans


def local_mean(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Sees 3 pixels around each pixel."""
    return F.avg_pool2d(F.pad(torch.maximum(first, second), (3,) * 4, mode="replicate"), 7, stride=1)


@given(st.integers(1, 5000), st.integers(1, 700), st.integers(0, 90), st.sampled_from([1, 2, 4, 8]))
def test_spans_cover_an_axis_once_and_see_enough(length, tile, overlap, align):
    covered = 0
    for span in spans(length, tile, overlap, align):
        start, stop = span.place.start, span.place.stop
        assert start == covered
        assert span.seen.start % align == 0
        assert start - span.seen.start >= min(overlap, start)
        assert span.seen.stop - stop >= min(overlap, length - stop)
        assert range(span.seen.start, span.seen.stop)[span.kept] == range(start, stop)
        covered = stop
    assert covered == length


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([8, 16, 40]))
def test_tiled_gives_what_the_whole_gives(height, width, tile):
    first, second = torch.rand(2, 2, height, width)
    tiled = fuse_tiled(local_mean, first, second, tile=tile, overlap=3, align=2)
    torch.testing.assert_close(tiled, local_mean(first, second), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 33), (299, 511), (480, 640)])
@pytest.mark.parametrize("tile", [0, 64, 100])
def test_constant_stays_constant(size, tile):
    constant = torch.full((1, *size), 0.25)
    fused = fuse_tiled(local_mean, constant, constant, tile=tile, overlap=3, align=4)
    assert fused.shape == constant.shape
    torch.testing.assert_close(fused, constant)


def test_only_what_is_larger_than_a_tile_is_cut():
    seen = []

    def keep(first, second):
        seen.append(tuple(first.shape[-2:]))
        return first

    image = torch.rand(1, 32, 40)
    for tile in (0, 40):
        fuse_tiled(keep, image, image, tile=tile, overlap=8, align=8)
    assert seen == [(32, 40)] * 2
    fuse_tiled(keep, image, image, tile=39, overlap=8, align=8)
    assert seen[2:] == [(32, 40), (32, 16)]


@pytest.mark.parametrize("channels", [(), (3,)])
def test_stacks_of_pictures_are_cut_along_their_own_axes(channels):
    """N×H×W and N×H×W×3; the result's type is the function's."""
    first, second = torch.rand(2, 2, 50, 30, *channels)

    def brighter(first, second):
        return ((first + second) * 100).to(torch.uint8)

    tiled = fuse_tiled(brighter, first, second, tile=16, overlap=4, align=4)
    assert tiled.dtype == torch.uint8
    assert torch.equal(tiled, brighter(first, second))
