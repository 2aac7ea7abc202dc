"""What every network of this project offers to the engine, to distillation and to the benchmark."""

from __future__ import annotations

from torch import Tensor, nn


class FusionNetwork(nn.Module):
    """Fuses N×1×H×W luma pairs in [0, 1], any H, W ≥ 1, into N×1×H×W.

    ``halo``: how many pixels around it a pixel of the result sees; tiles overlap by as much. ``align``: tiles start at
    multiples of it.
    """

    halo: int
    align: int

    @property
    def feature_channels(self) -> dict[int, int]:
        """Channels of the features that distillation compares, by scale (1: full size, 2: half …)."""
        raise NotImplementedError

    def with_features(
        self, first: Tensor, second: Tensor, text: Tensor | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """(fused, features by scale). ``text``: N×D description vectors, for networks that read them."""
        raise NotImplementedError
