"""Fusion metrics as pure functions, one file per family, and the protocols that give them their names."""

from fusecli.metrics.errors import MetricError
from fusecli.metrics.protocols import VERSION, Trio, evaluate, measure, prepare

__all__ = ["VERSION", "MetricError", "Trio", "evaluate", "measure", "prepare"]
