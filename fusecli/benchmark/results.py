"""The outcome of a benchmark: per-image values, their summary, and the JSON in between.

JSON, stable::

    {"protocol": "tang",
     "datasets": {name: {"n": 17,
                         "methods": {name: {"mean": {metric: value}, "std": {metric: value},
                                            "ms_per_pair": 12.3, "params": 24680, …}}}}}

``mean`` and ``std`` (of the population) are over the pairs on which a metric has a value, null if there is none;
``ms_per_pair`` is the model alone, median. Further keys: top level "fusecli", "metrics" (name -> "higher" or "lower");
per data set "title", "task", "pairs" (names), "fingerprint" (of the pairs' contents), "left_out", "notes" and, where
several methods have values, "best" (metric -> "method" and "p", see `Report.leads`); per method "kind", "title", "rank"
(by the pairs on which all methods have a value), "cost", "values" (metric -> one value per pair, null where it has
none) and "undefined" (metric -> pair -> reason).
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fusecli import __version__, registry
from fusecli.benchmark.significance import holm, over_scenes, wilcoxon
from fusecli.errors import UsageError

# The mean rank is taken over those of these that the table has; under vifb over all its metrics.
RANKED = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM")
DAMAGED = "inputs damaged"  # how the note begins that `--degraded` leaves
# What published tables carry; --metrics all measures the rest, too.
DEFAULT_METRICS = (*RANKED, "CC", "Nabf")

_ABOUT = ("title", "task", "pairs", "fingerprint", "left_out", "notes")  # of a data set, as they are in the JSON


@dataclass
class MethodResult:
    """values: metric -> one value per pair, None where it has none; undefined: metric -> pair -> reason."""

    name: str
    kind: str
    title: str
    values: dict[str, list[float | None]]
    undefined: dict[str, dict[str, str]] = field(default_factory=dict)
    cost: dict[str, Any] | None = None

    def known(self, metric: str) -> list[float]:
        return [value for value in self.values[metric] if value is not None]

    def mean(self, metric: str) -> float | None:
        values = self.known(metric)
        return float(np.mean(values)) if values else None

    def std(self, metric: str) -> float | None:
        values = self.known(metric)
        return float(np.std(values)) if values else None


@dataclass
class DatasetResult:
    """One table. ``methods`` in the order in which they were asked for."""

    name: str
    title: str
    task: str
    pairs: list[str]
    methods: dict[str, MethodResult]
    fingerprint: str = ""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def damaged(self) -> bool:
        """Whether methods got damaged inputs."""
        return any(note.startswith(DAMAGED) for note in self.notes)

    def compared(self, metric: str) -> dict[str, float | None]:
        """Method -> mean over the pairs on which every method has a value, save for methods that have none at all."""
        columns = {name: method.values[metric] for name, method in self.methods.items() if method.known(metric)}
        rows = [row for row in zip(*columns.values(), strict=True) if None not in row]
        means = [float(np.mean(column)) for column in zip(*rows, strict=True)]
        return dict.fromkeys(self.methods) | (dict(zip(columns, means, strict=True)) if rows else {})


class Lead(NamedTuple):
    """The method with the best mean, and the p of its lead over every other, tested over ``n`` scenes."""

    method: str
    p: float
    n: int


@dataclass
class Report:
    """Everything that tables, files and the page show."""

    protocol: str
    metrics: list[str]
    datasets: dict[str, DatasetResult]

    def metric(self, name: str) -> registry.Metric:
        return registry.METRICS[self.protocol][name]

    def ranked(self) -> list[str]:
        """Metrics that the mean rank is over."""
        return [name for name in self.metrics if self.protocol == "vifb" or name in RANKED]

    def mean_ranks(self, dataset: DatasetResult) -> dict[str, float]:
        """Method -> mean place over the ranked metrics. Empty if there is nothing to rank."""
        ranked = self.ranked()
        if len(dataset.methods) < 2 or not ranked:
            return {}
        tables = [places(dataset.compared(metric), self.metric(metric)) for metric in ranked]
        return {name: float(np.mean([table[name] for table in tables])) for name in dataset.methods}

    def leads(self, dataset: DatasetResult) -> dict[str, Lead]:
        """Metric -> who leads where several methods have values, on the scenes where all of these have one.

        p is the greatest of the tests against each other method, so a small one says that the best is better than all;
        corrected over the metrics.
        """
        found = {}
        for metric in self.metrics:
            means = {name: mean for name, mean in dataset.compared(metric).items() if mean is not None}
            if len(means) > 1:
                table = over_scenes(dataset.pairs, *(dataset.methods[name].values[metric] for name in means))
                sign = 1 if self.metric(metric).higher_is_better else -1
                best = max(means, key=lambda name: sign * means[name])
                own = list(means).index(best)
                tests = [wilcoxon(sign * (table[:, own] - other)) for other in np.delete(table, own, 1).T]
                found[metric] = Lead(best, max(p if side > 0 else 1.0 for p, side in tests), len(table))
        corrected = holm([lead.p for lead in found.values()])
        return {metric: lead._replace(p=p) for (metric, lead), p in zip(found.items(), corrected, strict=True)}

    def ordered(self, dataset: DatasetResult) -> list[MethodResult]:
        """Methods by mean rank, best first."""
        ranks = self.mean_ranks(dataset)
        return sorted(dataset.methods.values(), key=lambda method: ranks.get(method.name, 0))

    def to_json(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol,
            "fusecli": __version__,
            "metrics": {name: "higher" if self.metric(name).higher_is_better else "lower" for name in self.metrics},
            "datasets": {name: self._dataset_json(dataset) for name, dataset in self.datasets.items()},
        }

    def _dataset_json(self, dataset: DatasetResult) -> dict[str, Any]:
        ranks = self.mean_ranks(dataset)
        methods = {}
        for name, method in dataset.methods.items():
            cost = method.cost or {}
            methods[name] = {
                "mean": {metric: method.mean(metric) for metric in self.metrics},
                "std": {metric: method.std(metric) for metric in self.metrics},
                "ms_per_pair": cost.get("ms"),
                "params": cost.get("params"),
                "kind": method.kind,
                "title": method.title,
                "rank": ranks.get(name),
                "cost": method.cost,
                "values": method.values,
                "undefined": method.undefined,
            }
        about = {name: getattr(dataset, name) for name in _ABOUT}
        best = {metric: {"method": lead.method, "p": lead.p} for metric, lead in self.leads(dataset).items()}
        return {"n": len(dataset.pairs), "methods": methods, **about, "best": best}


def places(values: dict[str, float | None], metric: registry.Metric) -> dict[str, float]:
    """Name -> place, 1 best, by the direction of ``metric``; ties share the middle place, None is last."""
    worst = math.inf
    keys = {
        name: worst if value is None else (-value if metric.higher_is_better else value)
        for name, value in values.items()
    }
    return {
        name: 1 + sum(other < key for other in keys.values()) + (sum(other == key for other in keys.values()) - 1) / 2
        for name, key in keys.items()
    }


def load(path: Path) -> Report:
    """A report from its JSON; - is standard input. Raises UsageError for a file that is none."""
    try:
        data = json.loads(sys.stdin.buffer.read() if path == Path("-") else path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({error})") from error
    try:
        protocol, metrics = data["protocol"], list(data["metrics"])
        datasets = {name: _dataset(name, values, metrics) for name, values in data["datasets"].items()}
        unknown = [name for name in metrics if name not in registry.METRICS[protocol]]
    except KeyError as error:
        raise UsageError(f"{path}: not written by `fusecli benchmark --json` ({error} is missing)") from error
    except (TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UsageError(f"{path}: not written by `fusecli benchmark --json` ({error})") from error
    if unknown:
        raise UsageError(f"{path}: " + registry.unknown("metric", unknown[0], registry.METRICS[protocol]))
    return Report(protocol, metrics, datasets)


def _dataset(name: str, values: dict[str, Any], metrics: list[str]) -> DatasetResult:
    """The inverse of `Report._dataset_json`; raises errors of several types for other data."""
    methods = {}
    for key, method in values["methods"].items():
        columns = {metric: _column(method["values"][metric], metric, values["pairs"]) for metric in metrics}
        methods[key] = MethodResult(key, method["kind"], method["title"], columns, method["undefined"], method["cost"])
    return DatasetResult(name, methods=methods, **{each: values[each] for each in _ABOUT})


def _column(values: list[float | None], metric: str, pairs: list[str]) -> list[float | None]:
    """One metric's values, as they should be: ValueError for NaN, text, or another number of values than of pairs."""
    numbers = (type(value) in (int, float) and math.isfinite(value) for value in values if value is not None)
    if len(values) != len(pairs) or not all(numbers):
        raise ValueError(f"{metric} must have a finite number or null for each of {len(pairs)} pairs")
    return values
