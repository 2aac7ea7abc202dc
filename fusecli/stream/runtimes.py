"""Other runtimes than torch for the network: ONNX Runtime and OpenVINO, on the CPU, from a graph written once."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusecli import __version__, registry
from fusecli.errors import UsageError
from fusecli.extras import need
from fusecli.images.atomic import by_turns
from fusecli.machine import cores
from fusecli.models import onnx
from fusecli.models.network import FusionNetwork
from fusecli.stream.choices import check_runtime
from fusecli.stream.device import pick_precision
from fusecli.stream.job import is_filled

log = logging.getLogger("fusecli")

Inputs = dict[str, np.ndarray]
MOST_SIZES = 8  # a graph compiled for one size is twice as fast in OpenVINO, but compiling takes a second


class HandedOver(FusionNetwork):
    """A network whose forward pass another runtime computes, from its graph. The rest stays with torch."""

    def __init__(self, network: FusionNetwork, runtime: str, precision: torch.dtype) -> None:
        super().__init__()
        self.network, self.runtime = network, runtime
        self.halo, self.align, self.look = network.halo, network.align, network.look
        self.mends = network.mends
        self.compute = OTHERS[runtime](_graph(network), precision)

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

    extra = "onnx"
    precisions: tuple[str, ...] = ("fp32",)

    def __init__(self, graph: Path, precision: torch.dtype) -> None:
        self.graph, self.lock = graph, Lock()
        self.session: Any = None

    def __call__(self, inputs: Inputs) -> np.ndarray:
        with self.lock:
            if self.session is None:  # only now the run has settled how many threads each of its workers has
                self.session = self._open()
        (fused,) = self.session.run(None, inputs)
        return fused

    def _open(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        return onnxruntime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])


class OpenVino:
    """OpenVINO; compiles the graph for each of the first MOST_SIZES image sizes, then for any size. Thread-safe."""

    extra = "openvino"
    precisions: tuple[str, ...] = ("fp32", "bf16")

    def __init__(self, graph: Path, precision: torch.dtype) -> None:
        import openvino

        self.core, self.graph, self.lock = openvino.Core(), graph, Lock()
        self.hint = {torch.float32: "f32", torch.bfloat16: "bf16"}[precision]
        self.compiled: dict[tuple[tuple[int, ...], ...], Any] = {}
        # The first access to any tensor's data deadlocks when two threads make it at once, so it is made here.
        openvino.Tensor(np.zeros(1, np.float32)).data  # noqa: B018

    def __call__(self, inputs: Inputs) -> np.ndarray:
        shapes = tuple(each.shape for each in inputs.values())
        with self.lock:
            if shapes not in self.compiled and len(self.compiled) >= MOST_SIZES:
                shapes = ()  # for any size
            if shapes not in self.compiled:
                self.compiled[shapes] = self._compile(dict(zip(inputs, shapes, strict=True)) if shapes else {})
            compiled = self.compiled[shapes]
        return compiled.create_infer_request().infer(inputs)[0].copy()

    def _compile(self, shapes: dict[str, tuple[int, ...]]) -> Any:
        graph = self.core.read_model(self.graph)
        if shapes:
            graph.reshape(shapes)
        count, threads = cores(), torch.get_num_threads()
        wanted = {
            "INFERENCE_PRECISION_HINT": self.hint,
            "INFERENCE_NUM_THREADS": count,
            "NUM_STREAMS": max(1, count // threads),
        }
        return self.core.compile_model(graph, "CPU", wanted)


OTHERS: dict[str, type[OnnxRuntime] | type[OpenVino]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def hand_over(network: FusionNetwork, runtime: str, device: str, precision: str) -> tuple[FusionNetwork, str, str]:
    """The network in the runtime that ``--engine`` names, and the device and precision that go with it.

    auto is torch: see README for what was measured. Raises UsageError for a runtime that is unknown, not installed, or
    not for this device or precision, and for a model that has no graph.
    """
    check_runtime(runtime)
    if runtime in ("auto", "torch"):
        return network, device, precision
    if device not in ("auto", "cpu"):
        raise UsageError(f"--engine {runtime}: computes on the CPU; with --device {device} leave it out")
    kind = OTHERS[runtime]
    need(runtime, f"--engine {runtime} needs {runtime}", f"fusecli[{kind.extra}]")
    if precision == "auto" and len(kind.precisions) == 1:
        precision = kind.precisions[0]
    dtype = pick_precision(precision, torch.device("cpu"))
    if precision not in ("auto", *kind.precisions):
        raise UsageError(f"--engine {runtime}: computes in {' or '.join(kind.precisions)}, not in {precision}")
    return HandedOver(network, runtime, dtype), "cpu", precision


def _graph(network: FusionNetwork) -> Path:
    """The network's ONNX file in the cache, written when it is first needed. Raises UsageError."""
    digest = hashlib.sha256(repr((__version__, torch.__version__, onnx.OPSET, network)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    path = registry.cache_dir() / "graphs" / f"{digest.hexdigest()[:32]}.onnx"
    if not is_filled(path):
        try:
            with by_turns(path):
                if not is_filled(path):
                    log.info("writing the model's graph to %s, once", path)
                    onnx.write(network, path, {}, contextual=True)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; $FUSECLI_CACHE names another folder for it") from error
    return path
