"""The only tiler: large images in pieces that overlap by what a network sees, so that no seam can appear."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
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


def fuse_tiled(fuse: Fuse, first: Tensor, second: Tensor, *, tile: int, overlap: int, align: int) -> Tensor:
    """``fuse`` on N×1×H×W pairs, tile by tile where H or W exceeds ``tile`` (0: never).

    Where ``overlap`` is at least what ``fuse`` sees around a pixel, the result is the untiled one.
    """
    height, width = first.shape[-2:]
    if not tile or (height <= tile and width <= tile):
        return fuse(first, second)
    fused = torch.empty_like(first)
    for y in spans(height, tile, overlap, align):
        for x in spans(width, tile, overlap, align):
            window = (..., slice(y.read_from, y.read_to), slice(x.read_from, x.read_to))
            kept = fuse(first[window], second[window])[
                ..., y.start - y.read_from : y.stop - y.read_from, x.start - x.read_from : x.stop - x.read_from
            ]
            fused[..., y.start : y.stop, x.start : x.stop] = kept
    return fused
