"""Images as their four phases: the pixels of even and odd rows and columns, each a plane of half the size.

Work at full size is as quick on phases as work at half size, and doubling an image into phases needs no interleaving.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusecli.models.borders import extend, written_in_place


def split(images: Tensor) -> Tensor:
    """N×C×H×W of even H, W -> N×C×4×H/2×W/2: even rows' even and odd columns, then odd rows'."""
    return images.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4).flatten(2, 3).contiguous()


def join(phases: list[Tensor]) -> Tensor:
    """The N×C×H×W image of its four phases (N×C×H/2×W/2)."""
    if not written_in_place():
        grid = torch.stack(phases, 2).unflatten(2, (2, 2))
        return grid.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
    count, channels, height, width = phases[0].shape
    cells = phases[0].new_empty(count, channels, height, 2, width, 2)
    for index, phase in enumerate(phases):
        cells[:, :, :, index // 2, :, index % 2] = phase
    return cells.flatten(4, 5).flatten(2, 3)


def double(images: Tensor) -> list[Tensor]:
    """The four phases of N×C×H×W at twice its size (bilinear, border replicated), each N×C×H×W."""
    wider = extend(images, 1)
    found = []
    for neighbour in (wider[:, :, :-2], wider[:, :, 2:]):
        rows = torch.lerp(neighbour, wider[:, :, 1:-1], 0.75)
        found += [torch.lerp(beside, rows[..., 1:-1], 0.75) for beside in (rows[..., :-2], rows[..., 2:])]
    return found


def alike(weight: Tensor) -> Tensor:
    """4C×I×h×w filters for the four phases (C each) of a larger image, made to respond alike to a constant.

    Each phase of a pixel-shuffle has its own filters, and filters that respond differently to a constant draw a 2×2
    pattern into flat areas. So the mean of a filter's taps, which sets its response to a constant, is replaced by the
    mean over the four phases. Bilinear interpolation remains possible.
    """
    filters = weight.unflatten(0, (4, -1))
    taps = filters.mean((3, 4), keepdim=True)
    return (filters - taps + taps.mean(0, keepdim=True)).flatten(0, 1)
