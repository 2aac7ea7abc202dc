"""What ``--device``, ``--precision``, ``--engine`` and ``--tile`` may name, told without torch."""

from __future__ import annotations

from fusecli import registry
from fusecli.errors import UsageError

DEVICES = ("cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16", "fp16")
RUNTIMES = ("torch", "onnxruntime", "openvino")


def check_device(name: str) -> None:
    """Raises UsageError for what names no kind of device."""
    if name != "auto" and name.partition(":")[0] not in DEVICES:
        raise UsageError(f"--device {name}: choose auto, {', '.join(DEVICES)}")


def check_precision(name: str) -> None:
    """Raises UsageError for what names no precision."""
    if name not in ("auto", *PRECISIONS):
        raise UsageError(f"--precision {name}: choose auto, {', '.join(PRECISIONS)}")


def check_runtime(name: str) -> None:
    """Raises UsageError for what names no runtime."""
    if name not in ("auto", *RUNTIMES):
        raise UsageError(f"--engine: {registry.unknown('engine', name, ('auto', *RUNTIMES))}")


def pixels(option: str, value: str | int, auto: int) -> int:
    """The number that ``--tile`` or ``--tile-overlap`` gives. Raises UsageError."""
    if value == "auto":
        return auto
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise UsageError(f"{option} {value}: write auto, 0 or a number of pixels")
    return number
