"""Scores on whole validation images, and pictures to look at."""

from __future__ import annotations

import contextlib
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

# The best weights are chosen by information, edges and structure kept (protocol tang). EN, SD, SF, AG reward noise.
CHOSEN_BY = ("VIF", "Qabf", "SSIM")
WATCHED = ("EN", "SD", "SF", "AG", "MI", "SCD", *CHOSEN_BY, "Nabf")
SHOWN = 3  # pairs of a set on the contact sheet


@torch.inference_mode()
def fuse_luma(network: FusionNetwork, pair: LumaPair, device: torch.device) -> np.ndarray:
    """uint8 H×W result of one pair at its own size."""
    first, second = (side.to(device).float().div(255)[None, None] for side in (pair.first, pair.second))
    if network.mends:
        first, second = mend(first), mend(second)
    return network(first, second)[0, 0].mul(255).round().to(torch.uint8).cpu().numpy()


def validate(
    network: FusionNetwork, data: PairSet, device: torch.device
) -> tuple[dict[str, float], list[list[np.ndarray]]]:
    """(mean metrics of a validation set, [first, second, fused] of SHOWN pairs spread over the set).

    Metrics are of protocol tang, on luma, and averaged over the pairs for which they are defined. Others, such as those
    with a black source, are named in a warning; at least one pair has to be defined (see `check_scorable`).
    """
    rows, pictures = [], []
    shown = {pair.key for pair in evenly(data.pairs, SHOWN)}
    for pair in data.pairs:
        first, second, fused = pair.first.numpy(), pair.second.numpy(), fuse_luma(network, pair, device)
        if pair.key in shown:
            pictures.append([first, second, fused])
        try:
            rows.append(metrics.evaluate("tang", first, second, fused, WATCHED))
        except MetricError as error:
            log.warning("%s: left out of the score: %s", pair.key, error)
    return {metric: float(np.mean([row[metric] for row in rows])) for metric in WATCHED}, pictures


def check_scorable(name: str, data: PairSet) -> None:
    """Raises UsageError where no pair of a validation set can be scored: a run would end at its first validation."""
    for pair in data.pairs:
        first, second = pair.first.numpy(), pair.second.numpy()
        with contextlib.suppress(MetricError):
            metrics.evaluate("tang", first, second, np.maximum(first, second), WATCHED)
            return
    raise UsageError(f"{name}: no pair of this validation set can be scored (41×41 pixels at least, no side blank)")


def score(results: dict[str, dict[str, float]]) -> float:
    """Mean over the sets of VIF + Qabf + SSIM / 2."""
    return float(np.mean([values["VIF"] + values["Qabf"] + values["SSIM"] / 2 for values in results.values()]))
