"""Find the stripes of line sensors: the fixed pattern that uncooled infrared cameras show."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 32  # px a side, below which an image says too little about its lines
LINES = 256  # pixels of a line, at most, that are compared with its neighbour's
LEVEL = 1 / 255
FAINT, PLAIN = 1.2 * LEVEL, 2.4 * LEVEL  # spread of the lines' offsets: below, nothing is done; above, all is taken out
GRATING = 32 * LEVEL  # spread that no sensor shows: a scene of lines
SMOOTH = 8.0  # lines; offsets that change more slowly than that are the scene's shading


def find_stripes(images: Tensor) -> tuple[Tensor, Tensor]:
    """(N×1×1×W, N×1×H×1) of N×1×H×W luma in [0, 1]: by how much columns and rows are too bright; 0 where in order.

    Two neighbouring lines differ by their offsets nearly everywhere, by the scene in some places only: so the step
    between two offsets is the median of the pixels' differences, refined by the mean of those near it. Offsets are the
    cumulative sum of these steps without its slow part. A scene's own lines are few and their steps large, so they are
    left out; where most lines have offsets well above what noise explains, the sensor is the cause (cf. Tendero et al.,
    Non-uniformity correction of infrared images by midway equalization, IPOL 2012). Fine gratings over the whole image
    cannot be told from stripes if they are as faint.
    """
    return _columns(images), _columns(images.mT).mT


def may_have_stripes(rows: Tensor, columns: Tensor) -> Tensor:
    """N booleans, whether `find_stripes` is worth its time: a fast test, true rather too often than too rarely.

    rows: N×h×W, some rows of each image's luma; columns: N×H×w, some of its columns.
    """
    return torch.maximum(_spread(rows.mean(1)), _spread(columns.mean(2))) > FAINT


def _columns(images: Tensor) -> Tensor:
    """N×1×1×W: the columns' offsets."""
    height, width = images.shape[-2:]
    if min(height, width) < LEAST:
        return images.new_zeros(len(images), 1, 1, width)
    lines = images[:, 0, :: -(-height // LINES)]
    steps = lines.diff(dim=-1)  # N×h×(W − 1)
    middle = steps.median(1, keepdim=True).values
    beside = (steps - middle).abs()
    near = beside < 4 * LEVEL
    steps = torch.where(near, steps, 0).sum(1) / near.sum(1).clamp(min=1)
    usual = steps.abs().median(-1, keepdim=True).values / 0.6745
    steps = torch.where(steps.abs() < 4 * usual, steps, 0)  # else an edge, which would become a halo
    offsets = F.pad(steps.cumsum(-1), (1, 0))
    offsets = offsets - _smooth(offsets)
    # The offsets that noise alone would cause: the standard error of a median of so many differences.
    noise = beside.flatten(1).median(1).values / 0.6745 * 1.25 / lines.shape[1] ** 0.5
    excess = (_spread(offsets) ** 2 - (2 * noise) ** 2).clamp(min=0).sqrt()
    share = ((excess - FAINT) / (PLAIN - FAINT)).clamp(0, 1) * (excess < GRATING)
    return (share[:, None] * offsets)[:, None, None]


def _spread(lines: Tensor) -> Tensor:
    """N: spread of N×L independent offsets, measured by second differences; robust against outliers."""
    if lines.shape[-1] < LEAST:
        return lines.new_zeros(len(lines))
    return lines.diff(n=2).abs().median(-1).values / (0.6745 * 6**0.5)


def _smooth(lines: Tensor) -> Tensor:
    reach = round(3 * SMOOTH)
    x = torch.arange(-reach, reach + 1).to(lines)
    weights = torch.exp(-(x**2) / (2 * SMOOTH**2))
    wider = F.pad(lines[:, None], (reach, reach), mode="replicate")
    return F.conv1d(wider, (weights / weights.sum()).view(1, 1, -1))[:, 0]
