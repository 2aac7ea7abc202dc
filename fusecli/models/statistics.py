"""What an image pair looks like as a whole: exposure, contrast, noise, blur and stripes as one short vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fusecli.models.borders import fill

CELL = 16  # px, side of the cells that are measured; of their rows the first four are read, which is enough and quick
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
DETAIL_LEVELS = (0.1, 0.5, 0.9)  # the tenth part with the least detail shows noise, the most shows sharpness
SIZE = 2 * (len(LEVELS) + 2 + 2 * len(DETAIL_LEVELS) + 3 + 2 + 1) + 3


def pair_statistics(first: Tensor, second: Tensor) -> Tensor:
    """N×SIZE, about in [-1, 2], of N×1×H×W luma in [0, 1], any H, W ≥ 1.

    Per side: quantiles, mean and spread of cells; second differences along and across rows, ranked (noise lifts the
    lowest, blur lowers all); first differences at half and quarter resolution; second differences of column and row
    means (stripes); share of white pixels. Of both: mean and spread of the greater, correlation.
    """
    sides = [fill(side, CELL).unflatten(-2, (-1, CELL))[..., :4, :] for side in (first, second)]
    rows = torch.cat(sides, 1)  # N×2×h×4×W
    means = rows.mean(-2)
    cells = _cells(means).flatten(2)
    along = (rows[..., 0, 2:] - 2 * rows[..., 0, 1:-1] + rows[..., 0, :-2]).abs()
    across = (rows[..., 0, :] - 2 * rows[..., 1, :] + rows[..., 2, :]).abs()
    upper, lower = rows[..., :2, :].mean(-2), rows[..., 2:, :].mean(-2)
    mean, spread = cells.mean(2), cells.std(2, correction=0)
    greater = cells.amax(1)
    both = (cells - mean[..., None]).prod(1).mean(1, keepdim=True)
    parts = [
        _quantiles(cells, LEVELS),
        mean,
        spread,
        _logarithm(_quantiles(_cells(F.pad(along, (1, 1))).flatten(2), DETAIL_LEVELS)),
        _logarithm(_quantiles(_cells(across).flatten(2), DETAIL_LEVELS)),
        _logarithm(_halved(upper).diff().abs().mean((-2, -1))),
        _logarithm((upper - lower).abs().mean((-2, -1))),
        _logarithm(_halved(_halved(means)).diff().abs().mean((-2, -1))),
        _logarithm(rows[..., 0, :].mean(-2).diff(n=2).abs().mean(-1)),
        _logarithm(rows.mean(-1).diff(n=2).abs().mean((-2, -1))),
        (rows[..., 0, :] > 0.99).to(rows).mean((-2, -1)),
        greater.mean(1, keepdim=True),
        greater.std(1, correction=0, keepdim=True),
        both / (spread.prod(1, keepdim=True) + 1e-3),
    ]
    return torch.cat([part.flatten(1) for part in parts], 1)


def _cells(rows: Tensor) -> Tensor:
    """Means over CELL columns: … × W -> … × W / CELL."""
    return rows.unflatten(-1, (-1, CELL)).mean(-1)


def _halved(rows: Tensor) -> Tensor:
    """Means of neighbours, … × W -> … × W / 2; four times as fast as ``mean``."""
    return (rows[..., ::2] + rows[..., 1::2]) / 2


def _quantiles(values: Tensor, levels: tuple[float, ...]) -> Tensor:
    """N×2×levels of N×2×count; the nearest value, without interpolation."""
    places = (values.new_tensor(levels) * (values.shape[-1] - 1)).round().long()
    return values.sort(-1).values.index_select(-1, places)


def _logarithm(differences: Tensor) -> Tensor:
    """Eight bits' worth of differences on a scale of about 0 to 1."""
    return torch.log2(255 * differences + 0.25) / 8
