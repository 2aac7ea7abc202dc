"""What every network of this project offers to the engine, to distillation and to the benchmark."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Features = dict[int, Tensor]  # by scale: 1 is full size, 2 half …


class FusionNetwork(nn.Module):
    """Fuses N×1×H×W luma pairs in [0, 1], any H, W ≥ 1, into N×1×H×W.

    ``halo``: how many pixels around it a pixel of the result sees; tiles overlap by as much. ``align``: tiles start at
    multiples of it. ``look``: for networks that have looks, the one they give (0 thermal … 1 natural); else None.
    """

    halo: int
    align: int
    look: float | None = None
    runtime = "torch"  # what computes the forward pass
    mends = False  # whether its sources have to be mended first (see `mending.mend`)
    sees_statistics = False  # whether its context holds statistics of the pair, which `fit_whitening` has to see
    recordable = False  # whether all pairs of one size take the same operations, whatever they show
    starts_from = ""  # the architecture whose weights its training has to start from
    aims = False  # whether it defines its own training target, see `aim`
    graph_of_any_size = True  # whether every size takes the same operations, as other runtimes need

    @property
    def feature_channels(self) -> dict[int, int]:
        """Channels of the features that distillation compares, by scale (1: full size, 2: half …)."""
        raise NotImplementedError

    def context(self, first: Tensor, second: Tensor, look: Tensor | None = None) -> Tensor | None:
        """N×D, what a tile has to know of the whole N×1×H×W pair; None for networks that see nothing but the tile."""
        return None

    def save_memory(self) -> bool:
        """From here on train in less memory, if more slowly; False if that is not possible, or is done already."""
        return False

    def told(self, text: Tensor, look: Tensor | None = None) -> Tensor:
        """N×D, the ``guide`` of a network that reads texts: description vectors and, if it has looks, the look (N)."""
        if self.look is None:
            return text
        wanted = text.new_full((len(text),), self.look) if look is None else look.to(text)
        return torch.cat([text, wanted[:, None]], 1)

    def perceived(self, context: Tensor) -> Tensor | None:
        """N×SEVERITY_DIM, the degradations that a student perceives from a ``context``; None if it cannot."""
        return None

    def start_from(self, source: FusionNetwork) -> None:
        """Take over its weights. Raises RuntimeError where they do not fit."""
        self.load_state_dict(source.state_dict())

    def aim(self, first: Tensor, second: Tensor, context: Tensor) -> Tensor:
        """N×1×H×W, the training target for undamaged pairs, of networks that define it themselves (``aims``)."""
        raise NotImplementedError

    def fit_whitening(self, contexts: Tensor) -> None:
        """Adapt a student to the statistics in the ``context`` (N×D) of many pairs, once, before it is trained."""

    def jittered(self, contexts: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        """N×D with noise on the statistics in it, so that training does not rely on tiny differences."""
        return contexts

    def forward(self, first: Tensor, second: Tensor, guide: Tensor | None = None) -> Tensor:
        """N×1×H×W, clamped to [0, 1] except in training. ``guide``: see `with_features`."""
        return self.with_features(first, second, guide)[0]

    def with_features(self, first: Tensor, second: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Features]:
        """(fused, features by scale). ``guide``: N×D, description vectors for a teacher, a student's ``context``."""
        raise NotImplementedError
