"""What is done to each pair of one size, recorded, so that it runs in one go and not operation by operation."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger("fusecli")

OFTEN = 16  # recording takes as long as ten pairs
MOST_SIZES = 8
_ONE_AT_A_TIME = Lock()  # warnings are hushed for all threads, and heard again


class Recording(nn.Module):
    """Calls ``act``, which may use ``network``; for inputs of a kind that comes often, as a graph that gives the same.

    Between two operations another thread may take Python's lock, to decode or encode a file, and the next operation
    waits for it: with two threads on two cores that, and Python itself, cost a seventh of the time. Safe for several
    threads. ``act``, from tensors to one or several, must do the same operations for all of equal shapes and types.
    """

    def __init__(self, network: nn.Module, act: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.act = network, act  # weights of a module are no constants of its graphs
        self.seen: Counter[tuple] = Counter()
        self.graphs: dict[tuple, Callable[..., Any]] = {}
        self.lock = Lock()

    def forward(self, *inputs: Tensor) -> Any:
        return self.act(*inputs)

    def run(self, *inputs: Tensor) -> Any:
        """What ``act`` returns for these inputs, a tensor or a tuple."""
        kind = tuple((each.shape, each.dtype) for each in inputs)
        with self.lock:
            self.seen[kind] += 1
            now = self.seen[kind] == OFTEN and len(self.graphs) < MOST_SIZES
        if now:
            self.graphs[kind] = self._record(inputs)
        return self.graphs.get(kind, self.act)(*inputs)

    def _record(self, inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
        with _ONE_AT_A_TIME, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that sizes become constants, and that torch.export is to be preferred
            try:
                return torch.jit.trace(self, inputs, check_trace=False)
            except Exception as error:  # a version of torch without it
                log.debug("not recorded: %s", error)
                return self.act
