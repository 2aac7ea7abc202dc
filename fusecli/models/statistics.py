"""What an image pair looks like as a whole: exposure, contrast, noise, blur and stripes as one short vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fusecli.models.borders import fill

CELL = 16  # px, side of the cells that are measured; only their first four rows are read, which is enough and fast
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
DETAIL_LEVELS = (0.1, 0.5, 0.9)  # the tenth with the least detail shows noise, that with the most sharpness
WIDEST = 0.1  # share of the cells, on either side of a level, over which a quantile is averaged
WHITE, BLACK = 16 / 255, 8 / 255  # values closer to white or black than this weigh less, at white or black hardly
SIZE = 2 * (len(LEVELS) + 2 + 2 * len(DETAIL_LEVELS) + 3 + 2 + 2) + 3


def pair_statistics(first: Tensor, second: Tensor, whole: bool = False) -> Tensor:
    """N×SIZE, about in [-1, 2], of N×1×H×W luma in [0, 1], any H, W ≥ 1.

    Per side: quantiles, mean and spread of cells; second differences along and across rows, ranked (noise lifts the
    lowest, blur lowers all); first differences at half and quarter resolution; second differences of column and row
    means, for stripes (their roots are averaged, else a single straight edge would weigh as much); shares of white and
    of black cells. Of both: mean and spread of the brighter, correlation.

    All but the shares leave out what is white or black, since a blown-out sky or a blank margin does not tell how the
    rest is exposed, nor how noisy it is; with ``whole`` nothing is left out, since the background of a scan does. No
    number jumps when a part of one brightness changes its size, as plain quantiles do.
    """
    sides = [fill(side, CELL).unflatten(-2, (-1, CELL))[..., :4, :] for side in (first, second)]
    rows = torch.cat(sides, 1)  # N×2×h×4×W
    means = rows.mean(-2)
    white, black = (1 - (far / reach).clamp(0, 1).pow(3) for far, reach in ((1 - means, WHITE), (means, BLACK)))
    # Ones, but no constant: an ONNX graph would keep the size of its example.
    seen = 0 * means + 1 if whole else 1.001 - white - black  # N×2×h×W
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
    """Differences of neighbours, … × W -> … × (W - 1); as ``diff``, which cannot be exported to ONNX."""
    return rows[..., 1:] - rows[..., :-1]


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean, N×C×count -> N×C×1."""
    return (values * weights).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, N×C×1 each."""
    mean = _mean(values, weights)
    return mean, _mean((values - mean).square(), weights).sqrt()


def _stripes(means: Tensor, seen: Tensor) -> Tensor:
    """N×2: second differences of column or row means (N×2×…×count), weighted by how much of each is ``seen``."""
    roots = (_differences(_differences(means)).abs() * seen).sqrt()
    return (roots.flatten(2).mean(-1) / seen.flatten(2).mean(-1)).square()


def _quantiles(values: Tensor, weights: Tensor, levels: tuple[float, ...]) -> Tensor:
    """N×C×levels of N×C×count: means of the values around each level, which weigh less the further away they are."""
    values, order = values.sort(-1)
    weights = weights.gather(-1, order)
    total = weights.sum(-1, keepdim=True)
    places = (weights.cumsum(-1) - weights / 2) / total
    centres = values.new_tensor(levels)[:, None]
    reach = torch.minimum(centres, 1 - centres).clamp(max=WIDEST).maximum(1 / total[..., None])
    near = (1 - (places[..., None, :] - centres).abs() / reach).clamp(min=0) * weights[..., None, :]
    return (near * values[..., None, :]).sum(-1) / near.sum(-1)


def _logarithm(differences: Tensor) -> Tensor:
    """Logarithm of differences, in levels of 8 bits, on a scale of about 0 to 1."""
    return torch.log2(255 * differences + 0.25) / 8
