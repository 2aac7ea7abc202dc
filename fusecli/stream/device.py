"""What ``--device`` and ``--precision`` name, in torch's terms."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from fusecli.errors import UsageError, first_line
from fusecli.stream.choices import PRECISIONS, check_device, check_precision

TYPES = dict(zip(PRECISIONS, (torch.float32, torch.bfloat16, torch.float16), strict=True))


def pick_device(name: str) -> torch.device:
    """The torch device that ``--device`` names. Raises UsageError for one that is not there."""
    if name == "auto":  # mps is for those who ask for it: results were never compared there
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_device(name)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if not torch.amp.is_autocast_available(device.type):
            raise UsageError(f"--device {name}: needs torch 2.5 or newer")
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: not usable here ({first_line(error)})") from error
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that ``--precision`` names. auto: half where the device computes faster in it, else float32."""
    if name == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if device.type == "cpu" and _cpu_is_quick_in_bf16() else torch.float32
    check_precision(name)
    if name == "fp16" and device.type == "cpu":
        raise UsageError("--precision fp16: CPUs are slower with it; use bf16 or fp32")
    return TYPES[name]


@cache
def _cpu_is_quick_in_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether products in bf16 are faster than in float32, of which AVX-512 does 16 lanes twice a cycle.

    AMX is faster. avx512_bf16 has twice the lanes: faster on AMD, but Intel's cores issue only one such instruction per
    cycle, and two in float32. Without either, oneDNN emulates bf16, which is slower.
    """
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False
    return "amx_bf16" in text or ("avx512_bf16" in text and "GenuineIntel" not in text)
