"""Mend images before a network sees them: sensor faults that show only in the image as a whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fusecli.models.noise import measure_noise, shrink
from fusecli.models.stripes import find_stripes, may_have_stripes

APART = 16  # px from one sampled pair of rows to the next
COLUMNS = 48  # number sampled, about


class Faults(NamedTuple):
    """For N images: whether there may be stripes (N), noise (N×2) and the share of it to be removed (N)."""

    stripes: Tensor
    noise: Tensor
    share: Tensor

    def any(self) -> bool:
        """Whether something is to be mended."""
        return bool((self.stripes | (self.share > 0)).any())

    def names(self) -> list[set[str]]:
        """What is wrong with each image: ``stripes``, ``noise``, both or nothing."""
        found = torch.stack([self.stripes, self.share > 0], 1).tolist()
        return [{name for name, there in zip(("stripes", "noise"), row, strict=True) if there} for row in found]


def samples(height: int, width: int) -> tuple[tuple[slice, slice], ...]:
    """Slices of an image for the three arguments of `examine`: rows, the rows below them, and columns."""
    every = slice(None)
    upper, lower = slice(0, max(0, height - 1), APART), slice(1, height, APART)
    return (upper, every), (lower, every), (every, slice(None, None, -(-width // COLUMNS)))


def examine(upper: Tensor, lower: Tensor, columns: Tensor) -> Faults:
    """What is wrong with N images, by the parts of their luma that `samples` names, each N×h×w in [0, 1]."""
    return Faults(may_have_stripes(torch.cat([upper, lower], 1), columns), *measure_noise(upper, lower))


def mend(images: Tensor) -> Tensor:
    """N×1×H×W luma in [0, 1] without stripes and strong noise; the very same tensor where nothing is wrong."""
    parts = (images[(slice(None), 0, *part)] for part in samples(*images.shape[2:]))
    return repaired(images, examine(*parts))[0]


def repaired(images: Tensor, faults: Faults) -> tuple[Tensor, Faults]:
    """The mended images, and their faults with only those of the suspected stripes that were found."""
    stripes, noise, share = faults
    if stripes.any():
        columns, rows = find_stripes(images)
        images = (images - (columns + rows) * stripes.view(-1, 1, 1, 1)).clamp_(0, 1)
        stripes = stripes & (columns.flatten(1).any(1) | rows.flatten(1).any(1))
    if (share > 0).any():
        images = images.lerp(shrink(images, noise), share.view(-1, 1, 1, 1))
    return images, Faults(stripes, noise, share)
