"""Traced graphs: the operations on pairs of one size are recorded and then run as one call, not one by one."""

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

OFTEN = 16  # calls before a size is recorded, since recording takes as long as ten pairs
MOST_SIZES = 8
_ONE_AT_A_TIME = Lock()  # warning filters are process-wide: two threads would restore each other's


class Recording(nn.Module):
    """Calls ``act``, which may use ``network``; frequent input shapes run as a traced graph with the same results.

    Between two operations another thread may take the GIL to decode or encode a file, and the next operation has to
    wait for it: with two threads on two cores, that and Python's own overhead cost a seventh of the time. Thread-safe.
    ``act`` maps tensors to one or several; it must do the same operations on all inputs of equal shapes and types.
    """

    def __init__(self, network: nn.Module, act: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.act = network, act  # as a submodule: else each graph would hold its weights as constants
        self.seen: Counter[tuple[Any, ...]] = Counter()
        self.graphs: dict[tuple[Any, ...], Callable[..., Any]] = {}
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
                # Else the graph holds the inputs for good, and with a tile the whole frame that it is a view of.
                return torch.jit.trace(self, inputs, check_trace=False, _store_inputs=False)
            except Exception as error:  # this version of torch cannot trace it
                log.debug("not recorded: %s", error)
                return self.act
