"""Scores on whole validation images, and a sheet of pictures to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fusecli import metrics
from fusecli.images import preview
from fusecli.models.mending import mend
from fusecli.models.network import FusionNetwork
from fusecli.training.data import LumaPair, PairSet

# What weights are chosen by: information, edges and structure kept (protocol tang). EN, SD, SF, AG reward noise.
CHOSEN_BY = ("VIF", "Qabf", "SSIM")
WATCHED = ("EN", "SD", "SF", "AG", "MI", "SCD", *CHOSEN_BY, "Nabf")


@torch.inference_mode()
def fuse_luma(network: FusionNetwork, pair: LumaPair, device: torch.device) -> np.ndarray:
    """uint8 H×W result of one pair at its own size."""
    first, second = (side.to(device).float().div(255)[None, None] for side in (pair.first, pair.second))
    if network.mends:
        first, second = mend(first), mend(second)
    return network(first, second)[0, 0].mul(255).round().to(torch.uint8).cpu().numpy()


def validate(network: FusionNetwork, val: dict[str, PairSet], device: torch.device) -> dict[str, dict[str, float]]:
    """Mean metrics (protocol tang, on luma) per validation set."""
    results = {}
    for name, data in val.items():
        rows = [
            metrics.evaluate("tang", pair.first.numpy(), pair.second.numpy(), fuse_luma(network, pair, device), WATCHED)
            for pair in data.pairs
        ]
        results[name] = {metric: float(np.mean([row[metric] for row in rows])) for metric in WATCHED}
    return results


def score(results: dict[str, dict[str, float]]) -> float:
    """Mean over the sets of VIF + Qabf + SSIM / 2."""
    return float(np.mean([values["VIF"] + values["Qabf"] + values["SSIM"] / 2 for values in results.values()]))


def contact_sheet(
    network: FusionNetwork, val: dict[str, PairSet], device: torch.device, path: Path, per_set: int = 3
) -> None:
    """Rows of first, second, fused: ``per_set`` pairs of every set, spread over it."""
    rows = []
    for data in val.values():
        for index in np.linspace(0, len(data.pairs) - 1, min(per_set, len(data.pairs))).astype(int):
            pair = data.pairs[index]
            rows.append([pair.first.numpy(), pair.second.numpy(), fuse_luma(network, pair, device)])
    preview.contact_sheet(rows, path)
