"""The only tiler: cuts large images into tiles that overlap by the receptive field, so that no seam can appear."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

Fuse = Callable[[Tensor, Tensor], Tensor]


class Span(NamedTuple):
    """Along one axis: the pixels [read_from, read_to) go in, [start, stop) of the result are kept."""

    start: int
    stop: int
    read_from: int
    read_to: int


def spans(length: int, tile: int, overlap: int, align: int) -> Iterator[Span]:
    """Cover [0, length) by tiles that keep at most ``tile`` pixels and see ``overlap`` more on each side.

    Origins are multiples of ``align``, since a network with strides gives other results from other origins.
    """
    step = max(align, tile // align * align)
    margin = -(-overlap // align) * align
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield Span(start, stop, max(0, start - margin), min(length, stop + margin))


def tiled(size: Sequence[int], tile: int) -> bool:
    """Whether a height and width are cut at ``tile`` pixels (0: never)."""
    return bool(tile) and max(size) > tile


def fuse_tiled(
    fuse: Fuse, first: Tensor, second: Tensor, *, tile: int, overlap: int, align: int, axis: int = -2
) -> Tensor:
    """``fuse`` on pairs, tile by tile where height or width exceeds ``tile`` (0: never).

    axis: the height's; the width's follows. The result has ``first``'s shape and the type that ``fuse`` gives.
    Where ``overlap`` is at least what ``fuse`` sees around a pixel, the result is the untiled one.
    """
    axis %= first.ndim
    height, width = first.shape[axis : axis + 2]
    if not tiled((height, width), tile):
        return fuse(first, second)
    before = (slice(None),) * axis
    fused = None
    for y in spans(height, tile, overlap, align):
        for x in spans(width, tile, overlap, align):
            seen = (*before, slice(y.read_from, y.read_to), slice(x.read_from, x.read_to))
            kept = (
                *before,
                slice(y.start - y.read_from, y.stop - y.read_from),
                slice(x.start - x.read_from, x.stop - x.read_from),
            )
            piece = fuse(first[seen], second[seen])[kept]
            if fused is None:
                fused = piece.new_empty(first.shape)
            fused[(*before, slice(y.start, y.stop), slice(x.start, x.stop))] = piece
    assert fused is not None  # an image has at least one pixel
    return fused
