"""What a method costs: parameters, multiply-accumulates, milliseconds, memory. Measured in turns, median."""

from __future__ import annotations

import ctypes
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusecli.benchmark import classical
from fusecli.benchmark.methods import Classical, Method, Network
from fusecli.images import colour, frames
from fusecli.images.pair import Pair
from fusecli.machine import cores

ROUNDS = 15
SECONDS = 3.0  # after so much measuring a method is left out of further rounds
VERSION = 3


def machine() -> str:
    """What the CPU of this machine is called, and how many cores this process may use."""
    try:
        model = _told("/proc/cpuinfo", "model name")
    except (OSError, KeyError):
        model = platform.processor() or platform.machine()
    return f"{model}, {cores()} cores"


def measure(
    methods: list[Method], pair: Pair, read: Callable[[Pair], tuple[np.ndarray, np.ndarray]]
) -> dict[str, dict[str, Any]]:
    """Costs by method name, on one pair. Every round runs each method once, so that a busy moment hits all alike.

    size: (width, height) of the pair. ms: the network or rule alone, on luma that is already on the device.
    ms_end_to_end: reading two files, fusing with colour, writing a PNG. macs: multiply-accumulates of the network.
    peak_mb: memory on top of what was held before. None: does not apply or cannot be measured there.
    """
    first, second = read(pair)
    size = (first.shape[1], first.shape[0])
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "fused.png"
        alone = {method.name: _alone(method, first, second) for method in methods}
        whole = {
            method.name: lambda method=method: frames.write(target, [method.fuse(pair, *read(pair))])
            for method in methods
        }
        peaks = {method.name: _peak(method, whole[method.name]) for method in methods}  # warms up, too
        times: dict[str, list[tuple[float, float]]] = {method.name: [] for method in methods}
        for _ in range(ROUNDS):
            for name, measured in times.items():
                if sum(map(sum, measured)) < 1000 * SECONDS:
                    measured.append((_milliseconds(alone[name]), _milliseconds(whole[name])))
    costs = {}
    for method in methods:
        ms, end_to_end = (statistics.median(column) for column in zip(*times[method.name], strict=True))
        device, precision = _runs_on(method)
        params, macs = _network_size(method, first.shape[:2])
        costs[method.name] = {
            "size": size,
            "device": device,
            "precision": precision,
            "params": params,
            "macs": macs,
            "ms": ms,
            "ms_end_to_end": end_to_end,
            "peak_mb": peaks[method.name],
        }
    return costs


def _runs_on(method: Method) -> tuple[str, str | None]:
    """(device by its own name, precision of a network)."""
    if not isinstance(method, Network):
        return machine(), None
    engine = method.engine
    name = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else machine()
    return name, engine.precision


def _milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1000


def _alone(method: Method, first: np.ndarray, second: np.ndarray) -> Callable[[], object]:
    """A function that runs the network or the rule on luma and waits for the device."""
    lumas = [np.ascontiguousarray(colour.luma(side)) for side in (first, second)]
    if isinstance(method, Classical):
        return lambda: classical.METHODS[method.name][1](*lumas)
    assert isinstance(method, Network)
    engine = method.engine
    tensors = [torch.from_numpy(luma)[None, None].to(engine.device) for luma in lumas]
    reduced = engine.dtype != torch.float32

    def run() -> None:
        with torch.inference_mode(), torch.autocast(engine.device.type, engine.dtype, enabled=reduced):
            engine.model(*tensors)
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)

    return run


def _network_size(method: Method, size: tuple[int, int]) -> tuple[int | None, int | None]:
    """(parameters, multiply-accumulates at H×W)."""
    if not isinstance(method, Network):
        return 0, None
    from torch.utils.flop_counter import FlopCounterMode

    model = method.engine.model
    images = torch.zeros(1, 1, *size, device=method.engine.device)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:  # in inference mode older versions of torch count no convolution
        model(images, images)
    return sum(weight.numel() for weight in model.parameters()), counter.get_total_flops() // 2


def _peak(method: Method, run: Callable[[], object]) -> float | None:
    """Peak memory of one pair beyond what was held, in MB: of the GPU, else resident memory on Linux, else None."""
    run()  # libraries load and pools fill on the first call
    if isinstance(method, Network) and method.engine.device.type == "cuda":
        device = method.engine.device
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform != "linux":
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else the allocator would serve this call from what earlier ones freed
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark of this process
        before = _kilobytes("VmRSS")
        run()
        return max(_kilobytes("VmHWM") - before, 0) / 1e3
    except (OSError, KeyError, AttributeError):
        return None


def _kilobytes(field: str) -> float:
    """A field of /proc/self/status, in kB."""
    return float(_told("/proc/self/status", field).split()[0])


def _told(path: str, field: str) -> str:
    """What a file of lines such as ``field: value`` says first of a field. Raises KeyError where that is nothing."""
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    raise KeyError(field)
