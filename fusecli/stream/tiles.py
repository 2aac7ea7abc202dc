"""The only tiler: cuts large images into tiles that overlap by the receptive field, so that no seam can appear."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

Fuse = Callable[[Tensor, Tensor], Tensor]


class Span(NamedTuple):
    """Along one axis: the pixels ``seen`` go in, those ``kept`` of what comes out are the result's ``place``."""

    seen: slice
    kept: slice
    place: slice


def spans(length: int, tile: int, overlap: int, align: int) -> Iterator[Span]:
    """Cover [0, length) by tiles that keep at most ``tile`` pixels and see ``overlap`` more on each side.

    Origins are multiples of ``align``, since a network with strides gives other results from other origins.
    """
    step = max(align, tile // align * align)
    margin = -(-overlap // align) * align
    for start in range(0, length, step):
        stop, first = min(start + step, length), max(0, start - margin)
        yield Span(slice(first, min(length, stop + margin)), slice(start - first, stop - first), slice(start, stop))


def tiled(size: Sequence[int], tile: int) -> bool:
    """Whether a height and width are cut at ``tile`` pixels (0: never)."""
    return bool(tile) and max(size) > tile


def fuse_tiled(fuse: Fuse, first: Tensor, second: Tensor, *, tile: int, overlap: int, align: int) -> Tensor:
    """``fuse`` on pairs (N×H×W or N×H×W×3), tile by tile where height or width exceeds ``tile`` (0: never).

    The result has ``first``'s shape and the type that ``fuse`` gives. Where ``overlap`` is at least what ``fuse`` sees
    around a pixel, the result is the untiled one.
    """
    height, width = first.shape[1:3]
    if not tiled((height, width), tile):
        return fuse(first, second)
    fused = None
    for y in spans(height, tile, overlap, align):
        for x in spans(width, tile, overlap, align):
            piece = fuse(first[:, y.seen, x.seen], second[:, y.seen, x.seen])[:, y.kept, x.kept]
            if fused is None:
                fused = piece.new_empty(first.shape)
            fused[:, y.place, x.place] = piece
    assert fused is not None  # an image has at least one pixel
    return fused
