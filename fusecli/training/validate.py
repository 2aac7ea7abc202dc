"""Scores on whole validation images, and pictures to look at."""

from __future__ import annotations

import logging

import numpy as np
import torch

from fusecli import metrics
from fusecli.errors import UsageError
from fusecli.images.intensity import evenly
from fusecli.metrics.errors import MetricError
from fusecli.models.mending import mend
from fusecli.models.network import FusionNetwork
from fusecli.training.data import LumaPair, PairSet

log = logging.getLogger("fusecli.training")

# What weights are chosen by: information, edges and structure kept (protocol tang). EN, SD, SF, AG reward noise.
CHOSEN_BY = ("VIF", "Qabf", "SSIM")
WATCHED = ("EN", "SD", "SF", "AG", "MI", "SCD", *CHOSEN_BY, "Nabf")
SHOWN = 3  # pairs of a set


@torch.inference_mode()
def fuse_luma(network: FusionNetwork, pair: LumaPair, device: torch.device) -> np.ndarray:
    """uint8 H×W result of one pair at its own size."""
    first, second = (side.to(device).float().div(255)[None, None] for side in (pair.first, pair.second))
    if network.mends:
        first, second = mend(first), mend(second)
    return network(first, second)[0, 0].mul(255).round().to(torch.uint8).cpu().numpy()


def validate(network: FusionNetwork, data: PairSet, device: torch.device) -> dict[str, float]:
    """Mean metrics (protocol tang, on luma) of a validation set, over the pairs for which they are defined.

    Others, such as those with a black source, are named in a warning. Raises UsageError if there is no pair left.
    """
    rows = []
    for pair in data.pairs:
        fused = fuse_luma(network, pair, device)
        try:
            rows.append(metrics.evaluate("tang", pair.first.numpy(), pair.second.numpy(), fused, WATCHED))
        except MetricError as error:
            log.warning("%s: left out of the score: %s", pair.key, error)
    if not rows:
        raise UsageError("no pair of this validation set can be scored")
    return {metric: float(np.mean([row[metric] for row in rows])) for metric in WATCHED}


def score(results: dict[str, dict[str, float]]) -> float:
    """Mean over the sets of VIF + Qabf + SSIM / 2."""
    return float(np.mean([values["VIF"] + values["Qabf"] + values["SSIM"] / 2 for values in results.values()]))


def pictures(network: FusionNetwork, data: PairSet, device: torch.device) -> list[list[np.ndarray]]:
    """First, second and fused of SHOWN pairs, spread over a set."""
    chosen = [data.pairs[index] for index in evenly(len(data.pairs), SHOWN)]
    return [[pair.first.numpy(), pair.second.numpy(), fuse_luma(network, pair, device)] for pair in chosen]
