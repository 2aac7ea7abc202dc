"""What an image pair looks like as a whole: exposure, contrast, noise, blur and stripes as one short vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fusecli.models.borders import fill

CELL = 16  # px, side of the cells that are measured; of their rows the first four are read, which is enough and quick
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
DETAIL_LEVELS = (0.1, 0.5, 0.9)  # the tenth part with the least detail shows noise, the most shows sharpness
WIDEST = 0.1  # of the cells, to either side of a level: what a quantile is the mean of
WHITE, BLACK = 16 / 255, 8 / 255  # what is nearer than this to white or black counts the less, at it hardly
SIZE = 2 * (len(LEVELS) + 2 + 2 * len(DETAIL_LEVELS) + 3 + 2 + 2) + 3


def pair_statistics(first: Tensor, second: Tensor, whole: bool = False) -> Tensor:
    """N×SIZE, about in [-1, 2], of N×1×H×W luma in [0, 1], any H, W ≥ 1.

    Per side: quantiles, mean and spread of cells; second differences along and across rows, ranked (noise lifts the
    lowest, blur lowers all); first differences at half and quarter resolution; second differences of column and row
    means, their roots averaged (stripes; else a single straight edge weighs as much); share of cells that are white and
    that are black. Of both: mean and spread of the greater, correlation.

    All but the shares are of what is neither white nor black, since a blown-out sky or a blank margin says nothing of
    how the rest is exposed, nor how noisy it is; with ``whole``, of all, since the background of a scan does. Nothing
    jumps with the size of a part of one brightness, as plain quantiles do.
    """
    sides = [fill(side, CELL).unflatten(-2, (-1, CELL))[..., :4, :] for side in (first, second)]
    rows = torch.cat(sides, 1)  # N×2×h×4×W
    means = rows.mean(-2)
    white, black = (1 - (far / reach).clamp(0, 1).pow(3) for far, reach in ((1 - means, WHITE), (means, BLACK)))
    seen = torch.ones_like(means) if whole else 1.001 - white - black  # N×2×h×W
    shown = _cells(seen)
    cells = (_cells(means * seen) / shown).flatten(2)
    along = (rows[..., 0, 2:] - 2 * rows[..., 0, 1:-1] + rows[..., 0, :-2]).abs()
    across = (rows[..., 0, :] - 2 * rows[..., 1, :] + rows[..., 2, :]).abs()
    details = _cells(torch.cat([F.pad(along, (1, 1)), across], 1)).flatten(2)
    upper, lower = rows[..., :2, :].mean(-2), rows[..., 2:, :].mean(-2)
    differences = [
        _differences(_halved(upper)).abs().mean((-2, -1)),
        (upper - lower).abs().mean((-2, -1)),
        _differences(_halved(_halved(means))).abs().mean((-2, -1)),
    ]
    columns = _stripes(rows[..., 0, :].mean(-2), seen.mean(-2)[..., 1:-1])
    lines = _stripes(rows.mean(-1), seen.mean(-1, keepdim=True))
    shown = shown.flatten(2)
    both_shown = shown.prod(1, keepdim=True)
    mean, spread = _moments(cells, shown)
    greater = _moments(cells.amax(1, keepdim=True), both_shown)
    both = _mean((cells - mean).prod(1, keepdim=True), both_shown)
    parts = [
        _quantiles(cells, shown, LEVELS),
        mean,
        spread,
        _logarithm(_quantiles(details, shown.repeat(1, 2, 1), DETAIL_LEVELS)),
        *(_logarithm(difference / shown.mean(-1)) for difference in differences),
        _logarithm(columns),
        _logarithm(lines),
        white.mean((-2, -1)),
        black.mean((-2, -1)),
        *greater,
        both / (spread.prod(1, keepdim=True) + 1e-3),
    ]
    return torch.cat([part.flatten(1) for part in parts], 1)


def _cells(rows: Tensor) -> Tensor:
    """Means over CELL columns: … × W -> … × W / CELL."""
    return rows.unflatten(-1, (-1, CELL)).mean(-1)


def _halved(rows: Tensor) -> Tensor:
    """Means of neighbours, … × W -> … × W / 2; four times as fast as ``mean``."""
    return (rows[..., ::2] + rows[..., 1::2]) / 2


def _differences(rows: Tensor) -> Tensor:
    """Of neighbours, … × W -> … × (W - 1); ``diff``, of which no ONNX graph can be made."""
    return rows[..., 1:] - rows[..., :-1]


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """N×C×1, weighted, of N×C×count."""
    return (values * weights).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, N×C×1 each."""
    mean = _mean(values, weights)
    return mean, _mean((values - mean).square(), weights).sqrt()


def _stripes(means: Tensor, seen: Tensor) -> Tensor:
    """N×2: second differences of column or row means (N×2×…×count), each of what is seen of it."""
    roots = (_differences(_differences(means)).abs() * seen).sqrt()
    return (roots.flatten(2).mean(-1) / seen.flatten(2).mean(-1)).square()


def _quantiles(values: Tensor, weights: Tensor, levels: tuple[float, ...]) -> Tensor:
    """N×C×levels of N×C×count: means of what lies about each level, the less the further away."""
    values, order = values.sort(-1)
    weights = weights.gather(-1, order)
    total = weights.sum(-1, keepdim=True)
    places = (weights.cumsum(-1) - weights / 2) / total
    centres = values.new_tensor(levels)[:, None]
    reach = torch.minimum(centres, 1 - centres).clamp(max=WIDEST).maximum(1 / total[..., None])
    near = (1 - (places[..., None, :] - centres).abs() / reach).clamp(min=0) * weights[..., None, :]
    return (near * values[..., None, :]).sum(-1) / near.sum(-1)


def _logarithm(differences: Tensor) -> Tensor:
    """Eight bits' worth of differences on a scale of about 0 to 1."""
    return torch.log2(255 * differences + 0.25) / 8
