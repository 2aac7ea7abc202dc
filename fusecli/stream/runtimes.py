"""Other runtimes than torch for the network: ONNX Runtime and OpenVINO, on the CPU, from a graph written once."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusecli import __version__, registry
from fusecli.errors import UsageError
from fusecli.models import onnx
from fusecli.models.network import FusionNetwork
from fusecli.stream.engine import pick_precision

log = logging.getLogger("fusecli")

Inputs = dict[str, np.ndarray]
MOST_SIZES = 8  # a graph compiled for one size is twice as fast in OpenVINO, but compiling takes a second


class HandedOver(FusionNetwork):
    """A network whose forward pass another runtime computes, from its graph. The rest stays with torch."""

    def __init__(self, network: FusionNetwork, runtime: str, precision: torch.dtype) -> None:
        super().__init__()
        self.network, self.runtime = network, runtime
        self.halo, self.align, self.look = network.halo, network.align, network.look
        self.compute = RUNTIMES[runtime](_graph(network), precision)

    def context(self, first: Tensor, second: Tensor, look: Tensor | None = None) -> Tensor | None:
        """As the network's own."""
        return self.network.context(first, second, look)

    def forward(self, first: Tensor, second: Tensor, context: Tensor | None = None) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            known = self.network.context(first, second) if context is None else context
        given = {"first": first, "second": second} | ({} if known is None else {"context": known})
        return torch.from_numpy(self.compute({name: each.numpy() for name, each in given.items()}))


class OnnxRuntime:
    """ONNX Runtime, with as many threads as torch would take when the first pair comes. Safe for several threads."""

    def __init__(self, graph: Path, precision: torch.dtype) -> None:
        self.graph, self.lock = graph, Lock()

    @cached_property
    def session(self) -> Any:
        """Made late: only then the run has settled how many threads each of its workers has."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        return onnxruntime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, inputs: Inputs) -> np.ndarray:
        with self.lock:
            session = self.session
        (fused,) = session.run(None, inputs)
        return fused


class OpenVino:
    """OpenVINO, each size of images compiled by itself, as far as there are few. Safe for several threads."""

    def __init__(self, graph: Path, precision: torch.dtype) -> None:
        self.graph, self.lock = graph, Lock()
        self.hint = {torch.float32: "f32", torch.bfloat16: "bf16"}[precision]
        self.compiled: dict[tuple[tuple[int, ...], ...], Any] = {}

    def _for(self, inputs: Inputs) -> Any:
        shapes = tuple(each.shape for each in inputs.values())
        with self.lock:
            if shapes not in self.compiled and len(self.compiled) > MOST_SIZES:
                shapes = ()  # for any size
            if shapes not in self.compiled:
                import openvino

                core = openvino.Core()
                graph = core.read_model(self.graph)
                if shapes:
                    graph.reshape(dict(zip(inputs, shapes, strict=True)))
                cores, threads = os.cpu_count() or 1, torch.get_num_threads()
                self.compiled[shapes] = core.compile_model(
                    graph,
                    "CPU",
                    {
                        "INFERENCE_PRECISION_HINT": self.hint,
                        "INFERENCE_NUM_THREADS": cores,
                        "NUM_STREAMS": max(1, cores // threads),
                    },
                )
            return self.compiled[shapes]

    def __call__(self, inputs: Inputs) -> np.ndarray:
        return self._for(inputs).create_infer_request().infer(inputs)[0].copy()


RUNTIMES: dict[str, Callable[[Path, torch.dtype], Callable[[Inputs], np.ndarray]]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
}
CHOICES = ("auto", "torch", *RUNTIMES)


def hand_over(network: FusionNetwork, runtime: str, device: str, precision: str) -> tuple[FusionNetwork, str, str]:
    """The network in the runtime that ``--engine`` names, and the device and precision that go with it.

    auto is torch: see README for what was measured. Raises UsageError for a runtime that is unknown, not installed, not
    for this device or precision, or without a graph of this model.
    """
    if runtime not in CHOICES:
        raise UsageError(registry.unknown("engine", runtime, CHOICES))
    if runtime in ("auto", "torch"):
        return network, device, precision
    if device not in ("auto", "cpu"):
        raise UsageError(f"--engine {runtime}: computes on the CPU; with --device {device} leave it out")
    if find_spec(runtime) is None:
        extra = {"onnxruntime": "onnx"}.get(runtime, runtime)
        raise UsageError(f"--engine {runtime}: not installed; pip install 'fusecli[{extra}]'")
    if runtime == "onnxruntime":
        if precision not in ("auto", "fp32"):
            raise UsageError(f"--engine onnxruntime: computes in fp32, not in {precision}")
        precision = "fp32"
    dtype = pick_precision(precision, torch.device("cpu"))
    return HandedOver(network, runtime, dtype), "cpu", precision


def _graph(network: FusionNetwork) -> Path:
    """The network's ONNX file in the cache, written when it is first asked for."""
    digest = hashlib.sha256(repr((__version__, torch.__version__, onnx.OPSET, network)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    path = registry.cache_dir() / "graphs" / f"{digest.hexdigest()[:32]}.onnx"
    if not path.exists():
        log.info("writing the model's graph to %s, once", path)
        try:
            onnx.write(network, path, {}, contextual=True)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; $FUSECLI_CACHE names another folder for it") from error
    return path
