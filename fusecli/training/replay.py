"""A network's training passes as CUDA graphs: these networks are thousands of small kernels, which cost more to launch
one by one than to compute."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from fusecli.models.network import FusionNetwork

log = logging.getLogger("fusecli.training")


class _Flat(nn.Module):
    """``with_features`` with its results in a row, as graphs want them: fused, and the features if they are wanted."""

    def __init__(self, network: FusionNetwork, features: bool) -> None:
        super().__init__()
        self.network, self.features = network, features
        self.scales: list[int] = []

    def forward(self, first: Tensor, second: Tensor, *guide: Tensor) -> tuple[Tensor, ...]:
        fused, features = self.network.with_features(first, second, *guide)
        self.scales = list(features)
        return (fused, *(features.values() if self.features else ()))


def replay(network: FusionNetwork, first: Tensor, second: Tensor, guide: Tensor | None, *, features: bool) -> None:
    """From here on ``network.with_features`` replays what it does to inputs like these, forth and back, in bfloat16.

    For inputs of this very shape and these parameters; other ways into the network stay as they are. features: whether
    something is to be learnt by features; else they are left out of the result. Where the recording fails, it is said,
    and the network stays as it is.
    """
    flat = _Flat(network, features)
    known = () if guide is None else (guide,)
    try:
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            play: Any = torch.cuda.make_graphed_callables(flat, (first, second, *known), allow_unused_input=True)
    except RuntimeError as error:
        log.warning("each kernel is launched by itself: recording failed (%s)", str(error).splitlines()[0])
        return

    def with_features(first: Tensor, second: Tensor, guide: Tensor | None = None) -> tuple[Tensor, dict[int, Tensor]]:
        fused, *found = play(first, second, *(() if guide is None else (guide,)))
        return fused, dict(zip(flat.scales, found, strict=False))

    network.with_features = with_features  # type: ignore[method-assign]
