"""Is a difference between paired scores more than chance? Wilcoxon's test over scenes, with Holm's correction."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

EXACT = 200  # most differences for which the exact distribution of the rank sum is computed
SIGNIFICANT = 0.05
DRAW = r"^draw\d+/"  # before the name of a pair that is damaged once more, see `run.prepare`


def over_scenes(pairs: Iterable[str], *columns: Sequence[float | None]) -> np.ndarray:
    """A row of all columns per scene where each has a value: means over a scene's draws (`--draws`)."""
    table = np.array(columns, float).T  # None becomes NaN
    drawn: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    for pair, row in zip(pairs, table, strict=True):
        if not np.isnan(row).any():
            drawn[re.sub(DRAW, "", pair)].append(row)
    return np.array([np.mean(rows, 0) for rows in drawn.values()]).reshape(-1, len(columns))


def wilcoxon(differences: np.ndarray) -> tuple[float, int]:
    """Wilcoxon's signed-rank test, do paired differences lie around 0: (two-sided p, to which side they lean).

    Differences of exactly 0 are dropped (Wilcoxon), ties share the middle rank. Exact up to 200 differences, beyond
    that the normal approximation with tie and continuity correction. (1, 0) where nothing differs. The mean may lean to
    the other side, where few differences are large.
    """
    differences = differences[differences != 0]
    n = len(differences)
    if n == 0:
        return 1.0, 0
    _, group, counts = np.unique(np.abs(differences), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    twice = (2 * ends - counts + 1)[group]  # twice the middle rank, which makes whole numbers of ties
    positive, total = int(twice[differences > 0].sum()), int(twice.sum())
    least = min(positive, total - positive)
    side = (2 * positive > total) - (2 * positive < total)
    if n <= EXACT:
        return min(1.0, 2 * float(_chances(tuple(np.sort(twice)))[: least + 1].sum())), side
    variance = float(np.sum(twice.astype(float) ** 2)) / 4
    z = (abs(positive - total / 2) - 1) / math.sqrt(variance)
    return math.erfc(max(z, 0.0) / math.sqrt(2)), side


@lru_cache(maxsize=4)
def _chances(ranks: tuple[int, ...]) -> np.ndarray:
    """How likely each sum of ranks is, from 0, if each is part of it by chance.

    Kept, as all pairs of columns without ties ask for the same: a table of 200 scenes took seconds.
    """
    chances = np.ones(1)  # probabilities rather than counts, which would overflow
    for rank in ranks:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    return chances


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for multiple comparisons by Holm's step-down method."""
    corrected = [1.0] * len(values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = highest
    return corrected


def scenes_needed(comparisons: int) -> int:
    """How many scenes it takes for any p below SIGNIFICANT after Holm's correction: the least one is 2 to the 1 - n."""
    return math.floor(math.log2(2 * comparisons / SIGNIFICANT)) + 1
