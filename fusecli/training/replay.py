"""A training loss as CUDA graphs: to launch these networks' thousands of small kernels takes longer than they run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fusecli.errors import first_line

log = logging.getLogger("fusecli.training")


class _Loss(nn.Module):
    """``act`` as a module, so that all that it trains is known to the graphs."""

    def __init__(self, act: Callable[..., Tensor], trained: Sequence[nn.Module]) -> None:
        super().__init__()
        self.act, self.trained = act, nn.ModuleList(trained)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.act(*inputs)


def replayed(
    act: Callable[..., Tensor], trained: Sequence[nn.Module], inputs: Sequence[Tensor]
) -> Callable[..., Tensor]:
    """Record the forward and backward pass of ``act``, a loss on a GPU in bfloat16, and return its replay.

    trained: the modules whose parameters get gradients; they must be on the current device. What is returned takes
    inputs of the same shapes as ``inputs``, and must be called within autocast as before. Where recording fails a
    warning is logged, and ``act`` itself is returned.
    """
    warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # the graphs have a stream of their own
    try:
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            play: Any = torch.cuda.make_graphed_callables(_Loss(act, trained), tuple(inputs), allow_unused_input=True)
    except RuntimeError as error:
        log.warning("each kernel is launched by itself: recording failed (%s)", first_line(error))
        return act
    return play
